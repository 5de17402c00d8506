"""64 connections spread over three nodes, in turns: shoald by HTTP and by its client, etcd and NATS by theirs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path
from typing import Any, Final

import msgspec

from shoal_host.bench import load
from shoal_host.bench.bench import PHASES, Bench
from shoal_host.bench.cluster import etcd, nats, ours
from shoal_host.bench.load import Load
from shoal_host.bench.probe import probe_disk
from shoal_host.bench.processes import call
from shoal_host.bench.rows import Ratio, Row, Spread, Target, at_least

CONNECTIONS: Final = 64


class Rival(msgspec.Struct, frozen=True):
    """A store to compare with: its servers, the job that loads them, what to do when it is not there."""

    name: str
    about: str
    binary: Callable[[], str | None]
    servers: Callable[[Path], AbstractAsyncContextManager[list[int]]]
    job: Callable[[list[int], int, float, str], Load]
    advice: str


RIVALS: Final = (
    Rival(
        "etcd",
        "etcd, three members, aetcd",
        etcd.binary,
        etcd.servers,
        etcd.run_load,
        "apt install etcd-server",
    ),
    Rival(
        "nats",
        "NATS JetStream R3, sync always, nats-py",
        nats.binary,
        nats.servers,
        nats.run_load,
        "pip install 'shoal[bench]'",
    ),
)
_OURS: Final = {
    "cluster-http": "HTTP to any node, 64 keep-alive connections",
    "cluster-connect": "shoal.connect, 64 clients, each told of one node",
}


async def appends(bench: Bench) -> list[Row]:
    """Durable appends of one event, each after the answer to the one before."""
    directory, sizes = bench.fresh("rivals"), bench.sizes
    there = [rival for rival in RIVALS if rival.binary() is not None]
    found: dict[str, list[Load]] = {name: [] for name in (*_OURS, *(rival.name for rival in there))}
    disk = []
    async with AsyncExitStack() as stack:
        where = await asyncio.to_thread(ours.places, directory)
        await stack.enter_async_context(ours.boards(where))
        jobs: list[tuple[str, Callable[..., Any], Any]] = [
            ("cluster-http", load.run_load_on, ours.ports_of(where)),
            ("cluster-connect", ours.run_connect, [place.url for place in where]),
        ]
        for rival in there:
            (directory / rival.name).mkdir()
            ports = await stack.enter_async_context(rival.servers(directory / rival.name))
            jobs.append((rival.name, rival.job, ports))
        await call(Load, load.run_load_on, ours.ports_of(where), CONNECTIONS, sizes.phase_s / 2, "warm")
        for phase in range(PHASES):
            disk.append(probe_disk(directory, sizes.probe_s).rate)
            for name, job, target in jobs:
                prefix = f"{name}-{phase}"
                found[name].append(await call(Load, job, target, CONNECTIONS, sizes.phase_s, prefix))
    bench.done_with(directory)
    return rows(found, Spread.of(disk).median)


def rows(found: dict[str, list[Load]], disk_rate: float) -> list[Row]:
    """What was measured as rows: ours must be ahead of each rival that ran."""
    rates = {name: Spread.of(one.rate for one in loads) for name, loads in found.items()}
    targets = {
        name: tuple(_ahead(rival, found[name], found[rival.name]) for rival in RIVALS if rival.name in found)
        for name in _OURS
    }
    made = [
        Row(
            *(name, what, "events/s", rates[name]),
            Ratio(rates[name].median / disk_rate, "fdatasync rate", disk_rate),
            targets[name],
            _details(found[name]),
        )
        for name, what in _OURS.items()
    ]
    return [*made, *(_rival_row(rival, found, rates) for rival in RIVALS)]


def _ahead(rival: Rival, mine: list[Load], others: list[Load]) -> Target:
    ratio = Spread.of(one.rate / other.rate for one, other in zip(mine, others, strict=True))
    return at_least(f"ahead of {rival.name}", ratio.median, 1)


def _rival_row(rival: Rival, found: dict[str, list[Load]], rates: dict[str, Spread]) -> Row:
    name, what = f"cluster-{rival.name}", f"{rival.about}, {CONNECTIONS} connections"
    if rival.name not in found:
        return Row(name, what, problem=f"not installed; {rival.advice}")
    against = rates["cluster-http"].median
    ratio = Ratio(rates[rival.name].median / against, "shoal by HTTP", against)
    return Row(name, what, "events/s", rates[rival.name], ratio, details=_details(found[rival.name]))


def _details(found: list[Load]) -> dict[str, Any]:
    return {
        "p50_ms": Spread.of(one.p50_s * 1000 for one in found),
        "p99_ms": Spread.of(one.p99_s * 1000 for one in found),
        "client_cpu": Spread.of(one.client_cpu for one in found),
    }
