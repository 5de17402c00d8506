"""Large answers and large bodies: bounded in memory, and never in the way of others."""

from __future__ import annotations

import asyncio
import io
import json
import threading
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import cbor2
import pytest
from aiohttp import web
from http_board import Board, Reply, running_board

from shoal.errors import TooBusy
from shoal.http.bodies import LARGE_BYTES, BodyReader
from shoal.http.connections import Connection, Connections
from shoal.http.pacing import LARGE_BYTES as LARGE_ANSWER
from shoal.http.pacing import Paced, Room
from shoal.types import Limits

pytestmark = pytest.mark.asyncio(loop_scope="module")

PAGE = 8_000_000
"""More than the kernel keeps for both ends of a connection."""
SMALL_PAGES = {"limits.page_bytes": PAGE}
NDJSON = b"Accept: application/x-ndjson\r\n"


async def send(board: Board, method: str, path: str, raw: bytes, media: str = "application/json") -> Reply:
    """Send a body of any size: aiohttp wants large ones as files."""
    return await board.call(method, path, headers={"Content-Type": media}, data=io.BytesIO(raw))


async def large_stream(board: Board) -> None:
    """A stream whose every page is as large as pages get."""
    for _ in range(2):
        events = [{"event_type": "t", "data": letter * 3_900_000} for letter in "xy"]
        assert (await send(board, "POST", "/v1/streams/big", json.dumps(events).encode())).status == 201
    assert (await board.append("small", 1)).status == 201


async def ask(
    board: Board, path: str, headers: bytes = b""
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Ask, and take no more of the answer than a few kilobytes."""
    reader, writer = await asyncio.open_connection(*board.address, limit=1024)
    writer.write(b"GET %b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n%b\r\n" % (path.encode(), headers))
    return reader, writer


@pytest.mark.parametrize("headers", [b"", NDJSON])
async def test_answers_that_nobody_takes_leave_room_for_small_ones_alone(
    tmp_path: Path, headers: bytes
) -> None:
    """Beyond four pages under way, a large answer is refused before it begins; those begun are whole."""
    async with running_board(tmp_path, SMALL_PAGES) as board, AsyncExitStack() as stack:
        await large_stream(board)
        statuses, taken = [], []
        for _ in range(8):
            reader, writer = await ask(board, "/v1/streams/big?limit=4", headers)
            stack.callback(writer.close)
            statuses.append(int((await asyncio.wait_for(reader.readline(), 5)).split()[1]))
            if statuses[-1] == 200:
                taken.append(reader)
        assert statuses == [200] * len(taken) + [429] * (8 - len(taken))
        assert 2 <= len(taken) <= 4
        refused = await board.call("GET", "/v1/streams/big?limit=4")
        assert refused.status == 429
        assert (refused.code, refused.json["retryable"], refused.headers["Retry-After"]) == (
            "too-busy",
            True,
            "1",
        )
        assert (await board.call("GET", "/v1/streams/small")).status == 200
        for answer in await asyncio.gather(*(reader.read() for reader in taken)):
            assert answer.count(b'"position":') == (4 if headers else 3), answer[:300]
        assert (await board.call("GET", "/v1/streams/big?limit=2")).status == 200


async def test_a_reader_that_leaves_gives_its_room_back(tmp_path: Path) -> None:
    async with running_board(tmp_path, SMALL_PAGES) as board:
        await large_stream(board)
        for _ in range(12):
            reader, writer = await ask(board, "/v1/streams/big?limit=2")
            await asyncio.wait_for(reader.readline(), 5)
            writer.transport.abort()
        began = time.monotonic()
        while (await board.call("GET", "/v1/streams/big?limit=2")).status != 200:
            assert time.monotonic() - began < 5


async def test_a_large_answer_is_handed_over_in_parts() -> None:
    """What its reader has not taken stays where it is counted, and is not copied into the connection's buffer."""
    room = Room(Limits())
    protocols: list[Connection] = []

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        assert isinstance(request.protocol, Connection)
        protocols.append(request.protocol)
        paced = Paced(b"x" * 10_000_000, {})
        await paced.send(request, room)
        return paced

    connections = Connections(answer, limit=5, header_timeout_s=10)
    server = await asyncio.get_running_loop().create_server(connections, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname(), limit=1024)
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    await reader.readuntil(b"\r\n\r\n")
    transport = protocols[0].transport
    assert transport is not None
    assert 0 < transport.get_write_buffer_size() < 1_000_000
    assert room.free == 4 * Limits().page_bytes - 10_000_000
    assert len(await reader.read()) == 10_000_000
    writer.close()
    await connections.shutdown()
    server.close()
    assert room.free == 4 * Limits().page_bytes


async def test_the_first_answer_always_fits_and_a_part_waits_its_turn() -> None:
    room = Room(Limits(page_bytes=100_000))
    with room.take(1_000_000):
        with room.take(LARGE_ANSWER):
            pass
        with pytest.raises(TooBusy), room.take(LARGE_ANSWER + 1):
            pass
        waiting = asyncio.create_task(hold(room, 100_000))
        assert not (await asyncio.wait({waiting}, timeout=0.05))[0]
    await asyncio.wait_for(waiting, 5)
    assert room.free == 400_000


async def hold(room: Room, size: int) -> None:
    async with room.wait(size) as held:
        held.resize(7)
        assert room.free == 400_000 - 7


async def test_a_list_of_snapshots_beyond_a_page_is_refused_with_their_versions(tmp_path: Path) -> None:
    async with running_board(tmp_path, SMALL_PAGES) as board:
        await board.append("s", 1, 2, 3)
        for version in range(3):
            body = json.dumps({"data": "x" * 3_900_000}).encode()
            assert (await send(board, "PUT", f"/v1/streams/s/snapshots/{version}", body)).status == 204
        refused = await board.call("GET", "/v1/streams/s/snapshots")
        assert (refused.status, refused.code) == (400, "invalid-request")
        assert (refused.json["versions"], refused.json["limit"]) == ([0, 1, 2], PAGE)
        assert (await board.call("GET", "/v1/streams/s/snapshots/1")).status == 200
        assert (await board.call("DELETE", "/v1/streams/s/snapshots/1")).status == 204
        listed = await board.call("GET", "/v1/streams/s/snapshots")
        assert [each["version"] for each in listed.json["snapshots"]] == [0, 2]


# --- bodies


async def longest_turn(work: asyncio.Task[Any]) -> float:
    """Seconds for which the loop did nothing else while `work` was done, at most."""
    worst, last = 0.0, time.perf_counter()
    while not work.done():
        await asyncio.sleep(0)
        now = time.perf_counter()
        worst, last = max(worst, now - last), now
    return worst


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v1/streams/s", [{"event_type": "t", "data": [0.5] * 400_000}]),
        (
            "POST",
            "/v1/append",
            {"writes": [{"stream_id": "s", "events": [{"event_type": "t", "data": [0.5] * 400_000}]}]},
        ),
        ("PUT", "/v1/streams/s/snapshots/0", {"data": [0.5] * 400_000}),
    ],
)
async def test_a_large_body_does_not_hold_the_loop(tmp_path: Path, method: str, path: str, body: Any) -> None:
    raw = cbor2.dumps(body)
    async with running_board(tmp_path, {"storage.segment_bytes": 16 * 1024 * 1024}) as board:
        await board.append("s", 1)
        began = time.perf_counter()
        call = asyncio.create_task(send(board, method, path, raw, "application/cbor"))
        worst = await longest_turn(call)
        assert (await call).status in {201, 204}, await call
        assert worst < (time.perf_counter() - began) / 2


@pytest.mark.parametrize(
    "body",
    [
        '[{"event_type":"t","data":1,"data":2}',
        '[{"event_type":"t","data":1,"data":2}]',
        '[{"event_type":"t","data":1},{"event_type":"t"}]',
        '[{"event_type":"t","data":1,"other":1}]',
        '[{"event_type":"t","data":1e999}]',
        '[{"event_type":"","data":1}]',
        '[{"event_type":"t","data":' + "[" * 66 + "]" * 66 + "}]",
        '{"events":[{"event_type":"t","data":1}],"expected_version":7}',
        '{"events":[{"event_type":"t","data":1}]}',
        "7",
        "",
    ],
)
@pytest.mark.parametrize("event_bytes", [1000, 4_000_000])
async def test_a_large_body_is_answered_as_a_small_one(tmp_path: Path, body: str, event_bytes: int) -> None:
    """White space makes it large, and larger than any event may be."""
    async with running_board(tmp_path, {"limits.event_bytes": event_bytes}) as board:
        small = await board.call("POST", "/v1/streams/a", body.encode())
        large = await board.call("POST", "/v1/streams/b", body.encode() + b" " * (LARGE_BYTES + 1))
        assert large.status == small.status
        if small.status != 201:
            assert (large.code, large.json.get("pointer")) == (small.code, small.json.get("pointer"))


@pytest.mark.parametrize(
    ("path", "before", "after", "pointer"),
    [
        ("/v1/streams/s", "[", "]", "/1/data"),
        ("/v1/streams/s", '{"events":[', "]}", "/events/1/data"),
        ("/v1/append", '{"writes":[{"stream_id":"s","events":[', "]}]}", "/writes/0/events/1/data"),
    ],
)
async def test_an_event_over_its_limit_is_refused_by_its_place(
    board: Board, path: str, before: str, after: str, pointer: str
) -> None:
    event = '{"event_type":"t","data":%s,"metadata":{"a":1}}'
    body = before + event % 1 + "," + event % json.dumps("x" * 4 * 1024 * 1024) + after
    reply = await send(board, "POST", path, body.encode())
    assert (reply.status, reply.code, reply.json["pointer"]) == (413, "body-too-large", pointer)


async def test_only_so_many_large_bodies_wait_to_be_read() -> None:
    """One after the other in a thread; beyond the budget they are refused."""
    reader = BodyReader(Limits(body_bytes=100), 1)
    gate = threading.Event()
    waiting = [asyncio.create_task(reader.beside(lambda raw: gate.wait(), b"x" * 100)) for _ in range(4)]
    await asyncio.sleep(0)
    with pytest.raises(TooBusy):
        await reader.beside(len, b"x")
    gate.set()
    assert await asyncio.wait_for(asyncio.gather(*waiting), 5) == [True] * 4
    assert await reader.beside(len, b"x") == 1


async def test_an_array_of_small_numbers_is_read_at_once(board: Board) -> None:
    """And is what it was, with other items wherever they stand."""
    numbers = [each % 24 for each in range(200_000)] + [24, -1] + [1] * 17 + ["a"] + [2] * 300
    body = cbor2.dumps([{"event_type": "t", "data": numbers}])
    headers = {"Content-Type": "application/cbor"}
    assert (await board.call("POST", "/v1/streams/s", body, headers=headers)).status == 201
    assert (await board.call("GET", "/v1/streams/s/0")).json["data"] == numbers
