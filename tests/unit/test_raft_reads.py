"""ReadIndex: reads that see all that was acknowledged before them (thesis 6.4). One rule a test."""

from __future__ import annotations

from raft_kit import Cluster, configuration, incarnation, led_by_a

from shoal.raft.messages import Append, Appended, AskRead, AskVote, Behind, ReadAt, ReadState


def test_a_read_is_served_when_a_quorum_confirms_the_leader() -> None:
    """Thesis 6.4, steps 2 and 3: the commit index is noted, then a round of heartbeats confirms leadership."""
    cluster = led_by_a("ABCDE")
    index = cluster["A"].log.commit
    cluster.read("A", 7)
    cluster.deliver(Append, rounds=1)
    for count, sent in enumerate(cluster.take(Appended), 1):
        assert (cluster.boards["A"].reads != []) is (count > 2)
        cluster.step(sent)
    assert cluster.boards["A"].reads == [ReadState(7, index)]


def test_an_acknowledgement_of_before_confirms_no_read() -> None:
    """Thesis 6.4: the round must begin after the read; what is on its way already proves nothing."""
    cluster = led_by_a()
    cluster.due("A")
    cluster.deliver(Append, rounds=1)
    old = cluster.take(Appended)
    cluster.read("A")
    for sent in old * 2:
        cluster.step(sent)
    assert cluster.boards["A"].reads == []


def test_reads_share_a_round_and_one_that_comes_later_waits_for_the_next() -> None:
    """Thesis 6.4: one round for a batch of reads; none joins a round that has begun."""
    cluster = led_by_a()
    cluster.read("A", 1)
    assert len(cluster.waiting(Append)) == 2
    for read_id in (2, 3, 4):
        cluster.read("A", read_id)
    assert len(cluster.waiting(Append)) == 2
    index = cluster.propose("A")
    first = cluster.take(Append, to="B")[0]
    cluster.step(first)
    cluster.deliver(Appended, "B")
    assert [read.read_id for read in cluster.boards["A"].reads] == [1]
    cluster.deliver()
    assert cluster["A"].log.commit == index
    assert [read.read_id for read in cluster.boards["A"].reads] == [1, 2, 3, 4]


def test_a_read_after_a_commit_sees_it() -> None:
    """Linearizability: the index of a later round is not that of an earlier one."""
    cluster = led_by_a()
    cluster.read("A", 1)
    index = cluster.propose("A")
    cluster.deliver()
    cluster.read("A", 2)
    cluster.deliver()
    assert cluster.boards["A"].reads == [ReadState(1, index - 1), ReadState(2, index)]


def test_a_follower_asks_the_leader() -> None:
    """Thesis 6.4, last paragraphs: the work of reading is the follower's, the index the leader's."""
    cluster = led_by_a()
    index = cluster.propose("A")
    cluster.deliver()
    cluster.read("B", 7)
    assert len(cluster.waiting(AskRead, "B", "A")) == 1
    assert cluster["B"].log.commit < index
    cluster.deliver()
    assert cluster.boards["B"].reads == [ReadState(7, index)]
    assert cluster["B"].log.commit == index, "it need not wait to be told"


def test_an_answer_commits_no_further_than_what_was_compared() -> None:
    """Paper, figure 2, AppendEntries 5: beyond it the own log may be another leader's."""
    cluster = led_by_a()
    cluster.read("B", 1)
    [asked] = cluster.waiting(AskRead)
    cluster.take()
    index = cluster.propose("A")
    cluster.take()
    cluster.tell("B", "A", ReadAt(2, asked.read_id, index))
    assert cluster.boards["B"].reads == [ReadState(1, index)]
    assert cluster["B"].log.commit == index - 1


def test_an_answer_commits_nothing_that_was_compared_with_an_old_leader() -> None:
    """Paper 5.3: B holds entries of A; C, which leads since, may lack them."""
    cluster = Cluster(logs={"A": [2], "B": [2, 2, 2], "C": [2]}, terms=dict.fromkeys("ABC", 2))
    cluster.tell("B", "A", Append(2, 4, 2, [], 1, 0, 1_000))
    cluster.tell("B", "C", AskVote(3, 9, 9, incarnation("B"), transfer=True))
    cluster.tell("B", "C", Behind(3, 3, 0, 1_000, 2))
    cluster.read("B", 1)
    [asked] = cluster.waiting(AskRead)
    cluster.tell("B", "C", ReadAt(3, asked.read_id, 4))
    assert cluster.boards["B"].reads == [ReadState(1, 4)]
    assert cluster["B"].log.commit < 3


def test_the_round_that_a_follower_caused_brings_it_the_commit_index() -> None:
    """It waits for the entry that was named; it need not wait for the next heartbeat."""
    cluster = led_by_a("ABCDE")
    index = cluster.propose("A")
    cluster.deliver()
    cluster.read("B", 7)
    cluster.deliver()
    assert cluster.boards["B"].reads == [ReadState(7, index)]
    assert cluster["B"].log.commit == index


def test_one_that_asks_confirms_the_leader_where_both_are_a_quorum() -> None:
    """DESIGN.md: neither has voted in a later term when it asks, so nobody leads there, and no round is needed."""
    cluster = led_by_a()
    cluster.cut("C")
    index = cluster["A"].log.commit
    cluster.read("B", 7)
    cluster.deliver(AskRead)
    assert cluster.waiting(ReadAt) == [ReadAt(2, cluster.waiting(ReadAt)[0].read_id, index)]
    assert cluster.waiting(Append) == []
    cluster.deliver()
    assert cluster.boards["B"].reads == [ReadState(7, index)]


def test_one_that_asks_is_not_enough_in_a_larger_cluster() -> None:
    """Two of five: the other three may follow another."""
    cluster = led_by_a("ABCDE")
    cluster.cut("C", "D", "E")
    cluster.read("B", 7)
    cluster.deliver()
    assert cluster.boards["B"].reads == []


def test_a_learner_that_asks_confirms_nothing() -> None:
    """Thesis 4.2.1: it has no vote that it could have kept."""
    cluster = led_by_a("ABCD", members=configuration("ABC", "D"))
    cluster.cut("B", "C")
    cluster.read("D", 7)
    cluster.deliver()
    assert cluster.boards["D"].reads == []


def test_a_wiped_board_that_asks_confirms_nothing() -> None:
    """It may have voted in a later term and have forgotten it."""
    cluster = led_by_a()
    for life, answered in ((2, False), (1, True)):
        cluster.tell("A", "B", AskRead(2, 5, confirmed=True, incarnation=incarnation("B", life)))
        assert (cluster.waiting(ReadAt) != []) is answered


def test_a_leader_that_is_being_removed_does_not_count_itself_for_one_that_asks() -> None:
    """Thesis 4.2.2: it leads on, but the quorum is that of the members without it."""
    cluster = led_by_a()
    cluster.change("A", configuration("BC"))
    cluster.take()
    cluster.tell("A", "B", AskRead(2, 5, confirmed=True, incarnation=incarnation("B")))
    assert cluster.waiting(ReadAt) == []


def test_a_new_leader_answers_nobody_before_an_entry_of_its_term_is_committed() -> None:
    """Thesis 6.4, step 1: a quorum that follows it does not tell it what is committed."""
    cluster = led_by_a()
    cluster.crash("A")
    cluster.due("B")
    cluster.deliver(rounds=4)
    assert (cluster["B"].role, cluster["B"].serves) == ("leader", False)
    cluster.tell("B", "C", AskRead(3, 5, confirmed=True, incarnation=incarnation("C")))
    assert cluster.waiting(ReadAt) == []
    cluster.deliver()
    assert cluster["B"].serves


def test_a_leader_cut_off_serves_no_read() -> None:
    """Thesis 6.4: another may lead by now; -1 when it knows that it does not lead any more."""
    cluster = led_by_a()
    cluster.cut("A")
    cluster.read("A", 7)
    cluster.run(900)
    assert cluster.boards["A"].reads == []
    cluster.run(1_200)
    assert cluster.boards["A"].reads == [ReadState(7, -1)]
    cluster.read("A", 8)
    assert cluster.boards["A"].reads[-1] == ReadState(8, -1)


def test_a_new_leader_serves_no_read_before_an_entry_of_its_term_is_committed() -> None:
    """Thesis 6.4, step 1: until then it does not know what is committed."""
    cluster = led_by_a()
    index = cluster.propose("A")
    cluster.deliver()  # acknowledged by A; B and C do not know yet
    cluster.crash("A")
    cluster.due("B")
    cluster.deliver(rounds=4)
    assert cluster["B"].role == "leader"
    assert cluster["B"].log.commit == index - 1
    cluster.read("B", 1)
    cluster.read("B", 2, confirmed=False)
    for _ in range(3):
        cluster.tell("B", "C", Appended(3, 0, 9, 1_000, incarnation=incarnation("C")))
    assert cluster.boards["B"].reads == []
    cluster.deliver()
    assert {read.index for read in cluster.boards["B"].reads} == {index + 1}
    assert len(cluster.boards["B"].reads) == 2


def test_learners_confirm_nothing() -> None:
    """Thesis 4.2.1 and 6.4: a quorum of the voters."""
    cluster = led_by_a("ABCDE", members=configuration("ABC", "DE"))
    cluster.cut("B", "C")
    cluster.read("A")
    cluster.deliver()
    assert cluster.boards["A"].reads == []


def test_a_read_that_trusts_the_leader_needs_no_round() -> None:
    """Consistency `leader`: what the leader believes, at once; by a follower too."""
    cluster = led_by_a()
    cluster.cut("C")
    cluster.read("A", 1, confirmed=False)
    assert cluster.wire == []
    cluster.read("B", 2, confirmed=False)
    cluster.deliver()
    index = cluster["A"].log.commit
    assert (cluster.boards["A"].reads, cluster.boards["B"].reads) == (
        [ReadState(1, index)],
        [ReadState(2, index)],
    )


def test_who_does_not_lead_says_so() -> None:
    """A follower that was asked by one with an older idea of who leads."""
    cluster = led_by_a()
    cluster.tell("B", "C", AskRead(2, 5, confirmed=True))
    assert cluster.waiting(ReadAt) == [ReadAt(2, 5, -1)]


def test_a_question_of_an_old_term_is_answered() -> None:
    """Paper 5.1: the one who asks would wait for ever."""
    cluster = Cluster(terms={"A": 5})
    cluster.tell("A", "B", AskRead(4, 5, confirmed=True))
    assert cluster.waiting(ReadAt) == [ReadAt(5, 5, -1)]


def test_reads_fail_when_leadership_changes() -> None:
    """Also when the same board leads again, in another term: the old question is not known there."""
    cluster = led_by_a()
    cluster.read("B", 1)
    cluster.read("C", 2)
    cluster.take()
    cluster.tell("B", "C", Append(3, 1, 1, [], 1, 0, 1_000))
    assert cluster.boards["B"].reads == [ReadState(1, -1)]
    cluster.tell("C", "A", Append(4, 1, 1, [], 1, 0, 1_000))
    assert cluster.boards["C"].reads == [ReadState(2, -1)]


def test_reads_fail_at_once_when_the_leader_is_told_to_step_down() -> None:
    """A driver whose disk failed calls it; whoever waits must not wait for the next message."""
    cluster = led_by_a()
    cluster.read("A", 1)
    cluster["A"].step_down()
    cluster.work("A")
    assert cluster.boards["A"].reads == [ReadState(1, -1)]


def test_a_question_that_is_lost_fails_after_a_while() -> None:
    """A message may be lost without a sign; the reader asks again."""
    cluster = led_by_a()
    cluster.read("B", 1)
    cluster.take()
    cluster.run(cluster["B"].timeout_ms - 300)
    assert cluster.boards["B"].reads == []
    cluster.run(600)
    assert cluster.boards["B"].reads == [ReadState(1, -1)]


def test_a_learner_whose_leader_is_gone_fails_its_reads_too() -> None:
    """It has no election to wait for."""
    cluster = led_by_a("ABC", members=configuration("AB", "C"))
    cluster.crash("A")
    cluster.crash("B")
    cluster.read("C", 1)
    cluster.due("C")
    assert cluster.boards["C"].reads == [ReadState(1, -1)]
    assert cluster["C"].leader is None


def test_an_answer_to_an_earlier_life_answers_nothing() -> None:
    """Read ids begin anew with a process; an answer that was under way is of an older commit index."""
    cluster = led_by_a()
    cluster.read("B", 1)
    cluster.deliver(AskRead)
    late = cluster.take(ReadAt)
    assert late
    cluster.take()
    cluster.restart("B")
    index = cluster.propose("A")
    cluster.due("A")
    cluster.deliver()
    cluster.read("B", 1)
    cluster.step(late[0])
    assert cluster.boards["B"].reads == []
    cluster.deliver()
    assert cluster.boards["B"].reads == [ReadState(1, index)]


def test_an_answer_counts_once_and_from_the_leader_that_was_asked() -> None:
    """Duplicates and others' answers are dropped."""
    cluster = led_by_a()
    cluster.read("B", 1)
    [asked] = cluster.waiting(AskRead)
    cluster.tell("B", "C", ReadAt(2, asked.read_id, 99))
    assert cluster.boards["B"].reads == []
    for _ in range(2):
        cluster.tell("B", "A", ReadAt(2, asked.read_id, 2))
    assert cluster.boards["B"].reads == [ReadState(1, 2)]


def test_a_round_ends_when_the_members_become_fewer() -> None:
    """Thesis 4.1: the configuration in force counts, for reads as well."""
    cluster = led_by_a("AB")
    cluster.cut("B")
    cluster.read("A", 1)
    cluster.change("A", configuration("A"))
    assert cluster.boards["A"].reads == [ReadState(1, 2)]
    cluster.read("A", 2)
    assert cluster.boards["A"].reads[-1] == ReadState(2, 3)


def test_one_that_is_alone_confirms_itself() -> None:
    """A quorum of one."""
    cluster = led_by_a("A", members=configuration("A"))
    cluster.read("A", 1)
    assert cluster.boards["A"].reads == [ReadState(1, 2)]
