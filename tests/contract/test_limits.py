"""Limits: what is just within is taken, what is just beyond is refused, and nothing is stored."""

from __future__ import annotations

import pytest

from shoal.errors import BodyTooLarge, InvalidRequest
from shoal.types import ANY_VERSION, NO_STREAM, Limits, NewEvent, StreamWrite

LIMITS = Limits()


def nested(depth: int) -> object:
    value: object = 1
    for _ in range(depth):
        value = [value]
    return value


WITHIN = {
    "type": NewEvent("x" * LIMITS.event_type_bytes, 1),
    "type of two-byte characters": NewEvent("é" * (LIMITS.event_type_bytes // 2), 1),
    "event id": NewEvent("e", 1, event_id="x" * LIMITS.event_id_bytes),
    "tags": NewEvent("e", 1, tags=["x" * LIMITS.tag_bytes] * LIMITS.tags_per_event),
    "depth": NewEvent("e", nested(LIMITS.depth)),
    "text": NewEvent("e", "x" * (LIMITS.event_bytes - 2)),
    "bytes": NewEvent("e", b"x" * LIMITS.event_bytes),
}
BEYOND = {
    "type": NewEvent("x" * (LIMITS.event_type_bytes + 1), 1),
    "type of two-byte characters": NewEvent("é" * (LIMITS.event_type_bytes // 2 + 1), 1),
    "event id": NewEvent("e", 1, event_id="x" * (LIMITS.event_id_bytes + 1)),
    "number of tags": NewEvent("e", 1, tags=["x"] * (LIMITS.tags_per_event + 1)),
    "tag": NewEvent("e", 1, tags=["x" * (LIMITS.tag_bytes + 1)]),
    "depth": NewEvent("e", nested(LIMITS.depth + 1)),
    "depth bomb": NewEvent("e", nested(5_000)),
    "text": NewEvent("e", "x" * LIMITS.event_bytes),
    "bytes": NewEvent("e", b"x" * (LIMITS.event_bytes + 1)),
    "data and metadata": NewEvent("e", "x" * (LIMITS.event_bytes - 4), metadata={"m": 1}),
}


@pytest.mark.parametrize("event", list(WITHIN.values()), ids=list(WITHIN))
async def test_just_within_is_taken(store, event):
    assert await store.streams.append("s", NO_STREAM, [event]) == 0
    (found,) = await store.streams.read("s")
    assert (found.event_type, found.data, found.tags) == (event.event_type, event.data, event.tags or [])


@pytest.mark.parametrize("event", list(BEYOND.values()), ids=list(BEYOND))
async def test_just_beyond_is_refused(store, event):
    with pytest.raises(InvalidRequest) as caught:
        await store.streams.append("s", ANY_VERSION, [event])
    assert caught.value.outcome == "not-applied"
    assert not await store.streams.exists("s")


async def test_events_per_append(store):
    events = [NewEvent("e", 1)] * LIMITS.events_per_append
    assert await store.streams.append("s", NO_STREAM, events) == LIMITS.events_per_append - 1
    with pytest.raises(BodyTooLarge):
        await store.streams.append("s", ANY_VERSION, [*events, NewEvent("e", 1)])
    assert await store.streams.get_version("s") == LIMITS.events_per_append - 1
    assert len(await store.streams.read("s", 0, LIMITS.page_events)) == LIMITS.events_per_append


async def test_streams_and_events_per_append_to_several(store):
    writes = [
        StreamWrite(f"s-{n}", NO_STREAM, [NewEvent("e", n)]) for n in range(LIMITS.writes_per_append + 1)
    ]
    with pytest.raises(BodyTooLarge):
        await store.streams.append_many(writes)
    half = [NewEvent("e", 1)] * (LIMITS.events_per_append // 2 + 1)
    with pytest.raises(BodyTooLarge):
        await store.streams.append_many([StreamWrite("a", -2, half), StreamWrite("b", -2, half)])
    assert await store.streams.list_streams() == []
    result = await store.streams.append_many(writes[:-1])
    assert result.position == LIMITS.writes_per_append


async def test_bytes_per_append(store):
    events = [NewEvent("e", "x" * (LIMITS.body_bytes // 5)) for _ in range(6)]
    with pytest.raises(BodyTooLarge) as caught:
        await store.streams.append("s", ANY_VERSION, events)
    assert caught.value.outcome == "not-applied"
    assert not await store.streams.exists("s")


async def test_a_page_is_bounded_in_bytes_and_reading_on_finds_the_rest(store):
    for n in range(10):
        await store.streams.append("s", ANY_VERSION, [NewEvent("e", bytes([n]) * (3 * 1024 * 1024))])
    found, start = [], 0
    while start is not None:
        page = await store.streams.read_page("s", start, 100)
        assert 1 <= len(page.events) < 10
        found += [event.data[0] for event in page.events]
        start = page.next
    assert found == list(range(10))
    found, after = [], 0
    while len(found) < 10:
        events = await store.streams.read_all(after, 100)
        assert events
        found += [event.data[0] for event in events]
        after = events[-1].position
    assert found == list(range(10))
