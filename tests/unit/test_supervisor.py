"""The supervisor: what dies is restarted or ends the process; nothing dies unnoticed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from shoal import telemetry
from shoal.errors import AlreadyExists, DiskFull, InternalError, ShuttingDown
from shoal.supervisor import Backoff, Supervisor
from shoal.testing.clock import FakeClock


class Sleeper:
    """Sleeps by moving a clock; remembers how long. Blocks for ever once `limit` sleeps were slept."""

    def __init__(self, clock: FakeClock, limit: int = 1000) -> None:
        self.clock, self.limit = clock, limit
        self.slept_s: list[float] = []
        self.full = asyncio.Event()

    async def __call__(self, seconds: float) -> None:
        self.slept_s.append(seconds)
        self.clock.advance(seconds * 1000)
        if len(self.slept_s) >= self.limit:
            self.full.set()
            await asyncio.Event().wait()
        await asyncio.sleep(0)


def supervisor(limit: int = 1000, jitter: Callable[[], float] = lambda: 0.0) -> tuple[Supervisor, Sleeper]:
    clock = FakeClock()
    sleeper = Sleeper(clock, limit)
    return Supervisor(clock=clock, sleep=sleeper, jitter=jitter, grace_ms=50), sleeper


@pytest.fixture
def events() -> Iterator[list[tuple[telemetry.EventName, dict[str, Any], dict[str, Any]]]]:
    seen: list[tuple[telemetry.EventName, dict[str, Any], dict[str, Any]]] = []
    wanted = [telemetry.TASK_RESTARTED, telemetry.TASK_FAILED]
    telemetry.attach("test", wanted, lambda event, m, about, _: seen.append((event, dict(m), dict(about))))
    yield seen
    telemetry.detach("test")


async def broken() -> None:
    raise ValueError("no good")


async def test_one_that_raises_is_restarted_with_doubling_bounded_delays() -> None:
    watch, sleeper = supervisor(limit=12)
    async with watch:
        watch.start("broken", broken)
        await sleeper.full.wait()
    assert sleeper.slept_s == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0, 30.0]


async def test_jitter_takes_off_up_to_half() -> None:
    watch, sleeper = supervisor(limit=2, jitter=lambda: 1.0)
    async with watch:
        watch.start("broken", broken)
        await sleeper.full.wait()
    assert sleeper.slept_s == [0.05, 0.1]


def test_delays_stay_bounded_after_many_attempts() -> None:
    assert Backoff().delay_ms(10_000, 0.0) == 30_000


async def test_one_that_lived_long_begins_with_a_short_delay_again() -> None:
    watch, sleeper = supervisor(limit=5)
    lives_ms = iter([0, 0, 60_000, 0, 0])

    async def run() -> None:
        sleeper.clock.advance(next(lives_ms))
        raise ValueError

    async with watch:
        watch.start("sometimes", run)
        await sleeper.full.wait()
    assert sleeper.slept_s == [0.1, 0.2, 0.1, 0.2, 0.4]


async def test_every_death_is_logged_with_its_reason_and_told_to_telemetry(
    caplog: pytest.LogCaptureFixture, events: list[Any]
) -> None:
    watch, sleeper = supervisor(limit=1)
    async with watch:
        watch.start("broken", broken)
        await sleeper.full.wait()
    assert "task 'broken' died, restart 1 in 100 ms" in caplog.text
    assert "no good" in caplog.text
    about = {"task": "broken", "reason": "ValueError('no good')"}
    assert events == [(telemetry.TASK_RESTARTED, {"delay_ms": 100, "attempt": 1}, about)]


async def test_one_that_returns_has_died() -> None:
    watch, sleeper = supervisor(limit=2)

    async def run() -> None:
        return

    async with watch:
        watch.start("short", run)
        await sleeper.full.wait()
    assert len(sleeper.slept_s) == 2


async def test_one_cancelled_by_something_else_has_died() -> None:
    watch, sleeper = supervisor(limit=2)

    async def run() -> None:
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    async with watch:
        watch.start("cancelled", run)
        await sleeper.full.wait()
    assert len(sleeper.slept_s) == 2


async def test_a_critical_one_ends_the_process_with_its_reason(
    caplog: pytest.LogCaptureFixture, events: list[Any]
) -> None:
    watch, sleeper = supervisor()
    async with watch:
        watch.start("vital", broken, critical=True)
        with pytest.raises(InternalError, match="'vital' died: ValueError") as caught:
            await watch.failed
        assert isinstance(caught.value.__cause__, ValueError)
        assert watch.names == []
    assert sleeper.slept_s == []
    assert caplog.records[0].levelno == logging.ERROR
    assert events[0][0] == telemetry.TASK_FAILED


async def test_an_error_of_ours_is_the_reason_itself() -> None:
    watch, _ = supervisor()

    async def run() -> None:
        raise DiskFull("no room")

    async with watch:
        watch.start("vital", run, critical=True)
        with pytest.raises(DiskFull):
            await watch.failed


async def test_the_first_of_two_critical_deaths_is_the_reason() -> None:
    watch, _ = supervisor()
    async with watch:
        watch.start("first", broken, critical=True)
        watch.start("second", broken, critical=True)
        with pytest.raises(InternalError, match="first"):
            await watch.failed


async def test_a_defect_in_the_keeping_itself_is_not_unnoticed() -> None:
    watch, _ = supervisor(jitter=lambda: 1 / 0)
    async with watch:
        watch.start("broken", broken)
        with pytest.raises(InternalError, match="ZeroDivisionError"):
            await watch.failed


async def test_close_cancels_all_and_waits_for_their_last_words(caplog: pytest.LogCaptureFixture) -> None:
    watch, sleeper = supervisor(limit=1)
    words = []
    running = asyncio.Event()

    async def run() -> None:
        try:
            running.set()
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            words.append("bye")

    watch.start("one", run)
    watch.start("down", broken)
    await running.wait()
    await sleeper.full.wait()
    assert watch.names == ["one", "down"]
    await watch.close()
    assert (words, watch.names, watch.failed.cancelled()) == (["bye"], [], True)
    assert "ended badly" not in caplog.text


async def test_close_does_not_wait_for_ever(caplog: pytest.LogCaptureFixture) -> None:
    watch, _ = supervisor()
    release, running = asyncio.Event(), asyncio.Event()

    async def stubborn() -> None:
        running.set()
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    watch.start("stubborn", stubborn)
    await running.wait()
    await watch.close()
    assert "shoal stubborn does not end within 50 ms" in caplog.text
    release.set()
    await asyncio.wait(watch._keepers.values())


async def test_close_is_not_fooled_by_a_task_that_raises_when_cancelled(
    caplog: pytest.LogCaptureFixture,
) -> None:
    watch, _ = supervisor()
    running = asyncio.Event()

    async def run() -> None:
        running.set()
        try:
            await asyncio.Event().wait()
        finally:
            raise ValueError("at the end")

    watch.start("noisy", run)
    await running.wait()
    await watch.close()
    assert watch.names == []
    assert "'noisy' ended badly" in caplog.text


async def test_the_same_name_twice_and_starts_after_close_are_refused() -> None:
    watch, _ = supervisor()
    watch.start("one", asyncio.Event().wait)  # type: ignore[arg-type]
    with pytest.raises(AlreadyExists, match="'one'"):
        watch.start("one", broken)
    await watch.close()
    with pytest.raises(ShuttingDown):
        watch.start("two", broken)
