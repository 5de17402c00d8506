"""Notices that a node's key, certificate or authorities were replaced on disk, to use them without a restart."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from shoal.cluster.identity import CA_FILE, CERTIFICATE_FILE, KEY_FILE, Identity, load_identity
from shoal.errors import ConfigError

LOOK_S: Final = 10.0

_log: Final = logging.getLogger("shoal.transport")

Stamp = tuple[tuple[int, int, int], ...]


class KeyWatch:
    """Calls `reload` with the identity in `directory` whenever its files have changed and fit together.

    What does not fit together is told once, and what was loaded before stays in use. `run` is a supervised task.
    """

    def __init__(
        self,
        directory: Path,
        reload: Callable[[Identity], None],
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._directory = directory
        self._reload = reload
        self._sleep = sleep
        self._said = ""

    async def run(self) -> None:
        """Look until cancelled. What is there at the start counts as loaded."""
        loaded = await asyncio.to_thread(self._stamp)
        while True:
            await self._sleep(LOOK_S)
            seen = await asyncio.to_thread(self._stamp)
            if seen != loaded and await self._use():
                loaded = seen

    async def _use(self) -> bool:
        """Whether the files are in use now, or need another change to be looked at again."""
        try:
            identity = await asyncio.to_thread(load_identity, self._directory)
            self._reload(identity)
        except ConfigError as error:
            if str(error) != self._said:
                _log.warning("the new key is not used, the one before is: %s", error)
            self._said = str(error)
            return False
        self._said = ""
        _log.info("new key or authorities in use: %s", identity.key_hash.hex()[:12])
        return True

    def _stamp(self) -> Stamp:
        found = []
        for name in (CA_FILE, CERTIFICATE_FILE, KEY_FILE):
            try:
                status = (self._directory / name).stat()
                found.append((status.st_mtime_ns, status.st_size, status.st_ino))
            except OSError:
                found.append((0, 0, 0))
        return tuple(found)
