"""A store in memory: the real state machine over plain lists, no journal, no database.

It keeps the promises of `shoal.store.api` except durability, and offers what the HTTP layer needs beside them, so
that HTTP can be tested without a disk. Every read is a scan: for hundreds of events, not millions.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self

from shoal.clock import Clock
from shoal.errors import Ambiguous, NotFound, StreamNotFound, StreamTombstoned, Timeout
from shoal.ids import EventIds, pack
from shoal.model import aggregates
from shoal.model.commands import Append, DeleteSnapshots, DeleteStream, SaveSnapshot, Write
from shoal.model.machine import (
    Head,
    Row,
    RowsAppended,
    SnapshotSaved,
    SnapshotsDeleted,
    StoreCommand,
    StoredId,
    StoreState,
    StreamDeleted,
    decide,
    decode_tags,
    digest_of_row,
)
from shoal.model.payload import check_stream_id, encode_metadata, encode_value, prepare_all
from shoal.model.query import (
    check_condition,
    check_filter,
    compile_filter,
    compile_query,
    query_filter,
    tags_filter,
    types_filter,
)
from shoal.model.subscriptions import (
    SubscriptionAnswer,
    SubscriptionChanged,
    SubscriptionDeleted,
    SubscriptionState,
)
from shoal.types import (
    ANY_VERSION,
    MAX_VERSION,
    AggregateResult,
    Appended,
    AppendedMany,
    CaughtUp,
    Condition,
    Consistency,
    Direction,
    Event,
    EventFilter,
    EventsPage,
    Limits,
    NewEvent,
    Query,
    Snapshot,
    StreamInfo,
    StreamPage,
    StreamsPage,
    StreamWrite,
)
from shoal.wildcard import compile_wildcard

if TYPE_CHECKING:
    from shoal.http.context import ServedSubscriptions


class _Memory:
    """The rows and heads, and the state machine's view of them."""

    def __init__(self, name: str, clock: Clock) -> None:
        self.name = name
        self.clock = clock
        self.state = StoreState()
        self.rows: list[Row] = []
        self.heads: dict[str, Head] = {}
        self.saved: dict[tuple[str, int], Snapshot] = {}
        self.subscriptions: dict[str, SubscriptionState] = {}
        self.grown = asyncio.Condition()
        self.changes = 0

    def head(self, stream_id: str) -> Head | None:
        return self.heads.get(stream_id)

    def stored_id(self, stream_id: str, event_id: bytes | str) -> StoredId | None:
        for row in self.rows:
            if row[0] == stream_id and row[3] == event_id:
                return StoredId(row[1], row[2], digest_of_row(row))
        return None

    def first_match(self, query: Query, after: int) -> int | None:
        matches = compile_query(query)
        return next((row[2] for row in self.readable() if row[2] > after and _selected(matches, row)), None)

    def subscription(self, name: str) -> SubscriptionState | None:
        return self.subscriptions.get(name)

    def readable(self) -> list[Row]:
        """Rows of live streams, by position."""
        return [row for row in self.rows if self.visible(row)]

    def visible(self, row: Row) -> bool:
        head = self.heads[row[0]]
        return head.live and row[1] >= head.visible_from

    async def run(self, command: StoreCommand) -> AppendedMany | SubscriptionAnswer | None:
        """Decide and apply one command, and wake who waits for events."""
        now_us = self.clock.wall().epoch_us
        decision = decide(self.state, self, command, now_us, now_us)
        match decision.change:
            case RowsAppended(rows=rows, heads=heads):
                self.rows.extend(rows)
                self.heads.update(heads)
            case StreamDeleted(stream_id=stream_id, head=head):
                self.heads[stream_id] = head
                self.forget(stream_id, None)
            case SnapshotSaved(command=saved, epoch_us=epoch_us):
                self.saved[saved.stream_id, saved.version] = Snapshot(
                    saved.stream_id,
                    saved.version,
                    epoch_us,
                    saved.data,
                    saved.content_type,
                    saved.metadata,
                    saved.metadata_type,
                )
            case SnapshotsDeleted(stream_id=stream_id, version=version):
                self.forget(stream_id, version)
            case SubscriptionChanged(state=state):
                self.subscriptions[state.name] = state
            case SubscriptionDeleted(name=name):
                self.subscriptions.pop(name, None)
        async with self.grown:
            self.changes += 1
            self.grown.notify_all()
        return decision.result

    def forget(self, stream_id: str, version: int | None) -> None:
        """Remove one snapshot of a stream, or all."""
        for key in [key for key in self.saved if key[0] == stream_id and version in (None, key[1])]:
            del self.saved[key]


def _selected(matches: Callable[[str, str, Sequence[str]], bool], row: Row) -> bool:
    return matches(row[0], row[4], () if row[10] is None else decode_tags(row[10]))


class MemoryStreams:
    """`shoal.store.api.Streams` over plain lists."""

    def __init__(self, memory: _Memory, limits: Limits) -> None:
        self._memory = memory
        self._limits = limits
        self._ids = EventIds(now_ms=lambda: memory.clock.wall().epoch_us // 1000)

    async def append(self, stream_id: str, expected_version: int, events: Sequence[NewEvent]) -> Appended:
        many = await self.append_many([StreamWrite(stream_id, expected_version, events)])
        return many.results[0]

    async def append_many(
        self, writes: Sequence[StreamWrite], condition: Condition | None = None
    ) -> AppendedMany:
        for write in writes:
            check_stream_id(write.stream_id, self._limits)
        prepared = [
            Write(write.stream_id, write.expected_version, prepare_all(write.events, self._limits, self._ids))
            for write in writes
        ]
        return await self.append_proposed(prepared, condition)

    async def append_proposed(self, writes: list[Write], condition: Condition | None = None) -> AppendedMany:
        """Append what is checked and encoded already."""
        if condition is not None:
            condition = check_condition(condition, self._limits)
        result = await self._memory.run(Append(self._memory.name, writes, condition))
        if not isinstance(result, AppendedMany):
            raise AssertionError("an append always has a result")  # noqa: TRY004 - no caller's mistake
        return result

    async def read(self, stream_id: str, *window: Any, **given: Any) -> list[Event]:
        return (await self.read_page(stream_id, *window, **given)).events

    async def read_page(
        self,
        stream_id: str,
        start: int | None = None,
        count: int = 100,
        direction: Direction = "forward",
        **_: Any,
    ) -> StreamPage:
        head = self._head(stream_id)
        rows = [row for row in self._memory.readable() if row[0] == stream_id]
        if direction == "forward":
            rows = [row for row in rows if row[1] >= (start or 0)]
        else:
            rows = [row for row in reversed(rows) if start is None or row[1] <= start]
        following = rows[count][1] if len(rows) > count else None
        return StreamPage(stream_id, head.version, [Event(*row) for row in rows[:count]], following)

    async def read_event(self, stream_id: str, version: int, **_: Any) -> Event:
        self._head(stream_id)
        for row in self._memory.readable():
            if row[0] == stream_id and row[1] == version:
                return Event(*row)
        raise NotFound(f"stream {stream_id!r} has no event {version}", stream_id=stream_id, version=version)

    def _head(self, stream_id: str) -> Head:
        head = self._memory.head(stream_id)
        if head is not None and head.tombstoned:
            raise StreamTombstoned(stream_id)
        if head is None or not head.live:
            raise StreamNotFound(stream_id)
        return head

    async def read_all(self, *window: Any, **given: Any) -> list[Event]:
        return (await self.read_events(EventFilter(), *window, **given)).events

    async def read_by_event_types(
        self, types: Sequence[str], count: int = 100, after: int | None = None, **_: Any
    ) -> list[Event]:
        return (await self.read_events(types_filter(types), after, count)).events

    async def read_by_tags(
        self,
        tags: Sequence[str],
        match: Literal["any", "all"] = "any",
        count: int = 100,
        after: int | None = None,
        **_: Any,
    ) -> list[Event]:
        return (await self.read_events(tags_filter(tags, match), after, count)).events

    async def query(self, query: Query, after: int | None = None, count: int = 100, **_: Any) -> EventsPage:
        return await self.read_events(query_filter(query), after, count)

    async def read_events(
        self,
        selection: EventFilter,
        after: int | None = None,
        count: int = 100,
        direction: Direction = "forward",
        **_: Any,
    ) -> EventsPage:
        matches = compile_filter(check_filter(selection, self._limits))
        head = self._memory.state.position
        rows = [row for row in self._memory.readable() if _selected(matches, row)]
        if direction == "forward":
            start, end = after or 0, head
            rows = [row for row in rows if row[2] > start]
        else:
            start, end = MAX_VERSION if after is None else after, 1
            rows = [row for row in reversed(rows) if row[2] < start]
        following = rows[count - 1][2] if len(rows) > count else end
        return EventsPage([Event(*row) for row in rows[:count]], head, following)

    async def tail(
        self, selection: EventFilter, after: int | None = None, stream_id: str | None = None
    ) -> AsyncIterator[Event | CaughtUp]:
        memory, matches = self._memory, compile_filter(check_filter(selection, self._limits))
        position = memory.state.position if after is None else after
        caught_up = False
        while True:
            if stream_id is not None and (gone := memory.head(stream_id)) is not None and gone.tombstoned:
                raise StreamTombstoned(stream_id)
            changes = memory.changes
            for row in memory.readable():
                if row[2] > position and stream_id in (None, row[0]) and _selected(matches, row):
                    yield Event(*row)
            position = max(position, memory.state.position)
            if not caught_up:
                caught_up = True
                yield CaughtUp(position)
            async with memory.grown:
                while memory.changes == changes:
                    await memory.grown.wait()

    async def find_event(self, event_id: str, stream_id: str | None = None, **_: Any) -> Event:
        packed = pack(event_id)
        found = [row for row in self._memory.readable() if row[3] == packed and stream_id in (None, row[0])]
        if not found:
            raise NotFound(f"no event has the id {event_id!r}", event_id=event_id)
        if len(found) > 1:
            candidates = [{"stream_id": row[0], "version": row[1]} for row in found]
            raise Ambiguous(f"{len(found)} streams hold the id {event_id!r}", candidates=candidates)
        return Event(*found[0])

    async def get_version(self, stream_id: str, **_: Any) -> int:
        head = self._memory.head(stream_id)
        return -1 if head is None else head.actual

    async def exists(self, stream_id: str, **_: Any) -> bool:
        return await self.get_version(stream_id) >= 0

    async def list_streams(self, *window: Any, **given: Any) -> list[str]:
        page = await self.list_page(*window, **given)
        return [info.stream_id for info in page.streams]

    async def list_page(
        self,
        prefix: str = "",
        pattern: str | None = None,
        after: str | None = None,
        count: int = 100,
        *,
        system: bool = False,
        **_: Any,
    ) -> StreamsPage:
        matches = compile_wildcard("*" if pattern is None else pattern)
        found = [
            StreamInfo(stream_id, head.version)
            for stream_id, head in sorted(self._memory.heads.items(), key=lambda item: item[0].encode())
            if head.live
            and stream_id.startswith(prefix)
            and matches(stream_id)
            and (system or not stream_id.startswith("$"))
            and (after is None or stream_id.encode() > after.encode())
        ]
        return StreamsPage(found[:count], found[count - 1].stream_id if len(found) > count else None)

    async def delete(
        self, stream_id: str, *, hard: bool = False, expected_version: int = ANY_VERSION
    ) -> None:
        check_stream_id(stream_id, self._limits)
        await self._memory.run(DeleteStream(self._memory.name, stream_id, expected_version, hard))


class MemorySnapshots:
    """`shoal.store.api.Snapshots` over a dict."""

    def __init__(self, memory: _Memory, limits: Limits) -> None:
        self._memory = memory
        self._limits = limits

    async def save(
        self, stream_id: str, version: int, data: Any, metadata: Mapping[str, Any] | None = None
    ) -> None:
        raw, content_type = encode_value(data, self._limits, "/data")
        metadata_raw, metadata_type = encode_metadata(metadata, self._limits)
        await self.save_encoded(
            SaveSnapshot(
                self._memory.name, stream_id, version, raw, content_type, metadata_raw, metadata_type
            )
        )

    async def save_encoded(self, command: SaveSnapshot) -> None:
        """Save a snapshot whose payload is checked and encoded already."""
        await self._memory.run(command)

    async def load(self, stream_id: str, **_: Any) -> Snapshot:
        found = await self.list(stream_id)
        if not found:
            raise NotFound(f"stream {stream_id!r} has no snapshot", stream_id=stream_id)
        return found[-1]

    async def load_at(self, stream_id: str, version: int, **_: Any) -> Snapshot:
        try:
            return self._memory.saved[stream_id, version]
        except KeyError:
            raise NotFound(
                f"stream {stream_id!r} has no snapshot at {version}", stream_id=stream_id, version=version
            ) from None

    async def list(self, stream_id: str, **_: Any) -> list[Snapshot]:
        return [self._memory.saved[key] for key in sorted(self._memory.saved) if key[0] == stream_id]

    async def delete(self, stream_id: str) -> None:
        await self._memory.run(DeleteSnapshots(self._memory.name, stream_id))

    async def delete_at(self, stream_id: str, version: int) -> None:
        await self._memory.run(DeleteSnapshots(self._memory.name, stream_id, version))

    async def exists(self, stream_id: str, **_: Any) -> bool:
        return bool(await self.list(stream_id))

    async def exists_at(self, stream_id: str, version: int, **_: Any) -> bool:
        return (stream_id, version) in self._memory.saved


class MemoryStore:
    """`shoal.store.api.Store` in memory. It has no `subscriptions` but those that a test gives it."""

    subscriptions: ServedSubscriptions

    def __init__(self, name: str, clock: Clock, limits: Limits | None = None) -> None:
        limits = limits or Limits()
        self.name = name
        self._memory = _Memory(name, clock)
        self.streams = MemoryStreams(self._memory, limits)
        self.snapshots = MemorySnapshots(self._memory, limits)

    @property
    def head(self) -> int:
        """The last position assigned."""
        return self._memory.state.position

    async def wait_for(self, position: int, timeout_ms: int) -> None:
        """Until `position` is there. Raises Timeout."""
        memory = self._memory
        try:
            async with asyncio.timeout(timeout_ms / 1000), memory.grown:
                await memory.grown.wait_for(lambda: memory.state.position >= position)
        except TimeoutError:
            raise Timeout(f"position {position} did not come within {timeout_ms} ms") from None

    async def settle_reads(self, consistency: Consistency | None) -> None:
        """Everything is here."""

    async def aggregate(
        self,
        stream_id: str,
        *,
        finalize: bool = True,
        fold: Literal["left", "right"] = "left",
        at: int | None = None,
        **_: Any,
    ) -> AggregateResult:
        page = await self.streams.read_page(stream_id, 0, MAX_VERSION)
        events = [event for event in page.events if at is None or event.version <= at]
        state = (aggregates.foldl if fold == "left" else aggregates.foldr)(events)
        version = events[-1].version if events else -1
        return AggregateResult(version, aggregates.finalize(state) if finalize else state)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        """There is nothing to close."""
