"""Settling events: acks per second, and what each costs in the journal."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from shoal_host.bench.bench import PHASES, Bench
from shoal_host.bench.probe import Disk, mean_disk, probe_disk
from shoal_host.bench.processes import call
from shoal_host.bench.rows import Ratio, Row, Spread, percentile
from shoal_host.bench.workload import fill

if TYPE_CHECKING:
    from shoal.node import Node
    from shoal.store.local import LocalStore

Way = Literal["one", "64", "batch", "lazy"]
WAYS: Final[dict[Way, tuple[str, str]]] = {
    "one": ("subscription-acks", "1 consumer, each event acked alone"),
    "64": ("subscription-acks-64", "64 subscriptions, each event acked alone"),
    "batch": ("subscription-acks-100", "1 consumer, 100 events an ack"),
    "lazy": ("subscription-acks-lazy", "1 consumer, each event acked alone, lazy"),
}
_EVENTS: Final = 20_000
_PULL: Final = 1_000
_BATCH: Final = 100


class Acked(msgspec.Struct, frozen=True):
    """One phase: events settled per second of acking, journal bytes for each, and how long a call took."""

    rate: float
    bytes: float
    p50_s: float
    p99_s: float
    disk_rate: float


async def acks(bench: Bench) -> list[Row]:
    """Acks one by one, of many subscriptions, in batches, and lazy."""
    found: list[dict[Way, Acked]] = []
    sizes = bench.sizes
    for _ in range(PHASES):
        directory = bench.fresh("acks")
        found.append(await call(dict[Way, Acked], ack_phase, str(directory), sizes.ack_s, sizes.probe_s / 2))
        bench.done_with(directory)
    return [_row(way, [phase[way] for phase in found]) for way in WAYS]


def _row(way: Way, found: list[Acked]) -> Row:
    name, what = WAYS[way]
    ratio = Spread.of(phase.rate / phase.disk_rate for phase in found)
    disk = Spread.of(phase.disk_rate for phase in found)
    details = {
        "journal_bytes_per_ack": Spread.of(phase.bytes for phase in found),
        "p50_ms": Spread.of(phase.p50_s * 1000 for phase in found),
        "p99_ms": Spread.of(phase.p99_s * 1000 for phase in found),
        "ratio": ratio,
    }
    against = Ratio(ratio.median, "fdatasync rate", disk.median)
    return Row(name, what, "acks/s", Spread.of(phase.rate for phase in found), against, details=details)


async def ack_phase(directory: str, seconds: float, probe_s: float) -> dict[Way, Acked]:
    """Job: ack in each way for so long, in one store, with the disk before and after."""
    from shoal.config import Config
    from shoal.node import Node

    place = Path(directory)
    result: dict[Way, Acked] = {}
    async with await Node.open(Config(data_dir=place / "data")) as node:
        await fill(node.store("main"), "stream", _EVENTS)
        before = probe_disk(place, probe_s)
        for way in WAYS:
            took, written = await _ack(node, way, seconds)
            after = probe_disk(place, probe_s)
            result[way] = _acked(way, took, written, mean_disk(before, after))
            before = after
    return result


def _acked(way: Way, took: list[float], written: float, disk: Disk) -> Acked:
    settled = len(took) * _size(way)
    rate = settled / (sum(took) / _subscriptions(way))
    return Acked(rate, written / settled, percentile(took, 50), percentile(took, 99), disk.rate)


def _size(way: Way) -> int:
    return _BATCH if way == "batch" else 1


def _subscriptions(way: Way) -> int:
    return 64 if way == "64" else 1


async def _ack(node: Node, way: Way, seconds: float) -> tuple[list[float], float]:
    """What each call took, and what the journal grew by until all was stored."""
    store = node.store("main")
    names = [f"acks-{way}-{number}" for number in range(_subscriptions(way))]
    for name in names:
        durability = "lazy" if way == "lazy" else "durable"
        await store.subscriptions.create("all", None, name, ack_durability=durability)
    already = node.stats()["journal_bytes_total"]
    took = await _ack_all(store, names, _size(way), seconds)
    if way == "lazy":
        await _store_now(store, names[0])
    return took, node.stats()["journal_bytes_total"] - already


async def _ack_all(store: LocalStore, names: list[str], size: int, seconds: float) -> list[float]:
    """What each ack took. Leasing is not counted: all have leased enough before the first ack."""
    leased = [await _leases(store, name) for name in names]
    end = time.perf_counter() + seconds
    took: list[float] = []

    async def ack(name: str, leases: list[str]) -> None:
        while leases and time.perf_counter() < end:
            for start in range(0, len(leases), size):
                began = time.perf_counter()
                await store.subscriptions.ack_leases(name, leases[start : start + size])
                now = time.perf_counter()
                took.append(now - began)
                if now >= end:
                    return
            leases = await _leases(store, name)

    await asyncio.gather(*map(ack, names, leased))
    return took


async def _leases(store: LocalStore, name: str) -> list[str]:
    return [event.lease for event in await store.subscriptions.pull(name, _PULL)]


async def _store_now(store: LocalStore, name: str) -> None:
    """Have a lazy subscription store what it has in memory, which an ack does once it is durable."""
    await store.subscriptions.update(name, ack_durability="durable")
    await store.subscriptions.ack_through(name, 0)
