"""Members without a state machine: they keep the log and vote, and lead for no longer than it takes to hand over."""

from __future__ import annotations

from raft_kit import Cluster, configuration, led_by_a

from shoal.raft.entries import LogStart, LogView
from shoal.raft.messages import NO_OP, NORMAL, Entry, TimeoutNow


def entry(index: int, term: int) -> Entry:
    return Entry(index, term, NORMAL, b"x")


def hollow(cluster: Cluster, name: str) -> None:
    """The databases of a board are gone."""
    cluster[name].hollow = True


def test_a_witness_that_leads_serves_nobody() -> None:
    cluster = led_by_a("ABW", members=configuration("AB", witnesses="W"))
    cluster.crash("B")
    cluster.propose("A")
    cluster.deliver()
    cluster.crash("A")
    cluster.restart("B")
    led = False
    while not cluster["B"].serves and cluster.now_ms < 30_000:
        cluster.run(1)
        led |= cluster["W"].role == "leader"
        assert not cluster["W"].serves
    assert led
    assert cluster["B"].serves


def test_a_hollow_member_votes_and_hands_over_what_it_is_elected_to() -> None:
    cluster = led_by_a("ABC")
    cluster.crash("C")
    index = cluster.propose("A")
    cluster.deliver()
    cluster.crash("A")
    cluster.restart("C")
    hollow(cluster, "B")
    cluster.run(10_000)
    assert (cluster["B"].role, cluster["C"].role) == ("follower", "leader")
    kinds = {e.kind for e in cluster.boards["C"].commands if e.index > index}
    assert kinds == {NO_OP}


def test_a_leader_serves_only_when_all_before_it_was_given_out() -> None:
    """With a slow disk the others commit its no-op first: it must not decide its own commands before older ones."""
    cluster = led_by_a("ABC")
    cluster["A"].transfer("B", cluster.now_ms)
    cluster.work("A")
    cluster.deliver(TimeoutNow)
    cluster.slow.add("B")
    cluster.deliver()
    log = cluster["B"].log
    assert (cluster["B"].role, log.commit) == ("leader", log.last_index)
    assert not cluster["B"].serves
    cluster.persist("B")
    assert cluster["B"].serves


def test_without_a_state_machine_the_log_begins_with_no_entry_in_memory() -> None:
    log = LogView(LogStart(first_index=11, previous_term=1, terms=[(11, 2)], last_index=20, applied=10))
    assert (log.commit, log.durable, log.cached_from) == (10, 20, 21)
    assert log.from_index(15) is None
    assert log.take_committed(0) == []
    log.commit = 20
    assert log.take_committed(0) == [], "they are in the journal"
    log.merge(20, [entry(21, 2)])
    log.saved(log.take_unsaved())
    log.commit = 21
    assert [e.index for e in log.take_committed(0)] == [21]


def test_what_was_never_in_memory_can_be_replaced() -> None:
    log = LogView(LogStart(first_index=11, previous_term=1, terms=[(11, 2)], last_index=20, applied=10))
    log.merge(20, [entry(21, 2), entry(22, 2)])
    log.merge(17, [entry(18, 3), entry(19, 3)])
    assert (log.last_index, log.last_term, log.durable) == (19, 3, 17)
    assert [e.index for e in log.take_unsaved()] == [18, 19]
    log.saved([entry(19, 3)])
    log.commit = 19
    assert [e.index for e in log.take_committed(0)] == [18, 19]
