"""`shoal.open`: a store in the caller's own process, without HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import msgspec

from shoal.config import Config, StoreConfig
from shoal.errors import ConfigError
from shoal.node import Means, Node
from shoal.store.context import ASK_AGAIN_S
from shoal.store.local import LocalStore


class _Opening(AbstractAsyncContextManager[LocalStore]):
    """What `open` returns: `async with` it, or await it and close the store yourself."""

    def __init__(self, start: Callable[[], Awaitable[LocalStore]]) -> None:
        self._start = start
        self._store: LocalStore | None = None

    def __await__(self) -> Any:
        return self._start().__await__()

    async def __aenter__(self) -> LocalStore:
        self._store = await self._start()
        return self._store

    async def __aexit__(self, *exc: object) -> None:
        if self._store is not None:
            await self._store.close()


def open_store(
    name: str = "main",
    data_dir: str | Path = "./shoal-data",
    *,
    config: Config | None = None,
    means: Means | None = None,
) -> _Opening:
    """Open an embedded store, alone in its process: no HTTP, and no network unless `config` is that of a cluster.

    `async with shoal.open("my_store", data_dir="./data") as store: ...`. `config` carries further settings
    (its `data_dir` and `stores` are replaced). Raises DataDirLocked when the directory is open already, here or
    in another process; ConfigError. In a cluster, embed it where no copy of another board is needed: it does not
    begin again by itself.
    """
    if not str(data_dir or "").strip():
        raise ConfigError("data_dir", f"write a directory, not {data_dir!r}")
    settings = msgspec.structs.replace(
        config or Config(), data_dir=Path(data_dir), stores=(StoreConfig(name),)
    )

    async def start() -> LocalStore:
        if settings.mode == "cluster":
            return await _open_in_cluster(settings, name, means)
        node = await Node.open(settings, means=means)
        store = node.store(name)
        store.on_close = node.close
        return store

    return _Opening(start)


async def _open_in_cluster(config: Config, name: str, means: Means | None) -> LocalStore:
    """The store of a member; waits until the group has made it."""
    from shoal.cluster_node import ClusterNode

    member = await ClusterNode.open(config, means=means)
    try:
        await member.start(())
        while name not in member.node.stores:
            if member.node.failed.done():
                member.node.failed.result()
            await asyncio.sleep(ASK_AGAIN_S)
    except BaseException:
        await member.close()
        raise
    store = member.node.store(name)
    store.on_close = member.close
    return store
