"""Routes over all streams: read by position, query, find by id."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec
from aiohttp import web
from msgspec import Meta

from shoal.errors import Ambiguous, BodyTooLarge, InvalidRequest, NotFound
from shoal.http import answers, negotiation, sse
from shoal.http.context import Call
from shoal.http.params import PageLimit, Position, ReadQuery, Text, Texts
from shoal.http.routing import Answer, Body, Route
from shoal.model.payload import check_event_id, check_stream_id
from shoal.model.query import check_filter, check_query
from shoal.types import Direction, Event, EventFilter, Limits, Query, QueryItem

_READ_MEDIA: Final = (*negotiation.PLAIN, negotiation.SSE)


class EventsRead(ReadQuery, frozen=True, kw_only=True):
    """Which events. The store's own streams (`$...`) only with `system`, or where the pattern begins with `$`."""

    after: Position | None = None
    limit: PageLimit | None = None
    direction: Direction = "forward"
    types: Texts | None = None
    tags: Texts | None = None
    tags_match: Literal["any", "all"] = "any"
    stream_pattern: (
        Annotated[str, Meta(min_length=1, description="`*` any run, `?` one character.")] | None
    ) = None
    system: bool = False


class QueryRead(ReadQuery, frozen=True, kw_only=True):
    """Which streams; a token for several patterns needs it."""

    stream_pattern: (
        Annotated[str, Meta(min_length=1, description="`*` any run, `?` one character.")] | None
    ) = None


class EventById(ReadQuery, frozen=True, kw_only=True):
    """The stream to look in, where several hold the id."""

    stream: Text | None = None


class Item(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Events of any of `types` (empty: all) that carry all of `tags`."""

    types: list[Text] = []
    tags: list[Text] = []


class QueryItems(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Events that any of `items` matches."""

    items: Annotated[list[Item], Meta(min_length=1)]

    def as_query(self, limits: Limits, pointer: str) -> Query:
        """The store's form, checked. Raises InvalidRequest."""
        query = Query(tuple(QueryItem(tuple(item.types), tuple(item.tags)) for item in self.items))
        check_query(query, limits, pointer)
        return query


class SentQuery(QueryItems, frozen=True, forbid_unknown_fields=True):
    """A query, and the page of its events that is wanted."""

    after: Position = 0
    limit: PageLimit | None = None


async def read(call: Call, query: EventsRead) -> web.StreamResponse:
    """Events in position order, as a page or live."""
    resumed = sse.last_event_id(call)
    pattern = call.access.confine(query.stream_pattern)
    selection = EventFilter(
        types=query.types or (),
        tags=query.tags or (),
        tags_match=query.tags_match,
        stream_pattern=pattern,
        system=query.system or (pattern or "").startswith("$"),
    )
    _check(selection, call.context.limits)
    if call.media == negotiation.SSE:
        sse.check_live(query.direction, query.limit)
        return await sse.tail_all(call, selection, (query.after or 0) if resumed is None else resumed)
    page = await call.store.streams.read_events(
        selection, query.after, call.page_limit(query.limit), query.direction, consistency="local"
    )
    return call.answer_read(answers.all_page(page, call.media))


def _check(selection: EventFilter, limits: Limits) -> None:
    """As `check_filter`, with parameters named as such. Raises InvalidRequest."""
    try:
        check_filter(selection, limits)
    except InvalidRequest as error:
        raise InvalidRequest(
            error.detail.removeprefix("/"), pointer=error.pointer.removeprefix("/")
        ) from error


async def query_events(call: Call, query: QueryRead) -> web.StreamResponse:
    """Events that a query selects, in position order."""
    limits = call.context.limits
    sent = await call.decoded(SentQuery, limits)
    if sent.limit is not None and sent.limit > limits.page_events:
        raise InvalidRequest(f"limit must be at most {limits.page_events}", pointer="/limit")
    pattern = call.access.confine(query.stream_pattern)
    selection = EventFilter(
        query=sent.as_query(limits, ""), stream_pattern=pattern, system=(pattern or "").startswith("$")
    )
    _check(selection, limits)
    page = await call.store.streams.read_events(
        selection, sent.after, call.page_limit(sent.limit), consistency="local"
    )
    return call.answer_read(answers.all_page(page, call.media))


async def find(call: Call, query: EventById) -> web.StreamResponse:
    """The event of an id."""
    event_id = call.ids["event_id"]
    check_event_id(event_id, call.context.limits)
    if query.stream is not None:
        check_stream_id(query.stream, call.context.limits, "stream")
        call.access.check(query.stream)
    event = await _find_own(call, event_id, query.stream)
    return call.answer_read(answers.event(event, call.media))


async def _find_own(call: Call, event_id: str, stream_id: str | None) -> Event:
    """The event, as if the streams that the token is not for were not there. Raises NotFound, Ambiguous."""
    streams, access = call.store.streams, call.access
    try:
        event = await streams.find_event(event_id, stream_id, consistency="local")
    except Ambiguous as error:
        own = [each for each in error.facts["candidates"] if access.allows(each["stream_id"])]
        if len(own) > 1:
            raise Ambiguous(
                f"{len(own)} streams hold an event {event_id!r}; name one with stream=", candidates=own
            ) from error
        if own:
            return await streams.find_event(event_id, own[0]["stream_id"], consistency="local")
    else:
        if access.allows(event.stream_id):
            return event
    raise NotFound(f"no event has the id {event_id!r}", event_id=event_id)


ROUTES: Final[tuple[Route[Any], ...]] = (
    Route(
        "GET",
        "/events",
        read,
        EventsRead,
        "read",
        "Read all streams in position order, or follow them with `Accept: text/event-stream`",
        {200: Answer("A page of events", answers.AllEvents, _READ_MEDIA)},
        headers=("Last-Event-ID",),
    ),
    Route(
        "GET",
        "/events/{event_id}",
        find,
        EventById,
        "read",
        "Find an event by its id",
        {200: Answer("The event", answers.RecordedEvent)},
        problems=(NotFound, Ambiguous),
    ),
    Route(
        "POST",
        "/query",
        query_events,
        QueryRead,
        "read",
        "Read the events that a query selects",
        {200: Answer("A page of events", answers.AllEvents)},
        Body(SentQuery),
        (BodyTooLarge,),
    ),
)
