"""Reading, and appending where much is stored already: costs must not grow with the store."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from shoal_host.bench.bench import PHASES, Bench
from shoal_host.bench.processes import call
from shoal_host.bench.rows import Ratio, Row, Spread, at_least, at_most, percentile
from shoal_host.bench.workload import COMMON_TYPE, RARE_TYPE, fill, new_events

if TYPE_CHECKING:
    from shoal.store.local import LocalStore

LONG_STREAM: Final = "long"
STREAM: Final = "stream"
_PAGE: Final = 1_000
_BLOCK: Final = 1_000


class Reads(msgspec.Struct, frozen=True):
    """Events per second of each phase: pages as they come, with `data` touched, and SQLite alone."""

    plain: list[float]
    touched: list[float]
    raw: list[float]


async def _filled(directory: Path, work: Callable[[LocalStore], Awaitable[None]]) -> None:
    import shoal

    async with shoal.open(data_dir=directory) as store:
        await work(store)


async def pages(bench: Bench) -> list[Row]:
    """A stream in pages of 1,000, with and without touching `data`."""
    directory = bench.fresh("read")
    events = bench.sizes.read_events
    await call(type(None), fill_stream, str(directory), events)
    found = await call(Reads, read_phases, str(directory), events, bench.sizes.phase_s / 2)
    bench.done_with(directory)
    raw = Spread.of(found.raw).median
    rows = []
    for name, touch, rates, must in (
        ("read-pages", "data not touched", found.plain, 250_000),
        ("read-pages-data", "data touched", found.touched, 150_000),
    ):
        rate = Spread.of(rates)
        what = f"read {events:,} events of a stream in pages of 1,000, {touch}"
        ratio = Ratio(rate.median / raw, "raw apsw reading the same rows", raw)
        rows.append(Row(name, what, "events/s", rate, ratio, (at_least(f"{must:,}/s", rate.median, must),)))
    return rows


async def fill_stream(directory: str, events: int) -> None:
    """Job: one stream, closed cleanly, so that reading it is reading the file."""
    await _filled(Path(directory), lambda store: fill(store, STREAM, events))


async def read_phases(directory: str, events: int, seconds: float) -> Reads:
    """Job: read the stream from its beginning to its end again and again."""
    import shoal

    result = Reads([], [], [])
    async with shoal.open(data_dir=Path(directory)) as store:
        await _read_whole(store, events, touch=True)
        for _ in range(PHASES):
            result.plain.append(await _rate(lambda: _read_whole(store, events, touch=False), events, seconds))
            result.touched.append(
                await _rate(lambda: _read_whole(store, events, touch=True), events, seconds)
            )
            result.raw.append(_raw_rate(Path(directory), events, seconds))
    return result


async def _rate(work: Callable[[], Awaitable[None]], events: int, seconds: float) -> float:
    began, rounds = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        await work()
        rounds += 1
    return rounds * events / (time.perf_counter() - began)


async def _read_whole(store: LocalStore, events: int, *, touch: bool) -> None:
    seen = 0
    for start in range(0, events, _PAGE):
        page = await store.streams.read(STREAM, start, _PAGE)
        seen += len([event.data for event in page]) if touch else len(page)
    if seen != events:
        raise RuntimeError(f"{seen} events read of {events}")


def _raw_rate(directory: Path, events: int, seconds: float) -> float:
    """Whole rows of the same file by the same index, as tuples, on this thread."""
    from shoal.storage.database import open_connection

    (path,) = (path for path in directory.glob("db/*/*.db") if path.name != "catalog.db")
    connection = open_connection(path, cache_bytes=8 * 1024 * 1024, read_only=True)
    sql = "SELECT * FROM event WHERE stream=1 AND version>=? ORDER BY version LIMIT ?"
    began, rounds = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        seen = sum(len(connection.execute(sql, (at, _PAGE)).fetchall()) for at in range(0, events, _PAGE))
        if seen != events:
            raise RuntimeError(f"{seen} rows read of {events}")
        rounds += 1
    took_s = time.perf_counter() - began
    connection.close()
    return rounds * events / took_s


# --- a type among many


class ByType(msgspec.Struct, frozen=True):
    """Seconds that each read of the rare type took, in the small and in the large store."""

    small_s: list[float]
    large_s: list[float]


async def by_type(bench: Bench) -> list[Row]:
    """Events of a type among few, and among many."""
    large = await bench.large()
    directory, sizes = bench.fresh("small"), bench.sizes
    await call(type(None), fill_mixed, str(directory), sizes.small_events, sizes.rare_events)
    found = await call(ByType, type_phases, str(directory), str(large.data_dir), sizes.rare_events)
    bench.done_with(directory)
    small, big = Spread.of(s * 1000 for s in found.small_s), Spread.of(s * 1000 for s in found.large_s)
    ratio = big.median / small.median
    return [
        Row(
            "read-type",
            f"read {sizes.rare_events:,} events of a type among {large.events:,}",
            "ms",
            big,
            Ratio(ratio, f"among {sizes.small_events:,}", small.median),
            (at_most(f"1.5x the time among {sizes.small_events:,}", ratio, 1.5),),
            {"small_ms": small, "large_ms": big},
        )
    ]


def is_rare(position: int, every: int) -> bool:
    """Which events are of the rare type: spread evenly."""
    return position % every == every - 1


async def fill_mixed(directory: str, events: int, rare: int) -> None:
    """Job: a store whose rare events are spread evenly among the common ones."""

    async def work(store: LocalStore) -> None:
        every = events // rare
        for start in range(0, events, _BLOCK):
            block = [
                new_events(at, 1, RARE_TYPE if is_rare(at, every) else COMMON_TYPE)[0]
                for at in range(start, min(start + _BLOCK, events))
            ]
            await store.streams.append(f"stream-{start // _BLOCK % 10}", -2, block)

    await _filled(Path(directory), work)


async def type_phases(small: str, large: str, rare: int) -> ByType:
    """Job: both stores open, read in turns. The first read of each only warms the caches."""
    import shoal

    result = ByType([], [])
    async with shoal.open(data_dir=Path(small)) as few, shoal.open(data_dir=Path(large)) as many:
        for turn in range(2 * PHASES + 1):
            for store, times in ((few, result.small_s), (many, result.large_s)):
                began = time.perf_counter()
                events = await store.streams.read_by_event_types([RARE_TYPE], rare)
                took_s = time.perf_counter() - began
                if len(events) != rare:
                    raise RuntimeError(f"{len(events)} events read of {rare}")
                if turn:
                    times.append(took_s)
    return result


# --- appending to a long stream


class LongStream(msgspec.Struct, frozen=True):
    """p99 of appends in seconds, by phase."""

    long_p99_s: list[float]
    new_p99_s: list[float]


async def long_stream(bench: Bench) -> list[Row]:
    """Appending to a long stream, in turns with a new one."""
    large, sizes = await bench.large(), bench.sizes
    found = await call(LongStream, long_phases, str(large.data_dir), sizes.long_appends)
    ratio = Spread.of(a / b for a, b in zip(found.long_p99_s, found.new_p99_s, strict=True))
    new = Spread.of(s * 1000 for s in found.new_p99_s)
    return [
        Row(
            "append-long-stream",
            f"append to a stream of {sizes.long_stream_events:,} events: p99",
            "ms",
            Spread.of(s * 1000 for s in found.long_p99_s),
            Ratio(ratio.median, "p99 of a new stream", new.median),
            (at_most("1.2x a new stream", ratio.median, 1.2),),
            {"new_p99_ms": new, "ratio": ratio},
        )
    ]


async def long_phases(directory: str, appends: int) -> LongStream:
    """Job: one append to the long stream, one to a new one, and so on."""
    import shoal

    result = LongStream([], [])
    async with shoal.open(data_dir=Path(directory)) as store:
        at = await store.streams.get_version(LONG_STREAM)
        for phase in range(PHASES):
            took: dict[str, list[float]] = {LONG_STREAM: [], f"new-{time.time_ns()}-{phase}": []}
            versions = dict(zip(took, (at, -1), strict=True))
            turns = list(took.items())
            for number in range(appends):
                turns.reverse()  # what recurs every so many appends, as the writer's turn does, meets both alike
                for stream_id, times in turns:
                    began = time.perf_counter()
                    versions[stream_id] = int(
                        await store.streams.append(stream_id, versions[stream_id], new_events(number, 1))
                    )
                    times.append(time.perf_counter() - began)
            at = versions[LONG_STREAM]
            long_s, new_s = took.values()
            result.long_p99_s.append(percentile(long_s, 99))
            result.new_p99_s.append(percentile(new_s, 99))
    return result
