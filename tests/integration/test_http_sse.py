"""Live tails over server-sent events: catch-up, one caught-up, live, resume, comments, slow readers, the end."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from http_board import Board, configured, running_board

from shoal.server import Shoald

pytestmark = pytest.mark.asyncio(loop_scope="module")
SSE = {"Accept": "text/event-stream"}


class Tail:
    """A live tail as its reader sees it: blocks of fields."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self.answer = answer

    async def block(self) -> dict[str, Any]:
        """The next block; a comment is under the key ""."""
        lines = (await self.answer.content.readuntil(b"\n\n")).decode().splitlines()
        fields = dict(line.split(":", 1) for line in lines if line)
        return {name: value.strip() for name, value in fields.items()}

    async def data(self) -> Any:
        """The payload of the next event."""
        return json.loads((await self.block())["data"])["data"]


@asynccontextmanager
async def tail(board: Board, path: str, headers: dict[str, str] | None = None) -> AsyncIterator[Tail]:
    async with board.session.get(board.url + path, headers=SSE | (headers or {})) as answer:
        assert answer.status == 200, await answer.text()
        assert answer.content_type == "text/event-stream"
        yield Tail(answer)


async def test_a_tail_catches_up_says_so_once_and_goes_on_live(tmp_path: Path) -> None:
    async with running_board(tmp_path) as board:
        await board.append("a", 1)
        await board.append("b", 2)
        async with tail(board, "/v1/events") as events:
            first = await events.block()
            assert first["id"] == "1"
            assert json.loads(first["data"])["stream_id"] == "a"
            assert await events.data() == 2
            caught_up = await events.block()
            assert (caught_up["event"], caught_up["id"]) == ("caught-up", "2")
            assert json.loads(caught_up["data"]) == {"position": 2}
            await board.append("a", 3, 4)
            assert [await events.data(), await events.data()] == [3, 4]


async def test_a_tail_resumes_after_the_last_event_id(tmp_path: Path) -> None:
    async with running_board(tmp_path) as board:
        await board.append("a", *range(1, 6))
        async with tail(board, "/v1/events?after=1", {"Last-Event-ID": "3"}) as events:
            assert [await events.data(), await events.data()] == [4, 5]
        async with tail(board, "/v1/events?after=4") as events:
            assert await events.data() == 5
        async with tail(board, "/v1/streams/a?from=1", {"Last-Event-ID": "4"}) as events:
            assert await events.data() == 5


async def test_a_tail_of_a_stream_has_only_its_events(tmp_path: Path) -> None:
    """From the version asked for; a stream that is not there yet is waited for."""
    async with running_board(tmp_path) as board:
        await board.append("a", 0, 1, 2)
        await board.append("b", 9)
        async with tail(board, "/v1/streams/a?from=1") as events:
            assert [await events.data(), await events.data()] == [1, 2]
            assert (await events.block())["event"] == "caught-up"
            await board.append("b", 9)
            await board.append("a", 3)
            assert await events.data() == 3
        async with tail(board, "/v1/streams/a?from=6") as events:
            assert (await events.block())["event"] == "caught-up"
            await board.append("a", 4, 5, 6)
            assert await events.data() == 6
        async with tail(board, "/v1/streams/new") as events:
            assert (await events.block())["event"] == "caught-up"
            await board.append("new", 7)
            assert await events.data() == 7


async def test_a_tail_selects(tmp_path: Path) -> None:
    async with running_board(tmp_path) as board:
        await board.append("a", {"event_type": "x", "data": 1}, {"event_type": "y", "data": 2})
        async with tail(board, "/v1/events?types=y") as events:
            assert await events.data() == 2
            assert (await events.block())["id"] == "2"


async def test_line_breaks_inside_a_payload_do_not_break_the_stream(tmp_path: Path) -> None:
    async with running_board(tmp_path) as board:
        body = b'[{"event_type":"t","data":{"a":\n\n1},"metadata":{\r\n"b":2}}]'
        assert (await board.call("POST", "/v1/streams/a", body)).status == 201
        async with tail(board, "/v1/events") as events:
            assert await events.data() == {"a": 1}


async def test_silence_is_filled_with_comments(tmp_path: Path) -> None:
    async with (
        running_board(tmp_path, {"http.heartbeat_ms": 20}) as board,
        tail(board, "/v1/events") as events,
    ):
        assert (await events.block())["event"] == "caught-up"
        assert list(await events.block()) == [""]
        assert list(await events.block()) == [""]


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/v1/events?direction=backward", {}),
        ("/v1/events?limit=5", {}),
        ("/v1/streams/a?direction=backward", {}),
        ("/v1/events", {"Last-Event-ID": "x"}),
        ("/v1/events", {"Last-Event-ID": "-1"}),
        ("/v1/events", {"Last-Event-ID": "9007199254740992"}),
    ],
)
async def test_what_a_tail_cannot_do_is_refused(board: Board, path: str, headers: dict[str, str]) -> None:
    reply = await board.call("GET", path, headers=SSE | headers)
    assert (reply.status, reply.code) == (400, "invalid-request")


async def test_a_stalled_reader_loses_nothing(tmp_path: Path) -> None:
    """More than its buffers hold is appended while it does not read; then it gets every event, in order."""
    async with running_board(tmp_path) as board:
        stalled = socket.create_connection(board.address)
        stalled.sendall(b"GET /v1/events HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n")
        filler = "x" * 20_000
        for batch in range(40):
            reply = await board.append("a", *([batch * 25 + each, filler] for each in range(25)))
            assert reply.status == 201
        stalled.setblocking(False)
        reader, writer = await asyncio.open_connection(sock=stalled)
        numbers: list[int] = []
        while len(numbers) < 1000:
            line = await reader.readuntil(b"\n")
            if line.startswith(b'data: {"stream_id'):
                numbers.append(json.loads(line.removeprefix(b"data: "))["data"][0])
        writer.close()
        await writer.wait_closed()
    assert numbers == list(range(1000))


async def test_a_leaving_board_ends_its_tails_cleanly(tmp_path: Path) -> None:
    """The answer ends as a whole one, so that a client connects again instead of reporting an error."""
    async with aiohttp.ClientSession() as session:
        async with Shoald(configured(tmp_path)) as shoald:
            answer = await session.get(f"{shoald.urls[0]}/v1/events", headers=SSE)
            await answer.content.readuntil(b"caught-up")
        rest = await answer.content.read()
        assert rest.endswith(b"\n\n")
