"""Boards of a cluster find each other by several methods side by side; in single mode nothing is opened or sent.

What is heard is a hint where to try, never trusted. A network that is missing, or comes later, is a warning and
another try at the next turn: discovery ends no node.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final, Protocol

import msgspec

from shoal.address import split_address
from shoal.clock import Clock
from shoal.cluster.beacon import NODES_MAX, Beacon, Peer, Peers, decode, encode
from shoal.cluster.k8s import K8s
from shoal.cluster.known_peers import PEERS_FILE, KnownPeer, KnownPeers, load_peers, save_peers
from shoal.cluster.mdns import Mdns
from shoal.cluster.multicast import Interface, Multicast
from shoal.config import Config, DiscoveryConfig
from shoal.errors import ConfigError

SECRET_BYTES_MIN: Final = 16
_EXPIRE_BEACONS: Final = 3.5
"""Three lost beacons are bad luck, a fourth is an absence."""

_log: Final = logging.getLogger("shoal.discovery")


class Method(Protocol):
    """One way to find boards: a turn every interval, which returns what is wrong, or nothing."""

    name: str

    async def turn(self) -> str: ...

    async def close(self) -> None: ...


def read_secret(config: DiscoveryConfig) -> bytes:
    """The shared secret, from the configuration or its file. Blocks. Raises ConfigError."""
    if config.secret_file is None:
        return (config.secret or "").encode()
    try:
        secret = config.secret_file.read_bytes().strip()
    except OSError as error:
        raise ConfigError(
            "discovery.secret_file", f"{config.secret_file} cannot be read: {error.strerror}"
        ) from error
    if len(secret) < SECRET_BYTES_MIN:
        advice = f"{config.secret_file} holds {len(secret)} bytes, write at least {SECRET_BYTES_MIN} into it"
        raise ConfigError("discovery.secret_file", advice)
    return secret


class Discovery:
    """Says `own` every `interval_ms` while `run` runs, and remembers who else speaks; without `own` it only listens.

    `own.sequence` is counted here. `on_peer` hears of each peer that is new, back, or changed.
    """

    def __init__(
        self,
        config: Config,
        own: Beacon | None,
        secret: bytes,
        clock: Clock,
        *,
        on_peer: Callable[[Peer], None] = lambda _: None,
        interfaces: Callable[[], Iterable[Interface]] = socket.if_nameindex,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._interval_s = config.discovery.interval_ms / 1000
        self._seeds = config.seeds
        self.active: Final = config.mode == "cluster"
        self._own = own
        self._secret = secret
        self._clock = clock
        self._on_peer = on_peer
        self._sleep = sleep
        expire_ms = round(config.discovery.interval_ms * _EXPIRE_BEACONS)
        self._peers = Peers("" if own is None else own.node_id, expire_ms)
        self._data_dir = config.data_dir
        self._known = KnownPeers()
        self._known_changed = asyncio.Event()
        self._foreign: set[str] = set()
        self.multicast = Multicast(config.discovery, self._next_beacon, self.heard, interfaces)
        self.mdns = Mdns(lambda: self._own, clock, self._heard_of)
        port = split_address(config.peer_listen or config.listen)[1]
        self.k8s = K8s(config.discovery.k8s_service or "", port, clock, expire_ms)
        offered: list[Method] = [self.multicast, self.mdns, self.k8s]
        self._methods = [method for method in offered if method.name in config.discovery.methods]
        self._trouble: dict[str, str] = {}

    def peers(self) -> list[Peer]:
        """The boards heard of lately, by node id; of two words of one board the signed one counts."""
        heard = {peer.node_id: peer for peer in self.mdns.peers()}
        heard |= {peer.node_id: peer for peer in self._peers.alive(self._clock.monotonic_ms())}
        return [heard[node_id] for node_id in sorted(heard)]

    def strangers(self) -> list[Peer]:
        """Those of them that are of another cluster."""
        return [peer for peer in self.peers() if self._is_stranger(peer)]

    def addresses(self) -> list[str]:
        """Where to try: seeds, what boards of no other cluster said of themselves, the DNS, and where members were."""
        heard = [each for peer in self.peers() if not self._is_stranger(peer) for each in peer.addresses]
        known = [address for peer in self._known.all() for address in peer.addresses]
        return list(dict.fromkeys([*self._seeds, *heard, *self.k8s.addresses(), *known]))

    def remember(self, node_id: str, addresses: Sequence[str]) -> None:
        """The TLS handshake with a member succeeded: where it is outlives a restart."""
        self._known.remember(node_id, addresses)
        self._known_changed.set()

    async def run(self) -> None:
        """Until cancelled."""
        if not self.active:
            await asyncio.Event().wait()
        async with asyncio.TaskGroup() as tasks:
            if self._own is not None:
                tasks.create_task(self._keep_known(await self._restore_known()))
            for method in self._methods:
                tasks.create_task(self._keep(method))

    def heard(self, datagram: bytes, sender: str = "") -> None:
        """A datagram came in from the host `sender`, from anybody."""
        beacon = decode(datagram, self._secret)
        if beacon is None:
            return
        told = tuple(_reachable(address, sender) for address in beacon.addresses)
        peer = self._peers.hear(msgspec.structs.replace(beacon, addresses=told), self._clock.monotonic_ms())
        if self._known.count_boot(beacon.node_id, self._peers.boot_of(beacon.node_id)):
            self._known_changed.set()
        if peer is not None:
            self._heard_of(peer)

    def _heard_of(self, peer: Peer) -> None:
        where = ", ".join(peer.addresses) or "no address"
        if not self._is_stranger(peer):
            cluster = peer.cluster_id or "none yet"
            _log.info(
                "heard of board %s of cluster %s at %s by %s", peer.node_id, cluster, where, peer.method
            )
        elif peer.cluster_id not in self._foreign and len(self._foreign) < NODES_MAX:
            self._foreign.add(peer.cluster_id)
            _log.warning(
                "another cluster, %s, is on this network (board %s at %s); nothing of it is taken over",
                *(peer.cluster_id, peer.node_id, where),
            )
        self._on_peer(peer)

    def _is_stranger(self, peer: Peer) -> bool:
        mine = "" if self._own is None else self._own.cluster_id
        return mine != "" and peer.cluster_id not in {"", mine}

    def _next_beacon(self) -> bytes | None:
        if self._own is None:
            return None
        self._own = msgspec.structs.replace(self._own, sequence=self._own.sequence + 1)
        return encode(self._own, self._secret)

    async def _keep(self, method: Method) -> None:
        """Turn after turn of one method; the others do not wait for it."""
        try:
            while True:
                try:
                    trouble = await method.turn()
                except Exception as error:  # noqa: BLE001 - no method ends the others, or the node
                    trouble = repr(error)
                self._judge(method.name, trouble)
                await self._sleep(self._interval_s)
        finally:
            await method.close()

    def _judge(self, name: str, trouble: str) -> None:
        before = self._trouble.get(name, "")
        if trouble and trouble != before:
            _log.warning("discovery by %s does not work now, it is tried again: %s", name, trouble)
        elif before and not trouble:
            _log.info("discovery by %s works now", name)
        self._trouble[name] = trouble

    async def _restore_known(self) -> tuple[KnownPeer, ...]:
        saved = await asyncio.to_thread(load_peers, self._data_dir)
        self._known.restore(saved)
        self._peers.expect_boots({peer.node_id: peer.boot_counter for peer in saved})
        return saved

    async def _keep_known(self, saved: tuple[KnownPeer, ...]) -> None:
        """Write the known peers when they changed, once an interval at most: flash wears out."""
        while True:
            await self._known_changed.wait()
            self._known_changed.clear()
            known = self._known.all()
            if known != saved:
                try:
                    await asyncio.to_thread(save_peers, self._data_dir, known)
                except OSError as error:
                    self._judge(PEERS_FILE, str(error))
                    self._known_changed.set()
                else:
                    self._judge(PEERS_FILE, "")
                    saved = known
                await self._sleep(self._interval_s)


def _reachable(address: str, sender: str) -> str:
    """An address that stands for "all of mine" is where the datagram came from."""
    host, colon, port = address.rpartition(":")
    return f"{sender}{colon}{port}" if sender and host in {"0.0.0.0", "[::]"} else address  # noqa: S104 - recognised
