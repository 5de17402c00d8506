"""Subscriptions of a local store with their consumers: a pump for each one that has any."""

from __future__ import annotations

import asyncio
import builtins
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any

import msgspec

from shoal.errors import (
    InvalidRequest,
    LeaseExpired,
    NoLeader,
    NotFound,
    ShoalError,
    StreamNotFound,
    StreamTombstoned,
)
from shoal.model.commands import (
    ReplayParked,
)
from shoal.model.lease import read_lease
from shoal.model.machine import Row
from shoal.model.names import check_text
from shoal.model.selectors import compile_selector
from shoal.model.subscriptions import (
    SubscriptionChange,
    SubscriptionDeleted,
    SubscriptionState,
    holds,
    subscription_not_found,
)
from shoal.store.api import SubscriptionCheck as Check
from shoal.store.checks import check_events, check_range
from shoal.store.consumer import PullingConsumer, own_name
from shoal.store.context import StoreContext
from shoal.store.defined import COMMAND_BYTES, DefinedSubscriptions
from shoal.store.exchange import Exchange
from shoal.store.pump import REPLAY_ROWS, Pump
from shoal.store.source import Source
from shoal.store.streams import LocalStreams
from shoal.types import (
    MAX_VERSION,
    Beginning,
    Delivered,
    NackAction,
    ParkedEvent,
    ParkedPage,
    SubscriptionStats,
    SubscriptionType,
)

MAX_WAIT_MS = 600_000
MAX_DELAY_MS = 86_400_000
MAX_LEASES = 10_000
REASON_BYTES = 1_000
CONSUMER_BYTES = 128
LOOKED_AT = 10_000
"""Positions that a call of `stats` looks at, at most."""
IDLE_PUMPS = 16
"""Pumps that may be there without consumers; from then on they are looked for when their number has doubled."""


class LocalSubscriptions(DefinedSubscriptions):
    """See shoal.store.api.Subscriptions."""

    def __init__(self, context: StoreContext, streams: LocalStreams) -> None:
        self._context = context
        self._streams = streams
        self._exchange = Exchange()
        self._pumps: dict[str, Pump] = {}
        self._counts: dict[str, tuple[int, int]] = {}
        self._looked: dict[str, tuple[int, int]] = {}  # life, and up to where nothing is left to deliver
        self._closed = False
        self._drop_at = IDLE_PUMPS
        memory = context.memory
        self._resumed = set(memory.subscriptions)
        memory.feed = self

    # -- what is decided: shoal.store.memory.Feed ------------------------------------------------

    def appended(self, rows: builtins.list[Row]) -> None:
        """Rows were appended."""
        self._exchange.appended(rows)

    def deleted(self, stream_id: str) -> None:
        """A stream was deleted."""
        for pump in self._pumps.values():
            pump.unblock(stream_id)

    def changed(self, change: SubscriptionChange) -> None:
        """A subscription was changed or deleted."""
        if isinstance(change, SubscriptionDeleted):
            self._counts.pop(change.name, None)
            self._looked.pop(change.name, None)
            self._resumed.discard(change.name)
            pump = self._pumps.pop(change.name, None)
            if pump is not None:
                pump.end()
        elif change.state.name in self._pumps:
            self._pumps[change.state.name].changed(change)

    # -- delivery --------------------------------------------------------------------------------

    def subscribe(
        self,
        type: SubscriptionType,  # noqa: A002 - its name in the contract
        selector: Any,
        name: str,
        *,
        consumer: str | None = None,
        start_from: Beginning | int | None = None,
        **options: Any,
    ) -> PullingConsumer:
        """See shoal.store.api.Subscriptions."""
        create = partial(self.create, type, selector, name, start_from=start_from, **options)
        return PullingConsumer(
            self,
            create,
            name,
            own_name() if consumer is None else consumer,
            now_ms=self._context.now_ms,
            store_id=self._context.name,
        )

    async def pull(
        self, name: str, count: int = 100, wait_ms: int = 0, consumer: str = "default"
    ) -> builtins.list[Delivered]:
        """See shoal.store.api.Subscriptions."""
        check_range("count", count, 1, self._context.limits.page_events)
        check_range("wait_ms", wait_ms, 0, MAX_WAIT_MS)
        check_text(consumer, CONSUMER_BYTES, "consumer")
        return await (await self._pump(name)).pull(consumer, count, wait_ms)

    async def push(
        self, name: str, consumer: str, prefetch: int | None = None, check: Check | None = None
    ) -> AsyncGenerator[builtins.list[Delivered], None]:
        """Batches for ever, as long as the consumer has leased fewer than `prefetch` events. When closed, it was lost.

        `check` raises when the subscription may not be used. Raises NotFound, also when the subscription is deleted;
        AlreadyExists while the consumer is connected.
        """
        check_text(consumer, CONSUMER_BYTES, "consumer")
        if prefetch is not None:
            check_range("prefetch", prefetch, 1, self._context.limits.page_events)
        pump = await self._pump(name)
        if check is not None:
            check(self._state(name).subscription)
        limit = prefetch or min(pump.delivery.options.max_in_flight, self._context.limits.page_events)
        async with aclosing(pump.push(consumer, limit)) as batches:
            async for batch in batches:
                yield batch

    async def ack(self, stream_id: str, name: str, event_number: int) -> int:
        """See shoal.store.api.Subscriptions."""
        return await self.ack_events(name, [(stream_id, event_number)])

    async def ack_leases(self, name: str, leases: Sequence[str]) -> int:
        """See shoal.store.api.Subscriptions."""
        _check_count(leases, "leases")
        return await (await self._pump(name)).ack([read_lease(token) for token in leases])

    async def ack_through(self, name: str, position: int) -> int:
        """See shoal.store.api.Subscriptions."""
        check_range("position", position, 0, MAX_VERSION)
        return await (await self._pump(name)).ack_through(position)

    async def ack_events(self, name: str, events: Sequence[tuple[str, int]]) -> int:
        """See shoal.store.api.Subscriptions."""
        _check_count(events, "events")
        check_events(events, self._context.limits)
        wanted = {(stream_id, version) for stream_id, version in events}
        places: dict[tuple[str, int], int] = {}
        created_us = (await self._state_here(name)).created_us
        while True:
            # Nothing else runs between looking at the window and settling what is in it.
            pump = await self._pump(name)
            self._require_same(name, created_us)
            items = pump.delivery.find(wanted)
            unknown = wanted - items.keys() - places.keys()
            if not unknown:
                break
            for stream_id, version in unknown:
                places[stream_id, version] = await self._position_of(stream_id, version)
        for stream_id, version in wanted - items.keys():
            # What is not in the window may be settled already: then nothing is to do.
            if not pump.delivery.is_settled(places[stream_id, version]):
                raise LeaseExpired(f"event {version} of {stream_id!r} is not delivered; nothing was settled")
        return await pump.ack_items(list(items.values()))

    async def _position_of(self, stream_id: str, version: int) -> int:
        try:
            return (await self._streams.read_event(stream_id, version)).position
        except (NotFound, StreamNotFound, StreamTombstoned) as error:
            raise InvalidRequest(f"stream {stream_id!r} has no event {version}", pointer="events") from error

    async def nack(
        self,
        name: str,
        leases: Sequence[str],
        action: NackAction = "retry",
        delay_ms: int | None = None,
        reason: str = "",
    ) -> int:
        """See shoal.store.api.Subscriptions."""
        _check_count(leases, "leases")
        if action not in ("retry", "park", "skip"):
            raise InvalidRequest("action is retry, park or skip", pointer="action")
        if delay_ms is not None:
            check_range("delay_ms", delay_ms, 0, MAX_DELAY_MS)
        if reason:
            check_text(reason, REASON_BYTES, "reason")
        return await (await self._pump(name)).nack(
            [read_lease(token) for token in leases], action, delay_ms, reason
        )

    async def give_back(self, name: str, leases: Sequence[str]) -> None:
        """What was leased cannot reach its consumer: it comes again at once, and has not failed."""
        (await self._pump(name)).give_back([read_lease(token) for token in leases])

    async def leave(self, name: str, consumer: str) -> None:
        """See shoal.store.api.Subscriptions."""
        check_text(consumer, CONSUMER_BYTES, "consumer")
        await self._state_here(name)
        pump = self._pumps.get(name)
        if pump is not None:
            pump.leave(consumer)

    def lead(self, *, leading: bool) -> None:
        """This node leads from now on, or no longer. Leases are the leader's memory: they end with it."""
        for pump in self._pumps.values():
            pump.end(_elsewhere(self._context))
        self._pumps.clear()
        if leading:
            self._resumed = set(self._context.memory.subscriptions)

    async def _pump(self, name: str) -> Pump:
        """The subscription's pump, begun if need be. Raises NoLeader on a node that does not lead."""
        term = self._led_term()
        state = await self._state_here(name)
        pump = self._pumps.get(name)
        if pump is not None:
            return pump
        if len(self._pumps) >= self._drop_at:
            self._drop_idle()
        blocked: dict[str, int] = {}
        deletes = -1
        while state.options.ordered and deletes != self._context.memory.deletes:
            # Again after a delete: nobody would ever unblock a stream whose parked events are gone.
            deletes = self._context.memory.deletes
            blocked = await self._context.read_applied(self._context.queries.parked_streams, name)
            state = self._require_same(name, state.created_us)
        if self._closed:
            raise self._context.over()
        if self._led_term() != term:  # another may have delivered meanwhile, under the same leases
            raise _elsewhere(self._context)
        if name not in self._pumps:
            selector = compile_selector(state.definition)
            resumed = name in self._resumed
            self._resumed.discard(name)
            self._pumps[name] = Pump(
                self._context, self._exchange, state, selector, resumed=resumed, blocked=blocked
            )
        return self._pumps[name]

    def _require_same(self, name: str, created_us: int) -> SubscriptionState:
        """Another one of the name may be for others than who asked. Raises NotFound."""
        state = self._state(name)
        if state.created_us != created_us:
            raise subscription_not_found(name)
        return state

    def _led_term(self) -> int:
        """The term in which this node leads. Raises NoLeader."""
        leadership = self._context.leadership
        if not leadership.serves:
            raise _elsewhere(self._context)
        return leadership.term

    def _drop_idle(self) -> None:
        """Nobody consumes these: what they know is stored."""
        for name in [name for name, pump in self._pumps.items() if pump.idle]:
            self._counts[name] = self._delivered(name)
            self._looked[name] = (self._pumps[name].delivery.life, self._pumps[name].reached)
            self._pumps.pop(name).end()
        self._drop_at = 2 * len(self._pumps) + IDLE_PUMPS

    # -- parked events ---------------------------------------------------------------------------

    async def parked(self, name: str, after: int = 0, count: int = 100) -> builtins.list[ParkedEvent]:
        """See shoal.store.api.Subscriptions."""
        return (await self.parked_page(name, after, count)).events

    async def parked_page(self, name: str, after: int = 0, count: int = 100) -> ParkedPage:
        """See shoal.store.api.Subscriptions."""
        context = self._context
        created_us = self._state(name).created_us
        check_range("after", after, 0, MAX_VERSION)
        check_range("limit", count, 1, context.limits.page_events)
        found = await context.read_applied(
            context.queries.parked_rows, name, after, count, context.limits.page_bytes
        )
        self._require_same(name, created_us)
        events = [
            ParkedEvent(*row, msgspec.UNSET, reason, attempts, replaying)
            for row, reason, attempts, replaying in found
        ]
        more = len(events) == count or sum(len(each.data_raw) for each in events) > context.limits.page_bytes
        return ParkedPage(events, events[-1].position if events and more else None)

    async def replay_parked(self, name: str, limit: int | None = None, check: Check | None = None) -> int:
        """See shoal.store.api.Subscriptions."""
        context = self._context
        if limit is not None:
            check_range("limit", limit, 1, MAX_VERSION)
        life = (await self._meant(name, check)).life
        replayed, after = 0, 0
        while limit is None or replayed < limit:
            count = REPLAY_ROWS if limit is None else min(REPLAY_ROWS, limit - replayed)
            positions = await context.read_applied(context.queries.parked_positions, name, after, count)
            if not positions:
                break
            size = COMMAND_BYTES + 10 * len(positions)
            await self._submit(ReplayParked(context.name, name, life, positions), size)
            replayed, after = replayed + len(positions), positions[-1]
        return replayed

    # -- where they stand ------------------------------------------------------------------------

    async def stats(self, name: str) -> SubscriptionStats:
        """See shoal.store.api.Subscriptions."""
        context = self._context
        created_us = self._state(name).created_us
        if name not in self._pumps:
            await self._look(self._state(name))
        parked = await context.read_applied(context.queries.parked_count, name)
        state, head = self._require_same(name, created_us), context.memory.state.position
        reached = self._reached(state)
        delivered, redeliveries = self._delivered(name)
        delivery = self._pumps[name].delivery if name in self._pumps else None
        kept = holds(state, context.memory.state.epoch_us) and reached < head
        return SubscriptionStats(
            name=name,
            checkpoint=state.checkpoint,
            head=head,
            lag=max(0, head - reached),
            in_flight=0 if delivery is None else delivery.in_flight,
            waiting=0 if delivery is None else delivery.waiting,
            parked=parked,
            delivered=delivered,
            redeliveries=redeliveries,
            consumers=[] if delivery is None else delivery.consumers.names,
            holds_after=reached if kept else None,
        )

    async def _look(self, state: SubscriptionState) -> None:
        """See how far nothing is left to deliver; the next call goes on from there."""
        after = self._reached(state)
        source = Source(self._context, self._exchange, compile_selector(state.definition), after)
        reached = await source.settled_through(set(state.settled), after + LOOKED_AT)
        if state.name in self._context.memory.subscriptions:
            self._looked[state.name] = (state.life, reached)

    def _reached(self, state: SubscriptionState) -> int:
        life, looked = self._looked.get(state.name, (state.life, 0))
        reached = max(state.checkpoint, looked) if life == state.life else state.checkpoint
        pump = self._pumps.get(state.name)
        return reached if pump is None else max(reached, pump.reached)

    def _delivered(self, name: str) -> tuple[int, int]:
        delivered, redeliveries = self._counts.get(name, (0, 0))
        pump = self._pumps.get(name)
        if pump is not None:
            delivered += pump.delivery.delivered
            redeliveries += pump.delivery.redeliveries
        return delivered, redeliveries

    def metrics(self) -> Iterator[tuple[str, float]]:
        """Numbers for shoal.metrics, by `metric:store:subscription`."""
        head, parked = self._context.memory.state.position, self._context.parked()
        for name, state in self._context.memory.subscriptions.items():
            pump = self._pumps.get(name)
            delivered, redeliveries = self._delivered(name)
            label = f"{self._context.name}:{name}"
            yield f"subscription_lag:{label}", max(0, head - self._reached(state))
            yield f"subscription_in_flight:{label}", 0 if pump is None else pump.delivery.in_flight
            yield f"subscription_parked:{label}", parked.get(name, 0)
            yield f"subscription_delivered_total:{label}", delivered
            yield f"subscription_redeliveries_total:{label}", redeliveries

    async def close(self) -> None:
        """Store what is settled, and tell every consumer that the store closes, or was dropped."""
        self._closed = True
        pumps = list(self._pumps.values())
        for outcome in await asyncio.gather(*(pump.close() for pump in pumps), return_exceptions=True):
            if isinstance(outcome, BaseException) and not isinstance(outcome, ShoalError):
                raise outcome  # but what only could not be stored comes again
        self._pumps.clear()


def _elsewhere(context: StoreContext) -> NoLeader:
    leader = context.leadership.leader
    where = "nobody does now" if leader is None else f"{leader} does"
    return NoLeader(f"only the leader delivers, and {where}", leader=leader)


def _check_count(values: Any, pointer: str) -> None:
    if not isinstance(values, (list, tuple)) or not 1 <= len(values) <= MAX_LEASES:
        raise InvalidRequest(f"{pointer} is a list of 1 to {MAX_LEASES}", pointer=pointer)
