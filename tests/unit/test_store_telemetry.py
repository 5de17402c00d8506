"""What a store tells of its appends and reads: each stream's part once, with its own numbers."""

from __future__ import annotations

import asyncio

import pytest
from node_kit import events, opened, small

from shoal import telemetry
from shoal.errors import WrongExpectedVersion
from shoal.types import ANY_VERSION, NO_STREAM, EventFilter, Query, QueryItem, StreamWrite

STREAMS = [name for name in telemetry.EVENTS if name[1] == "stream"]


@pytest.fixture
async def streams(tmp_path):
    async with opened(small(tmp_path)) as node:
        yield node.store("main").streams


@pytest.fixture
def seen(streams):
    """What was told: event, then measurements and metadata in one, without times and the store."""
    found = []

    def note(event, measurements, metadata, _config):
        declared = telemetry.EVENTS[event]
        assert (set(measurements), set(metadata)) == (set(declared.measurements), set(declared.metadata))
        told = {**measurements, **metadata}
        assert told.pop("store_id") == "main"
        found.append((event[-1], {k: v for k, v in told.items() if k not in {"duration", "system_time"}}))

    telemetry.attach("seen", STREAMS, note)
    yield found
    telemetry.detach("seen")


async def test_an_append_begins_and_ends_once(streams, seen):
    await streams.append("s", NO_STREAM, events(2))
    assert seen == [
        ("start", {"stream_id": "s", "event_count": 2, "expected_version": NO_STREAM}),
        ("stop", {"stream_id": "s", "event_count": 2, "new_version": 1}),
    ]


async def test_each_write_of_an_append_to_several_streams_is_told_with_its_own_numbers(streams, seen):
    await streams.append_many(
        [StreamWrite("a", NO_STREAM, events(1)), StreamWrite("b", ANY_VERSION, events(3))]
    )
    assert seen == [
        ("start", {"stream_id": "a", "event_count": 1, "expected_version": NO_STREAM}),
        ("start", {"stream_id": "b", "event_count": 3, "expected_version": ANY_VERSION}),
        ("stop", {"stream_id": "a", "event_count": 1, "new_version": 0}),
        ("stop", {"stream_id": "b", "event_count": 3, "new_version": 2}),
    ]


async def test_a_refused_append_ends_in_an_error_for_each_write(streams, seen):
    with pytest.raises(WrongExpectedVersion):
        await streams.append_many([StreamWrite("a", 5, events(1)), StreamWrite("b", NO_STREAM, events(1))])
    assert seen[2:] == [
        ("error", {"stream_id": name, "reason": "wrong-expected-version"}) for name in ("a", "b")
    ]


async def test_a_cancelled_append_ends_in_an_error(streams, seen):
    append = asyncio.ensure_future(streams.append("s", NO_STREAM, events(1)))
    await asyncio.sleep(0)
    append.cancel()
    with pytest.raises(asyncio.CancelledError):
        await append
    assert seen[1:] == [("error", {"stream_id": "s", "reason": "cancelled"})]


async def test_reads_of_one_stream_are_told_and_those_over_all_streams_are_not(streams, seen):
    await streams.append("s", NO_STREAM, events(2))
    del seen[:]
    await streams.read_page("s", None, 10)
    assert [event for event, _ in seen] == ["start", "stop"]
    assert seen[1][1] == {"stream_id": "s", "event_count": 2}
    del seen[:]
    await streams.read_all()
    await streams.read_events(EventFilter(types=("e",)))
    await streams.query(Query((QueryItem(("e",)),)))
    assert seen == []


@pytest.mark.parametrize("event", STREAMS)
async def test_whoever_listens_to_one_event_alone_hears_it(streams, event):
    heard = []
    telemetry.attach("one", [event], lambda *told: heard.append(told[0]))
    try:
        await streams.append("s", NO_STREAM, events(1))
        await streams.read("s")
        with pytest.raises(WrongExpectedVersion):
            await streams.append("s", NO_STREAM, events(1))
    finally:
        telemetry.detach("one")
    assert set(heard) == {event}
