"""Where the events of a subscription come from: the database, the tail, and what is appended while it waits.

One cursor goes through all three, so that there is no gap and no duplicate between catching up and being live. What
is not asked for stays where it is: a slow consumer costs nothing but a position.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection
from functools import partial
from typing import Any

from shoal.model.machine import Row
from shoal.model.selectors import Selector
from shoal.store.context import StoreContext
from shoal.store.exchange import Exchange
from shoal.store.ports import Bounds, Queries
from shoal.types import MAX_VERSION

AHEAD_ROWS = 64
"""Rows read at once at least, and kept for the next call: else whoever takes one at a time would pay a read each."""
AHEAD_BYTES = 256 * 1024
HEARD_ROWS = 256
TAIL_ROWS = 1_000
RESIDUAL_ROWS = 1_000
"""Rows read at once where most of them will not match."""


class Source:
    """The matching events after a position, in order."""

    def __init__(self, context: StoreContext, exchange: Exchange, selector: Selector, after: int) -> None:
        self._context = context
        self._exchange = exchange
        self._selector = selector
        self._reached = after
        self._ahead: deque[Row] = deque()
        self._deletes = context.memory.deletes
        self._heard: list[Row] | None = None
        self._heard_bytes = 0
        self._missed_after: int | None = None
        self._wake: Callable[[], None] = _nobody

    @property
    def scanned(self) -> int:
        """Every matching event up to here was given out."""
        return self._ahead[0][2] - 1 if self._ahead else self._reached

    @property
    def at_head(self) -> bool:
        """Whether there is nothing to give out now."""
        return not self._ahead and self._reached >= self._context.memory.state.position

    @property
    def listening(self) -> bool:
        """Whether it waits at the head, and has heard of nothing that matches."""
        return self._heard is not None and not self._heard

    async def next(self, count: int) -> list[Row]:
        """The next matching rows, at most `count`; none when the head is reached. Raises Timeout, ShuttingDown."""
        await self._look(count, MAX_VERSION)
        return [self._ahead.popleft() for _ in range(min(count, len(self._ahead)))]

    async def settled_through(self, settled: Collection[int], through: int) -> int:
        """Up to where nothing matches but what is at `settled` positions, looking no further than `through`.

        Raises as `next`.
        """
        while True:
            await self._look(1, through)
            if not self._ahead or self._ahead[0][2] not in settled:
                return self.scanned
            self._ahead.popleft()

    async def _look(self, count: int, through: int) -> None:
        """Have the next matching rows up to `through` ahead, if there are any."""
        memory = self._context.memory
        self.stop_listening()
        if self._ahead and memory.deletes != self._deletes:
            self._reached = self.scanned  # some of them may be hidden now
            self._ahead.clear()
        while not self._ahead and self._reached < min(through, memory.state.position):
            self._deletes = memory.deletes
            if self._reached < memory.base:
                await self._read(count, through)
            else:
                self._look_at_tail(count, through)
                if not self._ahead:
                    await asyncio.sleep(0)

    def _look_at_tail(self, count: int, through: int) -> None:
        memory, matches = self._context.memory, self._selector.matches
        high = min(through, memory.state.position, self._reached + max(count, TAIL_ROWS))
        size = 0
        for row in memory.rows(self._reached + 1, high, backward=False):
            if matches(row) and not memory.hides(row):
                self._ahead.append(row)
                size += len(row[6])
                if len(self._ahead) >= max(count, AHEAD_ROWS) or size > AHEAD_BYTES:
                    high = row[2]
                    break
        self._reached = high

    async def _read(self, count: int, through: int) -> None:
        context, selector = self._context, self._selector
        high = min(through, context.memory.base)
        readable = context.memory.readable_now()
        limit = max(count, AHEAD_ROWS) if selector.residual is None else RESIDUAL_ROWS
        bounds = Bounds(self._reached + 1, high, "forward", limit, max(AHEAD_BYTES, count * 1024))
        rows, reached = await context.reader.run(partial(_matching, context.queries, selector, bounds))
        self._ahead.extend(readable(rows))
        self._reached = reached

    # -- being live ------------------------------------------------------------------------------

    def listen_if_free(self, wake: Callable[[], None]) -> None:
        """Hear what is appended from now on, if all before was given out; `wake` is called for the first match."""
        if self._heard is not None or not self.at_head:
            return
        self._heard, self._heard_bytes, self._missed_after = [], 0, None
        self._deletes = self._context.memory.deletes
        self._wake = wake
        self._exchange.join(self._selector.routes, self)

    def hear(self, row: Row) -> None:
        """See shoal.store.exchange.Listener."""
        heard = self._heard
        if heard is None or self._missed_after is not None:
            return
        if (heard and heard[-1][2] == row[2]) or not self._selector.matches(row):
            return
        if len(heard) >= HEARD_ROWS or self._heard_bytes > AHEAD_BYTES:
            self._missed_after = heard[-1][2]  # the rest is read again
            return
        heard.append(row)
        self._heard_bytes += len(row[6])
        if len(heard) == 1:
            self._wake()

    def stop_listening(self) -> None:
        """Go on by reading; what was heard is given out first."""
        if self._heard is None:
            return
        self._exchange.leave(self._selector.routes, self)
        self._ahead.extend(self._heard)
        self._reached = (
            self._context.memory.state.position if self._missed_after is None else self._missed_after
        )
        self._heard, self._wake = None, _nobody

    def close(self) -> None:
        """Hear nothing any more."""
        if self._heard is not None:
            self._exchange.leave(self._selector.routes, self)
            self._heard = None


def _nobody() -> None:
    """Nobody waits."""


def _matching(queries: Queries, selector: Selector, bounds: Bounds, connection: Any) -> tuple[list[Row], int]:
    """Matching rows within bounds, and the position up to which all were looked at."""
    if selector.stream_id is not None:
        return _matching_of_stream(queries, selector.stream_id, bounds, connection)
    rows, complete = queries.event_rows(connection, selector.selection, bounds)
    reached = bounds.high if complete else queries.scanned_through(bounds, rows)
    if selector.residual is not None:
        rows = list(filter(selector.residual, rows))
    return rows, reached


def _matching_of_stream(
    queries: Queries, stream_id: str, bounds: Bounds, connection: Any
) -> tuple[list[Row], int]:
    head = queries.head(connection, stream_id)
    if head is None or not head.live:
        return [], bounds.high
    version = queries.version_after(connection, stream_id, bounds.low - 1)
    low = max(version or 0, head.visible_from)
    rows = queries.stream_rows(connection, stream_id, low, MAX_VERSION, bounds)
    within = [row for row in rows if row[2] <= bounds.high]
    full = len(within) == len(rows) and rows and rows[-1][1] < head.version
    return within, rows[-1][2] if full else bounds.high
