"""Delivery of one subscription: which event goes to which consumer, and what becomes of it.

Pure: time is an argument, and what must be replicated is collected until `take_settlement` gives it to be proposed as
one command. `confirm` says that it was decided, `revert` that it was not, or that nobody knows.

An event is leased to one consumer until `ack_timeout_ms` has passed. One that failed (nack; its consumer lost, or
silent until the lease ran out, while it was the first of its leases) comes again, and is parked after `max_retries`
more failures.
With `ordered` an event of a stream is delivered only when those before it are settled, or with them in one batch; a
failure takes back what its consumer holds of the stream behind it, and behind a parked event the rest of its stream
is parked too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from shoal.errors import InvalidRequest, LeaseExpired, NoLeader
from shoal.model.consumers import Consumers
from shoal.model.lease import Lease
from shoal.model.machine import Row
from shoal.model.settlement import expired
from shoal.model.standing import AHEAD_ITEMS, ENDED_THE_NODE, Standing
from shoal.model.subscriptions import SubscriptionState
from shoal.model.window import LEASED, SETTLING, WAITING, Item
from shoal.types import NackAction


class Delivery(Standing):
    """One life of a subscription on its leader.

    `blocked` gives for an ordered subscription the streams with parked events, and how many each has. What was in
    flight when this node or another leader ended is at `suspects_through` or before it: it is suspected of having
    ended the node, recorded before it is delivered, and held until `held_until_ms`.
    """

    def __init__(
        self,
        state: SubscriptionState,
        term: int,
        *,
        suspects_through: int = 0,
        held_until_ms: int = 0,
        blocked: Mapping[str, int] | None = None,
        consumers: Consumers | None = None,
    ) -> None:
        super().__init__(state, blocked, consumers)
        self.life = state.life
        self.delivered = 0
        self.redeliveries = 0
        self.held = False
        """Whether the last `lease` gave nothing for the sake of a suspect: reading on would not help."""
        self._term = term
        self._failures = dict(state.attempts)
        self._suspects_through = self._suspect_replays_through = suspects_through
        self._suspects = max(0, self.options.max_in_flight + AHEAD_ITEMS - len(state.settled))
        self._held_until_ms = held_until_ms
        self._alone: Item | None = None
        self._with_rows: list[Item] = []
        self._highest = 0

    def anew(self, state: SubscriptionState, blocked: Mapping[str, int] | None = None) -> Delivery:
        """The delivery of the next life, to the same consumers."""
        new = Delivery(state, self._term, blocked=blocked, consumers=self.consumers.renewed())
        new.delivered, new.redeliveries = self.delivered, self.redeliveries
        return new

    @property
    def quiet(self) -> bool:
        """Whether forgetting it would change nothing: no consumers, nothing that was delivered, waits or is suspect."""
        return not (
            self.consumers.count
            or self._changes
            or self._changes.settling
            or (self._suspects and self.scanned < self._suspects_through)
            or any(item.taken or item.suspect or item.state == WAITING for item in self._window)
        )

    # -- taking events in ------------------------------------------------------------------------

    def offer(self, rows: Iterable[Row], scanned: int) -> None:
        """Take in matching events beyond `scanned`, ascending; everything up to `scanned` was offered then."""
        for row in rows:
            position = row[2]
            if position in self._changes.early:
                self._changes.early.discard(position)
                self._settle(self._admit(row))
            elif position not in self._changes.settled:
                self._offer(row)
        self.scanned = max(self.scanned, scanned)

    def _offer(self, row: Row) -> None:
        item = self._admit(row)
        if self.options.ordered and self._parked.blocks(item.stream_id):
            joins = self._parked.joins(item.stream_id)
            self._park(item, "behind a parked event of its stream", joins=joins)
        elif item.suspect and item.failures > self.options.max_retries:
            self._put_aside(item, ENDED_THE_NODE)
        else:
            item.row = row
            self._with_rows.append(item)

    def _admit(self, row: Row) -> Item:
        item = Item(row[2], row[0], row[1], self._failures.pop(row[2], 0) if self._failures else 0)
        if self._suspects and item.position <= self._suspects_through:
            self._suspects -= 1
            item.suspect = True
        self._add(item)
        return item

    def offer_parked(self, events: Iterable[tuple[int, str, int]]) -> None:
        """Take in parked events to be delivered again: (position, stream id, failures so far)."""
        for position, stream_id, failures in events:
            known = self._window.get(position)
            if known is None:
                item = Item(position, stream_id, -1, failures)
                item.replay = True
                item.suspect = position <= self._suspect_replays_through
                self._add(item)
            elif known.state == SETTLING:
                self._missed_replays = True

    def replay(self) -> None:
        """A replay was asked for: also streams that stopped at a parked event go on."""
        self.replays_wanted = True
        self._suspect_replays_through = 0
        self._parked.go_on()

    def forget_rows(self) -> None:
        """Give up the rows of what was offered and not taken: they are read again when their turn comes."""
        for item in self._with_rows:
            if item.state != LEASED:
                item.row = None
        self._with_rows.clear()

    # -- leasing ---------------------------------------------------------------------------------

    def lease(self, consumer: str, count: int, now_ms: int) -> list[Item]:
        """Lease up to `count` ready events to a consumer; none to one that has not entered, or is not active."""
        self.held = self._alone is not None and self._alone.state == LEASED
        if self.held or not self.consumers.is_active(consumer, self.options):
            return []
        count = min(count, self.options.max_in_flight - self.in_flight, self._share(consumer))
        taken: list[Item] = []
        self._turns.begin_call()
        while len(taken) < count:
            item = self._turns.first(consumer)
            if item is None:
                break
            if item.suspect and not self._may_travel(item, now_ms):
                self.held = not taken
                break  # and nothing behind it may pass
            self._take(item, consumer, now_ms)
            taken.append(item)
            if self._alone is item:
                break
        return taken

    def _share(self, consumer: str) -> int:
        """Competing consumers get equal parts of what anybody may take."""
        if self.options.strategy == "single" or self.consumers.count < 2:
            return self.options.max_in_flight
        own, shared = self._turns.ready(consumer)
        return own - (-shared // self.consumers.count)

    def _may_travel(self, suspect: Item, now_ms: int) -> bool:
        """One that may be parked for its next failure, or has failed, is to be told from innocent neighbours."""
        return now_ms >= self._held_until_ms and not (self._travels_alone(suspect) and self.in_flight)

    def _travels_alone(self, item: Item) -> bool:
        return item.suspect and (item.failures > 0 or not self.options.max_retries)

    def _take(self, item: Item, consumer: str, now_ms: int) -> None:
        item.taken = True
        item.attempt += 1
        self._lease(item, consumer, now_ms + self.options.ack_timeout_ms)
        if not item.replay and item.position > self._highest:
            self._highest = item.position
        if item.suspect:
            self._record(item, item.failures + 1, ENDED_THE_NODE, replaying=False)
            if self._travels_alone(item):
                self._alone = item

    def handed_out(self, items: Iterable[Item]) -> None:
        """These items, leased just now, go to their consumer: they count as delivered."""
        for item in items:
            self.delivered += 1
            if item.sent or item.failures:
                self.redeliveries += 1
            item.sent = True

    def must_record(self, items: Iterable[Item]) -> bool:
        """Whether a settlement must be decided before these leased items may go out."""
        return any(item.suspect for item in items)

    def lease_of(self, item: Item) -> Lease:
        """The lease under which the item is delivered."""
        return Lease(self._term, self.life, item.position, item.attempt)

    def return_leases(self, leases: Iterable[Lease]) -> None:
        """As `give_back`, of those that are still held."""
        for lease in leases:
            item = self._window.get(lease.position)
            if item is not None and lease == self.lease_of(item):
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
        items = [item for item in found if item is not None]
        if lost and items:
            self._fail(items[0], "its consumer was lost", now_ms, 0)
        self.give_back(items)

    def expire(self, now_ms: int) -> None:
        """Leases run out and pauses before a retry end, silent consumers are gone.

        Of what a consumer lets run out at once the first has failed: it may be what the consumer hangs on, or died of.
        The others it may never have looked at; they come again all the same.
        """
        failed: set[str] = set()
        for item in self._window.overdue(now_ms):
            if item.state == WAITING:
                self._turns.again(item)
            elif item.state == LEASED and item.consumer in failed:
                self.give_back((item,))
            elif item.state == LEASED:
                failed.add(item.consumer)
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
        """Settle leased events, all or none.

        Raises LeaseExpired; InvalidRequest for what was never given; NoLeader for what a later leader gave.
        """
        items, early = self._leased(leases, head)
        self._changes.early.update(early)
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
        items, early = self._leased(leases, head)
        if action == "skip":
            self._changes.early.update(early)
        elif early:
            raise expired(lease for lease in leases if lease.position in early)
        for item in sorted(items):
            self.consumers.seen(item.consumer, now_ms)
            if action == "skip":
                self._settle(item)
            elif item.taken and item.state != LEASED:
                continue  # taken back or parked, for an event before it in its stream failed just now
            elif action == "park":
                item.failures += 1
                self._put_aside(item, reason or "parked by its consumer")
            else:
                pause_ms = self._backoff_ms(item) if delay_ms is None else delay_ms
                self._fail(item, reason or "nacked by its consumer", now_ms, pause_ms)

    def _backoff_ms(self, item: Item) -> int:
        steps = self.options.backoff_ms
        return steps[min(item.failures, len(steps) - 1)] if steps else 0

    def ack_through(self, position: int) -> None:
        """Settle what was delivered up to a position. Raises InvalidRequest beyond what was delivered."""
        if position <= self.checkpoint:
            return
        if position > self._highest:
            raise InvalidRequest(
                f"position {position} is beyond the last one that was delivered, {self._highest or 'none'}",
                pointer="position",
            )
        for item in self._window.through(position):
            if item.taken:
                self._settle(item)

    def ack_items(self, items: Sequence[Item]) -> None:
        """Settle delivered events, whoever has them, all or none. Raises LeaseExpired."""
        if not all(item.taken and self._is_here(item) for item in items):
            raise LeaseExpired("an event of the call is not delivered now; nothing was settled")
        for item in items:
            self._settle(item)

    def _is_here(self, item: Item) -> bool:
        """Whether it was found in this life, and is in the window still or settled since."""
        return self._window.get(item.position) is item or item.state == SETTLING

    def _leased(self, leases: Sequence[Lease], head: int) -> tuple[list[Item], set[int]]:
        """The items to settle, and positions of an earlier leader's leases whose events are not here yet.

        Those that are settled already are fine: the answer to the first call was lost.
        """
        held: dict[int, Item] = {}
        early: set[int] = set()
        late: list[Lease] = []
        for lease in leases:
            if lease.term > self._term:
                raise NoLeader(f"lease {lease.token} is of a later leader; this node leads no more")
            if lease.position > head:
                raise InvalidRequest(f"lease {lease.token} was never given", pointer="leases")
            item = self._window.get(lease.position)
            if item is not None and item.state != SETTLING and self._is_of(lease, item):
                held[lease.position] = item
            elif item is None and self._is_early(lease) and len(early) < self.room():
                early.add(lease.position)
            elif lease.life != self.life or not self.is_settled(lease.position):
                late.append(lease)
        if late:
            raise expired(late)
        return list(held.values()), early

    def _is_of(self, lease: Lease, item: Item) -> bool:
        """Whether it is the item's lease, or an earlier leader's while the event was not delivered again."""
        if lease == self.lease_of(item):
            return item.state == LEASED
        return lease.life == self.life and lease.term < self._term and not item.taken

    def _is_early(self, lease: Lease) -> bool:
        known = lease.life != self.life or lease.position <= self.scanned or self.is_settled(lease.position)
        return lease.term < self._term and not known

    # -- failing ---------------------------------------------------------------------------------

    def _fail(self, item: Item, reason: str, now_ms: int, delay_ms: int) -> None:
        item.failures += 1
        item.taken = True  # also when an earlier leader delivered it: its lease is over
        if item.failures > self.options.max_retries:
            self._put_aside(item, reason)
            return
        self._withdraw(item)
        self._record(item, item.failures, reason, replaying=True)
        if delay_ms:
            self._window.at(item, WAITING, now_ms + delay_ms)
        else:
            self._turns.again(item)
        self._take_back_behind(item)
