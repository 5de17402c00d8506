"""What a node takes from outside, so that tests can give it something else."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Protocol

from shoal.clock import Clock, SystemClock
from shoal.storage.files import Files, RealFiles
from shoal.storage.workers import ThreadWorker, Worker


class Workers(Protocol):
    """Makes the threads a node runs on; tests give one that runs everything in place."""

    def __call__(self, name: str, threads: int) -> Worker:
        """A worker of that many threads."""


class Means:
    """What a node takes from outside: clock, files, threads, randomness. The defaults are the real ones."""

    def __init__(
        self,
        *,
        clock: Clock | None = None,
        files: Files | None = None,
        workers: Workers | None = None,
        entropy: Callable[[int], bytes] = os.urandom,
        vfs: str | None = None,
    ) -> None:
        self.clock = clock or SystemClock()
        self.files = files or RealFiles()
        self.workers = workers or _threads
        self.entropy = entropy
        self.vfs = vfs


def _threads(name: str, threads: int) -> Worker:
    return ThreadWorker(f"shoal-{name}", asyncio.get_running_loop(), threads=threads)
