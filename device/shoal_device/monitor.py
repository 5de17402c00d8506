"""Reading the board and appending what was read, for as long as the store takes to answer.

Two tasks share an `Outbox`: one fills it on a fixed grid of time, the other empties it as the store
answers. Neither waits for the other, so a store that restarts costs no reading until memory is full.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Protocol

from shoal.clock import Clock
from shoal.errors import (
    EventIdReused,
    Forbidden,
    InvalidRequest,
    NotFound,
    ShoalError,
    StreamTombstoned,
    Unauthorized,
)
from shoal.types import ANY_VERSION, NewEvent
from shoal_device.outbox import Outbox
from shoal_device.readings import MEASURED, STARTED, Board, measured

HOPELESS = (InvalidRequest, Unauthorized, Forbidden, NotFound, StreamTombstoned, EventIdReused)
"""Answers that the same batch will always get: the agent ends, its supervisor and a person decide."""

BACKOFF_FIRST_S = 0.25
BACKOFF_MOST_S = 10.0
FAREWELL_S = 2.0


class Sink(Protocol):
    """The one thing the agent needs of a store's streams."""

    async def append(self, stream_id: str, expected_version: int, events: Sequence[NewEvent]) -> int:
        """Append durably; the same batch again is success without a second copy."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What to do how often."""

    node: str
    interval_s: float = 1.0
    capacity: int = 3_600
    batch_events: int = 100

    @property
    def stream_id(self) -> str:
        """Where the readings go."""
        return f"board-{self.node}"


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Everything the agent does not decide: time, chance, the machine, and where it reports to."""

    board: Board
    clock: Clock
    sleep: Callable[[float], Awaitable[None]]
    new_id: Callable[[], str]
    random: Random
    report: Callable[[str], None]


class Monitor:
    """Reads the board and appends what it read until told to `stop`."""

    def __init__(self, sink: Sink, settings: Settings, surroundings: Surroundings) -> None:
        self._sink = sink
        self._settings = settings
        self._around = surroundings
        self._outbox = Outbox(settings.capacity, settings.batch_events)
        self._news = asyncio.Event()
        self._stopping = asyncio.Event()
        self._failures = 0

    def stop(self) -> None:
        """Take no more readings; `run` returns once the store has what was read, or after `FAREWELL_S`."""
        self._stopping.set()

    async def run(self) -> None:
        """Run until `stop`. Raises the store's answer when it is one that waiting cannot change."""
        self._put(STARTED, self._around.board.describe() | {"interval_s": self._settings.interval_s})
        sampling = asyncio.create_task(self._sample(), name="agent-sample")
        sending = asyncio.create_task(self._send(), name="agent-send")
        stopping = asyncio.create_task(self._stopping.wait(), name="agent-stop")
        tasks = (sampling, sending, stopping)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            sampling.cancel()
            if stopping.done() and not sending.done():
                await self._farewell(sending)
        finally:
            for task in tasks:
                task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome

    async def _farewell(self, sending: asyncio.Task[None]) -> None:
        self._news.set()
        await asyncio.wait((sending,), timeout=FAREWELL_S)
        if len(self._outbox):
            self._around.report(f"{len(self._outbox)} readings were not stored: the store did not answer")

    async def _sample(self) -> None:
        """One reading per interval on a fixed grid; turns that a sleeping board missed are left out.

        The first one, from which growth is counted, is not an event.
        """
        interval_ms = round(self._settings.interval_s * 1000)
        clock, board = self._around.clock, self._around.board
        due_ms = clock.monotonic_ms()
        before = await board.read()
        while True:
            now_ms = clock.monotonic_ms()
            due_ms += interval_ms * max(1, -(-(now_ms - due_ms) // interval_ms))
            await self._around.sleep((due_ms - now_ms) / 1000)
            now = await board.read()
            self._put(MEASURED, measured(now, before, clock.wall().epoch_us))
            before = now

    def _put(self, event_type: str, data: dict[str, Any]) -> None:
        self._outbox.put(NewEvent(event_type, data, event_id=self._around.new_id()))
        self._news.set()

    async def _send(self) -> None:
        """Append batch after batch; returns only when stopping and nothing is left."""
        while True:
            self._news.clear()
            while batch := self._outbox.batch():
                await self._append(batch)
            if self._stopping.is_set():
                return
            await self._news.wait()

    async def _append(self, batch: Sequence[NewEvent]) -> None:
        try:
            await self._sink.append(self._settings.stream_id, ANY_VERSION, batch)
        except HOPELESS:
            raise
        except ShoalError as error:
            await self._wait_after(error)
        else:
            self._outbox.settle()
            self._succeeded()

    def _succeeded(self) -> None:
        if self._failures:
            self._around.report("the store answers again")
        self._failures = 0

    async def _wait_after(self, error: ShoalError) -> None:
        """Exponential, with jitter so that the agents of a whole site do not return in step."""
        if not self._failures:
            self._around.report(f"the store does not take readings, keeping them meanwhile: {error}")
        longest = min(BACKOFF_MOST_S, BACKOFF_FIRST_S * 2**self._failures)
        self._failures = min(self._failures + 1, 16)
        await self._around.sleep(longest * self._around.random.uniform(0.5, 1.0))
