"""What a subscription delivers: what its selector matches, from where it starts, each once and in order."""

from __future__ import annotations

import asyncio

import pytest
from consumer_kit import append, leases, nothing, positions, pull

from shoal.types import ANY_VERSION, NewEvent

# Each at the position of its number; half of them come before the subscription, half after it.
EARLY = (
    ("a$1", NewEvent("x", {"n": 1}, tags=["red"])),
    ("a-2", NewEvent("y", {"n": 2, "deep": {"k": "v", "m": 1}}, tags=["red", "big"])),
    ("b", NewEvent("x", {"n": 3, "deep": {"k": "w"}}, tags=["blue"])),
)
LATE = (
    ("a$1", NewEvent("z", {"n": 4, "deep": {"k": "v"}, "opt": None})),
    ("b", NewEvent("y", {"n": 5}, tags=["big", "blue"])),
    ("c.d", NewEvent("w", "text")),
)


async def write(store, events) -> None:
    for stream_id, event in events:
        await store.streams.append(stream_id, ANY_VERSION, [event])


@pytest.mark.parametrize(
    ("type_", "selector", "found"),
    [
        ("all", None, [1, 2, 3, 4, 5, 6]),
        ("stream", "a$1", [1, 4]),
        ("stream", "b", [3, 5]),
        ("stream", "a", []),
        ("event_type", "x", [1, 3]),
        ("event_type", ["x", "z"], [1, 3, 4]),
        ("event_pattern", "a*", [1, 2, 4]),
        ("event_pattern", "a$*", [1, 4]),
        ("event_pattern", "?", [3, 5]),
        ("event_pattern", "a", []),
        ("event_pattern", "c.?", [6]),
        ("event_pattern", "a.*", []),
        ("event_payload", {"n": 3}, [3]),
        ("event_payload", {"deep": {"k": "v"}}, [2, 4]),
        ("event_payload", {"deep": {"k": "v", "m": 1}}, [2]),
        ("event_payload", {"deep": {"k": "v"}, "n": 4}, [4]),
        ("event_payload", {"opt": None}, [4]),
        ("event_payload", {"n": {"$gt": 2}}, [3, 4, 5]),
        ("event_payload", {"n": {"$gte": 2}}, [2, 3, 4, 5]),
        ("event_payload", {"n": {"$lt": 2}}, [1]),
        ("event_payload", {"n": {"$lte": 2}}, [1, 2]),
        ("event_payload", {"n": {"$ne": 2}}, [1, 3, 4, 5]),
        ("event_payload", {"n": {"$in": [1, 4, 9]}}, [1, 4]),
        ("event_payload", {"n": {"$gt": 1, "$lt": 4}}, [2, 3]),
        ("event_payload", {"deep": {"m": {"$gte": 1}}}, [2]),
        ("event_payload", {"opt": {"$exists": True}}, [4]),
        ("event_payload", {"n": 5, "opt": {"$exists": False}}, [5]),
        ("tags", ["red"], [1, 2]),
        ("tags", ["red", "blue"], [1, 2, 3, 5]),
        ("tags", {"all": ["big", "blue"]}, [5]),
    ],
    ids=str,
)
async def test_what_matches_and_nothing_else(store, type_, selector, found):
    await write(store, EARLY)
    await store.subscriptions.create(type_, selector, "sub")
    early = [position for position in found if position <= 3]
    late = [position for position in found if position > 3]
    assert positions(await pull(store, len(early))) == early
    await write(store, LATE)
    assert positions(await pull(store, len(late))) == late
    assert await nothing(store)


async def test_an_event_comes_whole(store):
    event = NewEvent("x", b"\0\xff", {"m": 1}, ["t"], "id-1", "image/png")
    await store.streams.append("s", ANY_VERSION, [event])
    await store.subscriptions.create("all", None, "sub")
    (found,) = await pull(store, 1)
    (read,) = await store.streams.read("s")
    assert (found.data, found.metadata, found.tags) == (b"\0\xff", {"m": 1}, ["t"])
    for name in (
        "stream_id",
        "version",
        "position",
        "event_id",
        "event_type",
        "epoch_us",
        "data_content_type",
    ):
        assert getattr(found, name) == getattr(read, name)
    assert found.attempt == 1
    assert found.lease


@pytest.mark.parametrize(
    ("start_from", "found"), [("beginning", [1, 2, 3]), (0, [1, 2, 3]), (1, [2, 3]), ("end", [3]), (2, [3])]
)
async def test_where_it_starts(store, start_from, found):
    await append(store, 1, 2)
    made = await store.subscriptions.create("all", None, "sub", start_from=start_from)
    assert made.start_from == start_from
    assert made.checkpoint == 3 - len(found)
    await append(store, 3)
    assert positions(await pull(store, len(found))) == found
    assert await nothing(store)


async def test_streams_that_are_not_there_yet_are_waited_for(store):
    await store.subscriptions.create("stream", "later", "sub")
    waiting = asyncio.create_task(pull(store, 1))
    await append(store, 1, stream_id="other")
    await append(store, 2, stream_id="later")
    assert positions(await waiting) == [2]


async def test_a_pull_gives_no_more_than_asked_for_and_what_is_there_at_once(store):
    await append(store, *range(5))
    await store.subscriptions.create("all", None, "sub")
    assert positions(await store.subscriptions.pull("sub", 2)) == [1, 2]
    assert positions(await store.subscriptions.pull("sub", 100)) == [3, 4, 5]
    assert await store.subscriptions.pull("sub") == []


async def test_no_more_than_may_be_in_flight(store):
    await append(store, *range(5))
    await store.subscriptions.create("all", None, "sub", max_in_flight=2)
    events = await pull(store, 2)
    assert await nothing(store)
    await store.subscriptions.ack_leases("sub", leases(events[:1]))
    assert positions(await pull(store, 1)) == [3]
    assert await nothing(store)


async def test_deleted_events_are_not_delivered(store):
    await append(store, 1, stream_id="gone")
    await append(store, 2)
    await store.subscriptions.create("all", None, "sub")
    await store.streams.delete("gone")
    await append(store, 3, stream_id="gone")
    assert positions(await pull(store, 2)) == [2, 3]
    assert await nothing(store)


async def test_writers_during_catch_up_leave_no_gap_and_nothing_twice(store):
    for n in range(20):
        await append(store, *[n] * 10, stream_id=f"early-{n % 3}")

    async def write_some(writer: int) -> None:
        for _ in range(20):
            await append(store, writer, writer, stream_id=f"w-{writer}")

    writers = asyncio.gather(*(write_some(writer) for writer in range(5)))
    found: list[int] = []
    async with (
        asyncio.timeout(30),
        store.subscriptions.subscribe("all", None, "sub") as consumer,
    ):
        async for event in consumer:
            found.append(event.position)
            await consumer.ack(event)
            if len(found) == 400:
                break
        await writers
    assert found == list(range(1, 401))
    assert (await store.subscriptions.get("sub")).checkpoint == 400
    assert await nothing(store)
