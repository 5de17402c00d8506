"""What subscriptions cost that wait for events which do not come: appending beside them, and memory."""

from __future__ import annotations

import asyncio
import gc
import math
import os
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from shoal_host.bench.bench import Bench
from shoal_host.bench.memory import resident_bytes
from shoal_host.bench.processes import call
from shoal_host.bench.rows import Ratio, Row, Spread, at_most
from shoal_host.bench.workload import append_for

if TYPE_CHECKING:
    from shoal.store.local import LocalStore
    from shoal.types import SubscriptionType

IDLE: Final = 1_000
_WRITERS: Final = 64
_WAIT_MS: Final = 600_000
_MB: Final = 1_000_000
_SETTLE_S: Final = 0.15
"""What was made or deleted a moment ago is still being written to the database: then appends go on unmeasured."""


class Idle(msgspec.Struct, frozen=True):
    """Appends per second by phase, and how much more memory was taken when all waited for the first time."""

    alone: list[float]
    beside: list[float]
    more_bytes: int


async def idle(bench: Bench) -> list[Row]:
    """64 writers beside 1,000 subscriptions that wait, in turns with none."""
    directory, sizes = bench.fresh("idle"), bench.sizes
    found = await call(Idle, idle_phases, str(directory), sizes.idle_pairs, sizes.idle_s)
    bench.done_with(directory)
    alone = Spread.of(found.alone)
    slower = Spread.of(
        (1 - beside / other) * 100 for beside, other in zip(found.beside, found.alone, strict=True)
    )
    more = found.more_bytes / _MB
    error = _error_of_median(
        [beside / other for beside, other in zip(found.beside, found.alone, strict=True)]
    )
    details = {"slower_percent": slower, "error_percent": error * 100, "alone_rate": alone}
    ratio = Ratio(1 - slower.median / 100, f"none, in {sizes.idle_pairs} pairs of phases", alone.median)
    return [
        Row(
            "subscription-idle",
            f"64 writers, 1 event, beside {IDLE:,} subscriptions that wait",
            "events/s",
            Spread.of(found.beside),
            ratio,
            (at_most("5 % slower than without", slower.median, 5),),
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
    return 1.25 * statistics.stdev(values) / math.sqrt(len(values))


def selections() -> list[tuple[SubscriptionType, Any]]:
    """1,000 that select nothing of what is appended."""
    return [
        *(("stream", f"quiet-{number}") for number in range(500)),
        *(("event_type", f"quiet-type-{number}") for number in range(300)),
        *(("tags", [f"quiet-tag-{number}"]) for number in range(100)),
        *(("event_pattern", f"quiet-pattern-{number}-*") for number in range(100)),
    ]


async def idle_phases(directory: str, pairs: int, seconds: float) -> Idle:
    """Job: without, with, with, without, and so on, so that what grows or passes meets both alike."""
    import shoal

    rates: dict[bool, list[float]] = {False: [], True: []}
    async with shoal.open(data_dir=Path(directory)) as store:
        await _append(store, 2 * seconds, "warm")
        more = await _memory(store)
        pulls: list[asyncio.Task[Any]] = []
        for number in range(2 * pairs):
            beside = number % 4 in (1, 2)
            if beside != bool(pulls):
                pulls = await _begin(store) if beside else await _end(store, pulls)
                await _append(store, _SETTLE_S, f"settle-{number}")
            rates[beside].append(await _append(store, seconds, f"phase-{number}"))
        await _end(store, pulls)
    return Idle(rates[False], rates[True], more)


async def _memory(store: LocalStore) -> int:
    gc.collect()
    before = resident_bytes(os.getpid())
    pulls = await _begin(store)
    more = resident_bytes(os.getpid()) - before
    await _end(store, pulls)
    return more


async def _append(store: LocalStore, seconds: float, prefix: str) -> float:
    done = await append_for(store, seconds, writers=_WRITERS, batch=1, prefix=prefix)
    return done.events / done.seconds


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


async def _end(store: LocalStore, pulls: list[asyncio.Task[Any]]) -> list[asyncio.Task[Any]]:
    """None is left. Raises RuntimeError unless each waited to the end."""
    if any(pull.done() for pull in pulls):
        raise RuntimeError("a subscription that should wait did not")
    for pull in pulls:
        pull.cancel()
    await asyncio.gather(*pulls, return_exceptions=True)
    await asyncio.gather(*(store.subscriptions.unsubscribe(f"idle-{number}") for number in range(len(pulls))))
    return []
