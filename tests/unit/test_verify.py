"""Verification while a node runs, and of its files afterwards: what it counts, and that it says where."""

from __future__ import annotations

import asyncio

import apsw
import pytest
from node_kit import commit, events, image, opened, small, submit

from shoal.errors import JournalCorrupt, ShuttingDown, StorageError
from shoal.model.commands import CreateSubscription, Definition
from shoal.storage.verify import Verification, verify, verify_file
from shoal.storage.verify_store import MAX_PROBLEMS
from shoal.types import NO_STREAM, SubscriptionOptions


async def test_a_whole_directory_is_counted_and_good(tmp_path):
    async with opened(small(tmp_path, "main", "other")) as node:
        await node.store("main").streams.append("s", NO_STREAM, events(5, tags=["a", "b"]))
        await node.store("other").streams.append("t", NO_STREAM, events(2))
        await node.store("main").snapshots.save("s", 1, {})
        definition = Definition("all", b"{}", "beginning")
        await submit(
            node.store("main"), CreateSubscription("main", "mail", definition, SubscriptionOptions(), [])
        )
        running = await node.verify()
        assert (running.ok, running.stores, running.streams, running.events) == (True, 2, 2, 7)
        assert running.subscriptions == 1
    found = await asyncio.to_thread(verify, tmp_path)
    assert found.ok
    assert (found.stores, found.streams, found.events, found.snapshots) == (2, 2, 7, 1)
    assert found.subscriptions == 1
    assert found.segments == 1
    assert found.records >= 5


async def test_it_says_where(tmp_path):
    async with opened(small(tmp_path)) as node:
        await node.store("main").streams.append("s", NO_STREAM, events(5))
        await commit(node)
    (path,) = (tmp_path / "db" / "g1").glob("main-*.db")
    connection = apsw.Connection(str(path))
    connection.execute("UPDATE event SET data = x'31' WHERE version = 3")
    connection.close()
    found = await asyncio.to_thread(verify, tmp_path)
    assert [(problem.where, problem.what) for problem in found.problems] == [
        ("store main, stream 's', version 3", "the event is not what was stored")
    ]


def segment_files(tmp_path):
    return sorted((tmp_path / "journal").glob("*.seg"))


async def killed_with_segments(tmp_path):
    """A directory as a killed node leaves it: several segments, and nothing of the last entries in SQLite."""
    live, killed = tmp_path / "live", tmp_path / "killed"
    async with opened(small(live)) as node:
        store = node.store("main")
        await commit(node)
        for _ in range(60):
            await store.streams.append("s", -2, events(1, size=8_000))
        image(live, killed)
    assert len(segment_files(killed)) > 3
    return killed


@pytest.mark.parametrize("gone", ["first", "middle", "last", "all"])
async def test_a_missing_segment_is_found_as_a_start_finds_it(tmp_path, gone):
    killed = await killed_with_segments(tmp_path)
    files = segment_files(killed)
    for path in {"first": files[:1], "middle": files[2:3], "last": files[-1:], "all": files}[gone]:
        path.unlink()
    found = await asyncio.to_thread(verify, killed)
    refused = False
    try:
        async with opened(small(killed)):
            pass
    except (StorageError, JournalCorrupt):
        refused = True
    assert refused is (gone != "last")  # a lost last segment cannot be told from one that never was
    assert found.ok is not refused


async def test_what_only_the_journal_has_is_counted_and_no_problem(tmp_path):
    killed = await killed_with_segments(tmp_path)
    found = await asyncio.to_thread(verify, killed)
    assert found.ok
    assert (found.events, found.pending) == (0, 60)
    async with opened(small(killed)):
        pass
    found = await asyncio.to_thread(verify, killed)
    assert found.ok
    assert (found.events, found.pending) == (60, 0)


async def test_a_torn_tail_is_a_note_and_a_cut_file_a_problem(tmp_path):
    killed = await killed_with_segments(tmp_path)
    last = segment_files(killed)[-1]
    data = last.read_bytes()
    end = len(data.rstrip(b"\0"))
    last.write_bytes(data[: end - 40] + bytes(40) + data[end:])
    found = await asyncio.to_thread(verify, killed)
    assert found.ok
    assert "was not written whole" in found.notes[0]
    last.write_bytes(data[: end - 40])
    found = await asyncio.to_thread(verify, killed)
    assert "shorter than it was made" in found.problems[0].what


async def test_a_verification_ends_when_the_node_closes(tmp_path, monkeypatch):
    monkeypatch.setattr("shoal.storage.verify_store.SLICE_ROWS", 1)
    async with opened(small(tmp_path)) as node:
        await node.store("main").streams.append("s", NO_STREAM, events(5_000))
        verifying = asyncio.ensure_future(node.verify())
        await commit(node)
        async with asyncio.timeout(10):
            await node.close()
            with pytest.raises(ShuttingDown):
                await verifying


async def test_a_store_that_is_dropped_while_it_is_verified_is_no_damaged_one(tmp_path, monkeypatch):
    async with opened(small(tmp_path)) as node:
        await node.create_store("gone")
        await node.store("gone").streams.append("s", NO_STREAM, events(1))
        loop, going = asyncio.get_running_loop(), []

        def dropped_meanwhile(path, name, found, **options):
            if name == "gone":
                asyncio.run_coroutine_threadsafe(drop(), loop).result(10)
                assert not path.exists()
            going.append(name)
            verify_file(path, name, found, **options)

        async def drop():
            await node.drop_store("gone")
            await commit(node)

        monkeypatch.setattr("shoal.node.verify_file", dropped_meanwhile)
        found = await node.verify()
        assert sorted(going) == ["gone", "main"]
        assert (found.problems, found.stores) == ([], 1)


async def test_a_verification_beside_appends_and_deletes_finds_nothing(tmp_path, monkeypatch):
    """Slices are snapshots of their own: what comes and goes between them is no damage."""
    monkeypatch.setattr("shoal.storage.verify_store.SLICE_ROWS", 7)
    monkeypatch.setattr("shoal.storage.store_db.RECLAIM_ROWS", 3)
    async with opened(small(tmp_path)) as node:
        streams = node.store("main").streams
        for n in range(4):
            await streams.append(f"s{n}", NO_STREAM, events(50, tags=["a", f"b{n}"]))
        verifying = asyncio.ensure_future(node.verify())
        for n in range(40):
            await streams.append(f"s{n % 4}", -4 if n < 20 else -2, events(3, tags=["a", "c"]))
            if n == 20:
                await streams.delete("s1")
                await streams.append("gone", NO_STREAM, events(9, tags=["a"]))
                await streams.delete("gone", hard=True)
            await commit(node)
        assert (await verifying).problems == []
        assert (await node.verify()).problems == []


def test_a_file_that_is_no_database_is_a_problem(tmp_path):
    (tmp_path / "main-1.db").write_bytes(b"no database at all" * 500)
    found = Verification()
    verify_file(tmp_path / "main-1.db", "main", found)
    assert not found.ok


def test_problems_are_bounded():
    found = Verification()
    for number in range(2 * MAX_PROBLEMS):
        found.add("here", str(number))
    assert len(found.problems) == MAX_PROBLEMS


def test_a_store_that_goes_between_two_looks_is_told_and_ends_no_verification(tmp_path, monkeypatch):
    path = tmp_path / "gone-1.db"
    monkeypatch.setattr("shoal.storage.verify.open_connection", lambda *_, **__: apsw.Connection(":memory:"))
    found = Verification()
    verify_file(path, "gone", found, running=True)
    assert len(found.problems) == 1
