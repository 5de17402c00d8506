"""Reads of one stream: versions below the tail's first come from SQLite, the rest from memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from functools import partial
from operator import attrgetter

from shoal import telemetry
from shoal.errors import NotFound, StreamNotFound, StreamTombstoned
from shoal.model import payload
from shoal.model.machine import Head, Row
from shoal.store.checks import check_range, is_backward
from shoal.store.context import StoreContext
from shoal.store.pages import take
from shoal.store.ports import Bounds
from shoal.types import (
    MAX_VERSION,
    NO_STREAM,
    Consistency,
    Direction,
    Event,
    StreamInfo,
    StreamPage,
    StreamsPage,
)
from shoal.wildcard import compile_wildcard

TAIL_PAGE = 500


class StreamReads:
    """The part of shoal.store.api.Streams that reads single streams, and lists them."""

    _context: StoreContext

    async def read(
        self,
        stream_id: str,
        start: int | None = None,
        count: int = 100,
        direction: Direction = "forward",
        *,
        consistency: Consistency | None = None,
    ) -> list[Event]:
        """See shoal.store.api.Streams."""
        await self._context.settle_reads(consistency)
        events: list[Event] = []
        at: int | None = start
        while True:
            page = await self.read_page(stream_id, at, count - len(events), direction, consistency="local")
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
        *,
        consistency: Consistency | None = None,
    ) -> StreamPage:
        """See shoal.store.api.Streams."""
        context = self._context
        payload.check_stream_id(stream_id, context.limits)
        backward = is_backward(direction)
        if start is not None:
            check_range("from", start, 0, MAX_VERSION)
        check_range("limit", count, 1, context.limits.page_events)
        read = partial(self._read_page, stream_id, start, count, backward=backward)
        if not telemetry.enabled_any(telemetry.STREAM_READ):
            return await context.read_settled(consistency, read)
        with telemetry.Span(
            telemetry.STREAM_READ_START,
            telemetry.STREAM_READ_STOP,
            None,
            {"store_id": context.name, "stream_id": stream_id},
            {"start_version": start, "count": count, "direction": direction},
        ) as span:
            page = await context.read_settled(consistency, read)
            span.measurements["event_count"] = len(page.events)
        return page

    async def _read_page(
        self, stream_id: str, start: int | None, count: int, *, backward: bool
    ) -> StreamPage:
        """Versions below the tail's first come from SQLite, the rest from the tail as it is now."""
        context = self._context
        memory = context.memory
        head = await self.live_head(stream_id)
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
                bounds = bounds._replace(limit=count - len(in_tail))
            stored = await context.reader.run(
                context.queries.stream_rows, stream_id, low, min(high, edge), bounds
            )
            rows = _join(stored, in_tail, edge - low + 1, count, backward=backward, last=min(high, edge))
        return _stream_page(stream_id, head, take(rows, context.limits.page_bytes), low, backward=backward)

    async def live_head(self, stream_id: str) -> Head:
        """The head of a stream with events that can be read. Raises StreamNotFound, StreamTombstoned."""
        head = await self._head(stream_id)
        if head is not None and head.tombstoned:
            raise StreamTombstoned(stream_id)
        if head is None or not head.live:
            raise StreamNotFound(stream_id)
        return head

    async def _head(self, stream_id: str) -> Head | None:
        memory = self._context.memory
        return memory.head(stream_id) if memory.knows(stream_id) else await self._fetch_head(stream_id)

    async def _fetch_head(self, stream_id: str) -> Head | None:
        before = self._context.memory
        times_trimmed = before.times_trimmed
        found: Head | None = await self._context.reader.run(self._context.queries.head, stream_id)
        before.learn_from_read(stream_id, found, times_trimmed)
        memory = self._context.memory  # another one, where the store was dropped and made anew meanwhile
        return memory.head(stream_id) if memory.knows(stream_id) else found

    async def read_event(
        self, stream_id: str, version: int, *, consistency: Consistency | None = None
    ) -> Event:
        """See shoal.store.api.Streams."""
        page = await self.read_page(stream_id, version, 1, consistency=consistency)
        if not page.events or page.events[0].version != version:
            raise NotFound(
                f"stream {stream_id!r} has no event {version}", stream_id=stream_id, version=version
            )
        return page.events[0]

    async def get_version(self, stream_id: str, *, consistency: Consistency | None = None) -> int:
        """See shoal.store.api.Streams."""
        context = self._context
        payload.check_stream_id(stream_id, context.limits)
        head = await context.read_settled(
            consistency, partial(self._head, stream_id), in_memory=context.memory.knows(stream_id)
        )
        return NO_STREAM if head is None else head.actual

    async def exists(self, stream_id: str, *, consistency: Consistency | None = None) -> bool:
        """See shoal.store.api.Streams."""
        return await self.get_version(stream_id, consistency=consistency) != NO_STREAM

    # -- listing and deleting --------------------------------------------------------------------

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
        """See shoal.store.api.Streams."""
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
        """See shoal.store.api.Streams."""
        context = self._context
        check_range("limit", count, 1, context.limits.page_events)
        for name, value in (("prefix", prefix or None), ("pattern", pattern), ("after", after)):
            if value is not None:
                payload.check_stream_id(value, context.limits, name)
        await context.settle_reads(consistency)
        changed = context.memory.changed_heads()
        limit = count + len(changed)  # those may be listed no more
        stored = await context.reader.run(context.queries.streams, prefix, pattern, after, limit, system)
        found = [stream for stream in stored if stream.stream_id not in changed]
        listed = _listed(prefix, pattern, after, system=system)
        found += [StreamInfo(n, head.version) for n, head in changed.items() if head.live and listed(n)]
        found.sort(key=attrgetter("stream_id"))  # by code point is by byte of UTF-8, as SQLite sorts
        del found[count:]
        return StreamsPage(found, found[-1].stream_id if len(found) == count else None)

    async def _tail_stream(self, stream_id: str, at: int) -> AsyncIterator[tuple[list[Event], int | None]]:
        context = self._context
        found = await context.reader.run(context.queries.version_after, stream_id, at)
        version: int | None = found
        if version is None:
            version = context.memory.first_version(stream_id)
        count = min(TAIL_PAGE, context.limits.page_events)
        while True:
            head = context.memory.state.position
            try:
                page = await self._read_page(stream_id, version, count, backward=False)
            except StreamNotFound:  # it may be made again; one with a tombstone never is, and ends the tail
                yield [], head
                continue
            events = [event for event in page.events if event.position > at]
            version = page.events[-1].version + 1 if page.events else version
            yield events, head if page.next is None else None


def _listed(prefix: str, pattern: str | None, after: str | None, *, system: bool) -> Callable[[str], bool]:
    """Whether a stream in memory belongs in a list, as `Queries.streams` decides it in SQL."""
    matches = None if pattern is None else compile_wildcard(pattern)
    hidden = "" if system or prefix.startswith(payload.SYSTEM_PREFIX) else payload.SYSTEM_PREFIX
    return lambda name: (
        name.startswith(prefix)
        and (after is None or name > after)
        and (matches is None or matches(name))
        and not (hidden and name.startswith(hidden))
    )


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
        following = edge - 1 if backward else edge + 1
        if not (low <= following <= head.version):
            following = None
    return StreamPage(stream_id, head.version, [Event(*row) for row in rows], following)
