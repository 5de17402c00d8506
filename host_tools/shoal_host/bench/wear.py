"""Bytes that reach the disk per event: what wears flash out."""

from __future__ import annotations

import asyncio
import os
import selectors
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from shoal_host.bench.bench import Bench
from shoal_host.bench.probe import Device
from shoal_host.bench.processes import call
from shoal_host.bench.rows import Ratio, Row, Spread, at_most
from shoal_host.bench.workload import fill, new_events, payload_json

if TYPE_CHECKING:
    from shoal.testing.clock import FakeClock

_STREAMS: Final = 10


class Wear(msgspec.Struct, frozen=True):
    """What a process wrote from opening to closed, as the metric counts it, for how much payload."""

    events: int
    written_bytes: int
    event_bytes: int

    @property
    def per_event(self) -> float:
        """Bytes to disk per event."""
        return self.written_bytes / self.events


async def batches(bench: Bench) -> list[Row]:
    """Bytes to disk per event at batch 1 and batch 50."""
    sizes = bench.sizes
    return [
        await _batch(bench, "wear-1", 1, sizes.wear_single, 6_000),
        await _batch(bench, "wear-50", 50, sizes.wear_batched, 1_200),
    ]


async def _batch(bench: Bench, name: str, batch: int, events: int, limit: int) -> Row:
    directory = bench.fresh("wear")
    device = Device(directory)
    with device.counting(bench.sizes.quiet_s) as counted:
        found = await call(Wear, append_counting, str(directory / "data"), events, batch)
    alone = await call(int, sqlite_counting, str(directory), events, batch)
    bench.done_with(directory)
    per_event, reference = found.per_event, alone / events
    return Row(
        name,
        f"bytes to disk per 200-byte event, batch {batch}",
        "bytes",
        Spread.of([per_event]),
        Ratio(per_event / reference, "SQLite alone (WAL, FULL, two unique indexes)", reference),
        (at_most(f"{limit:,} bytes", per_event, limit),),
        {
            "events": events,
            "written_per_payload_byte": found.written_bytes / found.event_bytes,
            **counted.details(events),
        },
    )


async def append_counting(data_dir: str, events: int, batch: int) -> Wear:
    """Job: append one batch after another to one stream, from opening to closed."""
    from shoal.config import Config
    from shoal.node import Node

    before = _written()
    async with await Node.open(Config(data_dir=Path(data_dir))) as node:
        await fill(node.store("main"), "stream", events, batch=batch)
        event_bytes = int(node.stats()["event_bytes_total"])
    return Wear(events, _written() - before, event_bytes)


def _written() -> int:
    """`shoal_bytes_written_total` of this process."""
    from shoal.metrics import bytes_written

    found = bytes_written()
    if found is None:
        raise RuntimeError("/proc/self/io cannot be read here, so bytes written are not known")
    return found


def sqlite_counting(directory: str, events: int, batch: int) -> int:
    """Job: the same events in a plain table with ids in time order, every batch durable; bytes written."""
    import apsw

    before = _written()
    connection = apsw.Connection(str(Path(directory) / "alone.db"))
    for statement in (
        "PRAGMA journal_mode=WAL",
        "PRAGMA synchronous=FULL",
        "PRAGMA wal_autocheckpoint=1000",
        "CREATE TABLE event (stream TEXT, version INTEGER, id BLOB, type TEXT, data BLOB)",
        "CREATE UNIQUE INDEX by_stream ON event (stream, version)",
        "CREATE UNIQUE INDEX by_id ON event (id)",
    ):
        connection.execute(statement)
    for start in range(0, events, batch):
        rows = [
            ("stream", at, at.to_bytes(6, "big") + os.urandom(10), "reading-taken", payload_json(at))
            for at in range(start, start + batch)
        ]
        with connection:
            connection.executemany("INSERT INTO event VALUES (?,?,?,?,?)", rows)
    connection.close()
    return _written() - before


# --- slowly, on a fake clock


class FakeTimeLoop(asyncio.SelectorEventLoop):
    """An event loop whose timers go by a FakeClock: an hour passes when the clock is told so."""

    def __init__(self, clock: FakeClock) -> None:
        self._fake = clock
        super().__init__(selectors.DefaultSelector())

    def time(self) -> float:
        """Seconds of the fake clock."""
        return self._fake.monotonic_ms() / 1000


async def slowly(bench: Bench) -> list[Row]:
    """1 event per second for two hours over 10 streams, one poll a second."""
    directory, seconds = bench.fresh("slow"), bench.sizes.slow_s
    device = Device(directory)
    with device.counting(bench.sizes.quiet_s) as counted:
        found = await call(Wear, append_slowly, str(directory / "data"), seconds)
    alone = await call(int, sqlite_counting, str(directory), seconds, 1)
    bench.done_with(directory)
    reference = alone / seconds
    return [
        Row(
            "wear-slow",
            f"the same, 1 event and 1 poll a second for {seconds / 3600:g} h, 10 streams (fake clock)",
            "bytes",
            Spread.of([found.per_event]),
            Ratio(found.per_event / reference, "SQLite alone, batch 1", reference),
            (at_most("6,500 bytes", found.per_event, 6_500),),
            {"written_per_payload_byte": found.written_bytes / found.event_bytes, **counted.details(seconds)},
        )
    ]


def append_slowly(data_dir: str, seconds: int) -> Wear:
    """Job: the real store on a clock that jumps from second to second as soon as a second's work is done."""
    from shoal.testing.clock import FakeClock

    clock = FakeClock()
    before = _written()
    with asyncio.Runner(loop_factory=lambda: FakeTimeLoop(clock)) as runner:
        event_bytes = runner.run(_append_slowly(Path(data_dir), seconds, clock))
    return Wear(seconds, _written() - before, event_bytes)


async def _append_slowly(data_dir: Path, seconds: int, clock: FakeClock) -> int:
    """Payload bytes, as the polls gave them."""
    import shoal

    event_bytes = 0
    async with shoal.open(data_dir=data_dir, means=_means(clock)) as store:
        for second in range(seconds):
            clock.advance(1_000)
            await store.streams.append(f"stream-{second % _STREAMS}", -2, new_events(second, 1))
            (event,) = await store.streams.read_all(second)
            event_bytes += len(event.data_raw)
    return event_bytes


def _means(clock: FakeClock) -> Any:
    from shoal.node import Means

    return Means(clock=clock)
