"""From starting a process to its first durable append: on nothing, and on a large store."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from shoal_host.bench.bench import Bench
from shoal_host.bench.processes import first_line_after_s
from shoal_host.bench.rows import Ratio, Row, Spread, at_most

_MODULE: Final = "shoal_host.bench.first_append"


async def first_append(bench: Bench) -> list[Row]:
    """Start to first append, on an empty directory and on the large store, in turns."""
    large = await bench.large()
    bare: list[float] = []
    new: list[float] = []
    again: list[float] = []
    for _ in range(bench.sizes.starts):
        directory = bench.fresh("start")
        bare.append(await first_line_after_s("-c", "print()"))
        new.append(await _start(directory / "data"))
        again.append(await _start(large.data_dir))
        bench.done_with(directory)
    python = Spread.of(bare)
    first, reopened = Spread.of(new), Spread.of(again)
    return [
        Row(
            "start",
            "start of the process to its first append, durable",
            "s",
            first,
            Ratio(first.median / python.median, "Python starting", python.median),
            (at_most("0.6 s", first.median, 0.6),),
        ),
        Row(
            "start-large",
            f"the same on a store of {large.events:,} events",
            "s",
            reopened,
            Ratio(reopened.median / first.median, "on nothing", first.median),
            (at_most("within 0.2 s of that", reopened.median - first.median, 0.2),),
        ),
    ]


async def _start(data_dir: Path) -> float:
    return await first_line_after_s("-m", _MODULE, str(data_dir))
