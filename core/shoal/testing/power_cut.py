"""`PowerCutDisk`: a directory whose every write, by the journal or by SQLite, goes into one log.

Both sides act on real files, in memory where the machine offers that (`scratch_root`), so a workload
runs at full speed; nothing is really synced. See DESIGN.md for what the model of the disk promises.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from shoal.storage.files import RealFiles
from shoal.testing.power_cut_vfs import RecordingVFS
from shoal.testing.write_log import Recorder, WriteLog


def scratch_root() -> str:
    """Where scratch directories are fastest: memory if there is a writable /dev/shm, else the usual place."""
    shared = "/dev/shm"  # noqa: S108 - only ever the parent of a private directory
    return shared if os.access(shared, os.W_OK) else tempfile.gettempdir()


class RecordingFiles:
    """The `Files` port on real files, recorded. A name is durable only after `sync_dir`, as POSIX has it."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._real = RealFiles()
        self._open: dict[int, int] = {}

    def create(self, path: Path) -> int:
        with self._recorder.lock:
            fd = self._real.create(path)
            self._open[fd] = self._recorder.link(path)
            return fd

    def open(self, path: Path) -> int:
        with self._recorder.lock:
            fd = self._real.open(path)
            self._open[fd] = self._recorder.node(path)
            return fd

    def close(self, fd: int) -> None:
        with self._recorder.lock:
            del self._open[fd]
            self._real.close(fd)

    def close_all(self) -> None:
        """Close what a killed user has left open."""
        for fd in list(self._open):
            self.close(fd)

    def write(self, fd: int, data: bytes, offset: int) -> None:
        with self._recorder.lock:
            self._real.write(fd, data, offset)
            self._recorder.write(self._open[fd], offset, data)

    def allocate(self, fd: int, size: int) -> None:
        """Grow with zeros, as fallocate does, and record the new size."""
        with self._recorder.lock:
            self._real.allocate(fd, size)
            node = self._open[fd]
            self._recorder.resize(node, max(size, self._recorder.size(node)))

    def truncate(self, fd: int, size: int) -> None:
        with self._recorder.lock:
            self._real.truncate(fd, size)
            self._recorder.resize(self._open[fd], size)

    def sync_data(self, fd: int) -> None:
        """Record that this file's writes so far are durable."""
        with self._recorder.lock:
            self._recorder.sync(self._open[fd])

    def sync_dir(self, path: Path) -> None:
        """Record that the names in `path` are durable."""
        with self._recorder.lock:
            self._recorder.sync_dir(path)

    def replace(self, source: Path, target: Path) -> None:
        with self._recorder.lock:
            self._real.replace(source, target)
            self._recorder.rename(source, target)

    def unlink(self, path: Path) -> None:
        with self._recorder.lock:
            self._real.unlink(path)
            if not path.name.endswith("-shm"):
                self._recorder.unlink(path)

    def rmdir(self, path: Path) -> None:
        with self._recorder.lock:
            self._real.rmdir(path)
            self._recorder.unlink(path)

    def mkdir(self, path: Path) -> None:
        """Create and record each missing directory down to `path`."""
        with self._recorder.lock:
            missing = [part for part in (path, *path.parents) if not part.exists()]
            self._real.mkdir(path)
            for part in reversed(missing):
                self._recorder.link(part, directory=True)

    def names(self, path: Path) -> list[str]:
        return self._real.names(path)

    def read(self, path: Path) -> bytes:
        return self._real.read(path)

    def size(self, path: Path) -> int:
        return self._real.size(path)

    def free_bytes(self, path: Path) -> int:
        return self._real.free_bytes(path)


class PowerCutDisk:
    """A recorded directory. What is in `root` already counts as durable.

    Give `files` to the journal and `vfs_name` to `apsw.Connection(path, vfs=...)`; note
    acknowledgements with `mark`; then `images(disk.log, ...)` shows what power cuts would leave.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._recorder = Recorder(root)
        root.mkdir(parents=True, exist_ok=True)
        self._recorder.adopt()
        self.files = RecordingFiles(self._recorder)
        self._vfs = RecordingVFS(self._recorder)

    @property
    def vfs_name(self) -> str:
        """The name under which the recording VFS is registered."""
        return self._vfs.name

    @property
    def log(self) -> WriteLog:
        """Everything done so far, in order."""
        return self._recorder.log

    def mark(self, value: object) -> None:
        """Note `value` in the log, at the present place."""
        with self._recorder.lock:
            self._recorder.mark(value)

    def unrecorded(self) -> list[str]:
        """Files that are not what the log says, so somebody wrote past it. `-shm` never counts."""
        logged = dict(self._recorder.files())
        actual = {
            path: path.read_bytes()
            for path in self.root.rglob("*")
            if path.is_file() and not path.name.endswith("-shm")
        }
        wrong = [path for path in logged.keys() | actual.keys() if logged.get(path) != actual.get(path)]
        return sorted(str(path.relative_to(self.root)) for path in wrong)

    def close(self) -> None:
        """Unregister the VFS; the files and the log stay."""
        self._vfs.unregister()
