"""`shoal.connect`: a store on one or several boards, used like an embedded one."""

from __future__ import annotations

import asyncio
import random as chance
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Literal, Self
from urllib.parse import quote

from shoal.client import wire
from shoal.client.exchange import HttpExchange
from shoal.client.members import is_base
from shoal.client.retry import RetryPolicy
from shoal.client.selections import BOUNDLESS, stream_path, whole
from shoal.client.snapshots import RemoteSnapshots
from shoal.client.streams import RemoteStreams
from shoal.client.subscriptions import RemoteSubscriptions
from shoal.client.transport import Options, Request, Transport, nobody_listens
from shoal.clock import Clock, SystemClock
from shoal.errors import ConfigError, ShoalError
from shoal.ids import EventIds
from shoal.model.payload import check_stream_id
from shoal.store.api import Snapshots, Streams, Subscriptions
from shoal.tagged import read_tag
from shoal.tokens import check_sendable
from shoal.types import AggregateResult, Consistency

if TYPE_CHECKING:
    import ssl


class RemoteStore:
    """A store behind HTTP: `shoal.store.api.Store`. Use as `async with`, or `close` it."""

    def __init__(self, name: str, transport: Transport, ids: EventIds) -> None:
        self.name = name
        self.streams: Streams = RemoteStreams(transport, ids)
        self.snapshots: Snapshots = RemoteSnapshots(transport)
        self.subscriptions: Subscriptions = RemoteSubscriptions(transport, name)
        self._transport = transport

    async def aggregate(
        self,
        stream_id: str,
        *,
        finalize: bool = True,
        fold: Literal["left", "right"] = "left",
        at: int | None = None,
        consistency: Consistency | None = None,
    ) -> AggregateResult:
        check_stream_id(stream_id, BOUNDLESS)
        params = {"finalize": "true" if finalize else "false", "fold": fold}
        if at is not None:
            params["at"] = str(whole(at, "at"))
        path = f"{stream_path(stream_id)}/aggregate"
        reply = await self._transport.call(Request("GET", path, params=params, consistency=consistency))
        folded = wire.decode(reply.body, wire.FoldedAnswer)
        if finalize:
            return AggregateResult(folded.version, folded.state)
        return AggregateResult(folded.version, {key: read_tag(value) for key, value in folded.state.items()})

    async def ask(self, method: str, path: str) -> dict[str, Any]:
        """What a board answers to a request that changes nothing, such as `GET /v1/health`. Raises ShoalError."""
        reply = await self._transport.call(Request(method, path, of_node=True))
        return wire.decode(reply.body, dict[str, Any])

    async def close(self) -> None:
        """Close all connections; tails end with ShuttingDown."""
        await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()


def connect(
    *urls: str,
    store: str = "main",
    token: str | None = None,
    tls: ssl.SSLContext | None = None,
    timeout_ms: int = 5_000,
    attempt_ms: int = 750,
    connect_timeout_ms: int = 1_000,
    heartbeat_timeout_ms: int = 45_000,
    retry: RetryPolicy = RetryPolicy(),  # noqa: B008 - a frozen value
    clock: Clock | None = None,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    random: Callable[[], float] = chance.random,
    on_tail: Callable[[ShoalError | None], None] = nobody_listens,
) -> RemoteStore:
    """The store `store` on the boards at `urls`, any of which may be asked for anything.

    There the members of their cluster are asked for, too. Reads take turns, writes go to the leader where one is
    known. A call takes at most `timeout_ms`, tries and pauses included; when a board has said nothing for
    `attempt_ms`, another one is asked too. A write that nobody confirms or denies is OutcomeUnknown. A tail that hears
    nothing for `heartbeat_timeout_ms` connects anew; `on_tail` is told when a tail has lost its board (why), and when
    it has one again (None). `tls` is what `https` is checked by, such as
    `ssl.create_default_context(cafile="ca.pem")`, else the system's certificates. Nothing is sent before the first
    call. Raises ConfigError.
    """
    if not urls:
        raise ConfigError("urls", "give at least one, such as http://127.0.0.1:4589")
    if token:
        check_sendable(token)
    clock = clock or SystemClock()
    options = Options(
        timeout_ms=timeout_ms,
        attempt_ms=attempt_ms,
        connect_timeout_ms=connect_timeout_ms,
        heartbeat_timeout_ms=heartbeat_timeout_ms,
        retry=retry,
        clock=clock,
        sleep=sleep,
        random=random,
        on_tail=on_tail,
    )
    path = f"/v1/stores/{quote(store, safe='')}"
    transport = Transport([_base(url) for url in urls], path, HttpExchange(token, tls), options)
    return RemoteStore(store, transport, EventIds(now_ms=lambda: clock.wall().epoch_us // 1000))


def _base(url: str) -> str:
    if not is_base(url):
        raise ConfigError("urls", f"{url!r} is not a board's address, such as http://board-1:4589")
    return url.rstrip("/")
