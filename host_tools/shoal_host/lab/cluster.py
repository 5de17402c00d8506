"""The lab's nodes: real processes that are killed, paused, and started again."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, Self

import aiohttp

from shoal.errors import Unavailable
from shoal.testing.faulty_files import DiskFaults, FaultFile
from shoal.tokens import TokenFile
from shoal_host.children import Child
from shoal_host.lab.network import Network
from shoal_host.local_cluster import Place, shoald_options

READY_S: Final = 30.0
_STOP_S: Final = 10.0
_POLL_S: Final = 0.05
_LAB_TOKEN: Final = "shoal lab"  # noqa: S105 - its name, not its text

# Small, so that what happens at their limits happens all the time.
_STORAGE: Final = {
    "SHOAL_STORAGE_SEGMENT_BYTES": str(128 * 1024),
    "SHOAL_STORAGE_RESERVE_BYTES": str(1024 * 1024),
    "SHOAL_STORAGE_COMMIT_ROWS": "500",
}


class LabNode:
    """One node. `died` hears when it ends without having been told to."""

    def __init__(
        self,
        place: Place,
        options: Sequence[str],
        died: Callable[[str], None],
        session: aiohttp.ClientSession,
    ) -> None:
        self.place = place
        self._disk = FaultFile(place.data_dir.with_name(f"{place.node_id}.faults.json"))
        self.token: str | None = None
        self._options = options
        self._died = died
        self._session = session
        self._child: Child | None = None
        self._watching: asyncio.Task[None] | None = None
        self._told_to_end = False
        self._log = place.data_dir.with_name(f"{place.node_id}.log")

    @property
    def node_id(self) -> str:
        """Its name."""
        return self.place.node_id

    @property
    def url(self) -> str:
        """Where clients reach it."""
        return self.place.url

    @property
    def headers(self) -> dict[str, str]:
        """What a request to it needs."""
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}

    @property
    def running(self) -> bool:
        """Whether there is a process, paused or not."""
        return self._child is not None and self._child.running

    async def start(self) -> None:
        """Start the process; `ready` waits for it."""
        if not self.place.listen.startswith("127.") and self.token is None:
            self.token = await asyncio.to_thread(TokenFile(self.place.data_dir).add, "admin", name=_LAB_TOKEN)
        self._told_to_end = False
        self._child = await Child.start(
            self.node_id,
            ["-m", "shoal_host.lab.node", *self._options],
            environ=_environ(os.environ),
            heard=self._write_log,
        )
        self._watching = asyncio.create_task(self._watch(self._child))

    async def ready(self) -> None:
        """Wait until it answers. Raises Unavailable."""
        try:
            async with asyncio.timeout(READY_S):
                while not await self._is_ready():  # noqa: ASYNC110 - another process has no event to wait on
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            said = "; ".join(self._child.last_lines) if self._child is not None else ""
            raise Unavailable(
                f"{self.node_id} was not ready within {READY_S:g} s; it said last: {said}"
            ) from None

    async def kill(self) -> None:
        """SIGKILL, and wait for its end."""
        self._told_to_end = True
        if self._child is not None:
            self._child.kill()
            await self._child.ended()

    async def stop(self) -> None:
        """SIGTERM; SIGKILL for one that does not go."""
        self._told_to_end = True
        if self._child is not None:
            self.resume()
            await self._child.stop(_STOP_S)
        if self._watching is not None:
            await self._watching

    def pause(self) -> None:
        """SIGSTOP."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    async def tell_disk(self, faults: DiskFaults) -> None:
        """Give its disk these faults from now on."""
        await asyncio.to_thread(self._disk.tell, faults)

    async def ask(self, path: str) -> dict[str, Any] | None:
        """What it answers to a GET; None when it does not."""
        with suppress(aiohttp.ClientError, TimeoutError):
            async with self._session.get(self.url + path, headers=self.headers, timeout=_short()) as answer:
                if answer.status == 200:
                    value: dict[str, Any] = await answer.json()
                    return value
        return None

    async def _is_ready(self) -> bool:
        return await self.ask("/readyz") is not None

    async def _watch(self, child: Child) -> None:
        code = await child.ended()
        if not self._told_to_end:
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            said = "; ".join(list(child.last_lines)[-3:])
            self._died(f"{self.node_id} ended by itself ({how}); it said last: {said}")

    def _signal(self, number: signal.Signals) -> None:
        if self._child is not None and self._child.running:
            os.kill(self._child.process.pid, number)

    def _write_log(self, line: str) -> None:
        with self._log.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


class LabCluster:
    """Nodes on a network. Use as `async with`: it starts them, and leaves nothing running."""

    def __init__(self, places: Sequence[Place], network: Network, died: Callable[[str], None]) -> None:
        self._places = places
        self._died = died
        self.network = network
        self.nodes: list[LabNode] = []
        self._session: aiohttp.ClientSession

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession()
        try:
            await self.network.start()
            for number, place in enumerate(self._places):
                self.nodes.append(LabNode(place, self._options(number), self._died, self._session))
                await self.nodes[-1].tell_disk(DiskFaults())
            await self.start_all()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End the nodes, then their network."""
        await asyncio.gather(*(node.stop() for node in self.nodes))
        await self.network.close()
        await self._session.close()

    async def start_all(self) -> None:
        """Start those that do not run; wait until one leads, and all have their stores. Raises Unavailable."""
        for node in self.nodes:
            if not node.running:
                await node.start()
        await asyncio.gather(*(node.ready() for node in self.nodes))
        try:
            async with asyncio.timeout(READY_S):
                while await self.leader() is None or not await self._have_stores():  # noqa: ASYNC110 - as in `ready`
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            raise Unavailable(f"no node leads {READY_S:g} s after all were ready") from None

    async def _have_stores(self) -> bool:
        return all(info is not None and info["stores"] for info in await self.infos())

    async def leader(self) -> int | None:
        """The number of the node that says it leads, the one of the highest term if several do."""
        leading = [
            (info["node"]["term"], number)
            for number, info in enumerate(await self.infos())
            if info and info["node"]["role"] == "leader"
        ]
        return max(leading)[1] if leading else None

    async def term(self) -> int:
        """The highest term that any node knows."""
        return max((info["node"]["term"] for info in await self.infos() if info), default=0)

    async def infos(self) -> list[dict[str, Any] | None]:
        """What each node says of itself; None for one that does not answer."""
        return await asyncio.gather(*(node.ask("/v1/info") for node in self.nodes))

    def _options(self, number: int) -> list[str]:
        place = self._places[number]
        faults = place.data_dir.with_name(f"{place.node_id}.faults.json")
        own = ["--faults", str(faults), *self.network.node_options(number)]
        return [*own, "--", *shoald_options(place, self._places)]


def _environ(environ: Mapping[str, str]) -> dict[str, str]:
    """Without what would configure the nodes otherwise."""
    return {name: value for name, value in environ.items() if not name.startswith("SHOAL_")} | _STORAGE


def _short() -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=1.0)
