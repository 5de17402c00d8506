"""Other stores that pip installs, doing the same durable appends: `eventsourcing` on SQLite, and `umadb`.

Both are called from threads, a writer each, since their interfaces block; each append checks that its stream
is where the writer left it, as ours does. `eventsourcing` is given one pooled connection, which is its best:
more of them only wait for SQLite's lock. UmaDB's server, from the same wheel, runs in its own process.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import threading
import time
import uuid
from collections.abc import Callable
from itertools import count as counting
from pathlib import Path
from typing import Any, Final

import msgspec

from shoal_host.bench.bench import Bench
from shoal_host.bench.probe import mean_disk, probe_disk
from shoal_host.bench.processes import call, free_port, server
from shoal_host.bench.rows import Ratio, Row, Spread, percentile
from shoal_host.bench.workload import COMMON_TYPE, payload_json
from shoal_host.bench.writes import Phase, append_phase

_WARM_UP_S: Final = 0.1
_SHAPES: Final = ((1, 1), (64, 1), (1, 100))
_SERVE_UMADB: Final = "from umadb.umadb_server_cli import main; main()"

Append = Callable[[int], None]
"""Appends the next so many events of one writer's stream; returns when they are durable."""


class Peer(msgspec.Struct, frozen=True):
    """A store to compare with, and how a phase of it is run."""

    package: str
    about: str
    phase: Callable[..., Any]


async def others(bench: Bench) -> list[Row]:
    """The same durable appends in other stores, in turns with this one."""
    rows: list[Row] = []
    for writers, batch in _SHAPES:
        ours: list[float] = []
        theirs: dict[str, list[Phase]] = {peer.package: [] for peer in PEERS if _installed(peer)}
        for _ in range(bench.sizes.peer_phases):
            ours.append((await _phase(bench, append_phase, writers, batch, "asyncio")).rate)
            for peer in PEERS:
                if peer.package in theirs:
                    theirs[peer.package].append(await peer.phase(bench, writers, batch))
        rows += [_row(peer, writers, batch, ours, theirs.get(peer.package)) for peer in PEERS]
    return rows


def _row(peer: Peer, writers: int, batch: int, ours: list[float], found: list[Phase] | None) -> Row:
    name = f"{peer.package}-{writers}x{batch}"
    what = f"{peer.about}: {_count(writers, 'writer')}, {_count(batch, 'event')} per append"
    if found is None:
        return Row(name, what, problem="not installed; pip install 'shoal[bench]'")
    ratio = Spread.of(other.rate / mine for mine, other in zip(ours, found, strict=True))
    return Row(
        name,
        what,
        "events/s",
        Spread.of(phase.rate for phase in found),
        Ratio(ratio.median, "shoal", Spread.of(ours).median),
        details={
            "ratio": ratio,
            "p50_ms": Spread.of(phase.p50_s * 1000 for phase in found),
            "p99_ms": Spread.of(phase.p99_s * 1000 for phase in found),
            "disk_rate": Spread.of(phase.disk_rate for phase in found),
        },
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _installed(peer: Peer) -> bool:
    return importlib.util.find_spec(peer.package) is not None


async def _phase(bench: Bench, job: Callable[..., Any], writers: int, batch: int, extra: Any) -> Phase:
    directory, sizes = bench.fresh("peer"), bench.sizes
    try:
        return await call(Phase, job, str(directory), writers, batch, sizes.phase_s, sizes.probe_s, extra)
    finally:
        bench.done_with(directory)


# --- a phase with threads


def _threads_phase(
    directory: str, batch: int, seconds: float, probe_s: float, appends: list[Append]
) -> Phase:
    """Every writer appends in a thread of its own; the whole phase counts, from the first start to the last end."""
    place = Path(directory)
    before = probe_disk(place, probe_s)
    _run_threads(appends, batch, _WARM_UP_S)
    gc.collect()
    began = time.perf_counter()
    took = _run_threads(appends, batch, seconds)
    elapsed = time.perf_counter() - began
    disk = mean_disk(before, probe_disk(place, probe_s))
    rate = len(took) * batch / elapsed
    return Phase(rate, rate, percentile(took, 50), percentile(took, 99), disk.rate, disk.p50_s)


def _run_threads(appends: list[Append], batch: int, seconds: float) -> list[float]:
    """Let all append until the time is over; what each append took. Raises what a writer raised."""
    took: list[float] = []
    failed: list[BaseException] = []
    end = time.perf_counter() + seconds

    def write(append: Append) -> None:
        try:
            while (at := time.perf_counter()) < end:
                append(batch)
                took.append(time.perf_counter() - at)
        except Exception as error:  # noqa: BLE001 - raised below, where the phase is
            failed.append(error)

    threads = [threading.Thread(target=write, args=(append,)) for append in appends]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    return took


# --- eventsourcing


async def _eventsourcing(bench: Bench, writers: int, batch: int) -> Phase:
    return await _phase(bench, eventsourcing_phase, writers, batch, None)


def eventsourcing_phase(
    directory: str, writers: int, batch: int, seconds: float, probe_s: float, _: None
) -> Phase:
    """Job: its SQLite recorder for applications, WAL and SQLite's default of synchronous=FULL."""
    from eventsourcing.sqlite import SQLiteApplicationRecorder, SQLiteDatastore

    store = SQLiteDatastore(f"{directory}/events.db", pool_size=1, max_overflow=0, pool_timeout=60)
    recorder = SQLiteApplicationRecorder(store)
    recorder.create_table()
    with store.transaction(commit=False) as cursor:
        cursor.execute("PRAGMA synchronous")
        if cursor.fetchone()[0] < 2:
            raise RuntimeError("eventsourcing's SQLite does not sync its commits here: nothing to compare")
    with contextlib.closing(store):
        appends = [_eventsourcing_writer(recorder) for _ in range(writers)]
        return _threads_phase(directory, batch, seconds, probe_s, appends)


def _eventsourcing_writer(recorder: Any) -> Append:
    from eventsourcing.persistence import StoredEvent

    stream, version = uuid.uuid4(), 0

    def append(count: int) -> None:
        nonlocal version
        recorder.insert_events(
            [StoredEvent(stream, at, COMMON_TYPE, payload_json(at)) for at in range(version, version + count)]
        )
        version += count

    return append


# --- UmaDB


async def _umadb(bench: Bench, writers: int, batch: int) -> Phase:
    directory, port = bench.fresh("umadb"), free_port()
    arguments = ["-c", _SERVE_UMADB, "--listen", f"127.0.0.1:{port}", "--db-path", str(directory / "uma.db")]
    async with server(arguments, port, directory / "umadb.log"):
        found = await _phase(bench, umadb_phase, writers, batch, port)
    bench.done_with(directory)
    return found


def umadb_phase(directory: str, writers: int, batch: int, seconds: float, probe_s: float, port: int) -> Phase:
    """Job: a client for each writer; the server syncs before it answers."""
    import umadb

    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(umadb.Client(f"http://127.0.0.1:{port}")) for _ in range(writers)]
        appends = [_umadb_writer(client, f"stream-{number}") for number, client in enumerate(clients)]
        return _threads_phase(directory, batch, seconds, probe_s, appends)


def _umadb_writer(client: Any, stream_id: str) -> Append:
    import umadb

    mine = umadb.Query([umadb.QueryItem(tags=[stream_id])])
    numbers = counting()
    position: int | None = None

    def append(count: int) -> None:
        nonlocal position
        events = [
            umadb.Event(COMMON_TYPE, payload_json(next(numbers)), tags=[stream_id], uuid=uuid.uuid4())
            for _ in range(count)
        ]
        position = client.append(events, umadb.AppendCondition(mine, position))

    return append


PEERS: Final = (
    Peer("eventsourcing", "eventsourcing on SQLite", _eventsourcing),
    Peer("umadb", "UmaDB, client and server", _umadb),
)
