"""A store of this process: see shoal.store.api.Store."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Literal, Self

from shoal.errors import InvalidRequest
from shoal.model import aggregates
from shoal.model.payload import check_stream_id
from shoal.store.checks import check_range
from shoal.store.context import StoreContext
from shoal.store.snapshots import LocalSnapshots
from shoal.store.streams import LocalStreams
from shoal.store.subscriptions import LocalSubscriptions
from shoal.types import MAX_VERSION, AggregateResult, Consistency, Event

FOLD_PAGE = 1_000


class LocalStore:
    """One store; `close` (or leaving `async with`) calls its owner's `on_close`, where set."""

    def __init__(self, context: StoreContext) -> None:
        self._context = context
        self._page = min(FOLD_PAGE, context.limits.page_events)
        self.on_close: Callable[[], Awaitable[None]] | None = None
        self.name = context.name
        self.streams = LocalStreams(context)
        self.snapshots = LocalSnapshots(context)
        self.subscriptions = LocalSubscriptions(context, self.streams)

    @property
    def head(self) -> int:
        """The last position assigned, 0 when empty."""
        return self._context.memory.state.position

    async def wait_for(self, position: int, timeout_ms: int) -> None:
        """Wait until the head is at `position`. Raises Timeout."""
        await self._context.wait_for(position, timeout_ms)

    async def settle_reads(self, consistency: Consistency | None) -> None:
        """See StoreContext.settle_reads."""
        await self._context.settle_reads(consistency)

    async def aggregate(
        self,
        stream_id: str,
        *,
        finalize: bool = True,
        fold: Literal["left", "right"] = "left",
        at: int | None = None,
        consistency: Consistency | None = None,
    ) -> AggregateResult:
        """See shoal.store.api.Store."""
        if fold not in ("left", "right"):
            raise InvalidRequest("fold is left or right", pointer="fold")
        if at is not None:
            check_range("at", at, 0, MAX_VERSION)
        check_stream_id(stream_id, self._context.limits)
        await self._context.settle_reads(consistency)
        head = (await self.streams.live_head(stream_id)).version
        last = head if at is None else min(at, head)
        if fold == "right":
            return AggregateResult(last, await self._fold_right(stream_id, last, finalize=finalize))
        return AggregateResult(last, await self._fold_left(stream_id, last, finalize=finalize))

    async def _fold_left(self, stream_id: str, last: int, *, finalize: bool) -> dict[str, Any]:
        """From the latest snapshot, a page at a time."""
        snapshot = await self.snapshots.latest_up_to(stream_id, last)
        state: dict[str, Any] = aggregates.aggregate([], snapshot, finalize=False)
        at: int | None = 0 if snapshot is None else snapshot.version + 1
        while at is not None and at <= last:
            page = await self.streams.read_page(stream_id, at, self._page, consistency="local")
            state = aggregates.foldl([event for event in page.events if event.version <= last], state)
            at = page.next
        return aggregates.finalize(state) if finalize else state

    async def _fold_right(self, stream_id: str, last: int, *, finalize: bool) -> dict[str, Any]:
        """From the last event to the first: a page at a time, backward."""
        state: dict[str, Any] = {}
        at: int | None = last
        while at is not None:
            page = await self.streams.read_page(stream_id, at, self._page, "backward", consistency="local")
            ordered: list[Event] = page.events[::-1]
            state = aggregates.foldr(ordered, state)
            at = page.next
        return aggregates.finalize(state) if finalize else state

    async def __aenter__(self) -> Self:
        """The store itself."""
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Close."""
        await self.close()

    async def close(self) -> None:
        """Give the store up; the node that was opened for it closes too."""
        if self.on_close is not None:
            await self.on_close()
