"""Whatever happens to a delivery, it does what a plain model of it does, and no event is lost."""

from __future__ import annotations

import contextlib
from typing import Any

from delivery_kit import Replica, row_of, state_of
from delivery_model import Event, Leader
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from shoal.errors import AlreadyExists, InvalidRequest, LeaseExpired
from shoal.model.commands import ChangeSubscription
from shoal.model.delivery import AHEAD_ITEMS, Delivery
from shoal.model.lease import Lease
from shoal.model.window import LEASED, SETTLING
from shoal.types import SubscriptionOptions

CONSUMERS = ["ann", "bob", "cyd"]
STREAMS = "abc"
names = st.sampled_from(CONSUMERS)
some_options = st.fixed_dictionaries(
    {
        "ack_timeout_ms": st.sampled_from([100, 1_000]),
        "max_in_flight": st.sampled_from([1, 2, 5, 100]),
        "max_retries": st.sampled_from([0, 1, 3]),
        "backoff_ms": st.sampled_from([(), (50,), (10, 400)]),
        "consumer_timeout_ms": st.just(5_000),
    }
)
picks = st.lists(st.integers(0, 30), min_size=1, max_size=4)
rarely = st.sampled_from([False, False, False, True])
mostly = st.sampled_from([True, True, True, False])


class DeliveryMachine(RuleBasedStateMachine):
    strategy: Any = "single"
    ordered = False

    @initialize(options=some_options)
    def begin(self, options: dict[str, Any]) -> None:
        self.now_ms = 1_000
        self.term = 1
        self.log: list[tuple[int, str]] = []
        self.replica = Replica(state_of(strategy=self.strategy, ordered=self.ordered, **options))
        self.given: list[Lease] = []
        self.ever_delivered: set[int] = set()
        self.ever_settled: set[int] = set()
        self.first_deliveries: list[int] = []
        self.under_way: Any = None
        self._lead(Delivery(self.replica.state, 1), held_until_ms=0, suspects_through=0)
        self.append(["a", "b", None, "a", "c", "a", "b"])
        self.enter("ann", rests=False)

    def _lead(self, delivery: Delivery, *, held_until_ms: int, suspects_through: int) -> None:
        self.delivery = delivery
        self.leader = Leader(delivery.options, held_until_ms=held_until_ms)
        self.suspects_through = self.suspect_replays_through = suspects_through
        self.early: set[int] = set()
        self.settled_known = set(self.replica.state.settled)
        self.under_way = None

    # -- events come, consumers come and go ------------------------------------------------------

    @rule(events=st.lists(st.sampled_from([*STREAMS, None]), min_size=1, max_size=6))
    def append(self, events: list[str | None]) -> None:
        for stream_id in events:
            self.replica.position += 1
            self.replica.epoch_us += 1
            if stream_id is not None:
                self.log.append((self.replica.position, stream_id))

    @rule(name=names, rests=st.booleans())
    def enter(self, name: str, rests: bool) -> None:
        with contextlib.suppress(AlreadyExists):
            self.delivery.consumers.enter(name, self.now_ms)
            if name not in self.leader.consumers:
                self.leader.consumers.append(name)
        if rests:
            self.delivery.consumers.rest(name, self.now_ms)

    @rule(name=names, lost=st.booleans())
    def leave(self, name: str, lost: bool) -> None:
        self.delivery.leave(name, self.now_ms, lost=lost)
        if name in self.leader.consumers:
            self.leader.leave(name, self.now_ms, lost=lost)

    @rule(more_ms=st.sampled_from([10, 60, 150, 1_000, 6_000]))
    def time_goes_by(self, more_ms: int) -> None:
        self.now_ms += more_ms
        self._expire()

    def _expire(self) -> None:
        self.delivery.expire(self.now_ms)
        self.leader.expire(self.now_ms)
        self.leader.consumers = [
            name for name in self.leader.consumers if name in self.delivery.consumers.names
        ]

    # -- delivering ------------------------------------------------------------------------------

    def _offer(self, count: int) -> None:
        first = self.delivery.scanned
        found = [each for each in self.log if each[0] > first][: min(count, self.delivery.room())]
        scanned = found[-1][0] if found else self.replica.position
        self.delivery.offer([row_of(*each) for each in found], scanned)
        for position, stream_id in found:
            if position not in self.settled_known:
                self._taken_in(Event(position, stream_id))
        self.early = {position for position in self.early if position > scanned}

    def _taken_in(self, event: Event) -> None:
        event.suspect = event.position <= self.suspects_through
        event.failures = dict(self.replica.state.attempts).get(event.position, 0)
        parked = [at for at in self._parked_here() if dict(self.log)[at] == event.stream_id]
        self.leader.events[event.position] = event
        if event.position in self.early:
            self.leader.settle(event)
        elif self.leader.options.ordered and parked:
            self.leader.park(event)
        elif event.suspect and event.failures > self.leader.options.max_retries:
            self.leader.put_aside(event)

    def _parked_here(self) -> set[int]:
        """What is parked as the leader sees it, decided or not."""
        events = self.leader.events.items()
        mine = {position for position, event in events if event.done == "parked" or event.replay}
        gone = {position for position, event in events if event.done != "parked" and not event.replay}
        gone |= {position for position, event in events if event.done == "settled"}
        return (set(self.replica.parked) | mine) - gone

    @rule()
    def load_replays(self) -> None:
        if not self.delivery.replays_wanted:
            return
        self.delivery.replays_wanted = False
        replaying = self.replica.replaying()
        self.delivery.offer_parked(replaying)
        for position, stream_id, failures in replaying:
            if position not in self.leader.events:
                event = Event(position, stream_id, failures=failures, replay=True, again=True)
                event.suspect = position <= self.suspect_replays_through
                self.leader.events[position] = event
                if self.leader.options.ordered and stream_id in self.leader.stopped:
                    self.leader.park(event)

    @rule(name=names, count=st.integers(1, 8), loads=mostly)
    def pull(self, name: str, count: int, loads: bool) -> None:
        self._expire()
        if loads:
            self.load_replays()
        self._offer(count)
        self._pull(name, count)

    def _pull(self, name: str, count: int) -> list[int]:
        due = self.leader.due(name, self.now_ms) if self.leader.is_active(name) else []
        in_flight = len(self.leader.live())
        alone = any(self.leader.alone(each) for each in self.leader.live())
        limit = self.leader.options.max_in_flight - in_flight
        items = self.delivery.lease(name, count, self.now_ms)
        assert [item.position for item in items] == [each.position for each in due[: len(items)]]
        assert len(items) <= max(0, min(count, limit))
        travels = due and not alone and self.leader.may_travel(due[0], self.now_ms, in_flight)
        assert bool(items) == bool(travels and limit > 0)
        for event, item in zip(due, items, strict=False):
            assert self.leader.may_travel(event, self.now_ms, in_flight)
            assert len(items) == 1 or not self.leader.alone(event)
            self._delivered(event, name, self.delivery.lease_of(item), item.attempt)
        if self.delivery.must_record(items):
            self._decide("confirm")
            self._settle("confirm")
        return [item.position for item in items]

    def _delivered(self, event: Event, name: str, lease: Lease, attempt: int) -> None:
        assert lease not in self.given
        assert attempt == lease.attempt
        if not event.again:
            streams = self.leader.options.ordered or self.leader.options.strategy == "by_stream"
            later = [at for at in self.first_deliveries if at > event.position]
            assert not [at for at in later if not streams or dict(self.log)[at] == event.stream_id]
            self.first_deliveries.append(event.position)
        self.given.append(lease)
        self.ever_delivered.add(event.position)
        self.leader.deliver(event, name, lease, self.now_ms)

    # -- settling --------------------------------------------------------------------------------

    def _picked(self, numbers: list[int], now: bool) -> list[Lease]:
        """Leases that are held, or were at whatever time, the latest ones most often."""
        held = [event.lease for event in self.leader.live()]
        given = held if held and now else self.given
        return [given[-1 - number % len(given)] for number in numbers]

    def _standing(self, lease: Lease) -> str:
        """held, early, settled or expired."""
        event = self.leader.events.get(lease.position)
        if lease.life != self.delivery.life:
            return "expired"
        if event is None:
            settled = (
                lease.position <= self.delivery.checkpoint
                or lease.position in self.settled_here()
                or lease.position in self.early
            )
            return "settled" if settled else "early" if lease.term < self.term else "expired"
        if event.done:
            return "settled"
        if event.lease == lease or (lease.term < self.term and not event.taken):
            return "held"
        return "expired"

    def settled_here(self) -> set[int]:
        """Positions that are not in the window and were taken in: settled for good."""
        return {at for at, _ in self.log if at <= self.delivery.scanned} | self.settled_known

    @precondition(lambda self: self.given)
    @rule(numbers=picks, now=mostly)
    def ack(self, numbers: list[int], now: bool) -> None:
        leases = self._picked(numbers, now)
        self._call(leases, "skip", lambda: self.delivery.ack(leases, self.now_ms, self.replica.position))

    @precondition(lambda self: self.given)
    @rule(
        numbers=picks,
        action=st.sampled_from(["retry", "retry", "park", "skip"]),
        delay_ms=st.sampled_from([None, 0, 100]),
        now=mostly,
    )
    def nack(self, numbers: list[int], action: Any, delay_ms: int | None, now: bool) -> None:
        leases = self._picked(numbers, now)
        head = self.replica.position
        self._call(
            leases,
            action,
            lambda: self.delivery.nack(leases, action, self.now_ms, head, delay_ms=delay_ms),
            delay_ms,
        )

    def _call(self, leases: list[Lease], action: str, call: Any, delay_ms: int | None = None) -> None:
        self._expire()
        standing = {lease: self._standing(lease) for lease in leases}
        if "expired" in standing.values() or (action != "skip" and "early" in standing.values()):
            try:
                call()
            except LeaseExpired:
                return
            raise AssertionError(standing)
        call()
        for lease in sorted(standing, key=lambda each: each.position):
            event = self.leader.events.get(lease.position)
            if standing[lease] == "early":
                self.early.add(lease.position)
                self.ever_settled.add(lease.position)
            elif standing[lease] == "held" and event is not None:
                self._settled(event, action, delay_ms)

    def _settled(self, event: Event, action: str, delay_ms: int | None) -> None:
        if action == "skip":
            self.leader.settle(event)
            self.ever_settled.add(event.position)
        elif event.taken and not event.lease:
            return
        elif action == "park":
            event.failures += 1
            self.leader.put_aside(event)
        else:
            steps = self.leader.options.backoff_ms
            pause = steps[min(event.failures, len(steps) - 1)] if steps else 0
            self.leader.fail(event, self.now_ms, pause if delay_ms is None else delay_ms)

    @rule(numbers=st.integers(0, 5))
    def ack_through(self, numbers: int) -> None:
        taken = [event.position for event in self.leader.events.values() if event.taken and not event.replay]
        position = sorted(taken)[-1 - numbers % len(taken)] if taken else self.replica.position + 1
        fresh = [lease.position for lease in self.given if lease.term == self.term]
        if position > max([*fresh, self.delivery.checkpoint]):
            with contextlib.suppress(InvalidRequest):
                self.delivery.ack_through(position)
                assert not taken or position <= max(taken)
            return
        with contextlib.suppress(InvalidRequest):
            self.delivery.ack_through(position)
            for event in self.leader.open():
                if event.position <= position and event.taken and not event.replay:
                    self.leader.settle(event)
                    self.ever_settled.add(event.position)

    # -- replicating -----------------------------------------------------------------------------

    @precondition(lambda self: self.under_way is None)
    @rule()
    def propose(self) -> None:
        pending = [event.position for event in self.leader.events.values() if event.pending]
        leases = {lease.position: lease for lease in self.given if lease.term == self.term}
        self.under_way = (self.delivery.take_settlement(), pending, leases)
        for event in self.leader.events.values():
            event.pending = False

    @precondition(lambda self: self.under_way is not None)
    @rule(outcome=st.sampled_from(["confirm", "confirm", "revert", "lost"]))
    def decide(self, outcome: str) -> None:
        self._decide(outcome)

    def _settle(self, outcome: str) -> None:
        self.propose()
        self._decide(outcome)

    def _decide(self, outcome: str) -> None:
        """With "lost" it was decided, and the answer did not come."""
        if self.under_way is None:
            return
        (settlement, positions, leases), self.under_way = self.under_way, None
        if outcome != "revert":
            before = self.replica.state.checkpoint
            self.replica.settle(settlement, self.delivery.life)
            assert self.replica.state.checkpoint >= before
        if outcome == "confirm":
            self.delivery.confirm()
            self.leader.decided(positions)
            self.early -= set(settlement.settled)
            self.settled_known |= set(settlement.settled)
        else:
            self.delivery.revert(self.now_ms)
            held = {at: leases[at] for at in positions if self.leader.events[at].holder and at in leases}
            self.leader.undone(positions, held, self.now_ms)

    # -- what a user does, and what a node suffers -----------------------------------------------

    @precondition(lambda self: self.replica.parked)
    @rule()
    def replay(self) -> None:
        self.replica.replay()
        self.delivery.replay()
        self.leader.stopped.clear()
        self.suspect_replays_through = 0

    @rule(changed=some_options)
    def change(self, changed: dict[str, Any]) -> None:
        options = SubscriptionOptions(strategy=self.strategy, ordered=self.ordered, **changed)
        self.replica.decide(ChangeSubscription("store", "sub", options, [*changed, "strategy", "ordered"]))
        self.delivery.change(options)
        self.leader.options = options

    @rule(really=rarely, to=st.sampled_from(["beginning", "end", 3]))
    def reset(self, really: bool, to: Any) -> None:
        if not really or (to == 3 and self.replica.position < 3):
            return
        old, consumers = self.delivery, self.leader.consumers
        self.replica.reset(to)
        at = self.replica.state.checkpoint
        self.first_deliveries = [each for each in self.first_deliveries if each <= at]
        self.ever_settled = {each for each in self.ever_settled if each <= at} | set(self.replica.parked)
        self.ever_delivered = {each for each in self.ever_delivered if each <= at}
        self.log = [
            each for each in self.log if to == "beginning" or each[0] > at or each[0] in self.ever_settled
        ]
        under_way = self.under_way
        blocked = self.replica.blocked() if self.ordered else {}
        self._lead(old.anew(self.replica.state, blocked), held_until_ms=0, suspects_through=0)
        self.leader.consumers = consumers
        if under_way is not None:
            old.revert(self.now_ms)  # and concerns nobody

    @rule(really=rarely, decided=st.booleans(), held_ms=st.sampled_from([0, 0, 100, 1_000]))
    def restart(self, really: bool, decided: bool, held_ms: int) -> None:
        if not really:
            return
        if self.under_way is not None and decided:
            self.replica.settle(self.under_way[0], self.delivery.life)
        self._restart(held_ms)

    def _restart(self, held_ms: int) -> None:
        self.term += 1
        head = self.replica.position
        until = self.now_ms + held_ms
        blocked = self.replica.blocked() if self.ordered else {}
        delivery = Delivery(
            self.replica.state, self.term, suspects_through=head, held_until_ms=until, blocked=blocked
        )
        self.first_deliveries.clear()
        self._lead(delivery, held_until_ms=until, suspects_through=head)

    # -- what holds at all times -----------------------------------------------------------------

    @invariant()
    def it_stands_as_modelled(self) -> None:
        delivery, leader = self.delivery, self.leader
        items = {item.position: item for item in delivery._window}
        assert items.keys() == leader.events.keys()
        for position, item in items.items():
            event = leader.events[position]
            assert (item.state == SETTLING, item.state == LEASED) == (bool(event.done), bool(event.lease)), (
                event
            )
            assert item.failures == event.failures, event
            assert item.state != LEASED or delivery.lease_of(item) == event.lease
        assert delivery.in_flight == len(leader.live())
        assert delivery.waiting == len(leader.waiting())
        for name in CONSUMERS:
            known = name in delivery.consumers.names
            mine = [event for event in leader.live() if event.consumer == name]
            assert delivery.consumers.leased(name) <= (len(mine) if known else 0)

    @invariant()
    def what_is_ready_is_counted(self) -> None:
        ready = [item for item in self.delivery._window if item.state == 0]
        if not self.ordered and self.strategy != "by_stream":
            assert self.delivery.ready("ann") == len(ready)
        if self.ordered:
            counts, turns = self._recount(), self.delivery._parked._counts
            assert {stream_id: total for stream_id, (total, _) in turns.items()} == counts

    def _recount(self) -> dict[str, int]:
        streams = [dict(self.log)[at] for at in self._parked_here()]
        return {stream_id: streams.count(stream_id) for stream_id in streams}

    @invariant()
    def nobody_has_what_another_has(self) -> None:
        live = self.leader.live()
        for event in live:
            others = [each for each in live if each.stream_id == event.stream_id]
            if self.strategy == "by_stream" or self.ordered:
                assert {each.consumer for each in others} == {event.consumer}
        room = self.delivery.room()
        assert 0 <= room <= self.delivery.options.max_in_flight + AHEAD_ITEMS

    @invariant()
    def the_checkpoint_is_not_ahead(self) -> None:
        for position, _ in self.log:
            if position <= self.replica.state.checkpoint or position in self.replica.state.settled:
                assert position in self.ever_settled or position in self.replica.parked, position
            assert position <= self.replica.position

    def teardown(self) -> None:
        """Acking everything delivers everything that was not settled, and the checkpoint comes to the head."""
        if not hasattr(self, "delivery"):
            return
        self._decide("confirm")
        for name in list(self.delivery.consumers.names):
            self.leave(name, lost=False)
        self._settle("confirm")
        self.enter("ann", rests=False)
        for _ in range(1_000):
            self.now_ms += 1_000
            self._expire()
            self.load_replays()
            self._offer(3)
            got = self._pull("ann", 3)
            self.it_stands_as_modelled()
            if got:
                self.ack(list(range(len(got))), now=True)
            self._settle("confirm")
            if self.replica.state.checkpoint == self.replica.position and not self.replica.replaying():
                break
        assert self.replica.state.checkpoint == self.replica.position
        assert not self.replica.replaying()
        assert not self.replica.state.attempts
        lost = {position for position, _ in self.log} - self.ever_settled - set(self.replica.parked)
        assert not lost
        assert self.delivery.in_flight == self.delivery.waiting == 0


MOST = settings(settings.default, max_examples=60, stateful_step_count=50)


class ByStream(DeliveryMachine):
    strategy = "by_stream"


class Robin(DeliveryMachine):
    strategy = "round_robin"


class OrderedSingle(DeliveryMachine):
    ordered = True


class OrderedRobin(Robin):
    ordered = True


class OrderedByStream(ByStream):
    ordered = True


TestSingle = DeliveryMachine.TestCase
TestSingle.settings = MOST
TestByStream = ByStream.TestCase
TestByStream.settings = MOST
TestRoundRobin = Robin.TestCase
TestRoundRobin.settings = MOST
TestOrderedSingle = OrderedSingle.TestCase
TestOrderedSingle.settings = MOST
TestOrderedByStream = OrderedByStream.TestCase
TestOrderedByStream.settings = MOST
TestOrderedRoundRobin = OrderedRobin.TestCase
TestOrderedRoundRobin.settings = MOST
