"""Appending over HTTP, against the same server answering an empty 201."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Final

from shoal_host.bench import load
from shoal_host.bench.bench import PHASES, Bench
from shoal_host.bench.loops import best_loop, run_on
from shoal_host.bench.probe import probe_disk
from shoal_host.bench.processes import call, free_port, server
from shoal_host.bench.rows import Ratio, Row, Spread, at_least

_CONNECTIONS: Final = 64


def shoald(data_dir: Path, port: int) -> AbstractAsyncContextManager[int]:
    """The real thing, in a process of its own; the value is its process id."""
    arguments = ["-m", "shoal", "--data-dir", str(data_dir), "--listen", f"127.0.0.1:{port}"]
    return server(arguments, port, data_dir.with_name(f"{data_dir.name}.log"))


def empty_server(directory: Path, port: int) -> AbstractAsyncContextManager[int]:
    """Nothing but aiohttp, on the loop that shoald takes."""
    arguments = ["-m", "shoal_host.bench.job", __name__, "serve_empty", f"[{port}]"]
    return server(arguments, port, directory / "empty.log")


def serve_empty(port: int) -> None:
    """Job: read each request's body and answer 201 with nothing, until killed."""
    run_on(best_loop(), _serve_empty(port))


async def _serve_empty(port: int) -> None:
    from aiohttp import web

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        await request.read()
        return web.Response(status=201)

    server_: Any = web.Server(answer, access_log=None)
    listener = await asyncio.get_running_loop().create_server(server_, "127.0.0.1", port)
    await listener.serve_forever()


async def appends(bench: Bench) -> list[Row]:
    """64 keep-alive connections, 1 event per request."""
    directory = bench.fresh("http")
    sizes = bench.sizes
    store_port, empty_port = free_port(), free_port()
    ours: list[load.Load] = []
    empty: list[load.Load] = []
    disk = [probe_disk(directory, sizes.probe_s)]
    async with shoald(directory / "data", store_port), empty_server(directory, empty_port):
        await call(load.Load, load.run_load, store_port, _CONNECTIONS, 0.3, "warm")
        for phase in range(PHASES):
            for port, found in ((empty_port, empty), (store_port, ours)):
                found.append(
                    await call(load.Load, load.run_load, port, _CONNECTIONS, sizes.phase_s, f"stream-{phase}")
                )
            disk.append(probe_disk(directory, sizes.probe_s))
    bench.done_with(directory)
    rate = Spread.of(one.rate for one in ours)
    ratio = Spread.of(one.rate / other.rate for one, other in zip(ours, empty, strict=True))
    against = Spread.of(one.rate for one in empty)
    return [
        Row(
            "http",
            "HTTP, 64 keep-alive connections, 1 event",
            "events/s",
            rate,
            Ratio(ratio.median, "aiohttp answering an empty 201", against.median),
            (at_least("0.5 of the empty 201", ratio.median, 0.5),),
            {
                "ratio": ratio,
                "empty_rate": against,
                "p50_ms": Spread.of(one.p50_s * 1000 for one in ours),
                "p99_ms": Spread.of(one.p99_s * 1000 for one in ours),
                "client_cpu": Spread.of(one.client_cpu for one in ours),
                "client_cpu_empty": Spread.of(one.client_cpu for one in empty),
                "disk_rate": Spread.of(one.rate for one in disk),
            },
        )
    ]
