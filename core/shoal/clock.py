"""Clocks: monotonic time for deadlines, the wall clock with its quality for event times."""

from __future__ import annotations

import ctypes
import os
import time
from typing import Final, Literal, NamedTuple, Protocol

Quality = Literal["ntp", "rtc", "unknown"]

BUILD_EPOCH_US: Final = 1_793_491_200_000_000
"""2026-11-01, when this release was young: no right clock reads earlier."""

_STA_UNSYNC: Final = 0x0040
_TIME_ERROR: Final = 5


class WallReading(NamedTuple):
    """A wall clock reading: microseconds since 1970, and how far to trust it."""

    epoch_us: int
    quality: Quality


class Clock(Protocol):
    """Time as an argument: everything that waits or stamps takes one of these."""

    def monotonic_ms(self) -> int:
        """Milliseconds that never go back; only differences mean anything."""

    def wall(self) -> WallReading:
        """The wall clock, judged."""

    def epoch_ms(self) -> int:
        """The wall clock as it is, in milliseconds since 1970; for ids, whose order is not promised."""


class SystemClock:
    """The machine's clocks.

    Quality is `ntp` while the kernel says that something keeps its clock right, else `rtc` if the machine has
    a clock that runs without power, else `unknown`. It is asked for once a second at most.
    """

    def __init__(self) -> None:
        self._has_rtc = has_hardware_clock()
        self._quality: Quality = "unknown"
        self._quality_until_ms = -1

    def monotonic_ms(self) -> int:
        """Milliseconds since boot, sleep included: a board that slept over the weekend has not jumped."""
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000

    def epoch_ms(self) -> int:
        """Milliseconds of CLOCK_REALTIME."""
        return time.time_ns() // 1_000_000

    def wall(self) -> WallReading:
        """Microseconds of CLOCK_REALTIME with their quality."""
        now_ms = self.monotonic_ms()
        if now_ms >= self._quality_until_ms:
            self._quality = "ntp" if kernel_synchronised() else "rtc" if self._has_rtc else "unknown"
            self._quality_until_ms = now_ms + 1000
        epoch_us = time.time_ns() // 1000
        return WallReading(epoch_us, "unknown" if epoch_us < BUILD_EPOCH_US else self._quality)


def has_hardware_clock() -> bool:
    """Whether a battery or a hypervisor keeps the time; every PC has such a clock, listed or not."""
    return os.uname().machine in {"x86_64", "i686"} or os.path.exists("/sys/class/rtc/rtc0")  # noqa: PTH110


class _Timex(ctypes.Structure):
    """The head of `struct timex` (adjtimex(2)), and room for its rest."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_long * 32),
    )


def kernel_synchronised() -> bool:
    """Whether the kernel calls its clock synchronised; no where the call is missing or forbidden."""
    call = getattr(ctypes.CDLL(None), "adjtimex", None)
    if call is None:
        return False
    timex = _Timex()
    state: int = call(ctypes.byref(timex))
    return state not in {-1, _TIME_ERROR} and not timex.status & _STA_UNSYNC
