"""`consistency` and `wait_for` of reads: the store settles once, before anything is read, then reads what is there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest
from http_board import Board, configured, running_board

from shoal.errors import NoLeader
from shoal.http.connections import Connections
from shoal.http.params import ReadQuery
from shoal.http.service import ROUTES, Service
from shoal.testing.clock import FakeClock
from shoal.testing.memory_node import MemoryNode
from shoal.tokens import TokenFile

READS = sorted(
    {
        (route.method, route.path)
        for route in ROUTES
        if issubclass(route.query, ReadQuery) and "subscriptions" not in route.path
    }
)
"""Subscriptions are read from the state that is settled; the interface of the store has no choice there."""
BODIES = {"/query": {"items": [{"types": ["t"]}]}}
TAKES_NOTHING_FROM_HERE = {"append_proposed", "save_encoded", "tail"}


class Noting:
    """Passes calls on, and writes down the name of each with the consistency that it asks for."""

    def __init__(self, part: Any, seen: list[tuple[str, str | None]]) -> None:
        self._part = part
        self._seen = seen

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*args: Any, **given: Any) -> Any:
            if name not in TAKES_NOTHING_FROM_HERE:
                self._seen.append((name, given.get("consistency")))
            return getattr(self._part, name)(*args, **given)

        return call


class Noted(NamedTuple):
    """A board, and what its store was asked for."""

    board: Board
    node: Any
    store: Any
    seen: list[tuple[str, str | None]]


@asynccontextmanager
async def noted_board(data_dir: Path) -> AsyncIterator[Noted]:
    node = MemoryNode(FakeClock())
    store: Any = node.store("main")
    seen: list[tuple[str, str | None]] = []
    settle, aggregate = store.settle_reads, store.aggregate

    async def settle_reads(consistency: str | None) -> None:
        seen.append(("settle", consistency))
        await settle(consistency)

    async def fold(*args: Any, **given: Any) -> Any:
        result = await aggregate(*args, **given)
        seen[1:] = [("aggregate", given.get("consistency"))]  # how it reads is the store's affair
        return result

    store.settle_reads, store.aggregate = settle_reads, fold
    store.streams, store.snapshots = Noting(store.streams, seen), Noting(store.snapshots, seen)
    service = Service(node, configured(data_dir), TokenFile(data_dir), now_ms=lambda: 0)
    connections = Connections(service.handle, limit=9, header_timeout_s=9)
    server = await asyncio.get_running_loop().create_server(connections, "127.0.0.1", 0)
    with closing(server):
        async with aiohttp.ClientSession() as session:
            board = Board("http://127.0.0.1:%d" % server.sockets[0].getsockname()[1], session)
            assert (await board.append("s", {"event_type": "t", "data": 1, "event_id": "e"})).status == 201
            assert (await board.call("PUT", "/v1/streams/s/snapshots/0", {"data": {}})).status == 204
            seen.clear()
            yield Noted(board, node, store, seen)
        await connections.shutdown()


async def read(board: Board, method: str, path: str, query: str, **settings: Any) -> Any:
    ids = {"stream_id": "s", "version": "0", "event_id": "e"}
    return await board.call(method, f"/v1{path.format(**ids)}?{query}", BODIES.get(path), **settings)


@pytest.mark.parametrize(("method", "path"), READS)
@pytest.mark.parametrize("consistency", ["local", "leader", "linearizable"])
async def test_every_read_settles_first_and_once(
    tmp_path: Path, method: str, path: str, consistency: str
) -> None:
    async with noted_board(tmp_path) as noted:
        reply = await read(noted.board, method, path, f"consistency={consistency}")
        assert reply.status == 200
        first, *others = noted.seen
        assert first == ("settle", consistency)
        assert others
        assert {asked for _, asked in others} == {"local"}


async def test_without_a_word_it_is_as_new_as_the_leader(tmp_path: Path) -> None:
    async with noted_board(tmp_path) as noted:
        await read(noted.board, "GET", "/streams/{stream_id}", "limit=1")
        assert noted.seen[0] == ("settle", "leader")


async def test_lines_are_read_from_what_is_settled(tmp_path: Path) -> None:
    async with noted_board(tmp_path) as noted:
        headers = {"Accept": "application/x-ndjson"}
        path = "/streams/{stream_id}"
        reply = await read(noted.board, "GET", path, "consistency=linearizable", headers=headers)
        assert reply.body.count(b"\n") == 2
        assert noted.seen == [("settle", "linearizable"), ("read_page", "local")]


@pytest.mark.parametrize(("method", "path"), READS)
async def test_no_read_answers_what_cannot_be_settled(tmp_path: Path, method: str, path: str) -> None:
    async with noted_board(tmp_path) as noted:

        async def nobody_leads(_consistency: str | None) -> None:
            raise NoLeader("nobody leads", leader=None)

        noted.store.settle_reads = nobody_leads
        reply = await read(noted.board, method, path, "consistency=leader")
        assert reply.status == 503
        assert method == "HEAD" or reply.code == "no-leader"
        assert "Retry-After" in reply.headers
        assert noted.seen == []


async def test_a_position_is_waited_for_before_the_leader_is_asked(tmp_path: Path) -> None:
    async with noted_board(tmp_path) as noted:
        reply = await read(noted.board, "GET", "/events", "wait_for=2&wait_ms=1&consistency=leader")
        assert (reply.status, reply.code) == (503, "timeout")
        assert noted.seen == []
        waiting = asyncio.create_task(read(noted.board, "GET", "/events", "wait_for=2&consistency=leader"))
        await noted.board.append("s", 2)
        assert len((await waiting).json["events"]) == 2


async def test_a_live_answer_begins_with_what_is_settled(tmp_path: Path) -> None:
    async with noted_board(tmp_path) as noted:
        for more in ("", "&from=1"):
            noted.seen.clear()
            url = f"{noted.board.url}/v1/streams/s?consistency=linearizable{more}"
            async with noted.board.session.get(url, headers={"Accept": "text/event-stream"}) as answer:
                assert answer.status == 200
            assert noted.seen[0] == ("settle", "linearizable")
            assert {asked for _, asked in noted.seen[1:]} == {"local"}


async def test_why_a_stream_has_no_version_is_read_from_what_is_settled(tmp_path: Path) -> None:
    async with noted_board(tmp_path) as noted:
        assert (await noted.board.call("HEAD", "/v1/streams/missing?consistency=leader")).status == 404
        assert noted.seen == [("settle", "leader"), ("get_version", "local"), ("read_page", "local")]


STORE_ROUTES = [
    ("GET", "/new"),
    ("GET", "/new/streams/s"),
    ("GET", "/new/events?consistency=linearizable"),
    ("POST", "/new/streams/s"),
    ("PUT", "/new/subscriptions/q"),
    ("DELETE", "/new"),
]


@pytest.mark.parametrize(("method", "path"), STORE_ROUTES)
async def test_a_store_that_is_not_here_may_be_at_the_leader(tmp_path: Path, method: str, path: str) -> None:
    async with noted_board(tmp_path) as noted:
        looked: list[str] = []

        async def comes(name: str) -> None:
            looked.append(name)
            store = await noted.node.create_store(name)
            await store.streams.append("s", -1, [])

        async def nobody_leads(_name: str) -> None:
            raise NoLeader("nobody leads")

        noted.node.look_for = nobody_leads
        reply = await noted.board.call(method, f"/v1/stores{path}")
        assert (reply.status, reply.code) == (503, "no-leader")
        noted.node.look_for = comes
        reply = await noted.board.call(method, f"/v1/stores{path}")
        assert looked == ["new"]
        assert reply.status < 300 or "store" not in reply.json
        assert (await noted.board.call("GET", "/v1/stores/other/streams?consistency=local")).status == 404
        assert looked == ["new"]


async def test_a_word_that_is_no_consistency_is_answered_with_those_that_are(tmp_path: Path) -> None:
    async with running_board(tmp_path) as board:
        refused = await board.call("GET", "/v1/streams/s?consistency=exact")
        assert (refused.code, refused.json["pointer"]) == ("invalid-request", "consistency")
        assert "it is one of leader, linearizable, local" in refused.json["detail"]
