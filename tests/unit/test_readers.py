"""Readers: one snapshot per read, connections that come back, errors that say what to do."""

from __future__ import annotations

import asyncio

import apsw
import pytest
from node_kit import commit, events, opened, small

from shoal.errors import DatabaseCorrupt, NotFound, ShuttingDown
from shoal.storage.writer import Writer
from shoal.types import ANY_VERSION, NO_STREAM


async def test_all_statements_of_a_read_see_the_same_commit(tmp_path):
    """A page is chosen by one statement and fetched by another; rows that go in between would end it too early."""
    async with opened(small(tmp_path)) as node:
        store = node.store("main")
        await store.streams.append("s", NO_STREAM, events(3))
        await commit(node)
        loop = asyncio.get_running_loop()

        def twice(connection):
            count = "SELECT count(*) FROM event"
            (before,) = connection.execute(count).fetchone()
            asyncio.run_coroutine_threadsafe(more(), loop).result(5)
            (after,) = connection.execute(count).fetchone()
            return before, after

        async def more():
            await store.streams.append("s", ANY_VERSION, events(3))
            await commit(node)

        assert await store._context.reader.run(twice) == (3, 3)
        assert await store._context.reader.run(
            lambda c: c.execute("SELECT count(*) FROM event").fetchone()
        ) == (6,)


async def test_a_connection_is_used_again_also_after_an_error(tmp_path):
    async with opened(small(tmp_path)) as node:
        reader = node.store("main")._context.reader
        await commit(node)
        first = await reader.run(lambda connection: connection)
        with pytest.raises(apsw.SQLError):
            await reader.run(lambda connection: connection.execute("SELECT nonsense"))
        assert await reader.run(lambda connection: connection) is first
        assert not first.in_transaction


async def test_a_reading_connection_cannot_write(tmp_path):
    async with opened(small(tmp_path)) as node:
        await commit(node)
        with pytest.raises(apsw.ReadOnlyError):
            await node.store("main")._context.reader.run(lambda c: c.execute("DELETE FROM event"))


async def test_damage_is_told_to_the_node_and_to_the_caller(tmp_path):
    def damaged(_connection):
        raise apsw.CorruptError("malformed")

    async with opened(small(tmp_path)) as node:
        with pytest.raises(DatabaseCorrupt, match="Restart the node"):
            await node.store("main")._context.reader.run(damaged)
        assert isinstance(node.failed.exception(), DatabaseCorrupt)


async def test_reads_of_a_dropped_store_say_so(tmp_path):
    async with opened(small(tmp_path)) as node:
        reader = (await node.create_store("extra"))._context.reader
        await node.drop_store("extra")
        with pytest.raises(NotFound):
            await reader.run_on_writer(lambda connection: connection.execute("SELECT 1").fetchall())


async def test_reads_of_a_closed_store_say_so_also_those_under_way(tmp_path):
    def interrupted(_connection):
        reader.close()
        raise apsw.CantOpenError("the files are closed")

    async with opened(small(tmp_path)) as node:
        reader = node.store("main")._context.reader
        with pytest.raises(ShuttingDown):
            await reader.run(interrupted)
        for late in (reader.run, reader.run_on_writer):
            with pytest.raises(ShuttingDown):
                await late(lambda connection: connection)


async def test_a_read_on_the_writers_connection_sees_what_is_not_committed(tmp_path):
    async with opened(small(tmp_path)) as node:
        store = node.store("main")
        await store.streams.append("s", NO_STREAM, events(3))
        count = "SELECT (SELECT count(*) FROM event), (SELECT version FROM stream)"
        found = await store._context.read_applied(lambda connection: connection.execute(count).fetchone())
        assert found == (3, 2)
        assert isinstance(node._writer, Writer)
        assert node.stats()["database_commits_total"] <= 1
