"""A TCP proxy between two nodes, in one process with the lab: what a network does to them, without a network's rights.

There is one for each dialling node and each node dialled, so that it is known who speaks; nodes are told of it by
`shoal_host.lab.node`. A cut holds bytes back, as TCP does that sends again and again.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from contextlib import suppress
from typing import Final

_CHUNK: Final = 64 * 1024
_WAITING_CHUNKS: Final = 64
"""What one connection holds back before it reads no more, as a socket's buffer would."""


class Way:
    """One direction between two nodes; all connections share its fate."""

    def __init__(self) -> None:
        self.delay_s = 0.0
        self._open = asyncio.Event()
        self._open.set()

    @property
    def is_cut(self) -> bool:
        """Whether nothing passes."""
        return not self._open.is_set()

    def cut(self) -> None:
        """Let nothing pass."""
        self._open.clear()

    def heal(self) -> None:
        """Let everything pass at once, what was held back first."""
        self.delay_s = 0.0
        self._open.set()

    async def passable(self) -> None:
        """Wait until it is not cut."""
        await self._open.wait()


class Proxy:
    """Listens where one node dials another. `out` is the way of the dialling node, `back` that of the answers."""

    def __init__(self, host: str, port: int, out: Way, back: Way) -> None:
        self._target = (host, port)
        self._out = out
        self._back = back
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.address = ""

    async def start(self) -> None:
        """Listen on a free port of loopback; `address` says which."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=_CHUNK)
        self.address = "{}:{}".format(*self._server.sockets[0].getsockname())

    async def close(self) -> None:
        """End all connections."""
        if self._server is not None:
            self._server.close()
        self.drop()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def drop(self) -> None:
        """End all connections there are, as a router that restarts does."""
        for task in self._tasks:
            task.cancel()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine of a task
        self._tasks.add(task)
        try:
            with suppress(asyncio.CancelledError):  # the end that `drop` gives it, told to nobody
                await self._connect(reader, writer)
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._out.passable()  # a SYN
        await self._back.passable()  # and its answer
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._target, limit=_CHUNK)
        except OSError:
            return
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_Pump(self._out, reader, far_writer).run())
                group.create_task(_Pump(self._back, far_reader, writer).run())
        except* OSError:
            pass
        finally:
            far_writer.transport.abort()


class _Pump:
    """One direction of one connection: read, wait, write."""

    def __init__(self, way: Way, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._way = way
        self._reader = reader
        self._writer = writer
        self._waiting: deque[tuple[float, bytes]] = deque()
        self._changed = asyncio.Condition()

    async def run(self) -> None:
        """Until the reader's end has been written. Raises OSError when a side is gone."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._read())
            group.create_task(self._write())

    async def _read(self) -> None:
        while True:
            data = await self._reader.read(_CHUNK)
            async with self._changed:
                self._waiting.append((time.monotonic() + self._way.delay_s, data))
                self._changed.notify_all()
                await self._changed.wait_for(lambda: len(self._waiting) < _WAITING_CHUNKS)
            if not data:
                return

    async def _write(self) -> None:
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda: bool(self._waiting))
                due_s, data = self._waiting.popleft()
                self._changed.notify_all()
            await asyncio.sleep(due_s - time.monotonic())
            await self._way.passable()
            if not data:
                with suppress(OSError):
                    self._writer.write_eof()
                return
            self._writer.write(data)
            await self._writer.drain()
