"""Deleting: soft, so that numbering goes on; hard, for ever."""

from __future__ import annotations

import pytest
import pytest_asyncio

from shoal.errors import InvalidRequest, NotFound, StreamNotFound, StreamTombstoned, WrongExpectedVersion
from shoal.types import ANY_VERSION, NO_STREAM, STREAM_EXISTS, EventFilter, NewEvent, Query, QueryItem


def some(count: int, first: int = 0) -> list[NewEvent]:
    return [NewEvent("e", n, tags=["t"]) for n in range(first, first + count)]


@pytest_asyncio.fixture(loop_scope="session")
async def two(store):
    """`keep` at positions 1 and 4, `s` at 2, 3 and 5."""
    await store.streams.append("keep", NO_STREAM, some(1))
    await store.streams.append("s", NO_STREAM, some(2))
    await store.streams.append("keep", 0, some(1))
    await store.streams.append("s", 1, some(1, 2))
    return store


@pytest.mark.parametrize("hard", [False, True])
async def test_a_deleted_stream_is_nowhere(two, hard):
    event_id = (await two.streams.read_event("s", 0)).event_id
    await two.streams.delete("s", hard=hard)
    error = StreamTombstoned if hard else StreamNotFound
    assert not await two.streams.exists("s")
    assert await two.streams.get_version("s") == -1
    for read in (
        lambda: two.streams.read("s"),
        lambda: two.streams.read("s", None, 1, "backward"),
        lambda: two.streams.read_event("s", 0),
    ):
        with pytest.raises(error) as caught:
            await read()
        assert caught.value.stream_id == "s"
    assert await two.streams.list_streams() == ["keep"]
    reads = [
        await two.streams.read_all(),
        await two.streams.read_by_event_types(["e"]),
        await two.streams.read_by_tags(["t"]),
        (await two.streams.query(Query((QueryItem(("e",), ("t",)),)))).events,
        (await two.streams.read_events(EventFilter(stream_pattern="*"))).events,
        (await two.streams.read_all(None, 100, "backward"))[::-1],
    ]
    assert [[event.position for event in found] for found in reads] == [[1, 4]] * 6
    with pytest.raises(NotFound):
        await two.streams.find_event(event_id)


@pytest.mark.parametrize("hard", [False, True])
async def test_positions_are_never_given_again(two, hard):
    await two.streams.delete("s", hard=hard)
    assert (await two.streams.append("new", NO_STREAM, some(1))).position == 6
    page = await two.streams.read_events(EventFilter(), 4)
    assert ([event.position for event in page.events], page.head, page.next) == ([6], 6, 6)


@pytest.mark.parametrize("expected", [NO_STREAM, ANY_VERSION])
async def test_numbering_goes_on_when_a_soft_deleted_stream_opens_again(two, expected):
    await two.streams.delete("s")
    again = await two.streams.append("s", expected, some(2, 10))
    assert (again, again.first_version) == (4, 3)
    assert await two.streams.exists("s")
    assert await two.streams.get_version("s") == 4
    for args in ((), (0, 10), (3, 10)):
        assert [(event.version, event.data) for event in await two.streams.read("s", *args)] == [
            (3, 10),
            (4, 11),
        ]
    assert [event.version for event in await two.streams.read("s", None, 10, "backward")] == [4, 3]
    assert (await two.streams.read_page("s", 100, 10, "backward")).next is None
    with pytest.raises(NotFound):
        await two.streams.read_event("s", 0)
    assert await two.streams.append("s", 4, some(1)) == 5


@pytest.mark.parametrize("expected", [STREAM_EXISTS, 2, 0])
async def test_a_soft_deleted_stream_is_at_minus_one_for_writers(two, expected):
    await two.streams.delete("s")
    with pytest.raises(WrongExpectedVersion) as caught:
        await two.streams.append("s", expected, some(1))
    assert caught.value.actual == -1


async def test_deleting_again_and_again(two):
    for life in range(3):
        await two.streams.delete("s")
        await two.streams.delete("s")
        assert await two.streams.append("s", NO_STREAM, some(1, life)) == 3 + life
        assert [event.data for event in await two.streams.read("s")] == [life]


@pytest.mark.parametrize("hard", [False, True])
async def test_deleting_what_is_not_there_is_fine(store, hard):
    await store.streams.delete("nobody", hard=hard)
    assert not await store.streams.exists("nobody")


@pytest.mark.parametrize("expected", [NO_STREAM, ANY_VERSION, STREAM_EXISTS, 2])
async def test_a_tombstone_takes_no_more_events(two, expected):
    await two.streams.delete("s", hard=True)
    with pytest.raises(StreamTombstoned) as caught:
        await two.streams.append("s", expected, some(1))
    assert caught.value.stream_id == "s"
    assert not caught.value.retryable


async def test_a_soft_deleted_stream_can_be_deleted_for_ever(two):
    await two.streams.delete("s")
    await two.streams.delete("s", hard=True)
    await two.streams.delete("s", hard=True)
    with pytest.raises(StreamTombstoned):
        await two.streams.append("s", NO_STREAM, some(1))


@pytest.mark.parametrize("hard", [False, True])
async def test_a_delete_may_expect_a_version(two, hard):
    for wrong in (NO_STREAM, 1, 3):
        with pytest.raises(WrongExpectedVersion) as caught:
            await two.streams.delete("s", hard=hard, expected_version=wrong)
        assert (caught.value.expected, caught.value.actual) == (wrong, 2)
    assert await two.streams.get_version("s") == 2
    await two.streams.delete("s", hard=hard, expected_version=2)
    assert not await two.streams.exists("s")


async def test_a_delete_may_expect_that_the_stream_exists(two):
    await two.streams.delete("s", expected_version=STREAM_EXISTS)
    assert not await two.streams.exists("s")


@pytest.mark.parametrize("expected", [-3, -5, 2**53])
async def test_expected_versions_are_those_of_an_append(two, expected):
    with pytest.raises(InvalidRequest):
        await two.streams.delete("s", expected_version=expected)
    assert await two.streams.exists("s")
