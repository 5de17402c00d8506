"""Streams of a local store: appending through the sequencer, reading SQLite and the tail as one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, Literal

from shoal import telemetry
from shoal.errors import Ambiguous, InvalidRequest, NotFound, StreamNotFound
from shoal.ids import pack
from shoal.model import payload
from shoal.model.commands import Append, DeleteStream, Write
from shoal.model.machine import Head, Row
from shoal.model.query import check_filter, check_query
from shoal.store.context import StoreContext
from shoal.store.ports import Bounds
from shoal.types import (
    ANY_VERSION,
    MAX_VERSION,
    NO_STREAM,
    STREAM_EXISTS,
    Appended,
    AppendedMany,
    CaughtUp,
    Condition,
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

TAIL_PAGE = 500
EVENT_OVERHEAD = 128


class LocalStreams:
    """See shoal.store.api.Streams."""

    def __init__(self, context: StoreContext) -> None:
        self._context = context

    # -- appending -------------------------------------------------------------------------------

    async def append(
        self, stream_id: str, expected_version: int, events: Sequence[NewEvent]
    ) -> Appended:
        """See shoal.store.api.Streams."""
        proposed = payload.prepare_all(events, self._context.limits, self._context.ids)
        answer = await self.append_proposed([Write(stream_id, plain_version(expected_version), proposed)])
        return answer.results[0]

    async def append_many(
        self, writes: Sequence[StreamWrite], condition: Condition | None = None
    ) -> AppendedMany:
        """See shoal.store.api.Streams."""
        context = self._context
        prepared = [
            Write(
                write.stream_id,
                plain_version(write.expected_version),
                payload.prepare_all(write.events, context.limits, context.ids),
            )
            for write in writes
        ]
        return await self.append_proposed(prepared, condition)

    async def append_proposed(
        self, writes: list[Write], condition: Condition | None = None
    ) -> AppendedMany:
        """Append events whose payloads are checked and encoded already (`shoal.model.payload`)."""
        context = self._context
        size = self._check_writes(writes)
        if condition is not None:
            check_query(condition.query, context.limits, "/condition/query")
            check_range("/condition/after", condition.after, 0, MAX_VERSION)
        command = Append(context.name, writes, condition)
        if not telemetry.enabled(telemetry.STREAM_WRITE_STOP):
            answer: AppendedMany = await context.submit(command, writes[0].stream_id, size)
            return answer
        return await self._append_observed(command, size)

    async def _append_observed(self, command: Append, size: int) -> AppendedMany:
        write = command.writes[0]
        count = sum(len(each.events) for each in command.writes)
        with telemetry.Span(
            telemetry.STREAM_WRITE_START,
            telemetry.STREAM_WRITE_STOP,
            telemetry.STREAM_WRITE_ERROR,
            {"store_id": command.store, "stream_id": write.stream_id},
            {"event_count": count, "expected_version": write.expected_version},
        ) as span:
            answer: AppendedMany = await self._context.submit(command, write.stream_id, size)
            span.measurements["event_count"] = count
            span.result["new_version"] = int(answer.results[0])
        return answer

    def _check_writes(self, writes: list[Write]) -> int:
        """Refuse what no store would take; returns the payload size in bytes."""
        limits = self._context.limits
        if not writes:
            raise InvalidRequest("an append needs at least one write", pointer="/writes")
        if len(writes) > limits.writes_per_append:
            raise InvalidRequest(f"at most {limits.writes_per_append} writes per append", pointer="/writes")
        if len(writes) > 1 and len({write.stream_id for write in writes}) < len(writes):
            raise InvalidRequest("a stream may be written once per append", pointer="/writes")
        count = size = 0
        for write in writes:
            payload.check_writable_stream_id(write.stream_id, limits)
            check_expected_version(write.expected_version)
            count += len(write.events)
            for event in write.events:
                size += len(event.data) + EVENT_OVERHEAD
        if count > limits.events_per_append:
            raise InvalidRequest(
                f"{count} events in one append, at most {limits.events_per_append}", pointer="/events"
            )
        if size > limits.body_bytes + EVENT_OVERHEAD * count:
            raise InvalidRequest(f"an append holds at most {limits.body_bytes} bytes", pointer="/events")
        return size

    # -- reading one stream ----------------------------------------------------------------------

    async def read(
        self,
        stream_id: str,
        start: int | None = None,
        count: int = 100,
        direction: Direction = "forward",
    ) -> list[Event]:
        """See shoal.store.api.Streams."""
        events: list[Event] = []
        at: int | None = start
        while True:
            page = await self.read_page(stream_id, at, count - len(events), direction)
            events = page.events if not events else events + page.events
            at = page.next
            if at is None or len(events) >= count:
                return events

    async def read_page(
        self,
        stream_id: str,
        start: int | None = None,
        count: int = 100,
        direction: Direction = "forward",
    ) -> StreamPage:
        """See shoal.store.api.Streams."""
        context = self._context
        payload.check_stream_id(stream_id, context.limits)
        backward = _is_backward(direction)
        if start is not None:
            check_range("from", start, 0, MAX_VERSION)
        check_range("limit", count, 1, context.limits.page_events)
        if not telemetry.enabled(telemetry.STREAM_READ_STOP):
            return await self._read_page(stream_id, start, count, backward=backward)
        with telemetry.Span(
            telemetry.STREAM_READ_START,
            telemetry.STREAM_READ_STOP,
            None,
            {"store_id": context.name, "stream_id": stream_id},
            {"start_version": start, "count": count, "direction": direction},
        ) as span:
            page = await self._read_page(stream_id, start, count, backward=backward)
            span.measurements["event_count"] = len(page.events)
        return page

    async def _read_page(self, stream_id: str, start: int | None, count: int, *, backward: bool) -> StreamPage:
        """Versions below the tail's first come from SQLite, the rest from the tail as it is now."""
        context = self._context
        memory = context.memory
        head = memory.head(stream_id) if memory.knows(stream_id) else await self._fetch_head(stream_id)
        if head is None or not head.live:
            raise StreamNotFound(stream_id)
        low, high = head.visible_from, head.version
        if backward:
            high = high if start is None else min(start, high)
        elif start is not None:
            low = max(start, low)
        first = memory.first_version(stream_id)
        edge = head.version if first is None else first - 1
        in_tail = memory.stream_rows(stream_id, max(low, edge + 1), high, count, backward=backward)
        rows = in_tail
        if low <= min(high, edge) and (not backward or len(in_tail) < count):
            bounds = Bounds(0, 0, "backward" if backward else "forward", count, context.limits.page_bytes)
            if backward:
                bounds = bounds._replace(count=count - len(in_tail))
            stored = await context.reader.run(
                context.queries.stream_rows, stream_id, low, min(high, edge), bounds
            )
            rows = _join(stored, in_tail, edge - low + 1, count, backward=backward, last=min(high, edge))
        return _stream_page(stream_id, head, rows, low, backward=backward)

    async def _fetch_head(self, stream_id: str) -> Head | None:
        found: Head | None = await self._context.reader.run(self._context.queries.head, stream_id)
        memory = self._context.memory
        return memory.head(stream_id) if memory.knows(stream_id) else found

    async def read_event(self, stream_id: str, version: int) -> Event:
        """See shoal.store.api.Streams."""
        page = await self.read_page(stream_id, version, 1)
        if not page.events or page.events[0].version != version:
            raise NotFound(f"stream {stream_id!r} has no event {version}", stream_id=stream_id, version=version)
        return page.events[0]

    async def get_version(self, stream_id: str) -> int:
        """See shoal.store.api.Streams."""
        payload.check_stream_id(stream_id, self._context.limits)
        memory = self._context.memory
        head = memory.head(stream_id) if memory.knows(stream_id) else await self._fetch_head(stream_id)
        return NO_STREAM if head is None else head.actual

    async def exists(self, stream_id: str) -> bool:
        """See shoal.store.api.Streams."""
        return await self.get_version(stream_id) != NO_STREAM

    # -- reading all streams ---------------------------------------------------------------------

    async def read_all(
        self, after: int | None = None, count: int = 100, direction: Direction = "forward"
    ) -> list[Event]:
        """See shoal.store.api.Streams."""
        return await self._read_up_to(EventFilter(), after, count, direction)

    async def read_by_event_types(
        self, types: Sequence[str], count: int = 100, after: int | None = None
    ) -> list[Event]:
        """See shoal.store.api.Streams."""
        if not types:
            raise InvalidRequest("name at least one event type", pointer="types")
        return await self._read_up_to(EventFilter(types=tuple(types)), after, count, "forward")

    async def read_by_tags(
        self,
        tags: Sequence[str],
        match: Literal["any", "all"] = "any",
        count: int = 100,
        after: int | None = None,
    ) -> list[Event]:
        """See shoal.store.api.Streams."""
        if not tags:
            raise InvalidRequest("name at least one tag", pointer="tags")
        selection = EventFilter(tags=tuple(tags), tags_match=match)
        return await self._read_up_to(selection, after, count, "forward")

    async def query(self, query: Query, after: int | None = None, count: int = 100) -> EventsPage:
        """See shoal.store.api.Streams."""
        return await self.read_events(EventFilter(query=query), after, count)

    async def _read_up_to(
        self, selection: EventFilter, after: int | None, count: int, direction: Direction
    ) -> list[Event]:
        events: list[Event] = []
        while True:
            page = await self.read_events(selection, after, count - len(events), direction)
            events = page.events if not events else events + page.events
            done = page.next <= 1 if direction == "backward" else page.next >= page.head
            if done or len(events) >= count:
                return events
            after = page.next

    async def read_events(
        self,
        selection: EventFilter,
        after: int | None = None,
        count: int = 100,
        direction: Direction = "forward",
    ) -> EventsPage:
        """See shoal.store.api.Streams."""
        context = self._context
        check_filter(selection, context.limits)
        check_range("limit", count, 1, context.limits.page_events)
        if after is not None:
            check_range("after", after, 0, MAX_VERSION)
        if _is_backward(direction):
            return await self._read_backward(selection, after, count)
        return await self._read_forward(selection, after or 0, count)

    async def _read_forward(self, selection: EventFilter, after: int, count: int) -> EventsPage:
        context = self._context
        memory = context.memory
        head, base = memory.state.position, memory.base
        in_tail = memory.matching(selection, max(after, base) + 1, head, count, backward=False)
        rows, complete, reached = in_tail, True, head
        if after < base:
            bounds = Bounds(after + 1, base, "forward", count, context.limits.page_bytes)
            stored, complete = await context.reader.run(context.queries.event_rows, selection, bounds)
            if not complete:
                reached = context.queries.scanned_through(selection, bounds, stored)
            stored = self._readable(stored)
            rows = stored + in_tail[: count - len(stored)] if complete else stored
        if complete and len(rows) >= count:
            reached = rows[-1][2]
        return EventsPage([Event(*row) for row in rows], head, max(reached, after))

    async def _read_backward(self, selection: EventFilter, after: int | None, count: int) -> EventsPage:
        context = self._context
        memory = context.memory
        head, base = memory.state.position, memory.base
        high = head if after is None else min(after - 1, head)
        rows = memory.matching(selection, base + 1, high, count, backward=True)
        reached = 1
        if len(rows) < count and min(high, base) >= 1:
            bounds = Bounds(1, min(high, base), "backward", count - len(rows), context.limits.page_bytes)
            stored, complete = await context.reader.run(context.queries.event_rows, selection, bounds)
            if not complete:
                reached = context.queries.scanned_through(selection, bounds, stored)
            rows = rows + self._readable(stored)
        elif len(rows) >= count:
            reached = rows[-1][2]
        return EventsPage([Event(*row) for row in rows], head, reached)

    def _readable(self, rows: list[Row]) -> list[Row]:
        """Without what a delete hides that SQLite has not committed yet."""
        memory = self._context.memory
        return [row for row in rows if not memory.hides(row)] if memory.has_deletes else rows

    async def tail(
        self, selection: EventFilter, after: int | None = None, stream_id: str | None = None
    ) -> AsyncIterator[Event | CaughtUp]:
        """See shoal.store.api.Streams."""
        context = self._context
        check_filter(selection, context.limits)
        if after is not None:
            check_range("after", after, 0, MAX_VERSION)
        at = context.memory.state.position if after is None else after
        source = self._tail_all(selection, at)
        if stream_id is not None:
            payload.check_stream_id(stream_id, context.limits)
            source = self._tail_stream(stream_id, at)
        caught_up = False
        async for page, head in source:
            for event in page:
                yield event
            if head is not None:
                if not caught_up:
                    caught_up = True
                    yield CaughtUp(head)
                await context.wait_beyond(head)

    async def _tail_all(self, selection: EventFilter, at: int) -> AsyncIterator[tuple[list[Event], int | None]]:
        """Pages for ever; with the head when it is reached, for the caller to wait beyond."""
        while True:
            page = await self.read_events(selection, at, TAIL_PAGE)
            at = max(at, page.next)
            yield page.events, max(at, page.head) if at >= page.head else None

    async def _tail_stream(self, stream_id: str, at: int) -> AsyncIterator[tuple[list[Event], int | None]]:
        context = self._context
        found = await context.reader.run(context.queries.version_after, stream_id, at)
        version: int | None = found
        if version is None:
            version = context.memory.first_version(stream_id)
        while True:
            head = context.memory.state.position
            try:
                page = await self._read_page(stream_id, version, TAIL_PAGE, backward=False)
            except StreamNotFound:
                yield [], head
                continue
            events = [event for event in page.events if event.position > at]
            version = page.events[-1].version + 1 if page.events else version
            yield events, head if page.next is None else None

    async def find_event(self, event_id: str, stream_id: str | None = None) -> Event:
        """See shoal.store.api.Streams."""
        context = self._context
        payload.check_event_id(event_id, context.limits)
        if stream_id is not None:
            payload.check_stream_id(stream_id, context.limits)
        rows = await context.read_applied(context.queries.events_of_id, pack(event_id), stream_id)
        if not rows:
            raise NotFound(f"no event has the id {event_id!r}", event_id=event_id)
        if len(rows) > 1:
            candidates = [{"stream_id": row[0], "version": row[1]} for row in rows]
            raise Ambiguous(
                f"{len(rows)} streams hold an event {event_id!r}; name one with stream=", candidates=candidates
            )
        return Event(*rows[0])

    # -- listing and deleting --------------------------------------------------------------------

    async def list_streams(
        self,
        prefix: str = "",
        pattern: str | None = None,
        after: str | None = None,
        count: int = 10_000,
        *,
        system: bool = False,
    ) -> list[str]:
        """See shoal.store.api.Streams."""
        page = await self.list_page(prefix, pattern, after, count, system=system)
        return [stream.stream_id for stream in page.streams]

    async def list_page(
        self,
        prefix: str = "",
        pattern: str | None = None,
        after: str | None = None,
        count: int = 100,
        *,
        system: bool = False,
    ) -> StreamsPage:
        """See shoal.store.api.Streams."""
        context = self._context
        check_range("limit", count, 1, context.limits.page_events)
        for name, value in (("prefix", prefix or None), ("pattern", pattern), ("after", after)):
            if value is not None:
                payload.check_stream_id(value, context.limits, name)
        found = await context.read_applied(
            context.queries.streams, prefix, pattern, after, count, system
        )
        return StreamsPage(found, found[-1].stream_id if len(found) == count else None)

    async def delete(
        self, stream_id: str, *, hard: bool = False, expected_version: int = ANY_VERSION
    ) -> None:
        """See shoal.store.api.Streams."""
        payload.check_writable_stream_id(stream_id, self._context.limits)
        expected_version = plain_version(expected_version)
        check_expected_version(expected_version)
        command = DeleteStream(self._context.name, stream_id, expected_version, hard)
        await self._context.submit(command, stream_id, EVENT_OVERHEAD)


def plain_version(value: int) -> int:
    """An append's result is a version with more beside it; it may be the next one's expected version."""
    return value.version if isinstance(value, Appended) else value


def check_expected_version(value: Any) -> None:
    """-1, -2, -4 or an exact version. Raises InvalidRequest."""
    if type(value) is not int or (value < 0 and value not in (NO_STREAM, ANY_VERSION, STREAM_EXISTS)):
        raise InvalidRequest(
            "expected_version is -1 (no stream), -2 (any), -4 (stream exists) or a version", pointer="expected_version"
        )
    if value > MAX_VERSION:
        raise InvalidRequest(f"expected_version is at most {MAX_VERSION}", pointer="expected_version")


def check_range(name: str, value: Any, low: int, high: int) -> None:
    """Refuse a number out of range, by the parameter's name. Raises InvalidRequest."""
    if type(value) is not int or not low <= value <= high:
        raise InvalidRequest(f"{name} must be a whole number from {low} to {high}", pointer=name)


def _is_backward(direction: Any) -> bool:
    if direction not in ("forward", "backward"):
        raise InvalidRequest("direction is forward or backward", pointer="direction")
    return bool(direction == "backward")


def _join(
    stored: list[Row], in_tail: list[Row], expected: int, count: int, *, backward: bool, last: int
) -> list[Row]:
    """SQLite's part and the tail's, unless SQLite's was cut short by its size."""
    if backward:
        return in_tail + stored
    cut_short = len(stored) < min(expected, count) and (not stored or stored[-1][1] < last)
    return stored if cut_short else stored + in_tail[: count - len(stored)]


def _stream_page(stream_id: str, head: Head, rows: list[Row], low: int, *, backward: bool) -> StreamPage:
    following: int | None = None
    if rows:
        edge = rows[-1][1]
        if backward:
            following = edge - 1 if edge > low else None
        else:
            following = edge + 1 if edge < head.version else None
    return StreamPage(stream_id, head.version, [Event(*row) for row in rows], following)
