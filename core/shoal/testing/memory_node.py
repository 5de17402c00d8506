"""A node of stores in memory, as HTTP serves it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec

from shoal.clock import Clock
from shoal.errors import NotFound
from shoal.testing.memory_store import MemoryStore
from shoal.types import Limits


class Unharmed(msgspec.Struct):
    """What a verification finds where nothing is on a disk."""

    stores: int
    streams: int
    events: int
    snapshots: int = 0
    problems: tuple[()] = ()
    subscriptions: int = 0


class MemoryNode:
    """The node that HTTP serves, with stores in memory."""

    def __init__(self, clock: Clock, limits: Limits | None = None, stores: Sequence[str] = ("main",)) -> None:
        self._clock = clock
        self._limits = limits
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.stores: dict[str, MemoryStore] = {name: MemoryStore(name, clock, limits) for name in stores}

    def store(self, name: str) -> MemoryStore:
        """Raises NotFound."""
        try:
            return self.stores[name]
        except KeyError:
            raise NotFound(f"there is no store {name!r}", store=name) from None

    async def look_for(self, name: str) -> None:
        """All are here."""

    async def create_store(self, name: str) -> MemoryStore:
        """The store, made if need be."""
        return self.stores.setdefault(name, MemoryStore(name, self._clock, self._limits))

    async def drop_store(self, name: str) -> None:
        """Forget a store and its events; fine when there is none."""
        self.stores.pop(name, None)

    def info(self) -> dict[str, Any]:
        """A lone leader."""
        head = max((store.head for store in self.stores.values()), default=0)
        return {
            "node_id": "memory",
            "cluster_id": "memory",
            "incarnation": 1,
            "mode": "single",
            "role": "leader",
            "term": 1,
            "commit_index": head,
            "applied_index": head,
        }

    async def verify(self) -> Unharmed:
        """Counts, and no problem: memory is not verified."""
        memories = [store._memory for store in self.stores.values()]  # noqa: SLF001 - its own parts
        return Unharmed(
            stores=len(memories),
            streams=sum(len(memory.heads) for memory in memories),
            events=sum(len(memory.rows) for memory in memories),
        )

    def stats(self) -> dict[str, float]:
        """One gauge a store."""
        return {f"shoal_store_head_{name}": store.head for name, store in self.stores.items()}
