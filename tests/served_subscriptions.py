"""Subscriptions that do what a test says and write down what they are asked, served over real HTTP on loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

import aiohttp
from http_board import Board, configured

from shoal.errors import NotFound, ShoalError
from shoal.http import Connections, Service
from shoal.http.context import ServedSubscriptions
from shoal.store.api import SubscriptionCheck
from shoal.testing.clock import FakeClock
from shoal.testing.memory_node import MemoryNode
from shoal.tokens import TokenFile
from shoal.types import (
    Delivered,
    ParkedEvent,
    ParkedPage,
    Subscription,
    SubscriptionOptions,
    SubscriptionStats,
)

STATS = SubscriptionStats("s", 3, 9, 6, 2, 1, 4, 17, 5, ["default"], 3)
_HEAD: tuple[Any, ...] = (b"\x01" * 16, "t", 1_700_000_000_000_000)


def stored(name: str = "s", kind: Any = "stream", selector: Any = "orders") -> Subscription:
    """A subscription as a store has it."""
    options = SubscriptionOptions(max_in_flight=7)
    return Subscription(name, kind, selector, "beginning", options, 3, 1_700_000_000_000_001)


def delivered(position: int, data: bytes = b"1", stream: str = "orders") -> Delivered:
    """A leased event at a position."""
    return Delivered(stream, position - 1, position, *_HEAD, data, lease=f"lease-{position}", attempt=2)


def set_aside(position: int) -> ParkedEvent:
    """A parked event at a position."""
    return ParkedEvent(
        "orders", position - 1, position, *_HEAD, b"1", reason="bad", attempts=3, replaying=True
    )


class ScriptedSubscriptions:
    """`calls` is what it was asked, `fail` what it raises next; `events` and `batches` are what it delivers."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.stored: dict[str, Subscription] = {}
        self.fail: ShoalError | None = None
        self.events: list[Delivered] = []
        self.stubborn = False
        """A pull that is cancelled has its events already."""
        self.pulling = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.batches: asyncio.Queue[list[Delivered] | ShoalError] = asyncio.Queue()
        self.lost = asyncio.Event()

    def _note(self, *call: Any) -> None:
        self.calls.append(call)
        if self.fail is not None:
            raise self.fail

    async def get(self, name: str) -> Subscription:
        if name not in self.stored:
            raise NotFound(f"subscription {name!r} does not exist", subscription=name)
        return self.stored[name]

    async def list(self) -> list[Subscription]:
        return list(self.stored.values())

    async def create_or_find(self, name: str, fields: Mapping[str, Any]) -> tuple[Subscription, bool]:
        self._note("create_or_find", name, dict(fields))
        new = name not in self.stored
        return self.stored.setdefault(name, stored(name, fields["type"], fields.get("selector"))), new

    async def _meant(self, name: str, check: SubscriptionCheck | None) -> None:
        if check is not None:
            check(await self.get(name))

    async def change(
        self, name: str, fields: Mapping[str, Any], check: SubscriptionCheck | None = None
    ) -> Subscription:
        await self._meant(name, check)
        self._note("change", name, dict(fields))
        return await self.get(name)

    async def unsubscribe(self, *key: str, check: SubscriptionCheck | None = None) -> None:
        await self._meant(key[-1], check)
        self._note("unsubscribe", *key)

    async def pull(self, name: str, count: int, wait_ms: int, consumer: str) -> list[Delivered]:
        self._note("pull", name, count, wait_ms, consumer)
        if self.events or not wait_ms:
            return self.events
        self.pulling.set()
        try:
            await asyncio.sleep(wait_ms / 1000)
        except asyncio.CancelledError:
            self.cancelled.set()
            if self.stubborn:
                return [delivered(1), delivered(2)]
            raise
        return []

    async def push(
        self, name: str, consumer: str, prefetch: int | None, check: SubscriptionCheck | None
    ) -> AsyncGenerator[Any, None]:
        await self._meant(name, check)
        self._note("push", name, consumer, prefetch)
        try:
            while True:
                batch = await self.batches.get()
                if isinstance(batch, ShoalError):
                    raise batch
                yield batch
        finally:
            self.lost.set()

    async def ack_leases(self, name: str, leases: Sequence[str]) -> int:
        self._note("ack_leases", name, leases)
        return 4

    async def ack_through(self, name: str, position: int) -> int:
        self._note("ack_through", name, position)
        return 5

    async def ack_events(self, name: str, events: Sequence[tuple[str, int]]) -> int:
        self._note("ack_events", name, events)
        return 6

    async def nack(
        self, name: str, leases: Sequence[str], action: str, delay_ms: int | None, reason: str
    ) -> int:
        self._note("nack", name, leases, action, delay_ms, reason)
        return 7

    async def give_back(self, name: str, leases: Sequence[str]) -> None:
        self._note("give_back", name, leases)

    async def leave(self, name: str, consumer: str) -> None:
        self._note("leave", name, consumer)

    async def parked_page(self, name: str, after: int, count: int) -> ParkedPage:
        self._note("parked_page", name, after, count)
        return ParkedPage([set_aside(8)], 8)

    async def replay_parked(
        self, name: str, limit: int | None, check: SubscriptionCheck | None = None
    ) -> int:
        await self._meant(name, check)
        self._note("replay_parked", name, limit)
        return 2

    async def reset(self, name: str, to: str | int, check: SubscriptionCheck | None = None) -> Subscription:
        await self._meant(name, check)
        self._note("reset", name, to)
        return await self.get(name)

    async def stats(self, name: str) -> SubscriptionStats:
        self._note("stats", name)
        return STATS


class Served(NamedTuple):
    """A board over scripted subscriptions, with what a test may reach into."""

    board: Board
    subscriptions: ScriptedSubscriptions
    service: Service


@asynccontextmanager
async def subscription_board(
    data_dir: Path, values: Mapping[str, Any] | None = None
) -> AsyncIterator[Served]:
    """A board whose store `main` has scripted subscriptions, the subscription `s` among them."""
    node, scripted = MemoryNode(FakeClock()), ScriptedSubscriptions()
    scripted.stored["s"] = stored()
    node.store("main").subscriptions = cast("ServedSubscriptions", scripted)
    service = Service(node, configured(data_dir, values), TokenFile(data_dir), now_ms=lambda: 0)
    connections = Connections(service.handle, limit=9, header_timeout_s=9)
    server = await asyncio.get_running_loop().create_server(connections, "127.0.0.1", 0)
    async with aiohttp.ClientSession() as session:
        url = "http://127.0.0.1:%d" % server.sockets[0].getsockname()[1]
        yield Served(Board(url, session), scripted, service)
    server.close()
    await connections.shutdown()
