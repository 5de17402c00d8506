"""A database that a raft_snapshot fills: rows in, then made whole and verified. Nobody else has it open."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import apsw

from shoal.model.machine import decode_tags
from shoal.storage.chain import row_digest
from shoal.storage.database import meta_digest, open_connection
from shoal.storage.engine import CHECKPOINT_BYTES
from shoal.storage.schema import migrate
from shoal.storage.transfer import columns, digest_of, other_tables, refused
from shoal.storage.verify_store import StoreVerifier, Verification, check_meta

CACHE_BYTES = 8 * 1024 * 1024
SLICE_ROWS = 10_000


class Incoming:
    """One file. What is not committed is lost with the process, and what was not begun by `begin` is not wanted."""

    def __init__(self, path: Path, migrations: tuple[str, ...], *, vfs: str | None) -> None:
        self.path = path
        self.connection = open_connection(path, cache_bytes=CACHE_BYTES, vfs=vfs)
        try:
            if self.schema < len(migrations):
                migrate(self.connection, migrations, path.name)
            self.tables = other_tables(self.connection)
        except BaseException:
            self.connection.close()
            raise
        self._columns = {table: columns(self.connection, table) for table in (*self.tables, "event")}

    @property
    def schema(self) -> int:
        """Migrations that the file has."""
        return int(self.connection.pragma("user_version"))

    @property
    def applied(self) -> tuple[int, int]:
        """Index and term of the entry that it is as of."""
        meta = self._meta()
        return int(meta.get("applied_index", 0)), int(meta.get("applied_term", 0))

    def clear(self) -> None:
        """Have no rows but those of events."""
        self._begin()
        for table in self.tables:
            self.connection.execute(f'DELETE FROM "{table}"')  # noqa: S608 - names of our own schema

    def insert(self, table: str, rows: Sequence[Any]) -> None:
        """Put rows in. Raises TransferRefused for those that do not fit."""
        if table not in self.tables:
            raise refused(f"there is no table {table!r} to be filled")
        self._check(table, rows)
        self._insert(table, rows)

    def _check(self, table: str, rows: Sequence[Any]) -> None:
        width = self._columns[table]
        if any(not isinstance(row, list | tuple) or len(row) != width for row in rows):
            raise refused(f"a row of table {table!r} has not the columns it must have")

    def _insert(self, table: str, rows: Sequence[Any]) -> None:
        self._begin()
        marks = ",".join("?" * self._columns[table])
        sql = f'INSERT INTO "{table}" VALUES ({marks})'  # noqa: S608 - names of our own schema
        with self.connection:  # all of them or none
            self.connection.executemany(sql, rows)

    def digest_of(self, table: str) -> bytes:
        """Digest of a table's rows as they lie here. Raises TransferRefused for a table that is none."""
        if table not in self.tables:
            raise refused(f"there is no table {table!r} to be filled")
        return digest_of(self.connection, table)

    def put_identity(self, cluster_id: str, incarnation: bytes) -> None:
        """Say whose file it is, which its sender does not."""
        self._begin()
        own = {"cluster_id": cluster_id, "incarnation": incarnation.hex()}
        digest = meta_digest({**self._meta(), **own})
        self.connection.executemany(
            "INSERT OR REPLACE INTO meta VALUES (?, ?)", [*own.items(), ("digest", digest)]
        )
        self.commit()

    def _meta(self) -> dict[str, Any]:
        return dict(self.connection.execute("SELECT key, value FROM meta"))

    def verify(self, found: Verification) -> None:
        """Look at every row, adding to `found`."""
        check_meta(self.connection, self.path.name, found)

    def _begin(self) -> None:
        if not self.connection.in_transaction:
            self.connection.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        """Commit what is open; move a WAL that has grown into the file."""
        if self.connection.in_transaction:
            self.connection.execute("COMMIT")
        wal = self.path.with_name(self.path.name + "-wal")
        if wal.exists() and wal.stat().st_size >= CHECKPOINT_BYTES:
            self.connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)

    def rollback(self) -> None:
        """Forget what is open."""
        if self.connection.in_transaction:
            self.connection.execute("ROLLBACK")

    def settle(self) -> None:
        """Commit and bring all of it into the file, synced."""
        self.commit()
        self.connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)

    def close(self) -> None:
        """Close the file; what is open is rolled back."""
        self.rollback()
        self.connection.close()


class IncomingCatalog(Incoming):
    """The catalogue. While it is built it names the stores whose files have been begun."""

    def stores(self) -> list[tuple[str, int]]:
        """Names and creating entries of the stores, sorted."""
        return sorted(
            (str(name), int(index))
            for name, index in self.connection.execute("SELECT name, created_index FROM store")
        )

    def add_store(self, name: str, created_index: int) -> None:
        """A store's file is begun."""
        self._begin()
        self.connection.execute("INSERT OR REPLACE INTO store VALUES (?, ?)", (name, created_index))
        self.settle()

    def remove_store(self, name: str, created_index: int) -> None:
        """A store's file is about to go."""
        self._begin()
        self.connection.execute(
            "DELETE FROM store WHERE name = ? AND created_index = ?", (name, created_index)
        )
        self.settle()


class IncomingStore(Incoming):
    """A store's file."""

    def __init__(self, path: Path, migrations: tuple[str, ...], *, vfs: str | None) -> None:
        super().__init__(path, migrations, vfs=vfs)
        self._last = self.last()[0]

    def last(self) -> tuple[int, bytes]:
        """Position and digest of the last event."""
        row = self.connection.execute("SELECT * FROM event ORDER BY position DESC LIMIT 1").fetchone()
        return (0, b"") if row is None else (int(row[0]), row_digest(row))

    def begin_after(self, after: int) -> None:
        """The next event comes after this position: the last one, or 0 to begin anew."""
        self._last = self.last()[0]
        if after == 0 and self._last:
            self._begin()
            self.connection.execute("DELETE FROM event")
            self._last = 0
        self._require(after)

    def append(self, after: int, rows: Sequence[Any]) -> None:
        """Put events in, which come after position `after`. Raises TransferRefused."""
        self._require(after)
        self._check("event", rows)
        for row in rows:
            if row[0] <= after:
                raise refused(f"position {row[0]!r} came after position {after}")
            after = row[0]
        self._insert("event", rows)
        self._last = after

    def _require(self, after: int) -> None:
        if after != self._last:
            raise refused(
                f"{self.path.name} has the events up to {self._last}, those after {after} were sent"
            )

    def derive(self) -> None:
        """Make whole what the other tables say: no rows wait to be removed, tags are indexed, names counted."""
        self._begin()
        execute = self.connection.execute
        execute(
            "DELETE FROM event WHERE stream IN (SELECT id FROM stream WHERE tombstoned) "
            "OR position > coalesce((SELECT value FROM meta WHERE key = 'position'), 0)"
        )
        execute("DELETE FROM reclaim")
        execute("DELETE FROM tagged")
        self._index_tags()
        execute("UPDATE type SET events = (SELECT count(*) FROM event WHERE type = type.id)")
        execute("UPDATE tag SET events = (SELECT count(*) FROM tagged WHERE tag = tag.id)")
        self.commit()

    def verify(self, found: Verification) -> None:
        """See Incoming: chains, digests, tags and counts."""
        StoreVerifier(self.connection, self.path.name, found, lambda: None).verify(structure=False)

    def _index_tags(self) -> None:
        execute = self.connection.execute
        numbers = dict(execute("SELECT name, id FROM tag"))
        sql = "SELECT position, tags FROM event WHERE position > ? AND tags IS NOT NULL ORDER BY position LIMIT ?"
        after = 0
        while True:
            rows: list[Any] = execute(sql, (after, SLICE_ROWS)).fetchall()
            if not rows:
                return
            pairs = [(numbers.get(tag), position) for position, raw in rows for tag in set(decode_tags(raw))]
            self.connection.executemany("INSERT INTO tagged VALUES (?, ?)", pairs)
            after = rows[-1][0]
            self.commit()  # not all in one WAL; cut between two, it is begun anew
            self._begin()
