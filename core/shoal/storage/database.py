"""SQLite files through apsw: how they are opened, and the one transaction that is committed lazily.

Only the writer's connection writes and checkpoints: SQLite 3.7.0 to 3.51.2 could lose committed
transactions when two connections do both at once (fixed in 3.51.3), so an affected library is refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import apsw

from shoal.errors import DatabaseCorrupt, StorageError
from shoal.storage.chain import row_digest
from shoal.storage.schema import migrate

_SAFE_FROM = (3, 51, 3)
CACHE_SPILL_OFF = "PRAGMA cache_spill=OFF"


def require_safe_sqlite(version: str = "") -> None:
    """Refuse a SQLite library with the WAL-reset bug. Raises StorageError."""
    version = version or apsw.sqlite_lib_version()
    if tuple(int(part) for part in version.split(".")[:3]) < _SAFE_FROM:
        raise StorageError(f"SQLite {version} can lose committed data; install apsw 3.51.3 or later")


class Database:
    """A SQLite file with a lazily committed transaction: `begin` when something is written, `commit` later.

    `applied_index` and `applied_term` name the last entry whose effects are committed in it; they are
    written in the transaction of those effects. `durable_index` is that of the last commit known to be
    synced. `begins_after` is the last entry that cannot concern the file: a store created by entry 54 needs
    nothing older, even if the power went before its first commit. Used by one thread at a time.
    """

    def __init__(
        self,
        path: Path,
        migrations: tuple[str, ...],
        *,
        cache_bytes: int,
        begins_after: int = 0,
        vfs: str | None = None,
    ) -> None:
        self.path = path
        self._begins_after = begins_after
        self.meta: dict[str, Any] = {}
        self.applied_index = 0
        self.applied_term = 0
        self.durable_index = 0
        self._open = False
        try:
            self.connection = open_connection(path, cache_bytes=cache_bytes, vfs=vfs)
        except (apsw.CorruptError, apsw.NotADBError) as error:
            raise DatabaseCorrupt(f"{path}: {error}") from error
        try:
            migrate(self.connection, migrations, path.name)
            self._load_meta()
        except BaseException as error:
            self.connection.close()
            if isinstance(error, apsw.CorruptError | apsw.NotADBError):
                raise DatabaseCorrupt(f"{path}: {error}") from error
            raise

    def begin(self) -> None:
        """Make sure a transaction is open."""
        if not self._open:
            self.connection.execute("BEGIN IMMEDIATE")
            self._open = True

    def put_meta(self, **values: Any) -> None:
        """Set meta values, in the open transaction."""
        self.connection.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", list(values.items()))
        self.meta.update(values)

    def commit(self, index: int, term: int) -> None:
        """Commit what is open, with the last applied entry in the same transaction."""
        self.begin()
        if index > self.applied_index:
            self.put_meta(applied_index=index, applied_term=term)
            self.applied_index, self.applied_term = index, term
        self.put_meta(digest=self._digest())
        self.connection.execute("COMMIT")
        self._open = False

    def rollback(self) -> None:
        """Drop what is open: the file is as the last commit left it."""
        if self._open:
            if self.connection.in_transaction:  # SQLite ends some failed ones by itself
                self.connection.execute("ROLLBACK")
            self._open = False
        self._load_meta()

    def _load_meta(self) -> None:
        self.meta = dict(self.connection.execute("SELECT key, value FROM meta"))
        if self.meta and self.meta.get("digest") != self._digest():
            raise DatabaseCorrupt(f"{self.path}: the table of what was applied is not what was stored")
        self.applied_index = max(int(self.meta.get("applied_index", 0)), self._begins_after)
        self.applied_term = int(self.meta.get("applied_term", 0))

    def _digest(self) -> bytes:
        return meta_digest(self.meta)

    def wal_checkpoint(self) -> bool:
        """Move the WAL into the file without waiting for readers; true if all of it is there and synced."""
        frames, moved = self.connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        if frames != moved:
            return False
        self.durable_index = self.applied_index
        return True

    def shrink_wal(self) -> None:
        """Wait (briefly) for readers and cut the WAL file to nothing."""
        try:
            self.connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        except apsw.BusyError:
            return  # a reader is still in it: the next round tries again
        self.durable_index = self.applied_index

    def wal_bytes(self) -> int:
        """Size of the WAL file."""
        try:
            return self.path.with_name(self.path.name + "-wal").stat().st_size
        except FileNotFoundError:
            return 0

    def close(self) -> None:
        """Roll back what is open and close."""
        if self.connection.in_transaction:
            self.connection.execute("ROLLBACK")
        self._open = False
        self.connection.close()


def meta_digest(meta: dict[str, Any]) -> bytes:
    """Digest of the table of what was applied, kept in it under `digest`."""
    return row_digest(sorted((key, value) for key, value in meta.items() if key != "digest"))


def open_connection(
    path: Path, *, cache_bytes: int, vfs: str | None = None, read_only: bool = False
) -> apsw.Connection:
    """A connection with this project's settings. `read_only` ones never write nor checkpoint."""
    flags = apsw.SQLITE_OPEN_READONLY if read_only else apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
    connection = apsw.Connection(str(path), flags=flags, vfs=vfs, statementcachesize=64)
    connection.set_busy_timeout(1_000)
    try:
        _set_up(connection, cache_bytes, read_only=read_only)
    except BaseException:
        connection.close()
        raise
    return connection


def _set_up(connection: apsw.Connection, cache_bytes: int, *, read_only: bool) -> None:
    for pragma in (
        f"cache_size=-{max(cache_bytes // 1024, 64)}",
        "mmap_size=0",
        "temp_store=MEMORY",
        "trusted_schema=OFF",
    ):
        connection.execute(f"PRAGMA {pragma}")
    if not read_only:
        for pragma in (
            "journal_mode=WAL",
            "synchronous=NORMAL",
            "wal_autocheckpoint=0",
            "journal_size_limit=0",
        ):
            connection.execute(f"PRAGMA {pragma}")
