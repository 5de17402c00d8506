"""Judges of a `History`. Each gives its violations, a sentence each that names the operations; none is none.

The store is one log, so linearizability needs no search (Herlihy and Wing, 1990, ask for some order that keeps real
time; here the positions are that order). An event's point in the order is its position; a read or a conflict that told
a head stands right behind it. What was complete before another began must not have a later point.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from shoal.testing.delivery_checks import check_deliveries
from shoal.testing.history import History, Operation, Placed
from shoal.types import ANY_VERSION, NO_STREAM, STREAM_EXISTS

_SHOWN: Final = 20
"""Violations told of one kind: a store that lost a thousand events has one fault."""


def check(history: History) -> list[str]:
    """All violations of all checkers, `_SHOWN` of each at most."""
    found: list[str] = []
    judges = (check_kept, check_unique, check_order, check_expected, check_reads, check_linearizable)
    for judge in (*judges, check_deliveries):
        violations = judge(history)
        found += violations[:_SHOWN]
        if len(violations) > _SHOWN:
            found.append(f"and {len(violations) - _SHOWN:,} more of this kind ({judge.__name__})")
    return found


def check_kept(history: History) -> list[str]:
    """Acknowledged is never lost: each event is there, where its ack said, as it was sent."""
    found = []
    for operation in history.appends:
        if not operation.applied:
            continue
        for event in operation.events:
            kept = history.by_id.get(event.event_id)
            if kept is None:
                if not history.may_be_deleted(event):
                    found.append(f"event {event.event_id} was acknowledged to {operation} and is lost")
            elif kept != event:
                found.append(
                    f"event {event.event_id} was {_difference(event, kept)}, by the ack of {operation}"
                )
    return found


def check_unique(history: History) -> list[str]:
    """No event twice, none that nobody sent or that was answered as not applied, no append by halves."""
    counts = Counter(event.event_id for event in history.final)
    found = [
        f"event {event_id} is there {count} times, sent by {_senders(history, event_id)}"
        for event_id, count in counts.items()
        if count > 1
    ]
    for event in history.by_id.values():
        sent = history.sent.get(event.event_id)
        if sent is None:
            found.append(f"event {event.event_id} at position {event.position} was sent by nobody")
        elif sent.refused:
            found.append(f"event {event.event_id} is there, but {sent.first} was answered as not applied")
        elif not any(_same(event, other) for operation in sent.operations for other in operation.events):
            found.append(f"event {event.event_id} is there with other content than {sent.first} sent")
    for operation in history.appends:
        there = [event for event in operation.events if event.event_id in history.by_id]
        if 0 < len(there) < len(operation.events) and not history.may_be_deleted(operation.events[0]):
            found.append(f"only {len(there)} of {len(operation.events)} events of {operation} are there")
    return found


def check_order(history: History) -> list[str]:
    """Versions are dense in each stream, positions in the store, and both grow in the order of acknowledgements."""
    found = []
    for stream_id, events in history.streams.items():
        first = min(events) if stream_id in history.deletes else 0
        last = max(events)
        found += [
            f"stream {stream_id} has no version {version}, but version {last}"
            for version in range(first, last)
            if version not in events
        ]
        positions = [events[version].position for version in sorted(events)]
        if positions != sorted(positions):
            found.append(f"positions of stream {stream_id} do not grow with its versions")
        twice = sum(event.stream_id == stream_id for event in history.final) - len(events)
        if twice and len(history.by_id) == len(history.final):
            found.append(f"stream {stream_id} has {twice} events with the version of another")
    found += _gaps(history)
    previous = 0
    for event in history.final:
        if event.position <= previous:
            found.append(
                f"event {event.event_id} at position {event.position} stands after position {previous}"
            )
        previous = event.position
    found += [
        f"{earlier.operation} was complete before {later.operation} began, but has position "
        f"{earlier.low // 2}, not one before {later.high // 2:.0f}"
        for earlier, later in _contradictions(_events(history))
    ]
    return found


def check_expected(history: History) -> list[str]:
    """What was appended at an expected version stands right behind it."""
    found = []
    for operation in history.appends:
        if operation.expected_version == ANY_VERSION or operation.outcome == "not-applied":
            continue
        first = history.by_id.get(operation.events[0].event_id)
        if first is None or operation is not _only(history, first.event_id):
            continue
        version, expected = first.version, operation.expected_version
        deleted = first.stream_id in history.deletes
        if expected == STREAM_EXISTS:
            if version == 0:
                found.append(f"{operation} wanted a stream that exists, and has made it")
        elif version != expected + 1 and not (expected == NO_STREAM and deleted):
            found.append(f"{operation} expected version {expected}, and stands at version {version}")
    return found


def check_reads(history: History) -> list[str]:
    """Every read, of whatever consistency, returned what the store has there, in order and without holes."""
    found = []
    for operation in history.operations:
        if operation.applied and operation.kind in {"read", "read_all"}:
            wanted = _range(history, operation)
            for event in operation.events:
                if event.event_id not in history.by_id and history.may_be_deleted(event):
                    continue
                expected = next(wanted, None)
                while expected is not None and expected != event and history.may_be_deleted(expected):
                    expected = next(wanted, None)
                if expected != event and not history.may_be_deleted(event):
                    there = "nothing" if expected is None else _shown(expected)
                    found.append(f"{operation} returned {_shown(event)} where the store has {there}")
                    break
            else:
                rest = next(wanted, None)
                if not operation.events and rest is not None and not history.may_be_deleted(rest):
                    found.append(f"{operation} returned nothing where the store has {_shown(rest)}")
    return found


def check_linearizable(history: History) -> list[str]:
    """Linearizable reads and conflicts fit between what was complete before they began and what began after them."""
    points = [*_events(history), *_observations(history)]
    found = [
        f"{point.operation} told a head that the store never had: {point.told}"
        for point in points
        if point.low > point.high
    ]
    points = [point for point in points if point.low <= point.high]
    for earlier, later in _contradictions(points):
        if earlier.told or later.told:
            found.append(
                f"{earlier.operation}{_telling(earlier)} was complete before {later.operation} began"
                f"{_telling(later)}, which is older"
            )
    return found


@dataclass(frozen=True, slots=True)
class _Point:
    """Where an operation may stand in the order: 2 * position for an event, odd in between."""

    operation: Operation
    low: int
    high: float
    invoked_us: int
    completed_us: float
    told: str = ""


def _events(history: History) -> list[_Point]:
    points = []
    for event in history.by_id.values():
        sent = history.sent.get(event.event_id)
        if sent is not None:
            ack = sent.acked
            done_us = math.inf if ack is None or ack.completed_us is None else ack.completed_us
            place = event.position * 2
            points.append(_Point(ack or sent.first, place, place, sent.first.invoked_us, done_us))
    return points


def _observations(history: History) -> Iterator[_Point]:
    for operation in history.operations:
        done_us = operation.completed_us
        if done_us is None or operation.stream_id in history.deletes:
            continue
        read = operation.applied and operation.consistency == "linearizable"
        if read and operation.kind == "read_all" and operation.position is not None:
            point = operation.position * 2 + 1
            told = f"head {operation.position}"
            yield _Point(operation, point, point, operation.invoked_us, done_us, told)
        elif operation.version is not None and (operation.conflict or (read and operation.kind == "read")):
            stream = history.streams.get(operation.stream_id, {})
            last, following = stream.get(operation.version), stream.get(operation.version + 1)
            low = 1 if last is None else last.position * 2 + 1
            high = math.inf if following is None else following.position * 2 - 1
            if last is None and operation.version != NO_STREAM:
                high = 0  # a version that is not there
            told = f"version {operation.version} of {operation.stream_id}"
            yield _Point(operation, low, high, operation.invoked_us, done_us, told)


def _contradictions(points: Iterable[_Point]) -> Iterator[tuple[_Point, _Point]]:
    """Pairs of which the first was complete before the second began, but cannot stand before it. O(n log n).

    Each point gets the earliest place that real time allows; that all fit means that an order exists.
    """
    running: list[
        tuple[float, int, int, _Point]
    ] = []  # by completion, with the place it got and who forced that
    reached, by = 0, None
    for number, point in enumerate(sorted(points, key=lambda point: point.invoked_us)):
        while running and running[0][0] < point.invoked_us:
            _, _, place, done = heapq.heappop(running)
            if place > reached:
                reached, by = place, done
        if by is not None and reached > point.high:
            yield by, point
            continue
        place, forced = (reached, by) if by is not None and reached > point.low else (point.low, point)
        heapq.heappush(running, (point.completed_us, number, place, forced))


def _gaps(history: History) -> Iterator[str]:
    """Positions that nothing has, and no event of a deleted stream can have had."""
    if not history.final:
        return
    gone = {
        event.position
        for operation in history.appends
        if operation.applied
        for event in operation.events
        if history.may_be_deleted(event)
    }
    unsure = sum(
        sent.acked is None and not sent.refused and event_id not in history.by_id
        for event_id, sent in history.sent.items()
        if any(operation.stream_id in history.deletes for operation in sent.operations)
    )
    last = max(history.by_position)
    missing = [n for n in range(1, last) if n not in history.by_position and n not in gone]
    for position in missing[unsure:]:
        yield f"nothing is at position {position}, but the store goes on to {last}"


def _range(history: History, operation: Operation) -> Iterator[Placed]:
    """What the store has from where the read began to the head it told."""
    if operation.kind == "read":
        stream = history.streams.get(operation.stream_id, {})
        head = -1 if operation.version is None else operation.version
        return (stream[n] for n in range(operation.after, head + 1) if n in stream)
    store, head = history.by_position, operation.position or 0
    return (store[n] for n in range(operation.after + 1, head + 1) if n in store)


def _only(history: History, event_id: str) -> Operation | None:
    """The operation that an event comes from, if one alone sent it."""
    operations = history.sent[event_id].operations
    return operations[0] if len(operations) == 1 else None


def _same(event: Placed, other: Placed) -> bool:
    return (event.stream_id, event.event_id, event.content) == (
        other.stream_id,
        other.event_id,
        other.content,
    )


def _senders(history: History, event_id: str) -> str:
    sent = history.sent.get(event_id)
    return "nobody" if sent is None else " and ".join(map(str, sent.operations))


def _shown(event: Placed) -> str:
    return f"event {event.event_id} ({event.stream_id}@{event.version}, position {event.position})"


def _difference(event: Placed, kept: Placed) -> str:
    parts = [
        f"{name} {getattr(event, name)!r}, is {name} {getattr(kept, name)!r} now"
        for name in ("stream_id", "version", "position", "content")
        if getattr(event, name) != getattr(kept, name)
    ]
    return " and ".join(parts)


def _telling(point: _Point) -> str:
    return f", which told {point.told}," if point.told else f" (position {point.low // 2})"
