"""Verification of one store's file: chains, digests, tags, counts and positions recomputed from its rows.

It is read in slices, each in a snapshot of its own, so that a long look pins no WAL and can be ended between
two of them. Appends may go on: rows never change, and what comes later is left to the next look.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import apsw
import msgspec

from shoal.accel.hash import xxh3_64
from shoal.model.machine import decode_tags
from shoal.model.subscriptions import SubscriptionState
from shoal.storage.chain import GENESIS, link, row_digest, stream_digest
from shoal.storage.schema import STORE_MIGRATIONS, SUBSCRIPTIONS_SINCE
from shoal.storage.subscriptions_db import PARKED_COLUMNS, SUBSCRIPTION_COLUMNS, state_of

MAX_PROBLEMS = 1_000
SLICE_ROWS = 10_000
_SUMS = (1 << 64) - 1
_STORED_HEAD = "(SELECT value FROM meta WHERE key = 'position')"
_DAMAGED_VALUE = (UnicodeDecodeError, msgspec.MsgspecError, TypeError, ValueError)
"""What a stored value raises that is not even a text, a number or a list."""


class Problem(msgspec.Struct, frozen=True):
    """Something that is not as it was stored: where, and what."""

    where: str
    what: str


class Verification(msgspec.Struct):
    """What was looked at, and what was wrong (at most MAX_PROBLEMS are kept); `pending` entries wait for a start."""

    segments: int = 0
    records: int = 0
    pending: int = 0
    stores: int = 0
    streams: int = 0
    events: int = 0
    snapshots: int = 0
    problems: list[Problem] = msgspec.field(default_factory=list)
    notes: list[str] = msgspec.field(default_factory=list)
    subscriptions: int = 0

    @property
    def ok(self) -> bool:
        """Whether everything was as stored."""
        return not self.problems

    def take_in(self, part: Verification) -> None:
        """Count what was looked at in other stores, with what was wrong there."""
        self.stores += part.stores
        self.streams += part.streams
        self.events += part.events
        self.snapshots += part.snapshots
        self.subscriptions += part.subscriptions
        for problem in part.problems:
            self.add(problem.where, problem.what)

    def add(self, where: str, what: str) -> None:
        """Note a problem."""
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(Problem(where, what))


class StoreVerifier:
    """One look at a store. `pause` is called between slices; what it raises ends the look."""

    def __init__(
        self, connection: apsw.Connection, where: str, found: Verification, pause: Callable[[], None]
    ) -> None:
        self._connection = connection
        self._where = where
        self._found = found
        self._pause = pause
        self._head = 0
        self._tag_sum = 0

    def verify(self, *, structure: bool) -> None:
        """Everything; `structure` has SQLite check its own pages too, which is one long read."""
        found = self._found
        found.stores += 1
        if structure:
            check_structure(self._connection, self._where, found, len(STORE_MIGRATIONS))
        parts = (
            self._meta,
            self._streams,
            self._snapshots,
            self._counts,
            self._positions,
            self._events,
            self._tags,
            self._subscriptions,
            self._parked,
        )
        for part in parts:
            try:
                part()
            except _DAMAGED_VALUE as error:
                found.add(self._where, f"a stored value is not of its kind: {error}")

    @contextmanager
    def _snapshot(self) -> Iterator[Callable[..., Any]]:
        self._pause()
        self._connection.execute("BEGIN")
        try:
            yield self._connection.execute
        finally:
            self._connection.execute("ROLLBACK")

    def _slices(self, sql: str, first: tuple[Any, ...], keys: int) -> Iterator[list[tuple[Any, ...]]]:
        """Rows of `sql` in slices; its first parameters are the last row's first `keys` columns, then a limit."""
        after = first
        while True:
            with self._snapshot() as execute:
                rows = execute(sql, (*after, SLICE_ROWS)).fetchall()
            yield rows
            if len(rows) < SLICE_ROWS:
                return
            after = rows[-1][:keys]

    # -- parts -----------------------------------------------------------------------------------

    def _meta(self) -> None:
        with self._snapshot():
            check_meta(self._connection, self._where, self._found)
            self._head = _head(self._connection)

    def _streams(self) -> None:
        sql = (
            "SELECT s.id, name, version, visible_from, tombstoned, chain, digest, "
            "(SELECT chain FROM event e WHERE e.stream = s.id AND e.version = s.version) "
            "FROM stream s WHERE s.id > ? ORDER BY s.id LIMIT ?"
        )
        for rows in self._slices(sql, (-1,), 1):
            for _, name, version, visible_from, tombstoned, chain, digest, last in rows:
                self._found.streams += 1
                place = f"{self._where}, stream {name!r}"
                if stream_digest(name, version, visible_from, tombstoned, chain) != digest:
                    self._found.add(place, "the stream's head is not what was stored")
                if not tombstoned and version >= 0 and last != chain:
                    self._found.add(place, f"its last event, version {version}, is missing or changed")

    def _snapshots(self) -> None:
        after: tuple[Any, ...] = ("", -1)
        sql = "SELECT * FROM snapshot WHERE (stream, version) > (?, ?) ORDER BY stream, version LIMIT 1"
        while True:
            with self._snapshot() as execute:
                row = execute(sql, after).fetchone()
            if row is None:
                return
            *fields, digest = row
            self._found.snapshots += 1
            if row_digest(tuple(fields)) != digest:
                place = f"{self._where}, snapshot of {fields[0]!r} at {fields[1]}"
                self._found.add(place, "it is not what was stored")
            after = tuple(fields[:2])

    def _counts(self) -> None:
        for table, counted in (
            ("type", "SELECT count(*) FROM event e WHERE e.type = n.id"),
            ("tag", "SELECT count(*) FROM tagged x WHERE x.tag = n.id"),
        ):
            sql = f"SELECT id, name, events, ({counted}) FROM {table} n WHERE id > ? ORDER BY id LIMIT ?"  # noqa: S608
            for rows in self._slices(sql, (-1,), 1):
                for _, name, kept, real in rows:
                    if kept != real:
                        place = f"{self._where}, {table} {name!r}"
                        self._found.add(place, f"{real} events carry it, {kept} were counted")

    def _positions(self) -> None:
        with self._snapshot() as execute:
            head = _head(self._connection)
            (last, removable) = execute(
                "SELECT (SELECT coalesce(max(position), 0) FROM event), "
                "(SELECT count(*) FROM stream WHERE tombstoned)"
            ).fetchone()
        if last > head or (last < head and not removable):
            self._found.add(self._where, f"the last event is at position {last}, the head says {head}")
        if removable:
            return  # the removed events' positions are gone with them
        expected = 0
        sql = "SELECT position FROM event WHERE position > ? ORDER BY position LIMIT ?"
        for rows in self._slices(sql, (0,), 1):
            for (position,) in rows:
                expected += 1
                if position != expected:
                    self._found.add(
                        f"{self._where}, position {position}", "the position before it is missing"
                    )
                    return

    def _events(self) -> None:
        number, previous, expected = -1, GENESIS, 0
        sql = (
            "SELECT e.stream, e.version, s.name, e.position, e.event_id, t.name, e.epoch_us, e.data, "
            "e.content_type, e.metadata, e.metadata_type, e.tags, e.own_id, e.reading_us, e.chain, s.tombstoned "
            "FROM event e LEFT JOIN stream s ON s.id = e.stream LEFT JOIN type t ON t.id = e.type "
            "WHERE (e.stream, e.version) > (?, ?) ORDER BY e.stream, e.version LIMIT ?"
        )
        for rows in self._slices(sql, (-1, -1), 2):
            for stream, version, name, *fields, own_id, reading, chain, tombstoned in rows:
                if tombstoned:
                    continue  # its rows wait to be removed; nobody can read them
                if stream != number:
                    number, previous, expected = stream, GENESIS, 0
                place = f"{self._where}, stream {name!r}, version {version}"
                if version != expected:
                    self._found.add(place, f"version {expected} is missing before it")
                row = (name, version, *fields)
                if link(previous, row, bool(own_id), fields[3] if reading is None else reading) != chain:
                    self._found.add(place, "the event is not what was stored")
                self._sum_tags(fields[0], _tags_of(fields[8]))
                previous, expected = chain, version + 1
                self._found.events += 1

    def _sum_tags(self, position: int, tags: Iterable[str]) -> None:
        if position <= self._head:
            for tag in tags:
                self._tag_sum = self._tag_sum + _pair_hash(tag, position) & _SUMS

    def _tags(self) -> None:
        """The index of tags holds the pairs that the events name: by a sum first, which is right nearly always."""
        total = 0
        sql = (
            "SELECT x.tag, x.position, g.name FROM tagged x LEFT JOIN tag g ON g.id = x.tag "
            "WHERE (x.tag, x.position) > (?, ?) ORDER BY x.tag, x.position LIMIT ?"
        )
        for rows in self._slices(sql, (-1, -1), 2):
            for _, position, name in rows:
                if position <= self._head:
                    total = total + _pair_hash(name, position) & _SUMS
        if total != self._tag_sum:
            self._find_wrong_tags()

    def _find_wrong_tags(self) -> None:
        """Pair by pair, both ways. Rows of tombstoned streams may be half removed, in both places alike."""
        events = "SELECT e.position, e.tags FROM event e WHERE e.position > ? AND e.tags IS NOT NULL ORDER BY 1 LIMIT ?"
        for rows in self._slices(events, (0,), 1):
            with self._snapshot() as execute:
                for position, raw in rows:
                    indexed = "SELECT 1 FROM tagged WHERE position = ? AND tag = (SELECT id FROM tag WHERE name = ?)"
                    here = "SELECT 1 FROM event WHERE position = ?"
                    missing = [
                        tag for tag in _tags_of(raw) if not execute(indexed, (position, tag)).fetchone()
                    ]
                    if missing and execute(here, (position,)).fetchone():
                        self._wrong_tag(position)
        index = (
            "SELECT x.tag, x.position, g.name, e.tags, e.position FROM tagged x LEFT JOIN tag g ON g.id = x.tag "
            "LEFT JOIN event e ON e.position = x.position "
            "WHERE (x.tag, x.position) > (?, ?) ORDER BY x.tag, x.position LIMIT ?"
        )
        for rows in self._slices(index, (-1, -1), 2):
            for _, position, name, raw, there in rows:
                if there is None or name not in _tags_of(raw):
                    self._wrong_tag(position)

    def _wrong_tag(self, position: int) -> None:
        place = f"{self._where}, position {position}"
        self._found.add(place, "the tag index does not agree with the event")

    def _has_subscriptions(self) -> bool:
        """A file of an earlier release, which no node has opened since, has no tables of them."""
        with self._snapshot() as execute:
            (schema,) = execute("PRAGMA user_version").fetchone()
        return int(schema) >= SUBSCRIPTIONS_SINCE

    def _subscriptions(self) -> None:
        if not self._has_subscriptions():
            return
        sql = (  # the second key lets the first slice begin with a name that damage made empty
            f"SELECT name, 0, {SUBSCRIPTION_COLUMNS}, digest, {_STORED_HEAD} FROM subscription "  # noqa: S608 - constants
            "WHERE (name, 0) > (?, ?) ORDER BY name LIMIT ?"
        )
        for rows in self._slices(sql, ("", -1), 2):
            for name, _, *fields, digest, head in rows:
                self._found.subscriptions += 1
                place = f"{self._where}, subscription {name!r}"
                if row_digest(fields) != digest:
                    self._found.add(place, "it is not what was stored")
                else:
                    self._check_settled(place, state_of(fields), head)

    def _check_settled(self, place: str, state: SubscriptionState, head: int) -> None:
        if state.checkpoint > head:
            self._found.add(place, f"its checkpoint is {state.checkpoint}, the head says {head}")
        before = state.checkpoint
        for position in state.settled:
            if not before < position <= head:
                self._found.add(place, f"position {position} cannot be settled after {before}")
            before = position

    def _parked(self) -> None:
        if not self._has_subscriptions():
            return
        sql = (
            f"SELECT {PARKED_COLUMNS}, digest, {_STORED_HEAD}, "  # noqa: S608 - constants
            "EXISTS (SELECT 1 FROM subscription WHERE name = p.subscription) FROM parked p "
            "WHERE (subscription, position) > (?, ?) ORDER BY subscription, position LIMIT ?"
        )
        for rows in self._slices(sql, ("", -1), 2):
            for *fields, digest, head, owned in rows:
                place = f"{self._where}, subscription {fields[0]!r}, parked position {fields[1]}"
                if row_digest(fields) != digest:
                    self._found.add(place, "it is not what was stored")
                if not owned:
                    self._found.add(place, "there is no such subscription")
                if not 0 < fields[1] <= head:
                    self._found.add(place, f"there is no such event: the head says {head}")


def check_structure(connection: apsw.Connection, where: str, found: Verification, schema: int) -> None:
    """What SQLite finds in its own pages, and whether this release knows the schema."""
    for (line,) in connection.execute("PRAGMA integrity_check(100)"):
        if line != "ok":
            found.add(where, f"SQLite: {line}")
    for (version,) in connection.execute("PRAGMA user_version"):
        if version > schema:
            found.add(where, f"its schema is {version}, this release knows {schema}")


def check_meta(connection: apsw.Connection, where: str, found: Verification) -> None:
    """The digest over the table of what was applied."""
    meta = dict(connection.execute("SELECT key, value FROM meta"))
    digest = meta.pop("digest", None)
    if meta and digest != row_digest(sorted(meta.items())):
        found.add(where, "the table of what was applied is not what was stored")


def _head(connection: apsw.Connection) -> int:
    return int(dict(connection.execute("SELECT key, value FROM meta")).get("position", 0))


def _tags_of(raw: bytes | None) -> set[str]:
    try:
        return set() if raw is None else set(decode_tags(raw))
    except msgspec.MsgspecError:
        return set()  # the chain has told


def _pair_hash(tag: str | None, position: int) -> int:
    return xxh3_64(f"{position}\0{tag}".encode("utf-8", "surrogatepass"))
