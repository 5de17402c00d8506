"""The file operations the journal needs, as a port: every call that can fail or be cut by power.

`RealFiles` is the operating system; `shoal.testing.power_cut` records the same calls beside SQLite's
in one log, drops, tears and reorders what was not synced, and lets tests reopen every image.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Protocol


class Files(Protocol):
    """File calls with their durability made explicit. Paths are absolute; errors are OSError."""

    def create(self, path: Path) -> int:
        """Open a new file for reading and writing; it must not exist. Returns a descriptor."""

    def open(self, path: Path) -> int:
        """Open an existing file for reading and writing."""

    def close(self, fd: int) -> None:
        """Close a descriptor; syncs nothing."""

    def write(self, fd: int, data: bytes, offset: int) -> None:
        """Write all of `data` at `offset`."""

    def allocate(self, fd: int, size: int) -> None:
        """Reserve blocks for the first `size` bytes; new bytes read as zero. ENOSPC if there are none."""

    def truncate(self, fd: int, size: int) -> None:
        """Cut or extend (with zeros) to `size` bytes."""

    def sync_data(self, fd: int) -> None:
        """Make the file's bytes and size durable (fdatasync)."""

    def sync_dir(self, path: Path) -> None:
        """Make the directory's entries durable."""

    def replace(self, source: Path, target: Path) -> None:
        """Atomically rename `source` over `target`."""

    def unlink(self, path: Path) -> None:
        """Remove a file."""

    def rmdir(self, path: Path) -> None:
        """Remove an empty directory."""

    def mkdir(self, path: Path) -> None:
        """Create a directory and its parents; fine when it is there."""

    def names(self, path: Path) -> list[str]:
        """Names in a directory, sorted."""

    def read(self, path: Path) -> bytes:
        """A whole file; what is allocated at its end but was never written may be left out."""

    def size(self, path: Path) -> int:
        """Bytes of a file, allocated ones included."""

    def free_bytes(self, path: Path) -> int:
        """Bytes an unprivileged process may still allocate on the file system of `path`."""


class RealFiles:
    """The operating system."""

    def create(self, path: Path) -> int:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def open(self, path: Path) -> int:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def close(self, fd: int) -> None:
        os.close(fd)

    def write(self, fd: int, data: bytes, offset: int) -> None:
        written = os.pwrite(fd, data, offset)
        while written < len(data):
            written += os.pwrite(fd, memoryview(data)[written:], offset + written)

    def allocate(self, fd: int, size: int) -> None:
        os.posix_fallocate(fd, 0, size)

    def truncate(self, fd: int, size: int) -> None:
        os.ftruncate(fd, size)

    def sync_data(self, fd: int) -> None:
        os.fdatasync(fd)

    def sync_dir(self, path: Path) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def replace(self, source: Path, target: Path) -> None:
        os.replace(source, target)

    def unlink(self, path: Path) -> None:
        os.unlink(path)

    def rmdir(self, path: Path) -> None:
        os.rmdir(path)

    def mkdir(self, path: Path) -> None:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)

    def names(self, path: Path) -> list[str]:
        return sorted(os.listdir(path))

    def read(self, path: Path) -> bytes:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.pread(fd, _written_bytes(fd), 0)
        finally:
            os.close(fd)

    def size(self, path: Path) -> int:
        return os.stat(path).st_size

    def free_bytes(self, path: Path) -> int:
        stat = os.statvfs(path)
        return stat.f_bavail * stat.f_frsize


def _written_bytes(fd: int) -> int:
    """End of the last data in a file: a preallocated journal segment is mostly a hole, which need not be read."""
    end = 0
    while True:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return end
            if error.errno == errno.EINVAL:  # a file system that knows no holes
                return os.fstat(fd).st_size
            raise
        end = os.lseek(fd, start, os.SEEK_HOLE)
