"""One store's SQLite file: applying decisions in order, and the reads of the writer's own connection.

Everything here runs on the writer thread (or, during recovery, alone). Rows go in by statements of many
rows: apsw gives up the interpreter's lock once per statement and not once per row, which decides
throughput when the event loop is busy on the other core.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain as flatten
from pathlib import Path
from typing import Any

import apsw

from shoal.errors import DatabaseCorrupt
from shoal.model.machine import (
    Change,
    Head,
    Row,
    RowsAppended,
    SnapshotSaved,
    SnapshotsDeleted,
    StoreState,
    StreamDeleted,
    decode_tags,
)
from shoal.model.subscriptions import SubscriptionChanged, SubscriptionDeleted, SubscriptionState
from shoal.storage.chain import GENESIS, link, row_digest, stream_digest
from shoal.storage.database import Database
from shoal.storage.schema import STORE_MIGRATIONS
from shoal.storage.subscriptions_db import SubscriptionsDb

_EVENT_COLUMNS = 14
_BATCHES = (128, 64, 32, 16, 8, 4, 2, 1)
"""Rows per statement: few statements for any count, since each one gives the interpreter's lock up and has to get
it back."""
_ROW = "(" + ",".join("?" * _EVENT_COLUMNS) + ")"
_MANY_EVENTS = {n: f"INSERT INTO event VALUES {','.join([_ROW] * n)}" for n in _BATCHES}  # noqa: S608 - placeholders
_CACHED_NAMES = 20_000
RECLAIM_ROWS = 2_000


class StoreDb:
    """A store's file, open for writing."""

    def __init__(
        self, path: Path, *, cache_bytes: int, begins_after: int = 0, vfs: str | None = None
    ) -> None:
        self.db = Database(
            path, STORE_MIGRATIONS, cache_bytes=cache_bytes, begins_after=begins_after, vfs=vfs
        )
        self._streams: dict[str, tuple[int, bytes]] = {}
        self._types: dict[str, int] = {}
        self._tags: dict[str, int] = {}
        self._moved: dict[str, Head] = {}
        self._type_counts: dict[int, int] = {}
        self._tag_counts: dict[int, int] = {}
        self.rows_inserted = 0
        self.bytes_inserted = 0
        try:
            self.reclaiming = self._one("SELECT count(*) FROM reclaim") > 0
            self._subscriptions = SubscriptionsDb(self.db)
        except BaseException:
            self.db.close()
            raise

    @property
    def state(self) -> StoreState:
        """Last position and event time given, as stored."""
        meta = self.db.meta
        return StoreState(int(meta.get("position", 0)), int(meta.get("epoch_us", 0)))

    def subscription(self, name: str) -> SubscriptionState | None:
        """A subscription as applied, written already or not."""
        return self._subscriptions.states.get(name)

    def subscriptions(self) -> dict[str, SubscriptionState]:
        """All subscriptions as applied, by name."""
        return dict(self._subscriptions.states)

    @property
    def parked_counts(self) -> dict[str, int]:
        """How many events each subscription has parked, as applied (none: not in it). Any thread may look."""
        return self._subscriptions.parked_counts

    # -- applying --------------------------------------------------------------------------------

    def apply(self, changes: Iterable[Change], state: StoreState) -> int:
        """Put changes into the open transaction; `state` is that after them. Returns payload bytes."""
        self.db.begin()
        before = self.bytes_inserted
        appended: list[RowsAppended] = []
        for change in changes:
            if isinstance(change, RowsAppended):
                appended.append(change)  # neighbours go in together: many small appends cost one statement
                continue
            self._append(appended)
            appended = []
            match change:
                case StreamDeleted():
                    self._delete(change)
                case SnapshotSaved():
                    self._save_snapshot(change)
                case SnapshotsDeleted():
                    self._delete_snapshots(change)
                case SubscriptionChanged() | SubscriptionDeleted():
                    self._subscriptions.apply(change)
        self._append(appended)
        self.db.meta["position"] = state.position
        self.db.meta["epoch_us"] = state.epoch_us
        return self.bytes_inserted - before

    def commit(self, index: int, term: int) -> None:
        """Commit what is open; `index` is the last entry applied to any store."""
        self.db.begin()
        self.flush()
        meta = self.db.meta
        self.db.put_meta(position=meta.get("position", 0), epoch_us=meta.get("epoch_us", 0))
        self.db.commit(index, term)

    def flush(self) -> None:
        """Write what was kept back: a busy stream's row, or subscription's, is written once per commit."""
        if self._moved:
            self.db.connection.executemany(
                "UPDATE stream SET version=?, chain=?, digest=? WHERE id=?",
                [self._stream_row(name, head) for name, head in self._moved.items()],
            )
            self._moved.clear()
        for table, counts in (("type", self._type_counts), ("tag", self._tag_counts)):
            if counts:
                self.db.connection.executemany(
                    f"UPDATE {table} SET events=events+? WHERE id=?",  # noqa: S608 - our own table names
                    [(count, number) for number, count in counts.items()],
                )
                counts.clear()
        self._subscriptions.flush()

    def _stream_row(self, name: str, head: Head) -> tuple[int, bytes, bytes, int]:
        number, chain = self._streams[name]
        digest = stream_digest(name, head.version, head.visible_from, head.tombstoned, chain)
        return head.version, chain, digest, number

    @property
    def connection(self) -> apsw.Connection:
        """The writer's connection, for a read that must see everything applied."""
        self.flush()
        return self.db.connection

    def rollback(self) -> None:
        """Drop what is open, and what was remembered of it."""
        self.db.rollback()
        for kept in (
            self._streams,
            self._types,
            self._tags,
            self._moved,
            self._type_counts,
            self._tag_counts,
        ):
            kept.clear()
        self._subscriptions.load()

    def _append(self, changes: list[RowsAppended]) -> None:
        if not changes:
            return
        appended = [row for change in changes for row in change.rows]
        rows = self._with_chain(changes, appended)
        start = 0
        execute = self.db.connection.execute
        for size in _BATCHES:
            sql = _MANY_EVENTS[size]
            while len(rows) - start >= size:
                execute(sql, tuple(flatten.from_iterable(rows[start : start + size])))
                start += size
        self._index_tags(appended)
        self.rows_inserted += len(rows)
        self.bytes_inserted += sum(len(row[6]) for row in appended)

    def _with_chain(self, changes: list[RowsAppended], rows: list[Row]) -> list[tuple[Any, ...]]:
        """The rows of the event table: what was decided, names as numbers, each with its chain value.

        Column by column, because building each row by itself is what the writer's thread would mostly do.
        """
        heads = dict(head for change in changes for head in change.heads)
        known = {stream_id: self._stream(stream_id, head) for stream_id, head in heads.items()}
        numbers = {stream_id: number for stream_id, (number, _) in known.items()}
        chains = {stream_id: chain for stream_id, (_, chain) in known.items()}
        links: list[bytes] = []
        own: list[bool] = []
        readings: list[int | None] = []
        for change in changes:
            reading = change.reading_us
            own += change.own
            for row, own_id in zip(change.rows, change.own):  # noqa: B905 - made together, and `strict` costs
                stream_id = row[0]
                chain = chains[stream_id] = link(chains[stream_id], row, own_id, reading)
                links.append(chain)
                readings.append(None if reading == row[5] else reading)
        names, versions, positions, ids, types, epochs, *payloads, tags = zip(*rows, strict=True)
        kinds = {name: self._type(name) for name in dict.fromkeys(types)}
        for name, count in Counter(types).items():
            self._type_counts[kinds[name]] = self._type_counts.get(kinds[name], 0) + count
        for stream_id, head in heads.items():
            self._streams[stream_id] = (numbers[stream_id], chains[stream_id])
            self._moved[stream_id] = head
        return list(
            zip(
                positions,
                map(numbers.__getitem__, names),
                versions,
                map(kinds.__getitem__, types),
                ids,
                own,
                epochs,
                readings,
                *payloads,
                tags,
                links,
                strict=True,
            )
        )

    def _index_tags(self, rows: Sequence[Row]) -> None:
        pairs: list[tuple[int, int]] = []
        counts = self._tag_counts
        for row in rows:
            if row[10] is not None:
                for name in dict.fromkeys(decode_tags(row[10])):
                    tag = self._tag(name)
                    pairs.append((tag, row[2]))
                    counts[tag] = counts.get(tag, 0) + 1
        if pairs:
            self.db.connection.executemany("INSERT INTO tagged VALUES (?,?)", pairs)

    def _delete(self, change: StreamDeleted) -> None:
        head = change.head
        self.flush()
        number, chain = self._stream(change.stream_id, head)
        digest = stream_digest(change.stream_id, head.version, head.visible_from, head.tombstoned, chain)
        self.db.connection.execute(
            "UPDATE stream SET version=?, visible_from=?, tombstoned=?, digest=? WHERE id=?",
            (head.version, head.visible_from, head.tombstoned, digest, number),
        )
        self.db.connection.execute("DELETE FROM snapshot WHERE stream=?", (change.stream_id,))
        self._subscriptions.forget_stream(change.stream_id)
        if head.tombstoned:
            self.db.connection.execute("INSERT OR IGNORE INTO reclaim VALUES (?)", (number,))
            self.reclaiming = True

    def reclaim(self) -> None:
        """Remove some rows of tombstoned streams: no reader sees them, so any pace will do."""
        found = self.db.connection.execute("SELECT stream FROM reclaim LIMIT 1").fetchone()
        if found is None:
            self.reclaiming = False
            return
        self.db.begin()
        rows = self.db.connection.execute(
            "SELECT position FROM event WHERE stream=? LIMIT ?", (found[0], RECLAIM_ROWS)
        ).fetchall()
        if rows:
            self._remove(rows)
        else:
            self.db.connection.execute("DELETE FROM reclaim WHERE stream=?", found)

    def _remove(self, positions: list[tuple[Any, ...]]) -> None:
        for (position,) in positions:
            kind, tags = self.db.connection.execute(
                "SELECT type, tags FROM event WHERE position=?", (position,)
            ).fetchone() or (0, None)
            for name in dict.fromkeys(decode_tags(tags)) if tags else ():
                tag = self._tag(name)
                self.db.connection.execute("DELETE FROM tagged WHERE tag=? AND position=?", (tag, position))
                self._tag_counts[tag] = self._tag_counts.get(tag, 0) - 1
            self._type_counts[kind] = self._type_counts.get(kind, 0) - 1
        self.db.connection.executemany("DELETE FROM event WHERE position=?", positions)

    def _save_snapshot(self, change: SnapshotSaved) -> None:
        command = change.command
        fields = (
            command.stream_id,
            command.version,
            change.epoch_us,
            command.data,
            command.content_type,
            command.metadata,
            command.metadata_type,
        )
        self.db.connection.execute(
            "INSERT OR REPLACE INTO snapshot VALUES (?,?,?,?,?,?,?,?)", (*fields, row_digest(fields))
        )

    def _delete_snapshots(self, change: SnapshotsDeleted) -> None:
        if change.version is None:
            self.db.connection.execute("DELETE FROM snapshot WHERE stream=?", (change.stream_id,))
        else:
            self.db.connection.execute(
                "DELETE FROM snapshot WHERE stream=? AND version=?", (change.stream_id, change.version)
            )

    # -- names -----------------------------------------------------------------------------------

    def _stream(self, stream_id: str, head: Head) -> tuple[int, bytes]:
        known = self._streams.get(stream_id)
        if known is not None:
            return known
        found = self.db.connection.execute(
            "SELECT id, chain FROM stream WHERE name=?", (stream_id,)
        ).fetchone()
        if found is None:
            digest = stream_digest(stream_id, head.version, head.visible_from, head.tombstoned, GENESIS)
            self.db.connection.execute(
                "INSERT INTO stream (name, version, visible_from, tombstoned, chain, digest) VALUES (?,?,?,?,?,?)",
                (stream_id, head.version, head.visible_from, head.tombstoned, GENESIS, digest),
            )
            found = (self.db.connection.last_insert_rowid(), GENESIS)
        if len(self._streams) >= _CACHED_NAMES:
            self.flush()
            self._streams.clear()
        self._streams[stream_id] = (found[0], found[1])
        return self._streams[stream_id]

    def _type(self, name: str) -> int:
        return self._number(self._types, "type", name)

    def _tag(self, name: str) -> int:
        return self._number(self._tags, "tag", name)

    def _number(self, cache: dict[str, int], table: str, name: str) -> int:
        number = cache.get(name)
        if number is None:
            number = self._one(f"SELECT id FROM {table} WHERE name=?", name)  # noqa: S608 - our own table names
            if number == 0:
                self.db.connection.execute(f"INSERT INTO {table} (name, events) VALUES (?, 0)", (name,))  # noqa: S608
                number = self.db.connection.last_insert_rowid()
            if len(cache) >= _CACHED_NAMES:
                cache.clear()
            cache[name] = number
        return number

    def _one(self, sql: str, *arguments: Any) -> int:
        found = self.db.connection.execute(sql, arguments).fetchone()
        return 0 if found is None else int(found[0])

    def close(self) -> None:
        """Close the file; an open transaction is rolled back."""
        self.db.close()


def is_corrupt(error: BaseException) -> bool:
    """Whether SQLite says that the file itself is damaged."""
    return isinstance(error, apsw.CorruptError | apsw.NotADBError | DatabaseCorrupt)
