"""The board agent: what it reads, how it keeps readings while the store is away, and when it gives up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.clock import WallReading
from shoal.errors import EventIdReused, Forbidden, ShoalError, Timeout, Unreachable
from shoal.types import NewEvent
from shoal_device import agent
from shoal_device.monitor import FAREWELL_S, Monitor, Settings, Surroundings
from shoal_device.outbox import Outbox
from shoal_device.readings import PsutilBoard, Reading, Space, measured

READING = Reading(
    cpu_percent=12.5,
    load_1m=0.5,
    load_5m=0.4,
    load_15m=0.3,
    memory_total_bytes=1000,
    memory_available_bytes=250,
    disks={"/": Space(200, 50)},
    disk_read_bytes=10,
    disk_written_bytes=20,
    network_received_bytes=30,
    network_sent_bytes=40,
    temperatures_celsius={"cpu_thermal": 51.5},
    processes=99,
)


class VirtualTime:
    """A clock that stands still until a test moves it, and the sleep that goes with it."""

    def __init__(self) -> None:
        self.now_ms = 5_000
        self._sleepers: list[tuple[int, asyncio.Future[None]]] = []

    def monotonic_ms(self) -> int:
        return self.now_ms

    def wall(self) -> WallReading:
        return WallReading(1_700_000_000_000_000 + self.now_ms * 1000, "ntp")

    async def sleep(self, seconds: float) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers.append((self.now_ms + round(seconds * 1000), future))
        await future

    async def advance(self, milliseconds: int) -> None:
        """Move time on, waking sleepers one after the other at their own moments."""
        until = self.now_ms + milliseconds
        await settle()
        while due := [entry for entry in self._sleepers if entry[0] <= until]:
            first = min(due, key=lambda entry: entry[0])
            self._sleepers.remove(first)
            self.now_ms = max(self.now_ms, first[0])
            if not first[1].done():
                first[1].set_result(None)
            await settle()
        self.now_ms = until


async def settle() -> None:
    """Let every task run until it waits for time or for a test."""
    for _ in range(30):
        await asyncio.sleep(0)


class StillBoard:
    """A board whose counters grow by one with each look."""

    def __init__(self) -> None:
        self.looks = 0

    async def read(self) -> Reading:
        self.looks += 1
        return replace(READING, network_sent_bytes=self.looks)

    def describe(self) -> dict[str, Any]:
        return {"hostname": "fake"}


@dataclass
class MemoryStream:
    """One stream with the store's rules for event ids; `failures` are met one per append, in order.

    An outcome of "applied" or "unknown" stores the batch before it fails: the answer was lost.
    """

    events: list[NewEvent] = field(default_factory=list)
    failures: list[ShoalError] = field(default_factory=list)
    appends: int = 0

    async def append(self, stream_id: str, expected_version: int, events: Sequence[NewEvent]) -> int:
        assert (stream_id, expected_version) == ("board-n1", -2)
        self.appends += 1
        failure = self.failures.pop(0) if self.failures else None
        if failure is None or failure.outcome != "not-applied":
            self._store(stream_id, events)
        if failure is not None:
            raise failure
        return len(self.events) - 1

    def _store(self, stream_id: str, events: Sequence[NewEvent]) -> None:
        ids = [event.event_id for event in self.events]
        new = [event.event_id for event in events]
        known = [event_id for event_id in new if event_id in ids]
        if not known:
            self.events.extend(events)
        elif known != new or ids[ids.index(new[0]) :][: len(new)] != new:
            raise EventIdReused(stream_id, str(known[0]))

    def numbers(self) -> list[int]:
        """The number of each event in the order they were made."""
        return [int(str(event.event_id)) for event in self.events]


@dataclass
class Bench:
    """A monitor at work and everything around it."""

    monitor: Monitor
    time: VirtualTime
    stream: MemoryStream
    reports: list[str]
    task: asyncio.Task[None]


@asynccontextmanager
async def running(stream: MemoryStream, **options: Any) -> AsyncIterator[Bench]:
    """A monitor on a virtual clock, ended with the block."""
    time, reports = VirtualTime(), []
    surroundings = Surroundings(StillBoard(), time, time.sleep, counting(), Random(1), reports.append)
    monitor = Monitor(stream, Settings("n1", **options), surroundings)
    task = asyncio.create_task(monitor.run())
    await settle()
    try:
        yield Bench(monitor, time, stream, reports, task)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def counting() -> Callable[[], str]:
    numbers = iter(range(1_000_000))
    return lambda: str(next(numbers))


def unreachable(times: int) -> list[ShoalError]:
    return [Unreachable("no board answered") for _ in range(times)]


async def test_appends_one_start_and_then_one_reading_per_interval() -> None:
    async with running(MemoryStream()) as bench:
        await bench.time.advance(3_000)
        types = [event.event_type for event in bench.stream.events]
        assert types == ["board_agent_started"] + ["board_measured"] * 3
        assert [event.data["network_sent_bytes"] for event in bench.stream.events[1:]] == [
            {"$sum": 1},
            {"$sum": 1},
            {"$sum": 1},
        ]


async def test_readings_stay_on_the_grid_of_their_interval() -> None:
    """A turn that comes late is followed by one on the grid, and turns that were missed stay missed."""
    async with running(MemoryStream(), interval_s=2.0) as bench:
        await bench.time.advance(2_000)
        bench.time.now_ms += 5_500  # the board slept
        await bench.time.advance(2_500)
        moments = [event.data["measured_epoch_us"] // 1000 % 100_000 for event in bench.stream.events[1:]]
        assert moments == [7_000, 12_500, 13_000, 15_000]


async def test_readings_made_while_the_store_is_away_arrive_later_in_order() -> None:
    async with running(MemoryStream(failures=unreachable(6))) as bench:
        await bench.time.advance(4_000)
        assert bench.stream.events == []
        await bench.time.advance(30_000)
        assert bench.stream.numbers() == list(range(35))
        assert len(bench.reports) == 2
        assert "keeping them" in bench.reports[0]
        assert "answers again" in bench.reports[1]


async def test_a_lost_answer_leads_to_no_second_copy() -> None:
    lost = Timeout("no answer in time", outcome="unknown")
    async with running(MemoryStream(failures=[lost, Unreachable("gone"), lost])) as bench:
        await bench.time.advance(20_000)
        assert bench.stream.numbers() == list(range(21))


@settings(max_examples=40, deadline=None)
@given(outcomes=st.lists(st.sampled_from(["not-applied", "unknown", "applied"]), max_size=10))
def test_whatever_the_store_answers_each_reading_is_stored_once_and_in_order(outcomes: list[Any]) -> None:
    async def scenario() -> None:
        failures: list[ShoalError] = [Timeout("lost", outcome=outcome) for outcome in outcomes]
        async with running(MemoryStream(failures=failures), batch_events=3) as bench:
            await bench.time.advance(60_000)
            assert bench.stream.numbers() == list(range(61))

    asyncio.run(scenario())


async def test_full_memory_drops_the_oldest_and_says_how_many() -> None:
    stream = MemoryStream(failures=unreachable(1_000))
    async with running(stream, capacity=10, batch_events=2) as bench:
        await bench.time.advance(30_000)
        stream.failures.clear()
        await bench.time.advance(20_000)
        numbers = bench.stream.numbers()
        assert numbers[0] == 0  # the batch that was tried stays as it is
        assert numbers == sorted(set(numbers))
        missing = numbers[-1] + 1 - len(numbers)
        reported = [event.data.get("measurements_dropped", {"$sum": 0})["$sum"] for event in stream.events]
        assert missing > 0
        assert sum(reported) == missing


async def test_retries_slow_down_to_one_in_ten_seconds() -> None:
    async with running(MemoryStream(failures=unreachable(10_000))) as bench:
        await bench.time.advance(60_000)
        before = bench.stream.appends
        await bench.time.advance(100_000)
        assert 10 <= bench.stream.appends - before <= 20


async def test_an_answer_that_waiting_cannot_change_ends_the_agent() -> None:
    async with running(MemoryStream(failures=[Forbidden("the token does not allow appends")])) as bench:
        await settle()
        with pytest.raises(Forbidden):
            await bench.task


async def test_stop_first_stores_what_was_read() -> None:
    async with running(MemoryStream(failures=unreachable(4))) as bench:
        await bench.time.advance(1_000)
        assert bench.stream.events == []
        bench.monitor.stop()
        await bench.time.advance(10_000)
        await asyncio.wait_for(bench.task, FAREWELL_S + 1)
        assert bench.stream.numbers() == [0, 1]


def test_an_event_has_gauges_as_they_are_and_counters_as_sums() -> None:
    before = replace(READING, network_received_bytes=5, disk_written_bytes=50)
    data = measured(READING, before, 77)
    assert data["measured_epoch_us"] == 77
    assert data["measurements"] == {"$sum": 1}
    assert data["memory_used_percent"] == 75.0
    assert data["disks"] == {"/": {"total_bytes": 200, "used_bytes": 50, "used_percent": 25.0}}
    assert data["network_received_bytes"] == {"$sum": 25}
    assert data["disk_written_bytes"] == {"$sum": 0}  # went back: reset, not negative growth


async def test_this_machine_has_readings() -> None:
    board = PsutilBoard()
    reading = await board.read()
    assert reading.memory_total_bytes > reading.memory_available_bytes > 0
    assert reading.processes > 0
    assert all(space.total_bytes >= space.used_bytes for space in reading.disks.values())
    assert board.describe()["cpus"] >= 1


@given(
    capacity=st.integers(3, 12),
    steps=st.lists(st.sampled_from(["put", "batch", "settle"]), max_size=80),
)
def test_the_outbox_keeps_order_and_bounds(capacity: int, steps: list[str]) -> None:
    outbox, made, sent = Outbox(capacity, 2), 0, list[NewEvent]()
    tried: Sequence[NewEvent] = ()

    def settle_batch() -> None:
        sent.extend(tried)
        outbox.settle()

    for step in [*steps, "settle", "batch", "settle", *["batch", "settle"] * capacity]:
        if step == "put":
            outbox.put(NewEvent("t", {"number": made}))
            made += 1
        elif step == "batch":
            again = outbox.batch()
            assert not tried or again == tried
            tried = again
        else:
            settle_batch()
            tried = ()
        assert len(outbox) <= capacity
    numbers = [event.data["number"] for event in sent]
    assert numbers == sorted(set(numbers))
    assert made == len(sent) + sum(
        event.data.get("measurements_dropped", {"$sum": 0})["$sum"] for event in sent
    )


def test_an_address_that_is_none_is_refused_with_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert agent.main(["--url", "nonsense"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("arguments", [["--interval", "0"], ["--interval", "soon"], ["--unknown"]])
def test_bad_options_are_refused_with_exit_code_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        agent.main(arguments)
    assert exit_.value.code == 2
    assert "Traceback" not in capsys.readouterr().err
