"""Delivery of one subscription: which event goes to which consumer, and what becomes of it.

Pure: time is an argument, and what must be replicated is collected until `take_settlement` gives it to be proposed as
one command. `confirm` says that it was decided, `revert` that it was not: then everything stands as before.

An event is leased to one consumer until `ack_timeout_ms` has passed. One that failed (nack, lease run out, its
consumer lost while it was the first of its leases) comes again, and is parked after `max_retries` more failures.
With `ordered` an event of a stream is delivered only after the one before it was, a failure takes back what its
consumer holds of the stream behind it, and behind a parked event the rest of its stream is parked too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from shoal.errors import InvalidRequest, LeaseExpired
from shoal.model.commands import Parked
from shoal.model.consumers import Consumers
from shoal.model.lease import Lease
from shoal.model.machine import Row
from shoal.model.subscriptions import SubscriptionState
from shoal.model.window import LEASED, READY, SETTLING, WAITING, Item, Window
from shoal.types import NackAction, SubscriptionOptions

AHEAD_ITEMS: Final = 8_192
"""Events that may be known beyond those in flight: settled behind a hole, or waiting for another consumer."""
REASON_CHARS: Final = 1_000


class Settlement(msgspec.Struct, frozen=True):
    """What to replicate (see shoal.model.commands.Settle), and how its items stood: position -> (state, due_ms)."""

    checkpoint: int
    settled: list[int]
    park: list[Parked]
    unpark: list[int]
    attempts: list[tuple[int, int]]
    before: dict[int, tuple[int, int]]


class Delivery:
    """One life of a subscription on its leader.

    `blocked` gives for an ordered subscription the streams with parked events, and how many each has. With `resumed`
    the subscription was there before this node was: what it may have had in flight is suspected of having ended the
    node, recorded before it is delivered, and held until `held_until_ms`.
    """

    def __init__(
        self,
        state: SubscriptionState,
        term: int,
        *,
        resumed: bool = False,
        held_until_ms: int = 0,
        blocked: dict[str, int] | None = None,
    ) -> None:
        self.options: SubscriptionOptions = state.options
        self.life = state.life
        self.checkpoint = state.checkpoint
        self.scanned = state.checkpoint
        """Every matching event up to here is in the window, settled, or was deleted."""
        self.consumers = Consumers()
        self.delivered = 0
        self.redeliveries = 0
        self.in_flight = 0
        self.held = False
        """Whether the last `lease` gave nothing for the sake of a suspect: reading on would not help."""
        self.replays_wanted = True
        """Whether parked events are to be delivered again that `offer_parked` was not given yet."""
        self._term = term
        self._window = Window()
        self._settled = set(state.settled)
        self._failures = dict(state.attempts)
        self._early: set[int] = set()
        self._suspects = state.options.max_in_flight if resumed else 0
        self._held_until_ms = held_until_ms if resumed else 0
        self._blocked = {stream_id: (total, 0) for stream_id, total in (blocked or {}).items()}
        self._joined: set[int] = set()
        self._with_rows: list[Item] = []
        self._stopped: set[str] = set()
        self._highest = 0
        self._pending: dict[int, tuple[int, int]] = {}
        self._park: dict[int, Parked] = {}
        self._attempts: dict[int, int] = {}
        self._under_way: Settlement | None = None

    # -- taking events in ------------------------------------------------------------------------

    def room(self) -> int:
        """How many more events may be taken in."""
        known = len(self._window) + len(self._settled) + len(self._early)
        return max(0, self.options.max_in_flight + AHEAD_ITEMS - known)

    @property
    def ready(self) -> int:
        """Events that wait for nothing but a consumer, or a few more."""
        return self._window.ready_count()

    @property
    def waiting(self) -> int:
        """Events in the window that are neither with a consumer nor settled."""
        under_way = len(self._under_way.before) if self._under_way else 0
        return len(self._window) - self.in_flight - len(self._pending) - under_way

    def offer(self, rows: Iterable[Row], scanned: int) -> None:
        """Take in matching events beyond `scanned`, ascending; everything up to `scanned` was offered then."""
        for row in rows:
            position = row[2]
            if position in self._early:
                self._early.discard(position)
                item = self._admit(row)
                self._begin_settling(item)
            elif position not in self._settled:
                item = self._admit(row)
                if self.options.ordered and item.stream_id in self._blocked:
                    self._park_one(item, "behind a parked event of its stream", joins=True)
                else:
                    item.row = row
                    self._with_rows.append(item)
        self.scanned = max(self.scanned, scanned)

    def _admit(self, row: Row) -> Item:
        item = Item(row[2], row[0], row[1], self._failures.pop(row[2], 0))
        if self._suspects:
            self._suspects -= 1
            item.suspect = True
        self._window.add(item, chained=self.options.ordered)
        return item

    def offer_parked(self, parked: Iterable[tuple[int, str, int]]) -> None:
        """Take in parked events to be delivered again: (position, stream id, failures so far)."""
        for position, stream_id, failures in parked:
            if self._window.get(position) is not None:
                continue
            item = Item(position, stream_id, -1, failures)
            item.replay = True
            self._window.add(item, chained=self.options.ordered)
            if position not in self._joined:
                self._count_parked(stream_id, 0, 1)
            self._joined.discard(position)
            if stream_id in self._stopped:
                self._park_one(item, "behind a parked event of its stream")

    def replay(self) -> None:
        """A replay was asked for: also streams that stopped at a parked event go on."""
        self.replays_wanted = True
        self._stopped.clear()

    def unblock(self, stream_id: str) -> None:
        """The stream was deleted, and what was parked of it is gone."""
        self._blocked.pop(stream_id, None)

    def forget_rows(self) -> None:
        """Give up the rows of what was offered and not taken: they are read again when their turn comes."""
        for item in self._with_rows:
            if item.state != LEASED:
                item.row = None
        self._with_rows.clear()

    # -- leasing ---------------------------------------------------------------------------------

    def lease(self, consumer: str, count: int, now_ms: int) -> list[Item]:
        """Lease up to `count` ready events to a consumer that has entered."""
        count = min(count, self.options.max_in_flight - self.in_flight, self._share())
        if count <= 0 or not self.consumers.is_active(consumer, self.options):
            return []
        taken: list[Item] = []
        self.held = False
        for item in self._window.ready():
            if item.suspect and not self._may_travel(item, taken, now_ms):
                self.held = not taken
                break  # and nothing behind it may pass
            if not self._may_go(item, consumer):
                continue
            self._take(item, consumer, now_ms)
            taken.append(item)
            if len(taken) >= count or (item.suspect and item.failures):
                break
        return taken

    def _share(self) -> int:
        """Competing consumers get equal parts of what is ready."""
        if self.options.strategy == "single" or self.consumers.count < 2:
            return self.options.max_in_flight
        return -(-self.ready // self.consumers.count)

    def _may_travel(self, suspect: Item, taken: Sequence[Item], now_ms: int) -> bool:
        """A suspect that has failed travels alone, so that it is told from its innocent neighbours."""
        if now_ms < self._held_until_ms:
            return False
        return not suspect.failures or not (taken or self.in_flight)

    def _may_go(self, item: Item, consumer: str) -> bool:
        if not self.consumers.may_have(consumer, item.stream_id, self.options):
            return False
        before = item.before
        return (
            before is None
            or before.state == SETTLING
            or (before.state == LEASED and before.consumer == consumer)
        )

    def _take(self, item: Item, consumer: str, now_ms: int) -> None:
        if item.taken or item.failures:
            self.redeliveries += 1
        item.taken = True
        item.attempt += 1
        item.consumer = consumer
        self._window.at(item, LEASED, now_ms + self.options.ack_timeout_ms)
        self.consumers.take(consumer, item.position, item.stream_id)
        self.in_flight += 1
        self.delivered += 1
        if not item.replay:
            self._highest = max(self._highest, item.position)
        if item.suspect:
            self._attempts[item.position] = item.failures + 1

    def must_record(self, items: Iterable[Item]) -> bool:
        """Whether a settlement must be decided before these leased items may go out."""
        return any(item.suspect for item in items)

    def lease_of(self, item: Item) -> Lease:
        """The lease under which the item is delivered."""
        return Lease(self._term, self.life, item.position, item.attempt)

    def give_back(self, items: Iterable[Item]) -> None:
        """What was leased did not reach its consumer."""
        for item in items:
            if item.state == LEASED:
                self._release(item)
                self._window.again(item)

    def return_leases(self, leases: Iterable[Lease]) -> None:
        """As `give_back`, of those that are still held."""
        for lease in leases:
            item = self._window.get(lease.position)
            if item is not None and item.state == LEASED and lease == self.lease_of(item):
                self.give_back((item,))

    def gone(self, items: Iterable[Item]) -> None:
        """The events of these leased items were deleted: nothing is left to deliver."""
        for item in items:
            self._settle(item)

    def leave(self, consumer: str, now_ms: int, *, lost: bool) -> None:
        """The consumer is gone, and what it has leased comes again at once.

        When it was `lost`, the first of its leases may be what ended it, and has failed.
        """
        found = [self._window.get(position) for position in self.consumers.leave(consumer)]
        items = [item for item in found if item is not None and item.state == LEASED]
        if lost and items:
            self._fail(items[0], "its consumer was lost", now_ms, 0)
        self.give_back(items)

    def expire(self, now_ms: int) -> None:
        """Leases that have run out have failed, pauses before a retry are over, silent consumers are gone."""
        for item in self._window.overdue(now_ms):
            if item.state == WAITING:
                self._window.again(item)
            elif item.state == LEASED:
                self._fail(item, f"not acked in {self.options.ack_timeout_ms} ms", now_ms, 0)
        for name in self.consumers.gone(now_ms, self.options.consumer_timeout_ms):
            self.consumers.leave(name)  # its leases run out by themselves: they were promised for so long

    def next_deadline_ms(self, now_ms: int) -> int | None:
        """When `expire` has something to do next, or what was held may go."""
        times = [self._window.next_due_ms(), self.consumers.next_gone_ms(self.options.consumer_timeout_ms)]
        if now_ms < self._held_until_ms:
            times.append(self._held_until_ms)
        return min((time for time in times if time is not None), default=None)

    # -- settling --------------------------------------------------------------------------------

    def ack(self, leases: Sequence[Lease], now_ms: int, head: int) -> None:
        """Settle leased events, all or none. Raises LeaseExpired; InvalidRequest for what was never given."""
        items, early = self._held(leases, head)
        self._early.update(early)
        for item in items:
            self.consumers.seen(item.consumer, now_ms)
            self._settle(item)

    def nack(
        self,
        leases: Sequence[Lease],
        action: NackAction,
        now_ms: int,
        head: int,
        *,
        delay_ms: int | None = None,
        reason: str = "",
    ) -> None:
        """Have leased events come again (after `delay_ms`), park or skip them, all or none. Raises as `ack`."""
        items, early = self._held(leases, head)
        if action == "skip":
            self._early.update(early)
        elif early:
            raise _expired([lease for lease in leases if lease.position in early])
        for item in items:
            self.consumers.seen(item.consumer, now_ms)
            if action == "skip":
                self._settle(item)
            elif item.state != LEASED:
                continue  # taken back, for an event before it in its stream failed just now
            elif action == "park":
                item.failures += 1
                self._put_aside(item, reason or "parked by its consumer")
            else:
                pause_ms = self._backoff_ms(item) if delay_ms is None else delay_ms
                self._fail(item, reason or "nacked by its consumer", now_ms, pause_ms)

    def ack_through(self, position: int) -> None:
        """Settle what was delivered up to a position. Raises InvalidRequest beyond what was delivered."""
        if position <= self.checkpoint:
            return
        if position > self._highest:
            raise InvalidRequest(
                f"position {position} is beyond the last one that was delivered, {self._highest or 'none'}",
                pointer="position",
            )
        for item in self._window:
            if item.position <= position and item.taken and not item.replay:
                self._settle(item)

    def find(self, stream_id: str, version: int) -> Item | None:
        """The item of an event that is in the window."""
        return next(
            (each for each in self._window if (each.stream_id, each.version) == (stream_id, version)), None
        )

    def ack_items(self, items: Sequence[Item]) -> None:
        """Settle delivered events, whoever has them, all or none. Raises LeaseExpired."""
        if not all(item.taken for item in items):
            raise LeaseExpired("an event of the call has not been delivered")
        for item in items:
            self._settle(item)

    def is_settled(self, position: int) -> bool:
        """Whether the event at a position is settled, or about to be."""
        item = self._window.get(position)
        if item is not None:
            return item.state == SETTLING
        return position <= self.checkpoint or position in self._settled or position in self._early

    def _held(self, leases: Sequence[Lease], head: int) -> tuple[list[Item], set[int]]:
        """The items to settle, and positions of an earlier leader's leases whose events are not here yet.

        Those that are settled already are fine: the answer to the first call was lost.
        """
        held: dict[int, Item] = {}
        early: set[int] = set()
        expired: list[Lease] = []
        for lease in leases:
            if lease.position > head or lease.term > self._term:
                raise InvalidRequest(f"lease {lease.token} was never given", pointer="leases")
            item = self._window.get(lease.position)
            if item is not None and item.state != SETTLING and self._is_of(lease, item):
                held[lease.position] = item
            elif item is None and self._is_early(lease) and len(early) + len(self._early) < AHEAD_ITEMS:
                early.add(lease.position)
            elif lease.life != self.life or not self.is_settled(lease.position):
                expired.append(lease)
        if expired:
            raise _expired(expired)
        return list(held.values()), early

    def _is_of(self, lease: Lease, item: Item) -> bool:
        """Whether it is the item's lease, or an earlier leader's while the event was not delivered again."""
        if lease == self.lease_of(item):
            return item.state == LEASED
        return lease.life == self.life and lease.term < self._term and not item.taken

    def _is_early(self, lease: Lease) -> bool:
        known = lease.life != self.life or lease.position <= self.scanned or lease.position in self._settled
        return lease.term < self._term and not known

    def _settle(self, item: Item) -> None:
        """The event is done with, in whatever state it is."""
        if item.state == LEASED:
            due_ms = item.due_ms
            self._release(item)
            self._begin_settling(item, LEASED, due_ms)
        elif item.state != SETTLING:
            self._begin_settling(item)
        else:
            return
        if item.replay:
            self._count_parked(item.stream_id, -1, -1)

    def _begin_settling(self, item: Item, state: int = READY, due_ms: int = 0) -> None:
        self._pending[item.position] = (state, due_ms)
        self._attempts.pop(item.position, None)
        item.state = SETTLING
        item.row = None

    def _release(self, item: Item) -> None:
        self.consumers.give(item.consumer, item.position, item.stream_id)
        self.in_flight -= 1
        item.state = READY
        item.row = None

    # -- failing ---------------------------------------------------------------------------------

    def _fail(self, item: Item, reason: str, now_ms: int, delay_ms: int) -> None:
        self._release(item)
        item.failures += 1
        if item.failures > self.options.max_retries:
            self._put_aside(item, reason)
            return
        if item.replay:
            self._park[item.position] = _parked(item, reason, replaying=True)
        else:
            self._attempts[item.position] = item.failures
        if delay_ms:
            self._window.at(item, WAITING, now_ms + delay_ms)
        else:
            self._window.again(item)
        behind = item.after
        while behind is not None:  # there in ordered subscriptions only
            self.give_back((behind,))
            behind = behind.after

    def _backoff_ms(self, item: Item) -> int:
        steps = self.options.backoff_ms
        return steps[min(item.failures, len(steps) - 1)] if steps else 0

    def _put_aside(self, item: Item, reason: str) -> None:
        """Park the event, and in an ordered subscription the rest of its stream that is here."""
        behind = item.after
        self._park_one(item, reason)
        while behind is not None:
            if behind.state != SETTLING:
                self._park_one(behind, f"behind the parked event at position {item.position}")
            behind = behind.after

    def _park_one(self, item: Item, reason: str, *, joins: bool = False) -> None:
        """With `joins` it is delivered again with the rest of its stream, if all of that is just now."""
        if item.state == LEASED:
            self._release(item)
        total, replaying = self._blocked.get(item.stream_id, (0, 0))
        joins = joins and 0 < total == replaying
        self._park[item.position] = _parked(item, reason, replaying=joins)
        self._begin_settling(item)
        if item.replay:
            self._stopped.add(item.stream_id)
            self._count_parked(item.stream_id, 0, -1)
        else:
            self._count_parked(item.stream_id, 1, int(joins))
            if joins:
                self._joined.add(item.position)

    def _count_parked(self, stream_id: str, more: int, more_replaying: int) -> None:
        total, replaying = self._blocked.get(stream_id, (0, 0))
        if not self.options.ordered or total + more < 0:
            return  # below nought: the stream was deleted meanwhile
        self._blocked[stream_id] = (total + more, replaying + more_replaying)
        if not total + more:
            del self._blocked[stream_id]

    # -- replicating -----------------------------------------------------------------------------

    def advance(self, head: int) -> None:
        """The source is live: nothing up to `head` matches that was not offered."""
        self.scanned = max(self.scanned, head)

    @property
    def reached(self) -> int:
        """The position up to which every matching event is settled for good, as far as this node knows."""
        first = self._window.first()
        return max(self.checkpoint, self.scanned if first is None else first - 1)

    @property
    def unreplicated(self) -> int:
        """Changes that wait to be replicated."""
        return len(self._pending) + len(self._park) + len(self._attempts) + len(self._early)

    def take_settlement(self) -> Settlement:
        """Everything that changed since the last one, to be proposed as one command; the last one must be over."""
        if self._under_way is not None:
            raise RuntimeError("the settlement before is not decided yet")
        first = self._window.first_unsettled()
        checkpoint = max(self.checkpoint, self.scanned if first is None else first - 1)
        items = [(position, self._window.get(position)) for position in self._pending]
        replays = {position for position, item in items if item is not None and item.replay}
        done = {*self._pending, *self._early} - replays
        self._under_way = Settlement(
            checkpoint,
            sorted(position for position in done if position > checkpoint),
            list(self._park.values()),
            sorted(replays - self._park.keys()),
            sorted(self._attempts.items()),
            self._pending,
        )
        self._pending, self._park, self._attempts = {}, {}, {}
        return self._under_way

    def confirm(self) -> None:
        """The settlement under way was decided."""
        settlement = self._end_settlement()
        self.checkpoint = max(self.checkpoint, settlement.checkpoint)
        for position in settlement.before:
            item = self._window.get(position)
            if item is not None:
                self._window.remove(item)
        self._settled.update(settlement.settled)
        self._settled = {position for position in self._settled if position > self.checkpoint}
        self._early -= self._settled
        self._window.trim()
        if any(each.replaying and each.position in settlement.before for each in settlement.park):
            self.replays_wanted = True

    def revert(self, now_ms: int) -> None:
        """The settlement under way was not decided, or nobody knows: leases go on, the rest comes again."""
        settlement = self._end_settlement()
        parked = {each.position: each for each in settlement.park}
        for position, (state, due_ms) in settlement.before.items():
            item = self._window.get(position)
            if item is None:
                continue
            self._uncount(item, parked.get(position))
            if state == LEASED and due_ms > now_ms:
                self._window.at(item, LEASED, due_ms)
                self.consumers.take(item.consumer, position, item.stream_id)
                self.in_flight += 1
            else:
                self._window.again(item)
        for position, failures in settlement.attempts:
            self._attempts.setdefault(position, failures)

    def _uncount(self, item: Item, parked: Parked | None) -> None:
        if parked is None:
            if item.replay:
                self._count_parked(item.stream_id, 1, 1)
        elif item.replay:
            self._count_parked(item.stream_id, 0, 1)
        else:
            self._count_parked(item.stream_id, -1, -int(parked.replaying))

    def _end_settlement(self) -> Settlement:
        settlement, self._under_way = self._under_way, None
        if settlement is None:
            raise RuntimeError("no settlement is under way")
        return settlement


def _parked(item: Item, reason: str, *, replaying: bool) -> Parked:
    return Parked(item.position, item.stream_id, reason[:REASON_CHARS], item.failures, replaying)


def _expired(leases: Sequence[Lease]) -> LeaseExpired:
    return LeaseExpired(
        f"{len(leases)} of the leases are not held any more; nothing was settled. The events come again",
        leases=[lease.token for lease in leases],
    )
