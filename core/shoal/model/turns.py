"""Whose turn it is: the ready items of a delivery window, and which of them a consumer gets next.

Where streams matter (strategy by_stream, or `ordered`) each stream has a lane of its own, and a lane stands either
among those that anybody may take or among those of the one consumer that holds leases of its stream: nothing is ever
passed over. Otherwise there is a single lane. What comes again comes first, the rest in position order.
"""

from __future__ import annotations

from collections import deque
from heapq import heapify, heappop, heappush
from typing import Final

from shoal.model.window import LEASED, READY, SETTLING, Item, Window
from shoal.types import SubscriptionOptions

ANYBODY: Final = ""
"""In place of a consumer's name, which is never empty."""
SPARE_PLACES: Final = 64

Place = tuple[int, int, str]
"""Where a lane stands in a queue: 0 if its first item comes again, that item's position, the lane's name."""


class _Lane:
    """The ready items of one stream, or of all. `size` counts its items in whatever state, `ready` the ready ones."""

    __slots__ = ("again", "fresh", "holders", "home", "place", "ready", "size")

    def __init__(self) -> None:
        self.again: list[Item] = []
        self.fresh: deque[Item] = deque()
        self.holders: dict[str, int] = {}
        self.home: str | None = None
        self.place: Place | None = None
        self.ready = 0
        self.size = 0

    def first(self, *, in_order: bool = False) -> Item | None:
        """The first ready item, whatever is before it in its stream: `in_order` of position, else what comes again."""
        again, fresh = self._first_again(), None
        if again is None or in_order:
            fresh = self._first_fresh()
        if again is None or fresh is None:
            return again or fresh
        return min(again, fresh)

    def _first_again(self) -> Item | None:
        while self.again:
            item = self.again[0]
            if item.state == READY:
                return item
            heappop(self.again).queued = False
        return None

    def _first_fresh(self) -> Item | None:
        while self.fresh:
            item = self.fresh[0]
            if item.state == READY and not item.queued:
                return item
            self.fresh.popleft()
        return None

    def owner(self) -> str | None:
        """Who alone may take from it, if anybody may at all."""
        if not self.holders:
            return ANYBODY
        return next(iter(self.holders)) if len(self.holders) == 1 else None


class Turns:
    """The ready items of a window. Its caller says how they change, and takes what `first` gives."""

    def __init__(self, options: SubscriptionOptions) -> None:
        self._ordered = options.ordered
        self._by_stream = options.ordered or options.strategy == "by_stream"
        self._lanes: dict[str, _Lane] = {}
        self._queues: dict[str, list[Place]] = {}
        self._ready: dict[str, int] = {}
        self._call = 0

    @classmethod
    def of(cls, options: SubscriptionOptions, window: Window, held: set[int]) -> Turns:
        """The turns of a window whose streams are held through leased items, and settling ones at `held`."""
        turns = cls(options)
        for item in window:
            again, item.queued = item.queued or item.replay, False
            turns.add(item)
            if item.state == READY and again:
                turns.again(item)
            elif item.state == READY:
                turns.fresh(item)
            elif item.state == LEASED or item.position in held:
                turns.hold(item)
        return turns

    @property
    def keeps_streams(self) -> bool:
        """Whether who holds an event of a stream may hold back the rest of it."""
        return self._by_stream

    def ready(self, consumer: str) -> tuple[int, int]:
        """How many items wait for this consumer alone, and for anybody; in an ordered stream also those behind."""
        if not self._by_stream:
            lane = self._lanes.get(ANYBODY)
            return 0, 0 if lane is None else lane.ready
        return self._ready.get(consumer, 0), self._ready.get(ANYBODY, 0)

    def begin_call(self) -> None:
        """Another call takes items. Nobody knows whether what the last one took has arrived."""
        self._call += 1

    def first(self, consumer: str) -> Item | None:
        """What the consumer gets next."""
        if not self._by_stream:
            lane = self._lanes.get(ANYBODY)
            return None if lane is None else lane.first()
        while True:
            places = [place for place in (self._head(consumer), self._head(ANYBODY)) if place is not None]
            if not places:
                return None
            lane = self._lanes[min(places)[2]]
            item = lane.first(in_order=self._ordered)
            if item is None or not self._ordered or self._follows(item):
                return item
            self._place(lane, None, None)  # until those before it are settled, or come again

    # -- how items change ------------------------------------------------------------------------

    def add(self, item: Item) -> None:
        """The window has taken an item in."""
        self._lane(item).size += 1

    def remove(self, item: Item) -> None:
        """The window forgets a settled item that nobody holds."""
        lane = self._lane(item)
        lane.size -= 1
        if not lane.size:
            self._place(lane, None, None)
            del self._lanes[self._name(item)]

    def fresh(self, item: Item) -> None:
        """An item is ready for the first time; they come in position order."""
        lane = self._lane(item)
        lane.fresh.append(item)
        self._count(lane, 1)
        if lane.place is None:
            self._settle_place(item, lane)

    def again(self, item: Item) -> None:
        """An item is ready again, and comes before all that are not."""
        item.state = READY
        lane = self._lane(item)
        if not item.queued:
            item.queued = True
            heappush(lane.again, item)
        self._count(lane, 1)
        self._settle_place(item, lane)

    def lease(self, item: Item) -> None:
        """A ready item is leased now, and its consumer holds its stream."""
        lane = self._lane(item)
        self._count(lane, -1)
        item.call = self._call
        if self._by_stream:
            lane.holders[item.consumer] = lane.holders.get(item.consumer, 0) + 1
            self._settle_place(item, lane)

    def drop(self, item: Item, *, ready: bool) -> None:
        """An item that was ready, or waited, does so no more, and is not leased either."""
        lane = self._lane(item)
        if ready:
            self._count(lane, -1)
        self._settle_place(item, lane)

    def let_pass(self, item: Item) -> None:
        """A leased item is settled, though not for good: in order, what comes after it may go to the same consumer."""
        if self._ordered:
            self._settle_place(item, self._lane(item))

    def hold(self, item: Item) -> None:
        """The item's consumer holds its stream by one more item."""
        if self._by_stream:
            lane = self._lane(item)
            lane.holders[item.consumer] = lane.holders.get(item.consumer, 0) + 1
            self._settle_place(item, lane)

    def free(self, item: Item) -> None:
        """The item's consumer holds its stream by one item less."""
        if self._by_stream:
            lane = self._lane(item)
            lane.holders[item.consumer] -= 1
            if not lane.holders[item.consumer]:
                del lane.holders[item.consumer]
            self._settle_place(item, lane)

    # -- lanes and their places ------------------------------------------------------------------

    def _name(self, item: Item) -> str:
        return item.stream_id if self._by_stream else ANYBODY

    def _lane(self, item: Item) -> _Lane:
        name = item.stream_id if self._by_stream else ANYBODY
        lane = self._lanes.get(name)
        if lane is None:
            lane = self._lanes[name] = _Lane()
        return lane

    def _count(self, lane: _Lane, more: int) -> None:
        lane.ready += more
        if lane.home is not None:
            self._ready[lane.home] = self._ready.get(lane.home, 0) + more

    def _settle_place(self, item: Item, lane: _Lane) -> None:
        """Put the lane where it belongs now."""
        if not self._by_stream:
            return
        first = lane.first(in_order=self._ordered)
        if first is None or (self._ordered and not self._is_next(first)):
            self._place(lane, None, None)
        else:
            self._place(lane, lane.owner(), (0 if first.queued else 1, first.position, item.stream_id))

    def _place(self, lane: _Lane, home: str | None, place: Place | None) -> None:
        if home is None:
            place = None
        if (home, place) == (lane.home, lane.place):
            return
        if home != lane.home:
            self._move(lane, home)
        lane.place = place
        if place is not None and home is not None:
            queue = self._queues.setdefault(home, [])
            heappush(queue, place)
            if len(queue) > 2 * len(self._lanes) + SPARE_PLACES:
                self._tidy(home)

    def _move(self, lane: _Lane, home: str | None) -> None:
        if lane.home is not None:
            self._ready[lane.home] -= lane.ready
            if not self._ready[lane.home]:  # no other lane is there
                del self._ready[lane.home]
                self._queues.pop(lane.home, None)
        lane.home = home
        if home is not None:
            self._ready[home] = self._ready.get(home, 0) + lane.ready

    def _head(self, home: str) -> Place | None:
        """The first place that still counts."""
        queue = self._queues.get(home)
        while queue:
            if self._counts(home, queue[0]):
                return queue[0]
            heappop(queue)
        return None

    def _tidy(self, home: str) -> None:
        self._queues[home] = list({place for place in self._queues[home] if self._counts(home, place)})
        heapify(self._queues[home])

    def _counts(self, home: str, place: Place) -> bool:
        lane = self._lanes.get(place[2])
        return lane is not None and lane.home == home and lane.place == place

    def _is_next(self, item: Item) -> bool:
        """Whether the one before it in its stream lets it pass; those before that one may not."""
        before = item.before
        return before is None or before.state == SETTLING or self._goes_along(before)

    def _follows(self, item: Item) -> bool:
        """Whether everything before it in its stream is settled, or goes to the same consumer in this very call."""
        before = item.before
        while before is not None and before.state == SETTLING:
            before = before.before
        return before is None or self._goes_along(before)

    def _goes_along(self, item: Item) -> bool:
        return item.state == LEASED and item.call == self._call
