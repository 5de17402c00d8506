"""Reads over all streams in position order, filtered by index: SQLite up to `base`, memory beyond."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Literal

from shoal.errors import Ambiguous, NotFound
from shoal.ids import pack
from shoal.model import payload
from shoal.model.machine import Row
from shoal.model.query import check_filter, query_filter, tags_filter, types_filter
from shoal.store.checks import check_range, is_backward
from shoal.store.context import StoreContext
from shoal.store.memory import StoreMemory
from shoal.store.pages import take
from shoal.store.ports import Bounds
from shoal.store.stream_reads import TAIL_PAGE
from shoal.types import MAX_VERSION, Consistency, Direction, Event, EventFilter, EventsPage, Query


class StoreReads:
    """The part of shoal.store.api.Streams that reads over all streams."""

    _context: StoreContext

    async def read_all(
        self,
        after: int | None = None,
        count: int = 100,
        direction: Direction = "forward",
        *,
        consistency: Consistency | None = None,
    ) -> list[Event]:
        """See shoal.store.api.Streams."""
        await self._context.settle_reads(consistency)
        return await self._read_up_to(EventFilter(), after, count, direction)

    async def read_by_event_types(
        self,
        types: Sequence[str],
        count: int = 100,
        after: int | None = None,
        *,
        consistency: Consistency | None = None,
    ) -> list[Event]:
        """See shoal.store.api.Streams."""
        await self._context.settle_reads(consistency)
        return await self._read_up_to(types_filter(types), after, count, "forward")

    async def read_by_tags(
        self,
        tags: Sequence[str],
        match: Literal["any", "all"] = "any",
        count: int = 100,
        after: int | None = None,
        *,
        consistency: Consistency | None = None,
    ) -> list[Event]:
        """See shoal.store.api.Streams."""
        await self._context.settle_reads(consistency)
        return await self._read_up_to(tags_filter(tags, match), after, count, "forward")

    async def query(
        self,
        query: Query,
        after: int | None = None,
        count: int = 100,
        *,
        consistency: Consistency | None = None,
    ) -> EventsPage:
        """See shoal.store.api.Streams."""
        return await self.read_events(query_filter(query), after, count, consistency=consistency)

    async def _read_up_to(
        self, selection: EventFilter, after: int | None, count: int, direction: Direction
    ) -> list[Event]:
        events: list[Event] = []
        while True:
            page = await self.read_events(
                selection, after, count - len(events), direction, consistency="local"
            )
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
        *,
        consistency: Consistency | None = None,
    ) -> EventsPage:
        """See shoal.store.api.Streams."""
        context = self._context
        selection = check_filter(selection, context.limits)
        check_range("limit", count, 1, context.limits.page_events)
        if after is not None:
            check_range("after", after, 0, MAX_VERSION)
        backward = is_backward(direction)
        if backward:
            return await context.read_settled(
                consistency, partial(self._read_backward, selection, after, count)
            )
        return await context.read_settled(
            consistency, partial(self._read_forward, selection, after or 0, count)
        )

    async def _read_forward(self, selection: EventFilter, after: int, count: int) -> EventsPage:
        context = self._context
        memory = context.memory
        head, base, deletes = memory.state.position, memory.base, memory.deletes
        in_tail = memory.matching(selection, max(after, base) + 1, head, count, backward=False)
        rows, complete, reached = in_tail, True, head
        if after < base:
            readable = memory.readable_now()
            bounds = Bounds(after + 1, base, "forward", count, context.limits.page_bytes)
            stored, complete = await context.reader.run(context.queries.event_rows, selection, bounds)
            if not complete:
                reached = context.queries.scanned_through(bounds, stored)
            stored = readable(stored)
            rows = stored + in_tail[: count - len(stored)] if complete else stored
        page = take(rows, context.limits.page_bytes)
        if (complete and len(page) >= count) or len(page) < len(rows):
            reached = page[-1][2]
        rows = _still_shown(memory, page, deletes)
        return EventsPage([Event(*row) for row in rows], head, max(reached, after))

    async def _read_backward(self, selection: EventFilter, after: int | None, count: int) -> EventsPage:
        context = self._context
        memory = context.memory
        head, base, deletes = memory.state.position, memory.base, memory.deletes
        high = head if after is None else min(after - 1, head)
        rows = memory.matching(selection, base + 1, high, count, backward=True)
        reached = 1
        if len(rows) < count and min(high, base) >= 1:
            readable = memory.readable_now()
            bounds = Bounds(1, min(high, base), "backward", count - len(rows), context.limits.page_bytes)
            stored, complete = await context.reader.run(context.queries.event_rows, selection, bounds)
            if not complete:
                reached = context.queries.scanned_through(bounds, stored)
            rows = rows + readable(stored)
        elif len(rows) >= count:
            reached = rows[-1][2]
        page = take(rows, context.limits.page_bytes)
        if len(page) < len(rows):
            rows, reached = page, page[-1][2]
        rows = _still_shown(memory, rows, deletes)
        return EventsPage([Event(*row) for row in rows], head, reached)

    async def find_event(
        self, event_id: str, stream_id: str | None = None, *, consistency: Consistency | None = None
    ) -> Event:
        """See shoal.store.api.Streams."""
        context = self._context
        payload.check_event_id(event_id, context.limits)
        if stream_id is not None:
            payload.check_stream_id(stream_id, context.limits)
        find = partial(context.read_applied, context.queries.events_of_id, pack(event_id), stream_id)
        rows = await context.read_settled(consistency, find)
        if not rows:
            raise NotFound(f"no event has the id {event_id!r}", event_id=event_id)
        if len(rows) > 1:
            candidates = [{"stream_id": row[0], "version": row[1]} for row in rows]
            raise Ambiguous(
                f"{len(rows)} streams hold an event {event_id!r}; name one with stream=",
                candidates=candidates,
            )
        return Event(*rows[0])

    async def _tail_all(
        self, selection: EventFilter, at: int
    ) -> AsyncIterator[tuple[list[Event], int | None]]:
        """Pages for ever; with the head when it is reached, for the caller to wait beyond."""
        count = min(TAIL_PAGE, self._context.limits.page_events)
        while True:
            page = await self.read_events(selection, at, count, consistency="local")
            at = max(at, page.next)
            yield page.events, max(at, page.head) if at >= page.head else None


def _still_shown(memory: StoreMemory, rows: list[Row], deletes: int) -> list[Row]:
    """Of a stream that was deleted while SQLite was read all is gone: its part of the tail was taken before."""
    if memory.deletes == deletes:
        return rows
    return [row for row in rows if memory.shows(row[0], row[1], memory.deletes)]
