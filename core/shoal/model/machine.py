"""The deterministic state machine of a store: a command and what is stored in, a decision out.

Nothing here reads a clock, a file or a random number: the same entries in the same order give the
same decisions on every member and after every restart. What the machine must know of the store it
asks a `View`; the caller fetched that *read set* while the entry was being made durable.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from shoal.errors import (
    ConditionFailed,
    EventIdReused,
    InvalidRequest,
    StreamNotFound,
    StreamTombstoned,
    WrongExpectedVersion,
)
from shoal.ids import unpack
from shoal.model.commands import (
    Append,
    DeleteSnapshots,
    DeleteStream,
    ProposedEvent,
    SaveSnapshot,
    SubscriptionCommand,
    Write,
)
from shoal.model.payload import content_digest
from shoal.model.subscriptions import (
    SubscriptionAnswer,
    SubscriptionChange,
    SubscriptionState,
    decide_subscription,
)
from shoal.types import ANY_VERSION, NO_STREAM, STREAM_EXISTS, Appended, AppendedMany, Query

Row = tuple[str, int, int, bytes | str, str, int, bytes, str | None, bytes | None, str | None, bytes | None]
"""A recorded event in the field order of `shoal.types.Event`, so that `Event(*row)` is the event."""

_encode_tags = msgspec.json.encode
decode_tags = msgspec.json.Decoder(list[str]).decode
"""The tags of a stored row."""


class Head(msgspec.Struct, frozen=True, gc=False):
    """A stream as replicated state: last version ever given, first one that can be read, tombstone."""

    version: int
    visible_from: int = 0
    tombstoned: bool = False

    @property
    def live(self) -> bool:
        """Whether it has events that can be read."""
        return self.visible_from <= self.version and not self.tombstoned

    @property
    def actual(self) -> int:
        """The version users see: -1 when missing or deleted."""
        return self.version if self.live else NO_STREAM


class StoredId(msgspec.Struct, frozen=True, gc=False):
    """Where an event id is in its stream, and the digest of its content."""

    version: int
    position: int
    digest: bytes


class View(Protocol):
    """What a decision may ask about the store as of the entry before."""

    def head(self, stream_id: str) -> Head | None:
        """The stream, or None if it never existed."""

    def stored_id(self, stream_id: str, event_id: bytes | str) -> StoredId | None:
        """The event of that id in the stream, deleted or not."""

    def first_match(self, query: Query, after: int) -> int | None:
        """Lowest position after `after` of a readable event that `query` matches."""

    def subscription(self, name: str) -> SubscriptionState | None:
        """The subscription of that name."""


class StoreState(msgspec.Struct):
    """Replicated per store: last position and last event time given."""

    position: int = 0
    epoch_us: int = 0


class RowsAppended(msgspec.Struct, frozen=True, gc=False):
    """Rows to store; `own` marks the ids callers gave; `heads` are the streams as they are now."""

    rows: list[Row]
    own: list[bool]
    heads: list[tuple[str, Head]]
    reading_us: int


class StreamDeleted(msgspec.Struct, frozen=True, gc=False):
    """A stream's new head after a delete; its snapshots go in both cases."""

    stream_id: str
    head: Head


class SnapshotSaved(msgspec.Struct, frozen=True, gc=False):
    """A snapshot to store, replacing that of the same version."""

    command: SaveSnapshot
    epoch_us: int


class SnapshotsDeleted(msgspec.Struct, frozen=True, gc=False):
    """Snapshots to remove."""

    stream_id: str
    version: int | None


Change = RowsAppended | StreamDeleted | SnapshotSaved | SnapshotsDeleted | SubscriptionChange
StoreCommand = Append | DeleteStream | SaveSnapshot | DeleteSnapshots | SubscriptionCommand


class Decision(msgspec.Struct, frozen=True, gc=False):
    """What an accepted command does to the store (None: nothing), and the answer to its caller."""

    change: Change | None
    result: AppendedMany | SubscriptionAnswer | None


_NOTHING = Decision(None, None)


def decide(state: StoreState, view: View, command: StoreCommand, clock_us: int, reading_us: int) -> Decision:
    """Decide one command, advancing `state` when it is accepted. Raises ShoalError when refused."""
    if isinstance(command, Append):
        return _append(state, view, command, clock_us, reading_us)
    match command:
        case DeleteStream():
            return _delete(view, command)
        case SaveSnapshot():
            return _save_snapshot(state, view, command, clock_us)
        case DeleteSnapshots():
            return Decision(SnapshotsDeleted(command.stream_id, command.version), None)
        case _:
            return Decision(*decide_subscription(state, view, command, clock_us))


def next_epoch_us(state: StoreState, clock_us: int) -> int:
    """Event time: later than every event before, and the leader's clock if that is later still."""
    return max(state.epoch_us + 1, clock_us)


def _append(state: StoreState, view: View, command: Append, clock_us: int, reading_us: int) -> Decision:
    writes = command.writes
    heads: list[Head | None] = []
    own_ids = False
    for write in writes:
        head = view.head(write.stream_id)
        if head is not None and head.tombstoned:
            raise StreamTombstoned(write.stream_id)
        heads.append(head)
        for event in write.events:
            if event.own_id:
                own_ids = True
                break
    if own_ids:
        duplicate = _duplicate_of(view, writes)
        if duplicate is not None:
            return Decision(None, duplicate)
    for write, head in zip(writes, heads):  # noqa: B905 - made together, and `strict` costs
        if write.expected_version != ANY_VERSION:
            _check_version(write, head)
    if command.condition is not None:
        hit = view.first_match(command.condition.query, command.condition.after)
        if hit is not None:
            raise ConditionFailed(hit)
    return _record(state, writes, heads, next_epoch_us(state, clock_us), reading_us)


def _record(
    state: StoreState, writes: list[Write], heads: list[Head | None], epoch_us: int, reading_us: int
) -> Decision:
    rows: list[Row] = []
    own: list[bool] = []
    new_heads: list[tuple[str, Head]] = []
    results: list[Appended] = []
    position = state.position
    for write, head in zip(writes, heads):  # noqa: B905 - made together, and `strict` costs
        stream_id = write.stream_id
        if not write.events:
            actual = NO_STREAM if head is None else head.actual
            results.append(Appended(stream_id, actual + 1, actual, position, False))  # noqa: FBT003
            continue
        first = 0 if head is None else head.version + 1
        version = first
        for event in write.events:
            position += 1
            tags = event.tags
            rows.append(
                (
                    stream_id,
                    version,
                    position,
                    event.event_id,
                    event.event_type,
                    epoch_us,
                    event.data,
                    event.content_type,
                    event.metadata,
                    event.metadata_type,
                    _encode_tags(tags) if tags else None,
                )
            )
            own.append(event.own_id)
            version += 1
        new_heads.append((stream_id, Head(version - 1, 0 if head is None else head.visible_from)))
        results.append(Appended(stream_id, first, version - 1, position, False))  # noqa: FBT003
    if not rows:
        return Decision(None, AppendedMany(position, results))
    state.position = position
    state.epoch_us = epoch_us
    return Decision(RowsAppended(rows, own, new_heads, reading_us), AppendedMany(position, results))


def _check_version(write: Write, head: Head | None) -> None:
    expected = write.expected_version
    if head is not None and head.visible_from <= expected == head.version:
        return  # the usual case; the caller has refused tombstones
    actual = NO_STREAM if head is None else head.actual
    if actual != expected and not (expected == STREAM_EXISTS and actual >= 0):
        raise WrongExpectedVersion(write.stream_id, expected, actual)


def _duplicate_of(view: View, writes: list[Write]) -> AppendedMany | None:
    """The first answer again if every event is already there, None if none is. Raises EventIdReused."""
    results: dict[str, Appended] = {}
    fresh: Write | None = None
    known: tuple[Write, ProposedEvent] | None = None
    for write in writes:
        if not write.events:
            continue
        found = [view.stored_id(write.stream_id, e.event_id) if e.own_id else None for e in write.events]
        if not any(found):
            fresh = write
        else:
            results[write.stream_id] = _same_again(write, found)
            known = (write, write.events[0])
    if known is None:
        return None
    if fresh is not None:
        raise EventIdReused(known[0].stream_id, unpack(known[1].event_id))
    position = max(result.position for result in results.values())
    answers = [
        results[write.stream_id] if write.stream_id in results else _nothing_written(view, write, position)
        for write in writes
    ]
    return AppendedMany(position, answers, duplicate=True)


def _nothing_written(view: View, write: Write, position: int) -> Appended:
    head = view.head(write.stream_id)
    actual = NO_STREAM if head is None else head.actual
    return Appended(write.stream_id, actual + 1, actual, position, duplicate=False)


def _same_again(write: Write, found: list[StoredId | None]) -> Appended:
    first = found[0]
    for offset, (event, stored) in enumerate(zip(write.events, found, strict=True)):
        if (
            stored is None
            or first is None
            or stored.version != first.version + offset
            or stored.digest != digest_of(event)
        ):
            raise EventIdReused(write.stream_id, unpack(event.event_id))
    last = found[-1]
    if first is None or last is None:  # unreachable: the loop above refused it
        raise EventIdReused(write.stream_id, unpack(write.events[0].event_id))
    return Appended(write.stream_id, first.version, last.version, last.position, duplicate=True)


def digest_of(event: ProposedEvent) -> bytes:
    """Digest of an event's content: equal digests, equal events."""
    return content_digest(
        event.event_type, event.data, event.content_type, event.metadata, event.metadata_type, event.tags
    )


def digest_of_row(row: Row) -> bytes:
    """The same of a stored row."""
    tags = None if row[10] is None else decode_tags(row[10])
    return content_digest(row[4], row[6], row[7], row[8], row[9], tags)


def _delete(view: View, command: DeleteStream) -> Decision:
    head = view.head(command.stream_id)
    actual = NO_STREAM if head is None else head.actual
    if command.expected_version != ANY_VERSION:
        _check_version(Write(command.stream_id, command.expected_version, []), head)
    if head is None:
        if not command.hard:
            return _NOTHING
        return Decision(StreamDeleted(command.stream_id, Head(-1, 0, tombstoned=True)), None)
    if head.tombstoned or (actual == NO_STREAM and not command.hard):
        return _NOTHING
    after = Head(head.version, head.version + 1, tombstoned=command.hard)
    return Decision(StreamDeleted(command.stream_id, after), None)


def _save_snapshot(state: StoreState, view: View, command: SaveSnapshot, clock_us: int) -> Decision:
    """A snapshot belongs to one life of its stream; one of a stream or version that is not there yet is kept too.

    Its time is that of the store, and later events are later than it: so it can be told for ever from a state
    that covers the event of its version.
    """
    head = view.head(command.stream_id)
    if head is not None and head.tombstoned:
        raise StreamTombstoned(command.stream_id)
    if head is not None and not head.live:
        raise StreamNotFound(command.stream_id)
    if head is not None and command.version < head.visible_from:
        raise InvalidRequest(
            f"version {command.version} was deleted, the stream begins at {head.visible_from}",
            pointer="version",
        )
    state.epoch_us = max(state.epoch_us, clock_us)
    return Decision(SnapshotSaved(command, state.epoch_us), None)
