"""Makes faults of the schedule happen, and undoes them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from shoal.testing.faulty_files import DiskFaults
from shoal_host.lab.cluster import LabCluster
from shoal_host.lab.schedule import Fault


class Injector:
    """Works on one cluster. `tell` hears what is done."""

    def __init__(self, cluster: LabCluster, tell: Callable[[str], None]) -> None:
        self._cluster = cluster
        self._tell = tell
        self._stalls = 0
        self._begun: list[tuple[Fault, int]] = []

    async def begin(self, faults: tuple[Fault, ...]) -> list[str]:
        """Let them come; the result names the nodes they came to."""
        taken = {fault.target for fault in faults}
        for fault in faults:
            target = fault.target
            if target is None:
                target = await self._leading(taken)
            self._begun.append((fault, target))
            await self._begin(fault, target)
        return [self._cluster.nodes[target].node_id for _, target in self._begun]

    async def end(self) -> None:
        """Take back all that has begun, and wait until nodes that are down answer again. Raises Unavailable."""
        begun, self._begun = self._begun, []
        await self._cluster.network.heal()
        for _, target in begun:
            self._cluster.nodes[target].resume()
            await self._cluster.nodes[target].tell_disk(DiskFaults())
        down = [node for node in self._cluster.nodes if not node.running]
        for node in down:
            await node.start()
        await asyncio.gather(*(node.ready() for node in down))

    async def _leading(self, taken: set[int | None]) -> int:
        leader = await self._cluster.leader()
        if leader is not None and leader not in taken:
            return leader
        return next(number for number in range(len(self._cluster.nodes)) if number not in taken)

    async def _begin(self, fault: Fault, target: int) -> None:
        node = self._cluster.nodes[target]
        self._tell(f"{fault} at {node.node_id}")
        match fault.kind:
            case "kill":
                await node.kill()
            case "pause":
                node.pause()
            case "cut":
                await self._cut(target, outwards=True)
                await self._cut(target, outwards=False)
            case "one-way":
                await self._cut(target, outwards=fault.outwards)
            case "delay":
                await self._cluster.network.delay(target, fault.amount_ms)
            case "slow-disk" if fault.once:
                self._stalls += 1
                await node.tell_disk(DiskFaults(stall=self._stalls, stall_ms=fault.amount_ms))
            case "slow-disk":
                await node.tell_disk(DiskFaults(sync_delay_ms=fault.amount_ms))
            case "full-disk":
                await node.tell_disk(DiskFaults(full=True))

    async def _cut(self, target: int, *, outwards: bool) -> None:
        for other in range(len(self._cluster.nodes)):
            if other != target:
                source, end = (target, other) if outwards else (other, target)
                await self._cluster.network.cut(source, end)
