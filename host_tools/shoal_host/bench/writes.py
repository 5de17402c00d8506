"""Appending to the embedded store: one writer, many, batches; beside raw SQLite doing the same inserts."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, Final

import msgspec

from shoal_host.bench.bench import PHASES, Bench
from shoal_host.bench.loops import Loop, best_loop, run_on
from shoal_host.bench.probe import mean_disk, probe_disk
from shoal_host.bench.processes import call
from shoal_host.bench.rows import Ratio, Row, Spread, Target, at_least, at_most, percentile
from shoal_host.bench.workload import append_for, payload_json

_WARM_UP_S: Final = 0.1
_COMMIT_ROWS: Final = 5_000
_ROW: Final = "(?,?,?,?,?,?,?,?,?,?,?,?,?,?)"


class Phase(msgspec.Struct, frozen=True):
    """One phase of durable appends, with the disk before and after it. `sustained` counts closing, too."""

    rate: float
    sustained: float
    p50_s: float
    p99_s: float
    disk_rate: float
    disk_p50_s: float


def append_phase(
    directory: str, writers: int, batch: int, seconds: float, probe_s: float, loop: Loop
) -> Phase:
    """Job: append to a new store for so long."""
    return run_on(loop, _append_phase(Path(directory), writers, batch, seconds, probe_s))


async def _append_phase(directory: Path, writers: int, batch: int, seconds: float, probe_s: float) -> Phase:
    import shoal

    async with shoal.open(data_dir=directory / "data") as store:
        before = probe_disk(directory, probe_s)
        await append_for(store, _WARM_UP_S, writers=writers, batch=batch, prefix="warm")
        gc.collect()
        began = time.perf_counter()
        done = await append_for(store, seconds, writers=writers, batch=batch, prefix="stream")
    closed_s = time.perf_counter() - began
    disk = mean_disk(before, probe_disk(directory, probe_s))
    return Phase(
        done.events / done.seconds,
        done.events / closed_s,
        percentile(done.took_s, 50),
        percentile(done.took_s, 99),
        disk.rate,
        disk.p50_s,
    )


async def phases(bench: Bench, writers: int, batch: int, *, loop: Loop = "asyncio") -> list[Phase]:
    """Several short phases, each with a store and a process of its own."""
    found: list[Phase] = []
    for _ in range(PHASES):
        directory = bench.fresh("append")
        sizes = bench.sizes
        found.append(
            await call(
                Phase, append_phase, str(directory), writers, batch, sizes.phase_s, sizes.probe_s, loop
            )
        )
        bench.done_with(directory)
    return found


async def one_writer(bench: Bench) -> list[Row]:
    """1 writer, 1 event per append."""
    found = await phases(bench, 1, 1)
    extra_ms = Spread.of((phase.p50_s - phase.disk_p50_s) * 1000 for phase in found)
    disk_ms = Spread.of(phase.disk_p50_s * 1000 for phase in found).median
    ratio = Spread.of(phase.rate / phase.disk_rate for phase in found)
    return [
        Row(
            "append-1",
            "1 writer, 1 event per append: p50",
            "ms",
            Spread.of(phase.p50_s * 1000 for phase in found),
            Ratio(ratio.median, "fdatasync rate", _disk_rate(found)),
            (at_most(f"fdatasync p50 ({disk_ms:.3f} ms) + 0.2 ms", extra_ms.median, 0.2),),
            {**_details(found), "disk_p50_ms": disk_ms, "over_disk_p50_ms": extra_ms},
        )
    ]


async def many_writers(bench: Bench) -> list[Row]:
    """64 writers, 1 event per append."""
    found = await phases(bench, 64, 1)
    ratio = Spread.of(phase.rate / phase.disk_rate for phase in found)
    rate = Spread.of(phase.rate for phase in found)
    targets = (
        at_least("35,000/s (idle 2-core machine)", rate.median, 35_000),
        at_least("4x fdatasync rate", ratio.median, 4),
    )
    against = Ratio(ratio.median, "fdatasync rate", _disk_rate(found))
    rows = [Row("append-64", "64 writers, 1 event", "events/s", rate, against, targets, _details(found))]
    if best_loop() == "uvloop":
        found = await phases(bench, 64, 1, loop="uvloop")
        ratio = Spread.of(phase.rate / phase.disk_rate for phase in found)
        rows.append(
            Row(
                "append-64-uvloop",
                "the same on uvloop",
                "events/s",
                Spread.of(phase.rate for phase in found),
                Ratio(ratio.median, "fdatasync rate", _disk_rate(found)),
                details=_details(found),
            )
        )
    return rows


async def batch_100(bench: Bench) -> list[Row]:
    """100 events per append."""
    return [await _batched(bench, 100, 80_000)]


async def batch_1000(bench: Bench) -> list[Row]:
    """1,000 events per append."""
    return [await _batched(bench, 1_000, 150_000)]


async def _batched(bench: Bench, batch: int, must: float) -> Row:
    """The ratio is of sustained rates: SQLite's commits are in both."""
    found: list[Phase] = []
    raw: list[float] = []
    for _ in range(PHASES):  # in turns, so that both see the same machine
        raw.append(await _raw(bench, 1))
        directory = bench.fresh("append")
        sizes = bench.sizes
        found.append(
            await call(Phase, append_phase, str(directory), 1, batch, sizes.phase_s, sizes.probe_s, "asyncio")
        )
        bench.done_with(directory)
    rate = Spread.of(phase.rate for phase in found)
    ratio = Spread.of(phase.sustained / other for phase, other in zip(found, raw, strict=True))
    targets: tuple[Target, ...] = (
        at_least(f"{must:,.0f}/s (idle 2-core machine)", rate.median, must),
        at_least("0.5 of raw apsw, closing included", ratio.median, 0.5),
    )
    return Row(
        f"append-batch-{batch}",
        f"1 writer, {batch:,} events per append",
        "events/s",
        rate,
        Ratio(ratio.median, "raw apsw, same rows and indexes", Spread.of(raw).median),
        targets,
        {
            **_details(found),
            "raw_apsw_rate": Spread.of(raw),
            "raw_apsw_250_rows_a_statement": await _raw(bench, 250),
        },
    )


def _details(found: list[Phase]) -> dict[str, Any]:
    return {
        "rate": Spread.of(phase.rate for phase in found),
        "sustained_rate": Spread.of(phase.sustained for phase in found),
        "p50_ms": Spread.of(phase.p50_s * 1000 for phase in found),
        "p99_ms": Spread.of(phase.p99_s * 1000 for phase in found),
        "disk_rate": Spread.of(phase.disk_rate for phase in found),
    }


def _disk_rate(found: list[Phase]) -> float:
    return Spread.of(phase.disk_rate for phase in found).median


# --- raw SQLite


async def _raw(bench: Bench, rows_per_statement: int) -> float:
    directory = bench.fresh("raw")
    rate = await call(float, raw_phase, str(directory), bench.sizes.phase_s, rows_per_statement)
    bench.done_with(directory)
    return rate


def raw_phase(directory: str, seconds: float, rows_per_statement: int) -> float:
    """Job: rows per second into the store's own tables, committed every 5,000 rows, nothing else done.

    Rows are made beforehand: this is the ceiling of anything that stores them. The WAL is moved into the
    file at the same size as the store does, and once more at the end.
    """
    from shoal.storage.database import open_connection
    from shoal.storage.schema import STORE_MIGRATIONS, migrate

    connection = open_connection(Path(directory) / "raw.db", cache_bytes=8 * 1024 * 1024)
    migrate(connection, STORE_MIGRATIONS, "raw.db")
    connection.execute("PRAGMA wal_autocheckpoint=1000")
    insert = f"INSERT INTO event VALUES {','.join([_ROW] * rows_per_statement)}"  # noqa: S608 - question marks
    took, done = 0.0, 0
    transactions = raw_rows()
    while took < seconds:
        rows = next(transactions)
        starts = range(0, len(rows), rows_per_statement)
        bindings = [tuple(chain.from_iterable(rows[at : at + rows_per_statement])) for at in starts]
        began = time.perf_counter()
        connection.execute("BEGIN")
        connection.executemany(insert, bindings)
        connection.execute("COMMIT")
        took += time.perf_counter() - began
        done += len(rows)
    began = time.perf_counter()
    connection.wal_checkpoint()
    connection.close()
    return done / (took + time.perf_counter() - began)


def raw_rows() -> Iterator[list[tuple[Any, ...]]]:
    """Rows of one stream with ids in time order, as the store has them, 5,000 at a time."""
    position = 0
    while True:
        noise = os.urandom(32 * _COMMIT_ROWS)
        rows = []
        for at in range(0, len(noise), 32):
            position += 1
            event_id = position.to_bytes(6, "big") + noise[at : at + 10]
            data = payload_json(position)
            link = noise[at : at + 32]
            rows.append((position, 1, position - 1, 1, event_id, 0, position, None, data, *[None] * 4, link))
        yield rows
