"""Pulls that wait and events that are pushed: nothing is leased to a client that is not there any more."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from served_subscriptions import Served, delivered, subscription_board
from token_kit import add, bearer, revoke

from shoal.errors import AlreadyExists, LeaseExpired, NoLeader, NotFound, ShuttingDown, StorageError
from shoal.http import auth, sse

SSE = {"Accept": "text/event-stream"}
ONE = "/v1/subscriptions/s"
GIVEN_BACK = ("give_back", "s", ["lease-1", "lease-2"])
WAITING = {"wait_ms": 60_000}


@pytest_asyncio.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with subscription_board(tmp_path, {"http.heartbeat_ms": 600_000}) as made:
        yield made


@asynccontextmanager
async def pulling(served: Served) -> AsyncIterator[asyncio.StreamWriter]:
    """A client of its own socket whose pull has come to the store."""
    _, writer = await asyncio.open_connection(*served.board.address)
    body = json.dumps(WAITING)
    writer.write(
        f"POST {ONE}/pull HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
    )
    try:
        await asyncio.wait_for(served.subscriptions.pulling.wait(), 5)
        yield writer
    finally:
        writer.close()


@asynccontextmanager
async def pushed(
    served: Served, query: str = "", headers: dict[str, str] | None = None
) -> AsyncIterator[aiohttp.ClientResponse]:
    url = f"{served.board.url}{ONE}/events{query}"
    async with served.board.session.get(url, headers=SSE | (headers or {})) as answer:
        assert (answer.status, answer.content_type) == (200, "text/event-stream"), await answer.text()
        yield answer


async def one_write(answer: aiohttp.ClientResponse) -> bytes:
    """What the board wrote at once."""
    written, whole = b"", False
    while not whole:
        part, whole = await asyncio.wait_for(answer.content.readchunk(), 5)
        written += part
    return written


# --- pull


@pytest.mark.parametrize("abruptly", [False, True])
async def test_a_client_that_leaves_while_it_waits_cancels_its_pull(served: Served, abruptly: bool) -> None:
    async with pulling(served) as writer:
        assert not served.subscriptions.cancelled.is_set()
        if abruptly:
            writer.transport.abort()
        else:
            writer.close()
        await asyncio.wait_for(served.subscriptions.cancelled.wait(), 5)
    assert len(served.subscriptions.calls) == 1
    await served.board.call("GET", "/livez")
    assert set(served.service.context.requests) == {200}, "no answer is counted that nobody got"


async def test_what_a_pull_has_when_its_client_is_gone_is_given_back(served: Served) -> None:
    """It was leased in the very moment in which the client left."""
    served.subscriptions.stubborn = True
    async with pulling(served):
        pass
    await asyncio.wait_for(served.subscriptions.cancelled.wait(), 5)
    while len(served.subscriptions.calls) < 2:  # noqa: ASYNC110 - the fake has no event for it
        await asyncio.sleep(0.01)
    assert served.subscriptions.calls[1] == GIVEN_BACK


async def test_a_server_that_closes_ends_the_wait_at_once(served: Served) -> None:
    call = asyncio.create_task(served.board.call("POST", f"{ONE}/pull", WAITING))
    await asyncio.wait_for(served.subscriptions.pulling.wait(), 5)
    served.service.context.closing.set()
    reply = await asyncio.wait_for(call, 5)
    assert (reply.status, reply.json) == (200, {"events": []})
    assert served.subscriptions.cancelled.is_set()


async def test_a_token_that_is_revoked_ends_the_wait_soon(tmp_path: Path) -> None:
    await add(tmp_path, "admin")
    text = await add(tmp_path, "read")
    async with subscription_board(tmp_path) as served:
        call = asyncio.create_task(served.board.call("POST", f"{ONE}/pull", WAITING, headers=bearer(text)))
        await asyncio.wait_for(served.subscriptions.pulling.wait(), 5)
        await revoke(tmp_path, text)
        reply = await asyncio.wait_for(call, 5)
        assert (reply.status, reply.code) == (401, "unauthorized")
        assert served.subscriptions.cancelled.is_set()


async def test_a_wait_that_ends_with_nothing_leaves_the_connection_usable(served: Served) -> None:
    for _ in range(3):
        reply = await served.board.call("POST", f"{ONE}/pull", {"wait_ms": 1})
        assert (reply.status, reply.json) == (200, {"events": []})
    assert not served.subscriptions.cancelled.is_set()


LARGE = b'"%b"' % (b"x" * 3_000_000)


async def test_a_large_pull_arrives_as_a_whole(served: Served) -> None:
    served.subscriptions.events = [delivered(1, LARGE), delivered(2, LARGE)]
    reply = await served.board.call("POST", f"{ONE}/pull", {})
    assert [event["data"] for event in reply.json["events"]] == ["x" * 3_000_000] * 2
    assert len(served.subscriptions.calls) == 1


async def test_a_large_pull_that_is_refused_gives_back_what_it_leased(served: Served) -> None:
    served.subscriptions.events = [delivered(1, LARGE), delivered(2, LARGE)]
    room = served.service.context.room
    with room.take(room.free):
        reply = await served.board.call("POST", f"{ONE}/pull", {})
    assert (reply.status, reply.code) == (429, "too-busy")
    assert served.subscriptions.calls[1:] == [GIVEN_BACK]


async def test_what_cannot_be_given_back_changes_no_answer(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object) -> int:
        raise LeaseExpired("too late")

    monkeypatch.setattr(served.subscriptions, "give_back", refuse)
    served.subscriptions.events = [delivered(1, LARGE)]
    room = served.service.context.room
    with room.take(room.free):
        assert (await served.board.call("POST", f"{ONE}/pull", {})).code == "too-busy"


async def test_a_large_pull_that_is_not_taken_is_given_back(served: Served) -> None:
    """The client leaves in the midst of the answer."""
    served.subscriptions.events = [delivered(1, LARGE), delivered(2, LARGE)]
    reader, writer = await asyncio.open_connection(*served.board.address, limit=1000)
    writer.write(
        f"POST {ONE}/pull HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        "Content-Length: 2\r\n\r\n{}".encode()
    )
    await reader.read(10)
    writer.transport.abort()
    async with asyncio.timeout(5):
        while len(served.subscriptions.calls) < 2:  # noqa: ASYNC110 - the fake has no event for it
            await asyncio.sleep(0.01)
    assert served.subscriptions.calls[1:] == [GIVEN_BACK]


# --- push


async def test_a_batch_is_pushed_in_one_write_with_what_settles_it(served: Served) -> None:
    served.subscriptions.batches.put_nowait([delivered(4), delivered(5, b'{"a":\n2}'), delivered(9)])
    async with pushed(served, "?consumer=c%20d&prefetch=7") as answer:
        blocks = (await one_write(answer)).decode().split("\n\n")
        served.subscriptions.batches.put_nowait([delivered(10)])
        assert (await one_write(answer)).startswith(b"id: 10\n")
    assert blocks.pop() == ""
    assert [block.partition("\n")[0] for block in blocks] == ["id: 4", "id: 5", "id: 9"]
    events = [json.loads(block.partition("\ndata: ")[2]) for block in blocks]
    assert [(event["position"], event["lease"], event["attempt"]) for event in events] == [
        (4, "lease-4", 2),
        (5, "lease-5", 2),
        (9, "lease-9", 2),
    ]
    assert events[1]["data"] == {"a": 2}
    assert served.subscriptions.calls == [("push", "s", "c d", 7)]


async def test_the_answer_begins_without_an_event_and_silence_is_filled(tmp_path: Path) -> None:
    async with (
        subscription_board(tmp_path, {"http.heartbeat_ms": 20}) as served,
        pushed(served) as answer,
    ):
        assert answer.headers["Cache-Control"] == "no-store"
        assert await one_write(answer) == b": still here\n\n"
        assert await one_write(answer) == b": still here\n\n"
        assert served.subscriptions.calls == [("push", "s", "default", None)]


async def test_a_consumer_that_leaves_is_lost_at_once(served: Served) -> None:
    """Long before a comment would find out."""
    async with pushed(served):
        assert not served.subscriptions.lost.is_set()
    await asyncio.wait_for(served.subscriptions.lost.wait(), 5)
    await asyncio.sleep(0.05)
    assert not served.service.context.requests, "an answer that nobody got is not counted"


async def test_a_server_that_closes_ends_a_push_as_a_whole_answer(served: Served) -> None:
    async with pushed(served) as answer:
        served.service.context.closing.set()
        assert await asyncio.wait_for(answer.content.read(), 5) == b""
    await asyncio.wait_for(served.subscriptions.lost.wait(), 5)


@pytest.mark.parametrize("flowing", [False, True])
async def test_a_push_ends_soon_after_its_token_is_gone(tmp_path: Path, flowing: bool) -> None:
    await add(tmp_path, "admin")
    text = await add(tmp_path, "read")
    async with subscription_board(tmp_path, {"http.heartbeat_ms": 600_000}) as served:
        async with pushed(served, headers=bearer(text)) as answer:
            began = time.monotonic()
            await revoke(tmp_path, text)
            ended = asyncio.create_task(answer.content.read())
            while flowing and not ended.done():
                served.subscriptions.batches.put_nowait([delivered(1)])
                await asyncio.sleep(0.01)
                assert time.monotonic() - began < 5
            await asyncio.wait_for(ended, 5)
            assert time.monotonic() - began < 2 * auth.WATCH_S + auth.FRESH_S
        await asyncio.wait_for(served.subscriptions.lost.wait(), 5)


@pytest.mark.parametrize(
    "error", [NotFound("the subscription was deleted"), NoLeader("none"), AlreadyExists("c is connected")]
)
async def test_what_ends_a_push_is_told_as_its_last_event(served: Served, error: Any) -> None:
    async with pushed(served) as answer:
        served.subscriptions.batches.put_nowait([delivered(1)])
        assert (await one_write(answer)).startswith(b"id: 1\n")
        served.subscriptions.batches.put_nowait(error)
        name, data, rest = (await asyncio.wait_for(answer.content.read(), 5)).decode().split("\n", 2)
    assert (name, rest) == ("event: end", "\n")
    problem = json.loads(data.removeprefix("data: "))
    assert (
        problem.items() >= {"code": error.code, "detail": error.detail, "retryable": error.retryable}.items()
    )


async def test_a_push_that_ends_before_its_answer_began_is_whole(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse, "_FIRST_S", 5)
    served.subscriptions.batches.put_nowait(ShuttingDown("the store is closed"))
    async with pushed(served) as answer:
        assert await asyncio.wait_for(answer.content.read(), 5) == b""


async def test_a_push_of_a_store_that_closes_just_ends(served: Served) -> None:
    async with pushed(served) as answer:
        served.subscriptions.batches.put_nowait(ShuttingDown("the store is closed"))
        assert await asyncio.wait_for(answer.content.read(), 5) == b""


async def test_a_defect_in_a_push_cuts_it_short_and_is_logged(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    async with pushed(served) as answer:
        served.subscriptions.batches.put_nowait([delivered(1)])
        await one_write(answer)
        with caplog.at_level(logging.ERROR, "shoal.http.service"), pytest.raises(aiohttp.ClientPayloadError):
            served.subscriptions.batches.put_nowait(StorageError("the card is gone"))
            await asyncio.wait_for(answer.content.read(), 5)
    assert "the card is gone" in caplog.text


async def test_a_push_that_is_refused_at_once_gets_a_status(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse, "_FIRST_S", 5)
    served.subscriptions.fail = AlreadyExists("that consumer is connected")
    reply = await served.board.call("GET", f"{ONE}/events", headers=SSE)
    assert (reply.status, reply.code) == (409, "already-exists")


@pytest.mark.parametrize("accept", ["application/json", "image/png", "text/event-stream;q=0"])
async def test_events_come_as_events_only(served: Served, accept: str) -> None:
    reply = await served.board.call("GET", f"{ONE}/events", headers={"Accept": accept})
    assert (reply.status, reply.code) == (406, "not-acceptable")
    assert served.subscriptions.calls == []


async def test_a_reader_that_stalls_is_given_no_more_than_its_buffers_hold(served: Served) -> None:
    """And gets all of it, in order, when it reads again."""
    filler = b'"%b"' % (b"x" * 60_000)
    for position in range(1, 501):
        served.subscriptions.batches.put_nowait([delivered(position, filler)])
    reader, writer = await asyncio.open_connection(*served.board.address, limit=2**17)
    writer.write(f"GET {ONE}/events HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    waiting = 501
    while waiting > served.subscriptions.batches.qsize():
        waiting = served.subscriptions.batches.qsize()
        await asyncio.sleep(0.2)
    assert waiting > 250
    ids = []
    while len(ids) < 500:
        line = await reader.readuntil(b"\n")
        if line.startswith(b"id: "):
            ids.append(int(line[4:]))
    writer.close()
    assert ids == list(range(1, 501))
