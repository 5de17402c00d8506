"""The blocking face of shoal: the same names without `await`, for scripts and threads.

    import shoal.sync

    with shoal.sync.connect("http://127.0.0.1:4589") as store:
        version = store.streams.append("user-123", shoal.NO_STREAM, [shoal.NewEvent("user_created", {})])

An event loop in a thread of its own does the work; any thread may call. Ctrl-C ends the waiting, and
what was being written may then be stored or not, as with every write whose answer does not arrive.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Generic, Literal, Self, TypeVar

from shoal import client
from shoal.errors import ShuttingDown
from shoal.store import api
from shoal.types import (
    ANY_VERSION,
    AggregateResult,
    Appended,
    AppendedMany,
    CaughtUp,
    Condition,
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


class _Call(Generic[T]):
    """A coroutine on its way through the loop; all but `result` belongs to the loop's thread."""

    def __init__(self, coroutine: Coroutine[Any, Any, T]) -> None:
        self.result: Future[T] = Future()
        self._coroutine = coroutine
        self._task: asyncio.Task[T] | None = None
        self._abandoned = False

    def start(self) -> None:
        """Run it."""
        if self._abandoned:
            self._coroutine.close()
            return
        self._task = asyncio.get_running_loop().create_task(self._coroutine)
        self._task.add_done_callback(self._finish)

    def abandon(self) -> None:
        """Nobody waits any more."""
        self._abandoned = True
        if self._task is not None:
            self._task.cancel()

    def _finish(self, task: asyncio.Task[T]) -> None:
        if task.cancelled():
            self.result.cancel()
        elif (error := task.exception()) is not None:
            self.result.set_exception(error)
        else:
            self.result.set_result(task.result())


class LoopThread:
    """An event loop in a thread, for calls from other threads."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()
        self._lock = threading.Lock()
        started: Future[asyncio.AbstractEventLoop] = Future()
        self._thread = threading.Thread(target=self._run, args=(started,), name="shoal.sync", daemon=True)
        self._thread.start()
        self._loop = started.result()

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run `coroutine` on the loop and wait for its result; errors come through unchanged."""
        if threading.current_thread() is self._thread:
            coroutine.close()
            raise RuntimeError("shoal.sync would wait for itself here; use the async store on an event loop")
        call = _Call(coroutine)
        try:
            if not self._submit(call.start):
                coroutine.close()
                raise ShuttingDown("the store is closed; open it again")
            return call.result.result()
        except CancelledError:
            raise ShuttingDown("the store was closed while this call waited", outcome="unknown") from None
        except BaseException:
            # Ctrl-C, wherever it struck; after any other end there is nothing left to abandon.
            self._submit(call.abandon)
            raise

    def _submit(self, callback: Callable[[], None]) -> bool:
        """Have the loop call `callback`; whether there is still a loop."""
        with self._lock:
            if self._loop is not None:
                self._loop.call_soon_threadsafe(callback)
            return self._loop is not None

    def stop(self) -> None:
        """End the loop and its thread; calls that still wait raise ShuttingDown."""
        with self._lock:
            loop, self._loop = self._loop, None
        if loop is not None:
            loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()

    def _run(self, started: Future[asyncio.AbstractEventLoop]) -> None:
        async def until_stopped() -> None:
            started.set_result(asyncio.get_running_loop())
            await self._stop.wait()

        asyncio.run(until_stopped())


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
    ) -> list[Event]:
        return self._call(self._streams.read(stream_id, start, count, direction))

    def read_page(
        self,
        stream_id: str,
        start: int | None = None,
        count: int = 100,
        direction: Direction = "forward",
    ) -> StreamPage:
        return self._call(self._streams.read_page(stream_id, start, count, direction))

    def read_event(self, stream_id: str, version: int) -> Event:
        return self._call(self._streams.read_event(stream_id, version))

    def read_all(
        self, after: int | None = None, count: int = 100, direction: Direction = "forward"
    ) -> list[Event]:
        return self._call(self._streams.read_all(after, count, direction))

    def read_by_event_types(
        self, types: Sequence[str], count: int = 100, after: int | None = None
    ) -> list[Event]:
        return self._call(self._streams.read_by_event_types(types, count, after))

    def read_by_tags(
        self,
        tags: Sequence[str],
        match: Literal["any", "all"] = "any",
        count: int = 100,
        after: int | None = None,
    ) -> list[Event]:
        return self._call(self._streams.read_by_tags(tags, match, count, after))

    def query(self, query: Query, after: int | None = None, count: int = 100) -> EventsPage:
        return self._call(self._streams.query(query, after, count))

    def read_events(
        self,
        selection: EventFilter,
        after: int | None = None,
        count: int = 100,
        direction: Direction = "forward",
    ) -> EventsPage:
        return self._call(self._streams.read_events(selection, after, count, direction))

    def tail(self, selection: EventFilter, after: int | None = None, stream_id: str | None = None) -> Tail:
        return Tail(self._loop, self._streams.tail(selection, after, stream_id))

    def find_event(self, event_id: str, stream_id: str | None = None) -> Event:
        return self._call(self._streams.find_event(event_id, stream_id))

    def get_version(self, stream_id: str) -> int:
        return self._call(self._streams.get_version(stream_id))

    def exists(self, stream_id: str) -> bool:
        return self._call(self._streams.exists(stream_id))

    def list_streams(
        self,
        prefix: str = "",
        pattern: str | None = None,
        after: str | None = None,
        count: int = 10_000,
        *,
        system: bool = False,
    ) -> list[str]:
        return self._call(self._streams.list_streams(prefix, pattern, after, count, system=system))

    def list_page(
        self,
        prefix: str = "",
        pattern: str | None = None,
        after: str | None = None,
        count: int = 100,
        *,
        system: bool = False,
    ) -> StreamsPage:
        return self._call(self._streams.list_page(prefix, pattern, after, count, system=system))

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

    def load(self, stream_id: str) -> Snapshot:
        return self._call(self._snapshots.load(stream_id))

    def load_at(self, stream_id: str, version: int) -> Snapshot:
        return self._call(self._snapshots.load_at(stream_id, version))

    def list(self, stream_id: str) -> list[Snapshot]:
        return self._call(self._snapshots.list(stream_id))

    def delete(self, stream_id: str) -> None:
        self._call(self._snapshots.delete(stream_id))

    def delete_at(self, stream_id: str, version: int) -> None:
        self._call(self._snapshots.delete_at(stream_id, version))

    def exists(self, stream_id: str) -> bool:
        return self._call(self._snapshots.exists(stream_id))

    def exists_at(self, stream_id: str, version: int) -> bool:
        return self._call(self._snapshots.exists_at(stream_id, version))


class Store:
    """A store whose calls wait for their result. Use as `with`, or `close` it."""

    def __init__(self, make: Callable[[], AbstractAsyncContextManager[api.Store]]) -> None:
        self._loop = LoopThread()
        try:
            self._opened = make()
            self._store = self._loop.call(self._opened.__aenter__())
        except BaseException:
            self._loop.stop()
            raise
        self.name = self._store.name
        self.streams = Streams(self._loop, self._store.streams)
        self.snapshots = Snapshots(self._loop, self._store.snapshots)

    def aggregate(
        self,
        stream_id: str,
        *,
        finalize: bool = True,
        fold: Literal["left", "right"] = "left",
        at: int | None = None,
    ) -> AggregateResult:
        return self._loop.call(self._store.aggregate(stream_id, finalize=finalize, fold=fold, at=at))

    def close(self) -> None:
        """Close the store and end the thread; fine when it is closed."""
        try:
            self._loop.call(self._leave())
        except ShuttingDown:
            return
        finally:
            self._loop.stop()

    async def _leave(self) -> None:
        await self._opened.__aexit__(None, None, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def open(name: str = "main", data_dir: str | Path = "./shoal-data", **overrides: Any) -> Store:  # noqa: A001
    """As `shoal.open`, blocking: the store is open when this returns. Raises ShoalError."""
    import shoal

    return Store(lambda: shoal.open(name, data_dir, **overrides))


def connect(*urls: str, **options: Any) -> Store:
    """As `shoal.connect`, blocking."""
    return Store(lambda: client.connect(*urls, **options))
