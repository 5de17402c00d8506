"""What a delivery should do, as plainly as it can be said: a dict of events, and lists made anew for every question."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from shoal.types import SubscriptionOptions


@dataclass
class Event:
    """One matching event as the leader sees it. `done` is "", settled or parked."""

    position: int
    stream_id: str
    done: str = ""
    failures: int = 0
    replay: bool = False
    suspect: bool = False
    again: bool = False
    taken: bool = False
    lease: Any = None
    consumer: str = ""
    due_ms: int = 0
    pause_ms: int = 0
    holder: str = ""
    pending: bool = False


@dataclass
class Leader:
    """One delivery."""

    options: SubscriptionOptions
    events: dict[int, Event] = field(default_factory=dict)
    consumers: list[str] = field(default_factory=list)
    held_until_ms: int = 0
    stopped: set[str] = field(default_factory=set)

    # -- questions -------------------------------------------------------------------------------

    def live(self) -> list[Event]:
        return [event for event in self.events.values() if event.lease]

    def open(self) -> list[Event]:
        return [event for _, event in sorted(self.events.items()) if not event.done]

    def stream(self, stream_id: str) -> list[Event]:
        return [event for _, event in sorted(self.events.items()) if event.stream_id == stream_id]

    def waiting(self) -> list[Event]:
        return [event for event in self.open() if not event.lease]

    def alone(self, event: Event) -> bool:
        return event.suspect and (event.failures > 0 or self.options.max_retries == 0)

    def is_active(self, consumer: str) -> bool:
        first = self.consumers[:1] if self.options.strategy == "single" else self.consumers
        return consumer in first

    def due(self, consumer: str, now_ms: int) -> list[Event]:
        """What the consumer may get, in order, were it not for limits and suspects. Pauses that are over are over."""
        found: list[Event] = []
        for event in self.waiting():
            if event.pause_ms > now_ms or not self._may_have(consumer, event):
                continue
            before = [each for each in self.stream(event.stream_id) if each.position < event.position]
            blocked = any(not each.done and each not in found for each in before)
            if not (self.options.ordered and blocked):
                found.append(event)
        return [each for each in found if each.again] + [each for each in found if not each.again]

    def _may_have(self, consumer: str, event: Event) -> bool:
        if self.options.strategy != "by_stream" and not self.options.ordered:
            return True
        return {each.holder for each in self.stream(event.stream_id)} <= {"", consumer}

    def may_travel(self, event: Event, now_ms: int, in_flight: int) -> bool:
        if not event.suspect:
            return True
        return now_ms >= self.held_until_ms and not (self.alone(event) and in_flight)

    # -- what happens ----------------------------------------------------------------------------

    def deliver(self, event: Event, consumer: str, lease: Any, now_ms: int) -> None:
        event.lease, event.consumer, event.holder = lease, consumer, consumer
        event.due_ms = now_ms + self.options.ack_timeout_ms
        event.taken = event.again = True
        event.pause_ms = 0

    def give_back(self, event: Event) -> None:
        event.lease, event.holder, event.again = None, "", True

    def fail(self, event: Event, now_ms: int, pause_ms: int) -> None:
        event.failures += 1
        event.taken = True
        if event.failures > self.options.max_retries:
            self.put_aside(event)
            return
        self.give_back(event)
        event.pause_ms = now_ms + pause_ms if pause_ms else 0
        self.take_back_behind(event)

    def take_back_behind(self, event: Event) -> None:
        for each in self.stream(event.stream_id):
            if self.options.ordered and each.position > event.position and each.lease:
                self.give_back(each)

    def put_aside(self, event: Event) -> None:
        self.park(event)
        for each in self.stream(event.stream_id):
            if self.options.ordered and each.position > event.position and not each.done:
                self.park(each)

    def park(self, event: Event) -> None:
        self.give_back(event)
        event.done, event.pending = "parked", True
        if event.replay and self.options.ordered:
            self.stopped.add(event.stream_id)

    def settle(self, event: Event) -> None:
        """Its stream stays where it is until that is decided."""
        if not event.done:
            event.done, event.pending, event.lease = "settled", True, None

    def expire(self, now_ms: int) -> None:
        failed: set[str] = set()
        for event in self.open():
            if event.lease and event.due_ms <= now_ms:
                if event.consumer in failed:
                    self.give_back(event)
                    continue
                failed.add(event.consumer)
                self.fail(event, now_ms, 0)

    def leave(self, consumer: str, now_ms: int, *, lost: bool) -> None:
        mine = [event for event in self.open() if event.lease and event.consumer == consumer]
        self.consumers.remove(consumer)
        if lost and mine:
            self.fail(mine[0], now_ms, 0)
        for event in mine:
            if event.lease:
                self.give_back(event)

    def decided(self, positions: list[int]) -> None:
        for position in positions:
            del self.events[position]

    def undone(self, positions: list[int], leases: dict[int, Any], now_ms: int) -> None:
        """Not decided: leases go on while they last and their consumers are there; all else comes again."""
        for position in sorted(positions):
            event = self.events[position]
            event.pending = False
            event.again = True
            if event.done == "parked":
                self.stopped.discard(event.stream_id)
            lease, event.done = leases.get(position), ""
            if lease and event.due_ms > now_ms and event.consumer in self.consumers:
                event.lease = lease
            else:
                event.holder = ""
                self.take_back_behind(event)
