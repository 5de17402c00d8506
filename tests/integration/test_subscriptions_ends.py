"""What a subscription has stored when it matters, for one that waits and at the end, and what it says of itself."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from node_kit import commit, events, opened, small

from shoal.errors import ShuttingDown
from shoal.model import standing as standing_module
from shoal.store import subscriptions as subscriptions_module
from shoal.types import ANY_VERSION, NewEvent

LONG_MS = 5_000
NEVER_MS = 3_600_000
LAZY: dict[str, Any] = {"ack_durability": "lazy", "checkpoint_interval_ms": NEVER_MS}


async def append(node: Any, count: int = 1, stream: str = "s") -> None:
    await node.store("main").streams.append(stream, ANY_VERSION, events(count))


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


@pytest.mark.parametrize("options", [{"strategy": "by_stream"}, {"strategy": "round_robin", "ordered": True}])
@pytest.mark.parametrize("wait_ms", [0, LONG_MS])
async def test_a_lazy_ack_is_stored_when_a_consumer_waits_for_it(node, subscriptions, options, wait_ms):
    """Of a stream whose next event may go to another one only then."""
    await append(node, 2)
    await subscriptions.create("all", None, "sub", **LAZY, **options)
    found = await subscriptions.pull("sub", 1, 0, "one")
    assert await subscriptions.ack_leases("sub", leases(found)) == 0
    again = await subscriptions.pull("sub", 1, wait_ms, "two")
    while not again:  # one that does not wait comes again
        await asyncio.sleep(0)
        again = await subscriptions.pull("sub", 1, wait_ms, "two")
    assert places(again) == [2]
    assert (await subscriptions.get("sub")).checkpoint == 1


async def test_a_standby_that_asks_does_not_have_lazy_acks_stored(node, subscriptions):
    await append(node, 2)
    await subscriptions.create("all", None, "sub", **LAZY, ordered=True)
    await subscriptions.nack(
        "sub", leases(await subscriptions.pull("sub", 1, 0, "active")), delay_ms=NEVER_MS
    )
    settling = subscriptions._pumps["sub"]._settling
    assert await subscriptions.pull("sub", 1, 0, "standby") == []
    assert settling._due is None
    assert await subscriptions.pull("sub", 1, 0, "active") == []
    assert settling._due is not None


async def test_a_lazy_ack_is_stored_when_there_is_no_room_for_more(node, subscriptions, monkeypatch):
    monkeypatch.setattr(standing_module, "AHEAD_ITEMS", 2)
    await append(node, 10)
    await subscriptions.create("all", None, "sub", **LAZY, max_in_flight=1)
    seen: list[int] = []
    while len(seen) < 10:
        found = await subscriptions.pull("sub", 1, LONG_MS)
        seen += places(found)
        await subscriptions.ack_leases("sub", leases(found))
    assert seen == list(range(1, 11))
    assert 0 < (await subscriptions.get("sub")).checkpoint < 10


async def test_a_lazy_ack_waits_while_nobody_is_kept_waiting_by_it(node, subscriptions):
    await subscriptions.create("all", None, "sub", **LAZY, ordered=True)
    for _ in range(10):
        await append(node)
        await subscriptions.ack_leases("sub", leases(await subscriptions.pull("sub", 10)))
        assert await subscriptions.pull("sub", 10) == []
    assert (await subscriptions.get("sub")).checkpoint == 0


async def test_what_is_leased_when_a_store_closes_has_not_failed(tmp_path):
    """However often: events that are out when a node ends unasked are recorded before they go out again."""
    async with opened(small(tmp_path)) as node:
        await append(node, 3)
        await node.store("main").subscriptions.create("all", None, "sub", max_retries=0)
    for _ in range(4):
        async with opened(small(tmp_path)) as node:
            subscriptions = node.store("main").subscriptions
            assert places(await subscriptions.pull("sub", 10, 0, "one")) == [
                1
            ]  # alone, for it may be the last time
            waiting = asyncio.create_task(subscriptions.pull("sub", 10, LONG_MS, "one"))
            await asyncio.sleep(0)
        with pytest.raises(ShuttingDown):
            await waiting
    async with opened(small(tmp_path)) as node:
        store = node.store("main")
        assert store._context.memory.subscriptions["sub"].attempts == ()
        assert await store.subscriptions.parked("sub") == []


async def test_what_is_read_for_a_consumer_while_the_store_closes_is_not_handed_out(
    node, subscriptions, monkeypatch
):
    await append(node, 1)
    await subscriptions.create("all", None, "sub")
    await subscriptions.nack("sub", leases(await subscriptions.pull("sub")), delay_ms=0)
    read = subscriptions._context.read_applied

    async def closing(*arguments: Any) -> Any:
        found = await read(*arguments)
        await subscriptions._pumps["sub"].close()
        return found

    monkeypatch.setattr(subscriptions._context, "read_applied", closing)
    with pytest.raises(ShuttingDown):
        await subscriptions.pull("sub")


@pytest.mark.parametrize("stored", [False, True])
async def test_where_nobody_consumes_stats_look_at_so_many_positions_a_call(
    node, subscriptions, monkeypatch, stored
):
    """And metrics say what they found."""
    monkeypatch.setattr(subscriptions_module, "LOOKED_AT", 100)
    await append(node, 250)
    await subscriptions.create("event_payload", {"n": -1}, "sub")
    if stored:
        await commit(node)

    async def lags() -> tuple[int, float]:
        return (await subscriptions.stats("sub")).lag, node.stats()["subscription_lag:main:sub"]

    assert node.stats()["subscription_lag:main:sub"] == 250
    assert [await lags() for _ in range(4)] == [(150, 150), (50, 50), (0, 0), (0, 0)]
    await node.store("main").streams.append("s", ANY_VERSION, [NewEvent("e", {"n": -1})])
    await append(node, 10)
    assert await lags() == await lags() == (11, 11)
    found = await subscriptions.pull("sub")
    await subscriptions.ack_leases("sub", leases(found))
    await subscriptions.leave("sub", "default")
    assert await lags() == (0, 0)
    subscriptions._drop_idle()
    assert not subscriptions._pumps
    assert node.stats()["subscription_lag:main:sub"] == 0
    await subscriptions.reset("sub", "beginning")
    assert await lags() == (161, 161)
