"""What of the log is in memory, what comes from the journal, and what nobody needs any more."""

from __future__ import annotations

from raft_kit import Cluster, configuration, led_by_a, log_of

from shoal.raft.entries import CACHE_BYTES
from shoal.raft.messages import Append, Behind


def led_from_the_journal() -> Cluster:
    """A leads, B lacks entries that only A's journal has, and what is fetched from it comes by hand."""
    cluster = Cluster(logs={"A": [1] * 30, "B": [1] * 3, "C": [1] * 30})
    cluster.crash("A")
    cluster.boards["A"].applied = 31
    cluster.start("A")
    cluster.fetch_by_hand = True
    cluster.elect("A")
    return cluster


def test_entries_that_left_memory_come_from_the_journal() -> None:
    """The journal holds the log; the core asks for what it needs."""
    cluster = led_from_the_journal()
    assert cluster.boards["A"].fetches == [("B", 5)]
    cluster.propose("A")
    assert cluster.boards["A"].fetches == [("B", 5)], "one question at a time"
    cluster.fetch("A", 10)
    cluster.deliver()
    assert cluster["B"].log.last_index == 14
    cluster.fetch_by_hand = False
    cluster.fetch("A", 10)
    cluster.run(1_000)
    assert cluster["B"].log.commit == cluster["A"].log.commit == 33


def test_entries_fetched_for_another_place_or_another_log_are_not_sent() -> None:
    """The answer comes later; the member or the log may be elsewhere by then."""
    cluster = led_from_the_journal()
    cluster["A"].fetched("B", cluster.boards["A"].journal.from_index(9), cluster.now_ms)
    foreign = log_of(configuration("ABC"), [1] * 3 + [7] * 5)[4:]
    cluster["A"].fetched("B", foreign, cluster.now_ms)
    cluster["A"].fetched("X", foreign, cluster.now_ms)
    cluster.work("A")
    assert cluster.waiting(Append, to="B") == []


def test_a_journal_that_has_them_no_longer_makes_the_member_fall_behind() -> None:
    """Rather than ask the journal for ever."""
    cluster = led_from_the_journal()
    cluster["A"].fetched("B", [], cluster.now_ms)
    cluster.boards["A"].fetches.clear()
    cluster.work("A")
    assert cluster.boards["A"].fetches == []
    cluster.due("A")
    assert len(cluster.waiting(Behind, to="B")) == 1


def test_what_every_member_holds_is_in_no_memory() -> None:
    """Boards are small: entries leave memory when nobody can need them there."""
    cluster = led_by_a("A", members=configuration("A"))
    for _ in range(20):
        cluster.propose("A", b"x" * 100)
    log = cluster["A"].log
    assert log.cached_from == log.last_index + 1


def test_memory_holds_little_of_what_a_member_lacks() -> None:
    """The rest is fetched from the journal when it comes back."""
    cluster = led_by_a("ABC")
    cluster.crash("C")
    for _ in range(20):
        cluster.propose("A", b"x" * 1_000_000)
        cluster.deliver()
    log = cluster["A"].log
    held = log.last_index - log.cached_from + 1
    assert 1 <= held <= CACHE_BYTES // 1_000_000
    assert log.term_at(3) == 2
    assert log.from_index(3) is None


def test_what_every_member_holds_is_known_everywhere() -> None:
    """A witness may forget what every member with a state machine holds; not what a witness itself holds."""
    cluster = led_by_a("ABW", members=configuration("AB", witnesses="W"))
    cluster.cut("W")
    index = cluster.propose("A")
    cluster.deliver()
    assert cluster["A"].everywhere == index
    cluster.cut("B")
    cluster.propose("A")
    cluster.deliver()
    assert cluster["A"].everywhere == index
    cluster.heal()
    cluster.due("A")
    cluster.deliver(Append, to="W")
    assert cluster["W"].everywhere == index
