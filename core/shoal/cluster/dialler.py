"""Connections that this node keeps to one other: made, and made again when they break."""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from shoal.address import split_address
from shoal.clock import Clock
from shoal.cluster.link import Link

BACKOFF_S_MIN: Final = 0.05
BACKOFF_S_MAX: Final = 2.0
RTT_SAMPLES: Final = 16
"""Of as many seconds: a network that was slow is not to slow elections for long."""

_log: Final = logging.getLogger("shoal.transport")


class Backoff:
    """How long to wait before the next try: doubling, each time less a random part of up to a half."""

    def __init__(self, source: random.Random) -> None:
        self._random = source
        self._next_s = BACKOFF_S_MIN

    def next_s(self) -> float:
        """Seconds to wait now."""
        wait_s = self._next_s * (1 - self._random.random() / 2)
        self._next_s = min(self._next_s * 2, BACKOFF_S_MAX)
        return wait_s

    def reset(self) -> None:
        """It went well."""
        self._next_s = BACKOFF_S_MIN


class RoundTrips:
    """Round trip times of the last pings. One is under way at a time: a stall is to count once, however long."""

    def __init__(self) -> None:
        self._sent_ms: int | None = None
        self._samples_ms: list[float] = []
        self._number = 0

    def sent(self, now_ms: int) -> int:
        """The number for a ping that leaves now; 0, which is not measured, while another is under way."""
        if self._sent_ms is not None:
            return 0
        self._number += 1
        self._sent_ms = now_ms
        return self._number

    def answered(self, number: int, now_ms: int) -> None:
        """A pong came."""
        if self._sent_ms is not None and number == self._number:
            self._samples_ms = [*self._samples_ms[1 - RTT_SAMPLES :], float(now_ms - self._sent_ms)]
            self._sent_ms = None

    def broken(self) -> None:
        """The connection is gone, and with it the ping that was under way."""
        self._sent_ms = None

    def usual_ms(self) -> float | None:
        """What three of four took at most: some stalls do not make the network a slow one."""
        ordered = sorted(self._samples_ms)
        return ordered[(len(ordered) - 1) * 3 // 4] if ordered else None


class Dialler:
    """Connects to the addresses given, one connection for control and one for bulk."""

    def __init__(
        self,
        node_id: str,
        addresses: Sequence[str],
        connect: Callable[[str, str], Awaitable[Link]],
        *,
        lost: Callable[[str], None],
        broken: Callable[[str], None],
        clock: Clock,
        source: random.Random,
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self.node_id: Final = node_id
        self.addresses = tuple(addresses)
        self.control: Link | None = None
        self.bulk: Link | None = None
        self._round_trips = RoundTrips()
        self._connect = connect
        self._lost = lost
        self._broken = broken
        self._clock = clock
        self._random = source
        self._sleep = sleep
        self._good = ""
        self._tasks = [asyncio.ensure_future(self._keep(bulk=bulk)) for bulk in (False, True)]

    def rtt_ms(self) -> float | None:
        """See Transport.rtt_ms."""
        return self._round_trips.usual_ms()

    def tick(self) -> None:
        """A second has passed: ask for signs of life."""
        for link in (self.control, self.bulk):
            if link is not None and link.ready:
                link.ping(self._round_trips.sent(self._clock.monotonic_ms()) if link is self.control else 0)

    def answered(self, link: Link, number: int) -> None:
        """A pong came in on one of the two."""
        if link is self.control:
            self._round_trips.answered(number, self._clock.monotonic_ms())

    async def close(self) -> None:
        """End both connections and make no other."""
        for task in self._tasks:
            task.cancel()
        for link in (self.control, self.bulk):
            if link is not None:
                link.end()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _keep(self, *, bulk: bool) -> None:
        backoff = Backoff(self._random)
        broken = False
        while True:
            link, refused = await self._attempt()
            if link is not None:
                await self._use(link, bulk=bulk)
                broken = broken or link.was_ready
                if link.was_ready and link.age_ticks:
                    backoff.reset()
                    continue  # at once: if the process is gone, its port says so
            elif refused and broken:
                broken = False
                if not bulk:
                    self._lost(self.node_id)
            await self._sleep(backoff.next_s())

    async def _use(self, link: Link, *, bulk: bool) -> None:
        """Have the connection in its place until it ends."""
        if bulk:
            self.bulk = link
        else:
            self.control = link
        await link.ended
        if not bulk:
            self._round_trips.broken()
        if link.was_ready:
            self._good = link.address
            self._broken(self.node_id)

    async def _attempt(self) -> tuple[Link | None, bool]:
        """A connection to the first address that has one, the one that was good last before others.

        The second part says whether the last good address refused, as a host does where the process is gone.
        """
        refused = False
        for address in sorted(self.addresses, key=lambda each: each != self._good):
            try:
                return await self._connect(address, self.node_id), False
            except ConnectionRefusedError:
                refused = refused or address == self._good
            except (OSError, TimeoutError, ValueError) as error:
                _log.debug("no connection to %s at %s: %s", self.node_id, address, error)
        return None, refused


async def open_link(link: Link, context: ssl.SSLContext, timeout_s: float) -> Link:
    """Connect a link to its address. Raises OSError, TimeoutError, ValueError."""
    host, port = split_address(link.address)
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(timeout_s):
        # No name goes out: none is checked, and it would be readable on the wire.
        await loop.create_connection(lambda: link, host, port, ssl=context, server_hostname="")
    return link
