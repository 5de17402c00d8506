"""A store, blocking, and its two makers."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Literal, Self

from shoal import client
from shoal.errors import ShuttingDown
from shoal.store import api
from shoal.sync.loop import LoopThread
from shoal.sync.streams import Snapshots, Streams
from shoal.sync.subscriptions import Subscriptions
from shoal.types import (
    AggregateResult,
    Consistency,
)


class Store:
    """A store whose calls wait for their result. Use as `with`, or `close` it."""

    def __init__(self, make: Callable[[], AbstractAsyncContextManager[api.Store]]) -> None:
        self._loop = LoopThread()
        try:
            self._opened = make()
            self._store = self._loop.call(self._opened.__aenter__())
        except BaseException:
            self._loop.stop()
            raise
        self.name = self._store.name
        self.streams = Streams(self._loop, self._store.streams)
        self.snapshots = Snapshots(self._loop, self._store.snapshots)
        self.subscriptions = Subscriptions(self._loop, self._store.subscriptions)

    def aggregate(
        self,
        stream_id: str,
        *,
        finalize: bool = True,
        fold: Literal["left", "right"] = "left",
        at: int | None = None,
        consistency: Consistency | None = None,
    ) -> AggregateResult:
        return self._loop.call(
            self._store.aggregate(stream_id, finalize=finalize, fold=fold, at=at, consistency=consistency)
        )

    def close(self) -> None:
        """Close the store and end the thread; fine when it is closed."""
        try:
            self._loop.call(self._leave())
        except ShuttingDown:
            return
        finally:
            self._loop.stop()

    async def _leave(self) -> None:
        await self._opened.__aexit__(None, None, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def open(name: str = "main", data_dir: str | Path = "./shoal-data", **overrides: Any) -> Store:  # noqa: A001 - as users expect
    """As `shoal.open`, blocking: the store is open when this returns. Raises ShoalError."""
    import shoal

    return Store(lambda: shoal.open(name, data_dir, **overrides))


def connect(*urls: str, **options: Any) -> Store:
    """As `shoal.connect`, blocking."""
    return Store(lambda: client.connect(*urls, **options))
