"""The door of a node: accepts connections, and bounds what those cost that have not shown who they are."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Final

from shoal.address import join_address, split_address
from shoal.cluster.link import Link

UNPROVEN_MAX: Final = 32
"""Connections at once that are not trusted yet."""
UNPROVEN_PER_SECOND_MAX: Final = 20
"""From one host; one that is trusted in the end does not count."""
PAUSE_S: Final = 0.1
"""After a connection could not be accepted, as when no file may be opened any more."""
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
        loop.add_reader(listening, self._accept, listening)
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
        for listening in self._sockets:
            asyncio.get_running_loop().remove_reader(listening)
            listening.close()
        self._sockets.clear()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, listening: socket.socket) -> None:
        """Somebody is at the door. Taken here and not in a task, which could be cancelled with a connection in hand."""
        try:
            connection, place = listening.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return  # gone again
        except OSError as error:
            _log.warning("no connection could be accepted, trying again: %s", error)
            asyncio.get_running_loop().remove_reader(listening)
            self._spawn(self._pause(listening))
            return
        host, port = place[0], place[1]
        if len(self._unproven) >= UNPROVEN_MAX or self._recent[host] >= UNPROVEN_PER_SECOND_MAX:
            connection.close()
            return
        connection.settimeout(0)
        self._recent[host] += 1
        link = self._make_link(join_address(host, port))
        self._unproven[link] = host
        handshake = self._spawn(self._handshake(connection, link))
        handshake.add_done_callback(partial(_close_if_cancelled, connection))

    async def _pause(self, listening: socket.socket) -> None:
        await self._sleep(PAUSE_S)
        asyncio.get_running_loop().add_reader(listening, self._accept, listening)

    async def _handshake(self, connection: socket.socket, link: Link) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._handshake_timeout_s):
                await loop.connect_accepted_socket(lambda: link, connection, ssl=self._context())
        except (OSError, TimeoutError) as error:
            self._unproven.pop(link, None)
            _log.debug("no TLS with %s: %s", link.address, error)

    def _spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _close_if_cancelled(connection: socket.socket, handshake: asyncio.Task[None]) -> None:
    """What was cancelled before its first step has closed nothing itself."""
    if handshake.cancelled():
        connection.close()
