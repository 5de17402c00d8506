"""Memory of a running `shoald`: idle, and after many events."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

from shoal.config import Config
from shoal_host.bench import load
from shoal_host.bench.bench import Bench, Large
from shoal_host.bench.http import shoald
from shoal_host.bench.processes import call, free_port
from shoal_host.bench.reads import LONG_STREAM
from shoal_host.bench.rows import Ratio, Row, Spread, at_most

_MB: Final = 1_000_000
_SETTLE_S: Final = 1.0
_IDLE_LIMIT_MB: Final = 60


async def build_large(bench: Bench) -> Large:
    """Start shoald on nothing, look at its memory, append to it, look again, let it leave."""
    directory, sizes = bench.fresh("large"), bench.sizes
    port = free_port()
    arguments = (sizes.large_events, sizes.rare_events, LONG_STREAM, sizes.long_stream_events)
    async with shoald(directory / "data", port) as pid:
        await asyncio.sleep(_SETTLE_S)
        idle = resident_bytes(pid)
        took_s = await call(float, load.fill_by_http, port, *arguments)
        await asyncio.sleep(_SETTLE_S)
        full, peak = resident_bytes(pid), resident_bytes(pid, "VmHWM")
    return Large(directory / "data", sizes.large_events, took_s, idle, full, peak)


def resident_bytes(pid: int, field: str = "VmRSS") -> int:
    """What a process has in memory (proc(5)); `VmHWM` is the most it had."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise RuntimeError(f"/proc/{pid}/status has no {field}")


async def resident(bench: Bench) -> list[Row]:
    """RSS of shoald, idle and after many events."""
    large = await bench.large()
    idle, full = large.idle_bytes / _MB, large.full_bytes / _MB
    cache = Config().storage.cache_bytes / _MB
    limit = 1.3 * idle + cache
    return [
        Row(
            "memory-idle",
            "RSS of shoald, idle",
            "MB",
            Spread.of([idle]),
            targets=(at_most(f"{_IDLE_LIMIT_MB} MB", idle, _IDLE_LIMIT_MB),),
        ),
        Row(
            "memory-full",
            f"RSS of shoald after {large.events:,} events",
            "MB",
            Spread.of([full]),
            Ratio(full / idle, "idle", idle),
            (at_most(f"1.3x idle + {cache:.1f} MB cache = {limit:.1f} MB", full, limit),),
            {"peak_mb": large.peak_bytes / _MB, "append_rate": large.events / large.seconds},
        ),
    ]
