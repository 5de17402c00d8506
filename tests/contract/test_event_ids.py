"""Idempotency: an append that comes twice is stored once, and an id never stands for two things."""

from __future__ import annotations

import asyncio

import pytest

from shoal.errors import EventIdReused, InvalidRequest, StreamTombstoned
from shoal.types import (
    ANY_VERSION,
    NO_STREAM,
    STREAM_EXISTS,
    Condition,
    NewEvent,
    Query,
    QueryItem,
    StreamWrite,
)

UUID_A = "018f7e5c-8b5a-7c3d-9e2f-1a2b3c4d5e6f"


def event(event_id: str, data: object = 1, **more: object) -> NewEvent:
    return NewEvent("e", data, event_id=event_id, **more)


def batch(*ids: str) -> list[NewEvent]:
    return [event(event_id) for event_id in ids]


@pytest.mark.parametrize("event_id", ["order-1", UUID_A, UUID_A.upper(), "ünï/ %?#", "x" * 128])
async def test_the_same_event_again_is_a_duplicate_with_the_original_place(store, event_id):
    await store.streams.append("s", NO_STREAM, batch("before"))
    first = await store.streams.append("s", ANY_VERSION, [event(event_id)])
    await store.streams.append("s", ANY_VERSION, batch("after"))
    again = await store.streams.append("s", ANY_VERSION, [event(event_id)])
    assert (again, again.first_version, again.position, again.duplicate) == (1, 1, 2, True)
    assert not first.duplicate
    assert await store.streams.get_version("s") == 2
    (stored,) = await store.streams.read("s", 1, 1)
    assert stored.event_id == event_id


@pytest.mark.parametrize("expected", [NO_STREAM, ANY_VERSION, STREAM_EXISTS, 0, 7])
async def test_ids_are_looked_up_before_the_expected_version(store, expected):
    await store.streams.append("s", NO_STREAM, batch("a", "b"))
    again = await store.streams.append("s", expected, batch("a", "b"))
    assert (again, again.first_version, again.position, again.duplicate) == (1, 0, 2, True)


async def test_a_part_of_an_earlier_batch_in_order_is_a_duplicate(store):
    await store.streams.append("s", NO_STREAM, batch("a", "b", "c", "d"))
    again = await store.streams.append("s", ANY_VERSION, batch("b", "c"))
    assert (again, again.first_version, again.duplicate) == (2, 1, True)


@pytest.mark.parametrize(
    "ids", [("b", "a"), ("a", "c"), ("a", "new"), ("new", "a"), ("c", "new", "new-2")], ids=str
)
async def test_another_order_a_hole_or_only_some_of_them_is_refused(store, ids):
    await store.streams.append("s", NO_STREAM, batch("a", "b", "c"))
    with pytest.raises(EventIdReused) as caught:
        await store.streams.append("s", ANY_VERSION, batch(*ids))
    assert caught.value.stream_id == "s"
    assert caught.value.event_id in ids
    assert await store.streams.get_version("s") == 2


@pytest.mark.parametrize(
    "other",
    [
        event("a", 2),
        event("a", True),
        event("a", "1"),
        event("a", b"1"),
        event("a", 1, metadata={"k": 1}),
        event("a", 1, tags=["t"]),
        NewEvent("f", 1, event_id="a"),
    ],
    ids=repr,
)
async def test_the_same_id_with_other_content_is_refused(store, other):
    await store.streams.append("s", NO_STREAM, [event("a", 1)])
    with pytest.raises(EventIdReused):
        await store.streams.append("s", ANY_VERSION, [other])
    assert await store.streams.get_version("s") == 0


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 1, "b": {"c": [1, 2], "d": None}}, {"b": {"d": None, "c": [1, 2]}, "a": 1}),
        ({"x": b"\0", "y": 1}, {"y": 1, "x": b"\0"}),
        ([1, 2], (1, 2)),
    ],
    ids=str,
)
async def test_how_equal_content_was_written_makes_no_difference(store, one, other):
    await store.streams.append("s", NO_STREAM, [event("a", one, metadata={"m": 1, "n": 2})])
    again = await store.streams.append("s", ANY_VERSION, [event("a", other, metadata={"n": 2, "m": 1})])
    assert again.duplicate


async def test_no_metadata_and_empty_metadata_are_the_same(store):
    await store.streams.append("s", NO_STREAM, [event("a", 1)])
    assert (await store.streams.append("s", ANY_VERSION, [event("a", 1, metadata={}, tags=[])])).duplicate


async def test_the_same_id_twice_in_one_request_is_invalid(store):
    with pytest.raises(InvalidRequest):
        await store.streams.append("s", ANY_VERSION, batch("a", "b", "a"))
    assert not await store.streams.exists("s")


async def test_an_id_belongs_to_its_stream(store):
    await store.streams.append("s", NO_STREAM, batch("a"))
    other = await store.streams.append("t", NO_STREAM, batch("a"))
    assert (other, other.duplicate) == (0, False)


async def test_without_ids_equal_events_are_two_events(store):
    await store.streams.append("s", NO_STREAM, [NewEvent("e", 1)])
    assert await store.streams.append("s", ANY_VERSION, [NewEvent("e", 1)]) == 1
    first, second = await store.streams.read("s")
    assert first.event_id < second.event_id
    assert first.event_id[14] == second.event_id[14] == "7"


async def test_an_id_that_the_store_made_can_be_sent_back(store):
    await store.streams.append("s", NO_STREAM, [NewEvent("e", 1)])
    (stored,) = await store.streams.read("s")
    assert (await store.streams.append("s", ANY_VERSION, [event(stored.event_id)])).duplicate


async def test_writers_that_send_the_same_event_at_once_store_it_once(store):
    results = await asyncio.gather(
        *(store.streams.append("s", ANY_VERSION, batch("a", "b")) for _ in range(10))
    )
    assert {int(result) for result in results} == {1}
    assert sorted(result.duplicate for result in results) == [False] + [True] * 9
    assert await store.streams.get_version("s") == 1


async def test_ids_outlive_a_soft_delete(store):
    await store.streams.append("s", NO_STREAM, batch("a"))
    await store.streams.delete("s")
    again = await store.streams.append("s", ANY_VERSION, batch("a"))
    assert (again, again.duplicate) == (0, True)
    assert not await store.streams.exists("s")


async def test_a_tombstone_answers_even_for_a_duplicate(store):
    await store.streams.append("s", NO_STREAM, batch("a"))
    await store.streams.delete("s", hard=True)
    with pytest.raises(StreamTombstoned):
        await store.streams.append("s", ANY_VERSION, batch("a"))


async def test_an_append_to_several_streams_again_is_a_duplicate_before_its_condition(store):
    writes = [StreamWrite("s", NO_STREAM, batch("a", "b")), StreamWrite("t", NO_STREAM, batch("a"))]
    condition = Condition(Query((QueryItem(types=("e",)),)), 0)
    first = await store.streams.append_many(writes, condition)
    again = await store.streams.append_many(writes, condition)
    assert (first.duplicate, again.duplicate) == (False, True)
    assert again.position == first.position == 3
    assert [(part.stream_id, part.first_version, int(part)) for part in again.results] == [
        ("s", 0, 1),
        ("t", 0, 0),
    ]
    assert len(await store.streams.read_all()) == 3


async def test_an_append_of_which_one_stream_is_new_is_refused(store):
    await store.streams.append("s", NO_STREAM, batch("a"))
    with pytest.raises(EventIdReused):
        await store.streams.append_many([StreamWrite("s", -2, batch("a")), StreamWrite("t", -2, batch("b"))])
    assert not await store.streams.exists("t")


async def test_an_event_is_found_by_its_id(store):
    await store.streams.append("s/1", NO_STREAM, [event(UUID_A), event("order 1/ä?")])
    assert (await store.streams.find_event(UUID_A)).version == 0
    assert (await store.streams.find_event("order 1/ä?")).version == 1
