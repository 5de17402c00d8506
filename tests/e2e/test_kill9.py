"""`kill -9` of the real process under load: nothing acknowledged is lost, nothing is there twice.

Writers of five kinds run at once over HTTP. What a writer was told is kept in a `Ledger`; after each
restart the whole store is read and compared with it.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from e2e.shoald import Shoald, all_events, by_stream

ROUNDS = 6
Event = dict[str, Any]


@dataclass
class Ledger:
    """What writers sent and what they were told. A key names one event; a group is one append, whole or absent."""

    acknowledged: set[str] = field(default_factory=set)
    unknown: set[str] = field(default_factory=set)
    groups: dict[str, int] = field(default_factory=dict)
    enough: asyncio.Event = field(default_factory=asyncio.Event)
    target: int = 0
    made: int = 0

    def events(self, group_size: int, *, own_ids: bool) -> list[Event]:
        """New events of one group."""
        self.made += 1
        group = f"g{self.made}"
        self.groups[group] = group_size
        events = []
        for at in range(group_size):
            key = f"{group}.{at}"
            event: Event = {"event_type": "written", "data": {"key": key, "group": group}}
            events.append(event | {"event_id": f"id-{key}"} if own_ids else event)
        return events

    def sent(self, events: list[Event]) -> None:
        """These may be in the store from now on."""
        self.unknown.update(event["data"]["key"] for event in events)

    def answered(self, events: list[Event]) -> None:
        """These must be there from now on."""
        keys = {event["data"]["key"] for event in events}
        self.unknown -= keys
        self.acknowledged |= keys
        if len(self.acknowledged) >= self.target:
            self.enough.set()

    def check(self, events: list[Event]) -> None:
        """Compare with everything the store holds."""
        for stream_id, stored in by_stream(events):
            assert [event["version"] for event in stored] == list(range(len(stored))), (
                f"{stream_id} is not dense"
            )
        counts = Counter(event["data"]["key"] for event in events)
        assert not self.acknowledged - counts.keys(), "acknowledged events are lost"
        assert not counts.keys() - self.acknowledged - self.unknown, "events that nobody sent"
        assert [key for key, count in counts.items() if count > 1] == [], "events are there twice"
        sizes = Counter(event["data"]["group"] for event in events)
        assert {group: size for group, size in sizes.items() if size != self.groups[group]} == {}, (
            "partial appends"
        )


@dataclass
class Client:
    """Talks to the board; a connection that breaks is an answer that never came."""

    session: aiohttp.ClientSession
    url: str
    ledger: Ledger

    async def post(self, path: str, body: Any, events: list[Event]) -> tuple[int, Event]:
        """The status and document of an append; (0, {}) when none came, or the board said that it is leaving."""
        self.ledger.sent(events)
        try:
            async with self.session.post(f"{self.url}/v1/{path}", json=body) as answer:
                status, document = answer.status, await answer.json(content_type=None)
        except (aiohttp.ClientError, OSError):
            return 0, {}
        if status in (200, 201):
            self.ledger.answered(events)
        return (0, {}) if status == 503 else (status, document)


Writer = Callable[[Client, int], Awaitable[None]]


async def one_by_one(client: Client, number: int) -> None:
    """Single events with ids of their own."""
    while True:
        events = client.ledger.events(1, own_ids=True)
        if (await client.post(f"streams/single-{number}", events, events))[0] == 0:
            return


async def in_batches(client: Client, number: int) -> None:
    """Batches with ids of their own, and the exact version expected."""
    path, version, size = f"streams/batch-{number}", -2, 7
    while True:
        events = client.ledger.events(size, own_ids=True)
        status, document = await client.post(path, {"expected_version": version, "events": events}, events)
        if status == 0:
            return
        assert status == 201, document
        assert version == -2 or document["first_version"] == version + 1
        version = document["version"]


async def without_ids(client: Client, number: int) -> None:
    """Events whose ids the store makes, all writers into one stream."""
    while True:
        events = client.ledger.events(1 + number % 3, own_ids=False)
        if (await client.post("streams/shared", events, events))[0] == 0:
            return


async def over_two_streams(client: Client, number: int) -> None:
    """Appends to two streams at once."""
    while True:
        events = client.ledger.events(4, own_ids=True)
        writes = [
            {"stream_id": f"left-{number}", "expected_version": -2, "events": events[:2]},
            {"stream_id": f"right-{number}", "expected_version": -2, "events": events[2:]},
        ]
        if (await client.post("append", {"writes": writes}, events))[0] == 0:
            return


async def in_competition(client: Client, number: int) -> None:
    """Several writers expect the same version of one stream: one wins, the others read on and try again."""
    version = -1
    while True:
        events = client.ledger.events(1, own_ids=False)
        body = {"expected_version": version, "events": events}
        status, document = await client.post("streams/contested", body, events)
        if status == 0:
            return
        if status == 409:
            client.ledger.unknown.discard(events[0]["data"]["key"])  # refused: must never appear
            version = document["actual_version"]
        else:
            version = document["version"]


WRITERS: tuple[Writer, ...] = (
    *(one_by_one, one_by_one, one_by_one),
    *(in_batches, in_batches),
    *(without_ids, without_ids, without_ids),
    *(over_two_streams, over_two_streams),
    *(in_competition, in_competition, in_competition),
)


@asynccontextmanager
async def under_load(board: Shoald, ledger: Ledger) -> AsyncIterator[None]:
    """All writers at work until the board goes; the block begins once enough was acknowledged."""
    ledger.enough.clear()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        client = Client(session, board.url, ledger)
        writers = [asyncio.create_task(write(client, number)) for number, write in enumerate(WRITERS)]
        enough = asyncio.create_task(ledger.enough.wait())
        await asyncio.wait((*writers, enough), timeout=30, return_when=asyncio.FIRST_COMPLETED)
        enough.cancel()
        failed = [writer.exception() for writer in writers if writer.done()]
        assert not failed, f"{failed}\n{board.log}"
        yield
        await asyncio.wait_for(asyncio.gather(*writers), 30)


async def read_and_check(board: Shoald, ledger: Ledger) -> list[Event]:
    """The store against the ledger."""
    async with aiohttp.ClientSession() as session:
        events = await all_events(session, board.url)
    ledger.check(events)
    return events


async def first_thing_after_restart(board: Shoald, ledger: Ledger) -> None:
    """Before anything else was read: versions are right, and an existing stream is known to exist."""
    async with aiohttp.ClientSession() as session:
        for stream_id in ("batch-3", "shared", "contested"):
            async with session.head(f"{board.url}/v1/streams/{stream_id}") as answer:
                version = int(answer.headers["ETag"].strip('"'))
            body = {"expected_version": -1, "events": ledger.events(1, own_ids=False)}
            async with session.post(f"{board.url}/v1/streams/{stream_id}", json=body) as answer:
                problem = await answer.json(content_type=None)
                assert (answer.status, problem["code"]) == (409, "wrong-expected-version")
            params = {"direction": "backward", "limit": "1"}
            async with session.get(f"{board.url}/v1/streams/{stream_id}", params=params) as answer:
                page = await answer.json()
            assert problem["actual_version"] == version == page["version"] == page["events"][0]["version"]
            assert version >= 0


async def repeat_what_was_not_answered(board: Shoald, ledger: Ledger) -> None:
    """The same events with the same ids again: stored if they were not, known if they were."""
    stored = {event["data"]["key"]: event for event in await read_and_check(board, ledger)}
    open_groups = {key.split(".")[0] for key in ledger.unknown}
    async with aiohttp.ClientSession() as session:
        client = Client(session, board.url, ledger)
        for group in sorted(open_groups):
            if ledger.groups[group] != 7:  # the batches: their ids are their own
                continue
            keys = [f"{group}.{at}" for at in range(7)]
            stream_id = stored[keys[0]]["stream_id"] if keys[0] in stored else "batch-3"
            events: list[Event] = [
                {"event_type": "written", "data": {"key": key, "group": group}, "event_id": f"id-{key}"}
                for key in keys
            ]
            status, document = await client.post(f"streams/{stream_id}", events, events)
            assert status == (200 if keys[0] in stored else 201), document


@pytest.fixture
async def board(tmp_path: Path) -> AsyncIterator[Shoald]:
    board = Shoald(tmp_path / "data")
    yield board
    await board.close()


async def test_kill_under_load_loses_nothing_and_doubles_nothing(board: Shoald) -> None:
    ledger, chance = Ledger(), random.Random(9)
    for _ in range(ROUNDS):
        await board.start()
        if ledger.acknowledged:
            await first_thing_after_restart(board, ledger)
            await repeat_what_was_not_answered(board, ledger)
        ledger.target = len(ledger.acknowledged) + chance.randrange(150, 900)
        async with under_load(board, ledger):
            await board.kill9()
    await board.start()
    await first_thing_after_restart(board, ledger)
    await repeat_what_was_not_answered(board, ledger)
    events = await read_and_check(board, ledger)
    assert len(events) > ROUNDS * 150


async def test_kill_while_recovering_changes_nothing(board: Shoald) -> None:
    """Killed again at once, several times, before it was ready."""
    ledger = Ledger(target=2_000)
    await board.start()
    async with under_load(board, ledger):
        await board.kill9()
    for _ in range(3):
        size = len(board.log)
        await board.launch()
        os.sched_yield()
        await board.kill9()
        assert "Traceback" not in board.log[size:]
    await board.start()
    await first_thing_after_restart(board, ledger)
    await read_and_check(board, ledger)


async def test_sigterm_under_load_ends_with_0_and_loses_nothing(board: Shoald) -> None:
    ledger = Ledger(target=500)
    await board.start()
    async with under_load(board, ledger):
        assert await board.stop() == 0
    assert "Traceback" not in board.log
    await board.start()
    await read_and_check(board, ledger)


async def test_a_second_process_on_the_same_directory_is_refused(board: Shoald) -> None:
    await board.start()
    second = Shoald(board.data_dir)
    try:
        await second.launch()
        assert await asyncio.wait_for(second.ended(), 20) == 2
        lines = second.log.splitlines()
        assert len(lines) <= 3
        assert str(board.data_dir) in second.log
        assert "in use" in second.log
    finally:
        await second.close()
    await board.stop()


# --- files that are not as they were left


def segments(board: Shoald) -> list[Path]:
    """The journal's files, oldest first."""
    return sorted((board.data_dir / "journal").glob("*.seg"))


def used_bytes(segment: Path) -> int:
    """Where the zeros that were allocated ahead begin."""
    return len(segment.read_bytes().rstrip(b"\0"))


def change(path: Path, offset: int, data: bytes) -> None:
    """Overwrite bytes in place."""
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


async def killed_after_load(board: Shoald) -> Ledger:
    """A board that was killed with everything still in its journal."""
    ledger = Ledger(target=1_000)
    await board.start()
    async with under_load(board, ledger):
        await board.kill9()
    return ledger


async def test_a_torn_journal_tail_opens_and_says_so(board: Shoald) -> None:
    ledger = await killed_after_load(board)
    segment = segments(board)[-1]
    end = -(-used_bytes(segment) // 8) * 8
    change(segment, end, b"SREC" + random.Random(1).randbytes(333))
    await board.start()
    assert "cut off" in board.log
    await first_thing_after_restart(board, ledger)
    await read_and_check(board, ledger)
    assert await board.stop() == 0


@pytest.mark.parametrize("where", [0.3, 0.9])
async def test_a_flipped_byte_in_the_journal_is_refused_by_name(board: Shoald, where: float) -> None:
    await killed_after_load(board)
    segment = segments(board)[-1]
    offset = 4096 + int((used_bytes(segment) - 4096) * where)
    change(segment, offset, bytes([segment.read_bytes()[offset] ^ 0x10]))
    before = len(board.log)
    await board.launch()
    assert await asyncio.wait_for(board.ended(), 30) not in (0, None)
    said = board.log[before:]
    assert str(segment) in said
    assert "damaged" in said
    assert "Traceback" not in said
    assert len(said.splitlines()) <= 3


def database(board: Shoald) -> Path:
    """The SQLite file of the store `main`."""
    root = board.data_dir / "db"
    (path,) = (root / (root / "CURRENT").read_text().strip()).glob("main-*.db")
    return path


@pytest.mark.parametrize("damage", ["header", "pages", "cut"])
async def test_a_corrupt_database_is_set_aside_and_rebuilt(board: Shoald, damage: str) -> None:
    ledger = Ledger(target=800)
    await board.start()
    async with under_load(board, ledger):
        assert await board.stop() == 0
    path = database(board)
    size = path.stat().st_size
    if damage == "header":
        change(path, 0, b"not a database at all")
    elif damage == "pages":
        for offset in range(4096, size, 8192):
            change(path, offset, random.Random(offset).randbytes(4096))
    else:
        os.truncate(path, size // 2)
    await board.start()
    assert "rebuilt" in board.log
    await first_thing_after_restart(board, ledger)
    await read_and_check(board, ledger)
    kept = [found for found in (board.data_dir / "db").iterdir() if found.name.startswith("quarantine")]
    assert len(kept) == 1
    assert await board.stop() == 0
