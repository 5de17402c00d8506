"""Reads of a store's SQLite file: each is an index range, whatever the store's size.

Every function takes a connection and bounds that say which part of the store SQLite answers for; the
rest is the in-memory tail's. Rows come in the field order of `shoal.types.Event`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import apsw

from shoal.model.machine import Head, Row, StoredId, digest_of_row
from shoal.store.pages import take
from shoal.store.ports import Bounds, Hit
from shoal.types import EventFilter, Query, QueryItem, Snapshot, StreamInfo

_FIELDS = (
    "e.version, e.position, e.event_id, t.name, e.epoch_us, e.data, e.content_type, "
    "e.metadata, e.metadata_type, e.tags"
)
_SNAPSHOT = "n.stream, n.version, n.epoch_us, n.data, n.content_type, n.metadata, n.metadata_type"
_READABLE = "e.version >= s.visible_from AND s.tombstoned = 0"
_JOINS = "JOIN stream s ON s.id = e.stream JOIN type t ON t.id = e.type"
_EVERYTHING = f"event e {_JOINS} WHERE 1"
_JOINED_TAGS = 8
FIRST_RANGE = 4_096
"""Positions that `first_match` looks at first."""
SCAN_ROWS = 20_000
"""Rows looked at per page when only a stream pattern selects: `next` moves on past them."""


_Branch = tuple[str, tuple[Any, ...]]


def _order(bounds: Bounds) -> str:
    return "DESC" if bounds.direction == "backward" else "ASC"


def head(connection: apsw.Connection, stream_id: str) -> Head | None:
    """A stream's head as committed."""
    found = connection.execute(
        "SELECT version, visible_from, tombstoned FROM stream WHERE name=?", (stream_id,)
    ).fetchone()
    return None if found is None else Head(found[0], found[1], bool(found[2]))


def stored_ids(
    connection: apsw.Connection, stream_id: str, event_ids: Sequence[bytes | str]
) -> dict[bytes | str, StoredId]:
    """Which of the ids the stream holds, deleted or not."""
    found: dict[bytes | str, StoredId] = {}
    for event_id in event_ids:
        row = connection.execute(
            f"SELECT s.name, {_FIELDS} FROM event e {_JOINS} WHERE e.event_id=? AND s.name=?",  # noqa: S608
            (event_id, stream_id),
        ).fetchone()
        if row is not None:
            found[event_id] = StoredId(row[1], row[2], digest_of_row(row))
    return found


def stream_rows(
    connection: apsw.Connection, stream_id: str, low: int, high: int, bounds: Bounds
) -> list[Row]:
    """Events of one stream with versions `low` to `high`; `bounds` gives order, count and bytes."""
    rows = connection.execute(
        f"SELECT ?, {_FIELDS} FROM event e JOIN type t ON t.id = e.type "  # noqa: S608 - constants
        "WHERE e.stream = (SELECT id FROM stream WHERE name=?) AND e.version BETWEEN ? AND ? "
        f"ORDER BY e.version {_order(bounds)} LIMIT ?",
        (stream_id, stream_id, low, high, bounds.limit),
    )
    return take(rows, bounds.max_bytes)


def version_after(connection: apsw.Connection, stream_id: str, position: int) -> int | None:
    """Version of the stream's first event past a position, or its next one; None for an unknown stream.

    By bisection: versions grow with positions.
    """
    found = connection.execute("SELECT id, version FROM stream WHERE name = ?", (stream_id,)).fetchone()
    if found is None:
        return None
    number, last = found
    low, high = 0, last + 1
    while low < high:
        middle = (low + high) // 2
        row = connection.execute(
            "SELECT version, position FROM event WHERE stream = ? AND version >= ? ORDER BY version LIMIT 1",
            (number, middle),
        ).fetchone()
        if row is None or row[1] > position:
            high = middle
        else:
            low = row[0] + 1
    return low


def event_rows(connection: apsw.Connection, selection: EventFilter, bounds: Bounds) -> tuple[list[Row], bool]:
    """Readable events that match, in position order, and whether all positions in bounds were looked at."""
    if _items(selection) is None:
        return _scan(connection, selection, bounds)
    branches = _all_branches(connection, selection)
    if len(branches) == 1:
        sql, arguments = branches[0]
        rows = connection.execute(*_select(f"s.name, {_FIELDS}", sql, arguments, selection, bounds))
        taken = take(rows, bounds.max_bytes)
        return taken, len(taken) < bounds.limit and _size(taken) <= bounds.max_bytes
    positions: set[int] = set()
    for sql, arguments in branches:
        found = connection.execute(*_select("e.position", sql, arguments, selection, bounds))
        positions.update(position for (position,) in found)
    chosen = sorted(positions, reverse=bounds.direction == "backward")[: bounds.limit]
    rows = connection.execute(
        f"SELECT s.name, {_FIELDS} FROM json_each(?) j JOIN event e ON e.position = j.value {_JOINS} "  # noqa: S608
        "ORDER BY j.key",
        (json.dumps(chosen),),
    )
    taken = take(rows, bounds.max_bytes)
    return taken, len(taken) < bounds.limit and _size(taken) <= bounds.max_bytes


def _size(rows: Sequence[Row]) -> int:
    return sum(len(row[6]) for row in rows)


def _items(selection: EventFilter) -> Sequence[QueryItem] | None:
    """The selection as query items of which any must match, None when every event matches."""
    items: Iterable[QueryItem] = (QueryItem(),) if selection.query is None else selection.query.items
    if selection.types:
        items = [narrowed for item in items if (narrowed := _of_types(item, selection.types))]
    if selection.tags and selection.tags_match == "any":
        items = [QueryItem(item.types, (*item.tags, tag)) for item in items for tag in selection.tags]
    elif selection.tags:
        items = [QueryItem(item.types, (*item.tags, *selection.tags)) for item in items]
    found = list(dict.fromkeys(items))
    return None if any(not item.types and not item.tags for item in found) else found


def _of_types(item: QueryItem, types: tuple[str, ...]) -> QueryItem | None:
    """The item for events of `types` alone; None when it can match none of them."""
    both = tuple(name for name in item.types if name in types) if item.types else types
    return QueryItem(both, item.tags) if both else None


def _all_branches(connection: apsw.Connection, selection: EventFilter) -> list[_Branch]:
    """What `_branches` gives for each item, without repetitions; one over all events when every event matches."""
    items = _items(selection)
    if items is None:
        return [(_EVERYTHING, ())]
    return list(dict.fromkeys(branch for item in items for branch in _branches(connection, item)))


def _branches(connection: apsw.Connection, item: QueryItem) -> list[_Branch]:
    """FROM clauses, each led by one index range: the rarest of the item's tags, or its types."""
    types = _numbers(connection, "type", item.types)
    tags = _numbers(connection, "tag", item.tags)
    if len(tags) < len(set(item.tags)) or (item.types and not types):
        return []
    tags.sort(key=lambda numbered: numbered[1])
    if tags and (not types or tags[0][1] <= sum(events for _, events in types)):
        joins, where, arguments = _having_tags("a", [tag for tag, _ in tags[1:]])
        sql = f"tagged a JOIN event e ON e.position = a.position{joins} {_JOINS} WHERE a.tag = ?{where}"
        arguments = (*arguments[:_JOINED_TAGS], tags[0][0], *arguments[_JOINED_TAGS:])
        if types:
            sql += f" AND e.type IN ({_marks(types)})"
            arguments += tuple(number for number, _ in types)
        return [(sql, arguments)]
    joins, where, arguments = _having_tags("e", [tag for tag, _ in tags])
    sql = f"event e INDEXED BY event_by_type{joins} {_JOINS} WHERE e.type = ?{where}"
    return [(sql, (*arguments[:_JOINED_TAGS], number, *arguments[_JOINED_TAGS:])) for number, _ in types]


def _having_tags(driver: str, tags: Sequence[int]) -> tuple[str, str, tuple[int, ...]]:
    """Joins, and a condition after them, for events that carry all of `tags`; arguments in that order.

    The rarest are joined, one look-up each; the rest is counted, because SQLite joins at most 64 tables.
    """
    joined, counted = tags[:_JOINED_TAGS], tags[_JOINED_TAGS:]
    joins = "".join(
        f" JOIN tagged b{i} ON b{i}.tag = ? AND b{i}.position = {driver}.position" for i in range(len(joined))
    )
    where = ""
    if counted:
        where = (
            f" AND (SELECT count(*) FROM tagged c WHERE c.tag IN ({_marks(counted)}) "  # noqa: S608 - constants
            f"AND c.position = {driver}.position) = {len(counted)}"
        )
    return joins, where, (*joined, *counted)


def _marks(values: Sequence[object]) -> str:
    return ",".join("?" * len(values))


def _numbers(connection: apsw.Connection, table: str, names: Sequence[str]) -> list[tuple[int, int]]:
    """(number, events) of each name the store knows."""
    found: list[tuple[int, int]] = []
    for name in dict.fromkeys(names):
        row = connection.execute(f"SELECT id, events FROM {table} WHERE name=?", (name,)).fetchone()  # noqa: S608
        if row is not None:
            found.append((row[0], row[1]))
    return found


def _select(
    columns: str, source: str, arguments: tuple[Any, ...], selection: EventFilter, bounds: Bounds
) -> tuple[str, tuple[Any, ...]]:
    """One statement over a branch, bounded by position and by what may be read."""
    driver = "a.position" if source.startswith("tagged") else "e.position"
    sql = f"SELECT {columns} FROM {source} AND {driver} BETWEEN ? AND ? AND {_READABLE}"  # noqa: S608
    extra: tuple[Any, ...] = (bounds.low, bounds.high)
    if not selection.system:
        sql += " AND substr(s.name, 1, 1) <> '$'"
    if selection.stream_pattern is not None:
        sql += " AND s.name GLOB ?"
        extra += (glob(selection.stream_pattern),)
    return f"{sql} ORDER BY {driver} {_order(bounds)} LIMIT ?", (*arguments, *extra, bounds.limit)


def _scan(connection: apsw.Connection, selection: EventFilter, bounds: Bounds) -> tuple[list[Row], bool]:
    """All events in position order; with a pattern, at most SCAN_ROWS of them per page."""
    complete = True
    if selection.stream_pattern is not None and bounds.high - bounds.low >= SCAN_ROWS:
        complete = False
        if bounds.direction == "backward":
            bounds = bounds._replace(low=bounds.high - SCAN_ROWS + 1)
        else:
            bounds = bounds._replace(high=bounds.low + SCAN_ROWS - 1)
    rows = connection.execute(*_select(f"s.name, {_FIELDS}", _EVERYTHING, (), selection, bounds))
    taken = take(rows, bounds.max_bytes)
    full = len(taken) == bounds.limit or _size(taken) > bounds.max_bytes
    return taken, complete and not full


def scanned_through(bounds: Bounds, rows: Sequence[Row]) -> int:
    """The last position a page that was not complete looked at, in its direction."""
    if len(rows) == bounds.limit or _size(rows) > bounds.max_bytes:
        return rows[-1][2]
    if bounds.direction == "backward":
        return max(bounds.low, bounds.high - SCAN_ROWS + 1)
    return min(bounds.high, bounds.low + SCAN_ROWS - 1)


def first_match(
    connection: apsw.Connection,
    query: Query,
    low: int,
    high: int,
    hidden: Mapping[str, int] = MappingProxyType({}),
) -> Hit | None:
    """The readable event of the lowest position from `low` to `high` that the query matches.

    `hidden` says from which version on a stream can be read, for deletes that are not in the file. It looks at
    ever wider ranges of positions, so that the cost goes by how far away the match is, for each item of the query.
    """
    selection = EventFilter(query=query, system=True)
    (last,) = connection.execute("SELECT max(position) FROM event").fetchone() or (None,)
    high = min(high, last or 0)
    branches = _all_branches(connection, selection)
    width = FIRST_RANGE
    while low <= high:
        bounds = Bounds(low, min(high, low + width - 1), "forward", -1, 0)
        found = _first_in(connection, branches, selection, bounds, hidden)
        if found is not None:
            return found
        low += width
        width *= 8
    return None


def _first_in(
    connection: apsw.Connection,
    branches: Iterable[_Branch],
    selection: EventFilter,
    bounds: Bounds,
    hidden: Mapping[str, int],
) -> Hit | None:
    best: Hit | None = None
    for sql, arguments in branches:
        if bounds.high < bounds.low:
            break
        rows = connection.execute(
            *_select("e.position, s.name, e.version", sql, arguments, selection, bounds)
        )
        best = next((Hit(*row) for row in rows if row[2] >= hidden.get(row[1], 0)), best)
        if best is not None:
            bounds = bounds._replace(high=best.position - 1)  # only an earlier one is of interest now
    return best


def events_of_id(connection: apsw.Connection, event_id: bytes | str, stream_id: str | None) -> list[Row]:
    """Readable events of that id, in any stream or in one."""
    sql = f"SELECT s.name, {_FIELDS} FROM event e {_JOINS} WHERE e.event_id = ? AND {_READABLE}"  # noqa: S608
    arguments: tuple[Any, ...] = (event_id,)
    if stream_id is not None:
        sql += " AND s.name = ?"
        arguments += (stream_id,)
    found: list[Row] = [*connection.execute(f"{sql} LIMIT 100", arguments)]
    return found


def streams(
    connection: apsw.Connection,
    prefix: str,
    pattern: str | None,
    after: str | None,
    count: int,
    system: bool,  # noqa: FBT001 - called through a queue, by position
) -> list[StreamInfo]:
    """Readable streams sorted by id."""
    sql = "SELECT name, version FROM stream WHERE version >= visible_from AND tombstoned = 0"
    arguments: list[Any] = []
    if prefix:
        sql += " AND name >= ? AND name GLOB ?"
        arguments += [prefix, glob_literal(prefix) + "*"]
    if after is not None:
        sql += " AND name > ?"
        arguments.append(after)
    if pattern is not None:
        sql += " AND name GLOB ?"
        arguments.append(glob(pattern))
    if not system and not prefix.startswith("$"):
        sql += " AND substr(name, 1, 1) <> '$'"
    rows = connection.execute(f"{sql} ORDER BY name LIMIT ?", (*arguments, count))
    return [StreamInfo(name, version) for name, version in rows]


def snapshots(
    connection: apsw.Connection,
    stream_id: str,
    version: int | None,
    latest: bool,  # noqa: FBT001 - called through a queue, by position
) -> list[Snapshot]:
    """Snapshots of this life of a stream, ascending: all, the one of a version, or the latest up to it."""
    found = head(connection, stream_id)
    if found is not None and not found.live:
        return []
    sql = f"SELECT {_SNAPSHOT} FROM snapshot n WHERE stream = ? AND version >= ?"  # noqa: S608 - constants
    arguments: list[Any] = [stream_id, 0 if found is None else found.visible_from]
    if version is not None:
        sql += " AND version <= ?" if latest else " AND version = ?"
        arguments.append(version)
    sql += " ORDER BY version DESC LIMIT 1" if latest else " ORDER BY version"
    return [Snapshot(*row) for row in connection.execute(sql, arguments)]


def covering_snapshot(connection: apsw.Connection, stream_id: str, last: int) -> Snapshot | None:
    """The latest snapshot of at most version `last` that was saved when the event of its version was there.

    An event is later than all snapshots saved before it (`model.machine`).
    """
    found = head(connection, stream_id)
    if found is None or not found.live:
        return None
    row = connection.execute(
        f"SELECT {_SNAPSHOT} FROM snapshot n WHERE n.stream = ? AND n.version BETWEEN ? AND ? "  # noqa: S608 - constants
        "AND NOT EXISTS (SELECT 1 FROM event e WHERE e.stream = (SELECT id FROM stream WHERE name = ?) "
        "AND e.version = n.version AND e.epoch_us > n.epoch_us) ORDER BY n.version DESC LIMIT 1",
        (stream_id, found.visible_from, min(last, found.version), stream_id),
    ).fetchone()
    return None if row is None else Snapshot(*row)


def parked_rows(
    connection: apsw.Connection, name: str, after: int, count: int, max_bytes: int
) -> list[tuple[Row, str, int, bool]]:
    """What a subscription has parked after a position: readable events, why, after how many failures, if replaying."""
    rows = connection.execute(
        f"SELECT s.name, {_FIELDS}, p.reason, p.attempts, p.replaying "  # noqa: S608 - constants
        f"FROM parked p JOIN event e ON e.position = p.position {_JOINS} "
        f"WHERE p.subscription = ? AND p.position > ? AND {_READABLE} ORDER BY p.position LIMIT ?",
        (name, after, count),
    )
    taken: list[tuple[Any, ...]] = [*take(rows, max_bytes)]
    return [(row[:-3], row[-3], row[-2], bool(row[-1])) for row in taken]


def parked_positions(connection: apsw.Connection, name: str, after: int, count: int) -> list[int]:
    """Positions after `after` that a subscription has parked and that are not being replayed, ascending."""
    rows = connection.execute(
        "SELECT position FROM parked WHERE subscription = ? AND position > ? AND NOT replaying "
        "ORDER BY position LIMIT ?",
        (name, after, count),
    )
    return [position for (position,) in rows]


def replaying(connection: apsw.Connection, name: str, after: int, count: int) -> list[tuple[int, str, int]]:
    """(position, stream, failures) of what a subscription has parked after `after` and that is being replayed."""
    rows: list[tuple[int, str, int]] = [
        *connection.execute(
            "SELECT position, stream, attempts FROM parked INDEXED BY parked_replaying "
            "WHERE subscription = ? AND position > ? AND replaying ORDER BY position LIMIT ?",
            (name, after, count),
        )
    ]
    return rows


def parked_count(connection: apsw.Connection, name: str) -> int:
    """How many events a subscription has parked."""
    (count,) = connection.execute(
        "SELECT count(*) FROM parked WHERE subscription = ?", (name,)
    ).fetchone() or (0,)
    return int(count)


def parked_streams(connection: apsw.Connection, name: str) -> dict[str, int]:
    """How many events of each stream a subscription has parked."""
    return Counter(
        stream
        for (stream,) in connection.execute("SELECT stream FROM parked WHERE subscription = ?", (name,))
    )


def events_at(
    connection: apsw.Connection, positions: Iterable[int], max_bytes: int
) -> tuple[list[Row], int | None]:
    """Those of the events at `positions` that can be read, ascending, and the last one looked at (None: all were).

    Beyond `max_bytes` no more are read; at least one is.
    """
    # A cross join keeps the order of the list; SQLite would copy the rows into a table to sort them.
    rows = connection.execute(
        f"SELECT s.name, {_FIELDS} FROM json_each(?) j CROSS JOIN event e ON e.position = j.value {_JOINS} "  # noqa: S608 - constants
        f"WHERE {_READABLE}",
        (json.dumps(sorted(positions)),),
    )
    found = take(rows, max_bytes)
    return found, found[-1][2] if _size(found) > max_bytes else None


def glob_literal(text: str) -> str:
    """Text as a GLOB pattern that matches only itself."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in text)


def glob(pattern: str) -> str:
    """Our wildcards (`*`, `?`) as GLOB, in which `[` is special too."""
    return pattern.replace("[", "[[]")
