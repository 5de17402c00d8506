"""Large answers: a part at a time, as fast as their readers take them, and not too many bytes of them at once.

A reader that takes nothing would else hold its whole answer in memory, and a thousand of them the board's.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Final

from aiohttp import web

from shoal.errors import TooBusy
from shoal.types import Limits

LARGE_BYTES: Final = 64 * 1024
"""An answer up to this is not counted: the buffers of its connection hold as much."""
_PART_BYTES: Final = 128 * 1024
_ROOM_PAGES: Final = 4
"""Pages of the largest size that may be on their way at once."""


class Hold:
    """What one answer has of the room."""

    __slots__ = ("_room", "size")

    def __init__(self, room: Room, size: int) -> None:
        self._room = room
        self.size = size
        room.free -= size

    def resize(self, size: int) -> None:
        """Hold `size` from now on."""
        self._room.free += self.size - size
        self.size = size
        self._room.freed.set()


class Room:
    """The bytes that large answers of one server hold together. The first of them always fits."""

    def __init__(self, limits: Limits) -> None:
        self._whole = max(_ROOM_PAGES * limits.page_bytes, 1)
        self.free = self._whole
        self.freed = asyncio.Event()
        self._first = asyncio.Lock()

    @contextmanager
    def take(self, size: int) -> Iterator[None]:
        """Room for an answer that has not begun. Raises TooBusy."""
        if not self._fits(size):
            raise TooBusy("too many large answers are being read at once, ask again or for a smaller limit")
        hold = Hold(self, size)
        try:
            yield
        finally:
            hold.resize(0)

    @asynccontextmanager
    async def wait(self, size: int) -> AsyncIterator[Hold]:
        """Room for the next part of an answer that has begun: waits its turn, and so should hold nothing meanwhile."""
        async with self._first:
            while not self._fits(size):
                self.freed.clear()
                await self.freed.wait()
            hold = Hold(self, size)
        try:
            yield hold
        finally:
            hold.resize(0)

    def _fits(self, size: int) -> bool:
        return size <= LARGE_BYTES or size <= self.free or self.free >= self._whole


class Paced(web.StreamResponse):
    """A large answer that is known as a whole."""

    def __init__(self, body: bytes, headers: Mapping[str, str]) -> None:
        super().__init__(headers=headers)
        self.content_length = len(body)
        self._left = body

    async def send(self, request: web.BaseRequest, room: Room) -> None:
        """All of it; nothing when it is sent already.

        Raises TooBusy before anything is sent, ConnectionError when the reader leaves.
        """
        body, self._left = self._left, b""
        with room.take(len(body)):
            await self.prepare(request)
            await write_parts(self, body)
            await self.write_eof()


async def write_parts(response: web.StreamResponse, body: bytes) -> None:
    """Write `body`, each part when the one before is taken."""
    view = memoryview(body)
    for start in range(0, len(view), _PART_BYTES):
        await response.write(view[start : start + _PART_BYTES])
