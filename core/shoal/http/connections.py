"""Connections: how many, how long a client may take, and what it gets when the HTTP itself is broken.

aiohttp has one timeout for idle connections; here are the ones it lacks. A request's head must be
complete within the header timeout, counted from its first byte (for the first request, from the
connection's beginning), and within `_HEAD_BYTES`. An answer must keep moving, except a live tail's,
which may stall for as long as its reader likes. A body's deadline is in `bodies`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final, cast

from aiohttp import web

from shoal import errors
from shoal.http import problems

_KEEPALIVE_S: Final = 75.0
_LINGER_S: Final = 1.0
_STALL_S: Final = 30.0
_HEAD_BYTES: Final = 64 * 1024
_SETTINGS: Final[dict[str, Any]] = {
    "access_log": None,
    "keepalive_timeout": _KEEPALIVE_S,
    "lingering_time": _LINGER_S,
    "max_line_size": 16 * 1024,
    "max_field_size": 8 * 1024,
    "max_headers": 100,
    "auto_decompress": False,
}

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

_log = logging.getLogger(__name__)


class Connections(web.Server):
    """Makes a protocol for every connection; beyond `limit` each is told so and closed."""

    def __init__(
        self, handler: Handler, *, limit: int, header_timeout_s: float, stall_s: float = _STALL_S
    ) -> None:
        super().__init__(self._answer, **_SETTINGS)
        self._handler = handler
        self.limit = limit
        self.header_timeout_s = header_timeout_s
        self.stall_s = stall_s
        self.open = 0
        self._under_way = 0
        self._drained: asyncio.Event | None = None

    async def drain(self, timeout_s: float) -> None:
        """Close idle connections, let requests under way finish, bodies still arriving included, then close all.

        aiohttp's own shutdown drops what arrives, and so would lose half-sent bodies.
        """
        self._drained = asyncio.Event()
        for connection in self.connections:
            if isinstance(connection, Connection) and connection.idle:
                connection.force_close()
        if self._under_way:
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._drained.wait()
        await self.shutdown(_LINGER_S)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        connection = request.protocol
        if not isinstance(connection, Connection):
            raise TypeError("a request came over a connection that is not ours")
        self._under_way += 1
        try:
            response = await self._handler(request)
            connection.answered(request, response)
            if self._drained is not None:
                response.force_close()
            return response
        finally:
            self._under_way -= 1
            if self._drained is not None and not self._under_way:
                self._drained.set()

    def __call__(self) -> web.RequestHandler:
        """The protocol of a new connection."""
        return Connection(self)

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        self.open += 1
        super().connection_made(handler, transport)

    def connection_lost(self, handler: web.RequestHandler, exc: BaseException | None = None) -> None:
        self.open -= 1
        super().connection_lost(handler, exc)


class Connection(web.RequestHandler):
    """A connection with deadlines for a request's head and for an answer that nobody takes.

    The head of a request is awaited while aiohttp has parsed no more requests than were answered.
    """

    __slots__ = (
        "_answers",
        "_guard",
        "_head_bytes",
        "_head_since",
        "_head_timer",
        "_lost",
        "_patient",
        "_stall_timer",
        "_time",
    )

    def __init__(self, server: Connections) -> None:
        loop = asyncio.get_running_loop()
        super().__init__(server, loop=loop, **_SETTINGS)
        self._guard = server
        self._time = loop.time
        self._answers = 0
        self._patient = False
        self._head_since = 0.0
        self._head_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._lost: asyncio.Future[None] | None = None
        self._stall_timer: asyncio.TimerHandle | None = None

    @property
    def idle(self) -> bool:
        """Whether no request is under way."""
        return self._request_count == self._answers

    def answered(self, request: web.BaseRequest, response: web.StreamResponse) -> None:
        """The answer is known. A body that nobody read ends the connection, once the answer is sent."""
        if request.content.is_eof():
            self._answers += 1
        else:
            response.force_close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Counted here: of many that come in one turn of the loop, all protocols are made before the first connects."""
        if self._guard.open >= self._guard.limit:
            _refuse(transport, self._guard.limit)
            return
        super().connection_made(transport)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        if self._request_count != self._answers:  # the body of a request, or the next one already
            super().data_received(data)
            return
        if self._head_bytes > _HEAD_BYTES:
            self.force_close()
            return
        if not self._head_since:
            self._await_head()
        self._head_bytes += len(data)
        super().data_received(data)
        if self._request_count != self._answers:
            self._head_since = 0.0
            self._head_bytes = 0

    def resume_reading(self, resume_parser: bool = True) -> None:  # noqa: FBT001, FBT002 - as inherited
        """As inherited, which after every body asks the parser for more even if it was never paused."""
        if self._reading_paused:
            super().resume_reading(resume_parser)

    def connection_lost(self, exc: BaseException | None) -> None:
        for timer in (self._head_timer, self._stall_timer):
            if timer is not None:
                timer.cancel()
        if self._lost is not None and not self._lost.done():
            self._lost.set_result(None)
        super().connection_lost(exc)

    async def lost(self) -> None:
        """Until the client is gone. For one waiter at a time: the request under way."""
        if self.transport is not None:
            self._lost = self._loop.create_future()
            await self._lost

    def pause_writing(self) -> None:
        super().pause_writing()
        if not self._patient:
            self._stall_timer = self._loop.call_later(self._guard.stall_s, self._check_stall, self._unsent())

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    def may_stall(self, *, patient: bool = True) -> None:
        """The answer that begins now is a live tail: its reader may take any time, until told otherwise."""
        self._patient = patient

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """A problem document for what is not HTTP, and for a defect in the handler."""
        if isinstance(exc, ConnectionError):
            raise exc
        if request.writer.output_size > 0:
            raise ConnectionResetError("the answer is cut short")
        error: errors.ShoalError = errors.InvalidRequest(f"the request is not valid HTTP: {message}")
        if status >= 500:
            _log.error("a request failed", exc_info=exc)
            outcome: errors.Outcome = "not-applied" if request.method in {"GET", "HEAD"} else "unknown"
            error = errors.InternalError("a defect in shoal, see its log", outcome=outcome)
        response = problems.respond(error)
        response.force_close()
        return response

    def _await_head(self) -> None:
        self._head_since = self._time()
        if self._head_timer is None:
            self._head_timer = self._loop.call_later(self._guard.header_timeout_s, self._check_head)

    def _check_head(self) -> None:
        """One timer serves many requests: it is set again only while a head is incomplete."""
        self._head_timer = None
        if not self._head_since:
            return
        left = self._head_since + self._guard.header_timeout_s - self._time()
        if left > 0:
            self._head_timer = self._loop.call_later(left, self._check_head)
        else:
            self.force_close()

    def _unsent(self) -> int:
        return 0 if self.transport is None else self.transport.get_write_buffer_size()

    def _check_stall(self, before: int) -> None:
        unsent = self._unsent()
        if self.transport is not None and unsent >= before:
            self.transport.abort()
        else:
            self._stall_timer = self._loop.call_later(self._guard.stall_s, self._check_stall, unsent)


def _refuse(transport: asyncio.BaseTransport, limit: int) -> None:
    """One connection too many: told so, and closed. What still comes over it is dropped."""
    error = errors.Unavailable(f"{limit} connections are open, the most that http.max_connections allows")
    body = problems.encode(error)
    head = (
        f"HTTP/1.1 503 Service Unavailable\r\nContent-Type: {problems.PROBLEM_TYPE}\r\n"
        f"Content-Length: {len(body)}\r\nRetry-After: {problems.RETRY_AFTER_S}\r\nConnection: close\r\n\r\n"
    )
    transport.set_protocol(asyncio.Protocol())
    cast("asyncio.WriteTransport", transport).write(head.encode() + body)  # uvloop's is one, and no subclass
    transport.close()
