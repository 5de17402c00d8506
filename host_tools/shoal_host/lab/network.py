"""What lies between the nodes, as a port: the proxies of one process, or namespaces of the kernel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from shoal.address import split_address
from shoal_host.lab.proxy import Proxy, Way


class Network(Protocol):
    """The network between nodes 0 to n-1. A way leads from one node to one other."""

    name: str
    """What a report calls it."""

    async def start(self) -> None:
        """Make it."""

    async def close(self) -> None:
        """Take it away, whatever state it is in."""

    def host(self, node: int) -> str:
        """The address of a node."""

    def node_options(self, node: int) -> list[str]:
        """Options of `shoal_host.lab.node` that put a node into this network."""

    async def cut(self, source: int, target: int) -> None:
        """Let nothing pass on one way."""

    async def delay(self, node: int, delay_ms: int) -> None:
        """Let all that a node sends to others arrive later."""

    async def heal(self) -> None:
        """Undo all cuts and delays."""


class Proxies:
    """A proxy for each node and each peer that it dials. All nodes are on 127.0.0.1."""

    name = "proxies"

    def __init__(self, peers: Sequence[str]) -> None:
        self._peers = list(peers)
        self._ways: dict[tuple[int, int], Way] = {}
        self._proxies: dict[tuple[int, int], Proxy] = {}

    async def start(self) -> None:
        numbers = range(len(self._peers))
        pairs = [(source, target) for source in numbers for target in numbers if source != target]
        self._ways = {pair: Way() for pair in pairs}
        for source, target in pairs:
            host, port = split_address(self._peers[target])
            out, back = self._ways[source, target], self._ways[target, source]
            self._proxies[source, target] = proxy = Proxy(host, port, out, back)
            await proxy.start()

    async def close(self) -> None:
        for proxy in self._proxies.values():
            await proxy.close()

    def host(self, node: int) -> str:  # noqa: ARG002 - they share one
        return "127.0.0.1"

    def node_options(self, node: int) -> list[str]:
        options = []
        for (source, target), proxy in self._proxies.items():
            if source == node:
                options += ["--dial", f"{self._peers[target]}={proxy.address}"]
        return options

    async def cut(self, source: int, target: int) -> None:
        self._ways[source, target].cut()

    async def delay(self, node: int, delay_ms: int) -> None:
        for (source, _), way in self._ways.items():
            if source == node:
                way.delay_s = delay_ms / 1000

    async def heal(self) -> None:
        for way in self._ways.values():
            way.heal()
