"""The items of a delivery window: events of one subscription that are not settled for good, by position.

It knows nothing of consumers or of commands: shoal.model.turns says whose turn it is, shoal.model.delivery decides.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator
from heapq import heapify, heappop, heappush
from typing import Final

from shoal.model.machine import Row

READY: Final = 0
"""To be delivered now."""
WAITING: Final = 1
"""To be delivered again at its `due_ms`."""
LEASED: Final = 2
"""With a consumer, until its `due_ms`."""
SETTLING: Final = 3
"""Settled here; the command that says so is not decided yet."""

SPARE_DUES: Final = 256
"""Dates that may be out of date, beyond one for each item, before they are looked through."""


class Item:
    """One event: where it is, how it stands, and its row while it has not been delivered.

    `failures` are those that count towards parking, `attempt` numbers its deliveries, `taken` says that there was one
    from this window, `sent` that one has left it. `replay` marks a parked event that is delivered again, `stored` one
    that may be among the parked events all the same, `suspect` one that may have been in flight when the node ended.
    `queued` says that it stands among what comes again, `call` in which call it was leased last. `before` and `after`
    are its neighbours of the same stream, where order is kept.
    """

    __slots__ = (
        "after",
        "attempt",
        "before",
        "call",
        "consumer",
        "due_ms",
        "failures",
        "position",
        "queued",
        "replay",
        "row",
        "sent",
        "state",
        "stored",
        "stream_id",
        "suspect",
        "taken",
        "version",
    )

    def __init__(self, position: int, stream_id: str, version: int, failures: int = 0) -> None:
        self.position = position
        self.stream_id = stream_id
        self.version = version
        self.failures = failures
        self.attempt = failures
        self.row: Row | None = None
        self.state = READY
        self.consumer = ""
        self.due_ms = 0
        self.taken = False
        self.sent = False
        self.replay = False
        self.stored = False
        self.suspect = False
        self.queued = False
        self.call = 0
        self.before: Item | None = None
        self.after: Item | None = None

    def __lt__(self, other: Item) -> bool:
        return self.position < other.position


class Window:
    """Items by position, and what is due when."""

    def __init__(self) -> None:
        self._items: dict[int, Item] = {}
        self._order: deque[int] = deque()
        self._due: list[tuple[int, int]] = []
        self._last: dict[str, Item] = {}

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Item]:
        """All items, by position."""
        return iter(sorted(self._items.values()))

    def get(self, position: int) -> Item | None:
        """The item at a position."""
        return self._items.get(position)

    def find(self, events: Collection[tuple[str, int]]) -> dict[tuple[str, int], Item]:
        """The items of those events, by stream and version, that are here."""
        wanted = set(events)
        keyed = (((item.stream_id, item.version), item) for item in self._items.values())
        return {key: item for key, item in keyed if key in wanted}

    def through(self, position: int) -> Iterator[Item]:
        """The items up to a position, but for replays."""
        for each in self._order:
            if each > position:
                return
            item = self._items.get(each)
            if item is not None:
                yield item

    # -- coming and going ------------------------------------------------------------------------

    def add(self, item: Item, *, chained: bool) -> None:
        """Take an item in; those that are no replays come in position order."""
        self._items[item.position] = item
        if not item.replay:
            self._order.append(item.position)
        if chained:
            self._chain(item)

    def chain_all(self, *, chained: bool) -> None:
        """From now on order is kept within streams, or is not."""
        self._last.clear()
        for item in self:
            item.before = item.after = None
            if chained:
                self._chain(item)

    def _chain(self, item: Item) -> None:
        """Put the item behind those of its stream that come before it: a replay comes before what is not one."""
        after: Item | None = None
        before = self._last.get(item.stream_id)
        while before is not None and before.position > item.position:
            before, after = before.before, before
        item.before, item.after = before, after
        if before is not None:
            before.after = item
        if after is not None:
            after.before = item
        else:
            self._last[item.stream_id] = item

    def remove(self, item: Item) -> None:
        """Forget an item that is settled for good."""
        del self._items[item.position]
        before, after = item.before, item.after
        if before is not None:
            before.after = after
        if after is not None:
            after.before = before
        elif before is not None:
            self._last[item.stream_id] = before
        elif self._last.get(item.stream_id) is item:
            del self._last[item.stream_id]
        item.before = item.after = None

    def first_unsettled(self) -> int | None:
        """Position of the first item that is neither a replay nor settling."""
        return next((item.position for item in self._all_but_replays() if item.state != SETTLING), None)

    def first(self) -> int | None:
        """Position of the first item that is no replay."""
        return next((item.position for item in self._all_but_replays()), None)

    def _all_but_replays(self) -> Iterator[Item]:
        while self._order and self._missing(self._order[0]):
            self._order.popleft()
        return (self._items[position] for position in self._order if not self._missing(position))

    def _missing(self, position: int) -> bool:
        """Whether the item that was at a position is gone; a replay may be there since."""
        item = self._items.get(position)
        return item is None or item.replay

    # -- what is due -----------------------------------------------------------------------------

    def at(self, item: Item, state: int, due_ms: int) -> None:
        """The item waits, or is leased, until `due_ms`."""
        item.state = state
        item.due_ms = due_ms
        heappush(self._due, (due_ms, item.position))
        if len(self._due) > 2 * len(self._items) + SPARE_DUES:
            self._due = [(each.due_ms, each.position) for each in self._items.values() if _is_timed(each)]
            heapify(self._due)

    def overdue(self, now_ms: int) -> list[Item]:
        """Items whose wait or lease has ended, by position."""
        found: dict[int, Item] = {}
        while self._due and self._due[0][0] <= now_ms:
            item = self._due_item(*heappop(self._due))
            if item is not None:
                found[item.position] = item
        return sorted(found.values())

    def next_due_ms(self) -> int | None:
        """When the next wait or lease ends."""
        while self._due:
            if self._due_item(*self._due[0]) is not None:
                return self._due[0][0]
            heappop(self._due)
        return None

    def _due_item(self, due_ms: int, position: int) -> Item | None:
        """The item, if that is still when it is due."""
        item = self._items.get(position)
        return item if item is not None and item.due_ms == due_ms and _is_timed(item) else None


def _is_timed(item: Item) -> bool:
    return item.state in {WAITING, LEASED}
