"""Which time an event gets: the wall clock where it can be believed, else the time since the last event.

Boards wake up in 1970, in the year of their image, or in 2106. `epoch_us` never decreases, so one event
stamped in 2106 would keep the store there for ever. Hence:

- A reading is **believed** if its quality is `ntp` or `rtc`, it lies between the build date and 20 years
  after it, an `rtc` is not behind the last event, and it agrees within 24 h with the first believed reading
  of this process, monotonic time added. The sum of small jumps counts, so that nobody creeps past 24 h.
  A first believed reading after unbelieved ones is no jump: a board without a battery gets its time that way.
- Any other reading moves time by the monotonic time passed, and in all by at most one second more. The second
  is given once, not per event: a thousand appends a second must not gain a thousand seconds.
- An empty store has nothing to be dragged from: an unbelieved reading within the 20 years is taken (it is
  the best there is, and right in most containers), any other gives the build date.
- An operator who knows better calls `allow`.

All state is relative to the monotonic clock (offset = epoch - monotonic), which never jumps.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from shoal.clock import BUILD_EPOCH_US, WallReading

SLACK_US: Final = 1_000_000
JUMP_US: Final = 86_400_000_000
LIFE_US: Final = 20 * 365 * 86_400_000_000


class Known(NamedTuple):
    """What the judge remembers; offsets are epoch less monotonic, in microseconds.

    `anchor` is that of the first believed reading, `ceiling` that of the latest time an unbelieved one can
    reach; None before there was any.
    """

    anchor: int | None = None
    ceiling: int | None = None
    latest_us: int = BUILD_EPOCH_US + LIFE_US


class Judged(NamedTuple):
    """A verdict: the time to stamp, what to remember, and whether it is the clock's own time."""

    clock_us: int
    known: Known
    believed: bool


def judge(known: Known, reading: WallReading, monotonic_ms: int, last_epoch_us: int) -> Judged:
    """The time for an event now. `last_epoch_us` is that of the last event stored, 0 in an empty store.

    The result may be behind `last_epoch_us` (the clock was set back): the state machine keeps the order.
    """
    now_us = monotonic_ms * 1000
    offset = reading.epoch_us - now_us
    if _believed(known, reading, offset, last_epoch_us):
        anchor = offset if known.anchor is None else known.anchor
        return Judged(
            reading.epoch_us, known._replace(anchor=anchor, ceiling=offset + SLACK_US), believed=True
        )
    if last_epoch_us <= 0 and known.ceiling is None:
        first_us = reading.epoch_us if _plausible(known, reading.epoch_us) else BUILD_EPOCH_US
        return Judged(first_us, known._replace(ceiling=first_us - now_us + SLACK_US), believed=False)
    reached = last_epoch_us - now_us
    ceiling = reached + SLACK_US if known.ceiling is None else max(known.ceiling, reached)
    clock_us = now_us + min(max(offset, ceiling - SLACK_US), ceiling)
    return Judged(clock_us, known._replace(ceiling=ceiling), believed=False)


def _plausible(known: Known, epoch_us: int) -> bool:
    return BUILD_EPOCH_US <= epoch_us <= known.latest_us


def _believed(known: Known, reading: WallReading, offset: int, last_epoch_us: int) -> bool:
    if reading.quality == "unknown" or not _plausible(known, reading.epoch_us):
        return False
    if reading.quality == "rtc" and reading.epoch_us < last_epoch_us:
        return False
    return known.anchor is None or abs(offset - known.anchor) <= JUMP_US


class EventTime:
    """The judge with its memory, for one process."""

    def __init__(self) -> None:
        self._known = Known()
        self.believed = False
        """Whether the last reading was believed; rules that go by age wait until it is."""

    def stamp(self, reading: WallReading, monotonic_ms: int, last_epoch_us: int) -> int:
        """The judged clock for events appended now."""
        clock_us, self._known, self.believed = judge(self._known, reading, monotonic_ms, last_epoch_us)
        return clock_us

    def allow(self, reading: WallReading, monotonic_ms: int) -> None:
        """An operator vouches for this reading, however far it jumped; later ones are judged by it."""
        offset = reading.epoch_us - monotonic_ms * 1000
        latest_us = max(self._known.latest_us, reading.epoch_us + LIFE_US)
        self._known = Known(offset, offset + SLACK_US, latest_us)
