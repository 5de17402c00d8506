"""Verification while a node runs, and of its files afterwards: what it counts, and that it says where."""

from __future__ import annotations

import asyncio

import apsw
from node_kit import commit, events, opened, small

from shoal.storage.verify import MAX_PROBLEMS, Verification, verify, verify_file
from shoal.types import NO_STREAM


async def test_a_whole_directory_is_counted_and_good(tmp_path):
    async with opened(small(tmp_path, "main", "other")) as node:
        await node.store("main").streams.append("s", NO_STREAM, events(5, tags=["a", "b"]))
        await node.store("other").streams.append("t", NO_STREAM, events(2))
        await node.store("main").snapshots.save("s", 1, {})
        running = await node.verify()
        assert (running.ok, running.stores, running.streams, running.events) == (True, 2, 2, 7)
    found = await asyncio.to_thread(verify, tmp_path)
    assert found.ok
    assert (found.stores, found.streams, found.events, found.snapshots) == (2, 2, 7, 1)
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
