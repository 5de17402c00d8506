"""A node as a whole: several stores, dropping, truncation of the journal, one process at a time, an orderly end."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from contextlib import suppress

import pytest
from msgspec import structs
from node_kit import SEGMENT, commit, events, everything, opened, segments, settle, small

import shoal
from shoal.config import HttpConfig, StoreConfig
from shoal.errors import (
    ConfigError,
    DataDirLocked,
    InvalidRequest,
    NotFound,
    ShoalError,
    ShuttingDown,
    WrongExpectedVersion,
)
from shoal.model.commands import CreateStore, DropStore
from shoal.node import Node
from shoal.types import ANY_VERSION, NO_STREAM, CaughtUp, EventFilter, NewEvent, StreamWrite

LOCKED = """
import asyncio, sys
from pathlib import Path
from shoal.config import Config
from shoal.errors import DataDirLocked
from shoal.node import Node
async def main():
    try:
        await Node.open(Config(data_dir=Path(sys.argv[1]), telemetry_handlers=()))
    except DataDirLocked as error:
        print("refused:", error)
asyncio.run(main())
"""


def own_threads() -> int:
    return sum(thread.name.startswith("shoal-") for thread in threading.enumerate())


async def test_a_second_process_is_refused(tmp_path):
    async with opened(small(tmp_path)):
        ran = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-c", LOCKED, str(tmp_path)],
            capture_output=True,
            text=True,
            check=True,
        )
    assert ran.stdout.startswith("refused:")
    assert "--data-dir" in ran.stdout
    async with opened(small(tmp_path)):
        pass


async def test_a_store_directory_belongs_to_one_node_too(tmp_path):
    shared = StoreConfig("main", data_dir=tmp_path / "shared")
    async with opened(small(tmp_path / "one", shared)):
        with pytest.raises(DataDirLocked):
            await Node.open(small(tmp_path / "two", shared))


async def test_a_refused_start_leaves_no_thread_and_no_lock(tmp_path):
    async with opened(small(tmp_path)):
        before = own_threads()
        for _ in range(3):
            with pytest.raises(DataDirLocked):
                await Node.open(small(tmp_path))
        assert own_threads() <= before + 1  # a helper may just be starting


async def test_stores_are_apart(tmp_path):
    async with opened(small(tmp_path, "one", "two")) as node:
        for name in ("one", "two"):
            assert await node.store(name).streams.append("s", NO_STREAM, events(2)) == 1
            assert node.store(name).head == 2
        await node.store("one").streams.delete("s")
        live = await everything(node)
        assert live["two"]["head"] == 2
        assert len(live["two"]["events"]) == 2
        assert live["one"]["events"] == []
    async with opened(small(tmp_path, "one", "two")) as node:
        assert await everything(node) == live


async def test_a_dropped_store_is_gone_with_its_file_and_its_name_is_free(tmp_path):
    async with opened(small(tmp_path)) as node:
        store = await node.create_store("extra")
        await store.streams.append("s", NO_STREAM, events(5))
        await store.streams.read("s")
        (path,) = (tmp_path / "db" / "g1").glob("extra-*.db")
        await node.drop_store("extra")
        assert not path.exists()
        with pytest.raises(NotFound):
            node.store("extra")
        with pytest.raises(ShoalError):
            await store.streams.append("s", ANY_VERSION, events(1))
        with pytest.raises(ShoalError):
            await store.streams.list_streams()
        again = await node.create_store("extra")
        assert await again.streams.list_streams() == []
        assert await again.streams.append("s", NO_STREAM, events(1)) == 0
        assert (await again.streams.read_all())[0].position == 1
        await commit(node)
        live = await everything(node)
        assert live["extra"]["head"] == 1
    async with opened(small(tmp_path)) as node:
        assert await everything(node) == live


async def test_a_store_dropped_while_it_is_used_answers_or_refuses(tmp_path):
    async with opened(small(tmp_path)) as node:
        store = await node.create_store("extra")
        await store.streams.append("s", NO_STREAM, events(50))
        await commit(node)
        asked = [
            *(store.streams.append("s", ANY_VERSION, events(1)) for _ in range(20)),
            *(store.streams.read("s") for _ in range(20)),
            *(store.streams.list_streams() for _ in range(5)),
        ]
        found = await asyncio.gather(*asked, node.drop_store("extra"), return_exceptions=True)
        assert [
            each for each in found if isinstance(each, Exception) and not isinstance(each, ShoalError)
        ] == []
        assert not node.failed.done()
        assert await node.store("main").streams.append("s", NO_STREAM, events(1)) == 0


async def test_a_store_dropped_twice_at_once_is_dropped_once_with_all_it_had_open(tmp_path):
    async with opened(small(tmp_path)) as node:
        for consumed in (False, True):  # whether the drop waits for consumers in the middle
            store = await node.create_store("extra")
            await store.streams.append("s", NO_STREAM, events(1))
            await store.subscriptions.create("all", None, "sub")
            if consumed:
                await store.subscriptions.pull("sub")
            readers, (path,) = node._readers["extra"], (tmp_path / "db" / "g1").glob("extra-*.db")
            for each in await asyncio.gather(
                *(node.drop_store("extra") for _ in range(3)), return_exceptions=True
            ):
                assert each is None or isinstance(each, NotFound)
            assert readers._closed
            assert not path.exists()
            assert "extra" not in {*node.stores, *node._readers, *node._stores._contexts}
        with pytest.raises(NotFound):
            await node.drop_store("extra")


async def test_the_journal_stays_short_and_what_is_dropped_is_in_the_database(tmp_path):
    async with opened(small(tmp_path, commit_rows=20)) as node:
        store = node.store("main")
        for _ in range(150):
            await store.streams.append("s", ANY_VERSION, events(1, size=2_000))
        await commit(node)
        for _ in range(200):
            if node._journal.segment_count <= 2:
                break
            await commit(node)
            await asyncio.sleep(0.005)
        assert node._journal.segment_count <= 2
        assert node._journal.stats.segments_dropped >= 3
    assert segments(tmp_path / "journal")[0].name > "0000000000000001.seg"
    async with opened(small(tmp_path)) as node:
        assert [event.version for event in await node.store("main").streams.read("s", count=200)] == list(
            range(150)
        )
        assert (await node.verify()).problems == []


async def test_no_segment_goes_while_a_reader_keeps_the_commit_from_being_durable(tmp_path):
    """A commit alone proves nothing: the checkpoint must have been able to move all of it."""
    async with opened(small(tmp_path)) as node:
        store = node.store("main")
        await store.streams.append("s", NO_STREAM, events(1))
        await commit(node)
        readers = node._readers["main"]
        pin = await asyncio.to_thread(readers._take)
        await asyncio.to_thread(lambda: (pin.execute("BEGIN"), pin.execute("SELECT * FROM event").fetchall()))
        for _ in range(80):
            await store.streams.append("s", ANY_VERSION, events(1, size=2_000))
        for _ in range(3):
            await commit(node)
            await asyncio.sleep(0.01)
        assert node._journal.stats.segments_dropped == 0
        await asyncio.to_thread(pin.close)
        for _ in range(200):
            await commit(node)
            await asyncio.sleep(0.005)
            if node._journal.stats.segments_dropped:
                break
        assert node._journal.stats.segments_dropped > 0


async def test_rows_of_streams_deleted_for_ever_are_removed_by_and_by(tmp_path, monkeypatch):
    monkeypatch.setattr("shoal.storage.store_db.RECLAIM_ROWS", 30)
    monkeypatch.setattr("shoal.storage.writer.RECLAIM_PAUSE_S", 0.001)
    async with opened(small(tmp_path)) as node:
        store = node.store("main")
        await store.streams.append("gone", NO_STREAM, events(100, tags=["t"]))
        await store.streams.append("kept", NO_STREAM, events(2, tags=["t"]))
        await store.streams.delete("gone", hard=True)
        await commit(node)
        count = "SELECT count(*) FROM event"
        for _ in range(500):
            (left,) = await store._context.reader.run(lambda c: c.execute(count).fetchone())
            if left == 2:
                break
            await asyncio.sleep(0.002)
        assert left == 2
        assert [event.stream_id for event in await store.streams.read_by_tags(["t"])] == ["kept", "kept"]
        assert (await node.verify()).problems == []


async def test_a_node_closed_right_after_a_hard_delete_stays_closed(tmp_path, monkeypatch):
    """The timer that goes on removing rows must not start a thread on closed files."""
    monkeypatch.setattr("shoal.storage.writer.RECLAIM_PAUSE_S", 0.01)
    async with opened(small(tmp_path)) as node:
        store = node.store("main")
        await store.streams.append("gone", NO_STREAM, events(10))
        await store.streams.delete("gone", hard=True)
        await commit(node)
        before = threading.active_count()
    await asyncio.sleep(0.03)
    assert not node.failed.done()
    assert threading.active_count() < before


async def test_closing_twice_and_using_it_afterwards(tmp_path):
    node = await Node.open(small(tmp_path))
    store = node.store("main")
    waiting = asyncio.ensure_future(store.wait_for(5, 10_000))
    await asyncio.sleep(0)
    await node.close()
    await node.close()
    with pytest.raises(ShuttingDown):
        await waiting
    streams, snapshots = store.streams, store.snapshots
    for late in (
        streams.append("s", NO_STREAM, events(1)),
        streams.read("s"),
        streams.read_all(),
        streams.get_version("s"),
        streams.find_event("id"),
        streams.list_streams(),
        streams.delete("s"),
        snapshots.save("s", 1, {}),
        snapshots.load("s"),
        snapshots.list("s"),
        snapshots.exists("s"),
        store.aggregate("s"),
    ):
        with pytest.raises(ShuttingDown):
            await late


async def test_a_delete_is_seen_by_reads_that_began_after_it_though_sqlite_commits_meanwhile(tmp_path):
    """The read's snapshot may be older than the commit whose report makes memory forget the delete."""
    async with opened(small(tmp_path)) as node:
        store = node.store("main")
        await store.streams.append("s", NO_STREAM, events(5))
        await commit(node)
        await store.streams.delete("s")
        context = store._context
        found = context.queries.event_rows

        class Slow:
            """The reader answers from before the commit, after the loop has heard of it."""

            def __getattr__(self, name):
                return getattr(context.reader_before, name)

            async def run(self, query, *arguments):
                rows = await context.reader_before.run(query, *arguments)
                await commit(node)
                assert not context.memory.hidden()
                return rows

        context.reader_before, context.reader = context.reader, Slow()
        assert found
        assert (await store.streams.read_events(EventFilter())).events == []
        context.reader = context.reader_before
        await store.streams.append("t", NO_STREAM, events(3))
        await commit(node)
        await store.streams.delete("t")
        context.reader = Slow()
        assert (await store.streams.read_events(EventFilter(), None, 10, "backward")).events == []
        context.reader = context.reader_before


async def test_a_tail_of_one_stream_that_begins_now_gives_only_what_comes(tmp_path):
    async with opened(small(tmp_path)) as node:
        store = node.store("main")
        await store.streams.append("s", NO_STREAM, events(30))
        await commit(node)
        pages = []
        read_page = store.streams._read_page

        async def counted(stream_id, start, count, *, backward):
            page = await read_page(stream_id, start, count, backward=backward)
            pages.append(len(page.events))
            return page

        store.streams._read_page = counted
        tail = store.streams.tail(EventFilter(), None, "s")
        assert await anext(tail) == CaughtUp(30)
        following = asyncio.ensure_future(anext(tail))
        await store.streams.append("other", NO_STREAM, events(1))
        await store.streams.append("s", 29, [NewEvent("new", 1)])
        assert (await following).version == 30
        assert sum(pages) == 1
        await tail.aclose()


async def test_figures_say_what_was_done(tmp_path):
    async with opened(small(tmp_path)) as node:
        store = node.store("main")
        writes = [StreamWrite("a", ANY_VERSION, events(2)), StreamWrite("b", ANY_VERSION, events(1))]
        await store.streams.append_many(writes)
        await settle(node)
        stats, info = node.stats(), node.info()
        assert stats["events_appended_total"] == 3
        assert stats["head_position:main"] == 3
        assert stats["writer_backlog_rows"] == 0
        assert info["commit_index"] == info["applied_index"]
        assert (info["role"], info["disk_full"]) == ("leader", False)
        term = info["term"]
    async with opened(small(tmp_path)) as node:
        assert node.info()["term"] == term + 1
        assert node.info()["incarnation"] == info["incarnation"]
        assert SEGMENT


async def test_stores_made_at_once_keep_to_the_limit_and_the_configured_ones_always_come_back(tmp_path):
    config = structs.replace(small(tmp_path), http=HttpConfig(max_stores=3))
    async with opened(config) as node:
        await node.drop_store("main")
        made = await asyncio.gather(*(node.create_store(f"s{n}") for n in range(9)), return_exceptions=True)
        assert sum(isinstance(each, InvalidRequest) for each in made) == 6
        assert len(node.stores) == 3
    async with opened(config) as node:
        assert set(node.stores) == {"s0", "s1", "s2", "main"}
        with pytest.raises(InvalidRequest, match="at most 3 stores"):
            await node.create_store("more")


async def test_creating_and_dropping_a_store_at_once_ends_in_one_or_the_other(tmp_path):
    async with opened(small(tmp_path)) as node:

        async def again_and_again(change):
            for _ in range(25):
                with suppress(NotFound):
                    await change("a")

        await asyncio.gather(
            *(again_and_again(c) for c in (node.create_store, node.drop_store) for _ in range(3))
        )
        store = await node.create_store("a")
        assert await store.streams.append("s", NO_STREAM, events(1)) == 0


async def turns():
    """Whatever can go on goes on."""
    for _ in range(6):
        await asyncio.sleep(0)


async def test_a_store_made_dropped_and_made_anew_before_its_file_was_there_reads_its_own_file(tmp_path):
    """On a slow card, or a board that catches up, entries are decided long before the writer has taken them."""
    async with opened(small(tmp_path)) as node:
        writer, gates = node._writer_worker, (threading.Event(), threading.Event())
        first_there = asyncio.get_running_loop().create_future()
        try:
            writer.submit(gates[0].wait)
            await node.sequencer.submit(CreateStore("x"), 0)
            await turns()
            writer.submit(lambda: None, first_there.set_result)
            writer.submit(gates[1].wait)
            for command in (DropStore("x"), CreateStore("x")):
                await node.sequencer.submit(command, 0)
            gates[0].set()
            await first_there
            await turns()
        finally:
            for gate in gates:
                gate.set()
        store = await node.create_store("x")
        for version in range(-1, 2):
            await store.streams.append("s", version, events(1))
        await commit(node)
        node.sequencer.stores["x"]._heads.clear()  # as if others had needed the room
        assert len(await store.streams.read("s")) == 3
        assert await store.streams.get_version("s") == 2
        with pytest.raises(WrongExpectedVersion):
            await store.streams.append("s", NO_STREAM, events(1))
        assert len(list((tmp_path / "db" / "g1").glob("x-*.db"))) == 1


async def test_a_store_opened_twice_in_one_process_is_told_so(tmp_path):
    async with shoal.open("main", data_dir=tmp_path):
        with pytest.raises(DataDirLocked, match="open in this process already; close that store first"):
            async with shoal.open("main", data_dir=str(tmp_path)):
                pass
    async with shoal.open("main", data_dir=tmp_path):
        pass


@pytest.mark.parametrize("nothing", ["", "  ", None])
async def test_a_data_directory_without_a_name_is_refused(nothing):
    with pytest.raises(ConfigError, match="data_dir"):
        shoal.open("main", data_dir=nothing)


@pytest.mark.parametrize("direction", ["forward", "backward"])
async def test_of_a_stream_deleted_while_all_are_read_nothing_is_shown(tmp_path, direction):
    """A part of it is in SQLite, which is asked after the delete, and a part in memory, which was taken before."""
    async with opened(small(tmp_path)) as node:
        store = node.store("main")
        for stream, count in (("kept", 1), ("s", 5)):
            await store.streams.append(stream, NO_STREAM, events(count))
        await commit(node)
        await store.streams.append("s", 4, events(2))
        await store.streams.append("kept", 0, events(1))
        context = store._context
        reader = context.reader

        class Slow:
            """Whoever reads waits for it until the stream is deleted."""

            async def run(self, query, *arguments):
                await store.streams.delete("s")
                await commit(node)
                return await reader.run(query, *arguments)

        context.reader = Slow()
        page = await store.streams.read_events(EventFilter(), None, 20, direction)
        context.reader = reader
        assert sorted(event.position for event in page.events) == [1, 9]
        assert page.next == (page.head if direction == "forward" else 1)


async def test_a_commit_that_did_not_hold_the_last_entry_leaves_the_next_one_due(tmp_path):
    """Also an entry without rows, as a delete: else it would wait in the transaction until something else came."""
    async with opened(small(tmp_path)) as node:
        await node.store("main").streams.append("s", NO_STREAM, events(1))
        await commit(node)
        before = node._engine.report()
        assert node._writer._timer is None
        await node.store("main").streams.delete("s")
        await settle(node)
        node._writer._on_committed(before)
        assert node._writer._timer is not None
        await commit(node)
        assert node._writer._timer is None
