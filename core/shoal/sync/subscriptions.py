"""Subscriptions, blocking."""

from __future__ import annotations

import asyncio
import builtins
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from inspect import iscoroutinefunction
from queue import SimpleQueue
from typing import Any, NamedTuple, Self

from shoal.store import api
from shoal.sync.loop import Call, LoopThread
from shoal.types import (
    Beginning,
    Delivered,
    NackAction,
    ParkedEvent,
    ParkedPage,
    Subscription,
    SubscriptionStats,
    SubscriptionType,
)


class _Job(NamedTuple):
    """An event for the caller's thread; `failure` gets what the handler raised, or None."""

    event: Delivered
    failure: Future[Exception | None]

    def do(self, handler: Callable[[Delivered], None]) -> None:
        """Handle it, unless nobody waits for that any more."""
        if not self.failure.set_running_or_notify_cancel():
            return
        try:
            handler(self.event)
        except Exception as error:  # noqa: BLE001 - whatever it is, the event has failed
            self.failure.set_result(error)
        else:
            self.failure.set_result(None)


class Consumer(Iterator[Delivered]):
    """`shoal.store.api.Consumer`, blocking: use it as `with`, iterate over it in one thread."""

    def __init__(self, loop: LoopThread, consumer: api.Consumer) -> None:
        self._loop = loop
        self._consumer = consumer

    def __enter__(self) -> Self:
        self._loop.call(self._consumer.__aenter__())
        return self

    def __exit__(self, *exc: object) -> None:
        self._loop.call(self._consumer.__aexit__(*exc))

    def __next__(self) -> Delivered:
        return self._loop.call(self._next())

    async def _next(self) -> Delivered:
        return await anext(self._consumer)

    def ack(self, event: Delivered) -> None:
        self._loop.call(self._consumer.ack(event))

    def nack(
        self, event: Delivered, action: NackAction = "retry", delay_ms: int | None = None, reason: str = ""
    ) -> None:
        self._loop.call(self._consumer.nack(event, action, delay_ms, reason))

    def flush(self) -> None:
        self._loop.call(self._consumer.flush())

    def run(self, handler: Callable[[Delivered], None]) -> None:
        """As the async one, with a plain function, which is called in this thread for one event after the other.

        So `pool_size` has no effect on how many are handled at once. Ends by an error of the store or an interrupt,
        also one inside `handler`. Raises TypeError for an `async def` handler.
        """
        if iscoroutinefunction(handler) or iscoroutinefunction(getattr(handler, "__call__", None)):  # noqa: B004 - is it one?
            raise TypeError(
                "the handler must be a plain function here; for an `async def` one use shoal.open or connect"
            )
        jobs: SimpleQueue[_Job | None] = SimpleQueue()

        async def hand_over(event: Delivered) -> None:
            job = _Job(event, Future())
            jobs.put(job)
            failure = await asyncio.wrap_future(job.failure)
            if failure is not None:
                raise failure

        def work() -> None:
            while (job := jobs.get()) is not None:
                job.do(handler)
            call.result.result()

        call = Call(self._run(hand_over))
        call.result.add_done_callback(lambda _: jobs.put(None))
        self._loop.attend(call, work)

    async def _run(self, handler: Callable[[Delivered], Any]) -> None:
        await self._consumer.run(handler)


class Subscriptions:
    """`shoal.store.api.Subscriptions`, blocking."""

    def __init__(self, loop: LoopThread, subscriptions: api.Subscriptions) -> None:
        self._call = loop.call
        self._loop = loop
        self._subscriptions = subscriptions

    def subscribe(
        self,
        type: SubscriptionType,  # noqa: A002 - its name in the contract
        selector: Any,
        name: str,
        *,
        consumer: str | None = None,
        start_from: Beginning | int | None = None,
        **options: Any,
    ) -> Consumer:
        subscribe = self._subscriptions.subscribe
        made = subscribe(type, selector, name, consumer=consumer, start_from=start_from, **options)
        return Consumer(self._loop, made)

    def create(
        self,
        type: SubscriptionType,  # noqa: A002 - its name in the contract
        selector: Any,
        name: str,
        *,
        start_from: Beginning | int | None = None,
        **options: Any,
    ) -> Subscription:
        return self._call(self._subscriptions.create(type, selector, name, start_from=start_from, **options))

    def update(self, name: str, **options: Any) -> Subscription:
        return self._call(self._subscriptions.update(name, **options))

    def unsubscribe(self, *key: str) -> None:
        self._call(self._subscriptions.unsubscribe(*key))

    def get(self, *key: str) -> Subscription:
        return self._call(self._subscriptions.get(*key))

    def exists(self, *key: str) -> bool:
        return self._call(self._subscriptions.exists(*key))

    def list(self) -> builtins.list[Subscription]:
        return self._call(self._subscriptions.list())

    def pull(
        self, name: str, count: int = 100, wait_ms: int = 0, consumer: str = "default"
    ) -> builtins.list[Delivered]:
        return self._call(self._subscriptions.pull(name, count, wait_ms, consumer))

    def ack(self, stream_id: str, name: str, event_number: int) -> int:
        return self._call(self._subscriptions.ack(stream_id, name, event_number))

    def ack_leases(self, name: str, leases: Sequence[str]) -> int:
        return self._call(self._subscriptions.ack_leases(name, leases))

    def ack_through(self, name: str, position: int) -> int:
        return self._call(self._subscriptions.ack_through(name, position))

    def ack_events(self, name: str, events: Sequence[tuple[str, int]]) -> int:
        return self._call(self._subscriptions.ack_events(name, events))

    def nack(
        self,
        name: str,
        leases: Sequence[str],
        action: NackAction = "retry",
        delay_ms: int | None = None,
        reason: str = "",
    ) -> int:
        return self._call(self._subscriptions.nack(name, leases, action, delay_ms, reason))

    def leave(self, name: str, consumer: str) -> None:
        self._call(self._subscriptions.leave(name, consumer))

    def parked(self, name: str, after: int = 0, count: int = 100) -> builtins.list[ParkedEvent]:
        return self._call(self._subscriptions.parked(name, after, count))

    def parked_page(self, name: str, after: int = 0, count: int = 100) -> ParkedPage:
        return self._call(self._subscriptions.parked_page(name, after, count))

    def replay_parked(self, name: str, limit: int | None = None) -> int:
        return self._call(self._subscriptions.replay_parked(name, limit))

    def reset(self, name: str, to: Beginning | int) -> Subscription:
        return self._call(self._subscriptions.reset(name, to))

    def stats(self, name: str) -> SubscriptionStats:
        return self._call(self._subscriptions.stats(name))
