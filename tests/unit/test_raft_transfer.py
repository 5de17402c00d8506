"""Leadership handed over on purpose (thesis 3.10), and by a witness. One rule a test."""

from __future__ import annotations

import pytest
from raft_kit import Cluster, configuration, led_by_a

from shoal.raft.errors import ChangeRefused, NotLeader
from shoal.raft.messages import NO_OP, Append, AskVote, TimeoutNow


def transfer(cluster: Cluster, name: str, target: str | None) -> str:
    chosen = cluster[name].transfer(target, cluster.now_ms)
    cluster.work(name)
    return chosen


def test_the_target_takes_over_at_once_though_all_hear_the_leader() -> None:
    """Thesis 3.10 and 4.2.3: no pre-vote, and the voters' stickiness does not hold for it."""
    cluster = led_by_a()
    assert transfer(cluster, "A", "B") == "B"
    cluster.deliver()
    assert [cluster[name].leader for name in "ABC"] == ["B"] * 3
    assert cluster["B"].term == 3


def test_the_target_is_told_only_when_it_has_everything() -> None:
    """Thesis 3.10, step 2."""
    cluster = led_by_a()
    index = cluster.propose("A")
    late = cluster.take(Append, to="B")
    transfer(cluster, "A", "B")
    assert cluster.waiting(TimeoutNow) == []
    cluster.deliver()
    assert cluster["A"].role == "leader"
    for sent in late:
        cluster.step(sent)
    cluster.deliver()
    assert cluster["B"].role == "leader"
    assert cluster["B"].log.commit == index + 1


def test_nothing_new_is_taken_meanwhile() -> None:
    """Thesis 3.10, step 1: else the target would never have everything."""
    cluster = led_by_a()
    transfer(cluster, "A", "B")
    assert not cluster["A"].serves
    with pytest.raises(NotLeader, match="handed to B") as caught:
        cluster.propose("A")
    assert caught.value.leader == "B"
    with pytest.raises(NotLeader):
        cluster.change("A", configuration("AB"))
    with pytest.raises(NotLeader):
        transfer(cluster, "A", "C")


def test_a_target_that_does_not_take_over_is_given_up() -> None:
    """Thesis 3.10: after about an election timeout the leader takes requests again."""
    cluster = led_by_a()
    transfer(cluster, "A", "B")
    until_ms = cluster.now_ms + cluster["A"].timeout_ms
    while cluster.now_ms < until_ms:
        cluster.take(TimeoutNow)
        cluster.deliver()
        assert not cluster["A"].serves
        cluster.due("A")
    assert cluster.now_ms == until_ms
    assert cluster["A"].serves
    assert cluster.propose("A") > 0
    before_ms = cluster.now_ms
    cluster.due("A")
    assert cluster.now_ms > before_ms, "nothing is due for ever"


def test_the_target_is_told_once() -> None:
    """More would make it campaign again and again."""
    cluster = led_by_a()
    transfer(cluster, "A", "B")
    cluster.take(TimeoutNow)
    for _ in range(3):
        cluster.due("A")
        cluster.deliver(Append, "A")
        cluster.deliver(sender="B", to="A")
    assert cluster.waiting(TimeoutNow) == []


def test_without_a_name_the_one_that_is_furthest_and_alive_is_taken() -> None:
    """Thesis 3.10: it needs the least."""
    cluster = led_by_a("ABCDE", members=configuration("ABCD", "E"))
    cluster.propose("A")
    cluster.take(Append, to="B")
    cluster.deliver()
    assert transfer(cluster, "A", None) == "D"
    cluster = led_by_a("ABCDE", members=configuration("ABCD", "E"))
    cluster.propose("A")
    cluster.deliver()
    cluster.cut("D")
    cluster.wait(800)
    cluster.due("A")
    cluster.deliver()
    cluster.wait(300)
    assert transfer(cluster, "A", None) == "C"


def test_who_cannot_lead_is_no_target() -> None:
    """Learners, witnesses, strangers, the leader itself; and nobody where nobody is alive."""
    cluster = led_by_a("ABLW", members=configuration("AB", "L", "W"))
    for target in ("L", "W", "X", "A"):
        with pytest.raises(ChangeRefused, match="cannot lead"):
            transfer(cluster, "A", target)
    cluster.wait(cluster["A"].timeout_ms + 1)
    with pytest.raises(ChangeRefused, match="alive"):
        transfer(cluster, "A", None)
    with pytest.raises(NotLeader, match="follower"):
        transfer(cluster, "B", "A")


def test_a_late_word_to_take_over_of_an_old_term_is_not_heard() -> None:
    """Paper 5.1, for TimeoutNow."""
    cluster = led_by_a()
    cluster.tell("B", "A", TimeoutNow(1))
    assert (cluster["B"].role, cluster.waiting(AskVote)) == ("follower", [])


def test_a_leader_does_not_take_over_from_itself() -> None:
    """A late TimeoutNow of its own term."""
    cluster = led_by_a()
    cluster.tell("A", "B", TimeoutNow(2))
    assert (cluster["A"].role, cluster["A"].term) == ("leader", 2)


def test_only_a_campaign_that_the_leader_asked_for_says_so() -> None:
    """Thesis 4.2.3: the flag overrules stickiness, so that the next campaign must not carry it."""
    cluster = led_by_a()
    cluster.cut("B")
    cluster.tell("B", "A", TimeoutNow(2))
    cluster.heal()
    cluster.crash("A")
    cluster.due("B")
    cluster.deliver(rounds=1)
    cluster.deliver(rounds=1)
    asked = cluster.waiting(AskVote, "B")
    assert asked
    assert [vote.transfer for vote in asked] == [False] * len(asked)


def test_a_witness_that_is_elected_brings_a_full_member_up_to_date_and_hands_over() -> None:
    """Consensus.md, witness: A + witness commit with B down, A dies, B returns."""
    cluster = led_by_a("ABW", members=configuration("AB", witnesses="W"))
    cluster.crash("B")
    index = cluster.propose("A")
    cluster.deliver()
    assert cluster["A"].log.commit == index
    cluster.crash("A")
    cluster.restart("B")
    cluster.run(10_000)
    assert (cluster["B"].role, cluster["W"].role) == ("leader", "follower")
    assert cluster.boards["B"].applied > index
    kinds = {entry.kind for entry in cluster.boards["B"].commands if entry.index > index}
    assert kinds == {NO_OP}, "the witness proposed nothing"
