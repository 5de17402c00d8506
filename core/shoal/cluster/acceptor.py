"""The door of a node: accepts connections, and bounds what those cost that have not shown who they are."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from shoal.address import split_address
from shoal.cluster.link import Link

UNPROVEN_MAX: Final = 32
"""Connections at once that are not trusted yet."""
UNPROVEN_PER_SECOND_MAX: Final = 20
"""From one host; one that is trusted in the end does not count."""
_BACKLOG: Final = 128

_log: Final = logging.getLogger("shoal.transport")


class Acceptor:
    """Listens, and makes a TLS connection for a `Link` of whatever comes."""

    def __init__(
        self,
        make_link: Callable[[str], Link],
        context: Callable[[], ssl.SSLContext],
        *,
        handshake_timeout_s: float,
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self._make_link = make_link
        self._context = context
        self._handshake_timeout_s = handshake_timeout_s
        self._sleep = sleep
        self._unproven: dict[Link, str] = {}
        self._recent: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._sockets: list[socket.socket] = []

    async def listen(self, address: str) -> tuple[str, int]:
        """Listen on `HOST:PORT` until closed; the address that it is. Raises OSError, ValueError."""
        host, port = split_address(address)
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, place = found[0]
        listening = socket.socket(family, kind | socket.SOCK_NONBLOCK, protocol)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(place)
            listening.listen(_BACKLOG)
        except BaseException:
            listening.close()
            raise
        self._sockets.append(listening)
        self._spawn(self._accept(listening))
        bound = listening.getsockname()
        return bound[0], bound[1]

    def proven(self, link: Link) -> None:
        """A connection is trusted, and counts no more."""
        source = self._unproven.pop(link, None)
        if source is not None:
            self._recent[source] -= 1

    def closed(self, link: Link) -> None:
        """A connection is gone."""
        self._unproven.pop(link, None)

    def tick(self) -> None:
        """A second has passed."""
        self._recent.clear()

    async def close(self) -> None:
        """Stop listening; connections that are there are others' matter."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for listening in self._sockets:
            listening.close()
        self._sockets.clear()

    async def _accept(self, listening: socket.socket) -> None:
        """Waits for connections rather than accepts them: a wait that is cancelled loses none."""
        loop = asyncio.get_running_loop()
        waiting = asyncio.Event()
        loop.add_reader(listening, waiting.set)
        try:
            while True:
                await waiting.wait()
                waiting.clear()
                try:
                    connection, place = listening.accept()
                except BlockingIOError:
                    continue
                except OSError as error:
                    _log.warning("no connection could be accepted, trying again: %s", error)
                    await self._sleep(0.1)
                    continue
                self._take(connection, place[0], place[1])
        finally:
            loop.remove_reader(listening)

    def _take(self, connection: socket.socket, host: str, port: int) -> None:
        connection.settimeout(0)
        if len(self._unproven) >= UNPROVEN_MAX or self._recent[host] >= UNPROVEN_PER_SECOND_MAX:
            connection.close()
            return
        self._recent[host] += 1
        link = self._make_link(_joined(host, port))
        self._unproven[link] = host
        task = self._spawn(self._handshake(connection, link))
        task.add_done_callback(partial(_close_if_cancelled, connection))

    async def _handshake(self, connection: socket.socket, link: Link) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._handshake_timeout_s):
                await loop.connect_accepted_socket(lambda: link, connection, ssl=self._context())
        except (OSError, TimeoutError) as error:
            self._unproven.pop(link, None)
            _log.debug("no TLS with %s: %s", link.address, error)

    def _spawn(self, work: Awaitable[None]) -> asyncio.Future[None]:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _close_if_cancelled(connection: socket.socket, handshake: asyncio.Future[None]) -> None:
    """A handshake that was cancelled before it began has told nobody of its connection."""
    if handshake.cancelled():
        connection.close()


def _joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
