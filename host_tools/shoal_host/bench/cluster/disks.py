"""Disks that are slow, stall, or hang, by the lab's nodes: what the cluster makes of them, in elections and seconds.

The lab's nodes keep small journals, so that beginning a segment, which syncs more than once, happens often.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from shoal.errors import ShoalError
from shoal.testing.faulty_files import DiskFaults
from shoal_host.bench.bench import Bench
from shoal_host.bench.cluster import ours
from shoal_host.bench.cluster.watching import clients
from shoal_host.bench.processes import JobFailed
from shoal_host.bench.rows import Row, Spread, at_most

if TYPE_CHECKING:
    from shoal_host.lab.cluster import LabCluster

CLIENTS: Final = 6
_SYNC_DELAY_MS: Final = 30
_STALL_MS: Final = 3_000
_HANG_MS: Final = 10_000
_MINUTE_S: Final = 60.0
_SETTLE_S: Final = 2.0


async def slow(bench: Bench) -> list[Row]:
    """30 ms more for each sync, and a follower's disk that stalls for 3 s once a minute: nobody may be elected."""
    directory, seconds = bench.fresh("slow"), bench.sizes.slow_disk_s
    async with _lab(directory) as lab:
        urls = [node.url for node in lab.nodes]
        async with clients(urls, CLIENTS, "slow") as watched:
            for node in lab.nodes:
                await node.tell_disk(DiskFaults(sync_delay_ms=_SYNC_DELAY_MS))
            await asyncio.sleep(_SETTLE_S)
            leader, term = await _leader(lab), await lab.term()
            began = time.monotonic()
            stalls = await _stall_now_and_then(lab, (leader + 1) % len(lab.nodes), seconds)
            ended = time.monotonic()
            elections = await lab.term() - term
            answered = watched.answered(began, ended)
            longest = watched.longest_outage(began, ended)
    bench.done_with(directory)
    return [slow_row(elections, ended - began, stalls, answered, longest)]


def slow_row(elections: int, seconds: float, stalls: int, answered: int, longest_s: float) -> Row:
    """Terms that began count, whether or not somebody won."""
    found = Spread.of([elections])
    return Row(
        "cluster-slow-disk",
        f"{_SYNC_DELAY_MS} ms more a sync, {stalls} stalls of {_STALL_MS / 1000:g} s on a follower, {seconds:.0f} s",
        "elections",
        found,
        targets=(at_most("no election", elections, 0),),
        details={"rate": answered / seconds, "stalls": stalls, "longest_outage_s": longest_s},
    )


async def _stall_now_and_then(lab: LabCluster, follower: int, seconds: float) -> int:
    """One stall in the middle of each minute, one at least; how many."""
    end, stalls = time.monotonic() + seconds, 0
    while (left := end - time.monotonic()) > 0:
        turn = min(_MINUTE_S, left)
        await asyncio.sleep(turn / 2)
        stalls += 1
        faults = DiskFaults(sync_delay_ms=_SYNC_DELAY_MS, stall=stalls, stall_ms=_STALL_MS)
        await lab.nodes[follower].tell_disk(faults)
        await asyncio.sleep(turn / 2)
    return stalls


async def hung(bench: Bench) -> list[Row]:
    """A sync of the leader that takes 10 s: how long nobody is answered."""
    directory = bench.fresh("hung")
    outages: list[float] = []
    async with _lab(directory) as lab:
        urls = [node.url for node in lab.nodes]
        async with clients(urls, CLIENTS, "hung") as watched:
            for _ in range(bench.sizes.pauses):
                await asyncio.sleep(_SETTLE_S)
                leader = await _leader(lab)
                await lab.nodes[leader].tell_disk(DiskFaults(stall=len(outages) + 1, stall_ms=_HANG_MS))
                began = time.monotonic()
                await asyncio.sleep(_HANG_MS / 1000)
                outages.append(watched.longest_outage(began, time.monotonic()))
    bench.done_with(directory)
    return [hung_row(outages, watched.errors)]


def hung_row(outages: list[float], errors: list[str]) -> Row:
    """The worst trial must be good enough."""
    found = Spread.of(outages)
    return Row(
        "cluster-hung-disk",
        f"a sync of the leader hangs for {_HANG_MS / 1000:g} s: longest time without an answer, {len(outages)} trials",
        "s",
        found,
        targets=(at_most("writes resume under 3 s", found.high, 3),),
        details={"trials_s": outages, "errors": errors},
    )


@asynccontextmanager
async def _lab(directory: Path) -> AsyncIterator[LabCluster]:
    """Three of the lab's nodes, with nothing between them. Raises JobFailed."""
    from shoal_host.lab.cluster import LabCluster
    from shoal_host.lab.network import Proxies

    died: list[str] = []
    where = await asyncio.to_thread(ours.places, directory)
    try:
        async with LabCluster(where, Proxies(()), died.append) as lab:
            yield lab
    except ShoalError as error:
        raise JobFailed("; ".join([*died, " ".join(str(error).split())])) from error
    if died:
        raise JobFailed(died[0])


async def _leader(lab: LabCluster) -> int:
    """Wait for one. Raises JobFailed."""
    end = time.monotonic() + _MINUTE_S
    while time.monotonic() < end:
        leader = await lab.leader()
        if leader is not None:
            return leader
        await asyncio.sleep(_SETTLE_S / 10)
    raise JobFailed("no node leads")
