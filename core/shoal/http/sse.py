"""Live tails as server-sent events: catch-up, `event: caught-up` once, then live.

The reader sets the pace: an event is taken from the store only when the socket took the one before,
so a stalled reader holds one buffer and the store reads for it from disk when it moves again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, Final

import msgspec
from aiohttp import web

from shoal.errors import InvalidRequest, ShuttingDown, StreamNotFound
from shoal.http import answers, negotiation
from shoal.http.connections import Connection
from shoal.http.context import Call
from shoal.http.ndjson import one_line
from shoal.http.pacing import LARGE_BYTES
from shoal.http.params import whole
from shoal.types import JSON, MAX_VERSION, CaughtUp, Event, EventFilter

_COMMENT: Final = b": still here\n\n"
_encode: Final = msgspec.json.Encoder().encode


def check_live(direction: str, limit: int | None) -> None:
    """Refuse what a live tail cannot honour. Raises InvalidRequest."""
    if direction != "forward":
        raise InvalidRequest("a live tail only goes forward", pointer="direction")
    if limit is not None:
        raise InvalidRequest("a live tail has no end, leave out the limit", pointer="limit")


async def tail_stream(call: Call, start: int, resumed: int | None) -> web.StreamResponse:
    """One stream from version `start` on, or after position `resumed`; one that is not there yet is waited for."""
    after = await _position_before(call, start) if resumed is None else resumed
    tail = call.store.streams.tail(EventFilter(system=True), after, call.stream_id)
    return await _serve(call, tail, start)


async def tail_all(call: Call, selection: EventFilter, after: int) -> web.StreamResponse:
    """All streams, after position `after`."""
    return await _serve(call, call.store.streams.tail(selection, after), 0)


def last_event_id(call: Call) -> int | None:
    """The position that the header names. Raises InvalidRequest."""
    last = call.header("Last-Event-ID")
    if last is None:
        return None
    position = whole("Last-Event-ID", last)
    if not 0 <= position <= MAX_VERSION:
        raise InvalidRequest(f"Last-Event-ID must be from 0 to {MAX_VERSION}", pointer="Last-Event-ID")
    return position


async def _position_before(call: Call, start: int) -> int:
    """The position after which all events of the stream from version `start` on come."""
    head = call.store.head
    if start == 0:
        return 0
    try:
        page = await call.store.streams.read_page(call.stream_id, start, 1)
    except StreamNotFound:
        return head
    return page.events[0].position - 1 if page.events else head


async def _serve(call: Call, tail: AsyncIterator[Event | CaughtUp], start: int) -> web.StreamResponse:
    """Deliver until the client goes, its token is taken away, or the server closes."""
    context = call.context
    response = web.StreamResponse(headers={"Cache-Control": "no-store", **context.reply_headers(call.store)})
    response.content_type = negotiation.SSE
    response.charset = "utf-8"
    _may_stall(call, patient=True)
    await response.prepare(call.request)
    delivery = asyncio.create_task(_deliver(call, tail, response, start))
    ending: list[asyncio.Task[Any]] = [asyncio.create_task(context.closing.wait())]
    if call.access.token_id is not None:
        ending.append(asyncio.create_task(context.door.revoked(call.access)))
    heartbeat_s = context.config.http.heartbeat_ms / 1000
    try:
        while await context.door.still_open(call.access):
            done, _ = await asyncio.wait(
                {delivery, *ending}, timeout=heartbeat_s, return_when=asyncio.FIRST_COMPLETED
            )
            if done:
                break
            if not call.request.protocol.writing_paused:  # to one that stalls it would only wait
                await response.write(_COMMENT)
    finally:
        await _end(delivery, *ending)
    await response.write_eof()
    return response


async def _end(*tasks: asyncio.Task[Any]) -> None:
    """Cancel what still runs. A store that closes ends its tails; any other failure is raised."""
    for task in tasks:
        task.cancel()
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(result, Exception) and not isinstance(result, ShuttingDown):
            raise result


def _may_stall(call: Call, *, patient: bool) -> None:
    if isinstance(call.request.protocol, Connection):
        call.request.protocol.may_stall(patient=patient)


async def _deliver(
    call: Call, tail: AsyncIterator[Event | CaughtUp], response: web.StreamResponse, start: int
) -> None:
    async with aclosing(tail) as items:  # type: ignore[type-var]
        async for item in items:
            if isinstance(item, CaughtUp):
                await response.write(
                    b'event: caught-up\nid: %d\ndata: {"position":%d}\n\n' % (item.position, item.position)
                )
            elif item.version >= start:
                document = one_line(_encode(answers.event(item, JSON)))
                block = b"id: %d\ndata: %b\n\n" % (item.position, document)
                if len(block) <= LARGE_BYTES:
                    await response.write(block)
                else:
                    _may_stall(call, patient=False)  # it is held until it is taken; who is cut off resumes
                    await response.write(block)
                    _may_stall(call, patient=True)
