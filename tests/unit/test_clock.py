"""The machine's clock and its quality; which time an event gets when the clock cannot be believed."""

from __future__ import annotations

import time

import pytest

from shoal.clock import BUILD_EPOCH_US, SystemClock, WallReading, has_hardware_clock, kernel_synchronised
from shoal.model.event_time import JUMP_US, LIFE_US, SLACK_US, EventTime
from shoal.testing.clock import START_US, FakeClock

HOUR_US = 3_600_000_000
LAST_US = BUILD_EPOCH_US + 100 * HOUR_US


class TestSystemClock:
    """The real clock of this machine."""

    def test_monotonic_time_passes_and_never_goes_back(self) -> None:
        clock = SystemClock()
        readings = [clock.monotonic_ms() for _ in range(1000)]
        assert readings == sorted(readings)

    def test_wall_is_the_machines_time_in_microseconds(self) -> None:
        before = time.time_ns() // 1000
        reading = SystemClock().wall()
        assert before <= reading.epoch_us <= time.time_ns() // 1000

    def test_quality_is_what_kernel_and_hardware_say(self) -> None:
        reading = SystemClock().wall()
        expected = "ntp" if kernel_synchronised() else "rtc" if has_hardware_clock() else "unknown"
        assert reading.quality == ("unknown" if reading.epoch_us < BUILD_EPOCH_US else expected)

    def test_a_reading_before_the_build_is_never_trusted(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(time, "time_ns", lambda: 0)
        assert SystemClock().wall() == WallReading(0, "unknown")

    def test_the_build_date_is_not_in_the_future(self) -> None:
        assert time.time_ns() // 1000 > BUILD_EPOCH_US


class TestFakeClock:
    """The clock of the tests."""

    def test_advance_moves_both_clocks(self) -> None:
        clock = FakeClock()
        clock.advance(1500)
        assert (clock.monotonic_ms(), clock.wall().epoch_us) == (1500, START_US + 1_500_000)

    def test_advance_in_fractions_of_a_millisecond_adds_up(self) -> None:
        clock = FakeClock()
        for _ in range(10):
            clock.advance(0.1)
        assert (clock.monotonic_ms(), clock.wall().epoch_us) == (1, START_US + 1000)

    def test_set_wall_leaves_monotonic_time_alone(self) -> None:
        clock = FakeClock(monotonic_ms=7)
        clock.set_wall(5, "unknown")
        assert (clock.monotonic_ms(), clock.wall()) == (7, WallReading(5, "unknown"))

    def test_advance_refuses_to_go_back(self) -> None:
        with pytest.raises(ValueError, match="set_wall"):
            FakeClock().advance(-1)


def stamp(time_: EventTime, clock: FakeClock, last_us: int) -> int:
    return time_.stamp(clock.wall(), clock.monotonic_ms(), last_us)


class TestBelieved:
    """Readings taken as they are."""

    @pytest.mark.parametrize("quality", ["ntp", "rtc"])
    @pytest.mark.parametrize("last_us", [0, LAST_US])
    def test_a_sane_clock_gives_the_real_time(self, quality: str, last_us: int) -> None:
        clock = FakeClock(quality=quality)  # type: ignore[arg-type]
        event_time = EventTime()
        assert stamp(event_time, clock, last_us) == START_US
        assert event_time.believed

    def test_ntp_behind_the_last_event_is_still_the_time(self) -> None:
        assert stamp(EventTime(), FakeClock(LAST_US - HOUR_US), LAST_US) == LAST_US - HOUR_US

    def test_years_without_power_are_no_jump(self) -> None:
        years_us = 5 * 365 * 24 * HOUR_US
        assert stamp(EventTime(), FakeClock(LAST_US + years_us), LAST_US) == LAST_US + years_us

    def test_first_ntp_after_an_unknown_clock_is_no_jump(self) -> None:
        clock, event_time = FakeClock(0, "unknown"), EventTime()
        assert stamp(event_time, clock, LAST_US) == LAST_US
        assert not event_time.believed
        clock.set_wall(LAST_US + 500 * HOUR_US, "ntp")
        assert stamp(event_time, clock, LAST_US) == LAST_US + 500 * HOUR_US

    def test_small_steps_within_a_day_are_followed(self) -> None:
        clock, event_time = FakeClock(), EventTime()
        stamp(event_time, clock, 0)
        clock.set_wall(START_US + JUMP_US)
        assert stamp(event_time, clock, START_US) == START_US + JUMP_US


class TestNotBelieved:
    """Readings that may not drag the store."""

    @pytest.mark.parametrize(
        ("reading_us", "quality"),
        [
            (0, "unknown"),
            (LAST_US - HOUR_US, "unknown"),
            (LAST_US - 1, "rtc"),
            (0, "ntp"),
            (BUILD_EPOCH_US - HOUR_US, "ntp"),
        ],
    )
    def test_a_clock_that_is_behind_counts_from_the_last_event(self, reading_us: int, quality: str) -> None:
        clock, event_time = FakeClock(reading_us, quality), EventTime()  # type: ignore[arg-type]
        assert stamp(event_time, clock, LAST_US) in {LAST_US, LAST_US - 1}
        clock.advance(60_000)
        assert abs(stamp(event_time, clock, LAST_US) - (LAST_US + 60_000_000)) <= 1

    @pytest.mark.parametrize(
        ("reading_us", "quality"),
        [
            (LAST_US + HOUR_US, "unknown"),
            (BUILD_EPOCH_US + LIFE_US + 1, "ntp"),
            (4_300_000_000_000_000, "rtc"),
        ],
    )
    def test_a_clock_that_is_ahead_gains_a_second_once(self, reading_us: int, quality: str) -> None:
        clock, event_time, last_us = FakeClock(reading_us, quality), EventTime(), LAST_US  # type: ignore[arg-type]
        for _ in range(100):
            last_us = max(last_us + 1, stamp(event_time, clock, last_us))
            clock.advance(10)
        assert last_us <= LAST_US + SLACK_US + 100 * 10_000 + 100

    @pytest.mark.parametrize("jump_us", [JUMP_US + 1, -JUMP_US - 1, 20_000 * HOUR_US])
    def test_a_jump_within_one_boot_is_refused(self, jump_us: int) -> None:
        clock, event_time = FakeClock(), EventTime()
        stamp(event_time, clock, 0)
        clock.advance(5000)
        clock.set_wall(START_US + 5_000_000 + jump_us)
        assert abs(stamp(event_time, clock, START_US) - (START_US + 5_000_000)) <= SLACK_US
        assert not event_time.believed

    def test_many_small_jumps_count_together(self) -> None:
        clock, event_time, last_us = FakeClock(), EventTime(), START_US
        for _ in range(10):
            last_us = stamp(event_time, clock, last_us)
            clock.set_wall(clock.wall().epoch_us + 20 * HOUR_US)
        assert last_us <= START_US + JUMP_US + SLACK_US

    def test_an_operator_may_allow_a_jump(self) -> None:
        clock, event_time = FakeClock(), EventTime()
        stamp(event_time, clock, 0)
        clock.set_wall(BUILD_EPOCH_US + LIFE_US + HOUR_US)
        event_time.allow(clock.wall(), clock.monotonic_ms())
        assert stamp(event_time, clock, START_US) == BUILD_EPOCH_US + LIFE_US + HOUR_US

    def test_losing_synchronisation_changes_nothing_for_a_steady_clock(self) -> None:
        clock, event_time = FakeClock(), EventTime()
        stamp(event_time, clock, 0)
        clock.quality = "unknown"
        clock.advance(10 * 3_600_000)
        assert stamp(event_time, clock, START_US) == START_US + 10 * HOUR_US


class TestEmptyStore:
    """Nothing to be dragged from."""

    @pytest.mark.parametrize(
        ("reading_us", "expected_us"),
        [
            (START_US, START_US),
            (0, BUILD_EPOCH_US),
            (BUILD_EPOCH_US - 1, BUILD_EPOCH_US),
            (BUILD_EPOCH_US + LIFE_US + 1, BUILD_EPOCH_US),
        ],
    )
    def test_an_unknown_clock_is_taken_within_reason(self, reading_us: int, expected_us: int) -> None:
        assert stamp(EventTime(), FakeClock(reading_us, "unknown"), 0) == expected_us

    def test_time_then_passes_as_monotonic_time_does(self) -> None:
        clock, event_time = FakeClock(0, "unknown"), EventTime()
        first = stamp(event_time, clock, 0)
        clock.advance(3_600_000)
        assert stamp(event_time, clock, first) == first + HOUR_US
