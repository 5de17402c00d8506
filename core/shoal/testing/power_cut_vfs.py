"""An apsw VFS that does what the unix VFS does and records it in the journal's log.

What SQLite makes durable beyond the bytes of a file follows its unix VFS: the first sync of a newly
made journal or WAL syncs the directory too (`UNIXFILE_DIRSYNC` in os_unix.c), and so does a deletion
that asks for it. The database file's own name gets durable along with those. The wal-index (`-shm`)
is no file to recover from and is not recorded; neither are nameless temporary files.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import apsw

from shoal.testing.write_log import Recorder

_names = itertools.count(1)
_DIRECTORY_SYNCED_WITH = apsw.SQLITE_OPEN_WAL | apsw.SQLITE_OPEN_MAIN_JOURNAL | apsw.SQLITE_OPEN_SUPER_JOURNAL


class RecordingVFS(apsw.VFS):
    """Registered under a name of its own; unregistered when the last reference goes."""

    def __init__(self, recorder: Recorder) -> None:
        self.name = f"shoal-power-cut-{next(_names)}"
        self._recorder = recorder
        super().__init__(self.name, "")

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:  # noqa: N802
        """Open through the default VFS, and record a new file."""
        if name is None:
            return apsw.VFSFile("", name, flags)
        path = Path(name if isinstance(name, str) else name.filename())
        with self._recorder.lock:
            created = not path.exists()
            opened = RecordingFile(self._recorder, name, flags)
            node = self._recorder.link(path) if created else self._recorder.node(path)
            syncs_directory = created and bool(flags[0] & _DIRECTORY_SYNCED_WITH)
            opened.bind(node, path.parent if syncs_directory else None)
            return opened

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802, FBT001
        """Delete and, where SQLite asks for it, sync the directory."""
        path = Path(filename)
        with self._recorder.lock:
            super().xDelete(filename, syncdir)
            self._recorder.unlink(path)
            if syncdir:
                self._recorder.sync_dir(path.parent)

    def xSleep(self, microseconds: int) -> int:  # noqa: N802
        """Waiting for another connection's lock takes no time: in one thread nobody would give it up."""
        return microseconds


class RecordingFile(apsw.VFSFile):
    """An open database, journal or WAL."""

    def __init__(self, recorder: Recorder, name: str | apsw.URIFilename, flags: list[int]) -> None:
        self._recorder = recorder
        super().__init__("", name, flags)

    def bind(self, node: int, directory: Path | None) -> None:
        """Say which node this is, and which directory its first sync makes durable too."""
        self._node = node
        self._directory = directory

    def xLock(self, level: int) -> None:  # noqa: N802
        """As the default VFS. A reader that is the last to close cannot lock, which SQLite takes, and apsw raises."""
        try:
            super().xLock(level)
        except apsw.IOError as error:
            raise apsw.BusyError(str(error)) from error

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        """Write and record."""
        with self._recorder.lock:
            super().xWrite(data, offset)
            self._recorder.write(self._node, offset, bytes(data))

    def xTruncate(self, newsize: int) -> None:  # noqa: N802
        """Truncate and record."""
        with self._recorder.lock:
            super().xTruncate(newsize)
            self._recorder.resize(self._node, newsize)

    def xSync(self, flags: int) -> None:  # noqa: ARG002, N802 - data-only syncs the size as well
        """Record what is durable from here on; the scratch file needs no sync."""
        with self._recorder.lock:
            self._recorder.sync(self._node)
            if self._directory is not None:
                self._recorder.sync_dir(self._directory)
                self._directory = None

    def xFileControl(self, op: int, ptr: int) -> bool:  # noqa: N802
        """As the default VFS, but no preallocation on a hint: that would change the size unrecorded."""
        if op == apsw.SQLITE_FCNTL_SIZE_HINT:
            return True
        return super().xFileControl(op, ptr)
