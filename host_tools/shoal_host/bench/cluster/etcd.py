"""Three etcd on loopback, by `aetcd`, its client for asyncio; the server is Debian's `etcd-server`.

`etcd3`, which `aetcd` comes from, is of 2020 and cannot be imported beside the protobuf of today.

Each append is a transaction: the key must be new, as an expected version says here. etcd syncs its log before a
member counts for the majority, which is its default.
"""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any, Final

from shoal_host.bench.cluster.driving import Append, drive
from shoal_host.bench.load import Load
from shoal_host.bench.loops import best_loop, run_on
from shoal_host.bench.processes import program
from shoal_host.bench.workload import payload_json
from shoal_host.local_cluster import free_ports

NODES: Final = 3
_READY_S: Final = 20
_OWN_CHANNEL: Final = {"grpc.use_local_subchannel_pool": 1}
"""A connection for each client: gRPC lets clients of one process share them otherwise."""


def binary() -> str | None:
    """Where the server is, if it is installed."""
    return shutil.which("etcd")


@asynccontextmanager
async def servers(directory: Path) -> AsyncIterator[list[int]]:
    """Three members; the value is where clients reach them. Raises JobFailed."""
    ports = free_ports(2 * NODES)
    clients, peers = ports[:NODES], ports[NODES:]
    everyone = ",".join(f"e{number}=http://127.0.0.1:{port}" for number, port in enumerate(peers))
    async with AsyncExitStack() as stack:
        for number, (client, peer) in enumerate(zip(clients, peers, strict=True)):
            command = [
                binary() or "etcd",
                "--name",
                f"e{number}",
                "--data-dir",
                str(directory / f"e{number}"),
            ]
            for option in ("--listen-client-urls", "--advertise-client-urls"):
                command += [option, f"http://127.0.0.1:{client}"]
            for option in ("--listen-peer-urls", "--initial-advertise-peer-urls"):
                command += [option, f"http://127.0.0.1:{peer}"]
            command += ["--initial-cluster", everyone, "--logger", "zap", "--log-level", "error"]
            await stack.enter_async_context(program(command, peer, directory / f"e{number}.log"))
        yield clients


def run_load(ports: list[int], connections: int, seconds: float, prefix: str) -> Load:
    """Job: every client appends to a stream of its own."""
    return run_on(best_loop(), _load(ports, connections, seconds, prefix))


async def _load(ports: list[int], connections: int, seconds: float, prefix: str) -> Load:
    import aetcd

    async with AsyncExitStack() as stack:
        appends = []
        for number in range(connections):
            port = ports[number % len(ports)]
            client = aetcd.Client("127.0.0.1", port, timeout=_READY_S, options=_OWN_CHANNEL)
            await stack.enter_async_context(client)
            appends.append(_writer(client, f"{prefix}-{number}"))
        return await drive(appends, seconds)


def _writer(client: Any, stream_id: str) -> Append:
    numbers = count()

    async def append() -> None:
        number = next(numbers)
        key = f"{stream_id}/{number:012}".encode()
        is_new = client.transactions.version(key) == 0
        done, _ = await client.transaction([is_new], [client.transactions.put(key, payload_json(number))], [])
        if not done:
            raise RuntimeError(f"etcd has {key!r} already")

    return append
