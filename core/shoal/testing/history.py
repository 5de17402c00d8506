"""What clients did and saw, and what the store held at the end: a history, to be judged by `history_checks`.

An operation is one call, one answer. Whoever repeats a call records another operation, with the same event ids.
Times are microseconds of one monotonic clock; `completed_us` is None for a call whose answer never came.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Literal

import msgspec

from shoal.errors import Outcome
from shoal.types import ANY_VERSION

Kind = Literal["append", "read", "read_all", "delete", "subscribe", "pull", "ack"]
Consistency = Literal["local", "leader", "linearizable"]

DRAIN = "drain"
"""The client who takes what a subscription has left, when all is healed."""

CONFLICT = "wrong-expected-version"
"""The `error` of an append whose answer told the stream's version."""


class Placed(msgspec.Struct, frozen=True):
    """An event and its place; version -1 and position 0 where the place is not known."""

    stream_id: str
    event_id: str
    content: str = ""
    version: int = -1
    position: int = 0


class Operation(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One call.

    `events` are what an append sent (placed, once answered), what a read or a pull returned, or what an ack settles.
    `version` is the stream's head as the answer told it: after an append, by a read, or as the actual one of a
    conflict; None without. `position` is that of an append's last event, or the head that a `read_all` told. `after`
    is where a read began: the first version of a `read`, the position before the first of a `read_all`.
    """

    number: int
    client: str
    kind: Kind
    invoked_us: int
    completed_us: int | None = None
    outcome: Outcome = "unknown"
    stream_id: str = ""
    events: tuple[Placed, ...] = ()
    expected_version: int = ANY_VERSION
    version: int | None = None
    position: int | None = None
    consistency: Consistency = "local"
    after: int = 0
    error: str = ""
    node: str = ""

    @property
    def applied(self) -> bool:
        """Whether the answer said that it was done."""
        return self.outcome == "applied" and self.completed_us is not None

    @property
    def conflict(self) -> bool:
        """Whether it is an append refused for the stream's version, which the answer told."""
        return self.error == CONFLICT and self.version is not None and self.completed_us is not None

    def __str__(self) -> str:
        ids = ", ".join(event.event_id for event in self.events[:3]) if self.kind == "append" else ""
        what = " ".join(filter(None, (self.kind.replace("_", " "), self.stream_id, ids and f"[{ids}]")))
        end = "no answer" if self.completed_us is None else f"{self.completed_us / 1e6:.6f} s"
        return f"#{self.number} of {self.client} ({what}, {self.invoked_us / 1e6:.6f} s to {end})"


def placed(events: Sequence[Placed], first_version: int, position: int) -> tuple[Placed, ...]:
    """The events of one append to one stream at their places; `position` is that of the last."""
    first_position = position - len(events) + 1
    return tuple(
        msgspec.structs.replace(event, version=first_version + number, position=first_position + number)
        for number, event in enumerate(events)
    )


class Sent:
    """What all operations that sent one event id say of it together."""

    def __init__(self, operations: Sequence[Operation]) -> None:
        self.operations = operations
        self.first = min(operations, key=lambda operation: operation.invoked_us)
        acks = [operation for operation in operations if operation.applied]
        self.acked = min(acks, key=lambda operation: operation.completed_us or 0) if acks else None
        self.refused = all(operation.outcome == "not-applied" for operation in operations)


class History:
    """Operations and the final store, its events in the order in which they were read, with what follows from both."""

    def __init__(self, operations: Iterable[Operation], final: Iterable[Placed]) -> None:
        self.operations = sorted(operations, key=lambda operation: (operation.invoked_us, operation.number))
        self.final = list(final)

    @cached_property
    def appends(self) -> list[Operation]:
        """Appends that sent something."""
        return [operation for operation in self.operations if operation.kind == "append" and operation.events]

    @cached_property
    def sent(self) -> dict[str, Sent]:
        """By event id."""
        found: defaultdict[str, list[Operation]] = defaultdict(list)
        for operation in self.appends:
            for event in operation.events:
                found[event.event_id].append(operation)
        return {event_id: Sent(operations) for event_id, operations in found.items()}

    @cached_property
    def by_id(self) -> dict[str, Placed]:
        """The final events by id, the first where an id is there twice."""
        found: dict[str, Placed] = {}
        for event in self.final:
            found.setdefault(event.event_id, event)
        return found

    @cached_property
    def by_position(self) -> dict[int, Placed]:
        """The final events by position."""
        return {event.position: event for event in self.final}

    @cached_property
    def streams(self) -> dict[str, dict[int, Placed]]:
        """The final events by stream and version."""
        found: defaultdict[str, dict[int, Placed]] = defaultdict(dict)
        for event in self.final:
            found[event.stream_id][event.version] = event
        return dict(found)

    @cached_property
    def deletes(self) -> dict[str, list[Operation]]:
        """By stream, the deletions that were or may have been applied."""
        found: defaultdict[str, list[Operation]] = defaultdict(list)
        for operation in self.operations:
            if operation.kind == "delete" and operation.outcome != "not-applied":
                found[operation.stream_id].append(operation)
        return dict(found)

    def may_be_deleted(self, event: Placed) -> bool:
        """Whether a deletion of its stream may have come after the append of `event`."""
        sent = self.sent.get(event.event_id)
        begun_us = 0 if sent is None else sent.first.invoked_us
        return any(
            delete.outcome == "unknown" or delete.completed_us is None or delete.completed_us >= begun_us
            for delete in self.deletes.get(event.stream_id, ())
        )
