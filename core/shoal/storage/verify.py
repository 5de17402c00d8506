"""Verification that every byte a reader could be given is the one that was stored.

Recomputes the chain of every stream, the digests of the other rows and what is derived (tags, counts),
and has SQLite check its own structure; finds where, not only that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

import apsw
import msgspec

from shoal.errors import JournalCorrupt, StorageError
from shoal.model.machine import decode_tags
from shoal.storage.chain import GENESIS, link, row_digest, stream_digest
from shoal.storage.database import open_connection
from shoal.storage.engine import CATALOG, STORES_DIGEST
from shoal.storage.files import RealFiles
from shoal.storage.journal import SUFFIX
from shoal.storage.recovery import CURRENT, Lock
from shoal.storage.schema import CATALOG_MIGRATIONS, STORE_MIGRATIONS
from shoal.storage.segment import SegmentError, scan

MAX_PROBLEMS = 1_000
Progress = Callable[[str, int], None]


class Problem(msgspec.Struct, frozen=True):
    """Something that is not as it was stored: where, and what."""

    where: str
    what: str


class Verification(msgspec.Struct):
    """What was looked at, and what was wrong (at most MAX_PROBLEMS are kept)."""

    segments: int = 0
    records: int = 0
    stores: int = 0
    streams: int = 0
    events: int = 0
    snapshots: int = 0
    problems: list[Problem] = msgspec.field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether everything was as stored."""
        return not self.problems

    def add(self, where: str, what: str) -> None:
        """Note a problem."""
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(Problem(where, what))


def verify(data_dir: Path, *, progress: Progress = lambda _what, _count: None) -> Verification:
    """Verify a data directory that no process uses. Raises DataDirLocked, StorageError."""
    current = data_dir / "db" / CURRENT
    if not current.exists():
        raise StorageError(f"{data_dir} holds no store; name the node's data directory")
    lock = Lock(data_dir)
    try:
        found = Verification()
        _verify_journal(data_dir / "journal", found)
        directory = data_dir / "db" / current.read_text().strip()
        for name, created_index in _catalogue(directory / CATALOG, found):
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


def _catalogue(path: Path, found: Verification) -> list[tuple[str, int]]:
    """The stores and the entries that created them, verified."""
    try:
        connection = open_connection(path, cache_bytes=64 * 1024, read_only=True)
        with closing(connection):
            _verify_file(connection, "the catalogue", found, len(CATALOG_MIGRATIONS))
            _verify_part(_verify_meta, connection, "the catalogue", found)
            stores = sorted(
                (str(name), int(index)) for name, index in connection.execute("SELECT * FROM store")
            )
            kept = connection.execute("SELECT value FROM meta WHERE key=?", (STORES_DIGEST,)).fetchone()
            if kept is not None and kept[0] != row_digest(stores):
                found.add("the catalogue", "the stores in it are not those that were made")
            return stores
    except (apsw.CorruptError, apsw.NotADBError, ValueError) as error:  # a number that is none any more
        found.add(str(path), f"it cannot be read: {error}")
        return []


def verify_file(
    path: Path,
    name: str,
    found: Verification,
    *,
    progress: Progress = lambda _what, _count: None,
    vfs: str | None = None,
) -> None:
    """Verify one store's file on a connection of its own, adding to `found`."""
    try:
        connection = open_connection(path, cache_bytes=8 * 1024 * 1024, vfs=vfs, read_only=True)
    except (apsw.CorruptError, apsw.NotADBError) as error:
        found.add(str(path), f"SQLite cannot read it: {error}")
        return
    try:
        verify_store(connection, name, found, progress=progress)
    except (apsw.CorruptError, apsw.NotADBError) as error:
        found.add(str(path), f"SQLite cannot read it: {error}")
    finally:
        connection.close()


def _verify_journal(directory: Path, found: Verification) -> None:
    files = RealFiles()
    names = [name for name in files.names(directory) if name.endswith(SUFFIX)]
    for name in names:
        path = directory / name
        found.segments += 1
        try:
            read = scan(files.read(path), last=name == names[-1])
        except (SegmentError, JournalCorrupt) as error:
            found.add(str(path), str(error))
            continue
        found.records += len(read.records)
        if read.corrupt_at is not None:
            found.add(f"{path}, byte {read.corrupt_at}", "a record that was durable does not verify")


def verify_store(
    connection: apsw.Connection,
    name: str,
    found: Verification,
    *,
    progress: Progress = lambda _what, _count: None,
) -> None:
    """Verify one store's database from one snapshot of it, adding to `found`."""
    found.stores += 1
    connection.execute("BEGIN")
    try:
        where = f"store {name}"
        _verify_file(connection, where, found, len(STORE_MIGRATIONS))
        _verify_part(_verify_meta, connection, where, found)
        for part in (_verify_streams, _verify_snapshots, _verify_counts, _verify_positions):
            _verify_part(part, connection, where, found)
        _verify_part(partial(_verify_events, progress=progress), connection, where, found)
    finally:
        connection.execute("ROLLBACK")


def _verify_file(connection: apsw.Connection, where: str, found: Verification, schema: int) -> None:
    for (line,) in connection.execute("PRAGMA integrity_check(100)"):
        if line != "ok":
            found.add(where, f"SQLite: {line}")
    for (version,) in connection.execute("PRAGMA user_version"):
        if version > schema:
            found.add(where, f"its schema is {version}, this release knows {schema}")


def _verify_part(
    part: Callable[[apsw.Connection, str, Verification], None],
    connection: apsw.Connection,
    where: str,
    found: Verification,
) -> None:
    """Run a part; what is so damaged that it is not even a text, a number or a list ends the part as a problem."""
    try:
        part(connection, where, found)
    except (UnicodeDecodeError, msgspec.MsgspecError, TypeError) as error:
        found.add(where, f"a stored value is not of its kind: {error}")


def _verify_events(
    connection: apsw.Connection, where: str, found: Verification, *, progress: Progress
) -> None:
    stream: str | None = None
    previous, expected = GENESIS, 0
    rows = connection.execute(
        "SELECT s.name, e.version, e.position, e.event_id, t.name, e.epoch_us, e.data, e.content_type, "
        "e.metadata, e.metadata_type, e.tags, e.own_id, e.reading_us, e.chain, s.tombstoned, "
        "(SELECT json_group_array(g.name) FROM tagged x JOIN tag g ON g.id = x.tag WHERE x.position = e.position) "
        "FROM event e LEFT JOIN stream s ON s.id = e.stream LEFT JOIN type t ON t.id = e.type "
        "ORDER BY e.stream, e.version"
    )
    for row in rows:
        if row[14]:
            continue  # a tombstoned stream's rows wait to be removed; nobody can read them
        if row[0] != stream:
            stream, previous, expected = row[0], GENESIS, 0
        place = f"{where}, stream {row[0]!r}, version {row[1]}"
        if row[1] != expected:
            found.add(place, f"version {expected} is missing before it")
        reading = row[5] if row[12] is None else row[12]
        if link(previous, row[:11], bool(row[11]), reading) != row[13]:
            found.add(place, "the event is not what was stored")
        if Counter(decode_tags(row[15].encode())) != Counter(set(_tags_of(row[10]))):
            found.add(place, "the tag index does not agree with the event")
        previous, expected = row[13], row[1] + 1
        found.events += 1
        if found.events % 10_000 == 0:
            progress("events", found.events)


def _tags_of(raw: bytes | None) -> list[str]:
    try:
        return [] if raw is None else decode_tags(raw)
    except msgspec.MsgspecError:
        return []  # the chain has told


def _verify_streams(connection: apsw.Connection, where: str, found: Verification) -> None:
    rows = connection.execute(
        "SELECT name, version, visible_from, tombstoned, chain, digest, "
        "(SELECT chain FROM event e WHERE e.stream = s.id AND e.version = s.version) FROM stream s"
    )
    for name, version, visible_from, tombstoned, chain, digest, last in rows:
        found.streams += 1
        place = f"{where}, stream {name!r}"
        if stream_digest(name, version, visible_from, tombstoned, chain) != digest:
            found.add(place, "the stream's head is not what was stored")
        if not tombstoned and version >= 0 and last != chain:
            found.add(place, f"its last event, version {version}, is missing or changed")


def _verify_snapshots(connection: apsw.Connection, where: str, found: Verification) -> None:
    for *fields, digest in connection.execute("SELECT * FROM snapshot"):
        found.snapshots += 1
        if row_digest(tuple(fields)) != digest:
            found.add(f"{where}, snapshot of {fields[0]!r} at {fields[1]}", "it is not what was stored")


def _verify_counts(connection: apsw.Connection, where: str, found: Verification) -> None:
    for table, counted in (
        ("type", "SELECT count(*) FROM event e WHERE e.type = n.id"),
        ("tag", "SELECT count(*) FROM tagged x WHERE x.tag = n.id"),
    ):
        for name, kept, real in connection.execute(f"SELECT name, events, ({counted}) FROM {table} n"):  # noqa: S608
            if kept != real:
                found.add(f"{where}, {table} {name!r}", f"{real} events carry it, {kept} were counted")


def _verify_meta(connection: apsw.Connection, where: str, found: Verification) -> None:
    meta = dict(connection.execute("SELECT key, value FROM meta"))
    digest = meta.pop("digest", None)
    if meta and digest != row_digest(sorted(meta.items())):
        found.add(where, "the table of what was applied is not what was stored")


def _verify_positions(connection: apsw.Connection, where: str, found: Verification) -> None:
    head = dict(connection.execute("SELECT key, value FROM meta")).get("position", 0)
    (last, removable) = connection.execute(
        "SELECT coalesce(max(position), 0), (SELECT count(*) FROM stream WHERE tombstoned) FROM event"
    ).fetchone() or (0, 0)
    if last > head or (last < head and not removable):
        found.add(where, f"the last event is at position {last}, the head says {head}")
    if removable:
        return  # the removed events' positions are gone with them
    gap = connection.execute(
        "SELECT position FROM event e WHERE position > 1 AND NOT EXISTS "
        "(SELECT 1 FROM event p WHERE p.position = e.position - 1) LIMIT 1"
    ).fetchone()
    if gap is not None:
        found.add(f"{where}, position {gap[0]}", "the position before it is missing")
