"""Simulated threads: a job runs in one piece when its thread is free, and ends as much later as its disk took."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from typing import Final

from shoal.storage.workers import Done, Job
from shoal.testing.sim_loop import Life, SimLoop

JOB_S_MAX: Final = 0.0003
"""What a job takes beside its disk, at most."""


class SimWorker:
    """A worker of `threads` threads. `written` is how much of the disk's log there is.

    `running` has, for each job under way, from where to where it wrote the log: a power cut leaves some of that.
    """

    def __init__(
        self, loop: SimLoop, life: Life, rng: random.Random, *, threads: int, written: Callable[[], int]
    ) -> None:
        self._loop = loop
        self._life = life
        self._rng = rng
        self._free = threads
        self._written = written
        self._queue: deque[tuple[Job, Done | None]] = deque()
        self._number = 0
        self.running: dict[int, tuple[int, int]] = {}

    def submit(self, job: Job, done: Done | None = None) -> None:
        """See shoal.storage.workers.Worker."""
        self._queue.append((job, done))
        self._start()

    def _start(self) -> None:
        while self._queue and self._free:
            self._free -= 1
            job, done = self._queue.popleft()
            self._loop.call_soon(self._run, job, done, context=self._life.context)

    def _run(self, job: Job, done: Done | None) -> None:
        began, self._loop.spent_s = self._written(), self._rng.random() * JOB_S_MAX
        outcome = _outcome(job, must_work=done is None)
        taken_s, self._loop.spent_s = self._loop.spent_s, 0.0
        self._number += 1
        self.running[self._number] = (began, self._written())
        self._loop.call_later(taken_s, self._end, self._number, done, outcome, context=self._life.context)

    def _end(self, number: int, done: Done | None, outcome: object) -> None:
        del self.running[number]
        self._free += 1
        if done is not None:
            done(outcome)
        self._start()

    def close(self) -> None:
        """Run what is queued; their callbacks come in a later turn."""
        while self._queue:
            job, done = self._queue.popleft()
            outcome = _outcome(job, must_work=done is None)
            if done is not None:
                self._loop.call_soon(done, outcome, context=self._life.context)


def _outcome(job: Job, *, must_work: bool) -> object:
    try:
        return job()
    except BaseException as error:
        if must_work:
            raise
        return error
