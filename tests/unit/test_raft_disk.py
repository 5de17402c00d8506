"""Durability before promises, disks that hang, and the timeouts that follow from them. One rule a test."""

from __future__ import annotations

import pytest
from raft_kit import Cluster, configuration, led_by_a

from shoal.raft.messages import Append, Appended, TimeoutNow
from shoal.raft.state import TIMEOUT_MS_MAX, TIMEOUT_MS_MIN


def test_a_follower_acknowledges_only_what_is_durable() -> None:
    """Paper, figure 2: an acknowledged entry outlives the power."""
    cluster = led_by_a()
    cluster.slow.add("B")
    index = cluster.propose("A")
    cluster.deliver(Append, to="B")
    assert cluster.waiting(Appended, "B") == []
    cluster.due("A")  # a heartbeat is answered, with what is durable
    cluster.deliver(Append, to="B")
    assert [ack.matched for ack in cluster.waiting(Appended, "B")] == [index - 1]
    cluster.persist("B")
    assert cluster.waiting(Appended, "B")[-1].matched == index


def test_entries_replaced_while_they_were_written_do_not_become_durable() -> None:
    """The write that ends is of entries that are no longer in the log."""
    cluster = Cluster("ABCD", logs={"A": [2, 2], "D": [3]}, terms=dict.fromkeys("ABCD", 3))
    cluster.slow.add("B")
    old = cluster.boards["A"].journal.entries[1:]
    new = cluster.boards["D"].journal.entries[1:]
    cluster.tell("B", "A", Append(3, 1, 1, old, 1, 0, 1_000))
    cluster.tell("B", "D", Append(4, 1, 1, new, 1, 0, 1_000))
    cluster.persist("B")
    assert cluster["B"].log.durable == 1
    assert [ack.matched for ack in cluster.waiting(Appended, "B") if ack.term == 4] == []
    cluster.persist("B")
    assert cluster["B"].log.durable == 2
    assert [ack.matched for ack in cluster.waiting(Appended, "B") if ack.term == 4][-1] == 2
    assert [e.term for e in cluster.boards["B"].journal.entries] == [1, 3]


def test_entries_that_replace_durable_ones_are_not_durable_by_it() -> None:
    """Paper, figure 2: what was durable at that index is another entry."""
    cluster = Cluster(logs={"A": [3], "B": [2, 2]}, terms={"B": 3})
    cluster.slow.add("B")
    cluster.tell("B", "A", Append(3, 1, 1, cluster.boards["A"].journal.entries[1:], 2, 0, 1_000))
    assert (cluster["B"].log.durable, cluster["B"].log.commit) == (1, 2)
    assert (cluster.waiting(Appended), cluster.boards["B"].applied) == ([], 1)
    cluster.persist("B")
    assert [ack.matched for ack in cluster.waiting(Appended)] == [2]
    assert cluster.boards["B"].applied == 2


def test_a_leader_sends_entries_while_it_writes_them_and_counts_itself_after() -> None:
    """Thesis 10.2.1: in parallel with its disk; but it is one of the quorum only when its own write is done."""
    cluster = led_by_a()
    cluster.slow.add("A")
    cluster.cut("C")
    index = cluster.propose("A")
    assert len(cluster.waiting(Append, to="B")) == 1
    cluster.deliver()
    assert cluster["A"].followers()["B"][0] == index
    assert cluster["A"].log.commit == index - 1
    cluster.persist("A")
    assert cluster["A"].log.commit == index


def test_followers_may_commit_before_the_leaders_disk_is_done_and_it_applies_after() -> None:
    """Thesis 10.2.1: committed without the leader's disk; applied only when durable in the own journal."""
    cluster = led_by_a()
    cluster.slow.add("A")
    index = cluster.propose("A")
    cluster.deliver()
    assert cluster["A"].log.commit == index
    assert cluster.boards["A"].applied == index - 1
    cluster.due("A")
    cluster.deliver()
    assert cluster.boards["B"].applied == index
    cluster.persist("A")
    assert cluster.boards["A"].applied == index


def test_a_follower_applies_only_what_is_durable_in_its_own_journal() -> None:
    """Else its databases could be ahead of its journal after the power failed."""
    cluster = led_by_a()
    cluster.slow.add("B")
    index = cluster.propose("A")
    cluster.deliver()
    cluster.propose("A")
    cluster.deliver()
    assert cluster["B"].log.commit == index, "the next entries say so"
    assert cluster.boards["B"].applied == index - 1
    cluster.persist("B")
    assert cluster.boards["B"].applied == index


def test_one_write_at_a_time_and_in_order() -> None:
    """Ready: while one is not advanced no other has anything to persist; a wrong one is refused."""
    cluster = led_by_a("A", members=configuration("A"))
    cluster.slow.add("A")
    cluster.propose("A")
    first = cluster.boards["A"].pending
    cluster.propose("A")
    assert cluster.boards["A"].pending is first
    cluster.persist("A")
    second = cluster.boards["A"].pending
    assert [entry.index for entry in second.entries] == [4]
    with pytest.raises(ValueError, match="persisted last"):
        cluster["A"].advance(first, cluster.now_ms)


def test_what_was_not_persisted_is_lost_with_the_power_and_comes_again() -> None:
    """Paper 5.5: crashed followers get everything again."""
    cluster = led_by_a()
    cluster.slow.add("B")
    index = cluster.propose("A")
    cluster.deliver()
    cluster.slow.discard("B")
    cluster.restart("B")
    assert cluster["B"].log.last_index == index - 1
    cluster["A"].unreachable("B", cluster.now_ms)
    cluster.run(600)
    assert cluster.boards["B"].applied == index


def test_a_leader_whose_disk_hangs_hands_over() -> None:
    """Consensus.md, slow disks: heartbeats that do not wait for the disk must not keep a hung card in power."""
    cluster = led_by_a()
    cluster.slow.add("A")
    index = cluster.propose("A")
    cluster.run(cluster["A"].timeout_ms // 2)
    assert cluster["A"].role == "leader"
    cluster.run(cluster["A"].timeout_ms)
    successor = cluster["B"].leader
    assert successor in ("B", "C")
    assert cluster[successor].term == 3
    assert cluster[successor].log.commit == index + 1, "nothing acknowledged or sent is lost"


def test_a_leader_whose_disk_hangs_and_who_has_no_successor_steps_down() -> None:
    """Consensus.md, slow disks; once, not in a loop until the disk is back."""
    cluster = led_by_a("ABW", members=configuration("AB", witnesses="W"))
    cluster.cut("B")
    cluster.run(900)
    cluster.slow.add("A")
    cluster.propose("A")
    calls = 0
    while cluster["A"].role == "leader":
        calls += 1
        assert calls < 20, "it neither hands over nor steps down"
        cluster.due("A")
        cluster.deliver()
    assert cluster["A"].stalled(cluster.now_ms)
    assert (cluster["W"].term, cluster.waiting(TimeoutNow)) == (2, []), "a witness is no successor"


def test_a_leader_whose_disk_hangs_and_whose_successor_does_not_take_over_steps_down() -> None:
    """Thesis 3.10 bounds a transfer; consensus.md, slow disks, says what comes then."""
    cluster = led_by_a()
    cluster.slow.add("A")
    cluster.propose("A")
    calls = 0
    while cluster["A"].role == "leader":
        calls += 1
        assert calls < 20
        cluster.due("A")
        cluster.take(TimeoutNow)
        cluster.deliver()
    assert cluster["B"].leader == "A"


def test_one_that_is_alone_waits_for_its_disk() -> None:
    """Nobody else could lead; and it does not wake for it again and again."""
    cluster = led_by_a("A", members=configuration("A"))
    cluster.slow.add("A")
    index = cluster.propose("A")
    for _ in range(20):
        before_ms = cluster.now_ms
        cluster.due("A")
        assert cluster.now_ms > before_ms
    cluster.persist("A")
    assert (cluster["A"].role, cluster["A"].term, cluster.boards["A"].applied) == ("leader", 2, index)


def test_one_whose_disk_hangs_does_not_campaign() -> None:
    """It could not even vote for itself; nor does it when the leader asks it to."""
    cluster = led_by_a()
    cluster.slow.add("B")
    cluster.propose("A")
    cluster.deliver(Append, to="B")
    cluster.cut("B")
    cluster.take()
    cluster.cuts.clear()
    cluster.due("B")
    assert cluster["B"].role == "follower"
    cluster.tell("B", "A", TimeoutNow(2))
    assert (cluster["B"].role, cluster["B"].term, cluster.wire) == ("follower", 2, [])
    cluster.persist("B")
    cluster.due("B")
    assert cluster["B"].role == "pre-candidate"


@pytest.mark.parametrize(
    ("wishes", "agreed"),
    [
        ({"A": 300, "B": 400, "C": 350}, 400),
        ({"A": 700, "B": 400, "C": 350}, 700),
        ({"A": 1, "B": 1, "C": 1}, TIMEOUT_MS_MIN),
        ({"A": 300, "B": 60_000, "C": 300}, TIMEOUT_MS_MAX),
    ],
)
def test_the_longest_timeout_that_anybody_needs_holds_for_all(wishes: dict[str, int], agreed: int) -> None:
    """Consensus.md, slow disks: the cluster-wide maximum, within 0.3 s to 5 s, carried in heartbeats."""
    cluster = led_by_a()
    assert [cluster[name].timeout_ms for name in "ABC"] == [1_000] * 3
    for name, wish_ms in wishes.items():
        cluster[name].wish_timeout(wish_ms)
    cluster.run(3_000)
    assert [cluster[name].timeout_ms for name in "ABC"] == [agreed] * 3
    assert cluster["B"].deadline_ms() - cluster.now_ms >= agreed - agreed // 4 - 5
