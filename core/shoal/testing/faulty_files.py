"""Files on a disk that is slow, stalls, is full or fails, as it is told from outside while the node runs."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from shoal.storage.files import Files, RealFiles

ERRORS: Final = {"ENOSPC": errno.ENOSPC, "EIO": errno.EIO}
CALLS: Final = ("create", "allocate", "write", "sync_data", "sync_dir", "replace")
"""Calls that may be told to fail."""


class DiskFaults(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is wrong with a disk; nothing, as made.

    Each sync takes `sync_delay_ms` longer. The first one after a new `stall` number also hangs for `stall_ms`.
    `fails` gives calls the error they fail with. A `full` disk has no free bytes, and no room for a new file or
    segment: what was allocated before can be written, as on ext4.
    """

    sync_delay_ms: float = 0
    stall: int = 0
    stall_ms: float = 0
    full: bool = False
    fails: dict[str, str] = {}

    def __post_init__(self) -> None:
        """Raises ValueError for a call or an error that is not known."""
        unknown = [name for name in self.fails if name not in CALLS]
        unknown += [name for name in self.fails.values() if name not in ERRORS]
        if unknown:
            raise ValueError(f"{unknown[0]!r} is none of {', '.join((*CALLS, *ERRORS))}")


class FaultyFiles:
    """`Files` over others, with the faults that `faults` tells at each call. See `DiskFaults`."""

    def __init__(
        self,
        faults: Callable[[], DiskFaults],
        files: Files | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._faults = faults
        self._files = files or RealFiles()
        self._sleep = sleep
        self._stalled = 0

    def create(self, path: Path) -> int:
        self._may_fail("create", grows=True)
        return self._files.create(path)

    def open(self, path: Path) -> int:
        return self._files.open(path)

    def close(self, fd: int) -> None:
        self._files.close(fd)

    def write(self, fd: int, data: bytes, offset: int) -> None:
        self._may_fail("write")
        self._files.write(fd, data, offset)

    def allocate(self, fd: int, size: int) -> None:
        self._may_fail("allocate", grows=os.fstat(fd).st_size < size)
        self._files.allocate(fd, size)

    def truncate(self, fd: int, size: int) -> None:
        self._files.truncate(fd, size)

    def sync_data(self, fd: int) -> None:
        self._be_slow()
        self._may_fail("sync_data")
        self._files.sync_data(fd)

    def sync_dir(self, path: Path) -> None:
        self._be_slow()
        self._may_fail("sync_dir")
        self._files.sync_dir(path)

    def replace(self, source: Path, target: Path) -> None:
        self._may_fail("replace")
        self._files.replace(source, target)

    def unlink(self, path: Path) -> None:
        self._files.unlink(path)

    def rmdir(self, path: Path) -> None:
        self._files.rmdir(path)

    def mkdir(self, path: Path) -> None:
        self._files.mkdir(path)

    def names(self, path: Path) -> list[str]:
        return self._files.names(path)

    def read(self, path: Path) -> bytes:
        return self._files.read(path)

    def size(self, path: Path) -> int:
        return self._files.size(path)

    def free_bytes(self, path: Path) -> int:
        return 0 if self._faults().full else self._files.free_bytes(path)

    def _be_slow(self) -> None:
        faults = self._faults()
        if faults.stall != self._stalled:
            self._stalled = faults.stall
            self._sleep(faults.stall_ms / 1000)
        if faults.sync_delay_ms:
            self._sleep(faults.sync_delay_ms / 1000)

    def _may_fail(self, call: str, *, grows: bool = False) -> None:
        faults = self._faults()
        name = "ENOSPC" if grows and faults.full else faults.fails.get(call)
        if name is not None:
            raise OSError(ERRORS[name], f"{os.strerror(ERRORS[name])} (as told to)")


class FaultFile:
    """`DiskFaults` from a JSON file, looked at again at each call; no file means no faults."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int] | None = None
        self._faults = DiskFaults()

    def __call__(self) -> DiskFaults:
        """The faults as the file has them now. Raises msgspec.ValidationError for one that makes no sense."""
        try:
            status = self._path.stat()
        except FileNotFoundError:
            return DiskFaults()
        seen = (status.st_ino, status.st_mtime_ns)
        if seen != self._seen:
            self._faults = msgspec.json.decode(self._path.read_bytes(), type=DiskFaults)
            self._seen = seen
        return self._faults

    def tell(self, faults: DiskFaults) -> None:
        """Write the file anew, in one step."""
        partial = self._path.with_suffix(".new")
        partial.write_bytes(msgspec.json.encode(faults))
        partial.replace(self._path)
