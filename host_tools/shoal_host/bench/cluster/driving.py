"""Writers that each await one append before the next: the same load for every store that has a Python client."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from shoal_host.bench.load import Load
from shoal_host.bench.rows import percentile

WARM_UP_S: Final = 0.3

Append = Callable[[], Awaitable[object]]
"""Appends the next event of one writer's stream; returns when it is durable on a majority."""


async def drive(appends: Sequence[Append], seconds: float) -> Load:
    """Warm up, then let all append for so long. Raises what a writer raised."""
    await _run(appends, min(WARM_UP_S, seconds))
    gc.collect()
    began, cpu = time.perf_counter(), time.process_time()
    took = await _run(appends, seconds)
    elapsed = time.perf_counter() - began
    busy = (time.process_time() - cpu) / elapsed
    return Load(len(took), len(took) / elapsed, percentile(took, 50), percentile(took, 99), busy)


async def _run(appends: Sequence[Append], seconds: float) -> list[float]:
    """What each append took."""
    took: list[float] = []
    end = time.perf_counter() + seconds

    async def write(append: Append) -> None:
        while (at := time.perf_counter()) < end:
            await append()
            took.append(time.perf_counter() - at)

    await asyncio.gather(*map(write, appends))
    return took
