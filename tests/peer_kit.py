"""Nodes with real TLS on loopback, whose time passes when the test says so."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec

from shoal.cluster.certificates import Authority, make_ca
from shoal.cluster.identity import Identity, issue, load_identity
from shoal.cluster.transport import TICK_S, Transport
from shoal.cluster.words import STRANGER, Hello, PeerSeen, Refusal
from shoal.testing.clock import FakeClock

PATIENCE_S = 20
CLUSTER = "reef"


async def until(condition: Callable[[], Any]) -> None:
    """Let the loop run until `condition` holds."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - whatever it asks about tells nobody
            await asyncio.sleep(0)


class Sleeps:
    """A sleep that ends when told to: ticks and pauses between tries apart."""

    def __init__(self) -> None:
        self.waiting: list[tuple[float, asyncio.Future[None]]] = []

    async def __call__(self, seconds: float) -> None:
        done = asyncio.get_running_loop().create_future()
        self.waiting.append((seconds, done))
        await done

    def end(self, which: Callable[[float], bool]) -> list[float]:
        """End those sleeps; how long they were to be."""
        ended = [each for each in self.waiting if which(each[0])]
        self.waiting = [each for each in self.waiting if not which(each[0])]
        for _, done in ended:
            if not done.done():
                done.set_result(None)
        return [seconds for seconds, _ in ended]


class Node:
    """A transport and what it told."""

    def __init__(self, identity: Identity, **options: Any) -> None:
        self.identity = identity
        self.clock = FakeClock()
        self.sleeps = Sleeps()
        self.members: dict[str, bytes] = {}  # node id: incarnation
        self.key_hashes: dict[str, set[bytes]] = {}
        self.received: list[tuple[str, Any]] = []
        self.seen: list[PeerSeen] = []
        self.lost: list[str] = []
        self.broken: list[str] = []
        self.address = ""
        self.said = Hello(
            1, identity.cluster_id, identity.node_id, incarnation(identity.node_id), (), "", False, 1
        )
        self.transport = Transport(
            identity,
            lambda: self.said,
            refusal=self.refusal,
            received=lambda node_id, value: self.received.append((node_id, value)),
            seen=self.seen.append,
            lost=self.lost.append,
            broken=self.broken.append,
            clock=self.clock,
            random=random.Random(1),
            sleep=self.sleeps,
            **options,
        )

    @property
    def node_id(self) -> str:
        return self.identity.node_id

    def refusal(self, peer: PeerSeen) -> Refusal | None:
        node_id = peer.hello.node_id
        trusted = (
            self.members.get(node_id) == peer.hello.incarnation and peer.key_hash in self.key_hashes[node_id]
        )
        return None if trusted else Refusal(STRANGER, "a test does not know it")

    def admit(self, *others: Node) -> None:
        """Have others as members."""
        for other in others:
            self.members[other.node_id] = other.said.incarnation
            self.key_hashes.setdefault(other.node_id, set()).add(other.identity.key_hash)

    async def listen(self) -> None:
        host, port = await self.transport.listen("127.0.0.1:0")
        self.address = f"{host}:{port}"

    async def tick(self, times: int = 1) -> None:
        """Seconds pass, as far as connections count them."""
        for _ in range(times):
            await until(lambda: any(seconds == TICK_S for seconds, _ in self.sleeps.waiting))
            self.sleeps.end(lambda seconds: seconds == TICK_S)

    def retry(self) -> list[float]:
        """The pauses between tries end; how long they were."""
        return self.sleeps.end(lambda seconds: seconds != TICK_S)

    async def until_connected(self, node_id: str) -> None:
        """Try again until there is a connection."""
        await until(lambda: (self.retry(), self.transport.connected(node_id))[1])

    def dial(self, *others: Node) -> None:
        self.transport.dial({other.node_id: (other.address,) for other in others})


def incarnation(node_id: str) -> bytes:
    """Some 16 bytes that are always those of this node."""
    return node_id.encode().ljust(16, b".")


class Reef:
    """A cluster's authority, and the nodes it made."""

    def __init__(self, directory: Path, cluster_id: str = CLUSTER) -> None:
        self.directory = directory
        self.authority: Authority = make_ca(cluster_id)
        self.nodes: list[Node] = []

    def identity(self, node_id: str, place: str = "") -> Identity:
        directory = self.directory / (place or node_id)
        issue(self.authority, node_id, directory)
        return load_identity(directory)

    async def node(self, node_id: str, identity: Identity | None = None, **options: Any) -> Node:
        """A node that listens, and that nobody trusts yet."""
        identity = identity or await asyncio.to_thread(self.identity, node_id)
        node = Node(identity, **options)
        self.nodes.append(node)
        await node.listen()
        return node

    async def pair(self, **options: Any) -> tuple[Node, Node]:
        """Two nodes that trust each other; the first has connected to the second."""
        one, two = await self.node("one", **options), await self.node("two", **options)
        await self.join(one, two)
        return one, two

    async def join(self, one: Node, two: Node) -> None:
        """They trust each other from now on, and `one` connects to `two`."""
        one.admit(two)
        two.admit(one)
        one.dial(two)
        await until(lambda: one.transport.connected(two.identity.node_id))

    async def close(self) -> None:
        for node in self.nodes:
            await node.transport.close()


@contextlib.asynccontextmanager
async def reef(directory: Path, cluster_id: str = CLUSTER) -> AsyncIterator[Reef]:
    """A cluster, closed at the end."""
    made = Reef(directory, cluster_id)
    try:
        yield made
    finally:
        await made.close()


class Note(msgspec.Struct, frozen=True, array_like=True, tag="note"):
    """A message for tests."""

    text: str
    data: bytes = b""
