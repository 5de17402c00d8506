"""The subscriptions of a remote store."""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from shoal.client import wire
from shoal.client.exchange import Reply
from shoal.client.retry import Effect
from shoal.client.selections import BOUNDLESS, whole
from shoal.client.transport import Options, Request, Transport
from shoal.errors import AlreadyExists, Forbidden, InvalidRequest, NotFound, ShoalError
from shoal.model.definitions import make_definition, make_options
from shoal.model.names import check_stream_id
from shoal.store.api import Consumer
from shoal.store.checks import check_events
from shoal.store.consumer import PullingConsumer, own_name
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

PULL_SLICE_MS = 1_000
"""How long one request of a pull waits where there are several boards: silence beyond that means something."""


class _Endurance:
    """How a consumer waits for its board, as a tail does: pauses that grow, and `on_tail` told at both ends."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._failures = 0

    async def endure(self, error: ShoalError | None) -> None:
        """See shoal.store.consumer.Endure."""
        if error is None:
            if self._failures:
                self._failures = 0
                self._options.on_tail(None)
            return
        self._failures += 1
        if self._failures == 1:
            self._options.on_tail(error)
        await self._options.sleep(self._options.retry.pause_ms(self._failures, self._options.random) / 1000)


class RemoteSubscriptions:
    """`shoal.store.api.Subscriptions` over HTTP."""

    def __init__(self, transport: Transport, store_id: str) -> None:
        self._transport = transport
        self._store_id = store_id

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
        return PullingConsumer(
            self,
            lambda: self._create_or_use(type, selector, name, start_from, options),
            name,
            own_name() if consumer is None else consumer,
            store_id=self._store_id,
            now_ms=self._transport.options.clock.monotonic_ms,
            endure=_Endurance(self._transport.options).endure,
        )

    async def _create_or_use(
        self, kind: Any, selector: Any, name: str, start_from: Beginning | int | None, options: dict[str, Any]
    ) -> Subscription:
        """As `create`; a token that may only read can use a subscription that is there, and is the same."""
        try:
            return await self.create(kind, selector, name, start_from=start_from, **options)
        except Forbidden as error:
            try:
                found = await self.get(name)
            except NotFound:
                raise error from None
        same = make_definition(kind, selector, None, BOUNDLESS) == make_definition(
            found.type, found.selector, None, BOUNDLESS
        )
        if not same or make_options(options, found.options) != found.options:
            raise AlreadyExists(
                f"subscription {name!r} exists with another definition or other options", subscription=name
            )
        return found

    # -- definitions -----------------------------------------------------------------------------

    async def create(
        self,
        type: SubscriptionType,  # noqa: A002 - its name in the contract
        selector: Any,
        name: str,
        *,
        start_from: Beginning | int | None = None,
        **options: Any,
    ) -> Subscription:
        started = {} if start_from is None else {"start_from": start_from}
        fields = {"type": type, "selector": selector} | started | options
        return _subscription(await self._send("PUT", _path(name), Effect.KEYED, fields))

    async def update(self, name: str, **options: Any) -> Subscription:
        # What others changed in between would be lost.
        return _subscription(await self._send("PATCH", _path(name), Effect.ONCE, options))

    async def unsubscribe(self, *key: str) -> None:
        name, kind = _key(key)
        if kind is not None:
            await self.get(kind, name)
        try:
            await self._transport.call(Request("DELETE", _path(name), Effect.KEYED))
        except NotFound as error:
            # After a try whose answer was lost it is gone as asked.
            if error.outcome != "unknown":
                raise

    async def get(self, *key: str) -> Subscription:
        name, kind = _key(key)
        found = _subscription(await self._get(_path(name)))
        if kind is not None and found.type != kind:
            raise NotFound(f"subscription {name!r} is not of type {kind!r}", subscription=name)
        return found

    async def exists(self, *key: str) -> bool:
        try:
            await self.get(*key)
        except NotFound as error:
            # The whole store may be missing, which is another thing.
            if "subscription" not in error.facts:
                raise
            return False
        return True

    async def list(self) -> builtins.list[Subscription]:
        reply = await self._get("/subscriptions")
        return [each.subscription() for each in wire.decode(reply.body, wire.AllSubscriptions).subscriptions]

    # -- delivery --------------------------------------------------------------------------------

    async def pull(
        self, name: str, count: int = 100, wait_ms: int = 0, consumer: str = "default"
    ) -> builtins.list[Delivered]:
        wait_ms = whole(wait_ms, "wait_ms")
        fields = {"count": whole(count, "count"), "consumer": consumer}
        while True:
            # No longer at once than a board may be silent where another could take over.
            slice_ms = min(wait_ms, PULL_SLICE_MS) if self._transport.several else wait_ms
            wait_ms -= slice_ms
            events = await self._pull_alone(name, fields | {"wait_ms": slice_ms})
            if events or wait_ms <= 0:
                return events

    async def _pull_alone(self, name: str, fields: dict[str, Any]) -> builtins.list[Delivered]:
        """A try whose answer was lost may still wait at the leader: then we are not alone until it ends."""
        try:
            return await self._pull(name, fields)
        except AlreadyExists as error:
            if error.outcome != "unknown":
                raise
        await self._transport.options.sleep(fields["wait_ms"] / 1000)
        return await self._pull(name, fields)

    async def _pull(self, name: str, fields: dict[str, Any]) -> builtins.list[Delivered]:
        body, wait_ms = wire.plain_body(fields), max(0, fields["wait_ms"])
        request = Request("POST", f"{_path(name)}/pull", Effect.LEASED, body=body.raw, wait_ms=wait_ms)
        reply = await self._transport.call(request)
        return [event.event() for event in wire.decode(reply.body, wire.Pulled).events]

    async def ack(self, stream_id: str, name: str, event_number: int) -> int:
        return await self.ack_events(name, [(stream_id, event_number)])

    async def ack_leases(self, name: str, leases: Sequence[str]) -> int:
        return await self._settle(f"{_path(name)}/ack", {"leases": leases})

    async def ack_through(self, name: str, position: int) -> int:
        return await self._settle(f"{_path(name)}/ack", {"position": whole(position, "position")})

    async def ack_events(self, name: str, events: Sequence[tuple[str, int]]) -> int:
        check_events(events, BOUNDLESS)
        named = [{"stream_id": stream_id, "version": version} for stream_id, version in events]
        return await self._settle(f"{_path(name)}/ack", {"events": named})

    async def nack(
        self,
        name: str,
        leases: Sequence[str],
        action: NackAction = "retry",
        delay_ms: int | None = None,
        reason: str = "",
    ) -> int:
        fields: dict[str, Any] = {"leases": leases, "action": action}
        if delay_ms is not None:
            fields["delay_ms"] = whole(delay_ms, "delay_ms")
        if reason:
            fields["reason"] = reason
        return await self._settle(f"{_path(name)}/nack", fields)

    async def leave(self, name: str, consumer: str) -> None:
        await self._send("POST", f"{_path(name)}/leave", Effect.KEYED, {"consumer": consumer})

    # -- what is parked, and where it stands -----------------------------------------------------

    async def parked(self, name: str, after: int = 0, count: int = 100) -> builtins.list[ParkedEvent]:
        return (await self.parked_page(name, after, count)).events

    async def parked_page(self, name: str, after: int = 0, count: int = 100) -> ParkedPage:
        params = {"after": str(whole(after, "after")), "limit": str(whole(count, "count"))}
        page = wire.decode((await self._get(f"{_path(name)}/parked", params)).body, wire.ParkedEvents)
        return ParkedPage([event.event() for event in page.events], page.next)

    async def replay_parked(self, name: str, limit: int | None = None) -> int:
        params = {} if limit is None else {"limit": str(whole(limit, "limit"))}
        # Not repeated, like `reset`: what was delivered and parked since would be moved once more.
        reply = await self._transport.call(
            Request("POST", f"{_path(name)}/parked/replay", Effect.ONCE, params)
        )
        return wire.decode(reply.body, wire.ReplayedAnswer).replayed

    async def reset(self, name: str, to: Beginning | int) -> Subscription:
        return _subscription(await self._send("POST", f"{_path(name)}/reset", Effect.ONCE, {"to": to}))

    async def stats(self, name: str) -> SubscriptionStats:
        return wire.decode((await self._get(f"{_path(name)}/stats")).body, SubscriptionStats)

    # -- plumbing --------------------------------------------------------------------------------

    async def _get(self, path: str, params: dict[str, str] | None = None) -> Reply:
        return await self._transport.call(Request("GET", path, params=params or {}))

    async def _send(self, method: str, path: str, effect: Effect, fields: dict[str, Any]) -> Reply:
        body = wire.plain_body(fields)
        return await self._transport.call(
            Request(method, path, effect, body=body.raw, content_type=body.content_type)
        )

    async def _settle(self, path: str, fields: dict[str, Any]) -> int:
        reply = await self._send("POST", path, Effect.KEYED, fields)
        return wire.decode(reply.body, wire.CheckpointAnswer).checkpoint


def _path(name: str) -> str:
    # A name is a stream id to a URL.
    check_stream_id(name, BOUNDLESS, "name")
    return f"/subscriptions/{quote(name, safe='')}"


def _key(key: Sequence[str]) -> tuple[str, str | None]:
    """The name, and the type where one is given."""
    match key:
        case (name,):
            return name, None
        case (kind, name):
            return name, kind
    raise InvalidRequest("give a subscription's name, or its type and its name", pointer="name")


def _subscription(reply: Reply) -> Subscription:
    return wire.decode(reply.body, wire.ReadSubscription).subscription()
