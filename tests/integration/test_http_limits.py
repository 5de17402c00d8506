"""Clients that are slow, too many, too big, or speak no HTTP: the board answers or closes, and stores nothing."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from aiohttp import web
from http_board import Board, running_board

from shoal.http.connections import Connection, Connections

pytestmark = pytest.mark.asyncio(loop_scope="module")

DEADLINES = {"http.header_timeout_ms": 150, "http.body_timeout_ms": 150}
HEAD = b"POST /v1/streams/s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
EVENT = b'[{"event_type":"t","data":1}]'


async def nothing_stored(board: Board) -> bool:
    """Whether the store is still empty, and the board still answers."""
    reply = await board.call("GET", "/v1/events")
    return reply.status == 200 and reply.json["head"] == 0


@pytest.mark.parametrize(
    "sent",
    [b"", b"G", b"GET /livez HTTP/1.1\r\nHost: x\r\n", HEAD + b"X: 1\r\n", b"\r\n\r\n"],
)
async def test_a_head_that_does_not_arrive_in_time_is_not_waited_for(tmp_path: Path, sent: bytes) -> None:
    async with running_board(tmp_path, DEADLINES) as board:
        began = time.monotonic()
        assert await asyncio.wait_for(board.raw(sent), 5) == b""
        assert time.monotonic() - began >= 0.1
        assert await nothing_stored(board)


async def test_a_head_sent_drop_by_drop_has_one_deadline(tmp_path: Path) -> None:
    """Each drop is early enough, all together are too late."""
    async with running_board(tmp_path, DEADLINES) as board:
        reader, writer = await asyncio.open_connection(*board.address)
        closed = asyncio.create_task(reader.read())
        began = time.monotonic()
        for byte in HEAD * 4:
            writer.write(bytes((byte,)))
            done, _ = await asyncio.wait({closed}, timeout=0.01)
            if done:
                break
        assert closed.done()
        assert time.monotonic() - began < 2
        writer.close()


async def test_a_second_request_has_its_own_deadline(tmp_path: Path) -> None:
    """An idle connection is kept longer than a head may take; a head begun on it is not."""
    async with running_board(tmp_path, DEADLINES) as board:
        reader, writer = await asyncio.open_connection(*board.address)
        for _ in range(2):
            writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b" 200 " in await reader.readuntil(b'"alive"}')
            closing = asyncio.create_task(reader.read(1))
            assert not (await asyncio.wait({closing}, timeout=0.3))[0]
            closing.cancel()
            await asyncio.wait({closing})
        writer.write(b"GET /livez HT")
        assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()


@pytest.mark.parametrize(
    "sent",
    [
        HEAD + b"Content-Length: 100\r\n\r\n" + EVENT,
        HEAD + b"Content-Length: 29\r\n\r\n" + EVENT[:-1],
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"5\r\n[{",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"1d\r\n" + EVENT + b"\r\n",
    ],
)
async def test_a_half_sent_body_is_given_up_and_nothing_is_stored(tmp_path: Path, sent: bytes) -> None:
    async with running_board(tmp_path, DEADLINES) as board:
        answer = await asyncio.wait_for(board.raw(sent), 10)
        assert b" 408 " in answer.splitlines()[0]
        assert b"invalid-request" in answer
        assert await nothing_stored(board)


async def test_a_client_that_leaves_in_the_middle_of_its_body_stores_nothing(tmp_path: Path) -> None:
    async with running_board(tmp_path) as board:
        _, writer = await asyncio.open_connection(*board.address)
        writer.write(HEAD + b"Content-Length: 29\r\n\r\n" + EVENT[:-1])
        await writer.drain()
        writer.transport.abort()
        assert await nothing_stored(board)


@pytest.mark.parametrize(
    "sent",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nbad header\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 9000 + b"\r\n\r\n",
        b"GET /" + b"y" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 200 + b"\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",
        HEAD + b"Content-Length: x\r\n\r\n",
        HEAD + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
        HEAD + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ],
)
async def test_what_is_not_http_gets_a_problem_and_is_closed(tmp_path: Path, sent: bytes) -> None:
    async with running_board(tmp_path) as board:
        answer = await asyncio.wait_for(board.raw(sent), 5)
        assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.0 400 "))
        assert b"application/problem+json" in answer
        assert await nothing_stored(board)


async def test_a_body_over_the_limit_is_refused_before_it_is_read(tmp_path: Path) -> None:
    """By what Content-Length says, and while it arrives when nothing is said; the connection ends."""
    async with running_board(tmp_path, {"limits.body_bytes": 1024, "limits.event_bytes": 512}) as board:
        told = await board.raw(HEAD + b"Content-Length: 999999999\r\n\r\n", until_closed=False)
        assert b" 413 " in told.splitlines()[0]
        body = b"".join(b"80\r\n" + b" " * 128 + b"\r\n" for _ in range(20))
        untold = await board.raw(
            HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + body + b"0\r\n\r\n", until_closed=False
        )
        assert b" 413 " in untold.splitlines()[0]
        exact = EVENT + b" " * (1024 - len(EVENT))
        assert (await board.call("POST", "/v1/streams/s", exact + b" ")).code == "body-too-large"
        assert (await board.call("POST", "/v1/streams/s", exact)).status == 201


@pytest.mark.parametrize(
    ("limit", "value", "events"),
    [
        ("limits.events_per_append", 2, [1, 2, 3]),
        ("limits.event_bytes", 10, ["x" * 20]),
    ],
)
async def test_events_over_a_limit_are_413(
    tmp_path: Path, limit: str, value: int, events: list[object]
) -> None:
    async with running_board(tmp_path, {limit: value}) as board:
        reply = await board.append("s", *events)
        assert (reply.status, reply.code) == (413, "body-too-large")
        assert await nothing_stored(board)


async def test_a_body_without_a_length_is_cut_off_while_it_arrives(tmp_path: Path) -> None:
    """The board has begun to read it when it grows over the limit, and it never ends."""
    async with running_board(tmp_path, {"limits.body_bytes": 1024, "limits.event_bytes": 512}) as board:
        reader, writer = await asyncio.open_connection(*board.address)
        writer.write(HEAD + b"Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert b" 100 " in await reader.readuntil(b"\r\n\r\n")
        writer.write((b"80\r\n" + b" " * 128 + b"\r\n") * 9)
        answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
        assert b" 413 " in answer.splitlines()[0]
        writer.close()
        assert await nothing_stored(board)


async def test_a_client_may_wait_until_its_body_is_wanted(tmp_path: Path) -> None:
    """`Expect: 100-continue`, which curl sends with large bodies."""
    async with running_board(tmp_path, {"limits.body_bytes": 1024, "limits.event_bytes": 512}) as board:
        reader, writer = await asyncio.open_connection(*board.address)
        writer.write(HEAD + b"Expect: 100-continue\r\nContent-Length: 29\r\n\r\n")
        assert b" 100 " in await reader.readuntil(b"\r\n\r\n")
        writer.write(EVENT)
        assert b" 201 " in await reader.readuntil(b"\r\n\r\n")
        writer.close()
        refused = HEAD + b"Expect: 100-continue\r\nContent-Length: 99999\r\n\r\n"
        assert b" 413 " in (await board.raw(refused, until_closed=False)).splitlines()[0]


async def test_connections_over_the_limit_are_told_so(tmp_path: Path) -> None:
    """503 and closed; when one of the others ends, there is room again."""
    async with running_board(tmp_path, {"http.max_connections": 3}) as board, AsyncExitStack() as held:
        connections = [await asyncio.open_connection(*board.address) for _ in range(3)]
        for _, writer in connections:
            held.callback(writer.close)
        for reader, writer in connections:
            writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
            await reader.readuntil(b'"alive"}')
        reader, writer = await asyncio.open_connection(*board.address)
        answer = await asyncio.wait_for(reader.read(), 5)
        writer.close()
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b'"code":"unavailable"' in answer
        connections[0][1].close()
        await connections[0][1].wait_closed()
        assert b" 200 " in await board.raw(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")


class Watched(Connections):
    """Says when a connection is gone."""

    gone: asyncio.Event

    def connection_lost(self, handler: web.RequestHandler, exc: BaseException | None = None) -> None:
        super().connection_lost(handler, exc)
        self.gone.set()


@pytest.mark.parametrize("live", [False, True])
async def test_an_answer_that_nobody_takes_is_given_up_unless_it_is_a_live_tail(live: bool) -> None:
    """A reader that stops in the middle of a page does not hold it in memory for ever; a tail may wait."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if live:
            assert isinstance(request.protocol, Connection)
            request.protocol.may_stall()
        return web.Response(body=b"x" * 30_000_000)

    connections = Watched(answer, limit=5, header_timeout_s=10, stall_s=0.05)
    connections.gone = asyncio.Event()
    server = await asyncio.get_running_loop().create_server(connections, "127.0.0.1", 0)
    _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    given_up = asyncio.create_task(connections.gone.wait())
    done, _ = await asyncio.wait({given_up}, timeout=0.5 if live else 5)
    assert bool(done) is not live
    writer.transport.abort()
    await given_up
    server.close()
