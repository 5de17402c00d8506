"""What goes in comes out: payloads of every kind, and names with every character."""

from __future__ import annotations

import pytest

from shoal.errors import InvalidRequest, StreamNotFound
from shoal.types import ANY_VERSION, NO_STREAM, NewEvent

VALUES = [
    None,
    True,
    False,
    0,
    -1,
    2**53,
    -(2**63),
    2**64 - 1,
    2**100,
    1.5,
    -0.0,
    1e300,
    "",
    "text",
    '\0 " \\ \n \u2028 é 日本 😀',
    [],
    {},
    [[], {}, [None, [1]]],
    {"": 1, "a b": 2, "ü": {"\n": [1.25]}},
    {"data": {"$sum": 1}, "event_type": "x"},
]
BINARY = [
    b"",
    b"\0\xff\x80",
    bytes(range(256)) * 100,
    {"raw": b"\0", "n": 1},
    [b"a", {"b": b"c"}],
    {"é": [b"\xff"]},
]
NAMES = [
    "user-123",
    "test$018f",
    "a/b/c",
    "/",
    "//",
    "a b",
    " ",
    "%",
    "%2F",
    "100%25",
    "?",
    "a?b=c&d",
    "#",
    "a+b",
    "*",
    "...",
    "snapshots",
    "aggregate",
    "0",
    "-1",
    "ünï-日本-😀",
    "new\nline\ttab",
    "\x7f\x01",
    "'quote\"",
    "\\",
    "a;b,c:d@e",
    "x" * 512,
    "é" * 256,
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:40])
async def test_values_come_back_equal(store, value):
    await store.streams.append("s", NO_STREAM, [NewEvent("e", value, metadata={"m": value})])
    (event,) = await store.streams.read("s")
    for found in (event.data, event.metadata["m"]):
        assert found == value
        assert type(found) is type(value)
    assert event.data_content_type == "application/json"
    (event,) = await store.streams.read_all()
    assert event.data == value


@pytest.mark.parametrize("value", BINARY, ids=lambda value: repr(value)[:40])
async def test_bytes_come_back_equal_wherever_they_are(store, value):
    await store.streams.append(
        "s",
        NO_STREAM,
        [NewEvent("e", value), NewEvent("e", 1, metadata={"m": value}), NewEvent("e", {"plain": 1})],
    )
    first, second, third = await store.streams.read("s")
    assert first.data == value
    assert second.metadata == {"m": value}
    assert (third.data, third.data_content_type) == ({"plain": 1}, "application/json")
    assert first.data_content_type == (
        "application/octet-stream" if isinstance(value, bytes) else "application/cbor"
    )


async def test_bytes_may_say_what_they_are(store):
    await store.streams.append(
        "s",
        NO_STREAM,
        [
            NewEvent("e", b"\x89PNG", data_content_type="image/png"),
            NewEvent("e", b'{ "a": 1 }', data_content_type="application/json"),
            NewEvent("e", b"\xa1\x61a\x01", data_content_type="application/cbor"),
            NewEvent("e", b"plain", data_content_type="text/plain; charset=utf-8"),
        ],
    )
    events = await store.streams.read("s")
    assert [(event.data_content_type, event.data) for event in events] == [
        ("image/png", b"\x89PNG"),
        ("application/json", {"a": 1}),
        ("application/cbor", {"a": 1}),
        ("text/plain; charset=utf-8", b"plain"),
    ]


async def test_raw_data_is_what_was_sent(store):
    await store.streams.append("s", NO_STREAM, [NewEvent("e", {"b": [1, 2], "a": "é"})])
    (event,) = await store.streams.read("s")
    assert event.data_raw == '{"b":[1,2],"a":"é"}'.encode()


@pytest.mark.parametrize("name", NAMES, ids=lambda name: repr(name)[:30])
async def test_a_stream_may_have_any_name(store, name):
    assert await store.streams.append(name, NO_STREAM, [NewEvent(name[:100], 1, tags=[name[:64]])]) == 0
    assert await store.streams.append(name, 0, [NewEvent(name[:100], 2)]) == 1
    events = await store.streams.read(name)
    assert [(event.stream_id, event.event_type, event.data) for event in events] == [
        (name, name[:100], 1),
        (name, name[:100], 2),
    ]
    assert events[0].tags == [name[:64]]
    assert await store.streams.get_version(name) == 1
    assert (await store.streams.read_event(name, 1)).data == 2
    assert await store.streams.list_streams() == [name]
    assert await store.streams.list_streams(prefix=name) == [name]
    await store.snapshots.save(name, 1, {})
    assert await store.snapshots.exists_at(name, 1)
    assert (await store.aggregate(name)).version == 1
    await store.streams.delete(name)
    assert not await store.streams.exists(name)


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "a\0", "\ud800", "x" * 513, "é" * 257, None, 7, b"bytes"],
    ids=lambda n: repr(n)[:20],
)
async def test_a_stream_may_not_have_these_names(store, name):
    streams, snapshots = store.streams, store.snapshots
    calls = [
        streams.append(name, ANY_VERSION, [NewEvent("e", 1)]),
        streams.read(name),
        streams.read_event(name, 0),
        streams.get_version(name),
        streams.exists(name),
        streams.delete(name),
        snapshots.save(name, 0, {}),
        snapshots.load(name),
        snapshots.list(name),
        store.aggregate(name),
    ]
    for call in calls:
        with pytest.raises(InvalidRequest):
            await call


async def test_streams_of_the_store_itself_take_no_events(store):
    for name in ("$", "$link:x"):
        with pytest.raises(InvalidRequest):
            await store.streams.append(name, ANY_VERSION, [NewEvent("e", 1)])
        with pytest.raises(StreamNotFound):
            await store.streams.read(name)
        assert await store.streams.get_version(name) == -1
