"""The judge of what a subscription delivered finds what is wrong, and nothing else."""

from __future__ import annotations

from history_kit import append, stored

from shoal.testing.delivery_checks import check_deliveries
from shoal.testing.history import DRAIN, History, Operation

EVENTS = [("e0", 0, 1), ("e1", 1, 2), ("e2", 2, 3)]
STORED = stored(*EVENTS)
APPENDS = [append(n, n, n + 1, event) for n, event in enumerate(EVENTS)]


def did(number, kind, events, client="consumer-1", outcome="applied"):
    done = number if outcome == "applied" else None
    return Operation(
        number=number,
        client=client,
        kind=kind,
        invoked_us=number,
        completed_us=done,
        outcome=outcome,
        events=tuple(events),
    )


def judged(*operations):
    return check_deliveries(History([*APPENDS, *operations], STORED))


def test_all_is_well_when_each_event_came_though_some_twice() -> None:
    pulls = [did(10, "pull", STORED[:2]), did(11, "ack", STORED[:1]), did(12, "pull", STORED[:2])]
    assert judged(*pulls, did(13, "pull", STORED[1:], DRAIN)) == []


def test_without_a_drain_it_is_not_known_what_was_left_out() -> None:
    assert judged(did(10, "pull", STORED[:1])) == []
    assert judged() == []


def test_an_event_that_was_left_out_is_found() -> None:
    (found,) = judged(did(10, "pull", STORED[:1]), did(11, "pull", STORED[2:], DRAIN))
    assert "event e1 at position 2 was delivered to nobody" in found


def test_an_event_that_the_store_does_not_have_is_found() -> None:
    (other,) = stored(("e7", 7, 8))
    (found,) = judged(did(10, "pull", [other]))
    assert "which the store does not have" in found


def test_what_was_settled_must_not_come_again_once_all_is_healed() -> None:
    pulls = [did(10, "pull", STORED), did(11, "ack", STORED[:1]), did(12, "pull", STORED, DRAIN)]
    (found,) = judged(*pulls)
    assert "event e0 was settled by #11 of consumer-1" in found
    unanswered = did(11, "ack", STORED[:1], outcome="unknown")
    assert judged(pulls[0], unanswered, pulls[2]) == []
