"""Each checker finds its fault in the smallest history that has it, and nothing in the history without it."""

from __future__ import annotations

import time

import msgspec
import pytest
from history_kit import TrueStore, append, conflict, delete, read, read_all, stored

from shoal.testing.history import History, Operation, Placed, placed
from shoal.testing.history_checks import (
    check,
    check_expected,
    check_kept,
    check_linearizable,
    check_order,
    check_reads,
    check_unique,
)

A = ("a", 0, 1)
B = ("b", 1, 2)
C = ("c", 2, 3)


def violations(judge, operations, final):
    return judge(History(operations, final))


def test_a_history_without_faults_is_clean() -> None:
    operations = [
        append(1, 0, 10, A),
        append(2, 20, 30, B, C),
        read(3, 40, 50, 2, A, B, C),
        read_all(4, 60, 70, 3, A, B, C),
        conflict(5, 80, 90, 2),
        append(6, 100, None, ("d",), outcome="unknown"),
    ]
    assert check(History(operations, stored(A, B, C))) == []
    assert check(History(operations, stored(A, B, C, ("d", 3, 4)))) == []


def test_an_acknowledged_event_that_is_gone_is_lost() -> None:
    (found,) = violations(check_kept, [append(1, 0, 10, A), append(2, 20, 30, B)], stored(A))
    assert "event b" in found
    assert "is lost" in found
    assert "#2 of c2" in found


@pytest.mark.parametrize(
    ("kept", "what"),
    [
        (Placed("s", "a", "x", 1, 1), "version 0, is version 1 now"),
        (Placed("s", "a", "x", 0, 2), "position 1, is position 2 now"),
        (Placed("s", "a", "y", 0, 1), "content 'x', is content 'y' now"),
        (Placed("t", "a", "x", 0, 1), "stream_id 's', is stream_id 't' now"),
    ],
)
def test_an_acknowledged_event_stays_where_and_what_it_was(kept, what) -> None:
    (found,) = violations(check_kept, [append(1, 0, 10, A)], [kept])
    assert what in found


def test_two_acks_of_one_event_say_the_same() -> None:
    repeat = append(2, 20, 30, ("a", 1, 2))
    (found,) = violations(check_kept, [append(1, 0, 10, A), repeat], stored(A))
    assert "by the ack of #2" in found


def test_no_event_is_there_twice() -> None:
    (found,) = violations(check_unique, [append(1, 0, 10, A)], stored(A, ("a", 1, 2)))
    assert "event a is there 2 times, sent by #1" in found


def test_an_unknown_one_may_be_there_once() -> None:
    unknown = append(1, 0, None, ("a",), outcome="unknown")
    assert violations(check_unique, [unknown], []) == []
    assert violations(check_unique, [unknown], stored(A)) == []
    assert violations(check_unique, [unknown], stored(A, ("a", 1, 2))) != []


def test_what_was_not_applied_never_appears() -> None:
    (found,) = violations(check_unique, [append(1, 0, 10, ("a",), outcome="not-applied")], stored(A))
    assert "#1 of c1" in found
    assert "not applied" in found


def test_what_was_not_applied_and_was_sent_again_may_appear() -> None:
    refused = append(1, 0, 10, ("a",), outcome="not-applied")
    assert violations(check, [refused, append(2, 20, 30, A)], stored(A)) == []


def test_an_event_that_nobody_sent_is_found() -> None:
    (found,) = violations(check_unique, [], stored(A))
    assert "event a at position 1 was sent by nobody" in found


def test_an_unknown_one_has_the_content_that_was_sent() -> None:
    final = [Placed("s", "a", "other", 0, 1)]
    (found,) = violations(check_unique, [append(1, 0, None, ("a",), outcome="unknown")], final)
    assert "other content" in found


def test_an_append_is_there_as_a_whole_or_not_at_all() -> None:
    (found,) = violations(check_unique, [append(1, 0, None, ("a",), ("b",), outcome="unknown")], stored(A))
    assert "only 1 of 2 events of #1" in found


def test_versions_have_no_gap() -> None:
    (found,) = violations(check_order, [append(1, 0, 10, A)], stored(A, ("c", 2, 2)))
    assert "stream s has no version 1" in found


def test_no_version_is_given_twice() -> None:
    (found,) = violations(check_order, [], stored(A, ("b", 0, 2)))
    assert "the version of another" in found


def test_positions_have_no_gap() -> None:
    (found,) = violations(check_order, [append(1, 0, 10, A)], stored(A, ("b", 1, 3)))
    assert "nothing is at position 2" in found


def test_positions_grow_with_versions() -> None:
    found = violations(check_order, [], stored(("b", 1, 1), ("a", 0, 2)))
    assert "positions of stream s do not grow" in found[0]


def test_the_store_is_read_in_the_order_of_positions() -> None:
    (found,) = violations(check_order, [], stored(B, A)[:2] + stored(C))
    assert "event a at position 1 stands after position 2" in found


def test_positions_grow_in_the_order_of_acks() -> None:
    operations = [append(1, 0, 10, B), append(2, 20, 30, A)]
    (found,) = violations(check_order, operations, stored(A, B))
    assert found.startswith("#1 of c1")
    assert "before #2 of c2" in found
    together = [append(1, 0, 20, B), append(2, 20, 30, A)]
    assert violations(check_order, together, stored(A, B)) == []


def test_an_unknown_one_cannot_go_before_what_was_complete_before_it_began() -> None:
    operations = [append(1, 0, 10, B), append(2, 20, None, ("a",), outcome="unknown")]
    assert violations(check_order, operations, stored(A, B)) != []


def test_a_repeated_append_counts_from_its_first_try() -> None:
    operations = [
        append(1, 0, None, ("a",), outcome="unknown"),
        append(2, 5, 15, B),
        append(3, 20, 30, A),
    ]
    assert violations(check, operations, stored(A, B)) == []


def test_an_append_stands_behind_the_version_it_expected() -> None:
    at_two = append(1, 0, 10, B, expected_version=2)
    (found,) = violations(check_expected, [at_two], stored(A, B))
    assert "expected version 2, and stands at version 1" in found
    assert violations(check_expected, [append(1, 0, 10, B, expected_version=0)], stored(A, B)) == []
    assert violations(check_expected, [append(1, 0, 10, A, expected_version=-4)], stored(A)) != []


def test_a_read_returns_what_is_there() -> None:
    wrong = read(1, 0, 10, 1, A, ("z", 1, 2), consistency="local")
    (found,) = violations(check_reads, [wrong], stored(A, B))
    assert "#1 of c1" in found
    assert "event z" in found


def test_a_read_has_no_hole() -> None:
    assert violations(check_reads, [read_all(1, 0, 10, 3, A, C)], stored(A, B, C)) != []
    assert violations(check_reads, [read_all(1, 0, 10, 3, A)], stored(A, B, C)) == []
    assert violations(check_reads, [read_all(1, 0, 10, 3)], stored(A, B, C)) != []
    assert violations(check_reads, [read_all(1, 0, 10, 0)], stored(A, B, C)) == []


def test_a_read_does_not_return_what_was_lost_later() -> None:
    (found,) = violations(check_reads, [read_all(1, 0, 10, 2, A, B, consistency="leader")], stored(A))
    assert "where the store has nothing" in found


@pytest.mark.parametrize("observe", ["read", "read_all", "conflict"])
def test_what_was_acknowledged_is_seen(observe) -> None:
    stale = {
        "read": read(2, 20, 30, -1),
        "read_all": read_all(2, 20, 30, 0),
        "conflict": conflict(2, 20, 30, -1),
    }[observe]
    (found,) = violations(check_linearizable, [append(1, 0, 10, A), stale], stored(A))
    assert found.startswith("#1 of c1")
    assert "#2 of c2" in found
    earlier = msgspec.structs.replace(stale, invoked_us=10)
    assert violations(check_linearizable, [append(1, 0, 10, A), earlier], stored(A)) == []


def test_a_local_read_may_be_old() -> None:
    stale = read_all(2, 20, 30, 0, consistency="local")
    assert violations(check_linearizable, [append(1, 0, 10, A), stale], stored(A)) == []


@pytest.mark.parametrize("early", [read(1, 0, 10, 0, A), read_all(1, 0, 10, 1, A), conflict(1, 0, 10, 0)])
def test_nothing_is_seen_before_it_began(early) -> None:
    (found,) = violations(check_linearizable, [early, append(2, 20, 30, A)], stored(A))
    assert "#1 of c1" in found
    assert "#2 of c2" in found


def test_reads_do_not_go_back() -> None:
    unknown = append(1, 0, None, ("a",), outcome="unknown")
    newer, older = read_all(2, 10, 20, 1, A), read_all(3, 30, 40, 0)
    (found,) = violations(check_linearizable, [unknown, newer, older], stored(A))
    assert found.startswith("#2 of c2")
    assert violations(check_linearizable, [unknown, older, newer], stored(A)) != []
    swapped = [unknown, read_all(2, 10, 35, 1, A), older]
    assert violations(check_linearizable, swapped, stored(A)) == []


def test_reads_of_two_streams_agree_on_one_order() -> None:
    """Who has seen position 2 in one stream has passed position 1 in the other."""
    unknown = [
        append(1, 0, None, ("a",), outcome="unknown", stream_id="s"),
        append(2, 0, None, ("b",), outcome="unknown", stream_id="t"),
    ]
    final = stored(A) + stored(("b", 0, 2), stream_id="t")
    reads = [read(3, 10, 20, 0, ("b", 0, 2), stream_id="t"), read(4, 30, 40, -1)]
    (found,) = violations(check_linearizable, [*unknown, *reads], final)
    assert found.startswith("#3 of c3")


def test_a_conflict_tells_a_version_that_was_there_meanwhile() -> None:
    operations = [append(1, 0, 10, A), append(2, 20, 30, B)]
    for actual, begin, end, clean in (
        (0, 12, 15, True),
        (0, 5, 25, True),
        (1, 5, 19, False),
        (0, 31, 40, False),
        (9, 0, 40, False),
    ):
        found = violations(check_linearizable, [*operations, conflict(3, begin, end, actual)], stored(A, B))
        assert (found == []) is clean, (actual, begin, end, found)


def test_what_a_deletion_may_have_taken_is_not_lost() -> None:
    deleted = [append(1, 0, 10, A), delete(2, 20, 30), append(3, 40, 50, B)]
    assert violations(check, deleted, stored(B)) == []
    found = violations(check, [delete(1, 0, 10), append(2, 20, 30, A)], [])
    assert ["is lost" in text for text in found] == [True]
    assert violations(check, [append(1, 0, 10, A), delete(2, 20, 30, outcome="not-applied")], []) != []


def test_a_batch_is_placed_from_its_last_position() -> None:
    sent = (Placed("s", "a"), Placed("s", "b"))
    assert [(event.version, event.position) for event in placed(sent, 3, 9)] == [(3, 8), (4, 9)]


def test_only_so_many_violations_of_a_kind_are_told() -> None:
    operations = [append(n, n * 10, n * 10 + 5, (f"e{n}", n, n + 1)) for n in range(500)]
    found = check(History(operations, []))
    assert len(found) == 21
    assert "and 480 more" in found[-1]


def test_operations_are_read_back_as_they_were_written() -> None:
    operation = append(1, 0, 10, A)
    assert msgspec.json.decode(msgspec.json.encode(operation), type=Operation) == operation


def test_a_hundred_thousand_operations_are_judged_in_seconds() -> None:
    import random

    history = TrueStore(random.Random(1)).run(30_000)
    begun = time.process_time()
    assert check(history) == []
    assert time.process_time() - begun < 10
