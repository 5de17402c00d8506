"""Streams and snapshots, blocking."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, Self, TypeVar

from shoal.store import api
from shoal.sync.loop import LoopThread
from shoal.types import (
    ANY_VERSION,
    Appended,
    AppendedMany,
    CaughtUp,
    Condition,
    Consistency,
    Direction,
    Event,
    EventFilter,
    EventsPage,
    NewEvent,
    Query,
    Snapshot,
    StreamPage,
    StreamsPage,
    StreamWrite,
)

T = TypeVar("T")


class Tail(Iterator[Event | CaughtUp]):
    """A blocking tail: iterate over it; `close` it, or use it as `with`, to let go of the connection."""

    def __init__(self, loop: LoopThread, events: AsyncIterator[Event | CaughtUp]) -> None:
        self._loop = loop
        self._events = events

    def __next__(self) -> Event | CaughtUp:
        try:
            return self._loop.call(self._next())
        except StopAsyncIteration:
            raise StopIteration from None

    async def _next(self) -> Event | CaughtUp:
        return await anext(self._events)

    def close(self) -> None:
        """End the tail; fine when it has ended."""
        close: Callable[[], Awaitable[None]] | None = getattr(self._events, "aclose", None)
        if close is not None:
            self._loop.call(_awaited(close()))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


async def _awaited(awaitable: Awaitable[T]) -> T:
    return await awaitable


class Streams:
    """`shoal.store.api.Streams`, blocking."""

    def __init__(self, loop: LoopThread, streams: api.Streams) -> None:
        self._call = loop.call
        self._loop = loop
        self._streams = streams

    def append(self, stream_id: str, expected_version: int, events: Sequence[NewEvent]) -> Appended:
        return self._call(self._streams.append(stream_id, expected_version, events))

    def append_many(self, writes: Sequence[StreamWrite], condition: Condition | None = None) -> AppendedMany:
        return self._call(self._streams.append_many(writes, condition))

    def read(
        self,
        stream_id: str,
        start: int | None = None,
        count: int = 100,
        direction: Direction = "forward",
        *,
        consistency: Consistency | None = None,
    ) -> list[Event]:
        return self._call(self._streams.read(stream_id, start, count, direction, consistency=consistency))

    def read_page(
        self,
        stream_id: str,
        start: int | None = None,
        count: int = 100,
        direction: Direction = "forward",
        *,
        consistency: Consistency | None = None,
    ) -> StreamPage:
        return self._call(
            self._streams.read_page(stream_id, start, count, direction, consistency=consistency)
        )

    def read_event(self, stream_id: str, version: int, *, consistency: Consistency | None = None) -> Event:
        return self._call(self._streams.read_event(stream_id, version, consistency=consistency))

    def read_all(
        self,
        after: int | None = None,
        count: int = 100,
        direction: Direction = "forward",
        *,
        consistency: Consistency | None = None,
    ) -> list[Event]:
        return self._call(self._streams.read_all(after, count, direction, consistency=consistency))

    def read_by_event_types(
        self,
        types: Sequence[str],
        count: int = 100,
        after: int | None = None,
        *,
        consistency: Consistency | None = None,
    ) -> list[Event]:
        return self._call(self._streams.read_by_event_types(types, count, after, consistency=consistency))

    def read_by_tags(
        self,
        tags: Sequence[str],
        match: Literal["any", "all"] = "any",
        count: int = 100,
        after: int | None = None,
        *,
        consistency: Consistency | None = None,
    ) -> list[Event]:
        return self._call(self._streams.read_by_tags(tags, match, count, after, consistency=consistency))

    def query(
        self,
        query: Query,
        after: int | None = None,
        count: int = 100,
        *,
        consistency: Consistency | None = None,
    ) -> EventsPage:
        return self._call(self._streams.query(query, after, count, consistency=consistency))

    def read_events(
        self,
        selection: EventFilter,
        after: int | None = None,
        count: int = 100,
        direction: Direction = "forward",
        *,
        consistency: Consistency | None = None,
    ) -> EventsPage:
        return self._call(
            self._streams.read_events(selection, after, count, direction, consistency=consistency)
        )

    def tail(self, selection: EventFilter, after: int | None = None, stream_id: str | None = None) -> Tail:
        return Tail(self._loop, self._streams.tail(selection, after, stream_id))

    def find_event(
        self, event_id: str, stream_id: str | None = None, *, consistency: Consistency | None = None
    ) -> Event:
        return self._call(self._streams.find_event(event_id, stream_id, consistency=consistency))

    def get_version(self, stream_id: str, *, consistency: Consistency | None = None) -> int:
        return self._call(self._streams.get_version(stream_id, consistency=consistency))

    def exists(self, stream_id: str, *, consistency: Consistency | None = None) -> bool:
        return self._call(self._streams.exists(stream_id, consistency=consistency))

    def list_streams(
        self,
        prefix: str = "",
        pattern: str | None = None,
        after: str | None = None,
        count: int = 10_000,
        *,
        system: bool = False,
        consistency: Consistency | None = None,
    ) -> list[str]:
        return self._call(
            self._streams.list_streams(prefix, pattern, after, count, system=system, consistency=consistency)
        )

    def list_page(
        self,
        prefix: str = "",
        pattern: str | None = None,
        after: str | None = None,
        count: int = 100,
        *,
        system: bool = False,
        consistency: Consistency | None = None,
    ) -> StreamsPage:
        return self._call(
            self._streams.list_page(prefix, pattern, after, count, system=system, consistency=consistency)
        )

    def delete(self, stream_id: str, *, hard: bool = False, expected_version: int = ANY_VERSION) -> None:
        self._call(self._streams.delete(stream_id, hard=hard, expected_version=expected_version))


class Snapshots:
    """`shoal.store.api.Snapshots`, blocking."""

    def __init__(self, loop: LoopThread, snapshots: api.Snapshots) -> None:
        self._call = loop.call
        self._snapshots = snapshots

    def save(
        self, stream_id: str, version: int, data: Any, metadata: Mapping[str, Any] | None = None
    ) -> None:
        self._call(self._snapshots.save(stream_id, version, data, metadata))

    def load(self, stream_id: str, *, consistency: Consistency | None = None) -> Snapshot:
        return self._call(self._snapshots.load(stream_id, consistency=consistency))

    def load_at(self, stream_id: str, version: int, *, consistency: Consistency | None = None) -> Snapshot:
        return self._call(self._snapshots.load_at(stream_id, version, consistency=consistency))

    def list(self, stream_id: str, *, consistency: Consistency | None = None) -> list[Snapshot]:
        return self._call(self._snapshots.list(stream_id, consistency=consistency))

    def delete(self, stream_id: str) -> None:
        self._call(self._snapshots.delete(stream_id))

    def delete_at(self, stream_id: str, version: int) -> None:
        self._call(self._snapshots.delete_at(stream_id, version))

    def exists(self, stream_id: str, *, consistency: Consistency | None = None) -> bool:
        return self._call(self._snapshots.exists(stream_id, consistency=consistency))

    def exists_at(self, stream_id: str, version: int, *, consistency: Consistency | None = None) -> bool:
        return self._call(self._snapshots.exists_at(stream_id, version, consistency=consistency))
