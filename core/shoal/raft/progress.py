"""What a leader knows of one member: how far it is, and how much is under way to it.

As in etcd-raft, a member is *probed* with one message at a time until the place where the logs agree is known, then
entries are *replicated* to it ahead of its answers within limits, or it is *behind* what the log still holds.
"""

from __future__ import annotations

from collections import deque
from enum import Enum

IN_FLIGHT_MESSAGES = 64
IN_FLIGHT_BYTES = 8 * 1024 * 1024


class Pace(Enum):
    """How entries are sent to a member."""

    PROBE = "probe"
    REPLICATE = "replicate"
    BEHIND = "behind"


class Progress:
    """Of one member. `matched` is durable there and as here; `next_index` is what to send next."""

    def __init__(self, next_index: int, now_ms: int) -> None:
        self.pace = Pace.PROBE
        self.matched = 0
        self.next_index = next_index
        self.probing = False
        """A probe is under way, or entries for it are being fetched."""
        self.heard_ms = now_ms
        self.moved_ms = now_ms
        """When `matched` moved last, or something was sent to one with nothing under way."""
        self.wish_ms = 0
        self.read_round = 0
        self.told_commit = 0
        """The commit index that it was sent last."""
        self._in_flight: deque[tuple[int, int]] = deque()
        self._in_flight_bytes = 0

    @property
    def may_send(self) -> bool:
        """Whether entries may leave now."""
        if self.pace is Pace.REPLICATE:
            return len(self._in_flight) < IN_FLIGHT_MESSAGES and self._in_flight_bytes < IN_FLIGHT_BYTES
        return self.pace is Pace.PROBE and not self.probing

    @property
    def under_way(self) -> bool:
        """Whether an answer is awaited for entries."""
        return bool(self._in_flight) or self.probing

    def sent(self, last_index: int, size: int, now_ms: int) -> None:
        """A message with entries up to `last_index` left."""
        if self.pace is not Pace.REPLICATE:
            self.probing = True
            return
        if not self._in_flight:
            self.moved_ms = now_ms
        self._in_flight.append((last_index, size))
        self._in_flight_bytes += size
        self.next_index = last_index + 1

    def match(self, index: int, now_ms: int) -> bool:
        """The member holds everything up to `index`. True if that is news."""
        self.probing = False
        while self._in_flight and self._in_flight[0][0] <= index:
            self._in_flight_bytes -= self._in_flight.popleft()[1]
        moved = index > self.matched
        if moved:
            self.matched = index
            self.moved_ms = now_ms
        self.next_index = max(self.next_index, index + 1)
        if self.pace is not Pace.REPLICATE and self.matched >= self.next_index - 1:
            self.pace = Pace.REPLICATE
        return moved

    def probe(self, next_index: int) -> None:
        """Find out again where the logs agree, from `next_index` down."""
        self.pace = Pace.PROBE
        self.probing = False
        self.next_index = max(next_index, self.matched + 1)
        self._in_flight.clear()
        self._in_flight_bytes = 0

    def resend(self) -> None:
        """What is under way is lost: send it again, from where the logs surely agree once that is known."""
        self.probe(self.matched + 1 if self.pace is Pace.REPLICATE else self.next_index)

    def fall_behind(self) -> None:
        """The log no longer has what the member needs."""
        self.pace = Pace.BEHIND
        self.probing = False
        self._in_flight.clear()
        self._in_flight_bytes = 0
