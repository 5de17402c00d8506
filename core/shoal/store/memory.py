"""What a store holds in memory: heads of streams, and the tail of events not committed to SQLite yet.

The tail is what makes lazy commits invisible: a read takes positions up to `base` from SQLite and the
rest from here, whatever the writer thread has got to. Nothing is taken from the tail while an entry is
undecided, because its read set may have been fetched from an older snapshot of the file.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Protocol

from shoal.model.machine import (
    Change,
    Head,
    Row,
    RowsAppended,
    StoredId,
    StoreState,
    StreamDeleted,
    decode_tags,
    digest_of_row,
)
from shoal.model.query import compile_filter
from shoal.model.subscriptions import (
    SubscriptionChange,
    SubscriptionChanged,
    SubscriptionDeleted,
    SubscriptionState,
)
from shoal.types import EventFilter, Query

HEADS_CACHED = 10_000
_NEVER = 2**63 - 1


def _hidden(row: Row, head: Head | None) -> bool:
    return head is not None and (head.tombstoned or row[1] < head.visible_from)


def _all_of(rows: list[Row]) -> list[Row]:
    return rows


class Feed(Protocol):
    """Who is told what is decided, on the loop, before the callers are answered."""

    def appended(self, rows: list[Row]) -> None:
        """An entry's rows were appended; what else it did has been told before."""

    def deleted(self, stream_id: str) -> None:
        """A stream was deleted."""

    def changed(self, change: SubscriptionChange) -> None:
        """A subscription was changed or deleted."""


class _StreamTail:
    """One stream's rows in the tail, and their ids once somebody asked for one."""

    __slots__ = ("ids", "rows")

    def __init__(self) -> None:
        self.rows: deque[Row] = deque()
        self.ids: dict[bytes | str, Row] | None = None


class StoreMemory:
    """Memory of one store. `base` is the last position that SQLite answers for, `since` the entry that made it."""

    def __init__(
        self, state: StoreState, since: int = 0, subscriptions: dict[str, SubscriptionState] | None = None
    ) -> None:
        self.state = state
        self.subscriptions: dict[str, SubscriptionState] = subscriptions or {}
        self.feed: Feed | None = None
        self._untold: list[Row] = []
        self.since = since
        self.base = state.position
        self.bytes = 0
        self.events_appended = 0
        self.bytes_appended = 0
        self._rows: deque[Row] = deque()
        self._streams: dict[str, _StreamTail] = {}
        self._heads: dict[str, Head | None] = {}
        self.times_trimmed = 0
        self._deletes: deque[tuple[int, str]] = deque()
        self._deleted: dict[str, int] = {}
        self.deletes = 0
        """Deletes decided since the start."""

    # -- heads -----------------------------------------------------------------------------------

    def knows(self, stream_id: str) -> bool:
        """Whether the stream's head is known without asking SQLite."""
        return stream_id in self._heads

    def head(self, stream_id: str) -> Head | None:
        """The head of a stream that is known. Raises KeyError otherwise."""
        return self._heads[stream_id]

    def learn(self, stream_id: str, head: Head | None) -> None:
        """Keep a head fetched from SQLite. Only the sequencer may: its fetches cannot be overtaken."""
        self._heads.setdefault(stream_id, head)

    def learn_from_read(self, stream_id: str, head: Head | None, times_trimmed: int) -> None:
        """Keep a head that a read fetched, given `times_trimmed` of before it began, if half of the room is free.

        What changed meanwhile is known, and stays; had it been forgotten again, what the read found may be older.
        """
        if times_trimmed == self.times_trimmed and len(self._heads) < HEADS_CACHED // 2:
            self._heads.setdefault(stream_id, head)

    def trim(self) -> None:
        """Forget heads that SQLite can give again. Only while no entry is under way."""
        if len(self._heads) > HEADS_CACHED:
            self.times_trimmed += 1
            self._heads = {
                name: known
                for name, known in self._heads.items()
                if name in self._streams or name in self._deleted
            }

    # -- the tail --------------------------------------------------------------------------------

    def apply(self, index: int, change: Change) -> None:
        """Take in an accepted change of entry `index`."""
        if isinstance(change, RowsAppended):
            self._append(change)
        elif isinstance(change, StreamDeleted):
            self.deletes += 1
            self._heads[change.stream_id] = change.head
            self._deletes.append((index, change.stream_id))
            self._deleted[change.stream_id] = self._deleted.get(change.stream_id, 0) + 1
            if self.feed is not None:
                self.feed.deleted(change.stream_id)
        elif isinstance(change, SubscriptionChanged | SubscriptionDeleted):
            self._change_subscription(change)

    def tell(self) -> None:
        """Tell the feed of the rows of an entry at once: one by one it would cost each append twice as much."""
        if self._untold and self.feed is not None:
            rows, self._untold = self._untold, []
            self.feed.appended(rows)

    def _change_subscription(self, change: SubscriptionChange) -> None:
        if isinstance(change, SubscriptionChanged):
            self.subscriptions[change.state.name] = change.state
        else:
            del self.subscriptions[change.name]
        if self.feed is not None:
            self.feed.changed(change)

    def writes_to(self, stream_id: str) -> bool:
        """Whether an append to the stream is in the tail: its id has been checked then."""
        return stream_id in self._streams

    def _append(self, change: RowsAppended) -> None:
        self._heads.update(change.heads)
        self._rows.extend(change.rows)
        self.events_appended += len(change.rows)
        streams = self._streams
        for row in change.rows:
            size = len(row[6])
            self.bytes += size
            self.bytes_appended += size
            tail = streams.get(row[0])
            if tail is None:
                tail = streams[row[0]] = _StreamTail()
            tail.rows.append(row)
            if tail.ids is not None:
                tail.ids[row[3]] = row
        if self.feed is not None:
            self._untold.extend(change.rows)

    def forget(self, index: int, position: int) -> None:
        """Leave to SQLite what it has committed: entries up to `index`, positions up to `position`."""
        rows = self._rows
        while rows and rows[0][2] <= position:
            row = rows.popleft()
            self.bytes -= len(row[6])
            tail = self._streams[row[0]]
            tail.rows.popleft()
            if not tail.rows:
                del self._streams[row[0]]
            elif tail.ids is not None:
                tail.ids.pop(row[3], None)
        while self._deletes and self._deletes[0][0] <= index:
            _, stream_id = self._deletes.popleft()
            self._deleted[stream_id] -= 1
            if not self._deleted[stream_id]:
                del self._deleted[stream_id]
        self.base = max(self.base, position)

    def stored_id(self, stream_id: str, event_id: bytes | str) -> StoredId | None:
        """The event of that id among the stream's rows in the tail."""
        tail = self._streams.get(stream_id)
        if tail is None:
            return None
        if tail.ids is None:
            tail.ids = {row[3]: row for row in tail.rows}
        row = tail.ids.get(event_id)
        return None if row is None else StoredId(row[1], row[2], digest_of_row(row))

    def hides(self, row: Row) -> bool:
        """Whether a delete that SQLite has not committed hides the row."""
        return row[0] in self._deleted and _hidden(row, self._heads[row[0]])

    def readable_now(self) -> Callable[[list[Row]], list[Row]]:
        """Takes rows away that a delete known now hides, also when SQLite has committed it meanwhile."""
        if not self._deleted:
            return _all_of
        heads = {name: self._heads[name] for name in self._deleted}
        return lambda rows: [row for row in rows if row[0] not in heads or not _hidden(row, heads[row[0]])]

    def changed_heads(self) -> dict[str, Head]:
        """Heads of the streams whose last append or delete SQLite has not committed."""
        heads = {name: self._heads[name] for name in (*self._streams, *self._deleted)}
        return {name: head for name, head in heads.items() if head is not None}

    def hidden(self) -> dict[str, int]:
        """The first version that can be read, of streams whose delete SQLite has not committed."""
        heads = {name: self._heads[name] for name in self._deleted}
        return {
            name: _NEVER if head.tombstoned else head.visible_from
            for name, head in heads.items()
            if head is not None
        }

    def shows(self, stream_id: str, version: int, deletes: int) -> bool:
        """Whether an event that could be read after the first `deletes` deletes surely still can be."""
        if stream_id not in self._heads:
            return self.deletes == deletes
        head = self._heads[stream_id]
        return head is not None and not head.tombstoned and version >= head.visible_from

    def first_version(self, stream_id: str) -> int | None:
        """Version of the stream's first row in the tail, None when it has none."""
        tail = self._streams.get(stream_id)
        return None if tail is None else tail.rows[0][1]

    def stream_rows(self, stream_id: str, low: int, high: int, count: int, *, backward: bool) -> list[Row]:
        """The stream's rows in the tail with versions `low` to `high`, at most `count`."""
        tail = self._streams.get(stream_id)
        if tail is None:
            return []
        first = tail.rows[0][1]
        start, stop = max(0, low - first), min(len(tail.rows), high - first + 1)
        if stop <= start:
            return []
        if backward:
            skipped = len(tail.rows) - stop
            return list(islice(reversed(tail.rows), skipped, skipped + min(count, stop - start)))
        return list(islice(tail.rows, start, min(stop, start + count)))

    def rows(self, low: int, high: int, *, backward: bool) -> Iterator[Row]:
        """Rows in the tail with positions `low` to `high`; consume before anything else runs."""
        if not self._rows:
            return iter(())
        first = self._rows[0][2]
        start, stop = max(0, low - first), min(len(self._rows), high - first + 1)
        if stop <= start:
            return iter(())
        if backward:
            skipped = len(self._rows) - stop
            return islice(reversed(self._rows), skipped, skipped + stop - start)
        return islice(self._rows, start, stop)

    def matching(
        self, selection: EventFilter, low: int, high: int, count: int, *, backward: bool
    ) -> list[Row]:
        """Readable rows in the tail that the selection matches, at most `count`."""
        matches = compile_filter(selection)
        found: list[Row] = []
        for row in self.rows(low, high, backward=backward):
            tags = () if row[10] is None else decode_tags(row[10])
            if matches(row[0], row[4], tags) and not self.hides(row):
                found.append(row)
                if len(found) == count:
                    break
        return found

    def first_match(self, query: Query, after: int) -> int | None:
        """Lowest position in the tail after `after` that the query matches."""
        selection = EventFilter(query=query, system=True)
        found = self.matching(selection, after + 1, self.state.position, 1, backward=False)
        return found[0][2] if found else None
