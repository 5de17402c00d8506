"""Clients that append without a pause while something is done to their boards, and when each was answered."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import msgspec

from shoal.errors import ShoalError
from shoal_host.bench.cluster.ours import writer

if TYPE_CHECKING:
    from shoal.client import RemoteStore

_BETWEEN_S: Final = 0.005
"""So that clients on the same machine leave the boards their cores."""


class Answer(msgspec.Struct, frozen=True):
    """An append that was answered: when it began and when it was known to be stored, by `time.monotonic`."""

    began: float
    ended: float


class Watched:
    """The answers of each client, and the errors that any of them met."""

    def __init__(self, clients: int) -> None:
        self.answers: list[list[Answer]] = [[] for _ in range(clients)]
        self.errors: list[str] = []

    def first_after(self, moment: float) -> float | None:
        """Seconds from then to the first answer to an append that began after it; None if there is none."""
        found = [answer.ended for answers in self.answers for answer in answers if answer.began >= moment]
        return min(found) - moment if found else None

    def longest_silence(self, start: float, end: float) -> float:
        """The longest that any client went without an answer between two moments."""
        return max(silence([answer.ended for answer in answers], start, end) for answers in self.answers)

    def longest_outage(self, start: float, end: float) -> float:
        """The longest that no client at all was answered between two moments."""
        return silence(sorted(answer.ended for answers in self.answers for answer in answers), start, end)

    def answered(self, start: float, end: float) -> int:
        """How many answers came between two moments."""
        return sum(start < answer.ended < end for answers in self.answers for answer in answers)


def silence(moments: Sequence[float], start: float, end: float) -> float:
    """The longest gap between moments in order, and the two ends."""
    inside = [start, *(moment for moment in moments if start < moment < end), end]
    return max(later - earlier for earlier, later in pairwise(inside))


@asynccontextmanager
async def clients(urls: Sequence[str], count: int, prefix: str) -> AsyncIterator[Watched]:
    """`shoal.connect` clients that know all boards, each beginning at another one, until the block ends."""
    import shoal

    watched = Watched(count)
    stop = asyncio.Event()
    async with AsyncExitStack() as stack:
        tasks = []
        for number in range(count):
            turned = [*urls[number % len(urls) :], *urls[: number % len(urls)]]
            store = await stack.enter_async_context(shoal.connect(*turned))
            tasks.append(asyncio.create_task(_append(store, f"{prefix}-{number}", watched, number, stop)))
        try:
            yield watched
            stop.set()
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _append(
    store: RemoteStore, stream_id: str, watched: Watched, number: int, stop: asyncio.Event
) -> None:
    """One event after another; after an error the client goes on with a stream of its own anew."""
    append, turn = writer(store, stream_id), 0
    while not stop.is_set():
        began = time.monotonic()
        try:
            await append()
        except ShoalError as error:
            watched.errors.append(f"{error.code}: {error}")
            turn += 1
            append = writer(store, f"{stream_id}-{turn}")
        else:
            watched.answers[number].append(Answer(began, time.monotonic()))
        await asyncio.sleep(_BETWEEN_S)


async def until(holds: Callable[[], bool], within_s: float) -> bool:
    """Wait until something holds; whether it came in time."""
    end = time.monotonic() + within_s
    while not holds():
        if time.monotonic() > end:
            return False
        await asyncio.sleep(_BETWEEN_S)
    return True
