"""Subscriptions that answer by script, and write down what they are asked: for consumers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from shoal.store.consumer import PullingConsumer
from shoal.types import Delivered, Subscription, SubscriptionOptions


def delivered(number: int, stream_id: str = "s", attempt: int = 1) -> Delivered:
    return Delivered(
        stream_id, number, number, f"id-{number}", "e", 0, b"1", lease=f"l{number}", attempt=attempt
    )


def batch(*numbers: int, **given: Any) -> list[Delivered]:
    return [delivered(number, **given) for number in numbers]


class ScriptedSubscriptions:
    """Pulls give `batches` one by one, then wait for ever; errors in a script are raised."""

    def __init__(self, *batches: Sequence[Delivered] | Exception, **options: Any) -> None:
        self.batches = list(batches)
        self.options = SubscriptionOptions(**options)
        self.ack_answers: list[Exception | None] = []
        self.nack_answers: list[Exception | None] = []
        self.leave_answers: list[Exception | None] = []
        self.calls: list[tuple[Any, ...]] = []
        self.now_ms = 1_000
        self.more = asyncio.Event()
        self.endured: list[Any] = []

    def consumer(self, *, enduring: bool = False) -> PullingConsumer:
        endure = self.endure if enduring else None
        return PullingConsumer(
            self, self.create, "sub", "me", store_id="main", now_ms=lambda: self.now_ms, endure=endure
        )

    async def endure(self, error: Exception | None) -> None:
        self.endured.append(error)

    def subscribe(self, *args: Any, **given: Any) -> PullingConsumer:
        """The same consumer, whatever is asked for."""
        return self.consumer()

    def asked(self, call: str) -> list[Any]:
        """The arguments of all calls of that name."""
        return [given[0] if len(given) == 1 else given for name, *given in self.calls if name == call]

    async def create(self) -> Subscription:
        self.calls.append(("create",))
        return Subscription("sub", "all", None, "beginning", self.options, 0, 0)

    async def pull(self, name: str, count: int, wait_ms: int, consumer: str) -> Sequence[Delivered]:
        assert (name, wait_ms, consumer) == ("sub", 10_000, "me")
        self.calls.append(("pull", count))
        while not self.batches:
            self.more.clear()
            await self.more.wait()
        return self._next(self.batches)

    def give(self, events: Sequence[Delivered]) -> None:
        """Answer the pull that waits."""
        self.batches.append(events)
        self.more.set()

    async def ack_leases(self, name: str, leases: Sequence[str]) -> int:
        self.calls.append(("ack", list(leases)))
        self._next(self.ack_answers)
        return 0

    async def nack(
        self, name: str, leases: Sequence[str], action: str, delay_ms: int | None, reason: str
    ) -> int:
        self.calls.append(("nack", list(leases), action, delay_ms, reason))
        self._next(self.nack_answers)
        return 0

    async def leave(self, name: str, consumer: str) -> None:
        self.calls.append(("leave", consumer))
        self._next(self.leave_answers)

    def _next(self, script: list[Any]) -> Any:
        answer = script.pop(0) if script else None
        if isinstance(answer, Exception):
            raise answer
        return answer
