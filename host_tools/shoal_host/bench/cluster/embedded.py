"""A member embedded in the benchmark's own process, beside two `shoald`: on the leader, and through a follower."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from shoal_host.bench.bench import PHASES, Bench
from shoal_host.bench.cluster import ours, pings
from shoal_host.bench.loops import best_loop, run_on
from shoal_host.bench.probe import Disk, probe_disk
from shoal_host.bench.processes import call
from shoal_host.bench.rows import Ratio, Row, Spread, Target, at_least, at_most, percentile
from shoal_host.bench.workload import append_for

if TYPE_CHECKING:
    from shoal.cluster_node import ClusterNode
    from shoal.store.local import LocalStore
    from shoal_host.local_cluster import Place

Side = Literal["leader", "follower"]
_STORE: Final = "main"
_WARM_UP_S: Final = 0.3
_PATIENCE_S: Final = 30
_PAUSE_S: Final = 0.05
_READS: Final = 300


class Shape(msgspec.Struct, frozen=True):
    """A row of appends: where, how many writers, how many events each time; what must be reached."""

    name: str
    side: Side
    writers: int
    batch: int
    must_rate: float | None
    must_ratio: float | None

    @property
    def what(self) -> str:
        """For the table."""
        side = "on the leader" if self.side == "leader" else "through a follower"
        writers = f"{self.writers} writer{'' if self.writers == 1 else 's'}"
        return (
            f"three nodes, {side}: {writers}, {self.batch} event{'' if self.batch == 1 else 's'} per append"
        )


SHAPES: Final = (
    Shape("cluster-leader-1", "leader", 1, 1, None, 0.25),
    Shape("cluster-leader-64", "leader", 64, 1, 12_000, 3),
    Shape("cluster-leader-batch-100", "leader", 1, 100, 40_000, None),
    Shape("cluster-follower-64", "follower", 64, 1, 8_000, 2),
)
SIDES: Final[dict[Side, float]] = {"leader": 1.3, "follower": 2.3}
"""Round trips to peers that a linearizable read may take."""


class Done(msgspec.Struct, frozen=True):
    """One phase of appends, with the disk around it."""

    rate: float
    p50_s: float
    p99_s: float
    disk_rate: float


class Reads(msgspec.Struct, frozen=True):
    """Of one phase: what a linearizable read and a round trip took."""

    p50_s: float
    p99_s: float
    trip_s: float


class Found(msgspec.Struct, frozen=True):
    """All that one phase found: appends by shape, reads by side."""

    appends: dict[str, Done]
    reads: dict[Side, Reads]


async def rows(bench: Bench) -> list[Row]:
    """Appends and linearizable reads, embedded, of a cluster of three."""
    found = []
    for _ in range(PHASES):
        directory = bench.fresh("cluster")
        sizes = bench.sizes
        found.append(await call(Found, phase, str(directory), sizes.phase_s, sizes.probe_s))
        bench.done_with(directory)
    made = [appends_row(shape, [one.appends[shape.name] for one in found]) for shape in SHAPES]
    return made + [reads_row(side, [one.reads[side] for one in found]) for side in SIDES]


def appends_row(shape: Shape, found: list[Done]) -> Row:
    """Of one shape."""
    rate = Spread.of(one.rate for one in found)
    ratio = Spread.of(one.rate / one.disk_rate for one in found)
    targets: list[Target] = []
    if shape.must_rate is not None:
        text = f"{shape.must_rate:,.0f}/s (idle 2-core machine)"
        targets.append(at_least(text, rate.median, shape.must_rate))
    if shape.must_ratio is not None:
        targets.append(at_least(f"{shape.must_ratio:g}x fdatasync rate", ratio.median, shape.must_ratio))
    disk = Spread.of(one.disk_rate for one in found)
    details = {
        "ratio": ratio,
        "p50_ms": Spread.of(one.p50_s * 1000 for one in found),
        "p99_ms": Spread.of(one.p99_s * 1000 for one in found),
        "disk_rate": disk,
    }
    against = Ratio(ratio.median, "fdatasync rate", disk.median)
    return Row(shape.name, shape.what, "events/s", rate, against, tuple(targets), details)


def reads_row(side: Side, found: list[Reads]) -> Row:
    """Of one side: p50, held against the round trip of the same phase."""
    where = "on the leader" if side == "leader" else "on a follower"
    trips = Spread.of(one.p50_s / one.trip_s for one in found)
    must = SIDES[side]
    return Row(
        f"cluster-read-{side}",
        f"three nodes, linearizable read {where}: p50",
        "ms",
        Spread.of(one.p50_s * 1000 for one in found),
        Ratio(trips.median, "peer round trips (ms)", Spread.of(one.trip_s * 1000 for one in found).median),
        (at_most(f"{must:g} peer round trips", trips.median, must),),
        {"round_trips": trips, "p99_ms": Spread.of(one.p99_s * 1000 for one in found)},
    )


# --- the job


def phase(directory: str, seconds: float, probe_s: float) -> Found:
    """Job: a new cluster; on the leader first, then leadership is handed over."""
    return run_on(best_loop(), _phase(Path(directory), seconds, probe_s))


async def _phase(directory: Path, seconds: float, probe_s: float) -> Found:
    appends: dict[str, Done] = {}
    reads: dict[Side, Reads] = {}
    where = await asyncio.to_thread(ours.places, directory)
    async with member_beside(where) as (member, store):
        peer = pings.Peer(member, where[1].node_id)
        for side in SIDES:
            await hand_over(member, where, side)
            reads[side] = await measure_reads(store, peer)
            for shape in SHAPES:
                if shape.side == side:
                    appends[shape.name] = await measure_appends(
                        store, shape, seconds, lambda: probe_disk(directory, probe_s)
                    )
    return Found(appends, reads)


async def measure_appends(store: LocalStore, shape: Shape, seconds: float, probe: Callable[[], Disk]) -> Done:
    """Of an opened store, wherever it is in its cluster."""
    before = probe()
    await append_for(store, _WARM_UP_S, writers=shape.writers, batch=shape.batch, prefix=f"warm-{shape.name}")
    done = await append_for(store, seconds, writers=shape.writers, batch=shape.batch, prefix=shape.name)
    disk_rate = (before.rate + probe().rate) / 2
    took = done.took_s
    return Done(done.events / done.seconds, percentile(took, 50), percentile(took, 99), disk_rate)


async def measure_reads(store: LocalStore, peer: pings.Peer) -> Reads:
    """Reads and round trips in turns, one at a time, so that both see the same machine."""
    took: list[float] = []
    trips: list[float] = []
    for _ in range(_READS):
        trips.append(await peer.round_trip())
        began = time.perf_counter()
        await store.streams.get_version("nobody", consistency="linearizable")
        took.append(time.perf_counter() - began)
    return Reads(percentile(took, 50), percentile(took, 99), percentile(trips, 50))


@asynccontextmanager
async def member_beside(where: list[Place]) -> AsyncIterator[tuple[ClusterNode, LocalStore]]:
    """The first place in this process, the others as `shoald`."""
    from shoal.cluster_node import ClusterNode
    from shoal.config import load
    from shoal_host.commands.up_cluster import Boards
    from shoal_host.local_cluster import cluster_options

    own, others = where[0], where[1:]
    values = {
        "data_dir": str(own.data_dir),
        "node_id": own.node_id,
        "mode": "cluster",
        "peer_listen": own.peer_listen,
        "bootstrap_expect": str(len(where)),
        "discovery.methods": "static",
        "seeds": [place.peer_listen for place in others],
        "tls_dir": str(own.tls_dir),
    }
    running = Boards(others, lambda _: None, lambda place, _: cluster_options(place, where))
    starting = asyncio.create_task(running.start())
    try:
        async with await ClusterNode.open(load(values, {}, None)) as member:
            await member.start(())
            await starting
            async with asyncio.timeout(_PATIENCE_S):
                while _STORE not in member.node.stores:  # noqa: ASYNC110 - a store's coming has no event
                    await asyncio.sleep(_PAUSE_S)
            yield member, member.node.store(_STORE)
    finally:
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        await running.stop()


async def hand_over(member: ClusterNode, where: list[Place], side: Side) -> None:
    """Make the embedded member the leader, or one of the others. Raises TimeoutError."""
    wanted = where[0] if side == "leader" else where[1]
    async with asyncio.timeout(_PATIENCE_S):
        while (leads := _leader(member)) is None or (leads == where[0].node_id) != (side == "leader"):
            if leads is not None:
                await _transfer(member, where, leads, wanted.node_id)
            await asyncio.sleep(_PAUSE_S)


def _leader(member: ClusterNode) -> str | None:
    return member.node.driver.core.leader


async def _transfer(member: ClusterNode, where: list[Place], leads: str, wanted: str) -> None:
    """One try; who leads may have changed meanwhile."""
    import aiohttp

    from shoal.errors import ShoalError

    if leads == where[0].node_id:
        try:
            await member.members.transfer(wanted)
        except ShoalError:
            return
    url = next((place.url for place in where[1:] if place.node_id == leads), None)
    if url is not None:
        body: dict[str, Any] = {"node_id": wanted}
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{url}/v1/cluster/transfer-leader", json=body),
        ):
            return
