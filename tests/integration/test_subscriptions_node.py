"""Subscriptions of a real node: restarts and crashes, live delivery, what idle and slow consumers cost, and leaks."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from node_kit import events, image, opened, small

from shoal.errors import LeaseExpired, NotFound, ShuttingDown
from shoal.node import Means
from shoal.store import source as source_module
from shoal.testing.clock import FakeClock
from shoal.types import ANY_VERSION

LONG_MS = 5_000


async def append(node: Any, count: int = 1, stream: str = "s", **given: Any) -> None:
    await node.store("main").streams.append(stream, ANY_VERSION, events(count, **given))


def rows_of(connection: Any, table: str) -> int:
    return connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]


async def until(met: Callable[[], object]) -> None:
    """Let others go on until they have come so far."""
    async with asyncio.timeout(10):
        while not met():  # noqa: ASYNC110 - a node has no event for it
            await asyncio.sleep(0)


def places(found: Any) -> list[int]:
    return [event.position for event in found]


def leases(found: Any) -> list[str]:
    return [event.lease for event in found]


@pytest.fixture
async def node(tmp_path):
    async with opened(small(tmp_path)) as running:
        yield running


@pytest.fixture
def subscriptions(node):
    return node.store("main").subscriptions


# -- restarts ----------------------------------------------------------------------------------------


async def test_an_answered_ack_outlives_the_power_and_the_rest_comes_again(tmp_path):
    async with opened(small(tmp_path / "a")) as node:
        await append(node, 4)
        subscriptions = node.store("main").subscriptions
        await subscriptions.create("all", None, "sub")
        found = await subscriptions.pull("sub")
        assert await subscriptions.ack_leases("sub", leases(found)[:1] + leases(found)[2:3]) == 1
        cut = image(tmp_path / "a", tmp_path / "b")
    async with opened(small(cut)) as node:
        subscriptions = node.store("main").subscriptions
        assert places(await subscriptions.pull("sub")) == [2, 4]


async def test_an_ack_from_before_a_restart_settles_unless_the_event_is_leased_again(tmp_path):
    async with opened(small(tmp_path)) as node:
        await append(node, 4)
        subscriptions = node.store("main").subscriptions
        await subscriptions.create("all", None, "sub")
        before = await subscriptions.pull("sub")
    async with opened(small(tmp_path)) as node:
        subscriptions = node.store("main").subscriptions
        await subscriptions.ack_leases("sub", [before[1].lease])
        again = await subscriptions.pull("sub")
        assert places(again) == [1, 3, 4]
        with pytest.raises(LeaseExpired):
            await subscriptions.ack_leases("sub", [before[0].lease])
        assert await subscriptions.ack_leases("sub", leases(again)) == 4


async def test_an_event_that_ends_the_node_each_time_is_parked_and_its_neighbours_are_not(tmp_path):
    directory = tmp_path / "0"
    poison, retries = 2, 3
    async with opened(small(directory)) as node:
        await append(node, 3)
        await node.store("main").subscriptions.create("all", None, "sub", max_retries=retries)
    for life in range(1, 20):
        async with opened(small(directory)) as node:
            subscriptions = node.store("main").subscriptions
            while found := await subscriptions.pull("sub", 10):
                if poison in places(found):
                    break
                await subscriptions.ack_leases("sub", leases(found))
            else:
                break
            directory = image(directory, tmp_path / str(life))  # it never comes to an answer
    async with opened(small(directory)) as node:
        subscriptions = node.store("main").subscriptions
        (parked,) = await subscriptions.parked("sub")
        assert parked.position == poison
        assert parked.attempts == retries + 1
        assert (await subscriptions.get("sub")).checkpoint == 3


async def test_a_lazy_ack_is_answered_at_once_and_stored_in_time_and_at_the_end(tmp_path):
    async with opened(small(tmp_path)) as node:
        await append(node, 3)
        subscriptions = node.store("main").subscriptions
        await subscriptions.create(
            "all", None, "sub", ack_durability="lazy", checkpoint_interval_ms=3_600_000
        )
        found = await subscriptions.pull("sub")
        written = node.stats()["journal_bytes_total"]
        for event in found:
            await subscriptions.ack_leases("sub", [event.lease])
        assert node.stats()["journal_bytes_total"] == written
        assert (await subscriptions.get("sub")).checkpoint == 0
    async with opened(small(tmp_path)) as node:
        subscriptions = node.store("main").subscriptions
        assert (await subscriptions.get("sub")).checkpoint == 3
        await subscriptions.update("sub", checkpoint_interval_ms=10)
        await append(node, 1)
        await subscriptions.ack_leases("sub", leases(await subscriptions.pull("sub")))
        await until(lambda: node.sequencer.stores["main"].subscriptions["sub"].checkpoint == 4)


async def test_acks_of_one_turn_share_an_entry(node, subscriptions):
    await append(node, 50)
    await subscriptions.create("all", None, "sub")
    found = await subscriptions.pull("sub")
    before = node.stats()["entries_total"]
    answers = await asyncio.gather(*(subscriptions.ack_leases("sub", [event.lease]) for event in found))
    assert set(answers) == {50}
    assert node.stats()["entries_total"] - before <= 2


# -- live --------------------------------------------------------------------------------------------


async def test_catching_up_and_live_there_is_no_gap_and_no_duplicate(node, subscriptions):
    """Appends go on while the consumer catches up, falls behind what it hears, and catches up again."""
    await append(node, 500, kind="a")
    total = 3_000

    async def produce() -> None:
        for _ in range((total - 500) // 50):
            await append(node, 25, kind="a")
            await append(node, 25, kind="b", stream="t")

    producing = asyncio.create_task(produce())
    seen: list[int] = []
    async with subscriptions.subscribe("event_type", "a", "sub") as consumer, asyncio.timeout(30):
        async for event in consumer:
            seen.append(event.position)
            await consumer.ack(event)
            if len(seen) == 500 + (total - 500) // 2:
                break
    await producing
    page = await node.store("main").streams.read_by_event_types(["a"], 10_000)
    assert seen == places(page)


async def test_who_hears_more_than_it_may_keep_reads_the_rest(node, subscriptions, monkeypatch):
    monkeypatch.setattr(source_module, "HEARD_ROWS", 5)
    await subscriptions.create("all", None, "sub")
    waiting = asyncio.create_task(subscriptions.pull("sub", 100, LONG_MS))
    await until(lambda: subscriptions._exchange._count)
    await append(node, 40)
    found = await waiting
    found += await subscriptions.pull("sub", 100)
    assert places(found) == list(range(1, 41))


async def test_an_event_deleted_while_it_waits_is_not_delivered(node, subscriptions):
    await append(node, 3, stream="gone")
    await append(node, 3, stream="kept")
    await subscriptions.create("all", None, "sub", backoff_ms=[])
    first = await subscriptions.pull("sub", 1)
    await node.store("main").streams.delete("gone")
    await subscriptions.nack("sub", leases(first))
    found = await subscriptions.pull("sub")
    assert {event.stream_id for event in found} == {"kept"}
    assert await subscriptions.ack_leases("sub", leases(found)) == 6


async def test_a_rare_type_is_found_without_a_look_at_the_others(node, subscriptions):
    await append(node, 3_000, kind="common")
    await append(node, 1, kind="rare")
    await node.store("main").streams.read_all()
    looked: list[int] = []
    read = source_module._matching

    def counted(*arguments: Any) -> Any:
        rows, reached = read(*arguments)
        looked.append(len(rows))
        return rows, reached

    source_module._matching = counted
    try:
        await subscriptions.create("event_type", "rare", "sub")
        assert places(await subscriptions.pull("sub")) == [3_001]
    finally:
        source_module._matching = read
    assert sum(looked) <= 1


# -- ends --------------------------------------------------------------------------------------------


async def test_who_waits_is_told_when_the_subscription_or_the_store_ends(tmp_path):
    async with opened(small(tmp_path)) as node:
        subscriptions = node.store("main").subscriptions
        await subscriptions.create("all", None, "one")
        await subscriptions.create("all", None, "two")
        waiting = [asyncio.create_task(subscriptions.pull(name, 1, LONG_MS)) for name in ("one", "two")]
        await until(lambda: len(subscriptions._pumps) == 2)
        await subscriptions.unsubscribe("one")
        with pytest.raises(NotFound):
            await waiting[0]
    with pytest.raises(ShuttingDown):
        await waiting[1]
    with pytest.raises(ShuttingDown):
        await subscriptions.pull("two")


async def test_a_reset_while_a_consumer_waits_delivers_to_it_anew(node, subscriptions):
    await append(node, 2)
    await subscriptions.create("all", None, "sub")
    found = await subscriptions.pull("sub")
    await subscriptions.ack_leases("sub", leases(found))
    waiting = asyncio.create_task(subscriptions.pull("sub", 10, LONG_MS))
    await until(lambda: subscriptions._exchange._count)
    await subscriptions.reset("sub", "beginning")
    again = await waiting
    assert places(again) == [1, 2]
    with pytest.raises(LeaseExpired):
        await subscriptions.ack_leases("sub", leases(found))
    assert await subscriptions.ack_leases("sub", leases(again)) == 2


async def test_a_pull_that_is_cancelled_holds_no_event(node, subscriptions, monkeypatch):
    """While it waits for events, and while it reads the rows of what it has leased."""
    await subscriptions.create("all", None, "sub", strategy="round_robin")
    waiting = asyncio.create_task(subscriptions.pull("sub", 10, LONG_MS))
    await until(lambda: subscriptions._exchange._count)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not subscriptions._exchange._count
    await append(node, 1)
    await subscriptions.nack("sub", leases(await subscriptions.pull("sub")), delay_ms=0)
    with monkeypatch.context() as patch:
        patch.setattr(subscriptions._context, "read_applied", lambda *_: asyncio.Event().wait())
        reading = asyncio.create_task(subscriptions.pull("sub"))
        await until(lambda: subscriptions._pumps["sub"].delivery.in_flight)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
    assert places(await subscriptions.pull("sub", 10, 0, "other")) == [1]


# -- nothing stays behind ----------------------------------------------------------------------------


async def test_thousands_of_subscriptions_come_and_go_and_nothing_stays(node, subscriptions):
    await append(node, 5)

    async def cycle(number: int) -> None:
        name = f"sub-{number}"
        await subscriptions.create("event_type", "e", name)
        found = await subscriptions.pull(name, 2)
        await subscriptions.nack(name, leases(found)[:1], "park")
        await subscriptions.ack_leases(name, leases(found)[1:])
        await subscriptions.unsubscribe(name)

    async def cycles(numbers: range) -> None:
        for start in numbers[::50]:
            await asyncio.gather(*(cycle(number) for number in range(start, start + 50)))

    await cycles(range(300))
    tasks = len(asyncio.all_tasks())
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.take_snapshot()
    try:
        await cycles(range(1_000, 3_000))
        gc.collect()
        after = tracemalloc.take_snapshot()
    finally:
        tracemalloc.stop()
    grown = sum(change.size_diff for change in after.compare_to(before, "filename"))
    assert grown < 200_000, f"{grown} bytes more after 2,000 cycles"
    assert len(asyncio.all_tasks()) == tasks
    assert not subscriptions._pumps
    assert not subscriptions._counts
    assert not subscriptions._exchange._count
    assert not subscriptions._context.memory.subscriptions
    for table in ("subscription", "parked"):
        assert await subscriptions._context.read_applied(rows_of, table) == 0


async def test_what_nobody_consumes_any_more_costs_no_pump(tmp_path):
    clock = FakeClock()
    async with opened(small(tmp_path), Means(clock=clock)) as node:
        subscriptions = node.store("main").subscriptions
        await append(node, 1)
        for number in range(100):
            await subscriptions.create("all", None, f"sub-{number}")
            (event,) = await subscriptions.pull(f"sub-{number}")
            await subscriptions.ack_leases(f"sub-{number}", [event.lease])
            clock.advance(31_000)
            for pump in subscriptions._pumps.values():
                pump._tick()
        assert len(subscriptions._pumps) <= 40
        stats = await subscriptions.stats("sub-0")
        assert (stats.delivered, stats.lag, stats.consumers) == (1, 0, [])
