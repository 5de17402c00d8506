"""Whatever a clock does, event times keep to what may be believed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shoal.clock import BUILD_EPOCH_US, Quality, WallReading
from shoal.model.event_time import JUMP_US, LIFE_US, SLACK_US, EventTime, Known, judge

readings = st.builds(
    WallReading,
    st.integers(0, 2 * (BUILD_EPOCH_US + LIFE_US)) | st.integers(BUILD_EPOCH_US, BUILD_EPOCH_US + LIFE_US),
    st.sampled_from(["ntp", "rtc", "unknown"]),
)
steps = st.lists(st.tuples(readings, st.integers(0, 10_000_000)), min_size=1, max_size=30)


@given(steps, st.integers(0, BUILD_EPOCH_US + LIFE_US))
def test_time_never_leaves_the_twenty_years(history: list[tuple[WallReading, int]], last_us: int) -> None:
    """No sequence of readings carries events past build date + 20 years + the time that passed."""
    event_time, now_ms = EventTime(), 0
    for reading, passed_ms in history:
        now_ms += passed_ms
        last_us = max(last_us + 1, event_time.stamp(reading, now_ms, last_us))
    assert last_us <= BUILD_EPOCH_US + LIFE_US + now_ms * 1000 + SLACK_US + len(history)


@given(steps, st.integers(1, BUILD_EPOCH_US + LIFE_US))
def test_an_unknown_clock_gains_no_more_than_time_passed_and_a_second(
    history: list[tuple[WallReading, int]], last_us: int
) -> None:
    """Over a whole run, and from each event to the next; and no less than the time that passed."""
    event_time, now_ms, begin_us, begin_ms = EventTime(), 0, last_us, None
    for reading, passed_ms in history:
        now_ms += passed_ms
        begin_ms = now_ms if begin_ms is None else begin_ms
        clock_us = event_time.stamp(reading._replace(quality="unknown"), now_ms, last_us)
        passed_us = (now_ms - begin_ms) * 1000
        assert begin_us + passed_us <= clock_us + len(history)
        assert clock_us <= begin_us + passed_us + SLACK_US + len(history)
        last_us = max(last_us + 1, clock_us)


@given(steps)
def test_within_one_boot_time_stays_near_the_first_believed_reading(
    history: list[tuple[WallReading, int]],
) -> None:
    """After the first believed reading no later one moves time by more than a day and a second."""
    event_time, now_ms, last_us = EventTime(), 0, 0
    anchor_us = None
    for reading, passed_ms in history:
        now_ms += passed_ms
        clock_us = event_time.stamp(reading, now_ms, last_us)
        if anchor_us is None:
            anchor_us = clock_us - now_ms * 1000 if event_time.believed else None
            last_us = 0
        else:
            assert abs(clock_us - now_ms * 1000 - anchor_us) <= JUMP_US + SLACK_US
            last_us = clock_us


@given(readings, st.integers(0, 10**9), st.integers(0, BUILD_EPOCH_US + LIFE_US))
def test_a_believed_reading_is_stamped_as_it_is(reading: WallReading, now_ms: int, last_us: int) -> None:
    """Judging never alters what it believes, and believes no `unknown`."""
    judged = judge(Known(), reading, now_ms, last_us)
    unknown: Quality = "unknown"
    assert not judged.believed or (judged.clock_us == reading.epoch_us and reading.quality != unknown)
