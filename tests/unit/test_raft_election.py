"""Who may lead: pre-votes, votes, and what each promises. One rule a test, with where it stands."""

from __future__ import annotations

import pytest
from raft_kit import Cluster, configuration, incarnation, led_by_a, member

from shoal.raft.errors import ProtocolViolation
from shoal.raft.log import Configuration
from shoal.raft.messages import Append, Appended, AskVote, TimeoutNow, Vote


def ask(to: str, term: int, index: int = 9, log_term: int = 9, **more: bool) -> AskVote:
    """A candidate's question; its log is ahead of everybody's unless said otherwise."""
    return AskVote(term, index, log_term, incarnation(to), **more)


def answers(cluster: Cluster, sender: str) -> list[Vote]:
    return [sent.message for sent in cluster.take(Vote, sender)]


def test_a_board_that_hears_nobody_does_not_raise_its_term_nor_disturb_when_it_is_back() -> None:
    """Pre-vote (thesis 9.6)."""
    cluster = led_by_a()
    cluster.cut("C")
    cluster.run(20_000)
    assert (cluster["C"].role, cluster["C"].term) == ("pre-candidate", cluster["A"].term)
    cluster.heal()
    cluster.run(5_000)
    assert [cluster[name].leader for name in "ABC"] == ["A"] * 3
    assert cluster["A"].term == 2


def test_a_pre_vote_promises_nothing() -> None:
    """Thesis 9.6: the voter changes neither term nor vote, and may say yes to several."""
    cluster = Cluster()
    for candidate in "BC":
        cluster.tell("A", candidate, ask("A", 2, pre=True))
    assert answers(cluster, "A") == [Vote(2, granted=True, pre=True)] * 2
    assert cluster["A"].term == 1
    assert cluster.boards["A"].journal.hard_state.voted_for == ""


def test_a_pre_vote_for_a_term_that_is_not_new_is_refused() -> None:
    """Thesis 9.6: it would not get a vote in it either."""
    cluster = Cluster(terms={"A": 5})
    cluster.tell("A", "B", ask("A", 5, pre=True))
    assert answers(cluster, "A") == [Vote(5, granted=False, pre=True)]


def test_who_hears_a_leader_does_not_even_raise_its_term_for_a_candidate() -> None:
    """Leader stickiness (thesis 4.2.3): removed boards must not disturb."""
    cluster = led_by_a()
    cluster.wait(500)
    for voter in "AB":  # the leader itself as well
        cluster.tell(voter, "C", ask(voter, 7))
        assert answers(cluster, voter) == []
        cluster.tell(voter, "C", ask(voter, 7, pre=True))
        assert answers(cluster, voter) == [Vote(2, granted=False, pre=True)]
        assert cluster[voter].term == 2


def test_who_heard_no_leader_for_a_timeout_votes() -> None:
    """Leader stickiness ends with the minimum election timeout (thesis 4.2.3)."""
    cluster = led_by_a()
    cluster.wait(cluster["B"].timeout_ms)
    cluster.tell("B", "C", ask("B", 7))
    assert answers(cluster, "B") == [Vote(7, granted=True)]


def test_a_leader_without_a_quorum_steps_down() -> None:
    """Check quorum (thesis 6.2)."""
    cluster = led_by_a("ABCDE")
    cluster.cut("A", "B")
    cluster.run(2 * cluster["A"].timeout_ms + 1)
    assert cluster["A"].role != "leader"


def test_a_leader_with_a_quorum_leads_on() -> None:
    """Check quorum (thesis 6.2): a majority is enough, the board itself is one of it."""
    cluster = led_by_a("ABCDE")
    cluster.cut("D", "E")
    cluster.run(5 * cluster["A"].timeout_ms)
    assert cluster["A"].role == "leader"
    assert cluster["A"].has_quorum()


@pytest.mark.parametrize("pre", [True, False])
def test_a_vote_counts_once_for_each_board(pre: bool) -> None:
    """Paper 5.2: a majority of the servers, not of the messages."""
    cluster = Cluster("ABCDE")
    cluster.due("A")
    if not pre:
        cluster.deliver(AskVote, "A", rounds=1)
        cluster.deliver(Vote, to="A", rounds=1)
    cluster.wire.clear()
    role = cluster["A"].role
    assert role == ("pre-candidate" if pre else "candidate")
    for _ in range(4):
        cluster.tell("A", "B", Vote(2, granted=True, pre=pre))
    assert cluster["A"].role == role
    cluster.tell("A", "C", Vote(2, granted=True, pre=pre))
    assert cluster["A"].role == ("candidate" if pre else "leader")


def test_votes_that_do_not_count() -> None:
    """Paper 5.2: refusals, votes of another term, pre-votes instead of votes, votes of learners and strangers."""
    cluster = Cluster("ABCD", configuration("ABC", "D"))
    cluster.due("A")
    cluster.tell("A", "B", Vote(3, granted=True, pre=True))
    cluster.tell("A", "B", Vote(2, granted=False, pre=True))
    cluster.tell("A", "B", Vote(2, granted=True))
    assert cluster["A"].role == "follower"  # a vote in term 2 tells of term 2
    cluster.due("A")
    cluster.tell("A", "B", Vote(3, granted=True, pre=True))
    assert (cluster["A"].role, cluster["A"].term) == ("candidate", 3)
    for sender, vote in [
        ("B", Vote(3, granted=False)),
        ("B", Vote(2, granted=True)),
        ("B", Vote(3, granted=True, pre=True)),
        ("D", Vote(3, granted=True)),
        ("X", Vote(3, granted=True)),
    ]:
        cluster.tell("A", sender, vote)
        assert cluster["A"].role == "candidate", vote
    cluster.tell("A", "B", Vote(3, granted=True))
    assert cluster["A"].role == "leader"


@pytest.mark.parametrize(
    ("index", "term", "granted"),
    [(4, 3, True), (5, 3, True), (2, 4, True), (3, 3, False), (9, 2, False), (4, 2, False)],
)
@pytest.mark.parametrize("pre", [True, False])
def test_only_a_log_as_up_to_date_gets_a_vote(index: int, term: int, granted: bool, pre: bool) -> None:
    """Paper 5.4.1: the later last term wins, then the longer log."""
    cluster = Cluster(logs={"A": [1, 2, 3]})
    cluster.tell("A", "B", ask("A", 9, index, term, pre=pre))
    assert [vote.granted for vote in answers(cluster, "A")] == [granted]


def test_one_vote_in_a_term() -> None:
    """Paper 5.2: first come, first served; and the same answer to the same question."""
    cluster = Cluster()
    cluster.tell("A", "B", ask("A", 2))
    cluster.tell("A", "C", ask("A", 2))
    cluster.tell("A", "B", ask("A", 2))
    assert [vote.granted for vote in answers(cluster, "A")] == [True, False, True]


def test_a_vote_leaves_only_when_it_is_durable_and_is_remembered() -> None:
    """Paper, figure 2: persistent state is updated before responding to RPCs."""
    cluster = Cluster()
    cluster.slow.add("A")
    cluster.tell("A", "B", ask("A", 2))
    assert cluster.waiting(Vote) == []
    cluster.restart("A")  # the power went: nothing was promised
    cluster.tell("A", "C", ask("A", 2))
    cluster.persist("A")
    assert answers(cluster, "A") == [Vote(2, granted=True)]
    cluster.restart("A")
    cluster.tell("A", "B", ask("A", 2))
    assert answers(cluster, "A") == [Vote(2, granted=False)]


def test_a_vote_in_a_term_that_is_durable_is_written_too() -> None:
    """Paper, figure 2: term and vote, each for itself."""
    cluster = Cluster()
    cluster.tell("A", "B", ask("A", 2, 0, 0))
    assert answers(cluster, "A") == [Vote(2, granted=False)]
    cluster.slow.add("A")
    cluster.tell("A", "C", ask("A", 2))
    assert cluster.waiting(Vote) == []
    cluster.persist("A")
    assert answers(cluster, "A") == [Vote(2, granted=True)]
    cluster.restart("A")
    cluster.tell("A", "B", ask("A", 2))
    assert answers(cluster, "A") == [Vote(2, granted=False)]


def test_who_steps_down_in_its_term_remembers_its_vote() -> None:
    """Paper 5.2: a leader voted for itself, and a second leader of its term would be elected by its help."""
    cluster = led_by_a()
    cluster["A"].step_down()
    cluster.tell("A", "C", ask("A", 2))
    assert answers(cluster, "A") == [Vote(2, granted=False)]


def test_a_term_leaves_only_when_it_is_durable() -> None:
    """Paper, figure 2, for the term in an acknowledgement."""
    cluster = Cluster()
    cluster.slow.add("B")
    cluster.tell("B", "A", Append(4, 1, 1, [], 1, 0, 1_000))
    assert cluster.waiting(Appended) == []
    cluster.persist("B")
    assert [ack.term for ack in cluster.waiting(Appended)] == [4]


def test_a_candidate_asks_for_votes_only_when_its_own_is_durable() -> None:
    """Paper, figure 2: else it could ask, forget, and vote for another in the same term."""
    cluster = Cluster()
    cluster.slow.add("A")
    cluster.due("A")
    cluster.deliver()
    assert cluster["A"].role == "candidate"
    assert cluster.waiting(AskVote) == []
    cluster.persist("A")
    assert [(vote.term, vote.pre) for vote in cluster.waiting(AskVote)] == [(2, False)] * 2


def test_a_candidate_counts_its_own_vote_only_when_it_is_durable() -> None:
    """Paper, figure 2, for one that is a quorum together with another, and for one that is alone."""
    cluster = Cluster()
    cluster.slow.add("A")
    cluster.due("A")
    cluster.deliver()
    cluster.tell("A", "B", Vote(2, granted=True))
    assert cluster["A"].role == "candidate"
    cluster.persist("A")
    assert cluster["A"].role == "leader"
    alone = Cluster("A")
    alone.slow.add("A")
    alone.due("A")
    assert alone["A"].role == "candidate"
    alone.persist("A")
    assert alone["A"].role == "leader"


def test_an_own_vote_that_is_not_durable_elects_nobody_though_all_others_agree() -> None:
    """Paper, figure 2: what a leader sends is of a term that it must not forget."""
    cluster = Cluster()
    cluster.slow.add("A")
    cluster.due("A")
    cluster.deliver()
    for voter in "BC":
        cluster.tell("A", voter, Vote(2, granted=True))
    assert cluster["A"].role == "candidate"
    cluster.persist("A")
    assert cluster["A"].role == "leader"


def test_the_write_of_an_older_term_does_not_make_the_own_vote_durable() -> None:
    """Paper, figure 2: a write was under way when the campaign began."""
    cluster = Cluster()
    cluster.slow.add("A")
    cluster.tell("A", "B", ask("A", 2, 0, 0))
    cluster.tell("A", "B", TimeoutNow(2))
    assert (cluster["A"].role, cluster["A"].term) == ("candidate", 3)
    cluster.persist("A")
    cluster.tell("A", "B", Vote(3, granted=True))
    assert cluster["A"].role == "candidate"
    cluster.persist("A")
    assert cluster["A"].role == "leader"


def test_every_message_of_an_old_term_is_refused_with_the_new_one() -> None:
    """Paper 5.1: who is of old must hear that its time is over."""
    cluster = Cluster(terms={"A": 5})
    cluster.tell("A", "B", ask("A", 4))
    cluster.tell("A", "B", ask("A", 4, pre=True))
    assert answers(cluster, "A") == [Vote(5, granted=False), Vote(5, granted=False, pre=True)]
    cluster.tell("A", "B", Append(4, 1, 1, [], 1, 0, 1_000))
    assert [(ack.term, ack.matched) for ack in cluster.waiting(Appended)] == [(5, 0)]
    assert cluster["A"].leader is None


def test_a_leader_that_hears_of_a_higher_term_follows() -> None:
    """Paper 5.1."""
    cluster = led_by_a()
    cluster.tell("A", "B", Appended(9, 0, 0, 1_000))
    assert (cluster["A"].role, cluster["A"].term, cluster["A"].leader) == ("follower", 9, None)


def test_a_candidate_follows_the_leader_of_its_term() -> None:
    """Paper 5.2."""
    cluster = Cluster()
    cluster.due("A")
    cluster.deliver(Vote, to="A")
    cluster.deliver(AskVote, "A", rounds=1)
    cluster.deliver(Vote, to="A", rounds=1)
    assert cluster["A"].role == "candidate"
    cluster.tell("A", "B", Append(2, 1, 1, [], 1, 0, 1_000))
    assert (cluster["A"].role, cluster["A"].leader) == ("follower", "B")


def test_two_leaders_in_one_term_end_the_node() -> None:
    """Election safety (paper 5.2) is asserted, by the leader and by who follows one."""
    cluster = led_by_a()
    for name in "AB":
        with pytest.raises(ProtocolViolation, match="both lead in term 2"):
            cluster.tell(name, "C", Append(2, 1, 1, [], 1, 0, 1_000))


def test_a_new_incarnation_has_no_vote() -> None:
    """Consensus.md, membership: an amnesiac never votes, nor campaigns."""
    cluster = led_by_a()
    cluster.stranger("B", life=2)
    cluster.tell("B", "C", ask("B", 7))
    cluster.tell("B", "C", ask("B", 8, pre=True))
    assert [vote.granted for vote in answers(cluster, "B")] == [False, False]
    cluster.take()
    cluster.tell("B", "A", Append(7, 0, 0, cluster.boards["A"].journal.entries, 1, 0, 1_000))
    assert cluster["B"].configuration.members
    cluster.take()
    cluster.due("B")
    assert (cluster["B"].role, cluster.wire) == ("follower", [])


def test_a_new_incarnation_confirms_nothing() -> None:
    """Consensus.md, membership: it forgot to which term it had gone, so it must not help an old leader commit."""
    cluster = led_by_a()
    cluster.cut("C")
    cluster.stranger("B", life=2)
    index = cluster.propose("A")
    cluster.read("A")
    for _ in range(12):
        cluster.due("A")
        cluster.deliver()
    assert cluster["A"].log.commit < index
    assert [read.index for read in cluster.boards["A"].reads] in ([], [-1])
    assert cluster["A"].role != "leader"


def test_a_known_death_of_the_leader_starts_an_election_early() -> None:
    """The driver sees a connection end: an election need not wait for silence; that of another means nothing."""
    cluster = led_by_a()
    before_ms = cluster["B"].deadline_ms()
    cluster["B"].leader_lost("C", cluster.now_ms)
    assert (cluster["B"].deadline_ms(), cluster["B"].leader) == (before_ms, "A")
    cluster.crash("A")
    for name in "BC":
        cluster[name].leader_lost("A", cluster.now_ms)
    cluster.run(200)
    assert "leader" in (cluster["B"].role, cluster["C"].role)


def test_a_learner_does_not_campaign() -> None:
    """Thesis 4.2.1: it does not count, so it must not lead."""
    cluster = Cluster("ABC", configuration("AB", "C"))
    cluster.due("C")
    assert (cluster["C"].role, cluster.wire) == ("follower", [])


def test_election_timeouts_are_drawn_at_random_from_one_to_two() -> None:
    """Paper 5.2 and 9.3: else votes split for ever."""
    cluster = Cluster("ABCDE")
    drawn = {cluster[name].deadline_ms() for name in "ABCDE"}
    assert len(drawn) == 5
    assert all(1_000 <= ms < 2_000 for ms in drawn)


def test_who_hears_a_leader_or_gives_a_vote_waits_anew() -> None:
    """Paper 5.2."""
    cluster = led_by_a()
    cluster.wait(500)
    cluster.due("A")
    cluster.deliver()
    assert cluster["B"].deadline_ms() >= cluster.now_ms + 1_000
    cluster.wait(1_000)
    cluster.tell("B", "C", ask("B", 3))
    assert cluster["B"].deadline_ms() >= cluster.now_ms + 1_000


def test_who_gives_a_vote_in_the_term_it_is_in_waits_anew() -> None:
    """Paper 5.2: else it would campaign against the one it voted for."""
    cluster = Cluster()
    cluster.tell("B", "A", ask("B", 3, 0, 0))
    cluster.wait(900)
    cluster.tell("B", "A", ask("B", 3, 0, 0))
    assert cluster["B"].deadline_ms() < cluster.now_ms + 1_000, "a refusal is no reason to wait"
    cluster.tell("B", "C", ask("B", 3))
    assert cluster["B"].deadline_ms() >= cluster.now_ms + 1_000


def test_one_that_is_alone_leads_at_once() -> None:
    """A store on one board is a group of one voter."""
    cluster = Cluster("AB", Configuration((member("A"), member("B", voter=False))))
    assert cluster["A"].deadline_ms() == 0
    cluster.elect("A")
    assert cluster["A"].serves
