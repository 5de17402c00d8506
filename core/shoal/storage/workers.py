"""Threads with a queue, as a port: a job runs off the loop, its callback on it.

`InlineWorker` (shoal.testing) runs jobs at once, so that a test can replay a whole node in one thread.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, TypeVar

from shoal.futures import settle

T = TypeVar("T")
Job = Callable[[], Any]
Done = Callable[[Any], None]


class Submits(Protocol):
    """Takes jobs to run off the loop; `done` gets the result, or the exception, on the loop."""

    def submit(self, job: Job, done: Done) -> None: ...


class Worker(Protocol):
    """Runs jobs one after another (or, with several threads, in any order)."""

    def submit(self, job: Job, done: Done | None = None) -> None:
        """Run `job` off the loop; `done` gets its result, or the exception it raised, on the loop."""

    def close(self) -> None:
        """Run what is queued, then stop. Blocks until the threads have ended."""


class ThreadWorker:
    """A worker of `threads` threads, each started when it is first needed."""

    def __init__(self, name: str, loop: asyncio.AbstractEventLoop, *, threads: int = 1) -> None:
        self._name = name
        self._loop = loop
        self._limit = threads
        self._threads: list[threading.Thread] = []
        self._idle = 0
        self._queue: queue.SimpleQueue[tuple[Job, Done | None] | None] = queue.SimpleQueue()

    def submit(self, job: Job, done: Done | None = None) -> None:
        """See Worker. A job without `done` must not raise: it has nobody to tell."""
        self._queue.put((job, done))
        if len(self._threads) < self._limit and self._queue.qsize() > self._idle:
            thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            self._threads.append(thread)
            thread.start()

    def _work(self) -> None:
        while True:
            self._idle += 1
            item = self._queue.get()
            self._idle -= 1
            if item is None:
                return
            job, done = item
            try:
                result = job()
            except BaseException as error:  # noqa: BLE001 - handed to whoever waits
                result = error
            if done is not None:
                self._call_back(done, result)
            del item, job, done, result

    def _call_back(self, done: Done, result: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(done, result)
        except RuntimeError:  # the loop is closed: nobody waits any more
            return

    def close(self) -> None:
        """See Worker."""
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()
        self._threads.clear()


async def run_job(worker: Submits, job: Callable[[], T]) -> T:
    """Run a job on a worker and wait for it."""
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    worker.submit(job, partial(settle, future))
    outcome: Any = await future
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome  # type: ignore[no-any-return]  # what the job returned
