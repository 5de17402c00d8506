"""How the events of one subscription stand: what they change from and to, and what of that is to be replicated.

Which consumer gets what, and what is a failure, is decided by shoal.model.delivery. Everything is kept here in step
for each change of an item's state: the window, whose turn it is, what consumers hold, and what waits to be replicated.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Final

from shoal.model.commands import Parked
from shoal.model.consumers import Consumers
from shoal.model.parking import ParkedStreams
from shoal.model.settlement import Changes, Settlement, parked
from shoal.model.subscriptions import SubscriptionState
from shoal.model.turns import Turns
from shoal.model.window import LEASED, READY, SETTLING, WAITING, Item, Window
from shoal.types import SubscriptionOptions

AHEAD_ITEMS: Final = 8_192
"""Events that may be known beyond those in flight: settled behind a hole, or waiting for another consumer."""

ENDED_THE_NODE: Final = "the node ended while it was being delivered"


class Standing:
    """The events of one life of a subscription that are not settled for good, as far as they were taken in."""

    def __init__(
        self, state: SubscriptionState, blocked: Mapping[str, int] | None, consumers: Consumers | None
    ) -> None:
        self.options: SubscriptionOptions = state.options
        self.scanned = state.checkpoint
        """Every matching event up to here is in the window, settled, or was deleted."""
        self.consumers = consumers or Consumers()
        self.in_flight = 0
        self.replays_wanted = True
        """Whether parked events are to be delivered again that were not taken in yet."""
        self._missed_replays = False
        self._window = Window()
        self._turns = Turns(self.options)
        self._changes = Changes(state.checkpoint, state.settled)
        self._parked = ParkedStreams(blocked or {})

    def change(self, options: SubscriptionOptions) -> None:
        """Go on by other options; leases and pauses that are there stay as they were given.

        Where `ordered` is new, what was parked before does not hold up its stream until the node starts again.
        """
        before, self.options = self.options, options
        if before.ordered != options.ordered:
            self._parked = ParkedStreams({})
            self._window.chain_all(chained=options.ordered)
        if (before.ordered, before.strategy) != (options.ordered, options.strategy):
            self._turns = Turns.of(options, self._window, self._changes.held())

    # -- how it stands ---------------------------------------------------------------------------

    def room(self) -> int:
        """How many more events may be taken in."""
        known = len(self._window) + len(self._changes.settled) + len(self._changes.early)
        return max(0, self.options.max_in_flight + AHEAD_ITEMS - known)

    def ready(self, consumer: str) -> int:
        """Events that wait for nothing but this consumer; in an ordered stream also those behind one that pauses."""
        return sum(self._turns.ready(consumer))

    @property
    def stalls(self) -> bool:
        """Whether events may be kept from consumers until what is settled is so for good.

        There is no room to take them in; or streams are kept together, and one may change hands only then.
        """
        return not self.room() or (self._turns.keeps_streams and self.waiting > 0)

    @property
    def waiting(self) -> int:
        """Events in the window that are neither with a consumer nor settled."""
        return len(self._window) - self.in_flight - self._changes.settling

    @property
    def checkpoint(self) -> int:
        """Up to here every matching event is settled for good."""
        return self._changes.checkpoint

    @property
    def reached(self) -> int:
        """The position up to which every matching event is settled for good, as far as this node knows."""
        first = self._window.first()
        return max(self.checkpoint, self.scanned if first is None else first - 1)

    @property
    def unreplicated(self) -> int:
        """Changes that wait to be replicated."""
        return len(self._changes)

    def advance(self, head: int) -> None:
        """The source is live: nothing up to `head` matches that was not offered."""
        self.scanned = max(self.scanned, head)

    def find(self, events: Collection[tuple[str, int]]) -> dict[tuple[str, int], Item]:
        """The items of those events, by stream and version, that are in the window."""
        return self._window.find(events)

    def is_settled(self, position: int) -> bool:
        """Whether the event at a position is settled, or about to be."""
        item = self._window.get(position)
        return self._changes.is_settled(position) if item is None else item.state == SETTLING

    # -- what becomes of an item -----------------------------------------------------------------

    def _add(self, item: Item) -> None:
        self._window.add(item, chained=self.options.ordered)
        self._turns.add(item)
        if not item.replay:
            self._turns.fresh(item)
            return
        self._turns.again(item)
        if self.options.ordered:
            self._parked.replayed(item)
            if self._parked.stops(item.stream_id):
                self._park(item, "behind a parked event of its stream")

    def _lease(self, item: Item, consumer: str, due_ms: int) -> None:
        item.consumer = consumer
        self._window.at(item, LEASED, due_ms)
        self._turns.lease(item)
        self.consumers.take(consumer, item.position)
        self.in_flight += 1

    def _withdraw(self, item: Item) -> None:
        """The item is neither leased nor ready any more: it waits for what its caller does with it."""
        state, item.state, item.row = item.state, WAITING, None
        if state == LEASED:
            self.consumers.give(item.consumer, item.position)
            self.in_flight -= 1
            self._turns.free(item)
        elif state == READY:
            self._turns.drop(item, ready=True)

    def give_back(self, items: Iterable[Item]) -> None:
        """What was leased did not reach its consumer, or is to come again without having failed."""
        for item in items:
            if item.state == LEASED:
                self._withdraw(item)
                self._turns.again(item)
                if item.suspect:
                    self._record(item, item.failures, "is delivered again", replaying=True)

    def _take_back_behind(self, item: Item) -> None:
        """What is leased of an ordered stream behind one that comes again has to come after it."""
        behind = item.after  # there in ordered subscriptions only
        while behind is not None:
            self.give_back((behind,))
            behind = behind.after

    def _settle(self, item: Item) -> None:
        """The event is done with, in whatever state it is. Its stream stays where it is until that is decided."""
        state = item.state
        if state == SETTLING:
            return
        item.state, item.row = SETTLING, None
        if state == LEASED:
            self.consumers.give(item.consumer, item.position)
            self.in_flight -= 1
            self._changes.settle(item, LEASED, item.due_ms)
            self._turns.let_pass(item)
        else:
            self._turns.drop(item, ready=state == READY)
            self._changes.settle(item, READY, 0)
        if item.replay and self.options.ordered:
            self._parked.settled(item)

    def _put_aside(self, item: Item, reason: str) -> None:
        """Park the event, and in an ordered subscription the rest of its stream that is here."""
        self._park(item, reason)
        behind = item.after
        while behind is not None:
            if behind.state != SETTLING:
                self._park(behind, f"behind the parked event at position {item.position}")
            behind = behind.after

    def _park(self, item: Item, reason: str, *, joins: bool = False) -> None:
        """With `joins` it is delivered again with the rest of its stream."""
        self._withdraw(item)
        item.state = SETTLING
        self._turns.drop(item, ready=False)
        self._changes.settle(item, READY, 0)
        # Deliveries, not failures alone: one that is delivered again later gets no lease that was given before.
        attempts = max(item.failures, item.attempt)
        self._changes.park[item.position] = parked(item, reason, failures=attempts, replaying=joins)
        if self.options.ordered:
            self._parked.parked(item, joins=joins)

    def _record(self, item: Item, failures: int, reason: str, *, replaying: bool) -> None:
        """Replicate how often the item has failed; a replay that is not replaying stays parked if the node ends."""
        if item.replay:
            self._changes.park[item.position] = parked(item, reason, failures=failures, replaying=replaying)
        else:
            self._changes.attempts[item.position] = failures

    def unblock(self, stream_id: str) -> None:
        """The stream was deleted, and what was parked of it is gone."""
        if self._parked.blocks(stream_id):
            for item in self._window:
                if item.replay and item.stream_id == stream_id:
                    self._settle(item)
            self._parked.forget(stream_id)

    # -- replicating -----------------------------------------------------------------------------

    def take_settlement(self) -> Settlement:
        """Everything that changed since the last one, to be proposed as one command; the last one must be over."""
        first = self._window.first_unsettled()
        return self._changes.begin(max(self.checkpoint, self.scanned if first is None else first - 1))

    def confirm(self) -> None:
        """The settlement under way was decided."""
        settlement = self._changes.end(decided=True)
        for position, (state, _) in settlement.before.items():
            item = self._window.get(position)
            if item is not None:
                if state == LEASED:
                    self._turns.free(item)
                self._turns.remove(item)
                self._window.remove(item)
        if any(each.replaying and each.position in settlement.before for each in settlement.park):
            self.replays_wanted = True
        self._want_missed_replays()

    def revert(self, now_ms: int) -> None:
        """The settlement under way was not decided, or nobody knows: leases go on, the rest comes again.

        So there may be more in flight than `max_in_flight` for a while.
        """
        settlement = self._changes.end(decided=False)
        park = {each.position: each for each in settlement.park}
        for position, (state, due_ms) in sorted(settlement.before.items()):
            item = self._window.get(position)
            if item is not None:
                self._uncount(item, was_parked=park.pop(position, None) is not None)
                self._restore(item, was_leased=state == LEASED, goes_on=due_ms > now_ms)
        self._keep(settlement.attempts, park.values())
        self._want_missed_replays()

    def _uncount(self, item: Item, *, was_parked: bool) -> None:
        """Nobody knows whether it is among the parked events: settling it takes it out."""
        if self.options.ordered and was_parked:
            self._parked.not_parked(item)
        elif self.options.ordered and item.replay:
            self._parked.not_settled(item)
        item.stored = item.stored or was_parked

    def _restore(self, item: Item, *, was_leased: bool, goes_on: bool) -> None:
        if was_leased and goes_on and self.consumers.is_known(item.consumer):
            self._window.at(item, LEASED, item.due_ms)
            self.consumers.take(item.consumer, item.position)
            self.in_flight += 1
            return
        item.state = WAITING
        if was_leased:
            self._turns.free(item)
        self._turns.again(item)
        self._take_back_behind(item)

    def _keep(self, attempts: Iterable[tuple[int, int]], park: Iterable[Parked]) -> None:
        """What was to be replicated of items that are not settled, unless it changed meanwhile."""
        for position, failures in attempts:
            if not self.is_settled(position):
                self._changes.attempts.setdefault(position, failures)
        for each in park:
            if not self.is_settled(each.position):
                self._changes.park.setdefault(each.position, each)

    def _want_missed_replays(self) -> None:
        if self._missed_replays:
            self._missed_replays = False
            self.replays_wanted = True
