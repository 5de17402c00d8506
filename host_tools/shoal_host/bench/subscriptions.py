"""Delivering to consumers of an embedded store: how soon what is appended comes out, and how fast a backlog goes."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from shoal.types import NO_STREAM
from shoal_host.bench.bench import PHASES, Bench
from shoal_host.bench.probe import mean_disk, probe_disk
from shoal_host.bench.processes import call
from shoal_host.bench.rows import Ratio, Row, Spread, at_least, at_most, percentile
from shoal_host.bench.workload import COMMON_TYPE, new_events

if TYPE_CHECKING:
    from shoal.store.local import LocalStore
    from shoal.types import SubscriptionType

_WARM_UP: Final = 50
_PAGE: Final = 1_000
_BLOCK: Final = 1_000
_KINDS: Final = 100
"""Streams of the store that is caught up with; and types, besides the one that every second event has."""
_OF_EACH: Final = 25


# --- latency


class Latency(msgspec.Struct, frozen=True):
    """One phase: percentiles of what passed from before an append, and of an ack; the disk around it."""

    p50_s: float
    p99_s: float
    append_p50_s: float
    ack_p50_s: float
    disk_p50_s: float


async def latency(bench: Bench) -> list[Row]:
    """An append until its event comes out of the iterator of a consumer that waits."""
    found: list[Latency] = []
    sizes = bench.sizes
    for _ in range(PHASES):
        directory = bench.fresh("latency")
        found.append(await call(Latency, latency_phase, str(directory), sizes.latency_events, sizes.probe_s))
        bench.done_with(directory)
    p50, p99 = (
        Spread.of(phase.p50_s * 1000 for phase in found),
        Spread.of(phase.p99_s * 1000 for phase in found),
    )
    ratio = Spread.of(phase.p50_s / phase.disk_p50_s for phase in found)
    disk_ms = Spread.of(phase.disk_p50_s * 1000 for phase in found)
    targets = (
        at_most("0.86 ms p50 (idle machine)", p50.median, 0.86),
        at_most("4.5 ms p99 (idle machine)", p99.median, 4.5),
    )
    details = {
        "p99_ms": p99,
        "append_p50_ms": Spread.of(phase.append_p50_s * 1000 for phase in found),
        "ack_p50_ms": Spread.of(phase.ack_p50_s * 1000 for phase in found),
        "disk_p50_ms": disk_ms,
        "ratio": ratio,
    }
    what = f"append to delivery, 1 consumer that acks, {sizes.latency_events:,} events: p50"
    against = Ratio(ratio.median, "fdatasync p50, ms", disk_ms.median)
    return [Row("subscription-latency", what, "ms", p50, against, targets, details)]


async def latency_phase(directory: str, events: int, probe_s: float) -> Latency:
    """Job: append one event after another, each when the one before it came out and was acked."""
    import shoal

    place = Path(directory)
    async with shoal.open(data_dir=place / "data") as store:
        await _delivered_s(store, "warm", _WARM_UP)
        before = probe_disk(place, probe_s)
        arrived, appended, acked = await _delivered_s(store, "stream", events)
        disk = mean_disk(before, probe_disk(place, probe_s))
    return Latency(
        percentile(arrived, 50),
        percentile(arrived, 99),
        percentile(appended, 50),
        percentile(acked, 50),
        disk.p50_s,
    )


async def _delivered_s(
    store: LocalStore, stream_id: str, events: int
) -> tuple[list[float], list[float], list[float]]:
    """Seconds to each delivery, to each answer of `append`, and of each ack."""
    arrived: list[float] = []
    acked: list[float] = []
    free = asyncio.Semaphore(0)

    async def consume() -> None:
        async with store.subscriptions.subscribe("stream", stream_id, stream_id) as consumer:
            free.release()
            async for event in consumer:
                arrived.append(time.perf_counter())
                await consumer.ack(event)
                acked.append(time.perf_counter() - arrived[-1])
                if len(acked) == events:
                    return
                free.release()

    began: list[float] = []
    appended: list[float] = []
    version = NO_STREAM
    async with asyncio.TaskGroup() as group:
        group.create_task(consume())
        for number in range(events):
            await free.acquire()
            await asyncio.sleep(0)  # so that the consumer waits before the append
            began.append(time.perf_counter())
            version = await store.streams.append(stream_id, int(version), new_events(number, 1))
            appended.append(time.perf_counter() - began[-1])
    return [at - start for start, at in zip(began, arrived, strict=True)], appended, acked


# --- catching up


class CatchUp(msgspec.Struct, frozen=True):
    """Events per second of each phase: read in pages, and delivered and acked by whom."""

    pages: list[float]
    every: list[float]
    of_type: list[float]
    many: list[float]


class Selection(msgspec.Struct, frozen=True):
    """What one subscription takes, and how many events that is."""

    type: SubscriptionType
    selector: Any
    events: int


async def catch_up(bench: Bench) -> list[Row]:
    """One consumer, and fifty at once, through a store that is full already."""
    directory, events = bench.fresh("catch-up"), bench.sizes.catch_up_events
    await call(type(None), fill_kinds, str(directory), events)
    found = await call(CatchUp, catch_up_phases, str(directory), events)
    bench.done_with(directory)
    of_type = f"1 consumer of a type, {events // 2:,} events of {events:,}, each acked"
    many = f"{2 * _OF_EACH} consumers at once, of {_OF_EACH} streams and {_OF_EACH} types: the sum"
    return [
        _row("", f"1 consumer of all {events:,} events, each acked", found.every, found, 30_000),
        _row("-type", of_type, found.of_type, found, 30_000),
        _row("-50", many, found.many, found),
    ]


def _row(name: str, what: str, rates: list[float], found: CatchUp, must: float | None = None) -> Row:
    rate, pages = Spread.of(rates), Spread.of(found.pages)
    ratio = Spread.of(one / read for one, read in zip(rates, found.pages, strict=True))
    return Row(
        f"subscription-catch-up{name}",
        what,
        "events/s",
        rate,
        Ratio(ratio.median, "read_all in pages of 1,000", pages.median),
        () if must is None else (at_least(f"{must:,.0f}/s", rate.median, must),),
        {"ratio": ratio},
    )


async def fill_kinds(directory: str, events: int) -> None:
    """Job: every second event of the common type, the others of types in turns; streams in turns by block."""
    import shoal

    size = min(_BLOCK, events // _KINDS)
    async with shoal.open(data_dir=Path(directory)) as store:
        for start in range(0, events, size):
            block = [new_events(at, 1, type_at(at))[0] for at in range(start, start + size)]
            await store.streams.append(f"stream-{start // size % _KINDS}", -2, block)


def type_at(position: int) -> str:
    """The type of an event of this store."""
    return f"type-{position // 2 % _KINDS}" if position % 2 else COMMON_TYPE


def _selections(events: int) -> list[Selection]:
    return [
        selection
        for number in range(_OF_EACH)
        for selection in (
            Selection("stream", f"stream-{number}", events // _KINDS),
            Selection("event_type", f"type-{number}", events // _KINDS // 2),
        )
    ]


async def catch_up_phases(directory: str, events: int) -> CatchUp:
    """Job: pages, all, a type and fifty in turns."""
    import shoal

    result = CatchUp([], [], [], [])
    every = Selection("all", None, events)
    of_type = Selection("event_type", COMMON_TYPE, events // 2)
    async with shoal.open(data_dir=Path(directory)) as store:
        await _pages_rate(store, events)
        for phase in range(PHASES):
            result.pages.append(await _pages_rate(store, events))
            result.every.append(await _delivered_rate(store, [every], f"every-{phase}"))
            result.of_type.append(await _delivered_rate(store, [of_type], f"type-{phase}"))
            result.many.append(await _delivered_rate(store, _selections(events), f"many-{phase}"))
    return result


async def _pages_rate(store: LocalStore, events: int) -> float:
    began, seen = time.perf_counter(), 0
    while page := await store.streams.read_all(seen, _PAGE):
        seen += len(page)
    if seen != events:
        raise RuntimeError(f"{seen} events read of {events}")
    return seen / (time.perf_counter() - began)


async def _delivered_rate(store: LocalStore, selections: list[Selection], prefix: str) -> float:
    """Events per second of all together, from subscribing to the last ack durable."""
    began = time.perf_counter()
    await asyncio.gather(
        *(_consume(store, selection, f"{prefix}-{number}") for number, selection in enumerate(selections))
    )
    return sum(selection.events for selection in selections) / (time.perf_counter() - began)


async def _consume(store: LocalStore, selection: Selection, name: str) -> None:
    seen = 0
    async with store.subscriptions.subscribe(selection.type, selection.selector, name) as consumer:
        async for event in consumer:
            await consumer.ack(event)
            seen += 1
            if seen == selection.events:
                break
    stats = await store.subscriptions.stats(name)
    if stats.in_flight or stats.delivered != seen or stats.redeliveries:
        raise RuntimeError(
            f"{name}: {stats.in_flight} events not settled, {stats.delivered} delivered of {seen}"
        )
