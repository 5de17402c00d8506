"""How long this member should be waited for: from what its disk and its links take (consensus.md, slow disks)."""

from __future__ import annotations

from collections import deque
from typing import Final

SAMPLES: Final = 64
FACTOR: Final = 10
FIRST_MS: Final = 1_000


class Pacemaker:
    """Knows the round trip there is now, and the last syncs, in milliseconds; the core clamps what comes of them."""

    def __init__(self) -> None:
        self._syncs: deque[float] = deque(maxlen=SAMPLES)
        self.trip_ms = 0.0
        """What a message to the farthest peer and its answer usually take now."""

    def synced(self, ms: float) -> None:
        """A write of the journal took so long."""
        self._syncs.append(ms)

    @property
    def election_timeout_ms(self) -> int:
        """Ten times the slowest sync but one (a single stall is not how the disk is), or round trip."""
        if not self._syncs:
            return FIRST_MS
        return round(FACTOR * max(_usual_worst(self._syncs), self.trip_ms))


def _usual_worst(samples: deque[float]) -> float:
    ordered = sorted(samples)
    return ordered[-2] if len(ordered) > 1 else ordered[-1] if ordered else 0.0
