"""What subscriptions cost that wait for events which do not come: appending beside them, and memory."""

from __future__ import annotations

import asyncio
import gc
import math
import os
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from shoal_host.bench.bench import Bench
from shoal_host.bench.memory import resident_bytes
from shoal_host.bench.processes import call
from shoal_host.bench.rows import Ratio, Row, Spread, at_most
from shoal_host.bench.workload import append_for, new_events

if TYPE_CHECKING:
    from shoal.store.local import LocalStore
    from shoal.types import SubscriptionType

IDLE: Final = 1_000
_WRITERS: Final = 64
_ROUNDS: Final = 8
_WAIT_MS: Final = 600_000
_MB: Final = 1_000_000
_WARM_UP_S: Final = 0.3
_SETTLE_S: Final = 0.3
"""What was made a moment ago is still being written to the database: then appends go on unmeasured."""


class Idle(msgspec.Struct, frozen=True):
    """Appends per second of neighbouring slices; the garbage collector's share of time before and then; more memory."""

    alone: list[float]
    beside: list[float]
    collecting_before: float
    collecting: float
    more_bytes: int


async def idle(bench: Bench) -> list[Row]:
    """64 writers of a store whose 1,000 subscriptions wait, in turns with one that has none."""
    directory, sizes = bench.fresh("idle"), bench.sizes
    found = await call(Idle, idle_phases, str(directory), sizes.idle_pairs)
    bench.done_with(directory)
    alone = Spread.of(found.alone)
    ratios = [beside / other for beside, other in zip(found.beside, found.alone, strict=True)]
    collecting = found.collecting - found.collecting_before
    slower = (1 - statistics.median(ratios) + collecting) * 100
    more = found.more_bytes / _MB
    details = {
        "slower_percent": slower,
        "error_percent": _error_of_median(ratios) * 100,
        "collecting_percent": collecting * 100,
        "alone_rate": alone,
    }
    ratio = Ratio(1 - slower / 100, f"a store without, in {len(ratios)} pairs of slices", alone.median)
    return [
        Row(
            "subscription-idle",
            f"64 writers, 1 event, beside {IDLE:,} subscriptions that wait",
            "events/s",
            Spread.of(found.beside),
            ratio,
            (at_most("5 % slower than without", slower, 5),),
            details,
        ),
        Row(
            "subscription-idle-memory",
            f"RSS for {IDLE:,} subscriptions that wait",
            "MB",
            Spread.of([more]),
            targets=(at_most("20 MB", more, 20),),
        ),
    ]


def _error_of_median(values: list[float]) -> float:
    """About how far off the median of so few values may be: a difference smaller than this says nothing."""
    first, _, third = statistics.quantiles(values, n=4)
    return 1.25 * (third - first) / 1.35 / math.sqrt(len(values))


def selections() -> list[tuple[SubscriptionType, Any]]:
    """1,000 that select nothing of what is appended."""
    return [
        *(("stream", f"quiet-{number}") for number in range(500)),
        *(("event_type", f"quiet-type-{number}") for number in range(300)),
        *(("tags", [f"quiet-tag-{number}"]) for number in range(100)),
        *(("event_pattern", f"quiet-pattern-{number}-*") for number in range(100)),
    ]


async def idle_phases(directory: str, pairs: int) -> Idle:
    """Job: two stores, one with subscriptions that wait, appended to in turns so short that both meet the same machine.

    What these subscriptions cost the garbage collector both pay: its time is compared with what it took before.
    """
    import shoal

    place, collector = Path(directory), Collector()
    async with shoal.open(data_dir=place / "alone") as alone, shoal.open(data_dir=place / "beside") as beside:
        for store in (alone, beside):
            await append_for(store, _WARM_UP_S, writers=_WRITERS, batch=1, prefix="warm")
        collecting_before = await _collecting(alone, collector, pairs)
        more, pulls = await _begin_measured(beside)
        for store in (alone, beside):
            await append_for(store, _SETTLE_S, writers=_WRITERS, batch=1, prefix="settle")
        rates: dict[LocalStore, list[float]] = {alone: [], beside: []}
        began_s, began = collector.seconds, time.perf_counter()
        for number in range(pairs):
            for store in (alone, beside) if number % 2 else (beside, alone):
                rates[store].append(await _slice_rate(store, f"slice-{number}"))
        collecting = (collector.seconds - began_s) / (time.perf_counter() - began)
        await _end(pulls)
    return Idle(rates[alone], rates[beside], collecting_before, collecting, more)


class Collector:
    """How long the garbage collector has worked in this process."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._began = 0.0
        gc.callbacks.append(self._tell)

    def _tell(self, phase: str, _: dict[str, int]) -> None:
        if phase == "start":
            self._began = time.perf_counter()
        else:
            self.seconds += time.perf_counter() - self._began


async def _collecting(store: LocalStore, collector: Collector, slices: int) -> float:
    began_s, began = collector.seconds, time.perf_counter()
    for number in range(slices):
        await _slice_rate(store, f"before-{number}")
    return (collector.seconds - began_s) / (time.perf_counter() - began)


async def _begin_measured(store: LocalStore) -> tuple[int, list[asyncio.Task[Any]]]:
    gc.collect()
    before = resident_bytes(os.getpid())
    pulls = await _begin(store)
    return resident_bytes(os.getpid()) - before, pulls


async def _slice_rate(store: LocalStore, prefix: str) -> float:
    """Events per second of a few appends by each writer: a number of them, since a short time may pass without any."""

    async def write(stream_id: str) -> None:
        for number in range(_ROUNDS):
            await store.streams.append(stream_id, number - 1, new_events(number, 1))

    began = time.perf_counter()
    await asyncio.gather(*(write(f"{prefix}-{number}") for number in range(_WRITERS)))
    return _WRITERS * _ROUNDS / (time.perf_counter() - began)


async def _begin(store: LocalStore) -> list[asyncio.Task[Any]]:
    """Make all, and let each wait."""
    made = selections()
    subscriptions = store.subscriptions
    await asyncio.gather(
        *(
            subscriptions.create(kind, selector, f"idle-{number}", start_from="end")
            for number, (kind, selector) in enumerate(made)
        )
    )
    pulls = [
        asyncio.create_task(subscriptions.pull(f"idle-{number}", 100, _WAIT_MS, "consumer"))
        for number in range(len(made))
    ]
    await asyncio.sleep(0.05)
    return pulls


async def _end(pulls: list[asyncio.Task[Any]]) -> None:
    """Raises RuntimeError unless each waited to the end."""
    if any(pull.done() for pull in pulls):
        raise RuntimeError("a subscription that should wait did not")
    for pull in pulls:
        pull.cancel()
    await asyncio.gather(*pulls, return_exceptions=True)
