"""A stream as newline-delimited JSON: one event a line, and a last line that says it is whole."""

from __future__ import annotations

from typing import Final

import msgspec
from aiohttp import web

from shoal.http import answers, negotiation
from shoal.http.context import Call
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
    """Up to `limit` events, a page in memory at a time, closed by `{"end":true,"version":n}`."""
    streams = call.store.streams
    page = await streams.read_page(call.stream_id, start, min(limit, _PAGE), direction)
    version = page.version
    response = web.StreamResponse(headers={"ETag": f'"{version}"', **call.context.reply_headers(call.store)})
    response.content_type = negotiation.NDJSON
    await response.prepare(call.request)
    while page.events:
        lines = [one_line(_encode(answers.event(event, JSON))) for event in page.events]
        await response.write(b"\n".join([*lines, b""]))
        limit -= len(page.events)
        if page.next is None or limit <= 0:
            break
        page = await streams.read_page(call.stream_id, page.next, min(limit, _PAGE), direction)
    await response.write(_encode({"end": True, "version": version}) + b"\n")
    await response.write_eof()
    return response
