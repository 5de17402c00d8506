"""A clock that moves only when told to."""

from __future__ import annotations

from typing import Final

from shoal.clock import Quality, WallReading

START_US: Final = 1_798_761_600_000_000
"""2027-01-01: where a FakeClock begins."""


class FakeClock:
    """Both clocks by hand: `advance` moves them together, `set_wall` the wall clock alone."""

    def __init__(self, epoch_us: int = START_US, quality: Quality = "ntp", monotonic_ms: int = 0) -> None:
        self.quality: Quality = quality
        self._epoch_us = epoch_us
        self._monotonic_us = monotonic_ms * 1000

    def monotonic_ms(self) -> int:
        """Milliseconds advanced so far."""
        return self._monotonic_us // 1000

    def wall(self) -> WallReading:
        """What was set, and what was advanced since."""
        return WallReading(self._epoch_us, self.quality)

    def epoch_ms(self) -> int:
        """The wall clock in milliseconds."""
        return self._epoch_us // 1000

    def advance(self, ms: float) -> None:
        """Let `ms` milliseconds pass on both clocks."""
        if ms < 0:
            raise ValueError("time does not go back; use set_wall for a clock that does")
        self._monotonic_us += round(ms * 1000)
        self._epoch_us += round(ms * 1000)

    def set_wall(self, epoch_us: int, quality: Quality | None = None) -> None:
        """Step the wall clock, as NTP, an operator or an empty battery does."""
        self._epoch_us = epoch_us
        self.quality = self.quality if quality is None else quality
