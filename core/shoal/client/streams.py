"""The streams of a remote store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Literal
from urllib.parse import quote

from shoal.client import wire
from shoal.client.exchange import Reply
from shoal.client.retry import Effect
from shoal.client.selections import BOUNDLESS, as_query, filter_params, fits_parameters, stream_path, whole
from shoal.client.tail import Tail
from shoal.client.transport import Request, Transport
from shoal.errors import (
    InternalError,
    InvalidRequest,
    NotFound,
    OutcomeUnknown,
    StreamNotFound,
    StreamTombstoned,
)
from shoal.ids import EventIds, unpack
from shoal.model.commands import ProposedEvent, Write
from shoal.model.payload import check_stream_id, check_writable_stream_id, prepare_all
from shoal.model.query import check_condition, check_filter, check_query, tags_filter, types_filter
from shoal.store.checks import check_each
from shoal.types import (
    ANY_VERSION,
    NO_STREAM,
    Appended,
    AppendedMany,
    CaughtUp,
    Condition,
    Consistency,
    Direction,
    Event,
    EventFilter,
    EventsPage,
    NewEvent,
    Query,
    StreamPage,
    StreamsPage,
    StreamWrite,
)


class RemoteStreams:
    """`shoal.store.api.Streams` over HTTP."""

    def __init__(self, transport: Transport, ids: EventIds) -> None:
        self._transport = transport
        self._ids = ids

    # -- writing ---------------------------------------------------------------------------------

    async def append(self, stream_id: str, expected_version: int, events: Sequence[NewEvent]) -> Appended:
        check_writable_stream_id(stream_id, BOUNDLESS)
        write = Write(
            stream_id, whole(expected_version, "expected_version"), self._prepare(events, "/events")
        )
        body = wire.append_body(write.events, write.expected_version)
        reply = await self._append(stream_path(stream_id), body, [write])
        answer = wire.decode(reply.body, wire.AppendedAnswer)
        self._transport.saw(answer.position)
        return Appended(
            answer.stream_id, answer.first_version, answer.version, answer.position, answer.duplicate
        )

    async def append_many(
        self, writes: Sequence[StreamWrite], condition: Condition | None = None
    ) -> AppendedMany:
        check_each(writes, StreamWrite, "/writes")
        if condition is not None:
            condition = check_condition(condition, BOUNDLESS)
        prepared: list[Write] = []
        for index, write in enumerate(writes):
            check_writable_stream_id(write.stream_id, BOUNDLESS, f"/writes/{index}/stream_id")
            events = self._prepare(write.events, f"/writes/{index}/events")
            expected = whole(write.expected_version, f"/writes/{index}/expected_version")
            prepared.append(Write(write.stream_id, expected, events))
        reply = await self._append("/append", wire.append_many_body(prepared, condition), prepared)
        answer = wire.decode(reply.body, wire.AppendedManyAnswer)
        self._transport.saw(answer.position)
        return _appended_many(answer, prepared)

    async def delete(
        self, stream_id: str, *, hard: bool = False, expected_version: int = ANY_VERSION
    ) -> None:
        check_stream_id(stream_id, BOUNDLESS)
        params = {"hard": "true"} if hard else {}
        if expected_version != ANY_VERSION:
            params["expected_version"] = str(whole(expected_version, "expected_version"))
        # Repeating a soft delete could hide what others appended since; a tombstone stays one.
        effect = Effect.KEYED if hard and expected_version == ANY_VERSION else Effect.ONCE
        await self._transport.call(Request("DELETE", stream_path(stream_id), effect, params))

    # -- one stream ------------------------------------------------------------------------------

    async def read(
        self,
        stream_id: str,
        start: int | None = None,
        count: int = 100,
        direction: Direction = "forward",
        *,
        consistency: Consistency | None = None,
    ) -> list[Event]:
        return (await self.read_page(stream_id, start, count, direction, consistency=consistency)).events

    async def read_page(
        self,
        stream_id: str,
        start: int | None = None,
        count: int = 100,
        direction: Direction = "forward",
        *,
        consistency: Consistency | None = None,
    ) -> StreamPage:
        check_stream_id(stream_id, BOUNDLESS)
        params = {"limit": str(whole(count, "count")), "direction": direction}
        if start is not None:
            params["from"] = str(whole(start, "start"))
        reply = await self._get(stream_path(stream_id), params, consistency)
        page = wire.decode(reply.body, wire.StreamEvents)
        return StreamPage(page.stream_id, page.version, self._events(page.events), page.next)

    async def read_event(
        self, stream_id: str, version: int, *, consistency: Consistency | None = None
    ) -> Event:
        check_stream_id(stream_id, BOUNDLESS)
        path = f"{stream_path(stream_id)}/{whole(version, 'version')}"
        reply = await self._get(path, {}, consistency)
        return wire.decode(reply.body, wire.ReadEvent).event()

    async def get_version(self, stream_id: str, *, consistency: Consistency | None = None) -> int:
        check_stream_id(stream_id, BOUNDLESS)
        try:
            reply = await self._transport.call(
                Request("HEAD", stream_path(stream_id), consistency=consistency)
            )
            return int(reply.headers.get("ETag", "").strip('"'))
        except (NotFound, InvalidRequest, InternalError, ValueError):
            return await self._version_by_reading(stream_id, consistency)

    async def _version_by_reading(self, stream_id: str, consistency: Consistency | None) -> int:
        """An answer to HEAD cannot say what is wrong, one to GET can."""
        try:
            page = await self.read_page(stream_id, None, 1, "backward", consistency=consistency)
        except (StreamNotFound, StreamTombstoned):
            return NO_STREAM
        return page.version

    async def exists(self, stream_id: str, *, consistency: Consistency | None = None) -> bool:
        return await self.get_version(stream_id, consistency=consistency) != NO_STREAM

    # -- all streams -----------------------------------------------------------------------------

    async def read_all(
        self,
        after: int | None = None,
        count: int = 100,
        direction: Direction = "forward",
        *,
        consistency: Consistency | None = None,
    ) -> list[Event]:
        return (
            await self.read_events(EventFilter(), after, count, direction, consistency=consistency)
        ).events

    async def read_by_event_types(
        self,
        types: Sequence[str],
        count: int = 100,
        after: int | None = None,
        *,
        consistency: Consistency | None = None,
    ) -> list[Event]:
        return (await self.read_events(types_filter(types), after, count, consistency=consistency)).events

    async def read_by_tags(
        self,
        tags: Sequence[str],
        match: Literal["any", "all"] = "any",
        count: int = 100,
        after: int | None = None,
        *,
        consistency: Consistency | None = None,
    ) -> list[Event]:
        return (
            await self.read_events(tags_filter(tags, match), after, count, consistency=consistency)
        ).events

    async def query(
        self,
        query: Query,
        after: int | None = None,
        count: int = 100,
        *,
        consistency: Consistency | None = None,
    ) -> EventsPage:
        query = check_query(query, BOUNDLESS)
        body = wire.query_body(query, None if after is None else whole(after, "after"), whole(count, "count"))
        return self._page(await self._post("/query", body, Effect.NONE, consistency))

    async def read_events(
        self,
        selection: EventFilter,
        after: int | None = None,
        count: int = 100,
        direction: Direction = "forward",
        *,
        consistency: Consistency | None = None,
    ) -> EventsPage:
        selection = check_filter(selection, BOUNDLESS)
        if not fits_parameters(selection):
            if direction != "forward":
                raise InvalidRequest("a query only reads forward over HTTP", pointer="direction")
            return await self.query(as_query(selection), after, count, consistency=consistency)
        params = filter_params(selection) | {"limit": str(whole(count, "count")), "direction": direction}
        if after is not None:
            params["after"] = str(whole(after, "after"))
        return self._page(await self._get("/events", params, consistency))

    def tail(
        self, selection: EventFilter, after: int | None = None, stream_id: str | None = None
    ) -> AsyncIterator[Event | CaughtUp]:
        selection = check_filter(selection, BOUNDLESS)
        return Tail(self._transport, self.head, selection, stream_id).run(after)

    async def head(self) -> int:
        """The last position assigned."""
        return (await self.read_events(EventFilter(), count=1, direction="backward")).head

    async def find_event(
        self, event_id: str, stream_id: str | None = None, *, consistency: Consistency | None = None
    ) -> Event:
        if not event_id or event_id in {".", ".."}:
            raise InvalidRequest("event_id must not be empty, '.' or '..'", pointer="event_id")
        params = {} if stream_id is None else {"stream": stream_id}
        reply = await self._get(f"/events/{quote(event_id, safe='')}", params, consistency)
        return wire.decode(reply.body, wire.ReadEvent).event()

    async def list_streams(
        self,
        prefix: str = "",
        pattern: str | None = None,
        after: str | None = None,
        count: int = 10_000,
        *,
        system: bool = False,
        consistency: Consistency | None = None,
    ) -> list[str]:
        page = await self.list_page(prefix, pattern, after, count, system=system, consistency=consistency)
        return [stream.stream_id for stream in page.streams]

    async def list_page(
        self,
        prefix: str = "",
        pattern: str | None = None,
        after: str | None = None,
        count: int = 100,
        *,
        system: bool = False,
        consistency: Consistency | None = None,
    ) -> StreamsPage:
        given = {
            "prefix": prefix or None,
            "pattern": pattern,
            "after": after,
            "system": "true" if system else None,
        }
        params = {name: value for name, value in given.items() if value is not None}
        reply = await self._get("/streams", params | {"limit": str(whole(count, "count"))}, consistency)
        page = wire.decode(reply.body, wire.StreamNames)
        return StreamsPage(page.streams, page.next)

    # -- plumbing --------------------------------------------------------------------------------

    def _prepare(self, events: Sequence[NewEvent], pointer: str) -> list[ProposedEvent]:
        """The events with their ids: what is sent stays the same, however often it is sent."""
        return prepare_all(events, BOUNDLESS, self._ids, pointer)

    async def _get(self, path: str, params: dict[str, str], consistency: Consistency | None) -> Reply:
        return await self._transport.call(Request("GET", path, params=params, consistency=consistency))

    async def _append(self, path: str, body: wire.Body, writes: Sequence[Write]) -> Reply:
        try:
            return await self._post(path, body, Effect.KEYED)
        except OutcomeUnknown as error:
            error.facts["event_ids"] = [unpack(event.event_id) for write in writes for event in write.events]
            raise

    async def _post(
        self, path: str, body: wire.Body, effect: Effect, consistency: Consistency | None = None
    ) -> Reply:
        return await self._transport.call(
            Request(
                "POST", path, effect, body=body.raw, content_type=body.content_type, consistency=consistency
            )
        )

    def _page(self, reply: Reply) -> EventsPage:
        page = wire.decode(reply.body, wire.AllEvents)
        return EventsPage(self._events(page.events), page.head, page.next)

    def _events(self, events: list[wire.ReadEvent]) -> list[Event]:
        for event in events:
            self._transport.saw(event.position)
        return [event.event() for event in events]


def _appended_many(answer: wire.AppendedManyAnswer, writes: Sequence[Write]) -> AppendedMany:
    """The result per stream; their events follow each other without a gap up to the append's position."""
    position = answer.position
    results: list[Appended] = []
    for part, write in zip(reversed(answer.results), reversed(writes), strict=True):
        results.insert(
            0, Appended(part.stream_id, part.first_version, part.version, position, answer.duplicate)
        )
        position -= len(write.events)
    return AppendedMany(answer.position, results, answer.duplicate)
