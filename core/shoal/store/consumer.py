"""One consumer of a subscription, on top of `pull` and `ack`: the same one for embedded and remote stores."""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from inspect import isawaitable
from typing import Literal, Self, TypeVar

from shoal import telemetry
from shoal.accel.hash import partition_hash
from shoal.errors import LeaseExpired, NotFound, ShoalError, ShuttingDown
from shoal.store.api import Subscriptions
from shoal.types import Delivered, NackAction, Subscription, SubscriptionOptions

WAIT_MS = 10_000
"""How long a pull waits for the first event; then the next one does."""
FIRST_BATCH = 32
LARGEST_BATCH = 1_000
WAITING_ACKS = 256
ACK_AFTER_MS = 100
REASON_BYTES = 1_000

_log = logging.getLogger(__name__)

Handler = Callable[[Delivered], Awaitable[None]]
Endure = Callable[[ShoalError | None], Awaitable[None]]
"""Told of an error that may pass, it pauses before the next try; told None, all is well again."""
T = TypeVar("T")


def own_name() -> str:
    """A consumer's name that no other has, and that tells where it runs."""
    return f"{socket.gethostname()[:64]}-{secrets.token_hex(4)}"


class Pace:
    """How many events to ask for, so that they are done long before their leases run out. Pure."""

    def __init__(self, options: SubscriptionOptions, least: int = 1) -> None:
        self._lease_ms = options.ack_timeout_ms
        # Who works on a batch without a call for too long counts as gone.
        self._allowed_ms = min(options.ack_timeout_ms, options.consumer_timeout_ms)
        self._most = min(LARGEST_BATCH, options.max_in_flight)
        self.least = least
        self.count = min(FIRST_BATCH, self._most)
        self._fetched_ms = 0
        self._got = 0

    def fetched(self, got: int, now_ms: int) -> None:
        """`got` events were leased at `now_ms`."""
        self._got, self._fetched_ms = got, now_ms

    def run_out(self, now_ms: int) -> bool:
        """Whether the leases of the last batch have run out: others may have its events."""
        return now_ms - self._fetched_ms >= self._lease_ms

    def consumed(self, now_ms: int) -> None:
        """The last batch is done with. Few events that took long count as the many that might have come."""
        if not self._got:
            return
        took_ms = now_ms - self._fetched_ms
        if took_ms * max(1, self.count / self._got) > self._allowed_ms / 4:
            self.count = max(self.count // 2, min(self.least, self._most))
        elif self._got >= self.count and took_ms <= self._allowed_ms / 10:
            self.count = min(self.count * 2, self._most)
        self._got = 0


class Acks:
    """Acks that wait to travel together. One that failed stays, since an ack may be repeated."""

    def __init__(self, send: Callable[[list[str]], Awaitable[object]], now_ms: Callable[[], int]) -> None:
        self._settle = send
        self._now_ms = now_ms
        self._waiting: dict[str, None] = {}
        self._dead: list[str] = []
        self._idle_ms = now_ms()
        self._sending = asyncio.Lock()

    def idle(self) -> None:
        """Nothing waits: the time of the next ones begins now."""
        self._idle_ms = self._now_ms()

    def add(self, lease: str) -> None:
        """Send this one, some time."""
        self._waiting[lease] = None

    def due(self) -> bool:
        """Whether those that wait should go now: they are many, or an event took its time."""
        return bool(self._waiting) and (
            len(self._waiting) >= WAITING_ACKS or self._now_ms() - self._idle_ms >= ACK_AFTER_MS
        )

    async def flush(self) -> None:
        """Send all that wait. Raises LeaseExpired naming the dead when the others are settled."""
        async with self._sending:
            while leases := list(self._waiting):
                await self._send(leases)
            self.idle()
            dead, self._dead = self._dead, []
        if dead:
            raise LeaseExpired(
                f"{len(dead)} acked events were not leased any more, and come again", leases=dead
            )

    async def _send(self, leases: list[str]) -> None:
        """Settle all, or forget those that are dead and leave the others to the next try."""
        try:
            await self._settle(leases)
        except LeaseExpired as error:
            named = set(error.facts.get("leases") or ())
            leases = [lease for lease in leases if lease in named] or leases
            self._dead += leases
        for lease in leases:
            self._waiting.pop(lease, None)


class PullingConsumer:
    """`shoal.store.api.Consumer`. One task iterates; any may ack.

    Errors of the store come through unchanged, and iterating can go on after them: what was leased and not handed out
    stays, or comes again. With `endure` errors that may pass are waited out: a board that is away is waited for.
    Misuse (entering twice, iterating before or after, or from two tasks) is a RuntimeError.
    """

    def __init__(
        self,
        subscriptions: Subscriptions,
        create: Callable[[], Awaitable[Subscription]],
        name: str,
        consumer: str,
        *,
        store_id: str,
        now_ms: Callable[[], int],
        endure: Endure | None = None,
    ) -> None:
        self.name = name
        self.consumer = consumer
        self._subscriptions = subscriptions
        self._create = create
        self._store_id = store_id
        self._now_ms = now_ms
        self._options = SubscriptionOptions()
        self._pace = Pace(self._options)
        self._endure = endure
        self._acks = Acks(self._ack_leases, now_ms)
        self._state: Literal["new", "entered", "left"] = "new"
        self._iterating = False
        self._buffer: deque[Delivered] = deque()
        self._handed: Delivered | None = None
        self._last_lease = ""
        self._pulling: asyncio.Task[tuple[list[Delivered], int]] | None = None

    # -- beginning and end -----------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        if self._state != "new":
            raise RuntimeError("a consumer can be entered once; call subscribe for another")
        self._options = (await self._create()).options
        self._pace = Pace(self._options)
        self._state = "entered"
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._state = "left"
        error = exc[1] if len(exc) > 1 else None
        try:
            await self._leave(error if isinstance(error, Exception) else None)
        except Exception:
            # What ended the body says more than what followed from it.
            if error is None:
                raise

    async def _leave(self, failure: Exception | None) -> None:
        """Each step is tried whatever became of the one before; each ends by the store's own timeouts."""
        try:
            if self._pulling is not None:
                self._pulling.cancel()
                await asyncio.gather(self._pulling, return_exceptions=True)
        finally:
            try:
                await _unless_gone(self.flush())
                if failure is not None and self._handed is not None:  # what the body raised on has failed
                    lease, reason = self._handed.lease, _reason(failure)
                    await _unless_gone(self._subscriptions.nack(self.name, [lease], "retry", None, reason))
            finally:
                await _unless_gone(self._subscriptions.leave(self.name, self.consumer))

    # -- iterating -------------------------------------------------------------------------------

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Delivered:
        self._begin_iterating()
        try:
            if self._acks.due():
                await self.flush()
            await self._fill()
            self._handed = self._buffer.popleft()
            return self._handed
        finally:
            self._iterating = False

    def _begin_iterating(self) -> None:
        if self._state != "entered":
            raise RuntimeError(
                "this consumer was left; call subscribe for another"
                if self._state == "left"
                else "enter the consumer first: `async with store.subscriptions.subscribe(...) as consumer`"
            )
        if self._iterating:
            raise RuntimeError("another task iterates over this consumer; subscribe once for each task")
        self._iterating = True

    async def _fill(self) -> None:
        """Wait until the buffer holds events whose leases live."""
        while not self._buffer or self._pace.run_out(self._now_ms()):
            # What is left has run out, and comes again: to handle it now would be to handle it twice.
            self._buffer.clear()
            await self.flush()
            await self._fetch()

    async def _fetch(self) -> None:
        """Whoever stops waiting loses nothing: the pull goes on, and the next call takes what it brings."""
        if self._pulling is None:
            self._pace.consumed(self._now_ms())
            self._pulling = asyncio.create_task(self._pull(), name=f"pull {self.name}")
        await asyncio.wait([self._pulling])
        done, self._pulling = self._pulling, None
        events, fetched_ms = done.result()
        if events:
            self._buffer.extend(events)
            self._last_lease = events[-1].lease
            self._pace.fetched(len(events), fetched_ms)
        self._acks.idle()

    async def _pull(self) -> tuple[list[Delivered], int]:
        pull = partial(self._subscriptions.pull, self.name, self._pace.count, WAIT_MS, self.consumer)
        return await self._through(pull), self._now_ms()

    async def _through(self, call: Callable[[], Awaitable[T]]) -> T:
        """Make a call that may be repeated, again and again while errors may pass; at the end once."""
        while True:
            try:
                result = await call()
            except ShoalError as error:
                if self._endure is None or not error.retryable or self._state == "left":
                    raise
                await self._endure(error)
            else:
                if self._endure is not None:
                    await self._endure(None)
                return result

    async def _ack_leases(self, leases: list[str]) -> int:
        return await self._through(partial(self._subscriptions.ack_leases, self.name, leases))

    # -- settling --------------------------------------------------------------------------------

    async def ack(self, event: Delivered) -> None:
        """See shoal.store.api.Consumer. LeaseExpired may name earlier events too: all it names come again."""
        self._check_not_left()
        self._handed = None
        self._acks.add(event.lease)
        # A redelivered event may be one that kills its consumer: those before it must not die with it. And while
        # a pull waits, no further ack may come for long.
        if (
            event.attempt > 1
            or event.lease == self._last_lease
            or self._pulling is not None
            or self._acks.due()
        ):
            await self.flush()

    async def nack(
        self, event: Delivered, action: NackAction = "retry", delay_ms: int | None = None, reason: str = ""
    ) -> None:
        """See shoal.store.api.Consumer. LeaseExpired may name earlier acks, which go first."""
        self._check_not_left()
        self._handed = None
        expired: LeaseExpired | None = None
        try:
            await self.flush()
        except LeaseExpired as error:
            expired = error
        await self._through(
            partial(self._subscriptions.nack, self.name, [event.lease], action, delay_ms, reason)
        )
        if expired is not None:
            raise expired

    async def flush(self) -> None:
        """See shoal.store.api.Consumer. Acks that fail for another reason than LeaseExpired stay queued."""
        await self._acks.flush()

    def _check_not_left(self) -> None:
        if self._state == "left":
            raise RuntimeError("this consumer was left: what it had leased is given back")

    # -- a pool of workers -----------------------------------------------------------------------

    async def run(self, handler: Handler) -> None:
        """See shoal.store.api.Consumer. Batches follow each other: the next is fetched when one is done.

        So no more is leased than is being worked on, and a slow handler makes for smaller batches. An event whose
        lease ran out before its turn is not handled; it comes again. After a failure later events of the stream go on,
        unless the subscription is `ordered`: then they come again, behind the failed one.
        Ends only by an error of the store, or cancelled: then what is not acked comes again once the consumer is left.
        """
        self._begin_iterating()
        try:
            workers = self._options.pool_size
            self._pace.least = workers
            self._tell_pool(workers)
            while True:
                await _if_leased(self._fill())
                events = list(self._buffer)
                self._buffer.clear()
                await self._handle_all(handler, events, workers)
        finally:
            self._pace.least = 1
            self._iterating = False

    async def _handle_all(self, handler: Handler, events: Sequence[Delivered], workers: int) -> None:
        """Each stream by one worker, in order. A worker that fails lets the others finish first."""
        parts: list[list[Delivered]] = [[] for _ in range(workers)]
        for event in events:
            parts[partition_hash(event.stream_id.encode(), workers)].append(event)
        ends = await asyncio.gather(
            *(self._work(handler, part) for part in parts if part), return_exceptions=True
        )
        for end in ends:
            if end is not None:
                raise end

    async def _work(self, handler: Handler, events: Sequence[Delivered]) -> None:
        held: set[str] = set()
        for event in events:
            if self._pace.run_out(self._now_ms()):
                return
            if event.stream_id in held:
                continue  # taken back by the store when the one before it failed
            if not await self._handle(handler, event) and self._options.ordered:
                held.add(event.stream_id)

    async def _handle(self, handler: Handler, event: Delivered) -> bool:
        """Handle one event and settle it; whether it went well."""
        failure: Exception | None = None
        began_ns = time.perf_counter_ns()
        try:
            handling = handler(event)
            if isawaitable(handling):
                await handling
        except Exception as error:  # noqa: BLE001 - whatever it is, the event has failed
            _log.exception(
                "subscription %r: %s@%d is retried, its handler failed",
                self.name,
                event.stream_id,
                event.version,
            )
            failure = error
        else:
            if not isawaitable(handling):
                raise TypeError(
                    "the handler must be an `async def` function: this one was called and not awaited"
                )
        self._tell_handled(time.perf_counter_ns() - began_ns)
        if failure is None:
            await _if_leased(self.ack(event))
        else:
            await _if_leased(self.nack(event, reason=_reason(failure)))
        return failure is None

    def _tell_pool(self, workers: int) -> None:
        if telemetry.enabled(telemetry.EMITTER_POOL_CREATED):
            measured = {"system_time": telemetry.system_time()}
            telemetry.emit(
                telemetry.EMITTER_POOL_CREATED, measured, {**self._identity(), "pool_size": workers}
            )

    def _tell_handled(self, duration_ns: int) -> None:
        if telemetry.enabled(telemetry.EMITTER_BROADCAST):
            telemetry.emit(telemetry.EMITTER_BROADCAST, {"duration": duration_ns}, self._identity())

    def _identity(self) -> dict[str, str]:
        return {"store_id": self._store_id, "subscription_id": self.name}


def _reason(error: Exception) -> str:
    """The error as text that can be sent, cut where a character ends."""
    text = repr(error).replace("\0", "\\0")
    return text.encode(errors="backslashreplace")[:REASON_BYTES].decode(errors="ignore")


async def _if_leased(settling: Awaitable[None]) -> None:
    """Settle it if it is still ours; if not, it comes again, and a pool has nobody to tell."""
    try:
        await settling
    except LeaseExpired:
        return


async def _unless_gone(call: Awaitable[object]) -> None:
    """At the end nothing is left to give back to a subscription that is deleted, or to a store that closes."""
    try:
        await call
    except (NotFound, ShuttingDown):
        return
