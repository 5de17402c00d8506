"""What a delivery has to replicate: gathered, and given out as one settlement at a time."""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heappop, heappush
from typing import Final

import msgspec

from shoal.errors import LeaseExpired
from shoal.model.commands import Parked
from shoal.model.lease import Lease
from shoal.model.window import LEASED, Item

REASON_CHARS: Final = 1_000


class Settlement(msgspec.Struct, frozen=True):
    """What to replicate (see shoal.model.commands.Settle), and how its items stood: position -> (state, due_ms)."""

    checkpoint: int
    settled: list[int]
    park: list[Parked]
    unpark: list[int]
    attempts: list[tuple[int, int]]
    before: dict[int, tuple[int, int]]


class Changes:
    """What changed and is not replicated yet, and what is settled beyond the checkpoint.

    `early` are positions that leases of an earlier leader settled before their events were read here.
    """

    def __init__(self, checkpoint: int, settled: Iterable[int]) -> None:
        self.checkpoint = checkpoint
        self.settled = set(settled)
        self.early: set[int] = set()
        self.park: dict[int, Parked] = {}
        self.attempts: dict[int, int] = {}
        self._settled_order = sorted(self.settled)
        self._pending: dict[int, tuple[int, int]] = {}
        self._unpark: set[int] = set()
        self._under_way: Settlement | None = None

    def __len__(self) -> int:
        """How many changes wait; what is under way counts only as far as it was early."""
        return len(self._pending) + len(self.park) + len(self.attempts) + len(self.early)

    @property
    def settling(self) -> int:
        """Items that are settled here, and not for good."""
        return len(self._pending) + (len(self._under_way.before) if self._under_way else 0)

    def held(self) -> set[int]:
        """Positions of settling items that were leased: until it is decided, their streams stay where they are."""
        under_way = self._under_way.before if self._under_way else {}
        return {
            position
            for before in (self._pending, under_way)
            for position, (state, _) in before.items()
            if state == LEASED
        }

    def settle(self, item: Item, state: int, due_ms: int) -> None:
        """The item is done with: settled, or parked if `park` has it then."""
        self._pending[item.position] = (state, due_ms)
        self.attempts.pop(item.position, None)
        self.park.pop(item.position, None)
        if item.replay or item.stored:
            self._unpark.add(item.position)

    def is_settled(self, position: int) -> bool:
        """Whether an event that is not in the window is settled, or about to be."""
        return position <= self.checkpoint or position in self.settled or position in self.early

    # -- one settlement at a time ----------------------------------------------------------------

    def begin(self, checkpoint: int) -> Settlement:
        """Everything that changed since the last one, which must be over."""
        if self._under_way is not None:
            raise RuntimeError("the settlement before is not decided yet")
        self._under_way = Settlement(
            checkpoint,
            sorted(at for at in {*self._pending, *self.early} if at > checkpoint),
            list(self.park.values()),
            sorted(self._unpark - self.park.keys()),
            sorted(self.attempts.items()),
            self._pending,
        )
        self._pending, self._unpark, self.park, self.attempts = {}, set(), {}, {}
        return self._under_way

    def end(self, *, decided: bool) -> Settlement:
        """The settlement under way is over; one that was decided counts from now on."""
        settlement, self._under_way = self._under_way, None
        if settlement is None:
            raise RuntimeError("no settlement is under way")
        if decided:
            self.checkpoint = max(self.checkpoint, settlement.checkpoint)
            self._remember(settlement.settled)
        return settlement

    def _remember(self, settled: list[int]) -> None:
        new = [position for position in settled if position not in self.settled]
        self.settled.update(new)
        self.early = {at for at in self.early.difference(settled) if at > self.checkpoint}
        for position in new:
            heappush(self._settled_order, position)
        while self._settled_order and self._settled_order[0] <= self.checkpoint:
            self.settled.discard(heappop(self._settled_order))


def parked(item: Item, reason: str, *, failures: int, replaying: bool) -> Parked:
    """The item as a parked event."""
    return Parked(item.position, item.stream_id, reason[:REASON_CHARS], failures, replaying)


def expired(leases: Iterable[Lease]) -> LeaseExpired:
    """The error that names leases which are not held."""
    tokens = [lease.token for lease in leases]
    return LeaseExpired(
        f"{len(tokens)} of the leases are not held any more; nothing was settled. The events come again",
        leases=tokens,
    )
