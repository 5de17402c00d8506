"""Reads off the loop: a pool of read-only connections per store, and the writer's connection.

A read that runs longer than the store's timeout is interrupted, so that no reader pins the WAL for long.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import apsw

from shoal.errors import DatabaseCorrupt, NotFound, ShoalError, ShuttingDown, Timeout
from shoal.storage import queries
from shoal.storage.database import open_connection
from shoal.storage.engine import fetch_one
from shoal.storage.store_db import StoreDb, is_corrupt
from shoal.storage.workers import Submits, Worker
from shoal.store.ports import Hit, Need, ReadSet, Search

T = TypeVar("T")
READER_CACHE_BYTES = 512 * 1024
BRIEF_MS = 25
PROGRESS_STEPS = 20_000
"""Of SQLite's virtual machine, between two looks at the clock: about half a millisecond."""


class _Running:
    """A query under way: its connection while it runs, so that `expire` interrupts it and no later one."""

    __slots__ = ("_connection", "_expired", "_lock")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._connection: apsw.Connection | None = None
        self._expired = False

    def begin(self, connection: apsw.Connection) -> None:
        """The query runs on this connection from now on."""
        with self._lock:
            self._connection = connection
            if self._expired:
                raise apsw.InterruptError("it waited for a reader until its time was over")

    def end(self) -> None:
        """The query is over."""
        with self._lock:
            self._connection = None

    def expire(self) -> None:
        """End the query, now or when it begins."""
        with self._lock:
            self._expired = True
            if self._connection is not None:
                self._connection.interrupt()


class StoreReaders:
    """Read connections of one store, made by the threads that use them. See shoal.store.ports.Reader."""

    def __init__(
        self,
        path: Path,
        *,
        pool: Worker,
        pool_size: int,
        writer: Submits,
        store: Callable[[], StoreDb | None],
        timeout_ms: int,
        failed: Callable[[BaseException], None],
        vfs: str | None = None,
    ) -> None:
        self._path = path
        self._pool = pool
        self._writer = writer
        self._store = store
        self._timeout_ms = timeout_ms
        self._failed = failed
        self._vfs = vfs
        self._slots = asyncio.Semaphore(pool_size)
        self._idle: list[apsw.Connection] = []
        self._lock = threading.Lock()
        self._closed = False
        self._loop = asyncio.get_running_loop()
        self.reads = 0

    # -- the port --------------------------------------------------------------------------------

    async def run(self, query: Callable[..., T], *arguments: Any) -> T:
        """See shoal.store.ports.Reader."""
        async with self._in_time() as running, self._slots:
            return await self._await(self._pool, partial(self._read, running, query, arguments))

    async def run_briefly(
        self, worker: Submits, budget_ms: int, query: Callable[..., T], *arguments: Any
    ) -> T:
        """As `run`, on a thread of `worker`. Raises apsw.InterruptError once it has run for `budget_ms`."""
        async with self._in_time() as running:
            return await self._await(
                worker, partial(self._read, running, query, arguments, budget_ms=budget_ms)
            )

    async def run_on_writer(self, query: Callable[..., T], *arguments: Any) -> T:
        """See shoal.store.ports.Reader."""
        async with self._in_time() as running:
            return await self._await(self._writer, partial(self._read_on_writer, running, query, arguments))

    @asynccontextmanager
    async def _in_time(self) -> AsyncIterator[_Running]:
        """Waiting for a thread counts; a query that nobody waits for any more is ended. Raises Timeout."""
        running = _Running()
        try:
            async with asyncio.timeout(self._timeout_ms / 1_000):
                yield running
        except TimeoutError as error:
            raise Timeout("the read took longer than the store's timeout; ask for less at a time") from error
        finally:
            running.expire()

    async def _await(self, worker: Submits, job: Callable[[], T]) -> T:
        self._require_open()
        self.reads += 1
        future: asyncio.Future[Any] = self._loop.create_future()
        worker.submit(job, partial(_settle, future))
        try:
            result: T = await future
        except apsw.Error as error:
            if self._closed or self._store() is None:  # and its files went while it was read
                raise self._gone() from error
            if not is_corrupt(error):
                raise
            damaged = DatabaseCorrupt(
                f"{self._path}: {error}. Restart the node: it rebuilds the file if it can"
            )
            self._failed(damaged)
            raise damaged from error
        else:
            return result

    def _require_open(self) -> None:
        if self._closed:
            raise self._gone()

    def _gone(self) -> ShoalError:
        """Why nothing can be read any more."""
        if self._store() is None:
            return NotFound("the store was dropped")
        return ShuttingDown("the store is closed")

    def _read(
        self,
        running: _Running,
        query: Callable[..., T],
        arguments: Sequence[Any],
        *,
        budget_ms: int | None = None,
    ) -> T:
        connection = self._take()
        try:
            running.begin(connection)
            with _limited(connection, budget_ms), _one_snapshot(connection):
                return query(connection, *arguments)
        finally:
            running.end()
            self._give(connection)

    def _read_on_writer(self, running: _Running, query: Callable[..., T], arguments: Sequence[Any]) -> T:
        store = self._store()
        if store is None:
            raise self._gone()
        connection = (
            store.connection
        )  # what was kept back is written: only the read itself may be interrupted
        try:
            running.begin(connection)
            return query(connection, *arguments)
        finally:
            running.end()

    # -- connections -----------------------------------------------------------------------------

    def _take(self) -> apsw.Connection:
        with self._lock:
            if self._idle:
                return self._idle.pop()
        return open_connection(self._path, cache_bytes=READER_CACHE_BYTES, vfs=self._vfs, read_only=True)

    def _give(self, connection: apsw.Connection) -> None:
        with self._lock:
            if not self._closed:
                self._idle.append(connection)
                return
        connection.close()

    def fetch(self, need: Need) -> ReadSet:
        """A read set from what is committed; runs on a reader thread."""
        connection = self._take()
        try:
            with _one_snapshot(connection):
                return fetch_one(connection, need)
        finally:
            self._give(connection)

    def close(self) -> None:
        """Close the connections, those in use when their read is over."""
        with self._lock:
            self._closed = True
            for connection in self._idle:
                connection.close()
            self._idle.clear()


@contextmanager
def _limited(connection: apsw.Connection, budget_ms: int | None) -> Iterator[None]:
    """Statements inside are interrupted when they have run for `budget_ms` together (None: never)."""
    if budget_ms is None:
        yield
        return
    end = time.monotonic() + budget_ms / 1_000
    connection.set_progress_handler(lambda: time.monotonic() > end, PROGRESS_STEPS)
    try:
        yield
    finally:
        connection.set_progress_handler(None)


@contextmanager
def _one_snapshot(connection: apsw.Connection) -> Iterator[None]:
    """All statements inside see the same commit."""
    connection.execute("BEGIN")
    try:
        yield
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _settle(future: asyncio.Future[Any], outcome: Any) -> None:
    if future.done():
        return
    if isinstance(outcome, BaseException):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)


class _EngineFetch(Protocol):
    def fetch(self, needs: Sequence[Need]) -> dict[str, ReadSet]: ...


class ReadSetFetcher:
    """See shoal.store.ports.Fetcher. `pool` and `conditions` are threads that no user's read is queued for.

    A condition is looked up on the one thread of `conditions` for `BRIEF_MS` at most. One that takes longer goes
    to the store's readers, as the expensive read that it is: quick ones do not wait behind it.
    """

    def __init__(
        self,
        readers: dict[str, StoreReaders],
        *,
        pool: Worker,
        conditions: Worker,
        writer: Submits,
        engine: _EngineFetch,
    ) -> None:
        self._readers = readers
        self._pool = pool
        self._conditions = conditions
        self._writer = writer
        self._engine = engine

    def fetch(
        self, needs: Sequence[Need], done: Callable[[dict[str, ReadSet] | BaseException], None]
    ) -> None:
        """See shoal.store.ports.Fetcher."""
        if any(need.store not in self._readers for need in needs):
            self._writer.submit(lambda: self._engine.fetch(needs), done)
        else:
            self._pool.submit(
                lambda: {need.store: self._readers[need.store].fetch(need) for need in needs}, done
            )

    async def first_match(self, search: Search) -> Hit | None:
        """See shoal.store.ports.Fetcher."""
        readers = self._readers.get(search.store)
        if readers is None:
            raise NotFound(f"store {search.store!r} does not exist", store=search.store)
        arguments = (search.query, search.low, search.high, search.hidden)
        try:
            return await readers.run_briefly(self._conditions, BRIEF_MS, queries.first_match, *arguments)
        except apsw.InterruptError:
            return await readers.run(queries.first_match, *arguments)
