"""What answers promise: a form that can be read or no effect at all, numbers of any size, pages as configured."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import cbor2
import pytest
from http_board import Board, Reply, configured, running_board

from shoal.errors import NotFound, ShoalError, StorageError, Timeout
from shoal.http import Connections, Service, sse
from shoal.model.cbor import decode_cbor
from shoal.testing.clock import FakeClock
from shoal.testing.memory_node import MemoryNode
from shoal.tokens import TokenFile
from shoal.types import CaughtUp, EventFilter, Limits

pytestmark = pytest.mark.asyncio(loop_scope="module")

EVENT = {"event_type": "t", "data": 1}
TO_CBOR = {"Accept": "application/cbor"}


@asynccontextmanager
async def memory_board(data_dir: Path, node: MemoryNode) -> AsyncIterator[Board]:
    """A board over a store in memory, which a test may break."""
    service = Service(node, configured(data_dir), TokenFile(data_dir), now_ms=lambda: 0)
    connections = Connections(service.handle, limit=9, header_timeout_s=9)
    server = await asyncio.get_running_loop().create_server(connections, "127.0.0.1", 0)
    async with aiohttp.ClientSession() as session:
        yield Board("http://127.0.0.1:%d" % server.sockets[0].getsockname()[1], session)
    server.close()
    await connections.shutdown()


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v1/streams/s", [EVENT]),
        ("POST", "/v1/append", {"writes": [{"stream_id": "s", "events": [EVENT]}]}),
        ("PUT", "/v1/stores/new", None),
    ],
)
async def test_what_cannot_be_answered_takes_no_effect(
    tmp_path: Path, method: str, path: str, body: Any
) -> None:
    async with running_board(tmp_path) as board:
        reply = await board.call(method, path, body, headers={"Accept": "image/png"})
        assert (reply.status, reply.code, reply.json["outcome"]) == (406, "not-acceptable", "not-applied")
        assert (await board.call("GET", "/v1/events")).json["head"] == 0
        assert (await board.call("GET", "/v1/info")).json["stores"] == ["main"]


async def test_a_page_without_a_limit_is_no_larger_than_configured(tmp_path: Path) -> None:
    async with running_board(tmp_path, {"limits.page_events": 3}) as board:
        await board.append("s", *range(5))
        for stream in "abcd":
            await board.append(stream, 1)
        for method, path, body in (
            ("GET", "/v1/streams/s", None),
            ("GET", "/v1/events", None),
            ("POST", "/v1/query", {"items": [{}]}),
            ("GET", "/v1/streams", None),
        ):
            reply = await board.call(method, path, body)
            assert reply.status == 200, reply
            assert len(reply.json.get("events", reply.json.get("streams"))) == 3
        assert "limit=3" in (await board.call("GET", "/v1/streams/s")).headers["Link"]
        refused = await board.call("GET", "/v1/streams/s?limit=4")
        assert refused.code == "invalid-request"
        live = {"Accept": "text/event-stream"}
        async with board.session.get(f"{board.url}/v1/streams/s", headers=live) as tail:
            assert tail.status == 200


async def test_an_integer_of_any_size_comes_back_in_the_form_it_may_be_sent(board: Board) -> None:
    """An answer in CBOR can be sent again as it is."""
    large = [2**64, -(2**64) - 1, 10**4299, 2**63]
    assert (await board.append("s", {"event_type": "t", "data": large})).status == 201
    read = await board.call("GET", "/v1/streams/s/0", headers=TO_CBOR)
    again = decode_cbor(read.body, Limits())["data"]
    assert again == large
    headers = {"Content-Type": "application/cbor"}
    sent = cbor2.dumps([{"event_type": "t", "data": again}])
    assert (await board.call("POST", "/v1/streams/s", sent, headers=headers)).status == 201
    assert (await board.call("GET", "/v1/streams/s/1")).json["data"] == large


@pytest.mark.parametrize("accept", ["application/json", "application/cbor"])
@pytest.mark.parametrize("finalize", ["true", "false"])
async def test_a_sum_beyond_every_reader_is_refused_with_what_to_do(
    board: Board, accept: str, finalize: str
) -> None:
    nines = b"9" * 4300
    event = b'{"event_type":"t","data":{"a":{"$sum":%b},"b":1}}' % nines
    assert (await board.call("POST", "/v1/streams/s", b"[%b,%b]" % (event, event))).status == 201
    path = f"/v1/streams/s/aggregate?finalize={finalize}"
    reply = await board.call("GET", path, headers={"Accept": accept})
    assert (reply.status, reply.code, reply.json["outcome"]) == (400, "invalid-request", "not-applied")
    assert "at=" in reply.json["detail"]
    one = await board.call("GET", f"{path}&at=0", headers={"Accept": accept})
    assert one.status == 200


async def test_a_defect_while_reading_says_that_nothing_was_applied(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(MemoryNode):
        def info(self) -> dict[str, Any]:
            raise LookupError("a defect")

    async with memory_board(tmp_path, Broken(FakeClock())) as board:
        reply = await board.call("GET", "/readyz")
        assert (reply.status, reply.code, reply.json["outcome"]) == (500, "internal-error", "not-applied")
    assert "a defect" in caplog.text


@pytest.mark.parametrize("full", [False, True])
async def test_a_full_disk_is_told_by_a_board_that_is_ready_to_be_read(tmp_path: Path, full: bool) -> None:
    class Filling(MemoryNode):
        def info(self) -> dict[str, Any]:
            return super().info() | {"disk_full": full}

    async with memory_board(tmp_path, Filling(FakeClock())) as board:
        ready = await board.call("GET", "/readyz")
        assert (ready.status, ready.json["status"], ready.json["disk_full"]) == (200, "ready", full)


@pytest.mark.parametrize("error", [StorageError("the card is gone"), Timeout("the card is gone")])
async def test_a_tail_that_the_store_breaks_off_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, error: ShoalError
) -> None:
    """Its head is sent already, so that the answer itself cannot say it."""
    node = MemoryNode(FakeClock())

    async def broken(
        selection: EventFilter, after: int | None = None, stream_id: str | None = None
    ) -> AsyncIterator[Any]:
        yield CaughtUp(0)
        raise error

    monkeypatch.setattr(node.store("main").streams, "tail", broken)
    async with memory_board(tmp_path, node) as board:
        with (
            caplog.at_level(logging.WARNING, "shoal.http.service"),
            pytest.raises(aiohttp.ClientPayloadError),
        ):
            await _tail(board)
    assert "GET /v1/events" in caplog.text
    assert "the card is gone" in caplog.text


async def test_the_tail_of_a_dropped_store_ends_without_a_fuss(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = MemoryNode(FakeClock())

    async def dropped(*_: Any) -> AsyncIterator[Any]:
        yield CaughtUp(0)
        raise NotFound("store 'main' does not exist", store="main")

    monkeypatch.setattr(node.store("main").streams, "tail", dropped)
    async with memory_board(tmp_path, node) as board:
        with caplog.at_level(logging.WARNING, "shoal.http.service"):
            await _tail(board)
    assert not caplog.text


async def test_a_tail_that_the_store_refuses_at_once_gets_a_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = MemoryNode(FakeClock())

    async def refused(
        selection: EventFilter, after: int | None = None, stream_id: str | None = None
    ) -> AsyncIterator[Any]:
        raise Timeout("the card is busy")
        yield

    monkeypatch.setattr(node.store("main").streams, "tail", refused)
    monkeypatch.setattr(sse, "_FIRST_S", 5)
    async with memory_board(tmp_path, node) as board:
        reply = await _tail(board)
    assert (reply.status, reply.code) == (503, "timeout")


async def _tail(board: Board) -> Reply:
    return await board.call("GET", "/v1/events", headers={"Accept": "text/event-stream"})
