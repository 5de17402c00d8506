"""The sender's side of a raft_snapshot: the databases as chunks, without a dump and without holding the writer up.

Events never change, so they go by position in short reads while the node works on. What is left is read as of one
entry: `hold`, on the writer's thread right after a commit (`Writer.commit_and`), opens a read transaction on each
database before anything else can be committed. That is what makes several files one state. The writer goes on at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw
import msgspec

from shoal.errors import StorageError, TooBusy
from shoal.raft.log import Configuration
from shoal.storage.chain import row_digest
from shoal.storage.database import open_connection
from shoal.storage.engine import Engine
from shoal.storage.schema import CATALOG_MIGRATIONS, STORE_MIGRATIONS
from shoal.storage.transfer import (
    CATALOG_STORE,
    CHUNK_BYTES,
    FORMAT,
    ChunkWriter,
    End,
    Events,
    Manifest,
    Rows,
    State,
    StoreAt,
    TableDigest,
    TableEnd,
    decode_cursor,
    encode_row,
    other_tables,
    rows_of,
    whole_digest,
)

CACHE_BYTES = 512 * 1024
CAUGHT_UP_EVENTS = 5_000
"""A pass that sent no more than this leaves little enough for the read transactions."""


class Exporter:
    """One transfer to one receiver: `begin`, `events`, `hold`, `rest`, `close`, in that order.

    All but `hold` run on a worker's thread, one call at a time; chunks are pulled. From `hold` on the databases'
    WALs cannot be cut until `rest` is through or `close` is called, so whoever pulls calls `close` when the
    receiver takes nothing for some seconds: it goes on from its cursor.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._connections: dict[Path, apsw.Connection] = {}
        self._sent: dict[tuple[str, int], int] = {}
        self._writer = ChunkWriter()
        self._manifest: Manifest | None = None
        self._state: State | None = None

    def begin(self, cursor: bytes | None) -> Manifest:
        """What will come, given what the receiver has. Raises TransferRefused for a cursor that is none."""
        there = decode_cursor(cursor)
        catalog = self._connection(self._engine.catalog.path)
        meta = dict(catalog.execute("SELECT key, value FROM meta"))
        stores = [self._plan(*found, there) for found in self._stores()]
        self._sent = {store.key: store.after for store in stores}
        identity = self._engine.identity
        configuration, configuration_index = _configuration(meta)
        self._manifest = Manifest(
            FORMAT,
            identity.cluster_id,
            identity.node_id,
            int(meta.get("applied_index", 0)),
            int(meta.get("applied_term", 0)),
            configuration,
            (len(CATALOG_MIGRATIONS), len(STORE_MIGRATIONS)),
            _size(catalog),
            tuple(stores),
            configuration_index,
        )
        return self._manifest

    def events(self) -> Iterator[bytes]:
        """The manifest, then what is committed of the events, in reads of one chunk each."""
        if self._manifest is None:
            raise StorageError("begin the transfer first")
        yield self._writer.write(self._manifest)
        sent = CAUGHT_UP_EVENTS + 1
        while sent > CAUGHT_UP_EVENTS:
            sent = 0
            for store in self._manifest.stores:
                for count, chunk in self._events_of(store):
                    sent += count
                    yield chunk

    def hold(self) -> None:
        """Hold the state just committed for `rest`; on the writer's thread, where nothing is applied meanwhile.

        Raises StorageError when a database was not committed.
        """
        engine = self._engine
        if engine.oldest_committed != engine.applied_index:
            raise StorageError("commit first: the databases are not of one entry")
        stores = tuple(StoreAt(name, index) for name, index in sorted(engine.created.items()))
        for path in (engine.catalog.path, *map(self._file, stores)):
            connection = self._connection(path)
            connection.execute("BEGIN")
            connection.execute("SELECT 1 FROM meta LIMIT 1").fetchall()
        configuration, index = _configuration(engine.catalog.meta)
        self._state = State(engine.applied_index, engine.applied_term, configuration, index, stores)

    def rest(self) -> Iterator[bytes]:
        """What `hold` holds. Raises TooBusy when that keeps a WAL from being cut for too long."""
        state = self._state
        if state is None:
            raise StorageError("hold the state first")
        yield self._writer.write(state)
        ends: list[TableEnd] = []
        for store in state.stores:
            path = self._file(store)
            for _, chunk in self._events_of(store):
                self._look_at_wal(path)
                yield chunk
            yield from self._tables(path, store.name, ends)
            self._release(path)
        yield from self._tables(self._engine.catalog.path, CATALOG_STORE, ends)
        self.close()
        yield self._writer.write(End(whole_digest(state, ends)))

    def close(self) -> None:
        """Let go of everything; a transfer that was not through goes on with another exporter."""
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()

    # -- parts -----------------------------------------------------------------------------------

    def _stores(self) -> list[tuple[str, int]]:
        catalog = self._connection(self._engine.catalog.path)
        return list(catalog.execute("SELECT name, created_index FROM store ORDER BY name"))

    def _plan(self, name: str, created_index: int, there: dict[tuple[str, int], StoreAt]) -> StoreAt:
        """Where to begin: after what the receiver has, unless its last event is not the one that is here.

        One that is here no more was removed with its stream, which says nothing against the others.
        """
        connection = self._connection(self._engine.file_of(name, created_index))
        had = there.get((name, created_index), StoreAt(name, created_index))
        row = connection.execute("SELECT * FROM event WHERE position = ?", (had.after,)).fetchone()
        after = had.after if row is None or row_digest(row) == had.mark else 0
        return StoreAt(name, created_index, after, size_bytes=_size(connection))

    def _events_of(self, store: StoreAt) -> Iterator[tuple[int, bytes]]:
        """Count and chunk, until there are no more committed."""
        connection = self._connection(self._file(store))
        sql = "SELECT * FROM event WHERE position > ? ORDER BY position"
        while True:
            after = self._sent.get(store.key, 0)
            with closing(connection.execute(sql, (after,))) as found:
                last, rows = _packed(found)
            if last is None:
                return
            self._sent[store.key] = int(last[0])
            yield len(rows), self._writer.write(Events(store.name, store.created_index, after, rows))

    def _tables(self, path: Path, store: str, ends: list[TableEnd]) -> Iterator[bytes]:
        connection = self._connection(path)
        for table in other_tables(connection):
            digest = TableDigest()
            found = rows_of(connection, table)
            while True:
                _, rows = _packed(found)
                if not rows:
                    break
                for row in rows:
                    digest.add(bytes(row))
                self._look_at_wal(path)
                yield self._writer.write(Rows(store, table, rows))
            ends.append(TableEnd(store, table, digest.value))
            yield self._writer.write(ends[-1])

    def _look_at_wal(self, path: Path) -> None:
        limit = self._engine.settings.wal_limit_bytes
        wal = path.with_name(path.name + "-wal")
        if wal.exists() and wal.stat().st_size > limit:
            self.close()
            raise TooBusy(
                f"{path.name} has grown by more than {limit:,} bytes while a raft_snapshot of it was read; "
                "the receiver goes on from its cursor"
            )

    def _file(self, store: StoreAt) -> Path:
        return self._engine.file_of(*store.key)

    def _connection(self, path: Path) -> apsw.Connection:
        found = self._connections.get(path)
        if found is None:
            found = self._connections[path] = open_connection(
                path, cache_bytes=CACHE_BYTES, vfs=self._engine.settings.vfs, read_only=True
            )
        return found

    def _release(self, path: Path) -> None:
        self._connections.pop(path).close()


def _packed(found: Iterable[tuple[Any, ...]]) -> tuple[tuple[Any, ...] | None, list[msgspec.Raw]]:
    """Rows for one chunk, encoded, and the last of them."""
    rows: list[msgspec.Raw] = []
    size = 0
    row = None
    for row in found:
        encoded = encode_row(row)
        rows.append(msgspec.Raw(encoded))
        size += len(encoded)
        if size >= CHUNK_BYTES - 512:
            break
    return row, rows


def _configuration(meta: dict[str, Any]) -> tuple[Configuration, int]:
    """As of the last applied entry; nobody where none was applied."""
    stored = meta.get("configuration")
    if stored is None:
        return Configuration(), 0
    return msgspec.msgpack.decode(stored, type=Configuration), int(meta["configuration_index"])


def _size(connection: apsw.Connection) -> int:
    return int(connection.pragma("page_count")) * int(connection.pragma("page_size"))
