"""The pump of one subscription: a thin shell around its pure delivery, which reads, waits and keeps time for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

import msgspec

from shoal import telemetry
from shoal.errors import AlreadyExists, NotFound, ShoalError
from shoal.model.delivery import Delivery
from shoal.model.lease import Lease
from shoal.model.machine import Row
from shoal.model.selectors import Selector
from shoal.model.subscriptions import SubscriptionChanged, SubscriptionState, subscription_not_found
from shoal.model.window import LEASED, Item
from shoal.store.context import StoreContext
from shoal.store.exchange import Exchange
from shoal.store.settling import Settling
from shoal.store.source import AHEAD_BYTES, Source
from shoal.types import Delivered, NackAction

REPLAY_ROWS = 1_000
PAUSE_S = 1
"""How long those that wait are left waiting when what was settled could not be stored."""
ADVANCE = 100_000
"""Positions without a match after which the checkpoint is stored, so that a start need not look at them again."""


class _Visit:
    """A call of a consumer that goes on: a pull, or a push. `left`: the consumer said meanwhile that it is gone."""

    __slots__ = ("consumer", "left")

    def __init__(self, consumer: str) -> None:
        self.consumer = consumer
        self.left = False


class Pump:
    """Delivers a subscription while it has consumers. `resumed`: it was there before this node was."""

    def __init__(
        self,
        context: StoreContext,
        exchange: Exchange,
        state: SubscriptionState,
        selector: Selector,
        *,
        resumed: bool,
        blocked: dict[str, int],
    ) -> None:
        self._context = context
        self._exchange = exchange
        self._selector = selector
        self._name = state.name
        self._lock = asyncio.Lock()
        self._loop = asyncio.get_running_loop()
        self._visits: dict[str, _Visit] = {}
        self._waiting: dict[_Visit, asyncio.Future[None]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_ms: int | None = None
        self._over: ShoalError | None = None
        suspects = context.memory.state.position if resumed else 0
        self._begin(
            state, Delivery(state, context.leadership.term, suspects_through=suspects, blocked=blocked)
        )

    def _begin(self, state: SubscriptionState, delivery: Delivery) -> None:
        self.delivery = delivery
        self._settling = Settling(self._context, self._name, delivery, self._on_settled)
        self._source = Source(self._context, self._exchange, self._selector, state.checkpoint)
        self._replayed_through = 0

    # -- delivering ------------------------------------------------------------------------------

    async def pull(self, consumer: str, count: int, wait_ms: int) -> list[Delivered]:
        """Lease up to `count` events, waiting for the first one for `wait_ms` at most; none once the consumer left."""
        visit = self._enter(consumer)
        try:
            return await self._take(visit, count, wait_ms)
        finally:
            if not visit.left:
                del self._visits[consumer]
                self._rest(visit)

    async def push(self, consumer: str, prefetch: int) -> AsyncGenerator[list[Delivered], None]:
        """Lease events as long as the consumer holds fewer than `prefetch`, until it leaves. When closed, it was lost.

        One that does not take its batch is as silent as one that does not pull, and its turn passes to others.
        """
        visit = self._enter(consumer)
        try:
            while not visit.left:
                credit = prefetch - self.delivery.consumers.leased(consumer)
                if credit > 0:
                    batch = await self._take(visit, credit, None)
                    if batch:
                        self._rest(visit)
                        yield batch
                        self._return(visit)
                else:
                    await self._wait(visit, None, listen=False)
        finally:
            if not visit.left:
                self.leave(consumer, lost=True)

    def _enter(self, consumer: str) -> _Visit:
        self._check()
        self.delivery.expire(self._context.now_ms())
        if consumer in self._visits:
            raise AlreadyExists(
                f"consumer {consumer!r} pulls or is connected already; give each consumer a name of its own",
                consumer=consumer,
            )
        self.delivery.consumers.enter(consumer, self._context.now_ms())
        visit = self._visits[consumer] = _Visit(consumer)
        return visit

    def _rest(self, visit: _Visit) -> None:
        """The consumer has what it asked for; if it does not come back in time it is gone."""
        self.delivery.consumers.rest(visit.consumer, self._context.now_ms())
        self._keep_time()

    def _return(self, visit: _Visit) -> None:
        """The consumer took its batch, perhaps so late that it comes as a new one. Raises TooBusy."""
        if not visit.left:
            self._check()
            self.delivery.expire(self._context.now_ms())
            self.delivery.consumers.enter(visit.consumer, self._context.now_ms())
            self._keep_time()

    def leave(self, consumer: str, *, lost: bool = False) -> None:
        """The consumer is gone: others get at once what it has leased, and a call of its that still goes on ends."""
        visit = self._visits.pop(consumer, None)
        if visit is not None:
            visit.left = True
            woken = self._waiting.get(visit)
            if woken is not None and not woken.done():
                woken.set_result(None)
        self.delivery.leave(consumer, self._context.now_ms(), lost=lost)
        self._replicate()
        self._wake()
        self._keep_time()

    async def _take(self, visit: _Visit, count: int, wait_ms: int | None) -> list[Delivered]:
        deadline_ms = None if wait_ms is None else self._context.now_ms() + wait_ms
        while True:
            self._check()
            batch = await self._lease(visit.consumer, count)
            self._check()  # what it had leased was given back, as when it left
            if visit.left:
                return []
            if batch or (deadline_ms is not None and self._context.now_ms() >= deadline_ms):
                return batch
            if not await self._wait(visit, deadline_ms, listen=True):
                return []

    async def _lease(self, consumer: str, count: int) -> list[Delivered]:
        async with self._lock:
            try:
                batch = await self._lease_batch(self.delivery, consumer, count)
            finally:  # also when this one failed, or is gone: the others still wait
                self._call_waiting()
                self._keep_time()
        self._tell(len(batch))
        return batch

    async def _lease_batch(self, delivery: Delivery, consumer: str, count: int) -> list[Delivered]:
        delivery.expire(self._context.now_ms())
        batch: list[Delivered] = []
        while not batch and delivery is self.delivery:
            if not delivery.consumers.is_active(consumer, delivery.options):
                break
            if delivery.replays_wanted:
                await self._load_replays(delivery)
            items = await self._lease_next(delivery, consumer, count)
            if not items:
                if delivery.unreplicated and delivery.stalls:
                    self._settling.soon()  # a lazy ack would go later: but somebody waits for it
                break
            batch = await self._made_out(delivery, items)
        return batch

    async def _lease_next(self, delivery: Delivery, consumer: str, count: int) -> list[Item]:
        """Read until something can be leased, there is no room, or nothing more is to be read.

        What is ready may all be held for others: then it is read on past it.
        """
        wanted = count - delivery.ready(consumer)
        while True:
            if wanted > 0 and self._can_read(delivery):
                source = self._source
                rows = await source.next(min(wanted, delivery.room()))
                if delivery is not self.delivery:
                    return []
                delivery.offer(rows, source.scanned)
                self._advance(delivery)
            items = delivery.lease(consumer, count, self._context.now_ms())
            delivery.forget_rows()
            if items or not self._reads_on(delivery):
                return items
            wanted = count

    async def _made_out(self, delivery: Delivery, items: Sequence[Item]) -> list[Delivered]:
        """The leased events with their leases, as far as they fit memory. The rest is given back.

        So are all of them on any failure, and after a reset.
        """
        batch: list[Delivered] = []
        try:
            rows = await self._rows_of(delivery, items)
            if len(rows) < len(items):
                delivery.give_back([item for item in items if item.position not in rows])
                self._wake()
            if delivery.must_record(items):
                await asyncio.shield(self._settling.soon())
            if delivery is self.delivery:
                batch = [
                    Delivered(
                        *rows[item.position], msgspec.UNSET, delivery.lease_of(item).token, item.attempt
                    )
                    for item in items
                    if item.position in rows
                ]
                delivery.handed_out(item for item in items if item.position in rows and item.state == LEASED)
        finally:
            if not batch:
                delivery.give_back(items)
                self._wake()
        return batch

    def _call_waiting(self) -> None:
        """Reading has ended the listening of those that wait: for what is appended, or what was left."""
        if self._waiting:
            if self._reads_on(self.delivery):
                self._wake()
            else:
                self._source.listen_if_free(self._wake)

    def _advance(self, delivery: Delivery) -> None:
        if delivery.unreplicated:
            self._replicate()  # what came in behind a parked event was parked
        if delivery.reached - delivery.checkpoint >= ADVANCE:
            self._settling.soon()

    async def _rows_of(self, delivery: Delivery, items: Sequence[Item]) -> dict[int, Row]:
        """Rows by position, as many as fit memory; what was deleted since the event was offered is settled."""
        rows = {item.position: item.row for item in items if item.row is not None}
        missing = [item for item in items if item.row is None]
        for item in items:
            item.row = None
        if missing:
            positions = [item.position for item in missing]
            found, through = await self._context.read_applied(
                self._context.queries.events_at, positions, max(AHEAD_BYTES, 1024 * len(positions))
            )
            if through is not None:  # what was read ahead comes after these, and must not overtake the rest
                rows.clear()
                missing = [item for item in missing if item.position <= through]
            rows.update((row[2], row) for row in found)
            for item in missing:  # of a parked event only the position was known
                item.version = rows[item.position][1] if item.position in rows else item.version
            lost = [item for item in missing if item.position not in rows]
            if lost:
                delivery.gone(lost)
                self._settling.soon()
        return rows

    async def _load_replays(self, delivery: Delivery) -> None:
        """Take in the next parked events that are to be delivered again, once those before are nearly done."""
        if delivery.waiting > REPLAY_ROWS:
            return
        delivery.replays_wanted = False
        after, self._replayed_through = self._replayed_through, 0
        try:
            found = await self._context.read_applied(
                self._context.queries.replaying, self._name, after, REPLAY_ROWS
            )
        except BaseException:  # also when whoever pulled is gone: the next one needs them all the same
            delivery.replays_wanted = True
            raise
        delivery.offer_parked(found)
        if len(found) == REPLAY_ROWS and not delivery.replays_wanted and delivery is self.delivery:
            self._replayed_through = found[-1][0]  # unless more is wanted since: that may be anywhere
            delivery.replays_wanted = True

    def _tell(self, count: int) -> None:
        if count and telemetry.enabled(telemetry.SUBSCRIPTION_EVENT_DELIVERED):
            telemetry.emit(
                telemetry.SUBSCRIPTION_EVENT_DELIVERED,
                {"count": count},
                {
                    "store_id": self._context.name,
                    "subscription_id": self._name,
                    "topic": f"{self._context.name}:{self._name}",
                },
            )

    # -- waiting ---------------------------------------------------------------------------------

    async def _wait(self, visit: _Visit, deadline_ms: int | None, *, listen: bool) -> bool:
        """Until something may have changed for the consumer; false when the time is over."""
        self._check()
        delivery, source = self.delivery, self._source
        active = delivery.consumers.is_active(visit.consumer, delivery.options)
        if listen and active and self._reads_on(delivery):
            return True
        woken = self._waiting[visit] = self._loop.create_future()
        if listen and active:
            source.listen_if_free(self._wake)
        self._keep_time()
        try:
            delay_s = None if deadline_ms is None else max(0, deadline_ms - self._context.now_ms()) / 1_000
            async with asyncio.timeout(delay_s):
                await woken
        except TimeoutError:
            return False
        finally:
            del self._waiting[visit]
            if not self._waiting:
                source.stop_listening()
        return True

    def _can_read(self, delivery: Delivery) -> bool:
        return delivery.room() > 0 and delivery.in_flight < delivery.options.max_in_flight

    def _reads_on(self, delivery: Delivery) -> bool:
        """Whether reading may find something for a consumer that got nothing."""
        return not delivery.held and not self._source.at_head and self._can_read(delivery)

    def _wake(self) -> None:
        delivery = self.delivery
        for visit, woken in self._waiting.items():
            if not woken.done() and (
                self._over is not None or delivery.consumers.is_active(visit.consumer, delivery.options)
            ):
                woken.set_result(None)

    def _keep_time(self) -> None:
        """Have `_tick` called when the delivery has something to do next."""
        now_ms = self._context.now_ms()
        due_ms = None if self._over is not None else self.delivery.next_deadline_ms(now_ms)
        if due_ms == self._timer_ms:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._timer_ms = due_ms
        if due_ms is not None:
            self._timer = self._loop.call_later(max(0, due_ms - now_ms) / 1_000, self._tick)

    def _tick(self) -> None:
        self._timer = self._timer_ms = None
        self.delivery.expire(self._context.now_ms())
        self._replicate()
        self._wake()
        self._keep_time()

    def _replicate(self) -> None:
        """Have what changed stored, though nobody waits for it."""
        if self.delivery.unreplicated and self._over is None:
            if self._is_lazy:
                self._settling.later(self.delivery.options.checkpoint_interval_ms)
            else:
                self._settling.soon()

    @property
    def reached(self) -> int:
        """Up to where everything that matches is settled; while it listens nothing else matches."""
        if self._source.listening:
            self.delivery.advance(self._context.memory.state.position)
        return self.delivery.reached

    @property
    def idle(self) -> bool:
        """Whether nobody consumes, and nothing is known that is not stored."""
        return self.delivery.quiet and self._settling.idle and not self._lock.locked()

    # -- settling --------------------------------------------------------------------------------

    @property
    def _is_lazy(self) -> bool:
        return self.delivery.options.ack_durability == "lazy"

    async def ack(self, leases: Sequence[Lease]) -> int:
        """Settle leased events. Raises as Delivery.ack, and what keeps the command from being decided."""
        self._check()
        self.delivery.expire(self._context.now_ms())
        self.delivery.ack(leases, self._context.now_ms(), self._context.memory.state.position)
        return await self._settle()

    async def nack(
        self, leases: Sequence[Lease], action: NackAction, delay_ms: int | None, reason: str
    ) -> int:
        """Have leased events come again, park or skip them."""
        self._check()
        now_ms = self._context.now_ms()
        self.delivery.expire(now_ms)
        head = self._context.memory.state.position
        self.delivery.nack(leases, action, now_ms, head, delay_ms=delay_ms, reason=reason)
        return await self._settle()

    def give_back(self, leases: Sequence[Lease]) -> None:
        """These deliveries did not arrive: those that are still leased come again at once."""
        self.delivery.return_leases(leases)
        self._wake()
        self._keep_time()

    async def ack_through(self, position: int) -> int:
        """Settle what was delivered up to a position."""
        self._check()
        self.delivery.ack_through(position)
        return await self._settle()

    async def ack_items(self, items: Sequence[Item]) -> int:
        """Settle delivered events."""
        self._check()
        self.delivery.ack_items(items)
        return await self._settle()

    async def _settle(self) -> int:
        delivery = self.delivery
        self._wake()  # room, or a stream that is free now
        self._keep_time()
        if not delivery.unreplicated and self._settling.idle:
            return delivery.checkpoint
        if self._is_lazy:
            self._settling.later(delivery.options.checkpoint_interval_ms)
            return delivery.checkpoint
        return await asyncio.shield(self._settling.soon())

    def _on_settled(self, decided: bool) -> None:  # noqa: FBT001 - a callback
        if decided:
            self._wake()
        else:  # whoever waits would try again at once, and so for as long as a full disk lasts
            self._loop.call_later(PAUSE_S, self._wake)
        self._keep_time()

    # -- what is decided elsewhere ---------------------------------------------------------------

    def changed(self, change: SubscriptionChanged) -> None:
        """The subscription was changed: other options, a replay, or a new life."""
        state = change.state
        if state.life != self.delivery.life:
            self._restart(state)
        elif state.options != self.delivery.options:
            self.delivery.change(state.options)
            self._wake()
        if change.replay:
            self._replayed_through = 0
            self.delivery.replay()
            self._wake()

    def _restart(self, state: SubscriptionState) -> None:
        self._settling.stop(NotFound("the subscription was reset meanwhile", subscription=self._name))
        self._source.close()
        self._begin(state, self.delivery.anew(state))
        self._wake()

    def unblock(self, stream_id: str) -> None:
        """A stream was deleted."""
        self.delivery.unblock(stream_id)

    async def close(self) -> None:
        """Store what is settled, and end. Whoever waits is told that the store closes, or was dropped.

        What is leased is given back before: its consumer did not fail, and neither did the node.
        """
        if self._over is not None:
            return
        self._over = self._context.over()
        for consumer in self.delivery.consumers.names:
            self.delivery.leave(consumer, self._context.now_ms(), lost=False)
        self._wake()
        try:
            await self._settling.flush()
        finally:
            self.end(self._over)

    def end(self, error: ShoalError | None = None) -> None:
        """The subscription was deleted, or the store closes: whoever waits is told."""
        self._over = error or subscription_not_found(self._name)
        self._settling.stop(self._over)
        self._source.close()
        self._wake()
        self._keep_time()

    def _check(self) -> None:
        if self._over is not None:
            raise self._over
