"""What scenarios are given: where to write, how much to measure, somebody to tell, and the large store."""

from __future__ import annotations

import shutil
import time
from collections.abc import Awaitable, Callable
from itertools import count
from pathlib import Path
from typing import Final

import msgspec

from shoal_host.bench.rows import Row

PHASES: Final = 3


class Sizes(msgspec.Struct, frozen=True):
    """How much is measured: `FULL`, or `QUICK` with the same code."""

    phase_s: float
    probe_s: float
    large_events: int
    small_events: int
    rare_events: int
    long_stream_events: int
    long_appends: int
    read_events: int
    starts: int
    wear_single: int
    wear_batched: int
    slow_s: int
    quiet_s: float
    peer_phases: int
    latency_events: int
    catch_up_events: int
    push_s: float
    idle_pairs: int
    ack_s: float
    kills: int
    pauses: int
    slow_disk_s: float


FULL: Final = Sizes(
    phase_s=1.5,
    probe_s=0.25,
    large_events=1_000_000,
    small_events=60_000,
    rare_events=5_000,
    long_stream_events=100_000,
    long_appends=1_000,
    read_events=10_000,
    starts=7,
    wear_single=3_000,
    wear_batched=30_000,
    slow_s=7_200,
    quiet_s=2.0,
    peer_phases=PHASES,
    latency_events=1_000,
    catch_up_events=100_000,
    push_s=1.5,
    idle_pairs=120,
    ack_s=0.3,
    kills=20,
    pauses=5,
    slow_disk_s=300.0,
)
QUICK: Final = Sizes(
    phase_s=0.3,
    probe_s=0.1,
    large_events=60_000,
    small_events=6_000,
    rare_events=1_000,
    long_stream_events=20_000,
    long_appends=200,
    read_events=10_000,
    starts=3,
    wear_single=500,
    wear_batched=5_000,
    slow_s=900,
    quiet_s=0.5,
    peer_phases=1,
    latency_events=100,
    catch_up_events=5_000,
    push_s=0.4,
    idle_pairs=10,
    ack_s=0.1,
    kills=3,
    pauses=1,
    slow_disk_s=10.0,
)


class Large(msgspec.Struct, frozen=True):
    """The large store, built by appending to a running `shoald`; memory is that process's."""

    data_dir: Path
    events: int
    seconds: float
    idle_bytes: int
    full_bytes: int
    peak_bytes: int


class Bench:
    """One run. `large` builds the store that several scenarios share when it is first asked for."""

    def __init__(
        self,
        directory: Path,
        sizes: Sizes,
        say: Callable[[str], None],
        build_large: Callable[[Bench], Awaitable[Large]],
    ) -> None:
        self.directory = directory
        self.sizes = sizes
        self.say = say
        self._build_large = build_large
        self._large: Large | None = None
        self._numbers = count()
        self._began = time.monotonic()

    def fresh(self, name: str) -> Path:
        """A directory of its own for a phase."""
        path = self.directory / f"{name}-{next(self._numbers)}"
        path.mkdir()
        return path

    def done_with(self, path: Path) -> None:
        """Give the space of a phase back."""
        shutil.rmtree(path)

    async def large(self) -> Large:
        """The large store, closed cleanly."""
        if self._large is None:
            self.say(f"building a store of {self.sizes.large_events:,} events")
            self._large = await self._build_large(self)
        return self._large


class Scenario(msgspec.Struct, frozen=True):
    """Measures one thing, in one row or a few."""

    name: str
    about: str
    measure: Callable[[Bench], Awaitable[list[Row]]]
