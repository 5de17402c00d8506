"""Pool sizes, timeouts and directories of a store have an effect one can see."""

from __future__ import annotations

import asyncio
import threading

import pytest
from msgspec import structs
from node_kit import commit, events, inline, opened, run, settle, small

from shoal.config import StoreConfig
from shoal.errors import InternalError, StorageError, Timeout, TooBusy
from shoal.node import Means
from shoal.storage import queries
from shoal.tagged import Sum
from shoal.testing.clock import FakeClock
from shoal.types import (
    ANY_VERSION,
    NO_STREAM,
    CaughtUp,
    Condition,
    EventFilter,
    Limits,
    NewEvent,
    Query,
    QueryItem,
    StreamWrite,
)


class Gauge:
    """A query that waits, and how many of it ran at once."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.now = self.most = 0
        self.go_on = threading.Event()

    def __call__(self, _connection):
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        self.go_on.wait(5)
        with self.lock:
            self.now -= 1


async def most_at_once(store, count: int, expected: int) -> int:
    gauge = Gauge()
    reads = [asyncio.ensure_future(store._context.reader.run(gauge)) for _ in range(count)]
    for _ in range(500):
        if gauge.now >= expected:
            break
        await asyncio.sleep(0.002)
    await asyncio.sleep(0.02)
    gauge.go_on.set()
    await asyncio.gather(*reads)
    return gauge.most


async def test_reader_pool_size_is_how_many_reads_of_a_store_run_at_once(tmp_path):
    """Each store has its own, though they share the threads: one store's readers leave the others theirs."""
    config = small(tmp_path, StoreConfig("one", reader_pool_size=1), StoreConfig("four", reader_pool_size=4))
    async with opened(config) as node:
        assert await most_at_once(node.store("one"), 6, 1) == 1
        assert await most_at_once(node.store("four"), 6, 4) == 4


def test_the_threads_are_as_many_as_the_largest_pool(tmp_path, nothing_blocks_the_loop):
    asked = {}

    def workers(name, threads):
        asked[name] = threads
        return inline(name, threads)

    async def main():
        stores = (StoreConfig("a", reader_pool_size=2), StoreConfig("b", reader_pool_size=7))
        async with opened(small(tmp_path, *stores), Means(clock=FakeClock(), workers=workers)):
            pass

    nothing_blocks_the_loop.deactivate()
    try:
        run(main())
    finally:
        nothing_blocks_the_loop.activate()
    assert asked["reader"] == 7
    assert asked["journal"] == asked["writer"] == 1


async def test_writer_pool_size_is_how_many_queues_hold_what_waits(tmp_path):
    """One queue that is full refuses the streams of it alone; with one queue it refuses all."""
    stores = (StoreConfig("one", writer_pool_size=1), StoreConfig("many", writer_pool_size=64))
    async with opened(small(tmp_path, *stores, writer_queue_limit=3)) as node:

        async def refused(name):
            store = node.store(name)
            asked = [store.streams.append(f"s{n}", NO_STREAM, events(1)) for n in range(12)]
            found = await asyncio.gather(*asked, return_exceptions=True)
            return sum(isinstance(each, TooBusy) for each in found)

        assert await refused("one") == 9
        assert await refused("many") < 9


SLOW = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM c LIMIT 1000000000) SELECT count(*) FROM c"


async def test_a_read_past_the_stores_timeout_is_interrupted_and_the_connection_serves_on(tmp_path):
    stores = (StoreConfig("quick", timeout_ms=30), StoreConfig("patient", timeout_ms=60_000))
    async with opened(small(tmp_path, *stores)) as node:
        reader = node.store("quick")._context.reader
        with pytest.raises(Timeout, match="ask for less"):
            await reader.run(lambda connection: connection.execute(SLOW).fetchall())
        assert await node.store("quick").streams.list_streams() == []
        slow = asyncio.ensure_future(
            node.store("patient")._context.reader.run(lambda connection: connection.execute(SLOW).fetchall())
        )
        await asyncio.sleep(0.1)
        assert not slow.done()
        slow.cancel()  # its reader is interrupted, or closing would wait for it
        async with asyncio.timeout(5):
            await node.close()


async def test_a_read_on_the_writers_connection_has_a_timeout_too_and_loses_nothing_of_what_is_open(tmp_path):
    async with opened(small(tmp_path, StoreConfig("main", timeout_ms=100))) as node:
        store = node.store("main")
        await store.streams.append("s", NO_STREAM, events(3))
        with pytest.raises(Timeout, match="ask for less"):
            await store._context.read_applied(lambda connection: connection.execute(SLOW).fetchall())
        await store.streams.append("s", 2, events(2))
        await commit(node)
        assert (await store._context.reader.run(queries.head, "s")).version == 4


async def test_a_read_is_answered_in_time_also_while_the_writer_is_busy(tmp_path):
    """A commit on a slow card takes seconds; whoever reads meanwhile is told in time."""
    async with opened(small(tmp_path, StoreConfig("main", timeout_ms=40))) as node:
        busy, ran = threading.Event(), []
        node._writer_worker.submit(lambda: busy.wait(5))
        with pytest.raises(Timeout):
            await node.store("main")._context.read_applied(lambda _connection: ran.append(1))
        busy.set()
        await settle(node)
        assert ran == []


async def test_listing_streams_does_not_wait_for_the_writer(tmp_path):
    async with opened(small(tmp_path)) as node:
        store, busy = node.store("main"), threading.Event()
        await store.streams.append("s", NO_STREAM, events(1))
        node._writer_worker.submit(lambda: busy.wait(5))
        try:
            async with asyncio.timeout(2):
                assert await store.streams.list_streams() == ["s"]
        finally:
            busy.set()


async def test_a_read_that_waits_for_a_slot_past_its_time_does_not_run_at_all(tmp_path):
    config = small(tmp_path, StoreConfig("main", reader_pool_size=1, timeout_ms=40))
    async with opened(config) as node:
        reader = node.store("main")._context.reader
        ran = []
        gauge = Gauge()
        first = asyncio.ensure_future(reader.run(gauge))
        waiting = asyncio.ensure_future(reader.run(lambda _connection: ran.append(1)))
        await asyncio.sleep(0.08)
        gauge.go_on.set()
        for read in (first, waiting):
            with pytest.raises(Timeout):
                await read
        await commit(node)
        assert ran == []
        assert await node.store("main").streams.list_streams() == []


async def test_the_timeout_of_a_store_is_that_of_its_appends(tmp_path):
    clock = FakeClock()
    stores = (StoreConfig("quick", timeout_ms=50), StoreConfig("patient", timeout_ms=60_000))
    async with opened(small(tmp_path, *stores), Means(clock=clock)) as node:
        block = threading.Event()
        node._journal_worker.submit(lambda: block.wait(5))
        appends = [
            node.store(name).streams.append("s", NO_STREAM, events(1)) for name in ("quick", "patient")
        ]
        asked = [asyncio.ensure_future(append) for append in appends]
        await asyncio.sleep(0.01)
        clock.advance(51)
        with pytest.raises(Timeout) as caught:
            await asked[0]
        assert caught.value.outcome == "unknown"
        assert not asked[1].done()
        block.set()
        assert await asked[1] == 0
        assert await node.store("quick").streams.get_version("s") == 0


async def test_a_stores_own_directory_holds_its_file(tmp_path):
    config = small(tmp_path / "data", StoreConfig("main"), StoreConfig("far", data_dir=tmp_path / "far"))
    async with opened(config) as node:
        for name in ("main", "far"):
            await node.store(name).streams.append("s", NO_STREAM, events(3))
        await commit(node)
        assert list((tmp_path / "far" / "db").glob("far-*.db"))
        assert not list((tmp_path / "data" / "db").rglob("far-*.db"))
    async with opened(config) as node:
        assert len(await node.store("far").streams.read("s")) == 3
        await node.drop_store("far")
        assert not list((tmp_path / "far" / "db").glob("far-*.db"))


async def test_the_file_of_another_node_in_a_stores_directory_is_refused(tmp_path):
    far = StoreConfig("main", data_dir=tmp_path / "far")
    async with opened(small(tmp_path / "one", far)) as node:
        await node.store("main").streams.append("s", ANY_VERSION, events(1))
        await settle(node)
    with pytest.raises(StorageError, match="another journal"):
        async with opened(small(tmp_path / "two", far)):
            pass


ENDLESS = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c"


def when_none(kind):
    return Condition(Query((QueryItem((kind,)),)))


@pytest.fixture
def an_endless_condition(monkeypatch):
    """Looking for events of type `endless` never ends by itself."""
    look = queries.first_match

    def first_match(connection, query, *arguments):
        if query.items[0].types == ("endless",):
            connection.execute(ENDLESS).fetchall()
        return look(connection, query, *arguments)

    monkeypatch.setattr(queries, "first_match", first_match)


async def test_appends_do_not_wait_for_readers(tmp_path):
    """Heads and conditions are looked up on threads of their own."""
    async with opened(small(tmp_path, StoreConfig("main", reader_pool_size=2))) as node:
        store = node.store("main")
        await store.streams.append("s", NO_STREAM, events(1))
        await commit(node)
        gauge = Gauge()
        reads = [asyncio.ensure_future(store._context.reader.run(gauge)) for _ in range(6)]
        assert await store.streams.append("new", NO_STREAM, events(1)) == 0
        writes = [StreamWrite("other", NO_STREAM, events(1))]
        assert (await store.streams.append_many(writes, when_none("x"))).position == 3
        assert not any(read.done() for read in reads)
        gauge.go_on.set()
        await asyncio.gather(*reads)


@pytest.mark.usefixtures("an_endless_condition")
async def test_an_expensive_condition_delays_its_own_append_alone_and_that_is_answered_in_time(tmp_path):
    async with opened(small(tmp_path, StoreConfig("main", timeout_ms=400)), Means()) as node:
        streams = node.store("main").streams
        await streams.append("s", NO_STREAM, events(1))
        await commit(node)
        expensive = [
            asyncio.ensure_future(
                streams.append_many([StreamWrite("s", ANY_VERSION, events(1))], when_none("endless"))
            )
            for _ in range(5)
        ]
        for n in range(3):
            assert await streams.append(f"n{n}", NO_STREAM, events(1)) == 0
            await streams.append_many([StreamWrite("s", ANY_VERSION, events(1))], when_none("x"))
        assert not any(append.done() for append in expensive)
        for error in await asyncio.gather(*expensive, return_exceptions=True):
            assert isinstance(error, Timeout)
            assert error.outcome == "not-applied"
        assert await streams.get_version("s") == 3
        assert not node.failed.done()


@pytest.mark.usefixtures("an_endless_condition")
async def test_an_append_that_is_cancelled_leaves_no_search_behind(tmp_path):
    async with opened(small(tmp_path, StoreConfig("main", reader_pool_size=1))) as node:
        streams = node.store("main").streams
        await streams.append("s", NO_STREAM, events(1))
        await commit(node)
        append = asyncio.ensure_future(
            streams.append_many([StreamWrite("s", ANY_VERSION, events(1))], when_none("endless"))
        )
        await asyncio.sleep(0.1)
        append.cancel()
        assert len(await streams.read_all()) == 1  # on the only reader


async def test_a_condition_that_sqlite_refuses_fails_its_append_alone(tmp_path, monkeypatch):
    def refused(connection, *_arguments):
        connection.execute("SELECT nonsense")

    async with opened(small(tmp_path)) as node:
        streams = node.store("main").streams
        await streams.append("s", NO_STREAM, events(1))
        await commit(node)
        monkeypatch.setattr(queries, "first_match", refused)
        with pytest.raises(InternalError):
            await streams.append_many([StreamWrite("s", ANY_VERSION, events(1))], when_none("x"))
        assert await streams.append("s", 0, events(1)) == 1
        assert not node.failed.done()


async def test_small_pages_do_not_keep_folds_and_tails_from_working(tmp_path):
    config = structs.replace(small(tmp_path), limits=Limits(page_events=2))
    async with opened(config) as node:
        store = node.store("main")
        await store.streams.append("s", NO_STREAM, [NewEvent("e", {"n": Sum(1)}) for _ in range(5)])
        for fold in ("left", "right"):
            assert (await store.aggregate("s", fold=fold)).state == {"n": 5}
        for stream_id in (None, "s"):
            tail = store.streams.tail(EventFilter(), 0, stream_id)
            found = [await anext(tail) for _ in range(6)]
            assert [event.version for event in found[:5]] == [0, 1, 2, 3, 4]
            assert isinstance(found[5], CaughtUp)
            await tail.aclose()
