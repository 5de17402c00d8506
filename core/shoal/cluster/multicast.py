"""The UDP socket of beacons: one datagram a turn on every network interface, and an ear on each."""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from collections.abc import Callable, Iterable

from shoal.config import DiscoveryConfig

Interface = tuple[int, str]


class Multicast:
    """`say` gives the next datagram, or None to listen only; `heard` takes what comes in and the host it came from."""

    name = "multicast"

    def __init__(
        self,
        config: DiscoveryConfig,
        say: Callable[[], bytes | None],
        heard: Callable[[bytes, str], None],
        interfaces: Callable[[], Iterable[Interface]],
    ) -> None:
        self._config = config
        self._say = say
        self._heard = heard
        self.interfaces = interfaces
        self._socket: socket.socket | None = None
        self._transport: asyncio.DatagramTransport | None = None
        self._joined: set[int] = set()

    async def turn(self) -> str:
        """Open what is not open, and say one beacon on every network there is; what is wrong, or nothing."""
        try:
            opened = self._socket or await self._open()
        except OSError as error:
            return f"UDP port {self._config.port} cannot be opened: {error}"
        return self._send(opened, self._say())

    async def _open(self) -> socket.socket:
        opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            # Several nodes on one host listen to one port; a group's datagrams go to all of them.
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            opened.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 1)
            opened.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)
            opened.bind((self._config.multicast_addr, self._config.port))
            loop = asyncio.get_running_loop()
            self._transport, _ = await loop.create_datagram_endpoint(
                lambda: _Listener(self._heard), sock=opened
            )
        except BaseException:
            opened.close()
            raise
        self._socket = opened
        return opened

    def _send(self, opened: socket.socket, datagram: bytes | None) -> str:
        """Say it on each interface, if there is one to say, and listen there; what is wrong if none works."""
        group = (self._config.multicast_addr, self._config.port)
        errors, sent = [], False
        for index, name in self.interfaces():
            try:
                self._select(opened, index)
                if datagram is not None:
                    opened.sendto(datagram, group)
                sent = True
            except OSError as error:
                self._joined.discard(index)
                errors.append(f"{name}: {error}")
        return "" if sent else "; ".join(errors) or "there is no network interface"

    def _select(self, opened: socket.socket, index: int) -> None:
        """Make `index` the way out, and listen there if it is new (`struct ip_mreqn`, ip(7))."""
        request = struct.pack("4s4si", socket.inet_aton(self._config.multicast_addr), bytes(4), index)
        opened.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, request)
        if index not in self._joined:
            try:
                opened.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:  # it was there all the time
                    raise
            self._joined.add(index)

    async def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
        self._socket, self._transport = None, None
        self._joined.clear()


class _Listener(asyncio.DatagramProtocol):
    """Hands on what comes in; errors of single datagrams mean nothing on UDP."""

    def __init__(self, heard: Callable[[bytes, str], None]) -> None:
        self._heard = heard

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._heard(data, addr[0])
