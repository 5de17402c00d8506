"""`shoal.open`: a store in the caller's own process, without HTTP and network."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import msgspec

from shoal.config import Config, StoreConfig
from shoal.errors import ConfigError
from shoal.node import Means, Node
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
    """Open an embedded store, alone in its process: no HTTP, no network.

    `async with shoal.open("my_store", data_dir="./data") as store: ...`. `config` carries further settings
    (its `data_dir` and `stores` are replaced). Raises DataDirLocked when the directory is open already, here or
    in another process; ConfigError.
    """
    if not str(data_dir or "").strip():
        raise ConfigError("data_dir", f"write a directory, not {data_dir!r}")
    settings = msgspec.structs.replace(
        config or Config(), data_dir=Path(data_dir), stores=(StoreConfig(name),)
    )

    async def start() -> LocalStore:
        node = await Node.open(settings, means=means)
        store = node.store(name)
        store.on_close = node.close
        return store

    return _Opening(start)
