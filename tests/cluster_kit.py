"""A cluster of boards in the test's own process and loop: real TLS, real HTTP, seconds that pass faster."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from http_board import Board, configured

from shoal import cluster_node
from shoal.cluster import bootstrap, transport
from shoal.cluster.certificates import Authority, make_ca
from shoal.cluster.identity import issue
from shoal.server import Shoald
from shoal_host.local_cluster import free_ports

CLUSTER = "reef"
PATIENCE_S = 20
TICK_S = 0.02


class Member:
    """A board of the cluster: its running server, and a client of it."""

    def __init__(self, shoald: Shoald, board: Board, stack: AsyncExitStack) -> None:
        self.shoald = shoald
        self.board = board
        self.stack = stack
        assert shoald._cluster is not None
        self.node = shoald._cluster

    async def view(self) -> Any:
        """What `GET /v1/cluster` says here."""
        return (await self.board.call("GET", "/v1/cluster")).json

    async def change(self, what: str, **body: Any) -> Any:
        """A change that must succeed."""
        reply = await self.board.call("POST", f"/v1/cluster/{what}", body)
        assert reply.status == 200, reply.body
        return reply.json


class Reef:
    """Boards n1 and up; each has its place below `directory`, and a certificate."""

    def __init__(self, directory: Path, session: aiohttp.ClientSession) -> None:
        self.directory = directory
        self.authority: Authority = make_ca(CLUSTER)
        self.session = session
        self.up: dict[str, Member] = {}
        self._peers: dict[str, str] = {}

    def peer_address(self, node_id: str) -> str:
        """Where peers reach a board; the same each time it starts."""
        if node_id not in self._peers:
            self._peers[node_id] = f"127.0.0.1:{free_ports(1)[0]}"
        return self._peers[node_id]

    async def start(self, node_id: str, **values: Any) -> Member:
        """Start a board; without `bootstrap_expect` it waits to be added, or goes on with what it has."""
        tls_dir = self.directory / "tls" / node_id
        if not tls_dir.exists():
            tls_dir.mkdir(parents=True)
            await asyncio.to_thread(issue, self.authority, node_id, tls_dir)
        settings = {
            "mode": "cluster",
            "bootstrap_expect": 2,
            "peer_listen": self.peer_address(node_id),
            "tls_dir": str(tls_dir),
            "discovery.methods": ["static"],
            "seeds": [address for other, address in self._peers.items() if other != node_id],
            **values,
        }
        settings = {key: value for key, value in settings.items() if value is not None}
        config = configured(self.directory / node_id, settings)
        stack = AsyncExitStack()
        shoald = await stack.enter_async_context(Shoald(config))
        member = self.up[node_id] = Member(shoald, Board(shoald.urls[0], self.session), stack)
        return member

    async def stop(self, node_id: str) -> None:
        """End a board; its data stays."""
        await self.up.pop(node_id).stack.aclose()

    async def wipe(self, node_id: str) -> None:
        """Move a stopped board's data aside."""
        await asyncio.to_thread(shutil.rmtree, self.directory / node_id)

    async def leader(self) -> Member:
        """Who leads, once somebody does that all the running boards agree on."""

        def agreed() -> Member | None:
            named = {member.node._driver.leader for member in self.up.values()}
            found = self.up.get(named.pop() or "") if len(named) == 1 else None
            return found if found is not None and found.node._driver.serves else None

        await until(lambda: agreed() is not None)
        found = agreed()
        assert found is not None
        return found

    async def grow(self, count: int = 3, **values: Any) -> Member:
        """A cluster of n1 and up, all voting; the leader."""
        first = await self.start("n1", bootstrap_expect=1, **values)
        await self.ready("n1")
        for number in range(2, count + 1):
            await self.start(f"n{number}", **values)
            await first.change("join", address=self.peer_address(f"n{number}"))
            await until(lambda number=number: voters(first) == number)  # type: ignore[misc] # bound now
        for node_id in self.up:
            await self.ready(node_id)
        return first

    async def ready(self, node_id: str) -> None:
        """Until a board takes requests."""
        await until(lambda: self.up[node_id].node.obstacle() is None)

    async def close(self) -> None:
        """End all that run."""
        for node_id in list(self.up):
            await self.stop(node_id)


def voters(member: Member) -> int:
    """How many vote, as this board knows."""
    return sum(each.voter for each in member.node.members.configuration.members)


async def until(condition: Callable[[], Any]) -> None:
    """Let the loop run until `condition` holds."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - whatever it asks about tells nobody
            await asyncio.sleep(0.005)


@asynccontextmanager
async def reef(directory: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Reef]:
    """A cluster of boards that are yet to be started; all are ended at the end."""
    monkeypatch.setattr(cluster_node, "TICK_S", TICK_S)
    monkeypatch.setattr(transport, "TICK_S", TICK_S * 5)
    monkeypatch.setattr(bootstrap, "SETTLE_MS", 0)
    monkeypatch.setattr(cluster_node, "HAND_OVER_S", 0.5)
    async with aiohttp.ClientSession() as session:
        made = Reef(directory, session)
        try:
            yield made
        finally:
            await made.close()
