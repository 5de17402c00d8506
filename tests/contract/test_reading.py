"""Reading one stream: forward, backward, in pages, and where there is nothing."""

from __future__ import annotations

import pytest
import pytest_asyncio

from shoal.errors import InvalidRequest, NotFound, StreamNotFound
from shoal.types import ANY_VERSION, NO_STREAM, NewEvent


@pytest_asyncio.fixture(loop_scope="session")
async def five(store):
    """A store with another stream, and five events in `s`."""
    await store.streams.append("other", NO_STREAM, [NewEvent("e", "other")])
    await store.streams.append("s", NO_STREAM, [NewEvent("e", n) for n in range(5)])
    return store


async def read(store, *args) -> list[int]:
    events = await store.streams.read("s", *args)
    assert [event.data for event in events] == [event.version for event in events]
    return [event.version for event in events]


@pytest.mark.parametrize(
    ("args", "versions"),
    [
        ((), [0, 1, 2, 3, 4]),
        ((0, 10, "forward"), [0, 1, 2, 3, 4]),
        ((0, 3, "forward"), [0, 1, 2]),
        ((1, 1, "forward"), [1]),
        ((4, 10, "forward"), [4]),
        ((5, 10, "forward"), []),
        ((100, 10, "forward"), []),
        ((None, 2, "forward"), [0, 1]),
        ((4, 5, "backward"), [4, 3, 2, 1, 0]),
        ((2, 2, "backward"), [2, 1]),
        ((1, 10, "backward"), [1, 0]),
        ((0, 10, "backward"), [0]),
        ((None, 2, "backward"), [4, 3]),
        ((100, 10, "backward"), [4, 3, 2, 1, 0]),
        ((100, 2, "backward"), [4, 3]),
        ((2**53 - 1, 1, "backward"), [4]),
    ],
)
async def test_events_from_a_version_on(five, args, versions):
    assert await read(five, *args) == versions


@pytest.mark.parametrize(
    "args",
    [
        (0, 0),
        (0, -1),
        (0, 10_001),
        (-1, 1),
        (-1, 1, "backward"),
        (2**53, 1),
        (0, 1, "sideways"),
        (0, 1.5),
        ("0", 1),
    ],
)
async def test_what_is_out_of_range_is_refused_not_clamped(five, args):
    with pytest.raises(InvalidRequest):
        await five.streams.read("s", *args)


async def test_a_missing_stream_is_an_error_that_names_it(five):
    for args in ((), (0, 10), (100, 1), (None, 1, "backward")):
        with pytest.raises(StreamNotFound) as caught:
            await five.streams.read("nobody", *args)
        assert caught.value.stream_id == "nobody"


async def test_pages_forward_lead_to_the_end(five):
    pages, start = [], 0
    while start is not None:
        page = await five.streams.read_page("s", start, 2)
        assert (page.stream_id, page.version) == ("s", 4)
        pages.append([event.version for event in page.events])
        start = page.next
    assert pages == [[0, 1], [2, 3], [4]]


async def test_pages_backward_lead_to_the_beginning(five):
    pages, start = [], None
    while True:
        page = await five.streams.read_page("s", start, 2, "backward")
        assert page.version == 4
        pages.append([event.version for event in page.events])
        start = page.next
        if start is None:
            break
    assert pages == [[4, 3], [2, 1], [0]]


async def test_a_page_that_ends_at_the_head_has_no_next(five):
    assert (await five.streams.read_page("s", 0, 5)).next is None
    assert (await five.streams.read_page("s", 0, 4)).next == 4
    assert (await five.streams.read_page("s", 4, 5, "backward")).next is None


async def test_beyond_the_head_the_version_is_still_the_head(five):
    page = await five.streams.read_page("s", 100, 10)
    assert (page.version, page.events, page.next) == (4, [], None)


async def test_one_event_by_its_version(five):
    event = await five.streams.read_event("s", 3)
    assert (event.stream_id, event.version, event.position, event.data) == ("s", 3, 5, 3)
    with pytest.raises(NotFound):
        await five.streams.read_event("s", 5)
    with pytest.raises(StreamNotFound):
        await five.streams.read_event("nobody", 0)
    with pytest.raises(InvalidRequest):
        await five.streams.read_event("s", -1)


async def test_version_and_existence(five):
    assert await five.streams.get_version("s") == 4
    assert await five.streams.exists("s")
    assert await five.streams.get_version("nobody") == -1
    assert not await five.streams.exists("nobody")


async def test_an_event_comes_back_with_all_that_was_given(store):
    await store.streams.append(
        "user-123",
        NO_STREAM,
        [
            NewEvent(
                "user_created",
                {"name": "Alice", "n": [1, 2.5, None, True]},
                metadata={"correlation_id": "req-123"},
                tags=["b", "a", "b"],
                event_id="e-1",
            )
        ],
    )
    (event,) = await store.streams.read("user-123")
    assert (event.stream_id, event.version, event.position) == ("user-123", 0, 1)
    assert (event.event_id, event.event_type) == ("e-1", "user_created")
    assert event.data == {"name": "Alice", "n": [1, 2.5, None, True]}
    assert event.metadata == {"correlation_id": "req-123"}
    assert event.tags == ["b", "a", "b"]
    assert event.data_content_type == event.metadata_content_type == "application/json"
    assert event.timestamp.endswith("Z")
    assert event.epoch_us > 1_600_000_000_000_000


async def test_what_was_not_given_is_empty(store):
    await store.streams.append("s", NO_STREAM, [NewEvent("e", None)])
    (event,) = await store.streams.read("s")
    assert (event.data, event.metadata, event.tags) == (None, {}, [])


async def test_times_never_decrease_with_positions(store):
    for n in range(10):
        await store.streams.append(f"s-{n % 3}", ANY_VERSION, [NewEvent("e", n)] * 2)
    times = [event.epoch_us for event in await store.streams.read_all()]
    assert times == sorted(times)
    for n in range(3):
        own = [event.epoch_us for event in await store.streams.read(f"s-{n}")]
        assert own == sorted(own)


async def test_a_long_stream_in_pages(store):
    for start in range(0, 3_000, 1_000):
        await store.streams.append("long", start - 1, [NewEvent("e", start + n) for n in range(1_000)])
    found, start = [], 0
    while start is not None:
        page = await store.streams.read_page("long", start, 700)
        found += [event.data for event in page.events]
        start = page.next
    assert found == list(range(3_000))
    backward = await store.streams.read("long", None, 2_500, "backward")
    assert [event.data for event in backward] == list(range(2_999, 499, -1))
