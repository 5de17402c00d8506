"""A stream as newline-delimited JSON: one event a line, and a last line that says it is whole."""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec
from aiohttp import web

from shoal.http import answers, negotiation
from shoal.http.context import Call
from shoal.http.pacing import write_parts
from shoal.types import JSON, Direction

_PAGE: Final = 1000
_encode: Final = msgspec.json.Encoder().encode


def one_line(document: bytes) -> bytes:
    """JSON without line breaks: a payload kept as sent may have them, between tokens only."""
    return (
        document.replace(b"\n", b" ").replace(b"\r", b" ")
        if b"\n" in document or b"\r" in document
        else document
    )


async def read(call: Call, start: int | None, limit: int, direction: Direction) -> web.StreamResponse:
    """Up to `limit` events, a page in memory at a time, closed by `{"end":true,"version":n}`. Raises TooBusy.

    Once it has begun, it waits until there is room for the largest page before it reads the next one.
    """
    room = call.context.room
    page = await _read(call, start, limit, direction)
    response = web.StreamResponse(
        headers={"ETag": f'"{page.version}"', **call.context.reply_headers(call.store)}
    )
    response.content_type = negotiation.NDJSON
    with room.take(len(page.lines)):
        await response.prepare(call.request)
        await write_parts(response, page.lines)
    version, limit, following = page.version, limit - page.size, page.next
    del page
    while following is not None and limit > 0:
        async with room.wait(call.context.limits.page_bytes) as hold:
            page = await _read(call, following, limit, direction)
            hold.resize(len(page.lines))
            await write_parts(response, page.lines)
            limit, following = limit - page.size, page.next
            del page
    await response.write(_encode({"end": True, "version": version}) + b"\n")
    await response.write_eof()
    return response


class _Page(NamedTuple):
    """A page as it is sent, and what comes after it."""

    lines: bytes
    size: int
    version: int
    next: int | None


async def _read(call: Call, start: int | None, limit: int, direction: Direction) -> _Page:
    page = await call.store.streams.read_page(
        call.stream_id, start, min(limit, _PAGE), direction, consistency="local"
    )
    lines = [one_line(_encode(answers.event(event, JSON))) for event in page.events]
    return _Page(b"\n".join([*lines, b""]) if lines else b"", len(page.events), page.version, page.next)
