"""Calls of a subscription's consumers that go on while something else happens to it, on a real node."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import pytest
from node_kit import events, opened, small

from shoal.errors import AlreadyExists, DiskFull, LeaseExpired, NoLeader, NotFound, ShuttingDown
from shoal.leadership import Leadership
from shoal.model.commands import Settle
from shoal.node import Means
from shoal.store import pump as pump_module
from shoal.testing.clock import FakeClock
from shoal.types import ANY_VERSION

LONG_MS = 5_000


async def append(node: Any, count: int = 1, stream: str = "s", **given: Any) -> None:
    await node.store("main").streams.append(stream, ANY_VERSION, events(count, **given))


async def append_to(subscriptions: Any) -> None:
    """By what was left of the store."""
    await subscriptions._streams.append("s", ANY_VERSION, events(1))


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
def clock():
    return FakeClock()


@pytest.fixture
async def node(tmp_path, clock):
    async with opened(small(tmp_path), Means(clock=clock)) as running:
        yield running


@pytest.fixture
def subscriptions(node):
    return node.store("main").subscriptions


# -- a consumer that leaves while a call of its goes on ----------------------------------------------


async def test_leaving_ends_the_pull_that_waits_and_the_next_one_stands_for_itself(node, subscriptions):
    await subscriptions.create("all", None, "sub")
    left = asyncio.create_task(subscriptions.pull("sub", 10, LONG_MS, "me"))
    await until(lambda: subscriptions._exchange._count)
    await subscriptions.leave("sub", "me")
    back = asyncio.create_task(subscriptions.pull("sub", 10, LONG_MS, "me"))
    assert await left == []
    with pytest.raises(AlreadyExists):
        await subscriptions.pull("sub", 10, 0, "me")
    await append(node)
    assert places(await back) == [1]


async def test_leaving_ends_the_push_and_its_end_does_not_touch_the_one_that_came_after(node, subscriptions):
    await subscriptions.create("all", None, "sub")
    async with aclosing(subscriptions.push("sub", "me")) as old:
        left = asyncio.create_task(anext(old, None))
        await until(lambda: subscriptions._exchange._count)
        await subscriptions.leave("sub", "me")
        new = subscriptions.push("sub", "me")
        waiting = asyncio.create_task(anext(new))
        assert await left is None
    await append(node)
    async with asyncio.timeout(10), aclosing(new):
        assert places(await waiting) == [1]
        assert (await subscriptions.stats("sub")).consumers == ["me"]


async def test_what_a_consumer_was_about_to_get_when_it_left_goes_to_others(node, subscriptions, monkeypatch):
    """It leaves while the rows of its leases are read."""
    await append(node)
    await subscriptions.create("all", None, "sub")
    await subscriptions.nack("sub", leases(await subscriptions.pull("sub")), delay_ms=0)
    go_on, read = asyncio.Event(), subscriptions._context.read_applied

    async def slow(*arguments: Any) -> Any:
        await go_on.wait()
        return await read(*arguments)

    monkeypatch.setattr(subscriptions._context, "read_applied", slow)
    reading = asyncio.create_task(subscriptions.pull("sub"))
    await until(lambda: subscriptions._pumps["sub"].delivery.in_flight)
    await subscriptions.leave("sub", "default")
    go_on.set()
    assert await reading == []
    assert places(await subscriptions.pull("sub", 10, 0, "other")) == [1]


# -- a consumer that does not take its batch ---------------------------------------------------------


async def test_the_turn_of_a_stalled_push_passes_to_the_standby(node, subscriptions, clock):
    await append(node)
    await subscriptions.create("all", None, "sub", ack_timeout_ms=20_000, consumer_timeout_ms=10_000)
    async with aclosing(subscriptions.push("sub", "stalled")) as stalled:
        assert places(await anext(stalled)) == [1]
        standby = asyncio.create_task(subscriptions.pull("sub", 10, LONG_MS, "standby"))
        pump = subscriptions._pumps["sub"]
        await until(lambda: pump._waiting)
        with pytest.raises(AlreadyExists):  # it is connected all the same
            await anext(subscriptions.push("sub", "stalled"))
        clock.advance(20_000)
        pump._tick()
        found = await standby
        assert (places(found), found[0].attempt) == ([1], 2)
        await subscriptions.ack_leases("sub", leases(found))
        await append(node)
        assert places(await subscriptions.pull("sub", 10, 0, "standby")) == [2]
        await subscriptions.leave("sub", "standby")
        assert places(await anext(stalled)) == [2]  # it took its batch after all


# -- replays that a reset, or another replay, comes between ------------------------------------------


async def parked_events(node: Any, subscriptions: Any, count: int) -> None:
    """Events, all of which the subscription has parked."""
    await append(node, count)
    await subscriptions.create("all", None, "sub", max_in_flight=10_000)
    await subscriptions.nack("sub", leases(await subscriptions.pull("sub", count)), "park")


async def all_of(subscriptions: Any) -> list[int]:
    """What comes until nothing more does, in whatever order."""
    found: list[int] = []
    while batch := await subscriptions.pull("sub", 100):
        found += places(batch)
        await subscriptions.ack_leases("sub", leases(batch))
    return sorted(found)


async def test_a_reset_in_the_middle_of_a_replay_loses_none_of_it(node, subscriptions, monkeypatch):
    monkeypatch.setattr(pump_module, "REPLAY_ROWS", 5)
    await parked_events(node, subscriptions, 20)
    await subscriptions.replay_parked("sub")
    await subscriptions.pull("sub", 5)
    await subscriptions.reset("sub", "end")
    assert await all_of(subscriptions) == list(range(1, 21))
    assert await subscriptions.parked("sub") == []


async def test_what_is_replayed_while_a_page_of_replays_is_read_comes_too(node, subscriptions, monkeypatch):
    monkeypatch.setattr(pump_module, "REPLAY_ROWS", 5)
    await parked_events(node, subscriptions, 20)
    await subscriptions.replay_parked("sub", 15)
    first = await subscriptions.pull("sub", 5)
    await subscriptions.nack("sub", leases(first), "park")
    read = subscriptions._context.read_applied

    async def slow(query: Any, *arguments: Any) -> Any:
        found = await read(query, *arguments)
        if query is subscriptions._context.queries.replaying:
            monkeypatch.setattr(subscriptions._context, "read_applied", read)
            await subscriptions.replay_parked("sub", 5)
        return found

    monkeypatch.setattr(subscriptions._context, "read_applied", slow)
    assert await all_of(subscriptions) == list(range(1, 16))


async def test_a_pull_that_is_cancelled_while_it_reads_replays_loses_none(node, subscriptions, monkeypatch):
    await parked_events(node, subscriptions, 3)
    await subscriptions.replay_parked("sub")
    asked = asyncio.Event()

    async def for_ever(*_: Any) -> None:
        asked.set()
        await asyncio.Event().wait()

    with monkeypatch.context() as patch:
        patch.setattr(subscriptions._context, "read_applied", for_ever)
        pulling = asyncio.create_task(subscriptions.pull("sub"))
        await asked.wait()
        pulling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await pulling
    assert await all_of(subscriptions) == [1, 2, 3]


# -- what comes again --------------------------------------------------------------------------------


async def test_what_comes_again_comes_in_batches_that_fit_memory(node, subscriptions, monkeypatch):
    monkeypatch.setattr(pump_module, "AHEAD_BYTES", 10_000)
    await append(node, 8, size=3_000)
    await subscriptions.create("all", None, "sub", ordered=True)
    while await subscriptions.pull("sub", 8):
        pass
    await append(node, 2, stream="s")
    await subscriptions.leave("sub", "default")
    found = []
    while batch := await subscriptions.pull("sub", 10):
        found.append(batch)
        assert sum(len(event.data_raw) for event in batch) <= 16_000
        await subscriptions.ack_leases("sub", leases(batch))
    stats = await subscriptions.stats("sub")
    assert (stats.delivered, stats.redeliveries) == (18, 8)  # what was cut off never left
    assert [at for batch in found for at in places(batch)] == list(range(1, 11))
    assert (await subscriptions.get("sub")).checkpoint == 10


async def test_what_comes_again_and_was_deleted_meanwhile_is_settled_though_it_is_cut(
    node, subscriptions, monkeypatch
):
    monkeypatch.setattr(pump_module, "AHEAD_BYTES", 10_000)
    await append(node, 2, stream="gone")
    await append(node, 8, size=6_000)
    await append(node, 2, stream="gone")
    await subscriptions.create("all", None, "sub", strategy="round_robin")
    while await subscriptions.pull("sub", 12):
        pass
    await node.store("main").streams.delete("gone")
    await subscriptions.leave("sub", "default")
    assert await all_of(subscriptions) == list(range(3, 11))
    assert (await subscriptions.get("sub")).checkpoint == 12


# -- a call that fails does not concern the others ---------------------------------------------------


async def test_a_pull_that_fails_leaves_those_that_wait_awake(node, subscriptions, monkeypatch):
    """One is cancelled while it reads what was appended; the other waited for just that."""
    await subscriptions.create("all", None, "sub", strategy="round_robin")
    standing = asyncio.create_task(subscriptions.pull("sub", 10, LONG_MS, "standing"))
    await until(lambda: subscriptions._exchange._count)
    pump = subscriptions._pumps["sub"]
    read, reading = pump._source.next, asyncio.Event()

    async def slow(count: int) -> Any:
        await read(count)
        reading.set()
        await asyncio.Event().wait()

    with monkeypatch.context() as patch:
        patch.setattr(pump._source, "next", slow)
        going = asyncio.create_task(subscriptions.pull("sub", 10, LONG_MS, "going"))
        await reading.wait()
        going.cancel()
        with pytest.raises(asyncio.CancelledError):
            await going
    await append(node)
    async with asyncio.timeout(LONG_MS / 2_000):
        assert places(await standing) == [1]


@pytest.mark.parametrize(
    ("meanwhile", "error", "comes"),
    [("reset", LeaseExpired, [2]), ("deleted and made again", NotFound, [1, 2])],
)
async def test_an_ack_by_event_settles_nothing_of_the_next_life(
    node, subscriptions, monkeypatch, meanwhile, error, comes
):
    """It looks up an event that is settled already while the subscription begins anew."""
    await append(node, 2)
    await subscriptions.create("all", None, "sub")
    await subscriptions.ack_leases("sub", leases(await subscriptions.pull("sub", 1)))
    await subscriptions.pull("sub")
    read = subscriptions._streams.read_event

    async def slow(*arguments: Any) -> Any:
        found = await read(*arguments)
        if meanwhile == "reset":
            await subscriptions.reset("sub", 1)
        else:
            await subscriptions.unsubscribe("sub")
            await subscriptions.create("all", None, "sub")
        return found

    monkeypatch.setattr(subscriptions._streams, "read_event", slow)
    with pytest.raises(error):
        await subscriptions.ack_events("sub", [("s", 0), ("s", 1)])
    assert subscriptions._pumps["sub"].delivery.in_flight == 0
    assert places(await subscriptions.pull("sub")) == comes


async def test_while_nothing_can_be_stored_a_consumer_that_waits_does_not_try_without_end(
    node, subscriptions, clock, monkeypatch
):
    await append(node)
    await subscriptions.create("all", None, "sub", ack_timeout_ms=1_000, backoff_ms=[])
    found = await subscriptions.pull("sub")
    submit, tries = subscriptions._context.submit, 0

    def refused(command: Any, *arguments: Any) -> Any:
        nonlocal tries
        if not isinstance(command, Settle):
            return submit(command, *arguments)
        tries += 1
        raise DiskFull("no room")

    monkeypatch.setattr(pump_module, "PAUSE_S", 0.05)
    with monkeypatch.context() as patch:
        patch.setattr(subscriptions._context, "submit", refused)
        clock.advance(1_000)
        found = await subscriptions.pull("sub")  # its failure is to be stored
        waiting = asyncio.create_task(subscriptions.pull("sub", 10, LONG_MS))
        pump = subscriptions._pumps["sub"]
        await until(lambda: pump._waiting)
        pump._replicate()
        for _ in range(1_000):
            await asyncio.sleep(0)
        assert tries <= 3
    await until(lambda: subscriptions._context.memory.subscriptions["sub"].attempts)  # tried again by itself
    await subscriptions.ack_leases("sub", leases(found))
    await append(node)
    assert places(await waiting) == [2]


async def test_a_stream_deleted_while_the_first_consumer_is_let_in_is_not_blocked(
    node, subscriptions, monkeypatch
):
    await append(node, 2)
    await subscriptions.create("all", None, "sub", ordered=True)
    await subscriptions.nack("sub", leases(await subscriptions.pull("sub", 1)), "park")
    await subscriptions.leave("sub", "default")
    subscriptions._drop_idle()
    assert not subscriptions._pumps
    read = subscriptions._context.read_applied

    async def slow(*arguments: Any) -> Any:
        found = await read(*arguments)
        monkeypatch.setattr(subscriptions._context, "read_applied", read)
        await node.store("main").streams.delete("s")
        await append(node)
        return found

    monkeypatch.setattr(subscriptions._context, "read_applied", slow)
    assert places(await subscriptions.pull("sub")) == [3]


async def test_a_consumer_that_comes_while_the_store_closes_is_told_so(node, subscriptions, monkeypatch):
    await subscriptions.create("all", None, "sub", ordered=True)
    read = subscriptions._context.read_applied

    async def slow(*arguments: Any) -> Any:
        found = await read(*arguments)
        await subscriptions.close()
        return found

    monkeypatch.setattr(subscriptions._context, "read_applied", slow)
    with pytest.raises(ShuttingDown):
        await subscriptions.pull("sub")
    assert not subscriptions._pumps


@pytest.mark.parametrize("made_again", [False, True])
async def test_who_waits_is_told_that_the_store_was_dropped(node, subscriptions, made_again):
    await subscriptions.create("all", None, "pulled")
    await subscriptions.create("all", None, "pushed")
    pushed = subscriptions.push("pushed", "me")
    calls = (
        subscriptions.pull("pulled", 10, LONG_MS),
        anext(pushed),
        node.store("main").wait_for(1, LONG_MS),
    )
    waiting = [asyncio.ensure_future(call) for call in calls]
    await until(lambda: subscriptions._exchange._count == 2)
    await node.drop_store("main")
    if made_again:
        await node.create_store("main")
    for call in (*waiting, subscriptions.pull("pulled"), subscriptions.list(), append_to(subscriptions)):
        with pytest.raises(NotFound) as told:
            await call
        assert told.value.facts == {"store": "main"}


async def test_a_push_that_is_closed_has_lost_its_consumer_at_once(node, subscriptions):
    await append(node)
    await subscriptions.create("all", None, "sub")
    async with aclosing(subscriptions.push("sub", "me")) as pushed:
        await anext(pushed)
    assert subscriptions._pumps["sub"].delivery.consumers.names == []


async def test_one_that_led_in_another_term_when_it_was_asked_delivers_nothing(
    node, subscriptions, monkeypatch
):
    """Whoever led meanwhile has delivered under the same leases."""
    await node.store("main").streams.append("s", -2, events(1))
    await subscriptions.create("all", None, "sub", ordered=True)
    context, terms = subscriptions._context, [7]
    read_applied = context.read_applied

    async def read_slowly(*arguments):
        found = await read_applied(*arguments)
        terms[0] = 8
        return found

    monkeypatch.setattr(Leadership, "term", property(lambda _: terms[0]))
    monkeypatch.setattr(context, "read_applied", read_slowly)
    with pytest.raises(NoLeader):
        await subscriptions.pull("sub")
    assert not subscriptions._pumps
    monkeypatch.setattr(context, "read_applied", read_applied)
    assert len(await subscriptions.pull("sub")) == 1
    subscriptions.lead(leading=True)
    assert not subscriptions._pumps, "what was leased when this node led before counts no more"
