"""Multicast DNS: this board as a service of `_shoal._tcp.local.`, and the others that are announced there.

Nothing is signed here: what is found is a hint where to try, as any beacon is. The zeroconf package does the protocol
and is loaded only where the method is on.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from shoal.address import join_address, split_address
from shoal.clock import Clock
from shoal.cluster.addresses import ADDRESSES_MAX, interface_addresses
from shoal.cluster.beacon import NODES_MAX, TEXT_MAX, Beacon, Peer

if TYPE_CHECKING:
    from zeroconf import ServiceInfo, Zeroconf
    from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

SERVICE: Final = "_shoal._tcp.local."
ASKING_MAX: Final = 16
_ASK_MS: Final = 3000
_WILDCARDS: Final = frozenset({"0.0.0.0", "::"})  # noqa: S104 - recognised, not listened on

_log: Final = logging.getLogger("shoal.discovery")


class Mdns:
    """`own` is what this board says, or None to listen only; `on_peer` hears of each that is new or changed."""

    name = "mdns"

    def __init__(
        self,
        own: Callable[[], Beacon | None],
        clock: Clock,
        on_peer: Callable[[Peer], None],
        hosts: Callable[[], list[str]] = interface_addresses,
    ) -> None:
        self._own = own
        self._clock = clock
        self._on_peer = on_peer
        self.hosts = hosts
        self._opened: list[str] = []
        self._said: Beacon | None = None
        self._zeroconf: AsyncZeroconf | None = None
        self._browser: AsyncServiceBrowser | None = None
        self._info: AsyncServiceInfo | None = None
        self._asking: dict[str, asyncio.Task[None]] = {}
        self._found: dict[str, Peer] = {}  # by the service's name

    def peers(self) -> list[Peer]:
        """Those announced now, by node id."""
        return sorted(self._found.values(), key=lambda peer: peer.node_id)

    async def turn(self) -> str:
        """Open, or open anew where networks have changed; say what changed of this board; what is wrong, or nothing."""
        hosts = await asyncio.to_thread(self.hosts)
        if hosts != self._opened:
            await self.close()
        if not hosts:
            return "there is no network interface"
        if self._zeroconf is None:
            await self._open(hosts)
        await self._announce(hosts)
        return ""

    async def close(self) -> None:
        """Say goodbye, and end what asks."""
        for task in self._asking.values():
            task.cancel()
        self._asking.clear()
        self._found.clear()
        browser, zeroconf = self._browser, self._zeroconf
        self._browser = self._zeroconf = self._info = self._said = None
        self._opened = []
        if browser is not None:
            await browser.async_cancel()
        if zeroconf is not None:
            await zeroconf.async_close()

    async def _open(self, hosts: list[str]) -> None:
        from zeroconf import IPVersion
        from zeroconf.asyncio import AsyncServiceBrowser, AsyncZeroconf

        self._zeroconf = AsyncZeroconf(interfaces=hosts, ip_version=IPVersion.V4Only)
        self._opened = hosts
        self._browser = AsyncServiceBrowser(self._zeroconf.zeroconf, SERVICE, handlers=[self._changed])

    async def _announce(self, hosts: list[str]) -> None:
        own, zeroconf = self._own(), self._zeroconf
        if own is None or zeroconf is None or (self._said is not None and _told(self._said) == _told(own)):
            return
        info = service_info(own, hosts)
        if self._info is None:
            await zeroconf.async_register_service(info)
        else:
            await zeroconf.async_update_service(info)
        self._info, self._said = info, own

    def _changed(self, zeroconf: Zeroconf, service_type: str, name: str, state_change: Any) -> None:
        from zeroconf import ServiceStateChange

        mine = self._info is not None and name == self._info.name
        if state_change is ServiceStateChange.Removed:
            self._found.pop(name, None)
        elif not mine and name not in self._asking and len(self._asking) < ASKING_MAX:
            task = asyncio.get_running_loop().create_task(self._ask(zeroconf, service_type, name))
            self._asking[name] = task
            task.add_done_callback(lambda _: self._asking.pop(name, None))

    async def _ask(self, zeroconf: Zeroconf, service_type: str, name: str) -> None:
        from zeroconf.asyncio import AsyncServiceInfo

        try:
            info = AsyncServiceInfo(service_type, name)
            if await info.async_request(zeroconf, _ASK_MS):
                self._take(name, info)
        except Exception as error:  # noqa: BLE001 - whatever a stranger's records did to the package
            _log.debug("a service of mDNS is passed over: %r", error)

    def _take(self, name: str, info: ServiceInfo) -> None:
        peer = peer_of(info, self._clock.monotonic_ms())
        own = self._own()
        if peer is None or (own is not None and peer.node_id == own.node_id):
            return
        before = self._found.get(name)
        if before is None and len(self._found) >= NODES_MAX:
            return
        self._found[name] = peer
        if before is None or _told(before) != _told(peer):
            self._on_peer(peer)


def service_info(own: Beacon, hosts: list[str]) -> AsyncServiceInfo:
    """The records that announce this board. Its instance name is a hash: a node id may be longer than a label."""
    from zeroconf.asyncio import AsyncServiceInfo

    label = hashlib.sha256(own.node_id.encode()).hexdigest()[:32]
    host, port = split_address(own.addresses[0])
    literal = [] if host in _WILDCARDS or ":" in host or not host[-1].isdigit() else [host]
    return AsyncServiceInfo(
        SERVICE,
        f"{label}.{SERVICE}",
        port=port,
        properties={"cluster": own.cluster_id, "node": own.node_id},
        server=f"{label}.local.",
        parsed_addresses=literal or hosts,
    )


def peer_of(info: ServiceInfo, now_ms: int) -> Peer | None:
    """The board that a service announces, or None for what no board announces."""
    try:
        cluster_id = (info.properties.get(b"cluster") or b"").decode()
        node_id = (info.properties.get(b"node") or b"").decode()
    except UnicodeDecodeError:
        return None
    sane = all(len(name) <= TEXT_MAX and name.isprintable() for name in (cluster_id, node_id))
    hosts = info.parsed_addresses()[:ADDRESSES_MAX]
    if not (sane and node_id and info.port and hosts):
        return None
    addresses = tuple(join_address(host, info.port) for host in hosts)
    return Peer(cluster_id, node_id, addresses, now_ms, "mdns")


def _told(said: Beacon | Peer) -> tuple[str, str, tuple[str, ...]]:
    return said.cluster_id, said.node_id, said.addresses
