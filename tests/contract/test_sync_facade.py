"""The blocking face over HTTP: the server runs on this test's loop, the callers in threads."""

from __future__ import annotations

import asyncio

import pytest
import pytest_asyncio

from shoal import sync
from shoal.errors import NotFound, StreamNotFound, WrongExpectedVersion
from shoal.types import NO_STREAM, CaughtUp, EventFilter, NewEvent, StreamWrite


@pytest_asyncio.fixture(loop_scope="session")
async def blocking(shoald):
    """Runs a function of a blocking store in a thread."""
    await shoald._node.create_store("blocking")

    def run(script):
        with sync.connect(*shoald.urls, store="blocking") as store:
            return script(store)

    yield lambda script: asyncio.to_thread(run, script)
    await shoald._node.drop_store("blocking")


async def test_the_same_calls_without_await(blocking):
    def script(store):
        assert store.name == "blocking"
        assert (
            store.streams.append("s", NO_STREAM, [NewEvent("e", {"n": n}, tags=["t"]) for n in range(3)]) == 2
        )
        assert store.streams.append_many([StreamWrite("t", -1, [NewEvent("f", b"\0")])]).position == 4
        assert [event.data for event in store.streams.read("s", 2, 2, "backward")] == [{"n": 2}, {"n": 1}]
        assert store.streams.read_page("s", 0, 2).next == 2
        assert store.streams.read_event("t", 0).data == b"\0"
        assert len(store.streams.read_all()) == 4
        assert len(store.streams.read_by_event_types(["f"])) == 1
        assert len(store.streams.read_by_tags(["t"])) == 3
        assert store.streams.read_events(EventFilter()).head == 4
        assert (store.streams.get_version("s"), store.streams.exists("nobody")) == (2, False)
        assert store.streams.list_streams() == ["s", "t"]
        assert store.streams.list_page(count=1).next == "s"
        store.snapshots.save("s", 1, {"n": 1})
        assert store.snapshots.exists_at("s", 1)
        assert [found.version for found in store.snapshots.list("s")] == [1]
        store.snapshots.delete_at("s", 1)
        store.snapshots.delete("s")
        assert not store.snapshots.exists("s")
        assert store.aggregate("s").version == 2
        store.streams.delete("s")
        assert not store.streams.exists("s")

    await blocking(script)


async def test_errors_come_through_unchanged(blocking):
    def script(store):
        with pytest.raises(StreamNotFound):
            store.streams.read("nobody")
        with pytest.raises(NotFound):
            store.snapshots.load("nobody")
        with pytest.raises(WrongExpectedVersion) as caught:
            store.streams.append("s", 3, [NewEvent("e", 1)])
        return caught.value

    error = await blocking(script)
    assert (error.stream_id, error.expected, error.actual) == ("s", 3, -1)


async def test_tails(blocking):
    def script(store):
        store.streams.append("s", NO_STREAM, [NewEvent("e", 1)])
        with store.streams.tail(EventFilter(), 0) as tail:
            first, caught_up = next(tail), next(tail)
            store.streams.append("s", 0, [NewEvent("e", 2)])
            return first.data, caught_up, next(tail).data

    assert await blocking(script) == (1, CaughtUp(1), 2)
