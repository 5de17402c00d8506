"""A subscription's replicated state as a board keeps it, a delivery on it, and what both are asked in tests."""

from __future__ import annotations

from typing import Any

from shoal.model.commands import Definition, ReplayParked, ResetSubscription, Settle, SubscriptionCommand
from shoal.model.delivery import Delivery
from shoal.model.settlement import Settlement
from shoal.model.subscriptions import (
    SubscriptionAnswer,
    SubscriptionChanged,
    SubscriptionState,
    decide_subscription,
)
from shoal.types import SubscriptionOptions

NAME = "sub"
DEFINITION = Definition("all", b"null", "beginning")


def state_of(checkpoint: int = 0, **options: Any) -> SubscriptionState:
    """A subscription just created."""
    return SubscriptionState(NAME, 1, DEFINITION, SubscriptionOptions(**options), checkpoint, 1, 1)


def row_of(position: int, stream_id: str = "s") -> Any:
    """An event; its version is its position."""
    return (stream_id, position, position, b"", "t", 0, b"{}", None, None, None, None)


class Replica:
    """What is replicated: the subscription and its parked events, by decisions alone."""

    def __init__(self, state: SubscriptionState) -> None:
        self.state = state
        self.position = 0
        self.epoch_us = 1
        self.parked: dict[int, tuple[str, int, bool, str]] = {}

    def subscription(self, name: str) -> SubscriptionState | None:
        return self.state if name == self.state.name else None

    def decide(self, command: SubscriptionCommand) -> SubscriptionState:
        change, answer = decide_subscription(self, self, command, self.epoch_us + 1)
        assert isinstance(change, SubscriptionChanged)
        assert isinstance(answer, SubscriptionAnswer)
        self.state = change.state
        if change.forget_after is not None:
            self.parked = {at: row for at, row in self.parked.items() if at <= change.forget_after}
        for position in change.unpark:
            self.parked.pop(position, None)
        for each in change.park:
            self.parked[each.position] = (each.stream_id, each.attempts, each.replaying, each.reason)
        for position in change.replay:
            if position in self.parked:
                stream_id, attempts, _, reason = self.parked[position]
                self.parked[position] = (stream_id, attempts, True, reason)
        return self.state

    def settle(self, settlement: Settlement, life: int) -> None:
        parts = (settlement.settled, settlement.park, settlement.unpark, settlement.attempts)
        self.decide(Settle("store", NAME, life, settlement.checkpoint, *parts))

    def replay(self) -> None:
        self.decide(ReplayParked("store", NAME, self.state.life, sorted(self.parked)))

    def reset(self, to: Any) -> None:
        self.decide(ResetSubscription("store", NAME, to))

    def replaying(self) -> list[tuple[int, str, int]]:
        return [(at, row[0], row[1]) for at, row in sorted(self.parked.items()) if row[2]]

    def blocked(self) -> dict[str, int]:
        streams = [row[0] for row in self.parked.values()]
        return {stream_id: streams.count(stream_id) for stream_id in streams}


class Bench:
    """A delivery on a replica, with events of streams named by their first letters: "aab" is two of a and one of b."""

    def __init__(self, streams: str = "", *consumers: str, term: int = 1, **options: Any) -> None:
        self.now_ms = 0
        self.replica = Replica(state_of(**options))
        self.term = term
        self.delivery = Delivery(self.replica.state, term)
        self.append(streams)
        for name in consumers or ("c",):
            self.enter(name)

    def enter(self, name: str) -> None:
        self.delivery.consumers.enter(name, self.now_ms)

    def append(self, streams: str) -> None:
        rows = []
        for stream_id in streams:
            self.replica.position += 1
            rows.append(row_of(self.replica.position, stream_id))
        self.delivery.offer(rows, self.replica.position)
        self.rows = [*getattr(self, "rows", []), *rows]

    def lease(self, consumer: str = "c", count: int = 100) -> list[int]:
        items = self.delivery.lease(consumer, count, self.now_ms)
        self.delivery.handed_out(items)
        return [item.position for item in items]

    def tokens(self, *positions: int) -> list[Any]:
        """The leases of positions as they are now."""
        return [self.delivery.lease_of(self.delivery._window.get(position)) for position in positions]

    def ack(self, *positions: int) -> None:
        self.delivery.ack(self.tokens(*positions), self.now_ms, self.replica.position)

    def nack(self, *positions: int, action: Any = "retry", **rest: Any) -> None:
        self.delivery.nack(self.tokens(*positions), action, self.now_ms, self.replica.position, **rest)

    def settle(self) -> Settlement:
        """Replicate what changed."""
        settlement = self.delivery.take_settlement()
        self.replica.settle(settlement, self.delivery.life)
        self.delivery.confirm()
        return settlement

    def settle_here(self) -> None:
        """As `settle`, of the delivery alone: what it costs."""
        self.delivery.take_settlement()
        self.delivery.confirm()

    def load_replays(self) -> None:
        self.delivery.replays_wanted = False
        self.delivery.offer_parked(self.replica.replaying())

    def replay(self) -> None:
        self.replica.replay()
        self.delivery.replay()
        self.load_replays()

    def later(self, more_ms: int) -> None:
        self.now_ms += more_ms
        self.delivery.expire(self.now_ms)

    def restart(self, *consumers: str, held_ms: int = 0) -> None:
        """The node ended, and another leader begins from what is replicated."""
        self.term += 1
        self.delivery = Delivery(
            self.replica.state,
            self.term,
            suspects_through=self.replica.position,
            held_until_ms=self.now_ms + held_ms,
            blocked=self.replica.blocked() if self.replica.state.options.ordered else {},
        )
        self.load_replays()
        self.delivery.offer(
            [row for row in self.rows if row[2] > self.replica.state.checkpoint], self.replica.position
        )
        for name in consumers or ("c",):
            self.enter(name)

    def parked(self) -> list[int]:
        return sorted(self.replica.parked)
