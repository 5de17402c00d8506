"""Live answers as server-sent events: tails (catch-up, `event: caught-up` once, then live), and what is pushed.

The reader sets the pace: an event or batch is taken from the store only when the socket took the one before,
so a stalled reader holds one buffer and the store reads for it from disk when it moves again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Final

import msgspec
from aiohttp import web

from shoal.errors import InvalidRequest, NotFound, ShoalError, ShuttingDown, StreamNotFound
from shoal.http import answers, lasting, negotiation, problems
from shoal.http.connections import Connection
from shoal.http.context import Call
from shoal.http.ndjson import one_line
from shoal.http.pacing import LARGE_BYTES
from shoal.http.params import whole
from shoal.http.subscription_bodies import delivered
from shoal.types import JSON, MAX_VERSION, CaughtUp, Delivered, Event, EventFilter

_COMMENT: Final = b": still here\n\n"
_FIRST_S: Final = 0.1
"""How long the head of an answer waits for the first event: what goes wrong until then still gets a status."""
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
    return await _serve(call, _tail_blocks(tail, start))


async def tail_all(call: Call, selection: EventFilter, after: int) -> web.StreamResponse:
    """All streams, after position `after`."""
    return await _serve(call, _tail_blocks(call.store.streams.tail(selection, after), 0))


async def push(call: Call, batches: AsyncGenerator[list[Delivered], None]) -> web.StreamResponse:
    """What a subscription leases to a consumer. What ends it is told: `event: end`, with the problem document."""
    return await _serve(call, _push_blocks(batches), tells_end=True)


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
        page = await call.store.streams.read_page(call.stream_id, start, 1, consistency="local")
    except StreamNotFound:
        return head
    return page.events[0].position - 1 if page.events else head


async def _serve(
    call: Call, blocks: AsyncGenerator[bytes, None], *, tells_end: bool = False
) -> web.StreamResponse:
    """Deliver until the client goes, its token is taken away, or the server closes."""
    context = call.context
    response = web.StreamResponse(headers={"Cache-Control": "no-store", **context.reply_headers(call.store)})
    response.content_type = negotiation.SSE
    response.charset = "utf-8"
    _may_stall(call, patient=True)
    delivery = asyncio.create_task(_deliver(call, blocks, response, tells_end=tells_end))
    wait_s = _FIRST_S
    try:
        async with lasting.endings(call) as ending:
            while await context.door.still_open(call.access):
                done, _ = await asyncio.wait(
                    {delivery, *ending}, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED
                )
                if done:
                    break
                await _beat(call, response)
                wait_s = context.config.http.heartbeat_ms / 1000
    finally:
        await lasting.end(delivery)
    await response.prepare(call.request)
    await response.write_eof()
    return response


async def _beat(call: Call, response: web.StreamResponse) -> None:
    """Begin the answer, or fill a silence."""
    if not response.prepared:
        await response.prepare(call.request)
    elif not call.request.protocol.writing_paused:  # to one that stalls it would only wait
        await response.write(_COMMENT)


def _may_stall(call: Call, *, patient: bool) -> None:
    if isinstance(call.request.protocol, Connection):
        call.request.protocol.may_stall(patient=patient)


async def _deliver(
    call: Call, blocks: AsyncGenerator[bytes, None], response: web.StreamResponse, *, tells_end: bool
) -> None:
    """Write each block when the one before is taken. What ends them is told where it may, if it is no defect."""
    try:
        async with aclosing(blocks):
            async for block in blocks:
                await response.prepare(call.request)
                await _write(call, response, block)
    except ShuttingDown:
        raise
    except ShoalError as error:
        if not response.prepared or problems.status_of(error) == 500:
            raise
        if tells_end:
            await response.write(b"event: end\ndata: %b\n\n" % problems.encode(error))
        elif not isinstance(error, NotFound):  # the store was dropped: whoever comes again is told
            raise


async def _write(call: Call, response: web.StreamResponse, block: bytes) -> None:
    if len(block) <= LARGE_BYTES:
        await response.write(block)
    else:
        _may_stall(call, patient=False)  # it is held until it is taken; who is cut off resumes
        await response.write(block)
        _may_stall(call, patient=True)


async def _tail_blocks(tail: AsyncIterator[Event | CaughtUp], start: int) -> AsyncGenerator[bytes, None]:
    async with aclosing(tail) as items:  # type: ignore[type-var]
        async for item in items:
            if isinstance(item, CaughtUp):
                yield b'event: caught-up\nid: %d\ndata: {"position":%d}\n\n' % (item.position, item.position)
            elif item.version >= start:
                yield _block(item.position, answers.event(item, JSON))


async def _push_blocks(batches: AsyncGenerator[list[Delivered], None]) -> AsyncGenerator[bytes, None]:
    """A batch in one block: one write, and one wake-up of its reader."""
    async with aclosing(batches) as each:
        async for batch in each:
            yield b"".join([_block(event.position, delivered(event, JSON)) for event in batch])


def _block(position: int, shown: answers.RecordedEvent) -> bytes:
    return b"id: %d\ndata: %b\n\n" % (position, one_line(_encode(shown)))
