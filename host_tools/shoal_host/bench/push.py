"""Live delivery over HTTP: shoald, a producer and a reader, each in a process of its own."""

from __future__ import annotations

import asyncio
from typing import Final

from shoal_host.bench import sse_load
from shoal_host.bench.bench import PHASES, Bench
from shoal_host.bench.http import shoald
from shoal_host.bench.processes import call, free_port
from shoal_host.bench.rows import Ratio, Row, Spread, at_least

_PACE: Final = 12_000
_GOAL: Final = 10_000
_BATCH: Final = 100
_CONNECTIONS: Final = 4
_ACK_EVERY: Final = 1_000
_MARGIN_S: Final = 0.5
"""How much longer the producer goes on than the reader counts."""


async def live(bench: Bench) -> list[Row]:
    """Batches of 100 appended at 12,000 events a second, pushed to one consumer that acks by the thousand."""
    directory, seconds = bench.fresh("push"), bench.sizes.push_s
    port = free_port()
    async with shoald(directory / "data", port):
        found = [await _phase(port, f"push-{phase}", seconds) for phase in range(PHASES)]
    bench.done_with(directory)
    rate = Spread.of(arrived.rate for _, arrived in found)
    produced = Spread.of(sent.rate for sent, _ in found)
    ratio = Spread.of(arrived.rate / sent.rate for sent, arrived in found)
    return [
        Row(
            "subscription-live-sse",
            f"pushed over HTTP while {_PACE:,}/s are appended, {_BATCH} at a time",
            "events/s",
            rate,
            Ratio(ratio.median, "appended meanwhile", produced.median),
            (at_least(f"{_GOAL:,}/s", rate.median, _GOAL),),
            {
                "ratio": ratio,
                "acks": Spread.of(arrived.acks for _, arrived in found),
                "reader_cpu": Spread.of(arrived.cpu for _, arrived in found),
                "producer_cpu": Spread.of(sent.cpu for sent, _ in found),
            },
        )
    ]


async def _phase(port: int, name: str, seconds: float) -> tuple[sse_load.Produced, sse_load.Arrived]:
    """A subscription of streams of its own, from their beginning to the end of the phase."""
    await sse_load.subscribe(port, name, f"{name}-*")
    produced, arrived = await asyncio.gather(
        call(
            sse_load.Produced,
            sse_load.produce,
            *(port, name, seconds + _MARGIN_S, _PACE, _BATCH, _CONNECTIONS),
        ),
        call(sse_load.Arrived, sse_load.read, port, name, seconds, _ACK_EVERY),
    )
    return produced, arrived
