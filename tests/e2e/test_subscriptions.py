"""`kill -9` of consumers and of the board: nothing acknowledged is missed, and no checkpoint runs ahead.

The consumer is `shoal subscribe --json`, its output a file: it acks what it has written, so that the files of all
sessions tell what was processed before each ack.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from e2e.shoald import Shoald, all_events, by_stream, clean_environ

SHOAL = (sys.executable, "-m", "shoal_host.cli")
PATIENCE_S = 30
ROUNDS = 4
STREAMS = ("attic", "cellar", "hall")
# Whoever is killed counts as gone soon, and however often it happens, no event is to blame.
OPTIONS = {
    "ack_timeout_ms": 1_000,
    "consumer_timeout_ms": 200,
    "max_retries": 1_000,
    "backoff_ms": [],
    "ordered": True,
}
Event = dict[str, Any]


async def until(holds: Callable[[], bool], what: str) -> None:
    """Look until it holds: another process is at work, there is nothing here to wait on."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, f"in vain: {what}"
        await asyncio.sleep(0.005)


@dataclass
class Session:
    """One life of a consumer, and what it wrote."""

    process: Process
    out: Path
    err: Path
    _offset: int = 0
    _events: list[Event] = field(default_factory=list)

    def events(self) -> list[Event]:
        """All whole lines so far; a kill may tear the last one, which is not acked then."""
        with self.out.open("rb") as file:
            file.seek(self._offset)
            whole, newline, _ = file.read().rpartition(b"\n")
        self._events += map(json.loads, whole.splitlines())
        self._offset += len(whole + newline)
        return self._events

    async def end(self, number: signal.Signals) -> int:
        """Send a signal; the result is the exit code."""
        os.kill(self.process.pid, number)
        return await asyncio.wait_for(self.process.wait(), PATIENCE_S)


class Consumers:
    """The consumers of subscription `sub`, one after the other."""

    def __init__(self, url: str, directory: Path) -> None:
        self.sessions: list[Session] = []
        self._url = url
        self._directory = directory

    async def start(self) -> Session:
        number = len(self.sessions)
        out, err = (self._directory / f"session-{number}.{kind}" for kind in ("out", "err"))
        with out.open("wb") as to_out, err.open("wb") as to_err:
            process = await asyncio.create_subprocess_exec(
                *(*SHOAL, "subscribe", "sub", "--json", "--url", self._url),
                stdout=to_out,
                stderr=to_err,
                env=clean_environ(),
            )
        self.sessions.append(Session(process, out, err))
        return self.sessions[-1]

    def seen(self) -> set[int]:
        """Positions of all that was ever written."""
        return {event["position"] for session in self.sessions for event in session.events()}

    def check(self, stored: list[Event]) -> None:
        """What was seen against what is stored."""
        wanted = {event["position"]: event for event in stored if event["event_type"] == "wanted"}
        before: set[int] = set()
        for session in self.sessions:
            assert not session.err.read_text()
            for event in session.events():
                given = {name: value for name, value in event.items() if name not in {"lease", "attempt"}}
                assert given == wanted.get(event["position"]), "it was not asked for, or is another"
            first = [event for event in session.events() if event["position"] not in before]
            _check_order(first)
            before |= {event["position"] for event in first}

    async def close(self) -> None:
        """Leave no process behind."""
        for session in self.sessions:
            if session.process.returncode is None:
                session.process.kill()
                await session.process.wait()


def _check_order(events: list[Event]) -> None:
    for stream_id, of_stream in by_stream(events):
        versions = list(dict.fromkeys(event["version"] for event in of_stream))
        assert versions == sorted(versions), f"{stream_id} came out of order"


@pytest.fixture
async def board(tmp_path: Path) -> AsyncIterator[Shoald]:
    board = Shoald(tmp_path / "data")
    await board.start()
    yield board
    await board.close()


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
async def consumers(
    board: Shoald, session: aiohttp.ClientSession, tmp_path: Path
) -> AsyncIterator[Consumers]:
    """Of a subscription to the type `wanted`, which is there."""
    definition = {"type": "event_type", "selector": "wanted", **OPTIONS}
    async with session.put(f"{board.url}/v1/subscriptions/sub", json=definition) as answer:
        assert answer.status == 201, await answer.text()
    consumers = Consumers(board.url, tmp_path)
    yield consumers
    await consumers.close()


async def stats(session: aiohttp.ClientSession, board: Shoald) -> Event:
    async with session.get(f"{board.url}/v1/subscriptions/sub/stats") as answer:
        document: Event = await answer.json()
        assert answer.status == 200, document
        return document


async def append(session: aiohttp.ClientSession, board: Shoald, stream_id: str, events: list[Event]) -> None:
    async with session.post(f"{board.url}/v1/streams/{stream_id}", json={"events": events}) as answer:
        assert answer.status == 201, await answer.text()


async def check_checkpoint(session: aiohttp.ClientSession, board: Shoald, consumers: Consumers) -> int:
    """Nothing at or before it that was not written first; the result is the checkpoint."""
    checkpoint: int = (await stats(session, board))["checkpoint"]
    settled = {
        event["position"]
        for event in await all_events(session, board.url)
        if event["event_type"] == "wanted" and event["position"] <= checkpoint
    }
    assert settled <= consumers.seen(), "the checkpoint is ahead of what was processed"
    return checkpoint


async def check_end(session: aiohttp.ClientSession, board: Shoald, consumers: Consumers) -> list[Event]:
    """Everything is delivered, the last consumer leaves by Ctrl-C, and everything is settled."""
    stored = await all_events(session, board.url)
    wanted = {event["position"] for event in stored if event["event_type"] == "wanted"}
    await until(lambda: wanted <= consumers.seen(), "all that is stored is delivered")
    assert await consumers.sessions[-1].end(signal.SIGINT) == 130
    consumers.check(stored)
    now = await stats(session, board)
    assert (now["checkpoint"] >= max(wanted), now["in_flight"], now["parked"]) == (True, 0, 0)
    return stored


def an_event(number: int) -> Event:
    """Two of three are wanted."""
    return {"event_type": "wanted" if number % 3 else "other", "data": {"n": number}}


# --- the consumer is killed


async def test_consumers_killed_in_the_middle_miss_nothing(
    board: Shoald, session: aiohttp.ClientSession, consumers: Consumers
) -> None:
    chance = random.Random(5)
    for at in range(30):
        await append(session, board, STREAMS[at % 3], [an_event(300 * at + n) for n in range(300)])
    checkpoint = 0
    for _ in range(ROUNDS):
        enough = len(consumers.seen()) + chance.randrange(1, 400)
        consumer = await consumers.start()
        await until(lambda: len(consumers.seen()) >= enough, "a consumer goes on where the last one stopped")  # noqa: B023
        assert await consumer.end(signal.SIGKILL) == -signal.SIGKILL
        reached = await check_checkpoint(session, board, consumers)
        assert reached >= checkpoint
        checkpoint = reached
    assert 0 < checkpoint < 9_000, "they were killed in the middle"
    await consumers.start()
    await check_end(session, board, consumers)


# --- the board is killed


@dataclass
class Writers:
    """One writer for each stream, which goes on when the board is back, until `stop`."""

    url: str
    acknowledged: set[str] = field(default_factory=set)
    stop: bool = False

    async def write(self, session: aiohttp.ClientSession, stream_id: str) -> None:
        for n in count():
            if self.stop:
                return
            event = an_event(n) | {"event_id": f"{stream_id}-{n}"}
            await self._append(session, stream_id, event)
            self.acknowledged.add(event["event_id"])

    async def _append(self, session: aiohttp.ClientSession, stream_id: str, event: Event) -> None:
        """Again and again until it is answered; its id keeps it from being stored twice."""
        url, body = f"{self.url}/v1/streams/{stream_id}", {"events": [event]}
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            with suppress(aiohttp.ClientError, OSError):
                async with session.post(url, json=body) as answer:
                    if answer.status in (200, 201):
                        return
                    assert answer.status == 503, await answer.text()
            await asyncio.sleep(0.01)  # another process: there is nothing here to wait on
        raise AssertionError(f"in vain: {event}")


async def test_a_board_killed_under_load_forgets_no_answered_ack_and_delivers_all(
    board: Shoald, session: aiohttp.ClientSession, consumers: Consumers
) -> None:
    writers, chance = Writers(board.url), random.Random(6)
    writing = [asyncio.create_task(writers.write(session, stream_id)) for stream_id in STREAMS]
    await consumers.start()
    for _ in range(ROUNDS):
        written = len(writers.acknowledged) + chance.randrange(50, 300)
        seen = len(consumers.seen()) + chance.randrange(50, 300)
        await until(
            lambda: (
                (len(writers.acknowledged) >= written and len(consumers.seen()) >= seen)  # noqa: B023
                or any(task.done() for task in writing)
            ),
            "events are appended and consumed",
        )
        answered = (await stats(session, board))["checkpoint"]
        await board.kill9()
        await board.start()
        assert await check_checkpoint(session, board, consumers) >= answered > 0
    writers.stop = True
    await asyncio.gather(*writing)
    stored = await check_end(session, board, consumers)
    ids = [event["event_id"] for event in stored]
    assert (set(ids), len(ids)) == (writers.acknowledged, len(writers.acknowledged))
    assert len(consumers.sessions) == 1, "one consumer went on through all of it"


# --- leaving


async def subscribing(board: Shoald, *arguments: str) -> tuple[Process, asyncio.StreamReader]:
    """`shoal subscribe sub`, and what it prints."""
    process = await asyncio.create_subprocess_exec(
        *(*SHOAL, "subscribe", "sub", *arguments, "--url", board.url),
        stdout=PIPE,
        stderr=PIPE,
        env=clean_environ(),
    )
    assert process.stdout is not None
    return process, process.stdout


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
async def test_ctrl_c_and_sigterm_give_back_what_is_leased(
    board: Shoald, session: aiohttp.ClientSession, number: signal.Signals, code: int
) -> None:
    await append(session, board, "hall", [an_event(n) for n in range(3)])
    process, printed = await subscribing(board, "hall", "--no-ack")
    for _ in range(3):
        await asyncio.wait_for(printed.readline(), PATIENCE_S)
    assert (await stats(session, board))["in_flight"] == 3
    os.kill(process.pid, number)
    out, err = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    assert (process.returncode, out, err) == (code, b"", b"")
    now = await stats(session, board)
    assert (now["in_flight"], now["consumers"], now["checkpoint"]) == (0, [], 0)


async def test_a_lost_board_is_told_and_waited_for(board: Shoald, session: aiohttp.ClientSession) -> None:
    await append(session, board, "hall", [an_event(0)])
    process, printed = await subscribing(board, "--all", "--count", "2")
    assert process.stderr is not None
    await asyncio.wait_for(printed.readline(), PATIENCE_S)
    await until_settled(session, board)
    await board.kill9()
    lost = await asyncio.wait_for(process.stderr.readline(), PATIENCE_S)
    assert lost.startswith(b"shoal: the board is lost, waiting for it: ")
    await board.start()
    await append(session, board, "hall", [an_event(1)])
    out, err = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    assert (process.returncode, b"hall@1" in out) == (0, True)
    assert err == b"shoal: the board is there again, nothing was missed\n"


async def until_settled(session: aiohttp.ClientSession, board: Shoald) -> None:
    """Until the ack of what was delivered is answered too."""
    async with asyncio.timeout(PATIENCE_S):
        while (await stats(session, board))["checkpoint"] == 0:  # noqa: ASYNC110 - a board has no event
            await asyncio.sleep(0.005)


async def test_a_reader_that_has_seen_enough_ends_it_quietly(
    board: Shoald, session: aiohttp.ClientSession
) -> None:
    await append(session, board, "hall", [{"event_type": "wanted", "data": "x" * 4_000}] * 200)
    command = f"{' '.join(SHOAL)} subscribe sub hall --url {board.url} | head -n 1; exit ${{PIPESTATUS[0]}}"
    process = await asyncio.create_subprocess_exec(
        "bash", "-c", command, stdout=PIPE, stderr=PIPE, env=clean_environ()
    )
    out, err = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    assert (process.returncode, out.count(b"\n"), err) == (0, 1, b"")
    now = await stats(session, board)
    # What was written and not read any more lay in the pipe: 64 KiB, 16 of these events; and `head` takes a few.
    assert (1 <= now["checkpoint"] <= 40, now["in_flight"]) == (True, 0)
