"""Several consumers of one subscription, iterating, handlers, and restarts."""

from __future__ import annotations

import asyncio

import pytest
import pytest_asyncio
from consumer_kit import LONG_MS, append, checkpoint, known, leases, nothing, positions, pull

import shoal
from shoal import sync
from shoal.errors import AlreadyExists, LeaseExpired, NotFound
from shoal.types import NO_STREAM, NewEvent

# -- who gets what -----------------------------------------------------------------------------------


async def test_a_standby_takes_over_what_the_first_had(store):
    await append(store, 1, 2, 3)
    await store.subscriptions.create("all", None, "sub")
    events = await pull(store, 2, "first")
    await store.subscriptions.ack_leases("sub", leases(events[:1]))
    assert await nothing(store, "standby")
    waiting = asyncio.create_task(store.subscriptions.pull("sub", 100, LONG_MS, "standby"))
    await known(store, "standby")
    await store.subscriptions.leave("sub", "first")
    assert (await waiting)[0].position == 2
    with pytest.raises(LeaseExpired):
        await store.subscriptions.ack_leases("sub", leases(events[1:]))


async def test_what_a_consumer_that_left_had_comes_again_at_once(store):
    await append(store, 1, 2, 3)
    await store.subscriptions.create("all", None, "sub")
    await pull(store, 3, "me")
    await store.subscriptions.leave("sub", "nobody")
    assert await nothing(store, "me")
    await store.subscriptions.leave("sub", "me")
    assert positions(await pull(store, 3, "me")) == [1, 2, 3]


async def test_competing_consumers_share(store):
    await append(store, *range(6))
    await store.subscriptions.create("all", None, "sub", strategy="round_robin")
    one = await pull(store, 3, "one")
    two = await pull(store, 3, "two")
    assert sorted(positions([*one, *two])) == [1, 2, 3, 4, 5, 6]


async def test_a_stream_is_with_one_consumer_at_a_time(store):
    for n in range(30):
        await append(store, 1, 2, stream_id=f"s-{n}")
    await store.subscriptions.create("all", None, "sub", strategy="by_stream")
    held: dict[str, set[str]] = {"one": set(), "two": set()}
    found: dict[str, list[int]] = {}
    async with asyncio.timeout(20):
        while sum(map(len, found.values())) < 60:
            batches = {name: await store.subscriptions.pull("sub", 7, 1_000, name) for name in ("one", "two")}
            for name, events in batches.items():
                held[name] = {event.stream_id for event in events}
                for event in events:
                    found.setdefault(event.stream_id, []).append(event.version)
            assert not held["one"] & held["two"]
            for events in batches.values():
                if events:
                    await store.subscriptions.ack_leases("sub", leases(events))
    assert set(map(tuple, found.values())) == {(0, 1)}
    assert await checkpoint(store) == 60


async def test_a_consumer_pulls_once_at_a_time(store):
    await store.subscriptions.create("all", None, "sub")
    waiting = asyncio.create_task(store.subscriptions.pull("sub", 1, LONG_MS, "me"))
    await known(store, "me")
    with pytest.raises(AlreadyExists):
        await store.subscriptions.pull("sub", 1, 0, "me")
    await append(store, 1)
    assert positions(await waiting) == [1]


# -- iterating and handling --------------------------------------------------------------------------


async def test_what_is_left_in_the_middle_comes_again(store):
    await append(store, *range(5))
    async with store.subscriptions.subscribe("all", None, "sub") as consumer:
        async for event in consumer:
            await consumer.ack(event)
            if event.position == 2:
                break
    assert await checkpoint(store) == 2
    assert positions(await pull(store, 3)) == [3, 4, 5]


async def test_a_consumer_waits_for_what_comes(store):
    async with (
        asyncio.timeout(20),
        store.subscriptions.subscribe("all", None, "sub", start_from="end") as consumer,
    ):
        waiting = asyncio.create_task(anext(consumer))
        await append(store, 1)
        assert (await waiting).data == 1
        await consumer.ack(waiting.result())
        assert await checkpoint(store) == 1


async def test_a_nacked_event_comes_to_its_consumer_again(store):
    await append(store, 1, 2)
    async with (
        asyncio.timeout(20),
        store.subscriptions.subscribe("all", None, "sub", backoff_ms=[1]) as consumer,
    ):
        await consumer.nack(await anext(consumer), reason="not yet")
        found = []
        while len(found) < 2:
            event = await anext(consumer)
            await consumer.ack(event)
            found.append((event.position, event.attempt))
    assert sorted(found) == [(1, 2), (2, 1)]
    assert await checkpoint(store) == 2


async def test_a_pool_handles_everything_and_parks_what_keeps_failing(store):
    for n in range(10):
        await append(store, *range(10), stream_id=f"s-{n}")
    order: dict[str, list[int]] = {}

    async def handle(event) -> None:
        if event.data == 5:
            raise ValueError("five")
        order.setdefault(event.stream_id, []).append(event.version)

    async def all_settled() -> None:
        while await checkpoint(store) < 100:  # noqa: ASYNC110 - a store has no event for it
            await asyncio.sleep(0)

    options = {"pool_size": 4, "max_retries": 1, "backoff_ms": [1]}
    async with asyncio.timeout(30), store.subscriptions.subscribe("all", None, "sub", **options) as consumer:
        running = asyncio.create_task(consumer.run(handle))
        await all_settled()
        running.cancel()
        await asyncio.wait([running])
    assert order == {f"s-{n}": [0, 1, 2, 3, 4, 6, 7, 8, 9] for n in range(10)}
    parked = await store.subscriptions.parked("sub")
    assert [(event.data, event.attempts, event.reason) for event in parked] == [
        (5, 2, "ValueError('five')")
    ] * 10


async def test_deleting_the_subscription_ends_its_consumers(store):
    async with (
        asyncio.timeout(20),
        store.subscriptions.subscribe("all", None, "sub", consumer="me") as consumer,
    ):
        waiting = asyncio.create_task(anext(consumer))
        await known(store, "me")
        await store.subscriptions.unsubscribe("sub")
        with pytest.raises(NotFound):
            await waiting


# -- opened again (embedded; the HTTP server opens the same) -----------------------------------------


async def test_after_a_restart_it_goes_on_where_it_was(tmp_path):
    async with shoal.open(data_dir=tmp_path) as store:
        await append(store, *range(5))
        made = await store.subscriptions.create("all", None, "sub", max_retries=3)
        events = await pull(store, 4)
        await store.subscriptions.ack_leases("sub", leases([events[0], events[2]]))
        await store.subscriptions.nack("sub", leases(events[3:]), "park", reason="kept")
    async with shoal.open(data_dir=tmp_path) as store:
        found = await store.subscriptions.get("sub")
        assert (found.options, found.created_us, found.checkpoint) == (made.options, made.created_us, 1)
        assert [(event.position, event.reason) for event in await store.subscriptions.parked("sub")] == [
            (4, "kept")
        ]
        again = await pull(store, 2)
        assert positions(again) == [2, 5]
        assert await nothing(store)
        with pytest.raises(LeaseExpired):
            await store.subscriptions.ack_leases("sub", leases(events[1:2]))
        assert await store.subscriptions.ack_leases("sub", leases(again)) == 5


async def test_closing_the_store_under_a_consumer_is_no_error_of_leaving(tmp_path):
    async with shoal.open(data_dir=tmp_path) as store:
        await append(store, 1, 2)
        consumer = store.subscriptions.subscribe("all", None, "sub")
        await consumer.__aenter__()
        await consumer.ack(await anext(consumer))
        await consumer.flush()
    await consumer.__aexit__(None, None, None)
    async with shoal.open(data_dir=tmp_path) as store:
        assert positions(await pull(store, 1)) == [2]


# -- the blocking face -------------------------------------------------------------------------------


@pytest_asyncio.fixture(loop_scope="session")
async def blocking(shoald):
    """Runs a function of a blocking store in a thread."""
    await shoald._node.create_store("blocking-subscriptions")

    def run(script):
        with sync.connect(*shoald.urls, store="blocking-subscriptions") as store:
            return script(store)

    yield lambda script: asyncio.to_thread(run, script)
    await shoald._node.drop_store("blocking-subscriptions")


async def test_the_same_calls_without_await(blocking):
    def script(store):
        subscriptions = store.subscriptions
        store.streams.append("s", NO_STREAM, [NewEvent("e", n) for n in range(6)])
        made = subscriptions.create("stream", "s", "sub")
        assert subscriptions.get("stream", "sub") == made
        assert subscriptions.exists("sub")
        assert subscriptions.list() == [made]
        assert subscriptions.update("sub", max_retries=1).options.max_retries == 1
        events = subscriptions.pull("sub", 4, LONG_MS, "me")
        assert subscriptions.ack("s", "sub", 0) == 1
        assert subscriptions.ack_events("sub", [("s", 1)]) == 2
        assert subscriptions.ack_leases("sub", [events[2].lease]) == 3
        assert subscriptions.nack("sub", [events[3].lease], "park", reason="why") == 4
        assert subscriptions.ack_through("sub", 4) == 4
        assert [event.reason for event in subscriptions.parked("sub")] == ["why"]
        assert subscriptions.parked_page("sub").next is None
        assert subscriptions.replay_parked("sub") == 1
        assert subscriptions.stats("sub").consumers == ["me"]
        subscriptions.leave("sub", "me")
        assert subscriptions.reset("sub", 3).checkpoint == 3
        with subscriptions.subscribe("stream", "s", "sub") as consumer:
            consumer.ack(next(consumer))
            consumer.ack(next(consumer))
            consumer.nack(next(consumer), "skip")
        assert subscriptions.get("sub").checkpoint == 6
        subscriptions.unsubscribe("sub")
        assert not subscriptions.exists("sub")

    await blocking(script)


async def test_a_plain_function_handles_events(blocking):
    def script(store):
        store.streams.append("r", NO_STREAM, [NewEvent("e", n) for n in range(3)])
        handled = []

        def handle(event) -> None:
            handled.append(event.data)
            if len(handled) == 3:
                raise KeyboardInterrupt

        with (
            pytest.raises(KeyboardInterrupt),
            store.subscriptions.subscribe("stream", "r", "runs") as consumer,
        ):
            consumer.run(handle)
        return handled, store.subscriptions.get("runs").checkpoint

    handled, reached = await blocking(script)
    assert handled == [0, 1, 2]
    assert reached == 2
