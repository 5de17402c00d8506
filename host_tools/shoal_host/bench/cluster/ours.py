"""Three `shoald` on loopback, and loads on them: by HTTP, and by `shoal.connect`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Final

from shoal.errors import ShoalError
from shoal.types import NO_STREAM
from shoal_host.bench.cluster.driving import Append, drive
from shoal_host.bench.load import Load
from shoal_host.bench.loops import best_loop, run_on
from shoal_host.bench.processes import JobFailed
from shoal_host.bench.workload import new_events
from shoal_host.local_cluster import Place, free_ports, issue_identities

if TYPE_CHECKING:
    from shoal.client import RemoteStore
    from shoal_host.commands.up_cluster import Boards

NODES: Final = 3


def places(directory: Path, nodes: int = NODES) -> list[Place]:
    """Boards below `directory` on free ports, with certificates."""
    ports = free_ports(2 * nodes)
    names = [f"n{number + 1}" for number in range(nodes)]
    identities = issue_identities(directory / "tls", names)
    return [
        Place(name, f"127.0.0.1:{http}", f"127.0.0.1:{peer}", directory / name, identities[name])
        for name, http, peer in zip(names, ports[:nodes], ports[nodes:], strict=True)
    ]


@asynccontextmanager
async def boards(where: list[Place]) -> AsyncIterator[Boards]:
    """They run, lead and have their store while the block runs. Raises JobFailed."""
    from shoal_host.commands.up_cluster import Boards

    running = Boards(where, _ignore)
    try:
        await running.start()
        await running.until_led()
        yield running
    except ShoalError as error:
        raise JobFailed(" ".join(str(error).split())) from error
    finally:
        await running.stop()


def ports_of(where: list[Place]) -> list[int]:
    """Where HTTP listens."""
    return [int(place.listen.rpartition(":")[2]) for place in where]


def _ignore(line: str) -> None:
    """What a board says is shown only when it fails."""


def run_connect(urls: list[str], clients: int, seconds: float, prefix: str) -> Load:
    """Job: a `shoal.connect` for each writer, each given one board, appends to a stream of its own."""
    return run_on(best_loop(), _connect(urls, clients, seconds, prefix))


async def _connect(urls: list[str], clients: int, seconds: float, prefix: str) -> Load:
    import shoal

    async with AsyncExitStack() as stack:
        stores = [
            await stack.enter_async_context(shoal.connect(urls[number % len(urls)]))
            for number in range(clients)
        ]
        return await drive([writer(store, f"{prefix}-{at}") for at, store in enumerate(stores)], seconds)


def writer(store: RemoteStore, stream_id: str, answered: Callable[[], None] | None = None) -> Append:
    """Appends single events, each with the version that the last answer gave."""
    numbers, version = count(), NO_STREAM

    async def append() -> None:
        nonlocal version
        version = int(await store.streams.append(stream_id, version, new_events(next(numbers), 1)))
        if answered is not None:
            answered()

    return append
