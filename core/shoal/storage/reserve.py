"""Blocks kept aside, so that a disk filled by somebody else does not stop what frees space again."""

from __future__ import annotations

import errno
import threading
from pathlib import Path

from shoal.storage.files import Files

NAME = "reserve"


class Reserve:
    """A preallocated file of `size` bytes; releasing it makes room, once. For any thread."""

    def __init__(self, files: Files, data_dir: Path, size: int) -> None:
        self._files = files
        self._directory = data_dir
        self._size = size
        self._lock = threading.Lock()

    @property
    def held(self) -> bool:
        """Whether the blocks are set aside now."""
        return NAME in self._files.names(self._directory)

    def hold(self) -> bool:
        """Set the blocks aside if the disk has half as much room again. Returns whether they are."""
        with self._lock:
            return self._hold()

    def _hold(self) -> bool:
        if self._size == 0 or self.held:
            return self.held
        if self._files.free_bytes(self._directory) < self._size + self._size // 2:
            return False
        fd = self._files.create(self._directory / NAME)
        try:
            self._files.allocate(fd, self._size)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            self._files.unlink(self._directory / NAME)
            return False
        finally:
            self._files.close(fd)
        return True

    def release(self) -> None:
        """Give the blocks back to the file system."""
        with self._lock:
            if self.held:
                self._files.unlink(self._directory / NAME)
