"""Settling events: acks per second, and what each costs in the journal."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from shoal_host.bench.bench import PHASES, Bench
from shoal_host.bench.probe import mean_disk, probe_disk
from shoal_host.bench.processes import call
from shoal_host.bench.rows import Ratio, Row, Spread, percentile
from shoal_host.bench.workload import fill

if TYPE_CHECKING:
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
    found: dict[Way, list[Acked]] = {way: [] for way in WAYS}
    sizes = bench.sizes
    for _ in range(PHASES):
        for way, phases in found.items():
            directory = bench.fresh("acks")
            phases.append(await call(Acked, ack_phase, str(directory), way, sizes.ack_s, sizes.probe_s / 2))
            bench.done_with(directory)
    return [_row(way, phases) for way, phases in found.items()]


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


async def ack_phase(directory: str, way: Way, seconds: float, probe_s: float) -> Acked:
    """Job: ack for so long. The journal's bytes are counted until the subscriptions have stored everything."""
    from shoal.config import Config
    from shoal.node import Node

    place = Path(directory)
    async with await Node.open(Config(data_dir=place / "data")) as node:
        store = node.store("main")
        await fill(store, "stream", _EVENTS)
        names = [f"acks-{number}" for number in range(64 if way == "64" else 1)]
        for name in names:
            durability = "lazy" if way == "lazy" else "durable"
            await store.subscriptions.create("all", None, name, ack_durability=durability)
        before = probe_disk(place, probe_s)
        already = node.stats()["journal_bytes_total"]
        size = _BATCH if way == "batch" else 1
        took = await _ack_all(store, names, size, seconds)
        if way == "lazy":
            await _store_now(store, names[0])
        written = node.stats()["journal_bytes_total"] - already
        disk = mean_disk(before, probe_disk(place, probe_s))
    settled = len(took) * size
    rate = settled / (sum(took) / len(names))
    return Acked(rate, written / settled, percentile(took, 50), percentile(took, 99), disk.rate)


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
