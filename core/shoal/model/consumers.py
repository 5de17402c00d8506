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
        self._owners: dict[str, tuple[str, int]] = {}

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
        """Whether it gets events: under strategy single only the one that came first does."""
        return options.strategy != "single" or next(iter(self._known), name) == name

    def may_have(self, name: str, stream_id: str, options: SubscriptionOptions) -> bool:
        """Whether the stream's events may go to it: under by_stream nobody else may hold one."""
        if options.strategy != "by_stream":
            return True
        owner = self._owners.get(stream_id)
        return owner is None or owner[0] == name

    # -- leases ----------------------------------------------------------------------------------

    def leased(self, name: str) -> int:
        """Events it has leased."""
        consumer = self._known.get(name)
        return 0 if consumer is None else len(consumer.leased)

    def take(self, name: str, position: int, stream_id: str) -> None:
        """It has leased an event."""
        self._known[name].leased.add(position)
        _, count = self._owners.get(stream_id, (name, 0))
        self._owners[stream_id] = (name, count + 1)

    def give(self, name: str, position: int, stream_id: str) -> None:
        """Its lease of an event has ended."""
        consumer = self._known.get(name)
        if consumer is not None:
            consumer.leased.discard(position)
        owner, count = self._owners[stream_id]
        if count == 1:
            del self._owners[stream_id]
        else:
            self._owners[stream_id] = (owner, count - 1)

    def forget_leases(self) -> None:
        """No lease counts any more: the subscription was reset."""
        self._owners.clear()
        for consumer in self._known.values():
            consumer.leased.clear()

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
