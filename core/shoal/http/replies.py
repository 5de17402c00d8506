"""The answer to an append, in one write: a quarter of what such a request costs was aiohttp's way of writing it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from email.utils import formatdate
from http import HTTPStatus

from aiohttp import HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter


class Reply(web.Response):
    """A small answer with known headers, none of which comes from a client's header or body.

    It goes out as it is over a connection that is kept; over any other, aiohttp's way.
    """

    def __init__(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        super().__init__(status=status, body=body, headers=headers)
        self._parts = (status, body, headers)
        self._sent = False

    @property
    def keep_alive(self) -> bool | None:
        """As inherited; a connection that this was written to straight is kept."""
        return True if self._sent else super().keep_alive

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        if super().keep_alive is False or not request.keep_alive or request.version != HttpVersion11:
            return await super().prepare(request)
        transport = request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client left before its answer")
        transport.write(self._encoded())
        self._sent = True
        if request.protocol.writing_paused:
            await request.writer.drain()
        return request.writer

    async def write_eof(self, data: bytes = b"") -> None:
        if not self._sent:
            await super().write_eof(data)

    def _encoded(self) -> bytes:
        status, body, headers = self._parts
        lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        head = f"{_STATUS_LINES[status]}{lines}Content-Length: {len(body)}\r\nDate: {_date.now()}\r\n\r\n"
        return head.encode("ascii") + body


class _Date:
    """The time as HTTP writes it, made once a second."""

    def __init__(self) -> None:
        self._second = 0
        self._text = ""

    def now(self) -> str:
        second = int(time.time())
        if second != self._second:
            self._second = second
            self._text = formatdate(second, usegmt=True)
        return self._text


_date = _Date()
_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in HTTPStatus}
