"""Verification that every byte a reader could be given is the one that was stored.

The journal record by record and segment by segment, the catalogue of stores, each store's rows; finds where,
not only that. What the journal has beyond the databases is no problem: the next start applies it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import apsw

from shoal.errors import JournalCorrupt, StorageError
from shoal.storage.chain import row_digest
from shoal.storage.database import open_connection
from shoal.storage.engine import CATALOG, CHECKED_BYTES, STORES_DIGEST
from shoal.storage.files import RealFiles
from shoal.storage.generation import CURRENT, Places
from shoal.storage.install import pending_install
from shoal.storage.journal import SUFFIX
from shoal.storage.recovery import Lock
from shoal.storage.schema import CATALOG_MIGRATIONS
from shoal.storage.segment import Scan, SegmentError, scan
from shoal.storage.verify_store import StoreVerifier, Verification, check_meta, check_structure

__all__ = ["Verification", "verify", "verify_file"]

Progress = Callable[[str, int], None]
"""Gets what is counted, and how many there were so far; what it raises ends the verification."""

_UNREADABLE = (apsw.CorruptError, apsw.NotADBError, apsw.CantOpenError)


def _nobody(_what: str, _count: int) -> None:
    """Nobody watches."""


def verify(data_dir: Path, *, progress: Progress = _nobody) -> Verification:
    """Verify a data directory that no process uses. Raises DataDirLocked, StorageError."""
    current = data_dir / "db" / CURRENT
    if not current.exists():
        raise StorageError(f"{data_dir} holds no store; name the node's data directory")
    lock = Lock(data_dir)
    try:
        found = Verification()
        install = pending_install(RealFiles(), Places(data_dir))
        name = current.read_text(encoding="utf-8", errors="replace").strip()
        directory = data_dir / "db" / (name if install is None else install.generation)
        stores = _verify_catalogue(directory / CATALOG, found)
        if install is None:
            _verify_journal(data_dir / "journal", _applied(directory, stores), found)
        else:
            found.notes.append(
                "a raft_snapshot was being installed: the next start finishes that, verify it then"
            )
        for name, created_index in stores:
            path = directory / f"{name}-{created_index}.db"
            if path.exists():
                verify_file(path, name, found, progress=progress)
            else:
                found.add(
                    f"store {name}",
                    f"{path.name} is not here; if the store has a data_dir of its own, verify it with the node running",
                )
        return found
    finally:
        lock.close()


def _verify_catalogue(path: Path, found: Verification) -> list[tuple[str, int]]:
    """The stores and the entries that created them, verified."""
    try:
        connection = open_connection(path, cache_bytes=64 * 1024, read_only=True)
        with closing(connection):
            check_structure(connection, "the catalogue", found, len(CATALOG_MIGRATIONS))
            check_meta(connection, "the catalogue", found)
            stores = sorted(
                (str(name), int(index)) for name, index in connection.execute("SELECT * FROM store")
            )
            kept = connection.execute("SELECT value FROM meta WHERE key=?", (STORES_DIGEST,)).fetchone()
            if kept is not None and kept[0] != row_digest(stores):
                found.add("the catalogue", "the stores in it are not those that were made")
            return stores
    except (*_UNREADABLE, ValueError, TypeError) as error:  # a number that is none any more
        found.add(str(path), f"it cannot be read: {error}")
        return []


def _applied(directory: Path, stores: list[tuple[str, int]]) -> list[int]:
    """The last entry each database has, as far as it can be read."""
    applied = []
    for path, begins_after in (
        (directory / CATALOG, 0),
        *((directory / f"{name}-{index}.db", index - 1) for name, index in stores),
    ):
        try:
            with closing(open_connection(path, cache_bytes=64 * 1024, read_only=True)) as connection:
                row = connection.execute("SELECT value FROM meta WHERE key='applied_index'").fetchone()
                applied.append(max(begins_after, int(row[0]) if row else 0))
        except (*_UNREADABLE, apsw.SQLError, ValueError, TypeError):
            continue  # whoever verifies the file tells
    return applied


def verify_file(
    path: Path,
    name: str,
    found: Verification,
    *,
    progress: Progress = _nobody,
    vfs: str | None = None,
    running: bool = False,
) -> None:
    """Verify one store's file on a connection of its own, adding to `found`.

    While a node is `running`, SQLite checks its own pages in small files only: it is one long read, which would
    keep the WAL from being cut.
    """
    try:
        connection = open_connection(path, cache_bytes=8 * 1024 * 1024, vfs=vfs, read_only=True)
    except _UNREADABLE as error:
        found.add(str(path), f"SQLite cannot read it: {error}")
        return
    try:
        structure = not running or path.stat().st_size <= CHECKED_BYTES
        verifier = StoreVerifier(connection, f"store {name}", found, lambda: progress("events", found.events))
        verifier.verify(structure=structure)
    except (*_UNREADABLE, FileNotFoundError) as error:
        found.add(str(path), f"SQLite cannot read it: {error}")
    finally:
        connection.close()


# --- the journal


def _verify_journal(directory: Path, applied: list[int], found: Verification) -> None:
    """Each segment, that each follows the one before, and that together they go with the databases."""
    files = RealFiles()
    names = [name for name in files.names(directory) if name.endswith(SUFFIX)] if directory.exists() else []
    known = len(found.problems)
    before: Scan | None = None
    first_index, last_index = 0, 0
    for name in names:
        path = directory / name
        found.segments += 1
        try:
            read = scan(files.read(path), last=name == names[-1])
        except (SegmentError, JournalCorrupt) as error:
            found.add(str(path), str(error))
            before = None
            continue
        found.records += len(read.records)
        if read.corrupt_at is not None:
            found.add(f"{path}, byte {read.corrupt_at}", "a record that was durable does not verify")
        if before is not None and (before.head.sequence + 1, before.checksum) != (
            read.head.sequence,
            read.head.chain,
        ):
            found.add(str(path), "it does not follow the segment before: one is missing")
        _tell_of_the_end(path, read, found)
        first_index = first_index or read.head.first_index
        last_index = max([read.head.first_index - 1, *(each.index for each in read.records)])
        before = read if read.corrupt_at is None else None
    if len(found.problems) == known:  # else what is missing has been told
        _compare(directory, (first_index, last_index), applied, found)


def _tell_of_the_end(path: Path, read: Scan, found: Verification) -> None:
    missing = read.head.size - path.stat().st_size
    if missing > 0:
        found.add(str(path), f"it is {missing:,} bytes shorter than it was made: something cut it")
    if read.torn:
        found.notes.append(
            f"{path}: its last record, at byte {read.end}, was not written whole; the next start cuts it off"
        )


def _compare(directory: Path, journal: tuple[int, int], applied: list[int], found: Verification) -> None:
    first, last = journal
    newest, oldest = max(applied, default=0), min(applied, default=0)
    if newest > last:
        found.add(
            str(directory), f"it ends at entry {last}, the database has entry {newest}: segments are missing"
        )
    elif first > oldest + 1:
        found.add(
            str(directory), f"it begins at entry {first}, the database ends at {oldest}: segments are missing"
        )
    found.pending = max(0, last - oldest)
