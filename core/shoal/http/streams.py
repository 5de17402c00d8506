"""Routes of streams: read, one event, head, list, delete, aggregate."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated, Any, Final, Literal
from urllib.parse import quote

import msgspec
from aiohttp import web
from msgspec import Meta

from shoal.errors import (
    InvalidRequest,
    NotFound,
    StreamNotFound,
    StreamTombstoned,
    WrongExpectedVersion,
)
from shoal.http import answers, ndjson, negotiation, sse
from shoal.http.context import Call
from shoal.http.params import ExpectedVersion, PageLimit, ReadQuery, Text, Version
from shoal.http.routing import Answer, Route
from shoal.types import ANY_VERSION, Direction

_READ_MEDIA: Final = (*negotiation.PLAIN, negotiation.NDJSON, negotiation.SSE)
_MISSING: Final = (StreamNotFound, StreamTombstoned)


class StreamRead(ReadQuery, frozen=True, kw_only=True):
    """Reading one stream. Without `from`: forward from the first event, backward from the last."""

    from_: Version | None = msgspec.field(name="from", default=None)
    limit: PageLimit | None = None
    direction: Direction = "forward"


class StreamListing(ReadQuery, frozen=True, kw_only=True):
    """Which streams. The store's own (`$...`) only with `system`, or where prefix or pattern begins with `$`."""

    prefix: Text | None = None
    pattern: Annotated[Text, Meta(description="`*` any run, `?` one character.")] | None = None
    after: Text | None = None
    limit: PageLimit | None = None
    system: bool = False


class Deletion(msgspec.Struct, frozen=True, kw_only=True):
    """Soft, so that the numbering goes on when the stream is appended to again; or hard, for ever."""

    hard: bool = False
    expected_version: ExpectedVersion = ANY_VERSION


class Folding(ReadQuery, frozen=True, kw_only=True):
    """How to fold; `at` is the last version that counts."""

    finalize: bool = True
    fold: Literal["left", "right"] = "left"
    at: Version | None = None


async def read(call: Call, query: StreamRead) -> web.StreamResponse:
    """A page as one document, its events line by line, or the stream live."""
    resumed = sse.last_event_id(call)
    if call.media == negotiation.SSE:
        sse.check_live(query.direction, query.limit)
        with suppress(
            StreamNotFound
        ):  # it may come; one that was deleted for ever is told before the answer begins
            await call.store.streams.read_page(call.stream_id, None, 1, consistency="local")
        return await sse.tail_stream(call, query.from_ or 0, resumed)
    limit = call.page_limit(query.limit)
    if call.media == negotiation.NDJSON:
        return await ndjson.read(call, query.from_, limit, query.direction)
    page = await call.store.streams.read_page(
        call.stream_id, query.from_, limit, query.direction, consistency="local"
    )
    headers = {"ETag": f'"{page.version}"'}
    if page.next is not None:
        headers["Link"] = _next_link(call, f"from={page.next}&limit={limit}&direction={query.direction}")
    return call.answer_read(answers.stream_page(page, call.media), headers=headers)


async def read_event(call: Call, query: ReadQuery) -> web.StreamResponse:
    """One event by its version."""
    event = await call.store.streams.read_event(call.stream_id, call.version, consistency="local")
    return call.answer_read(answers.event(event, call.media))


async def head(call: Call, query: ReadQuery) -> web.StreamResponse:
    """The version as ETag."""
    version = await call.store.streams.get_version(call.stream_id, consistency="local")
    if version < 0:
        await call.store.streams.read_page(
            call.stream_id, None, 1, consistency="local"
        )  # says whether it is missing or gone for ever
    return web.Response(headers=call.context.reply_headers(call.store) | {"ETag": f'"{version}"'})


async def listing(call: Call, query: StreamListing) -> web.StreamResponse:
    """Streams and their versions."""
    pattern, limit = _listed(call, query), call.page_limit(query.limit)
    page = await call.store.streams.list_page(
        query.prefix or "",
        pattern,
        query.after,
        limit,
        system=query.system or (query.prefix or pattern or "").startswith("$"),
        consistency="local",
    )
    headers = {}
    if page.next is not None:
        kept = {"prefix": query.prefix, "pattern": query.pattern, "limit": limit, "after": page.next}
        kept |= {"system": "true"} if query.system else {}
        terms = (f"{name}={quote(str(value), safe='')}" for name, value in kept.items() if value is not None)
        headers["Link"] = _next_link(call, "&".join(terms))
    streams = [answers.StreamHead(info.stream_id, info.version) for info in page.streams]
    return call.answer_read(answers.StreamList(streams, page.next), headers=headers)


def _listed(call: Call, query: StreamListing) -> str | None:
    """The pattern of a listing, within what the token is for. Raises Forbidden."""
    covering = call.access.covering(query.prefix) if query.pattern is None and query.prefix else None
    return covering or call.access.confine(query.pattern, "pattern")


async def delete(call: Call, query: Deletion) -> web.StreamResponse:
    """Delete the stream; fine when there is none."""
    if query.expected_version == -3:
        raise InvalidRequest("expected_version -3 means nothing", pointer="expected_version")
    await call.store.streams.delete(call.stream_id, hard=query.hard, expected_version=query.expected_version)
    return web.Response(status=204)


async def aggregate(call: Call, query: Folding) -> web.StreamResponse:
    """The stream folded into one state."""
    result = await call.store.aggregate(
        call.stream_id, finalize=query.finalize, fold=query.fold, at=query.at, consistency="local"
    )
    return call.answer_read(answers.folded(result))


def _next_link(call: Call, query: str) -> str:
    return f'<{call.request.raw_path.partition("?")[0]}?{query}>; rel="next"'


ROUTES: Final[tuple[Route[Any], ...]] = (
    Route(
        "GET",
        "/streams/{stream_id}",
        read,
        StreamRead,
        "read",
        "Read a stream, or follow it with `Accept: text/event-stream`",
        {200: Answer("A page of the stream", answers.StreamEvents, _READ_MEDIA, ("ETag", "Link"))},
        problems=_MISSING,
        headers=("Last-Event-ID",),
    ),
    Route(
        "HEAD",
        "/streams/{stream_id}",
        head,
        ReadQuery,
        "read",
        "The version of a stream as ETag",
        {200: Answer("The stream exists", headers=("ETag",))},
        problems=_MISSING,
    ),
    Route(
        "DELETE",
        "/streams/{stream_id}",
        delete,
        Deletion,
        "admin",
        "Delete a stream",
        {204: Answer("It is deleted, or never was")},
        problems=(WrongExpectedVersion, StreamTombstoned),
    ),
    Route(
        "GET",
        "/streams/{stream_id}/{version}",
        read_event,
        ReadQuery,
        "read",
        "One event",
        {200: Answer("The event", answers.RecordedEvent)},
        problems=(*_MISSING, NotFound),
    ),
    Route(
        "GET",
        "/streams/{stream_id}/aggregate",
        aggregate,
        Folding,
        "read",
        "Fold a stream, from its latest usable snapshot",
        {200: Answer("The state", answers.Folded)},
        problems=_MISSING,
    ),
    Route(
        "GET",
        "/streams",
        listing,
        StreamListing,
        "read",
        "List streams by id",
        {200: Answer("A page of streams", answers.StreamList, headers=("Link",))},
    ),
)
