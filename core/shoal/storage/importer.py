"""The receiver's side of a raft_snapshot: chunks become the next generation of the databases.

It is built beside the one in use, whose files are not touched. What it holds is where a transfer goes on after a
crash: events are kept, all other tables come again. `finish` puts it in the other's place (shoal.storage.install).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import apsw

from shoal.errors import DiskFull, TransferRefused
from shoal.storage.building import COMMIT_BYTES, Building
from shoal.storage.engine import is_disk_full
from shoal.storage.files import Files
from shoal.storage.generation import Places
from shoal.storage.install import Install, complete, leave_word
from shoal.storage.journal import Journal
from shoal.storage.schema import CATALOG_MIGRATIONS, STORE_MIGRATIONS
from shoal.storage.segment import Identity
from shoal.storage.transfer import (
    CATALOG_STORE,
    FORMAT,
    Body,
    ChunkReader,
    End,
    Events,
    Manifest,
    Rows,
    State,
    TableEnd,
    encode_cursor,
    refused,
    whole_digest,
)
from shoal.storage.verify_store import Verification


class Importer:
    """One receiver's transfer, over any number of connections and lives of the process. One thread at a time.

    `feed` and `finish` raise TransferRefused where the sender must begin again from `cursor`, DiskFull where there
    is no room; the state in use is as it was. After any other error the node must end.
    """

    def __init__(self, files: Files, places: Places, identity: Identity, *, vfs: str | None = None) -> None:
        self._files = files
        self._places = places
        self._identity = identity
        with self._refusing():
            self._building = Building(files, places, vfs=vfs)
        self._reader = ChunkReader()
        self._store_schema = 0
        self._state: State | None = None
        self._ends: list[TableEnd] = []
        self._complete = False
        self._uncommitted_bytes = 0

    @property
    def cursor(self) -> bytes:
        """Where a sender goes on; what it covers is committed. Raises DiskFull."""
        with self._refusing():
            return encode_cursor(self._building.cursor())

    @property
    def complete(self) -> bool:
        """Whether everything has come: time to `finish`."""
        return self._complete

    def close(self) -> None:
        """Stop; what is committed stays for another importer to go on with."""
        self._state, self._complete = None, False
        self._building.close()

    def abandon(self) -> None:
        """Stop, and remove what has come: entries from the leader will do."""
        self.close()
        self._building.abandon()

    # -- taking chunks ---------------------------------------------------------------------------

    def feed(self, chunk: bytes) -> None:
        """Take the next chunk. After an error only the beginning of a transfer is taken."""
        try:
            with self._refusing():
                self._take(self._reader.read(chunk), len(chunk))
        except BaseException:
            self._reader = ChunkReader()
            self._state, self._complete = None, False
            raise

    def _take(self, body: Body, size: int) -> None:
        match body:
            case Manifest():
                self._begin(body)
            case Events():
                self._building.store((body.name, body.created_index)).append(body.after, body.rows)
            case State():
                self._begin_state(body)
            case Rows():
                self._require_state()
                self._building.database(body.store).insert(body.table, body.rows)
            case TableEnd():
                self._end_table(body)
            case End():
                self._end(body)
        self._uncommitted_bytes += size
        if self._uncommitted_bytes >= COMMIT_BYTES:
            self._building.commit_stores()
            self._uncommitted_bytes = 0

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        """Errors of the disk, and of rows that are none, in words that say what to do."""
        try:
            yield
        except (apsw.Error, OSError) as error:
            causes = (error, error.__context__)  # SQLite may have ended the transaction that was to be undone
            if any(cause is not None and is_disk_full(cause) for cause in causes):
                raise self._full() from error
            if isinstance(error, apsw.ConstraintError | apsw.MismatchError):
                raise refused(f"a row does not fit: {error}") from error
            raise
        except (TypeError, ValueError, OverflowError) as error:
            raise refused(f"a row is none: {error}") from error

    def _full(self, needed: str = "") -> DiskFull:
        free = self._files.free_bytes(self._places.root)
        return DiskFull(
            f"the disk has no room for a copy of the leader's databases: {needed or f'{free:,} bytes are free'}; "
            "free some space, then the copying goes on by itself"
        )

    def _begin(self, manifest: Manifest) -> None:
        self._state, self._complete = None, False
        catalog_schema, store_schema = manifest.schemas
        if manifest.format != FORMAT or not (
            0 < catalog_schema <= len(CATALOG_MIGRATIONS) and 0 < store_schema <= len(STORE_MIGRATIONS)
        ):
            raise TransferRefused(
                f"node {manifest.node_id} sends format {manifest.format} with schemas {manifest.schemas}, which this "
                "release does not know: install the release of that node here"
            )
        if manifest.cluster_id != self._identity.cluster_id:
            raise TransferRefused(
                f"node {manifest.node_id} is of cluster {manifest.cluster_id}, this one of "
                f"{self._identity.cluster_id}: correct the addresses of the peers"
            )
        for directory, missing in self._building.missing_bytes(manifest).items():
            free = self._files.free_bytes(directory)
            if free < missing:
                raise self._full(f"{missing:,} bytes are needed at {directory}, {free:,} are free")
        self._store_schema = store_schema
        self._building.begin(manifest)

    def _begin_state(self, state: State) -> None:
        """Everything but events comes anew; stores that were dropped meanwhile go."""
        building = self._building
        keys = [store.key for store in state.stores]
        if len({name for name, _ in keys}) != len(keys):
            raise refused("two stores have the same name")
        for key in [key for key in building.stores if key not in keys]:
            building.remove_store(key)
        for key in keys:
            building.open_store(key, self._store_schema).clear()
        building.catalog.clear()
        self._state, self._ends, self._complete = state, [], False

    def _end_table(self, end: TableEnd) -> None:
        self._require_state()
        if self._building.database(end.store).digest_of(end.table) != end.digest:
            raise refused(f"table {end.table!r} of store {end.store!r} is not what was sent")
        self._ends.append(end)

    def _end(self, end: End) -> None:
        state = self._require_state()
        names = [*(store.name for store in state.stores), CATALOG_STORE]
        wanted = [(name, table) for name in names for table in self._building.database(name).tables]
        told = [(each.store, each.table) for each in self._ends]
        if sorted(told) != sorted(wanted) or end.digest != whole_digest(state, self._ends):
            raise refused("what has come is not all that was to come")
        if self._building.catalog.stores() != sorted(store.key for store in state.stores):
            raise refused("the stores in the catalogue are not those that came")
        self._complete = True

    def _require_state(self) -> State:
        if self._state is None or self._complete:
            raise refused("rows came where none are due")
        return self._state

    # -- the end ---------------------------------------------------------------------------------

    def finish(self, journal: Journal) -> tuple[int, int]:
        """Verify everything, make it durable and put it in the place of what was; index and term of its entry.

        The engine of the generation in use is closed, and what it had not committed is not needed any more. The
        journal begins after that entry from then on, or keeps what follows it. After DiskFull or TransferRefused
        the engine may be opened again as it was.
        """
        state = self._state
        if state is None or not self._complete:
            raise refused("it is not complete")
        if state.index < journal.first_index - 1:
            raise TransferRefused(
                f"the raft_snapshot is of entry {state.index}, and the journal begins at {journal.first_index}: "
                "ask for a newer one"
            )
        if not journal.has_room_to_reset():
            raise self._full()
        building = self._building
        with self._refusing():
            self._verify(state)
            install = Install(
                state.index,
                state.term,
                state.configuration,
                state.configuration_index,
                building.generation,
                building.replaces,
                building.old_stores(),
            )
            building.make_durable()
        self.close()
        leave_word(self._files, self._places, install)
        complete(self._files, self._places, journal, install)
        return state.index, state.term

    def _verify(self, state: State) -> None:
        """The chains in the stream tables cover each event. A copy that is not right is begun anew."""
        found = Verification()
        building = self._building
        for store in building.stores.values():
            store.derive()
        for database in building.databases():
            database.put_identity(self._identity.cluster_id, self._identity.incarnation)
            database.verify(found)
            if database.applied != (state.index, state.term):
                found.add(database.path.name, f"it is as of entry {database.applied[0]}, not {state.index}")
        if not found.ok:
            self.abandon()
            problem = found.problems[0]
            raise refused(f"the copy is not right, and was removed: {problem.where}: {problem.what}")
