"""Room on the disk: the reserve and the spare segment, and that nothing is appended while there is no reserve."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from shoal.errors import DiskFull
from shoal.storage.reserve import Reserve
from shoal.storage.workers import Worker

RETRY_S = 2.0

_log = logging.getLogger(__name__)


class Room:
    """Watches over one node's disk; `refuse` gets why appends are refused from now on, None when they go on.

    Without the reserve SQLite could be the one to meet a full disk, with nothing left to give it.
    """

    def __init__(
        self,
        reserve: Reserve,
        data_dir: Path,
        worker: Worker,
        *,
        wanted_bytes: int,
        refuse: Callable[[DiskFull | None], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        self._reserve = reserve
        self._worker = worker
        self._wanted_bytes = wanted_bytes
        self._refuse = refuse
        self._failed = failed
        self._loop = asyncio.get_running_loop()
        self._closed = False
        self.full: DiskFull | None = None
        """Why appends are refused, None while they are not."""
        self._why = DiskFull(
            f"the disk is full: once {wanted_bytes * 3 // 2:,} bytes are free at {data_dir}, "
            "appends go on by themselves"
        )

    def keep(self) -> None:
        """Set the reserve aside soon; if that cannot be, appends are refused until it can."""
        self._worker.submit(self._hold, self._on_reserve)

    def give(self) -> None:
        """Give the reserve to what frees space, on any thread; appends wait until there is one again."""
        self._reserve.release()
        self._loop.call_soon_threadsafe(self.none)

    def none(self) -> None:
        """There is no room now."""
        if self._closed:
            return
        if self.full is None:
            self.full = self._why
            self._refuse(self.full)
            _log.warning("%s; until then they are refused, reads and deletes go on", self.full)
        self._loop.call_later(RETRY_S, self.keep)

    def close(self) -> None:
        """Try no more."""
        self._closed = True

    def _hold(self) -> bool:
        return self._wanted_bytes == 0 or self._reserve.hold()

    def _on_reserve(self, held: object) -> None:
        if isinstance(held, BaseException):
            self._failed(held)
        elif not held:
            self.none()
        elif self.full is not None:
            self.full = None
            self._refuse(None)
            _log.info("the disk has room again: appends go on")
