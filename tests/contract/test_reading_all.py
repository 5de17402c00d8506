"""Reading across streams: position order, types, tags, queries, patterns, cursors."""

from __future__ import annotations

import asyncio

import pytest
import pytest_asyncio

from shoal.errors import Ambiguous, InvalidRequest, NotFound
from shoal.types import ANY_VERSION, NO_STREAM, EventFilter, NewEvent, Query, QueryItem


@pytest_asyncio.fixture(loop_scope="session")
async def mixed(store):
    """Nine events: positions 1 to 9 in three streams, types x, y, z by turns, tags by position."""
    for position in range(1, 10):
        tags = [f"third-{position % 3}"] + (["even"] if position % 2 == 0 else [])
        await store.streams.append(
            f"{'abc'[position % 3]}/{position % 2}",
            ANY_VERSION,
            [NewEvent("zxy"[position % 3], position, tags=tags)],
        )
    return store


def positions(events) -> list[int]:
    assert all(event.data == event.position for event in events)
    return [event.position for event in events]


@pytest.mark.parametrize(
    ("args", "found"),
    [
        ((), [1, 2, 3, 4, 5, 6, 7, 8, 9]),
        ((0,), [1, 2, 3, 4, 5, 6, 7, 8, 9]),
        ((3, 2), [4, 5]),
        ((8, 100), [9]),
        ((9, 100), []),
        ((1000, 100), []),
        ((None, 3, "backward"), [9, 8, 7]),
        ((4, 100, "backward"), [3, 2, 1]),
        ((1, 100, "backward"), []),
        ((1000, 2, "backward"), [9, 8]),
    ],
)
async def test_all_events_in_position_order(mixed, args, found):
    assert positions(await mixed.streams.read_all(*args)) == found


async def test_an_empty_store_has_no_events(store):
    assert await store.streams.read_all() == []
    page = await store.streams.read_events(EventFilter())
    assert (page.events, page.head, page.next) == ([], 0, 0)


@pytest.mark.parametrize("args", [(-1,), (0, 0), (0, -5), (0, 10_001), (2**53,), (0, 1, "up"), ("0", 1)])
async def test_what_is_out_of_range_is_refused_not_clamped(mixed, args):
    with pytest.raises(InvalidRequest):
        await mixed.streams.read_all(*args)


async def test_a_batch_keeps_its_order_across_streams(store):
    await asyncio.gather(
        *(
            store.streams.append(f"s-{writer}", NO_STREAM, [NewEvent("e", n) for n in range(40)])
            for writer in range(5)
        )
    )
    events = await store.streams.read_all(None, 200)
    assert [event.position for event in events] == list(range(1, 201))
    for first in range(0, 200, 40):
        batch = events[first : first + 40]
        assert [event.data for event in batch] == list(range(40))
        assert len({event.stream_id for event in batch}) == 1


@pytest.mark.parametrize(
    ("types", "found"),
    [
        (["x"], [1, 4, 7]),
        (["x", "z"], [1, 3, 4, 6, 7, 9]),
        (["x", "x"], [1, 4, 7]),
        (["nobody"], []),
        (["X"], []),
    ],
)
async def test_events_of_any_of_the_types(mixed, types, found):
    assert positions(await mixed.streams.read_by_event_types(types)) == found


async def test_events_of_a_type_in_pages(mixed):
    assert positions(await mixed.streams.read_by_event_types(["x", "y"], 4)) == [1, 2, 4, 5]
    assert positions(await mixed.streams.read_by_event_types(["x", "y"], 4, 5)) == [7, 8]


@pytest.mark.parametrize(
    ("tags", "match", "found"),
    [
        (["even"], "any", [2, 4, 6, 8]),
        (["even"], "all", [2, 4, 6, 8]),
        (["even", "third-0"], "any", [2, 3, 4, 6, 8, 9]),
        (["even", "third-0"], "all", [6]),
        (["even", "even"], "all", [2, 4, 6, 8]),
        (["Even"], "any", []),
        (["even", "nobody"], "all", []),
    ],
)
async def test_events_with_tags(mixed, tags, match, found):
    assert positions(await mixed.streams.read_by_tags(tags, match)) == found


async def test_events_with_tags_in_pages(mixed):
    assert positions(await mixed.streams.read_by_tags(["even"], "any", 2)) == [2, 4]
    assert positions(await mixed.streams.read_by_tags(["even"], "any", 2, 4)) == [6, 8]


WRONG_TYPES = {
    "letters of a tag": lambda streams: streams.read_by_tags("x"),
    "no tags": lambda streams: streams.read_by_tags(None),
    "tags of no text": lambda streams: streams.read_by_tags([1]),
    "some tags": lambda streams: streams.read_by_tags(["even"], "some"),
    "any or all of the tags": lambda streams: streams.read_by_tags(["even"], None),
    "letters of a type": lambda streams: streams.read_by_event_types("xy"),
    "no types": lambda streams: streams.read_by_event_types(None),
    "types of no text": lambda streams: streams.read_by_event_types([["x"]]),
    "no query": lambda streams: streams.query(None),
    "a number for a query": lambda streams: streams.query(5),
    "an item for a query": lambda streams: streams.query(QueryItem(("x",))),
    "items of another kind": lambda streams: streams.query(Query(((),))),
    "letters in a query": lambda streams: streams.query(Query((QueryItem("xy"),))),
    "no selection": lambda streams: streams.read_events(None),
    "letters in a selection": lambda streams: streams.read_events(EventFilter(types="xy")),
    "a pattern of no text": lambda streams: streams.read_events(EventFilter(stream_pattern=5)),
    "a selection of some tags": lambda streams: streams.read_events(EventFilter(tags_match="some")),
    "a selection by no query": lambda streams: streams.read_events(EventFilter(query=5)),
    "a system that is no bool": lambda streams: streams.read_events(EventFilter(system="no")),
}


@pytest.mark.parametrize("call", WRONG_TYPES.values(), ids=WRONG_TYPES)
async def test_wrong_types_are_refused(mixed, call):
    with pytest.raises(InvalidRequest):
        await call(mixed.streams)


async def test_a_tail_of_a_wrong_type_is_refused(mixed):
    with pytest.raises(InvalidRequest):
        await anext(mixed.streams.tail(EventFilter(tags="ab"), 0))


async def test_lists_are_as_good_as_tuples(mixed):
    query = Query([QueryItem(["x"], ["even"])] * 2)
    assert positions(await mixed.streams.read_by_tags(("even",))) == [2, 4, 6, 8]
    assert positions((await mixed.streams.query(query)).events) == [4]
    assert positions((await mixed.streams.read_events(EventFilter(["x"], ["even"]))).events) == [4]


async def test_empty_lists_are_refused(mixed):
    with pytest.raises(InvalidRequest):
        await mixed.streams.read_by_event_types([])
    with pytest.raises(InvalidRequest):
        await mixed.streams.read_by_tags([])
    with pytest.raises(InvalidRequest):
        await mixed.streams.query(Query(()))


@pytest.mark.parametrize(
    ("items", "found"),
    [
        ((QueryItem(("x",), ("even",)),), [4]),
        ((QueryItem(("x", "y"), ("even",)),), [2, 4, 8]),
        ((QueryItem(("x",)), QueryItem((), ("even", "third-0"))), [1, 4, 6, 7]),
        ((QueryItem(),), [1, 2, 3, 4, 5, 6, 7, 8, 9]),
        ((QueryItem(("x",)), QueryItem(("x",), ("even",))), [1, 4, 7]),
        ((QueryItem(("nobody",)),), []),
    ],
)
async def test_queries(mixed, items, found):
    page = await mixed.streams.query(Query(items))
    assert positions(page.events) == found
    assert page.head == 9


async def test_a_query_in_pages(mixed):
    query = Query((QueryItem(("x",)), QueryItem(("y",))))
    page = await mixed.streams.query(query, None, 3)
    assert positions(page.events) == [1, 2, 4]
    page = await mixed.streams.query(query, page.next, 100)
    assert positions(page.events) == [5, 7, 8]


async def test_next_moves_on_even_when_nothing_matched(mixed):
    page = await mixed.streams.read_events(EventFilter(types=("nobody",)), 2)
    assert (page.events, page.head, page.next) == ([], 9, 9)
    await mixed.streams.append("late", NO_STREAM, [NewEvent("nobody", 10)])
    assert positions((await mixed.streams.read_events(EventFilter(types=("nobody",)), page.next)).events) == [
        10
    ]


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("count", [1, 2, 3, 100])
async def test_following_next_finds_everything_once(mixed, direction, count):
    selection = EventFilter(types=("x", "z"))
    found, after = [], None
    for _ in range(20):
        page = await mixed.streams.read_events(selection, after, count, direction)
        found += positions(page.events)
        if not page.events:
            break
        after = page.next
    expected = [1, 3, 4, 6, 7, 9]
    assert found == (expected if direction == "forward" else expected[::-1])


@pytest.mark.parametrize(
    ("selection", "found"),
    [
        (EventFilter(stream_pattern="a/*"), [3, 6, 9]),
        (EventFilter(stream_pattern="*/0"), [2, 4, 6, 8]),
        (EventFilter(stream_pattern="?/1"), [1, 3, 5, 7, 9]),
        (EventFilter(stream_pattern="a"), []),
        (EventFilter(stream_pattern="a/*", types=("z",), tags=("even",)), [6]),
        (EventFilter(types=("x", "y"), tags=("even", "third-1"), tags_match="all"), [4]),
        (EventFilter(types=("x", "y"), tags=("even", "third-1"), tags_match="any"), [1, 2, 4, 7, 8]),
        (EventFilter(query=Query((QueryItem(("z",), ("even",)),))), [6]),
    ],
)
async def test_all_parts_of_a_filter_must_hold(mixed, selection, found):
    assert positions((await mixed.streams.read_events(selection)).events) == found
    if selection.query is None:
        backward = await mixed.streams.read_events(selection, None, 100, "backward")
        assert positions(backward.events) == found[::-1]


async def test_types_and_tags_may_hold_any_character(store):
    for n, name in enumerate(["a,b", "a", "b", "ü ?&=%#+", '"quoted"']):
        await store.streams.append("s", ANY_VERSION, [NewEvent(name, n, tags=[name])])
    for n, name in enumerate(["a,b", "a", "b", "ü ?&=%#+", '"quoted"']):
        assert [event.data for event in await store.streams.read_by_event_types([name])] == [n]
        assert [event.data for event in await store.streams.read_by_tags([name], "all")] == [n]
        assert [event.data for event in await store.streams.read_by_tags([name, "none"])] == [n]


async def test_an_id_in_several_streams_is_ambiguous_without_the_stream(store):
    for stream_id in ("a", "b"):
        await store.streams.append(stream_id, NO_STREAM, [NewEvent("e", stream_id, event_id="same")])
    with pytest.raises(Ambiguous) as caught:
        await store.streams.find_event("same")
    assert len(caught.value.facts["candidates"]) == 2
    assert (await store.streams.find_event("same", "b")).data == "b"
    for missing in (("nobody", None), ("same", "c")):
        with pytest.raises(NotFound):
            await store.streams.find_event(*missing)
