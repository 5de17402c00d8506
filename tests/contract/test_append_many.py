"""Appends to several streams, and dynamic consistency boundaries."""

from __future__ import annotations

import asyncio

import pytest

from shoal.errors import ConditionFailed, InvalidRequest, StreamTombstoned, WrongExpectedVersion
from shoal.types import ANY_VERSION, NO_STREAM, Condition, NewEvent, Query, QueryItem, StreamWrite


def event(event_type: str = "e", *tags: str) -> NewEvent:
    return NewEvent(event_type, {"of": event_type}, tags=tags or None)


def when_none(*items: QueryItem, after: int = 0) -> Condition:
    return Condition(Query(items), after)


async def test_all_streams_get_their_events_in_the_order_of_the_writes(store):
    await store.streams.append("a", NO_STREAM, [event()])
    result = await store.streams.append_many(
        [StreamWrite("b", NO_STREAM, [event("x"), event("y")]), StreamWrite("a", 0, [event("z")])]
    )
    assert result.position == 4
    assert not result.duplicate
    assert [(part.stream_id, part.first_version, int(part), part.position) for part in result.results] == [
        ("b", 0, 1, 3),
        ("a", 1, 1, 4),
    ]
    assert [(found.stream_id, found.event_type) for found in await store.streams.read_all(1)] == [
        ("b", "x"),
        ("b", "y"),
        ("a", "z"),
    ]


@pytest.mark.parametrize("expected", [NO_STREAM, 3])
async def test_one_conflict_refuses_all(store, expected):
    await store.streams.append("a", NO_STREAM, [event()])
    with pytest.raises(WrongExpectedVersion) as caught:
        await store.streams.append_many(
            [StreamWrite("b", NO_STREAM, [event()]), StreamWrite("a", expected, [event()])]
        )
    assert (caught.value.stream_id, caught.value.expected, caught.value.actual) == ("a", expected, 0)
    assert await store.streams.list_streams() == ["a"]
    assert await store.streams.get_version("a") == 0


async def test_one_bad_event_refuses_all(store):
    with pytest.raises(InvalidRequest) as caught:
        await store.streams.append_many(
            [StreamWrite("a", -2, [event()]), StreamWrite("b", -2, [event(), event("")])]
        )
    assert caught.value.pointer.startswith("/writes/1/events/1")
    assert await store.streams.list_streams() == []


async def test_one_tombstone_refuses_all(store):
    await store.streams.append("gone", NO_STREAM, [event()])
    await store.streams.delete("gone", hard=True)
    with pytest.raises(StreamTombstoned) as caught:
        await store.streams.append_many([StreamWrite("a", -2, [event()]), StreamWrite("gone", -2, [event()])])
    assert caught.value.stream_id == "gone"
    assert not await store.streams.exists("a")


async def test_a_write_without_events_only_checks(store):
    await store.streams.append("a", NO_STREAM, [event()])
    result = await store.streams.append_many([StreamWrite("a", 0, []), StreamWrite("b", -1, [event()])])
    assert [int(part) for part in result.results] == [0, 0]
    with pytest.raises(WrongExpectedVersion):
        await store.streams.append_many([StreamWrite("a", 5, []), StreamWrite("b", 0, [event()])])
    assert await store.streams.get_version("b") == 0


async def test_no_writes_and_the_same_stream_twice_are_invalid(store):
    with pytest.raises(InvalidRequest):
        await store.streams.append_many([])
    with pytest.raises(InvalidRequest):
        await store.streams.append_many([StreamWrite("a", -2, [event()]), StreamWrite("a", -2, [event()])])


@pytest.mark.parametrize("expected", [-3, -5, 2**53])
async def test_expected_versions_are_those_of_a_single_append(store, expected):
    with pytest.raises(InvalidRequest):
        await store.streams.append_many([StreamWrite("a", expected, [event()])])


async def test_a_condition_that_no_event_matches_lets_through(store):
    await store.streams.append("a", NO_STREAM, [event("x", "t1")])
    condition = when_none(QueryItem(("x",), ("t2",)), QueryItem(("y",)))
    assert (await store.streams.append_many([StreamWrite("b", -1, [event()])], condition)).position == 2


@pytest.mark.parametrize(
    ("item", "after", "position"),
    [
        (QueryItem(("x",)), 0, 1),
        (QueryItem(("x",)), 1, 3),
        (QueryItem(("y",)), 0, 2),
        (QueryItem(("x", "y")), 1, 2),
        (QueryItem((), ("t1",)), 0, 1),
        (QueryItem((), ("t2", "t1")), 0, 3),
        (QueryItem(("x",), ("t2",)), 0, 3),
        (QueryItem(), 2, 3),
    ],
)
async def test_a_match_refuses_and_is_named(store, item, after, position):
    await store.streams.append("a", NO_STREAM, [event("x", "t1")])
    await store.streams.append("b", NO_STREAM, [event("y", "t2"), event("x", "t1", "t2")])
    with pytest.raises(ConditionFailed) as caught:
        await store.streams.append_many(
            [StreamWrite("c", ANY_VERSION, [event()])], when_none(item, after=after)
        )
    assert caught.value.position == position
    assert caught.value.outcome == "not-applied"
    assert not await store.streams.exists("c")


async def test_events_up_to_after_do_not_count(store):
    await store.streams.append("a", NO_STREAM, [event("x"), event("x")])
    await store.streams.append_many([StreamWrite("b", -1, [event()])], when_none(QueryItem(("x",)), after=2))


async def test_deleted_events_do_not_count(store):
    await store.streams.append("a", NO_STREAM, [event("x", "t")])
    await store.streams.delete("a")
    await store.streams.append_many([StreamWrite("b", -1, [event()])], when_none(QueryItem(("x",), ("t",))))


async def test_a_condition_needs_items(store):
    with pytest.raises(InvalidRequest):
        await store.streams.append_many([StreamWrite("b", -1, [event()])], when_none())


@pytest.mark.parametrize(
    "condition",
    [
        Condition(None),
        Condition(Query(None)),
        Condition(Query("ab")),
        Condition(Query((None,))),
        Condition(Query((("e",),))),
        Condition(Query((QueryItem("ab"),))),
        Condition(Query((QueryItem(tags="ab"),))),
        Condition(Query((QueryItem((1,)),))),
        Condition(Query((QueryItem((["e"],)),))),
        Condition(Query((QueryItem(("e",)),)), "0"),
        Condition(Query((QueryItem(("e",)),)), True),
        Condition(Query((QueryItem(("e",)),)), -1),
        Query((QueryItem(("e",)),)),
        5,
    ],
    ids=repr,
)
async def test_a_condition_of_wrong_types_is_refused_and_harms_nobody(store, condition):
    other = asyncio.ensure_future(store.streams.append("other", ANY_VERSION, [event()]))
    with pytest.raises(InvalidRequest):
        await store.streams.append_many([StreamWrite("s", ANY_VERSION, [event()])], condition)
    assert await other == 0
    assert await store.streams.append("other", 0, [event()]) == 1


async def test_a_condition_may_hold_lists(store):
    await store.streams.append("s", ANY_VERSION, [event("x", "t")])
    condition = Condition(Query([QueryItem(["x"], ["t"]), QueryItem(["x"], ["t"])]), 0)
    with pytest.raises(ConditionFailed):
        await store.streams.append_many([StreamWrite("s", ANY_VERSION, [event()])], condition)
    condition = Condition(Query([QueryItem(["nope"])]), 0)
    assert (await store.streams.append_many([StreamWrite("s", 0, [event()])], condition)).position == 2


@pytest.mark.parametrize("writes", [None, 5, "ab", [None], [("s", ANY_VERSION, [])]], ids=repr)
async def test_writes_of_wrong_types_are_refused(store, writes):
    with pytest.raises(InvalidRequest):
        await store.streams.append_many(writes)


async def test_of_writers_that_claim_the_same_thing_exactly_one_wins(store):
    async def claim(writer: int) -> int:
        claimed = NewEvent("claimed", writer, tags=["name:alice"])
        try:
            await store.streams.append_many(
                [StreamWrite(f"user-{writer}", NO_STREAM, [claimed])],
                when_none(QueryItem(("claimed",), ("name:alice",))),
            )
        except ConditionFailed as error:
            return error.position
        return 0

    matches = await asyncio.gather(*(claim(writer) for writer in range(20)))
    assert sorted(matches) == [0] + [1] * 19
    assert len(await store.streams.read_all()) == 1
