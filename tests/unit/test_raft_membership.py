"""Members come and go, one voter at a time (thesis 4.1 and 4.2, and the fix of 2015 to 4.1). One rule a test."""

from __future__ import annotations

import pytest
from msgspec import structs
from raft_kit import Cluster, configuration, decode, incarnation, led_by_a, member

from shoal.raft.errors import ChangeRefused, NotLeader
from shoal.raft.log import Configuration
from shoal.raft.membership import MEMBERS_MAX, check_change, with_learner, with_member, with_voter, without
from shoal.raft.messages import Append, Appended, AskVote, TimeoutNow


def test_one_board_becomes_three() -> None:
    """Thesis 4.2.1: each joins as a learner, catches up, and then votes."""
    cluster = Cluster("A")
    cluster.elect("A")
    for name in "BC":
        cluster.stranger(name)
        cluster.change("A", with_learner(cluster["A"].configuration, member(name)))
        cluster.run(1_000)
        cluster.change("A", with_voter(cluster["A"].configuration, name))
        cluster.run(1_000)
    assert [cluster[name].configuration for name in "ABC"] == [configuration("ABC")] * 3
    cluster.crash("A")
    cluster.run(5_000)
    assert cluster["B"].leader in ("B", "C")


def test_a_configuration_counts_from_when_it_is_appended() -> None:
    """Thesis 4.1: committed or not, the last one in the log."""
    cluster = led_by_a("ABC")
    cluster.cut("C")
    index = cluster.change("A", configuration("ABCD"))
    assert cluster["A"].configuration == configuration("ABCD")
    cluster.deliver()
    assert cluster["B"].configuration == configuration("ABCD")
    assert cluster["A"].log.commit == index - 1, "two of four are no majority"
    cluster.heal()
    cluster["A"].unreachable("C", cluster.now_ms)
    cluster.due("A")
    cluster.deliver()
    assert cluster["A"].log.commit == index


def test_a_removed_member_counts_no_longer_and_gets_nothing() -> None:
    """Thesis 4.1, for a smaller configuration."""
    cluster = led_by_a("ABCD")
    index = cluster.change("A", without(cluster["A"].configuration, "D"))
    assert cluster.waiting(Append, to="D") == []
    cluster.take()
    cluster.tell("A", "D", Appended(2, index, 0, 1_000, incarnation=incarnation("D")))
    assert cluster["A"].log.commit == index - 1
    cluster.tell("A", "B", Appended(2, index, 0, 1_000, incarnation=incarnation("B")))
    assert cluster["A"].log.commit == index, "two of three"


def test_a_configuration_that_is_truncated_counts_no_longer() -> None:
    """Thesis 4.1: then the one before holds again, after a restart too."""
    cluster = led_by_a()
    cluster.cut("A")
    cluster.change("A", configuration("ABCD"))
    cluster.take()
    assert cluster["A"].configuration == configuration("ABCD")
    cluster.restart("A")
    assert cluster["A"].configuration == configuration("ABCD")
    cluster.elect("B")
    cluster.heal()
    cluster.run(1_000)
    assert cluster["A"].configuration == configuration("ABC")
    cluster.restart("A")
    assert cluster["A"].configuration == configuration("ABC")


def test_one_change_at_a_time() -> None:
    """Thesis 4.1: while one is not committed there is no other."""
    cluster = led_by_a()
    cluster.change("A", configuration("ABCD"))
    with pytest.raises(ChangeRefused, match="under way"):
        cluster.change("A", configuration("ABC"))
    cluster.deliver()
    assert cluster.change("A", configuration("ABC")) > 0


def test_no_change_before_an_entry_of_the_own_term_is_committed() -> None:
    """The fix of 2015 to thesis 4.1: else two leaders could each commit a change unknown to the other."""
    cluster = led_by_a("ABCD")
    cluster.cut("A")
    cluster.change("A", configuration("ABCDE"))  # only on A; it loses leadership
    cluster.take()
    cluster.due("B")
    cluster.deliver(rounds=4)
    assert cluster["B"].role == "leader"
    with pytest.raises(ChangeRefused, match="just elected"):
        cluster.change("B", configuration("BCD"))  # {B, C} would commit this, {A, D, E} that of A
    cluster.deliver()
    assert cluster.change("B", configuration("BCD")) > 0


def test_a_leader_that_is_removed_leads_until_that_is_committed() -> None:
    """Thesis 4.2.2: it does not count itself, and then it goes, and lets another follow at once."""
    cluster = led_by_a()
    index = cluster.change("A", configuration("BC"))
    late = cluster.take(Append, to="C")
    cluster.deliver()
    assert cluster["A"].role == "leader"
    assert cluster["A"].log.commit == index - 1, "A itself does not count: one of two"
    for sent in late:
        cluster.step(sent)
    cluster.deliver(Appended, "C")
    assert (cluster["A"].role, cluster["A"].log.commit) == ("follower", index)
    assert len(cluster.waiting(TimeoutNow)) == 1
    cluster.deliver()
    assert {cluster[name].leader for name in "BC"} in ({"B"}, {"C"})
    cluster.due("A")
    assert cluster["A"].role == "follower"
    assert cluster.waiting(AskVote, "A") == []


def test_reads_of_a_removed_leader_fail() -> None:
    """Nobody would answer them any more."""
    cluster = led_by_a()
    cluster.change("A", configuration("BC"))
    for sent in cluster.take(Append):
        cluster.step(sent)
    acks = cluster.take(Appended)
    cluster.read("A", 1)
    for sent in acks:
        cluster.step(sent)
    assert cluster["A"].role == "follower"
    assert [read.index for read in cluster.boards["A"].reads] == [-1]


def test_a_learner_that_was_promoted_without_knowing_it_votes() -> None:
    """Thesis 4.2.1: a server votes without regard to its own configuration; else {A, C} could never elect."""
    cluster = led_by_a("ABC", members=configuration("AB", "C"))
    cluster.change("A", configuration("ABC"))
    cluster.take(Append, to="C")
    cluster.deliver()
    assert not cluster["C"].configuration.members[2].voter
    cluster.crash("B")
    cluster.restart("A")
    cluster.run(6_000)
    assert cluster["A"].role == "leader"
    assert cluster["C"].leader == "A"


def test_learners_are_not_asked_for_votes() -> None:
    """Thesis 4.2.1."""
    cluster = Cluster("ABC", configuration("AB", "C"))
    cluster.due("A")
    assert cluster.waiting(AskVote, to="C") == []
    assert len(cluster.waiting(AskVote, to="B")) == 1


def test_a_removed_member_that_knows_nothing_of_it_disturbs_nobody() -> None:
    """Thesis 4.2.3."""
    cluster = led_by_a("ABCD")
    cluster.change("A", configuration("ABC"))
    cluster.run(20_000)
    assert [cluster[name].leader for name in "ABC"] == ["A"] * 3
    assert cluster["A"].term == 2


def test_only_a_leader_changes_members() -> None:
    cluster = led_by_a()
    with pytest.raises(NotLeader) as caught:
        cluster.change("B", configuration("AB"))
    assert caught.value.leader == "A"


def test_a_wiped_board_comes_back_as_a_learner_after_it_was_removed() -> None:
    """Consensus.md, membership: what was known of its earlier life does not hold."""
    cluster = led_by_a("ABCD", members=configuration("ABC", "D"))
    cluster.crash("D")
    before = cluster["A"].configuration
    reborn = member("D", voter=False, life=2)
    with pytest.raises(ChangeRefused, match="remove it first"):
        with_learner(before, reborn)
    with pytest.raises(ChangeRefused, match="remove the old one first"):
        cluster.change("A", Configuration((*before.members[:3], reborn)))
    cluster.change("A", without(before, "D"))
    cluster.deliver()
    cluster.stranger("D", life=2)
    index = cluster.change("A", with_learner(cluster["A"].configuration, reborn))
    cluster.run(2_000)
    assert cluster["D"].log.commit == index
    assert decode(cluster.boards["D"].commands[0]) == before


@pytest.mark.parametrize(
    ("after", "reason"),
    [
        (configuration("ABCDE"), "one voter"),
        (configuration("A"), "one voter"),
        (configuration("ABD"), "one voter"),
        (configuration("", "ABC"), "last voter"),
        (Configuration((*configuration("ABC").members, member("A", voter=False))), "twice"),
        (configuration("ABC", "DEFGHIJ"), f"at most {MEMBERS_MAX}"),
    ],
)
def test_changes_that_are_refused(after: Configuration, reason: str) -> None:
    """Thesis 4.1: old and new majorities must overlap."""
    with pytest.raises(ChangeRefused, match=reason):
        check_change(configuration("ABC"), after)


@pytest.mark.parametrize(
    "after",
    [
        configuration("ABCD"),
        configuration("AB"),
        configuration("AB", "C"),
        configuration("ABC", "DEF"),
        configuration("ABC"),
    ],
)
def test_changes_that_are_allowed(after: Configuration) -> None:
    """Thesis 4.1."""
    check_change(configuration("ABC"), after)


def test_a_members_addresses_change_and_nothing_else() -> None:
    before = configuration("AB", "C")
    moved = structs.replace(member("C", witness=True, life=9), addresses=("10.0.0.3:7400",))
    after = with_member(before, moved)
    assert after.members[:2] == before.members[:2]
    assert after.members[2] == structs.replace(before.members[2], addresses=("10.0.0.3:7400",))
    with pytest.raises(ChangeRefused, match="members are A, B, C"):
        without(before, "X")
    with pytest.raises(ChangeRefused, match="already in the cluster"):
        with_learner(before, member("C"))


def test_who_is_promoted_stays_no_learner() -> None:
    before = Configuration((member("A"), structs.replace(member("B"), voter=False, stays_learner=True)))
    after = with_voter(before, "B").members[1]
    assert (after.voter, after.stays_learner) == (True, False)


def test_who_leaves_is_in_the_committed_configuration_until_the_end() -> None:
    cluster = led_by_a("ABC")
    cluster.change("A", without(cluster["A"].configuration, "C"))
    log = cluster["A"].log
    assert (log.configuration, log.committed_configuration) == (configuration("AB"), configuration("ABC"))
    cluster.deliver()
    assert log.committed_configuration == configuration("AB")
