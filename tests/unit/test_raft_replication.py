"""The log: what a follower takes in, what a leader commits, and how entries flow. One rule a test."""

from __future__ import annotations

import pytest
from raft_kit import Cluster, configuration, incarnation, led_by_a

from shoal.raft.errors import ProtocolViolation
from shoal.raft.messages import NO_OP, NORMAL, Append, Appended, Behind, Entry
from shoal.raft.progress import IN_FLIGHT_BYTES, IN_FLIGHT_MESSAGES


def append(term: int, prev: tuple[int, int], *entries: tuple[int, int], commit: int = 1) -> Append:
    """Of a leader; entries and what precedes them as (index, term)."""
    made = [Entry(index, of, NORMAL, f"{index}/{of}".encode()) for index, of in entries]
    return Append(term, *prev, made, commit, 0, 1_000)


def ack(name: str, term: int, matched: int, *reject: int) -> Appended:
    return Appended(term, matched, 0, 1_000, *(reject or (0, 0, 0)), incarnation(name))


def acks(cluster: Cluster, sender: str) -> list[Appended]:
    return [sent.message for sent in cluster.take(Appended, sender)]


# -- a follower -----------------------------------------------------------------------------------


def test_entries_that_are_there_already_cut_off_nothing() -> None:
    """Paper, figure 2, AppendEntries 3: only a conflict truncates; what follows may have been acknowledged."""
    cluster = Cluster(logs={"B": [2, 2, 2]})
    cluster.tell("B", "A", append(2, (1, 1), (2, 2)))
    cluster.tell("B", "A", append(2, (1, 1)))
    assert cluster.terms("B") == [1, 2, 2, 2]
    assert [e.term for e in cluster.boards["B"].journal.entries] == [1, 2, 2, 2]


def test_an_entry_of_another_term_replaces_the_log_from_there_on() -> None:
    """Paper, figure 2, AppendEntries 3 and 4; on disk as in memory."""
    cluster = Cluster(logs={"B": [2, 2, 2, 2]})
    cluster.tell("B", "A", append(3, (1, 1), (2, 2), (3, 3)))
    assert cluster.terms("B") == [1, 2, 3]
    assert [e.term for e in cluster.boards["B"].journal.entries] == [1, 2, 3]
    assert [a.matched for a in acks(cluster, "B")] == [3]


def test_what_is_committed_is_never_replaced() -> None:
    """State-machine safety (paper 5.4.3) is asserted: by entries, and by what precedes them."""
    cluster = Cluster(logs={"B": [2, 2, 2]})
    cluster.tell("B", "A", append(2, (4, 2), commit=3))
    assert cluster["B"].log.commit == 3
    for message in (append(3, (2, 2), (3, 3)), append(3, (3, 3), (4, 3)), append(3, (1, 1), (2, 3))):
        with pytest.raises(ProtocolViolation):
            cluster.tell("B", "A", message)
    assert cluster.terms("B") == [1, 2, 2, 2]


def test_entries_with_a_hole_are_refused() -> None:
    """A message that is no run of entries comes from a defect."""
    cluster = Cluster()
    with pytest.raises(ProtocolViolation, match="entry 4 came where 3 belongs"):
        cluster.tell("B", "A", append(2, (1, 1), (2, 2), (4, 2)))


def test_commit_reaches_no_further_than_what_was_compared() -> None:
    """Paper, figure 2, AppendEntries 5: the last *new* entry; those behind it may be another leader's."""
    cluster = Cluster(logs={"B": [2, 2, 2]})
    cluster.tell("B", "A", append(3, (1, 1), commit=4))
    assert cluster["B"].log.commit == 1
    assert cluster.boards["B"].commands == []
    cluster.tell("B", "A", append(3, (1, 1), (2, 3), commit=4))
    assert cluster["B"].log.commit == 2
    cluster = Cluster(logs={"B": [2, 2, 2]})
    cluster.tell("B", "A", append(3, (1, 1), (2, 2), commit=4))
    assert (cluster["B"].log.commit, cluster.boards["B"].applied) == (2, 2)


def test_an_acknowledgement_reaches_no_further_than_what_was_compared() -> None:
    """Paper 5.3: entries of an old leader, durable or not, are not the leader's."""
    cluster = Cluster(logs={"B": [2, 2, 2]})
    cluster.tell("B", "A", append(3, (1, 1)))
    cluster.tell("B", "A", append(3, (1, 1), (2, 2)))
    assert [a.matched for a in acks(cluster, "B")] == [1, 2]


def test_what_was_compared_with_an_old_leader_does_not_count_for_a_new_one() -> None:
    """Paper 5.3: log matching is between two logs; the next leader's is another."""
    cluster = Cluster(logs={"B": [2, 2, 2]})
    cluster.tell("B", "A", append(2, (4, 2)))
    cluster.tell("B", "C", append(3, (2, 2)))
    assert [a.matched for a in acks(cluster, "B")] == [4, 2]


def test_a_message_that_does_not_fit_changes_nothing() -> None:
    """Paper, figure 2, AppendEntries 2."""
    cluster = Cluster(logs={"B": [2, 2]})
    cluster.tell("B", "A", append(3, (5, 3), (6, 3), commit=6))
    cluster.tell("B", "A", append(3, (3, 3), (4, 3), commit=6))
    assert cluster.terms("B") == [1, 2, 2]
    assert cluster["B"].log.commit == 1
    assert [(a.matched, a.rejected) for a in acks(cluster, "B")] == [(0, 5), (0, 3)]


def test_messages_twice_and_in_the_wrong_order_do_no_harm() -> None:
    """Paper 5.3: AppendEntries is idempotent."""
    cluster = led_by_a()
    for _ in range(3):
        cluster.propose("A")
    sent = cluster.take(Append, to="B")
    assert len(sent) == 3
    for message in [*reversed(sent), *sent, *reversed(sent)]:
        cluster.step(message)
    cluster.run(600)
    assert cluster.terms("B") == cluster.terms("A")
    assert cluster.commits() == {"A": 5, "B": 5, "C": 5}


def test_entries_from_before_the_own_log_begins_are_committed_ones() -> None:
    """Paper 7: what a snapshot covers agrees with every leader."""
    cluster = Cluster(logs={"B": [1, 1, 2, 2]})
    cluster.tell("B", "A", append(2, (5, 2), commit=5))
    cluster.take()
    cluster.compact("B", 5)
    cluster.tell("B", "A", append(2, (1, 1), (2, 1), (3, 1), commit=5))
    cluster.tell("B", "A", append(2, (2, 1), (3, 1), (4, 2), (5, 2), (6, 2), commit=6))
    assert [a.matched for a in acks(cluster, "B")] == [5, 6]
    assert cluster["B"].log.commit == 6


# -- a leader -------------------------------------------------------------------------------------


def test_a_new_leader_begins_with_an_entry_of_its_term() -> None:
    """Paper 8 and thesis 6.4: a no-op, sent without waiting for a heartbeat's answer."""
    cluster = Cluster(logs={"A": [1, 1], "B": [1, 1], "C": [1, 1]})
    cluster.due("A")
    cluster.deliver(rounds=4)
    [first, _] = cluster.waiting(Append)
    assert [(e.index, e.term, e.kind) for e in first.entries] == [(4, 2, NO_OP)]


def test_figure_8_entries_of_an_old_term_are_not_committed_by_counting() -> None:
    """Paper 5.4.2, figure 8: a majority holds 2/2, and a leader of term 3 could still replace it."""
    cluster = Cluster("ABCDE", logs={"A": [2], "B": [2], "E": [3]}, terms=dict.fromkeys("ABCDE", 3))
    cluster.cut("E")
    cluster.due("A")
    cluster.deliver(rounds=4)
    cluster.take()
    assert cluster["A"].role == "leader"
    cluster.tell("A", "B", ack("B", 4, 2))
    cluster.tell("A", "C", ack("C", 4, 2))
    assert cluster["A"].log.commit == 1, "2/2 is on a majority, but of an old term"
    cluster.tell("A", "B", ack("B", 4, 3))
    cluster.tell("A", "C", ack("C", 4, 3))
    assert cluster["A"].log.commit == 3, "with an entry of the own term all before it is committed"


def test_a_quorum_commits_and_less_does_not() -> None:
    """Paper 5.3, with five voters and an even number of them."""
    for names, needed in (("ABCDE", 2), ("ABCD", 2)):
        cluster = led_by_a(names)
        index = cluster.propose("A")
        cluster.take()
        for count, name in enumerate(names[1:], 1):
            cluster.tell("A", name, ack(name, 2, index))
            assert (cluster["A"].log.commit == index) is (count >= needed)


def test_a_learner_does_not_count() -> None:
    """Thesis 4.2.1."""
    cluster = led_by_a("ABCDE", members=configuration("ABC", "DE"))
    index = cluster.propose("A")
    for learner in "DE":
        cluster.deliver(Append, to=learner)
        cluster.deliver(Appended, sender=learner)
    assert cluster["A"].followers()["D"][0] == index
    assert cluster["A"].log.commit == index - 1
    cluster.cut("B", "C")
    cluster.run(2_100)
    assert cluster["A"].role != "leader"


def test_a_stale_acknowledgement_of_another_term_does_not_count() -> None:
    """Terms in acknowledgements: what was matched in term 1 may have been replaced since (evidence, S3)."""
    cluster = led_by_a()
    index = cluster.propose("A")
    cluster.take()
    cluster.tell("A", "B", ack("B", 1, index))
    assert cluster["A"].log.commit == index - 1
    assert cluster["A"].followers()["B"][0] == index - 1
    cluster.tell("A", "B", ack("B", 2, index))
    assert cluster["A"].log.commit == index


def test_a_stale_rejection_does_not_send_again_what_is_acknowledged() -> None:
    """Evidence, S2: answers of before must not undo what is matched."""
    cluster = led_by_a()
    for _ in range(5):
        cluster.propose("A")
        cluster.deliver()
    matched = cluster["A"].followers()["B"][0]
    for rejected in range(1, matched + 1):
        cluster.tell("A", "B", ack("B", 2, 0, rejected, 1, 1))
    assert cluster["A"].followers()["B"][0] == matched
    cluster.propose("A")
    cluster.propose("A")
    assert [m.prev_index for m in cluster.waiting(Append, to="B")] == [matched, matched + 1], (
        "ahead of answers"
    )


def test_a_stale_rejection_does_not_move_a_probe() -> None:
    """Only the answer to the probe under way tells where to look next."""
    cluster = Cluster(logs={"A": [1] * 6}, terms=dict.fromkeys("ABC", 2))
    cluster.due("A")
    cluster.deliver(rounds=4)
    cluster.take()
    cluster.tell("A", "B", ack("B", 3, 0, 3, 1, 1))  # the probe asked about 7
    assert cluster.waiting(Append, to="B") == []
    cluster.tell("A", "B", ack("B", 3, 0, 7, 5, 1))
    assert [m.prev_index for m in cluster.waiting(Append, to="B")] == [5]


def test_until_the_logs_agree_one_message_is_under_way() -> None:
    """Probe, then replicate (etcd-raft's progress): a board that is down is not showered."""
    cluster = Cluster()
    cluster.due("A")
    cluster.deliver(rounds=4)
    for _ in range(5):
        cluster.propose("A")
    [probe] = cluster.waiting(Append, to="B")
    assert len(probe.entries) == 1
    cluster.deliver()
    cluster.propose("A")
    cluster.propose("A")
    assert [len(m.entries) for m in cluster.waiting(Append, to="B")] == [1, 1]


def test_so_many_messages_are_under_way_and_no_more() -> None:
    """In-flight limits: memory of a board that does not answer."""
    cluster = led_by_a()
    for _ in range(IN_FLIGHT_MESSAGES + 10):
        cluster.propose("A")
    sent = cluster.take(Append, to="B")
    assert len(sent) == IN_FLIGHT_MESSAGES
    cluster.step(sent[0])
    cluster.deliver(Appended, "B")
    assert [len(m.entries) for m in cluster.waiting(Append, to="B")] == [10]


def test_so_many_bytes_are_under_way_and_no_more() -> None:
    """In-flight limits, and messages of a megabyte."""
    cluster = led_by_a()
    size = 700_000
    for _ in range(20):
        cluster.propose("A", b"x" * size)
    sent = cluster.waiting(Append, to="B")
    assert all(len(m.entries) == 1 for m in sent)
    assert (len(sent) - 1) * size < IN_FLIGHT_BYTES <= len(sent) * size
    cluster.deliver()
    assert cluster["A"].followers()["B"][0] == cluster["A"].log.last_index


@pytest.mark.parametrize(
    "theirs",
    [
        [1, 1, 4],  # (a) and (b) of figure 7: entries are missing
        [1, 1, 4, 4, 5, 5, 6, 6, 6, 6],  # (c): there are more
        [1, 1, 4, 4, 5, 5, 6, 6, 7, 7],  # (d)
        [1, 1, 4, 4, 4, 4],  # (e): both
        [1, 1, 2, 2, 2, 3, 3, 3, 3, 3],  # (f)
    ],
)
def test_figure_7_every_log_is_repaired_in_few_rounds(theirs: list[int]) -> None:
    """Paper 5.3, figure 7, with conflicts skipped by term."""
    ours = [1, 1, 4, 4, 5, 5, 6, 6, 6]
    cluster = Cluster(logs={"A": ours, "B": theirs, "C": ours}, terms=dict.fromkeys("ABC", 7))
    cluster.cut("B")
    cluster.elect("A")
    cluster.heal()
    cluster.due("A")
    rejected = 0
    while cluster.wire:
        rejected += sum(bool(m.rejected) for m in cluster.waiting(Appended, "B"))
        cluster.deliver(rounds=1)
    assert cluster.terms("B") == cluster.terms("A")
    assert rejected <= 3


@pytest.mark.parametrize("theirs", [2, 9])
def test_a_conflict_is_skipped_by_terms_not_entry_by_entry(theirs: int) -> None:
    """Paper 5.3: one rejection for each term that conflicts; an earlier one the leader skips, a later the follower."""
    logs = {"A": [1] + [5] * 50, "B": [1] + [theirs] * 60, "C": [1] + [5] * 50}
    cluster = Cluster(logs=logs, terms=dict.fromkeys("ABC", 9))
    cluster.cut("B")
    cluster.elect("A")
    cluster.heal()
    cluster.due("A")
    rounds = 0
    while cluster.wire:
        cluster.deliver(rounds=1)
        rounds += 1
    assert cluster.terms("B") == cluster.terms("A")
    assert rounds <= 6


def test_a_heartbeat_that_overtakes_entries_is_no_reason_to_send_them_again() -> None:
    """It names a place where the logs surely agree: bulk goes another way than heartbeats (consensus.md)."""
    cluster = led_by_a()
    late = [cluster.propose("A"), *cluster.take(Append, to="B")][1:]
    cluster.due("A")
    cluster.deliver(Append, to="B")
    assert [a.rejected for a in cluster.waiting(Appended, "B")] == [0]
    for sent in late:
        cluster.step(sent)
    cluster.deliver()
    assert cluster["A"].followers()["B"][0] == cluster["A"].log.last_index


def test_lost_entries_are_sent_again_when_the_driver_says_so() -> None:
    """`unreachable`: a connection ended with messages in it."""
    cluster = led_by_a()
    cluster.propose("A")
    cluster.take()
    cluster.propose("A")
    cluster.take()
    cluster["A"].unreachable("B", cluster.now_ms)
    cluster.work("A")
    assert [len(m.entries) for m in cluster.waiting(Append, to="B")] == [2]
    assert cluster.waiting(Append, to="C") == []


def test_a_lost_probe_is_sent_again_as_it_was() -> None:
    """Not from the beginning of the log: that may be gigabytes away."""
    cluster = Cluster(logs={name: [1] * 20 for name in "ABC"})
    cluster.due("A")
    cluster.deliver(rounds=4)
    [probe] = [sent.message for sent in cluster.take(Append, to="B")]
    cluster["A"].unreachable("B", cluster.now_ms)
    cluster.work("A")
    assert cluster.waiting(Append, to="B") == [probe]


def test_lost_entries_are_sent_again_after_a_while() -> None:
    """No message says that another was lost; also where all acknowledgements are."""
    cluster = led_by_a()
    index = cluster.propose("A")
    cluster.take()
    cluster.run(3 * cluster["A"].timeout_ms)
    assert cluster.commits() == {"A": index, "B": index, "C": index}
    assert cluster["A"].term == 2


def test_a_member_behind_the_log_is_told_and_takes_no_entries() -> None:
    """Paper 7: a snapshot instead of entries that are gone."""
    cluster = led_by_a(logs={name: [1] * 5 for name in "ABC"})
    cluster.cut("C")
    for _ in range(5):
        cluster.propose("A")
        cluster.deliver()
    cluster.compact("A", 11)
    cluster.heal()
    cluster.crash("C")
    cluster.boards["C"].journal.entries = cluster.boards["C"].journal.entries[:3]
    cluster["A"].unreachable("C", cluster.now_ms)
    cluster.start("C")
    cluster.run(3_000)
    assert cluster["C"].log.last_index == 3
    assert cluster.boards["C"].behind == "A"
    assert cluster["C"].leader == "A", "it is told who leads all the same"


def test_one_whose_log_parted_before_the_leaders_begins_is_behind_however_long_it_is() -> None:
    """Paper 7: the entries of a leader cut off agree with nobody (evidence, R1 and R2)."""
    cluster = led_by_a()
    cluster.cut("A")
    for _ in range(50):
        cluster.propose("A")
    cluster.elect("B")
    for _ in range(20):
        cluster.propose("B")
        cluster.deliver()
    cluster.compact("B", cluster["B"].log.commit)
    cluster.heal()
    cluster.run(1_000)
    assert cluster["A"].log.last_index > cluster["B"].log.last_index
    assert cluster.boards["A"].behind == "B"


def test_one_that_holds_the_entry_before_the_leaders_log_needs_no_snapshot() -> None:
    """Paper 5.3: logs with the same entry there agree up to it, committed here or not."""
    cluster = Cluster(logs={"B": [2, 2, 2]}, terms={"B": 3})
    cluster.tell("B", "A", Behind(3, 4, 0, 1_000, 2))
    assert [(a.rejected, a.hint_index, a.hint_term) for a in acks(cluster, "B")] == [(4, 3, 2)]
    assert cluster.boards["B"].behind is None
    cluster.tell("B", "A", Behind(3, 4, 0, 1_000, 3))
    assert [a.hint_index for a in acks(cluster, "B")] == [1]
    assert cluster.boards["B"].behind == "A"


def test_one_that_took_a_snapshot_goes_on_with_what_follows() -> None:
    """Paper 7, and figure 13, rule 6: also one that has more than the snapshot."""
    for has in (0, 2):
        cluster = led_by_a(logs={name: [1] * 5 for name in "ABC"})
        cluster.cut("C")
        for _ in range(8):
            cluster.propose("A")
            cluster.deliver()
        cluster.compact("A", 10)
        journal = cluster.boards["C"].journal
        journal.entries, journal.first_index, journal.previous_term = [], 10, 2
        journal.entries = cluster.boards["A"].journal.entries[:has]
        journal.configuration = cluster.boards["A"].journal.configuration
        cluster.boards["C"].applied = 9
        cluster.restart("C")
        cluster.heal()
        cluster.run(1_000)
        assert cluster["C"].log.commit == cluster["A"].log.last_index == 15
        assert cluster.boards["C"].behind is None
