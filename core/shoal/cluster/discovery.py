"""Boards of a cluster find each other by beacons over UDP multicast; in single mode nothing is opened or sent.

What is heard is a hint where to try, never trusted. A network that is missing, or comes later, is a warning and
another try at the next beacon: discovery ends no node.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import struct
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

import msgspec

from shoal.clock import Clock
from shoal.cluster.beacon import Beacon, Peer, Peers, decode, encode
from shoal.config import Config, DiscoveryConfig
from shoal.errors import ConfigError

SECRET_BYTES_MIN: Final = 16
_EXPIRE_BEACONS: Final = 3.5
"""Three lost beacons are bad luck, a fourth is an absence."""

_log: Final = logging.getLogger("shoal.discovery")

Interface = tuple[int, str]


def read_secret(config: DiscoveryConfig) -> bytes:
    """The shared secret, from the configuration or its file. Blocks. Raises ConfigError."""
    if config.secret_file is None:
        return (config.secret or "").encode()
    try:
        secret = config.secret_file.read_bytes().strip()
    except OSError as error:
        raise ConfigError("discovery.secret_file", f"cannot be read: {error}") from error
    if len(secret) < SECRET_BYTES_MIN:
        advice = f"{config.secret_file} holds {len(secret)} bytes, write at least {SECRET_BYTES_MIN} into it"
        raise ConfigError("discovery.secret_file", advice)
    return secret


class Discovery:
    """Says `own` every `interval_ms` while `run` runs, and remembers who else speaks.

    `own.sequence` is counted here. `on_peer` hears of each peer that is new, back, or changed.
    """

    def __init__(
        self,
        config: Config,
        own: Beacon,
        secret: bytes,
        clock: Clock,
        *,
        on_peer: Callable[[Peer], None] = lambda _: None,
        interfaces: Callable[[], Iterable[Interface]] = socket.if_nameindex,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._config = config.discovery
        self._seeds = config.seeds
        self.active: Final = config.mode == "cluster" and "multicast" in config.discovery.methods
        self._own = own
        self._secret = secret
        self._clock = clock
        self._on_peer = on_peer
        self._interfaces = interfaces
        self._sleep = sleep
        self._peers = Peers(own.node_id, round(config.discovery.interval_ms * _EXPIRE_BEACONS))
        self._socket: socket.socket | None = None
        self._transport: asyncio.DatagramTransport | None = None
        self._joined: set[int] = set()
        self._trouble = ""

    def peers(self) -> list[Peer]:
        """The boards heard of lately."""
        return self._peers.alive(self._clock.monotonic_ms())

    def addresses(self) -> list[str]:
        """Where to try: the configured seeds, then what the peers said of themselves."""
        heard = [address for peer in self.peers() for address in peer.addresses]
        return list(dict.fromkeys([*self._seeds, *heard]))

    async def run(self) -> None:
        """Until cancelled."""
        if not self.active:
            await asyncio.Event().wait()
        try:
            while True:
                await self._round()
                await self._sleep(self._config.interval_ms / 1000)
        finally:
            self._close()

    def heard(self, datagram: bytes) -> None:
        """A datagram came in, from anybody."""
        beacon = decode(datagram, self._secret)
        peer = None if beacon is None else self._peers.hear(beacon, self._clock.monotonic_ms())
        if peer is not None:
            where = ", ".join(peer.addresses) or "no address"
            _log.info("heard of board %s of cluster %s at %s", peer.node_id, peer.cluster_id, where)
            self._on_peer(peer)

    async def _round(self) -> None:
        """Open what is not open, and say one beacon on every network there is."""
        try:
            opened = self._socket or await self._open()
            trouble = self._send(opened)
        except OSError as error:
            trouble = f"UDP port {self._config.port} cannot be opened: {error}"
        if trouble and trouble != self._trouble:
            _log.warning("boards cannot find this one, it tries again: %s", trouble)
        elif self._trouble and not trouble:
            _log.info("boards can find this one now")
        self._trouble = trouble

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
                lambda: _Listener(self.heard), sock=opened
            )
        except BaseException:
            opened.close()
            raise
        self._socket = opened
        return opened

    def _send(self, opened: socket.socket) -> str:
        """Say the next beacon on each interface; what is wrong if it left on none."""
        self._own = msgspec.structs.replace(self._own, sequence=self._own.sequence + 1)
        datagram = encode(self._own, self._secret)
        group = (self._config.multicast_addr, self._config.port)
        errors, sent = [], False
        for index, name in self._interfaces():
            try:
                self._select(opened, index)
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

    def _close(self) -> None:
        if self._transport is not None:
            self._transport.close()
        self._socket, self._transport = None, None
        self._joined.clear()


class _Listener(asyncio.DatagramProtocol):
    """Hands on what comes in; errors of single datagrams mean nothing on UDP."""

    def __init__(self, heard: Callable[[bytes], None]) -> None:
        self._heard = heard

    def datagram_received(self, data: bytes, addr: object) -> None:  # noqa: ARG002 - a beacon names its sender
        self._heard(data)
