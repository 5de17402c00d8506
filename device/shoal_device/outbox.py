"""Readings on their way to the store: bounded memory, in order, none twice.

The store recognises a repeated append by its event ids only when it is the same batch: part of an old
batch with something new is refused as a reused id. So a batch that was tried stays as it is until the
store has answered for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import msgspec

from shoal.types import NewEvent


class Outbox:
    """A queue of events. Over `capacity` the oldest that was never tried is dropped.

    The event after such a gap says how many are missing: `measurements_dropped`, tagged `$sum`.
    """

    def __init__(self, capacity: int, batch_events: int) -> None:
        if not 0 < batch_events < capacity:
            raise ValueError(f"a batch ({batch_events}) must be smaller than the capacity ({capacity})")
        self._capacity = capacity
        self._batch_events = batch_events
        self._batch: tuple[NewEvent, ...] = ()
        self._waiting: deque[NewEvent] = deque()
        self._dropped = 0

    def __len__(self) -> int:
        """Events held, the batch included."""
        return len(self._batch) + len(self._waiting)

    def put(self, event: NewEvent) -> None:
        """Hold `event` until it is settled, at the price of the oldest waiting one when full."""
        if len(self) >= self._capacity:
            self._waiting.popleft()
            self._dropped += 1
        self._waiting.append(event)

    def batch(self) -> Sequence[NewEvent]:
        """What to append next: the same batch until `settle`; empty when there is nothing."""
        if not self._batch:
            size = min(self._batch_events, len(self._waiting))
            self._batch = tuple(self._take() for _ in range(size))
        return self._batch

    def settle(self) -> None:
        """The store has the batch."""
        self._batch = ()

    def _take(self) -> NewEvent:
        event, dropped = self._waiting.popleft(), self._dropped
        self._dropped = 0
        if not dropped:
            return event
        return msgspec.structs.replace(event, data={**event.data, "measurements_dropped": {"$sum": dropped}})
