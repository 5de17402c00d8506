"""The writer's side of storage: catalogue, one database per store, lazy commits, recovery, truncation.

Everything in `Engine` runs on the writer thread, or alone while the node opens. The order that makes it
safe: an entry is in the journal before it is applied here; a segment of the journal goes only after a
`wal_checkpoint` has synced the commits that cover it.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import apsw
import msgspec

from shoal.errors import DatabaseCorrupt, DiskFull, ShoalError, StorageError
from shoal.model.commands import CodecError, CreateStore, DropStore, Proposal, decode
from shoal.model.machine import Change, Head, StoredId, StoreState, decide
from shoal.model.subscriptions import SubscriptionState
from shoal.raft.log import Kind
from shoal.storage import queries
from shoal.storage.chain import row_digest
from shoal.storage.database import Database
from shoal.storage.files import Files
from shoal.storage.schema import CATALOG_MIGRATIONS
from shoal.storage.segment import Identity, Record
from shoal.storage.store_db import StoreDb
from shoal.store.ports import ApplyEntry, Need, ReadSet, StoreChanges
from shoal.types import MAX_VERSION, Query

CATALOG = "catalog.db"
STORES_DIGEST = "stores_digest"
"""Key in the catalogue's meta table of the digest over its stores."""
CHECKPOINT_BYTES = 16 * 1024 * 1024
CHECKED_BYTES = 16 * 1024 * 1024


class Settings(msgspec.Struct, frozen=True):
    """When the open transaction is committed, and what SQLite may hold."""

    commit_rows: int
    commit_bytes: int
    cache_bytes: int
    wal_limit_bytes: int
    vfs: str | None = None


class Report(msgspec.Struct, frozen=True):
    """What a commit reached: entries up to `index`, positions per store, and what the journal may drop."""

    index: int
    positions: dict[str, int]
    durable_index: int


class _Dropped(NamedTuple):
    """The file of a dropped store, and up to where it is durable."""

    path: Path
    durable_index: int


class Engine:
    """The databases of a node. `report` is called (on this thread) after each commit."""

    def __init__(
        self,
        directory: Path,
        settings: Settings,
        identity: Identity,
        store_directory: Callable[[str], Path],
        files: Files,
    ) -> None:
        self.directory = directory
        self._files = files
        self._closed = False
        self.settings = settings
        self.identity = identity
        self._store_directory = store_directory
        self.catalog = Database(
            directory / CATALOG, CATALOG_MIGRATIONS, cache_bytes=64 * 1024, vfs=settings.vfs
        )
        self.stores: dict[str, StoreDb] = {}
        self._dropped: list[_Dropped] = []
        self.notes: list[str] = []
        """What opening found and mends, as sentences for the operator."""
        try:
            self._check_identity(self.catalog)
            self.created = self._read_created()
            if self.catalog.meta.get(STORES_DIGEST, self._stores_digest()) != self._stores_digest():
                raise DatabaseCorrupt(f"{self.catalog.path}: the stores in it are not those that were made")
            for name in self.created:
                if not self.path_of(name).exists():
                    self.notes.append(f"{self.path_of(name)} was missing; it is made again from the journal")
                self.stores[name] = self._open_store(name)
        except BaseException:
            self.close()
            raise
        self.applied_index = self.oldest_applied
        self.applied_term = self.catalog.applied_term
        self.rows_pending = 0
        self.bytes_pending = 0
        self.commits = 0

    def _read_created(self) -> dict[str, int]:
        return dict(self.catalog.connection.execute("SELECT name, created_index FROM store"))

    def _stores_digest(self) -> bytes:
        return row_digest(sorted(self.created.items()))

    def _check_identity(self, database: Database) -> None:
        mine = (self.identity.cluster_id, self.identity.incarnation.hex())
        meta = database.meta
        found = (meta.get("cluster_id", mine[0]), meta.get("incarnation", mine[1]))
        if found != mine:
            raise StorageError(
                f"{database.path}: the database belongs to another journal; "
                "a data directory must be copied or restored as a whole"
            )

    def _open_store(self, name: str) -> StoreDb:
        _make_directory(self._files, self._store_directory(name))
        store = StoreDb(
            self.path_of(name),
            cache_bytes=self.settings.cache_bytes,
            begins_after=self.created[name] - 1,
            vfs=self.settings.vfs,
        )
        try:
            self._check_identity(store.db)
        except BaseException:
            store.close()
            raise
        return store

    def path_of(self, name: str) -> Path:
        """A store's file."""
        return self.file_of(name, self.created[name])

    def file_of(self, name: str, created_index: int) -> Path:
        """The file of a store that entry `created_index` created. Any thread may ask."""
        return self._store_directory(name) / store_file(name, created_index)

    # -- recovery --------------------------------------------------------------------------------

    @property
    def oldest_applied(self) -> int:
        """The entry after which the journal must be replayed."""
        return min([self.catalog.applied_index, *(store.db.applied_index for store in self.stores.values())])

    @property
    def newest_applied(self) -> int:
        """The last entry any database has committed."""
        return max([self.catalog.applied_index, *(store.db.applied_index for store in self.stores.values())])

    @property
    def oldest_committed(self) -> int:
        """The last entry that every database has committed."""
        return min(database.applied_index for database in self._databases())

    def quick_check(self, *, everything: bool) -> None:
        """Have SQLite look at every page of small files, or of all. Raises DatabaseCorrupt.

        A large file is not read whole at each start: a board must be up again at once.
        """
        for database in self._databases():
            if not everything and database.path.stat().st_size > CHECKED_BYTES:
                continue
            for (line,) in database.connection.execute("PRAGMA quick_check(1)"):
                if line != "ok":
                    raise DatabaseCorrupt(f"{database.path}: {line}")

    def replay(self, records: Iterable[Record]) -> int:
        """Apply entries again that no commit holds, deciding each as it was decided then. Returns how many.

        Raises StorageError where one is missing.
        """
        count = 0
        for record in records:
            if record.index > self.applied_index + 1:
                raise StorageError(
                    f"the journal lacks entry {self.applied_index + 1}; restore the data directory as a whole"
                )
            count += 1
            if record.kind is Kind.NORMAL:
                self._replay_entry(record.index, _decode(record))
            elif record.kind is Kind.CONFIGURATION and record.index > self.catalog.applied_index:
                self.put_configuration(record.index, record.payload)
            self._applied(record.index, record.term)
            if self.rows_pending >= self.settings.commit_rows:
                self.commit()
        return count

    def _replay_entry(self, index: int, proposal: Proposal) -> None:
        for command in proposal.commands:
            if isinstance(command, CreateStore | DropStore):
                if index > self.catalog.applied_index:
                    self._change_catalog(index, command)
                continue
            store = self.stores.get(command.store)
            if store is None or index <= store.db.applied_index:
                continue
            state = store.state
            try:
                decision = decide(state, _SqlView(store), command, proposal.clock_us, proposal.reading_us)
            except ShoalError:
                continue  # it was refused then, too: that is its outcome
            if decision.change is not None:
                self._apply_changes(store, [decision.change], state)

    # -- applying --------------------------------------------------------------------------------

    def apply(self, entries: Sequence[ApplyEntry]) -> None:
        """Put decided entries into the open transaction; what they change in a store goes in together."""
        together: dict[str, StoreChanges] = {}
        for entry in entries:
            if entry.configuration is not None:
                self.put_configuration(entry.index, entry.configuration)
            if entry.catalog:
                self._apply_together(together)
                for command in entry.catalog:
                    self._change_catalog(entry.index, command)
            for part in entry.stores:
                found = together.get(part.store)
                if found is None:
                    together[part.store] = StoreChanges(part.store, [*part.changes], part.state)
                else:
                    found.changes.extend(part.changes)
                    found.state = part.state
        self._apply_together(together)
        self._applied(entries[-1].index, entries[-1].term)

    def _apply_together(self, together: dict[str, StoreChanges]) -> None:
        for part in together.values():
            store = self.stores.get(part.store)
            if store is not None:  # else dropped by the entry that changed it
                self._apply_changes(store, part.changes, part.state)
        together.clear()

    def _apply_changes(self, store: StoreDb, changes: list[Change], state: StoreState) -> None:
        before = store.rows_inserted
        self.bytes_pending += store.apply(changes, state)
        self.rows_pending += max(1, store.rows_inserted - before)

    def _applied(self, index: int, term: int) -> None:
        self.applied_index = index
        self.applied_term = term

    def _change_catalog(self, index: int, command: CreateStore | DropStore) -> None:
        self.catalog.begin()
        name = command.store
        if isinstance(command, CreateStore):
            if name not in self.created:
                self.created[name] = index
                self.catalog.connection.execute("INSERT INTO store VALUES (?, ?)", (name, index))
                self.stores[name] = self._open_store(name)
        elif name in self.created:
            self.catalog.connection.execute("DELETE FROM store WHERE name=?", (name,))
            store = self.stores.pop(name)
            self._dropped.append(_Dropped(self.path_of(name), store.db.durable_index))
            store.close()
            del self.created[name]
        self.catalog.put_meta(**{STORES_DIGEST: self._stores_digest()})
        self.rows_pending += 1

    # -- committing ------------------------------------------------------------------------------

    @property
    def commit_due(self) -> bool:
        """Whether the open transaction has grown to a limit."""
        return (
            self.rows_pending >= self.settings.commit_rows or self.bytes_pending >= self.settings.commit_bytes
        )

    def commit(self) -> Report:
        """Commit every open transaction; move WALs that have grown into their files."""
        self._put_identity()
        for store in self.stores.values():
            if store.reclaiming:
                store.reclaim()
            store.commit(self.applied_index, self.applied_term)
        self.catalog.commit(self.applied_index, self.applied_term)
        self.rows_pending = self.bytes_pending = 0
        self.commits += 1
        self._remove_dropped()
        for database in self._databases():
            if database.wal_bytes() >= CHECKPOINT_BYTES:
                database.wal_checkpoint()
            if database.wal_bytes() >= self.settings.wal_limit_bytes:
                database.shrink_wal()
        return self.report()

    def _remove_dropped(self) -> None:
        """Remove the files of dropped stores, once it is durable that they are: until then a start may need them."""
        if self._dropped and self.catalog.wal_checkpoint():
            for dropped in self._dropped:
                _remove_database(self._files, dropped.path)
            self._dropped.clear()

    def _put_identity(self) -> None:
        for database in self._databases():
            if database.meta.get("incarnation") is None:
                database.begin()
                database.put_meta(
                    cluster_id=self.identity.cluster_id, incarnation=self.identity.incarnation.hex()
                )

    def put_configuration(self, index: int, configuration: bytes) -> None:
        """Remember the configuration as of an applied entry."""
        self.catalog.begin()
        self.catalog.put_meta(configuration=configuration, configuration_index=index)

    def _databases(self) -> list[Database]:
        return [self.catalog, *(store.db for store in self.stores.values())]

    def report(self) -> Report:
        """Where the databases are."""
        return Report(
            self.applied_index,
            {name: store.state.position for name, store in self.stores.items()},
            min([d.durable_index for d in self._databases()] + [d.durable_index for d in self._dropped]),
        )

    def flush(self) -> None:
        """Write what was kept back for the commit, so that reads on the writer's connections see it."""
        for store in self.stores.values():
            store.flush()

    def make_durable(self) -> Report:
        """Commit, and bring everything into the files, so that the journal can be shortened."""
        self.commit()
        for database in self._databases():
            database.wal_checkpoint()
        return self.report()

    def rollback(self) -> None:
        """Back to the last commit everywhere: the caller replays the journal from `oldest_applied`."""
        self.catalog.rollback()
        self.created = self._read_created()
        known = {self.path_of(name) for name in self.created}
        self._dropped = [dropped for dropped in self._dropped if dropped.path not in known]
        for name, store in list(self.stores.items()):
            # Also one that was made in the place of another of its name: that one is back.
            if name not in self.created or store.db.path != self.path_of(name):
                self.stores.pop(name).close()
        for name in self.created:
            if name not in self.stores:
                self.stores[name] = self._open_store(name)
            self.stores[name].rollback()
        self.applied_index = self.oldest_applied
        self.rows_pending = self.bytes_pending = 0

    def fetch(self, needs: Iterable[Need]) -> dict[str, ReadSet]:
        """Read sets from the writer's own connections: uncommitted rows included."""
        return {
            need.store: fetch_one(self.stores[need.store].connection, need)
            for need in needs
            if need.store in self.stores
        }

    def remove_strays(self) -> list[Path]:
        """Remove files of stores that were dropped before the last end. Returns their paths. Only at a start."""
        strays = sorted({*self.directory.glob("*-*.db")} - {self.path_of(name) for name in self.created})
        if not strays or not self.catalog.wal_checkpoint():
            return []
        for path in strays:
            _remove_database(self._files, path)
        return strays

    def close(self) -> None:
        """Close all files; open transactions are rolled back, the journal has what was in them. Safe to call twice."""
        if not self._closed:
            self._closed = True
            for store in self.stores.values():
                store.close()
            self.catalog.close()


def _remove_database(files: Files, path: Path) -> None:
    for each in (path.with_name(path.name + suffix) for suffix in ("", "-wal", "-shm")):
        with suppress(FileNotFoundError):  # SQLite removes what is beside a file with its last connection
            files.unlink(each)


def store_file(name: str, created_index: int) -> str:
    """Name of a store's file; the number of the entry that created it keeps a dropped store's file apart."""
    return f"{name}-{created_index}.db"


def _decode(record: Record) -> Proposal:
    try:
        return decode(record.payload)
    except CodecError as error:
        raise StorageError(
            f"entry {record.index} of the journal: {error}. Install the release that wrote it again"
        ) from error


def _make_directory(files: Files, path: Path) -> None:
    """Make a directory and its parents; their names are durable, as are then those of the files in it."""
    if not path.exists():
        _make_directory(files, path.parent)
        files.mkdir(path)
        files.sync_dir(path.parent)


class _SqlView:
    """A store as of the entry before, straight from the writer's connection.

    That writes what was kept back, so it is asked for only where SQL is: settling needs none.
    """

    def __init__(self, store: StoreDb) -> None:
        self._store = store

    def head(self, stream_id: str) -> Head | None:
        return queries.head(self._store.connection, stream_id)

    def stored_id(self, stream_id: str, event_id: bytes | str) -> StoredId | None:
        return queries.stored_ids(self._store.connection, stream_id, [event_id]).get(event_id)

    def first_match(self, query: Query, after: int) -> int | None:
        hit = queries.first_match(self._store.connection, query, after + 1, MAX_VERSION)
        return None if hit is None else hit.position

    def subscription(self, name: str) -> SubscriptionState | None:
        return self._store.subscription(name)


def fetch_one(connection: apsw.Connection, need: Need) -> ReadSet:
    """One store's read set from one connection, in one snapshot of the file."""
    found = ReadSet()
    for stream_id in need.heads:
        found.heads[stream_id] = queries.head(connection, stream_id)
    for stream_id, event_ids in need.ids.items():
        for event_id, stored in queries.stored_ids(connection, stream_id, event_ids).items():
            found.ids[stream_id, event_id] = stored
    return found


def is_disk_full(error: BaseException) -> bool:
    """Whether the file system had no room."""
    if isinstance(error, apsw.IOError):  # of the index beside the WAL, which SQLite reports in its own way
        return getattr(error, "extendedresult", 0) == apsw.SQLITE_IOERR_SHMSIZE
    return isinstance(error, apsw.FullError | DiskFull) or (
        isinstance(error, OSError) and error.errno == errno.ENOSPC
    )


def open_engine(
    directory: Path,
    settings: Settings,
    identity: Identity,
    store_directory: Callable[[str], Path],
    files: Files,
) -> Engine:
    """Open the databases. Raises DatabaseCorrupt when SQLite finds one damaged."""
    try:
        return Engine(directory, settings, identity, store_directory, files)
    except (apsw.CorruptError, apsw.NotADBError) as error:
        raise DatabaseCorrupt(f"{directory}: {error}") from error
