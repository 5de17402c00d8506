"""Appending to a store and pulling from its subscription `sub`, for the contract tests."""

from __future__ import annotations

import asyncio
from typing import Any

from shoal.types import ANY_VERSION, Delivered, NewEvent

LONG_MS = 5_000
"""For what must come: longer than any machine needs."""
SHORT_MS = 30
"""For what must not come: a test that waits longer finds no more."""


async def append(store: Any, *data: Any, stream_id: str = "s", event_type: str = "e") -> None:
    await store.streams.append(stream_id, ANY_VERSION, [NewEvent(event_type, value) for value in data])


async def pull(store: Any, count: int, consumer: str = "default", most: int = 1_000) -> list[Delivered]:
    """The next `count` events, in as many pulls as it takes; `most` in one pull."""
    events: list[Delivered] = []
    async with asyncio.timeout(20):
        while len(events) < count:
            wanted = min(most, count - len(events))
            events += await store.subscriptions.pull("sub", wanted, LONG_MS, consumer)
    return events


async def nothing(store: Any, consumer: str = "default") -> bool:
    """Whether no more comes."""
    return await store.subscriptions.pull("sub", 100, SHORT_MS, consumer) == []


async def known(store: Any, consumer: str) -> None:
    """Wait until a consumer has called."""
    async with asyncio.timeout(10):
        while consumer not in (await store.subscriptions.stats("sub")).consumers:  # noqa: ASYNC110 - a store has no event
            await asyncio.sleep(0)


async def checkpoint(store: Any) -> int:
    return (await store.subscriptions.get("sub")).checkpoint


def positions(events: list[Any]) -> list[int]:
    return [event.position for event in events]


def leases(events: list[Delivered]) -> list[str]:
    return [event.lease for event in events]
