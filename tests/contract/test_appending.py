"""Appending: expected versions, batches that are stored whole or not at all, writers at the same time."""

from __future__ import annotations

import asyncio

import pytest

from shoal.errors import InvalidRequest, StreamNotFound, WrongExpectedVersion
from shoal.types import ANY_VERSION, MAX_VERSION, NO_STREAM, STREAM_EXISTS, NewEvent

EVENT = NewEvent("user_created", {"name": "Alice"}, metadata={"correlation_id": "req-123"})


def some(count: int) -> list[NewEvent]:
    return [NewEvent("counted", {"n": n}) for n in range(count)]


async def versions(store, stream_id: str) -> list[int]:
    return [event.version for event in await store.streams.read(stream_id, 0, 1000)]


async def test_the_first_event_of_a_new_stream_has_version_0(store):
    assert await store.streams.append("test$1", NO_STREAM, [EVENT]) == 0


async def test_the_result_tells_where_the_events_are(store):
    await store.streams.append("other", NO_STREAM, some(2))
    first = await store.streams.append("s", NO_STREAM, some(3))
    second = await store.streams.append("s", 2, some(2))
    assert (first, first.first_version, first.position, first.duplicate, first.stream_id) == (
        2,
        0,
        5,
        False,
        "s",
    )
    assert (second, second.first_version, second.position) == (4, 3, 7)


async def test_an_append_at_the_exact_version_follows_on(store):
    await store.streams.append("s", NO_STREAM, [EVENT])
    assert await store.streams.append("s", 0, [EVENT]) == 1


async def test_any_version_fits_a_new_and_an_existing_stream(store):
    assert await store.streams.append("s", ANY_VERSION, [EVENT]) == 0
    assert await store.streams.append("s", ANY_VERSION, [EVENT]) == 1


async def test_stream_exists_fits_an_existing_stream_only(store):
    with pytest.raises(WrongExpectedVersion) as caught:
        await store.streams.append("s", STREAM_EXISTS, [EVENT])
    assert (caught.value.expected, caught.value.actual) == (STREAM_EXISTS, -1)
    await store.streams.append("s", NO_STREAM, [EVENT])
    assert await store.streams.append("s", STREAM_EXISTS, [EVENT]) == 1


@pytest.mark.parametrize("expected", [NO_STREAM, 1, 5, MAX_VERSION])
async def test_another_version_than_the_expected_is_a_conflict_with_both(store, expected):
    await store.streams.append("s", NO_STREAM, [EVENT])
    with pytest.raises(WrongExpectedVersion) as caught:
        await store.streams.append("s", expected, [EVENT])
    error = caught.value
    assert (error.stream_id, error.expected, error.actual, error.outcome) == ("s", expected, 0, "not-applied")
    assert not error.retryable
    assert await versions(store, "s") == [0]


async def test_version_0_of_a_missing_stream_is_a_conflict(store):
    with pytest.raises(WrongExpectedVersion) as caught:
        await store.streams.append("s", 0, [EVENT])
    assert caught.value.actual == -1
    assert not await store.streams.exists("s")


@pytest.mark.parametrize("expected", [-3, -5, -100, MAX_VERSION + 1, 2**63, 2**70, True, 1.0, "0", None])
async def test_other_numbers_are_no_expected_versions(store, expected):
    await store.streams.append("s", NO_STREAM, some(2))
    with pytest.raises(InvalidRequest):
        await store.streams.append("s", expected, [EVENT])
    assert await store.streams.get_version("s") == 1


async def test_a_batch_is_stored_in_order(store):
    assert await store.streams.append("s", NO_STREAM, some(5)) == 4
    events = await store.streams.read("s", 0, 10)
    assert [(event.version, event.position, event.data["n"]) for event in events] == [
        (n, n + 1, n) for n in range(5)
    ]


async def test_an_empty_batch_creates_nothing(store):
    result = await store.streams.append("s", NO_STREAM, [])
    assert (result, result.first_version) == (-1, 0)
    assert not await store.streams.exists("s")
    assert await store.streams.list_streams() == []


async def test_an_empty_batch_answers_with_the_version(store):
    await store.streams.append("s", NO_STREAM, some(3))
    for expected in (ANY_VERSION, STREAM_EXISTS, 2):
        result = await store.streams.append("s", expected, [])
        assert (result, result.first_version) == (2, 3)


async def test_an_empty_batch_conflicts_like_any_other(store):
    await store.streams.append("s", NO_STREAM, [EVENT])
    for expected in (NO_STREAM, 5):
        with pytest.raises(WrongExpectedVersion):
            await store.streams.append("s", expected, [])


@pytest.mark.parametrize(
    "bad",
    [
        NewEvent("", {}),
        NewEvent(None, {}),
        NewEvent(7, {}),
        NewEvent("a\0b", {}),
        NewEvent("\ud800", {}),
        NewEvent("e", float("nan")),
        NewEvent("e", {"deep": [float("inf")]}),
        NewEvent("e", "\ud800"),
        NewEvent("e", object()),
        NewEvent("e", {1: 2}),
        NewEvent("e", {}, metadata=[]),
        NewEvent("e", {}, metadata="text"),
        NewEvent("e", {}, tags="tag"),
        NewEvent("e", {}, tags=[""]),
        NewEvent("e", {}, tags=[1]),
        NewEvent("e", {}, event_id=""),
        NewEvent("e", {}, event_id=5),
        NewEvent("e", {}, data_content_type="image/png"),
        NewEvent("e", b"x", data_content_type="no media type"),
        NewEvent("e", b"{", data_content_type="application/json"),
        NewEvent("e", b'{"a":1,"a":2}', data_content_type="application/json"),
        NewEvent("e", b"1e999", data_content_type="application/json"),
        {"event_type": "e", "data": 1},
        None,
    ],
    ids=lambda bad: repr(bad)[10:60].encode("ascii", "replace").decode() if bad else "None",
)
async def test_one_bad_event_refuses_the_whole_batch(store, bad):
    with pytest.raises(InvalidRequest) as caught:
        await store.streams.append("s", ANY_VERSION, [EVENT, EVENT, bad, EVENT])
    assert caught.value.outcome == "not-applied"
    assert "2" in caught.value.pointer
    assert not await store.streams.exists("s")
    assert (await store.streams.append("s", NO_STREAM, [EVENT])).position == 1


@pytest.mark.parametrize("events", [None, "events", 5, EVENT])
async def test_events_must_be_a_list(store, events):
    with pytest.raises(InvalidRequest):
        await store.streams.append("s", ANY_VERSION, events)


async def test_of_twenty_writers_that_expect_no_stream_exactly_one_wins(store):
    results = await asyncio.gather(
        *(store.streams.append("s", NO_STREAM, [NewEvent("e", writer)]) for writer in range(20)),
        return_exceptions=True,
    )
    winners = [writer for writer, result in enumerate(results) if result == 0]
    assert len(winners) == 1
    conflicts = [result for result in results if isinstance(result, WrongExpectedVersion)]
    assert len(conflicts) == 19
    assert {(error.expected, error.actual) for error in conflicts} == {(-1, 0)}
    (event,) = await store.streams.read("s")
    assert event.data == winners[0]


async def test_twenty_writers_at_once_lose_and_overwrite_nothing(store):
    async def write(writer: int) -> list[int]:
        return [await store.streams.append("s", ANY_VERSION, [NewEvent("e", [writer, n])]) for n in range(25)]

    answered = await asyncio.gather(*(write(writer) for writer in range(20)))
    events = await store.streams.read("s", 0, 1000)
    assert [event.version for event in events] == list(range(500))
    assert [event.position for event in events] == list(range(1, 501))
    by_version = {event.version: event.data for event in events}
    for writer, own in enumerate(answered):
        assert [by_version[version] for version in own] == [[writer, n] for n in range(25)]


async def test_writers_that_read_and_retry_count_without_loss(store):
    async def add() -> None:
        while True:
            version = await store.streams.get_version("counter")
            try:
                await store.streams.append("counter", version, [NewEvent("added", 1)])
            except WrongExpectedVersion:
                continue
            return

    await asyncio.gather(*(add() for _ in range(10)))
    assert await versions(store, "counter") == list(range(10))


async def test_a_writer_reads_what_it_wrote(store):
    for n in range(10):
        await store.streams.append("s", n - 1, [NewEvent("e", n)])
        (last,) = await store.streams.read("s", None, 1, "backward")
        assert (last.version, last.data) == (n, n)
        assert await store.streams.get_version("s") == n
        (newest,) = await store.streams.read_all(None, 1, "backward")
        assert newest.data == n


async def test_streams_do_not_mix(store):
    await asyncio.gather(
        *(store.streams.append(f"s-{n}", NO_STREAM, [NewEvent("e", n)] * 3) for n in range(10))
    )
    for n in range(10):
        assert [event.data for event in await store.streams.read(f"s-{n}")] == [n, n, n]
    with pytest.raises(StreamNotFound):
        await store.streams.read("s-10")
