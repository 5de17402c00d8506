"""The items of a delivery window: unsettled events of one subscription, and the order in which they are due.

It knows nothing of consumers' rights or of commands; see shoal.model.delivery, which decides by it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from heapq import heappop, heappush
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


class Item:
    """One event: where it is, how it stands, and its row while it has not been delivered.

    `failures` are those that count towards parking, `attempt` numbers its deliveries, `taken` says that there was one
    from this window; `replay` marks a parked event that is delivered again, `suspect` one that may have been in flight
    when the node ended. `before` and `after` are
    its neighbours of the same stream, where order is kept.
    """

    __slots__ = (
        "after",
        "attempt",
        "before",
        "consumer",
        "due_ms",
        "failures",
        "position",
        "replay",
        "row",
        "state",
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
        self.replay = False
        self.suspect = False
        self.before: Item | None = None
        self.after: Item | None = None


class Window:
    """Unsettled items by position, in position order."""

    def __init__(self) -> None:
        self._items: dict[int, Item] = {}
        self._order: deque[int] = deque()
        self._fresh: deque[Item] = deque()
        self._again: list[int] = []
        self._due: list[tuple[int, int]] = []
        self._last: dict[str, Item] = {}
        self._queued: set[int] = set()

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Item]:
        return iter(list(self._items.values()))

    def get(self, position: int) -> Item | None:
        """The item at a position."""
        return self._items.get(position)

    # -- coming and going ------------------------------------------------------------------------

    def add(self, item: Item, *, chained: bool) -> None:
        """Take an item in, ready; those that are no replays come in position order."""
        self._items[item.position] = item
        if item.replay:
            self.again(item)
        else:
            self._order.append(item.position)
            self._fresh.append(item)
        if chained:
            self._chain(item)

    def _chain(self, item: Item) -> None:
        """Put the item behind those of its stream: a replay comes before what is not one."""
        last = self._last.get(item.stream_id)
        while last is not None and last.position > item.position:
            last = last.before
        if last is not None:
            item.before, item.after = last, last.after
            last.after = item
        elif (head := self._last.get(item.stream_id)) is not None:
            while head.before is not None:
                head = head.before
            item.after = head
        if item.after is not None:
            item.after.before = item
        else:
            self._last[item.stream_id] = item

    def remove(self, item: Item) -> None:
        """Forget a settled item."""
        del self._items[item.position]
        self._queued.discard(item.position)
        if item.before is not None:
            item.before.after = item.after
        if item.after is not None:
            item.after.before = item.before
        elif self._last.get(item.stream_id) is item:
            if item.before is None:
                del self._last[item.stream_id]
            else:
                self._last[item.stream_id] = item.before
        item.before = item.after = None

    def first_unsettled(self) -> int | None:
        """Position of the first item that is neither a replay nor settling."""
        for position in self._order:
            item = self._items.get(position)
            if item is not None and item.state != SETTLING:
                return position
        return None

    def first(self) -> int | None:
        """Position of the first item that is no replay."""
        self.trim()
        return self._order[0] if self._order else None

    def trim(self) -> None:
        """Forget positions at the front that are gone."""
        while self._order and self._order[0] not in self._items:
            self._order.popleft()

    # -- what is due -----------------------------------------------------------------------------

    def again(self, item: Item) -> None:
        """Have the item delivered again as soon as may be, before everything that comes after it."""
        item.state = READY
        if item.position not in self._queued:
            self._queued.add(item.position)
            heappush(self._again, item.position)

    def at(self, item: Item, state: int, due_ms: int) -> None:
        """The item waits, or is leased, until `due_ms`."""
        item.state = state
        item.due_ms = due_ms
        heappush(self._due, (due_ms, item.position))

    def overdue(self, now_ms: int) -> list[Item]:
        """Items whose wait or lease has ended, by position."""
        found: dict[int, Item] = {}
        while self._due and self._due[0][0] <= now_ms:
            due_ms, position = heappop(self._due)
            item = self._items.get(position)
            if item is not None and item.state in {WAITING, LEASED} and item.due_ms == due_ms:
                found[position] = item
        return [found[position] for position in sorted(found)]

    def next_due_ms(self) -> int | None:
        """When the next wait or lease ends."""
        while self._due:
            due_ms, position = self._due[0]
            item = self._items.get(position)
            if item is not None and item.state in {WAITING, LEASED} and item.due_ms == due_ms:
                return due_ms
            heappop(self._due)
        return None

    def ready(self) -> Iterator[Item]:
        """Ready items in the order of delivery: those that come again first. What is not taken stays.

        The caller changes the state of what it takes before it asks for the next one.
        """
        kept: list[int] = []
        try:
            while self._again:
                position = heappop(self._again)
                item = self._items.get(position)
                if item is None or item.state != READY:
                    self._queued.discard(position)
                    continue
                kept.append(position)
                yield item
                if item.state != READY:
                    kept.pop()
                    self._queued.discard(position)
        finally:
            for position in kept:
                heappush(self._again, position)
        yield from self._ready_fresh()

    def _ready_fresh(self) -> Iterator[Item]:
        passed: list[Item] = []
        try:
            while self._fresh:
                item = self._fresh[0]
                if item.state != READY or item.position not in self._items or item.position in self._queued:
                    self._fresh.popleft()
                    continue
                yield item
                if item.state == READY:
                    passed.append(item)
                self._fresh.popleft()
        finally:
            self._fresh.extendleft(reversed(passed))

    def ready_count(self) -> int:
        """Ready items, or a few more."""
        return len(self._queued) + len(self._fresh)
