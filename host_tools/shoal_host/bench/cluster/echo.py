"""A peer's round trip: a small message there and back over the TLS that members use, between two processes."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

from shoal.cluster.identity import load_identity
from shoal_host.bench.loops import best_loop, run_on
from shoal_host.bench.processes import free_port, server

_MESSAGE: Final = b"p" * 64
_BYTES: Final = len(_MESSAGE)


@asynccontextmanager
async def peer(ours: Path, theirs: Path, log: Path) -> AsyncIterator[Peer]:
    """Another process that echoes; each has the identity in its directory."""
    port = free_port()
    arguments = ["-m", "shoal_host.bench.job", __name__, "serve", f'[{port}, "{theirs}"]']
    async with server(arguments, port, log):
        identity = await asyncio.to_thread(load_identity, ours)
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=identity.dial)
        try:
            yield Peer(reader, writer)
        finally:
            writer.close()
            with suppress(OSError, ssl.SSLError):
                await writer.wait_closed()


class Peer:
    """The connection to the other process."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def round_trip(self) -> float:
        """Seconds until the message is back."""
        began = time.perf_counter()
        self._writer.write(_MESSAGE)
        await self._reader.readexactly(_BYTES)
        return time.perf_counter() - began


def serve(port: int, identity: str) -> None:
    """Job: echo until killed."""
    run_on(best_loop(), _serve(port, Path(identity)))


async def _serve(port: int, directory: Path) -> None:
    identity = await asyncio.to_thread(load_identity, directory)
    listener = await asyncio.start_server(_echo, "127.0.0.1", port, ssl=identity.accept)
    await listener.serve_forever()


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while message := await reader.read(_BYTES):
        writer.write(message)
    writer.close()
