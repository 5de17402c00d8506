"""The consumers of a subscription: who is there, who is active, and what each has leased."""

from __future__ import annotations

from shoal.errors import AlreadyExists, TooBusy
from shoal.types import SubscriptionOptions

MAX_CONSUMERS = 1_000


class _Consumer:
    __slots__ = ("busy", "leased", "seen_ms")

    def __init__(self) -> None:
        self.busy = False
        self.seen_ms = 0
        self.leased: set[int] = set()


class Consumers:
    """In the order in which they came. A consumer is *busy* while it pulls or is connected, gone after a while else."""

    def __init__(self) -> None:
        self._known: dict[str, _Consumer] = {}

    @property
    def names(self) -> list[str]:
        """Those that are known."""
        return list(self._known)

    @property
    def count(self) -> int:
        """How many are known."""
        return len(self._known)

    def enter(self, name: str, now_ms: int) -> None:
        """A consumer pulls, or connects. Raises AlreadyExists while another call of its name goes on, TooBusy."""
        consumer = self._known.get(name)
        if consumer is None:
            if len(self._known) >= MAX_CONSUMERS:
                raise TooBusy(
                    f"the subscription has {MAX_CONSUMERS} consumers already", retry_after_ms=30_000
                )
            consumer = self._known[name] = _Consumer()
        if consumer.busy:
            raise AlreadyExists(
                f"consumer {name!r} pulls or is connected already; give each consumer a name of its own",
                consumer=name,
            )
        consumer.busy = True
        consumer.seen_ms = now_ms

    def rest(self, name: str, now_ms: int) -> None:
        """The consumer's call is over; it stays known."""
        consumer = self._known.get(name)
        if consumer is not None:
            consumer.busy = False
            consumer.seen_ms = now_ms

    def seen(self, name: str, now_ms: int) -> None:
        """The consumer has settled something."""
        consumer = self._known.get(name)
        if consumer is not None:
            consumer.seen_ms = now_ms

    def leave(self, name: str) -> list[int]:
        """The consumer is gone; the positions it had leased."""
        consumer = self._known.pop(name, None)
        return [] if consumer is None else sorted(consumer.leased)

    def is_active(self, name: str, options: SubscriptionOptions) -> bool:
        """Whether it is there and gets events: under strategy single only the one that came first does."""
        if options.strategy == "single":
            return next(iter(self._known), None) == name
        return name in self._known

    # -- leases ----------------------------------------------------------------------------------

    def leased(self, name: str) -> int:
        """Events it has leased."""
        consumer = self._known.get(name)
        return 0 if consumer is None else len(consumer.leased)

    def is_known(self, name: str) -> bool:
        """Whether it is there."""
        return name in self._known

    def take(self, name: str, position: int) -> None:
        """One that is there has leased an event."""
        self._known[name].leased.add(position)

    def give(self, name: str, position: int) -> None:
        """Its lease of an event has ended."""
        consumer = self._known.get(name)
        if consumer is not None:
            consumer.leased.discard(position)

    def renewed(self) -> Consumers:
        """The same consumers, none of which has leased anything; what the old ones' leases do concerns them no more."""
        new = Consumers()
        for name, consumer in self._known.items():
            again = new._known[name] = _Consumer()
            again.busy, again.seen_ms = consumer.busy, consumer.seen_ms
        return new

    # -- time ------------------------------------------------------------------------------------

    def gone(self, now_ms: int, timeout_ms: int) -> list[str]:
        """Those that have not been heard of for too long. Their leases run out by themselves."""
        return [
            name
            for name, consumer in self._known.items()
            if not consumer.busy and now_ms - consumer.seen_ms >= timeout_ms
        ]

    def next_gone_ms(self, timeout_ms: int) -> int | None:
        """When the next one will be."""
        resting = [consumer.seen_ms for consumer in self._known.values() if not consumer.busy]
        return min(resting) + timeout_ms if resting else None
