"""A worker without threads: a whole node in one, so that the same inputs always write the same log."""

from __future__ import annotations

import asyncio

from shoal.storage.workers import Done, Job


class InlineWorker:
    """Runs each job when it is submitted; its callback comes in a later turn of the loop, as with threads."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def submit(self, job: Job, done: Done | None = None) -> None:
        """See shoal.storage.workers.Worker. Without `done` an error rises here, where a test sees it."""
        try:
            result = job()
        except BaseException as error:
            if done is None:
                raise
            result = error
        if done is not None:
            self._loop.call_soon(done, result)

    def close(self) -> None:
        """Nothing is queued."""
