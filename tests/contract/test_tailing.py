"""Tails: everything there is, then everything that comes, each once and in order."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from shoal.errors import StreamTombstoned
from shoal.types import ANY_VERSION, NO_STREAM, CaughtUp, EventFilter, NewEvent, Query, QueryItem

ALL = EventFilter()


async def append(store, *data: object, stream_id: str = "s", event_type: str = "e") -> None:
    await store.streams.append(
        stream_id, ANY_VERSION, [NewEvent(event_type, value, tags=[f"t-{value}"]) for value in data]
    )


async def take(tail, count: int) -> list[object]:
    """The next items: data of events, and CaughtUp."""
    async with asyncio.timeout(10):
        items = [await anext(tail) for _ in range(count)]
    return [item if isinstance(item, CaughtUp) else item.data for item in items]


async def test_first_what_there_is_then_what_comes(store):
    await append(store, 1, 2)
    async with aclosing(store.streams.tail(ALL, 0)) as tail:
        assert await take(tail, 3) == [1, 2, CaughtUp(2)]
        await append(store, 3)
        await append(store, 4, 5, stream_id="other")
        assert await take(tail, 3) == [3, 4, 5]


async def test_an_empty_store_is_caught_up_at_once(store):
    async with aclosing(store.streams.tail(ALL, 0)) as tail:
        assert await take(tail, 1) == [CaughtUp(0)]
        await append(store, 1)
        assert await take(tail, 1) == [1]


async def test_after_a_position(store):
    await append(store, 1, 2, 3)
    async with aclosing(store.streams.tail(ALL, 2)) as tail:
        assert await take(tail, 2) == [3, CaughtUp(3)]


async def test_from_now_on(store):
    await append(store, 1, 2)
    async with aclosing(store.streams.tail(ALL)) as tail:
        assert await take(tail, 1) == [CaughtUp(2)]
        await append(store, 3)
        assert await take(tail, 1) == [3]


@pytest.mark.parametrize(
    ("selection", "found"),
    [
        (EventFilter(types=("x",)), [2, 6]),
        (EventFilter(types=("x", "y")), [2, 3, 6]),
        (EventFilter(tags=("t-1", "t-5")), [1, 5]),
        (EventFilter(stream_pattern="a*"), [1, 2, 5]),
        (EventFilter(query=Query((QueryItem(("y",)), QueryItem((), ("t-6",))))), [3, 6]),
        (EventFilter(types=("x",), stream_pattern="b"), [6]),
    ],
)
async def test_only_what_is_selected_before_and_after_catching_up(store, selection, found):
    await append(store, 1, stream_id="a1")
    await append(store, 2, stream_id="a2", event_type="x")
    await append(store, 3, stream_id="b", event_type="y")
    async with aclosing(store.streams.tail(selection, 0)) as tail:
        early = [value for value in found if value <= 3]
        assert await take(tail, len(early) + 1) == [*early, CaughtUp(3)]
        await append(store, 4, stream_id="b")
        await append(store, 5, stream_id="a3")
        await append(store, 6, stream_id="b", event_type="x")
        late = [value for value in found if value > 3]
        assert await take(tail, len(late)) == late


async def test_one_stream_only(store):
    await append(store, 1, stream_id="a/b")
    await append(store, 2, stream_id="c")
    async with aclosing(store.streams.tail(ALL, 0, stream_id="a/b")) as tail:
        first, caught_up = await take(tail, 2)
        assert first == 1
        assert isinstance(caught_up, CaughtUp)
        await append(store, 3, stream_id="c")
        await append(store, 4, stream_id="a/b")
        assert await take(tail, 1) == [4]


async def test_a_stream_that_is_not_there_yet_is_waited_for(store):
    async with aclosing(store.streams.tail(ALL, 0, stream_id="later")) as tail:
        assert await take(tail, 1) == [CaughtUp(0)]
        await append(store, 1, stream_id="later")
        assert await take(tail, 1) == [1]


async def test_deleted_events_are_not_caught_up_with(store):
    await append(store, 1, stream_id="gone")
    await append(store, 2)
    await store.streams.delete("gone")
    async with aclosing(store.streams.tail(ALL, 0)) as tail:
        assert await take(tail, 2) == [2, CaughtUp(2)]


async def test_writers_during_catch_up_leave_no_gap_and_nothing_twice(store):
    for n in range(20):
        await store.streams.append(f"early-{n % 3}", ANY_VERSION, [NewEvent("e", n)] * 10)

    async def write(writer: int) -> None:
        for _ in range(20):
            await store.streams.append(f"w-{writer}", ANY_VERSION, [NewEvent("e", writer)] * 2)

    writers = asyncio.gather(*(write(writer) for writer in range(5)))
    positions: list[int] = []
    caught_up = 0
    async with aclosing(store.streams.tail(ALL, 0)) as tail, asyncio.timeout(20):
        while len(positions) < 400:
            item = await anext(tail)
            if isinstance(item, CaughtUp):
                caught_up += 1
            else:
                positions.append(item.position)
        await writers
        await append(store, "last")
        while caught_up == 0:
            item = await anext(tail)
            caught_up += isinstance(item, CaughtUp)
    assert positions == list(range(1, 401))
    assert caught_up == 1


async def test_several_tails_at_once_see_the_same(store):
    tails = [store.streams.tail(ALL, 0) for _ in range(5)]
    for tail in tails:
        assert await take(tail, 1) == [CaughtUp(0)]
    await append(store, 1, 2, 3)
    for tail in tails:
        assert await take(tail, 3) == [1, 2, 3]
        await tail.aclose()


async def test_a_slow_reader_misses_nothing(store):
    async with aclosing(store.streams.tail(ALL, 0)) as tail:
        assert await take(tail, 1) == [CaughtUp(0)]
        for n in range(0, 5_000, 500):
            await store.streams.append("s", ANY_VERSION, [NewEvent("e", n + i) for i in range(500)])
        assert await take(tail, 5_000) == list(range(5_000))


async def test_a_tail_that_was_left_does_not_stop_the_store(store):
    async with aclosing(store.streams.tail(ALL, 0)) as tail:
        await take(tail, 1)
    assert await store.streams.append("s", NO_STREAM, [NewEvent("e", 1)]) == 0


@pytest.mark.parametrize("deleted_before", [True, False])
async def test_a_tail_of_a_stream_ends_when_the_stream_is_deleted_for_ever(store, deleted_before):
    await append(store, 1, stream_id="gone")
    if deleted_before:
        await store.streams.delete("gone", hard=True)
    async with aclosing(store.streams.tail(ALL, 0, stream_id="gone")) as tail, asyncio.timeout(10):
        if not deleted_before:
            assert await take(tail, 2) == [1, CaughtUp(1)]
            await store.streams.delete("gone")  # softly it may come again
            await append(store, 2, stream_id="gone")
            assert await take(tail, 1) == [2]
            await store.streams.delete("gone", hard=True)
        with pytest.raises(StreamTombstoned):
            await anext(tail)
