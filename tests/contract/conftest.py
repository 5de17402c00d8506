"""The makers of stores: every test here runs against each of them.

All tests share one server with its node, since starting one takes longer than most tests; each test gets a
store of its own in it, new and empty, and dropped afterwards. `test_reopening.py` opens its own nodes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from itertools import count

import pytest
import pytest_asyncio

import shoal
from shoal.config import Config, HttpConfig, StorageConfig
from shoal.server import Shoald
from shoal.store.api import Store

Maker = Callable[[Shoald, str], Store]

names = (f"contract-{number}" for number in count())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One event loop for all tests of this folder: the server's."""
    here = __file__.rpartition("/")[0]
    for item in items:
        if str(item.path).startswith(here):
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shoald(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shoald]:
    """A whole server on loopback."""
    config = Config(
        data_dir=tmp_path_factory.mktemp("contract"),
        listen="127.0.0.1:0",
        telemetry_handlers=(),
        storage=StorageConfig(segment_bytes=16 * 1024 * 1024, reserve_bytes=1024 * 1024),
        http=HttpConfig(max_stores=10_000),
    )
    async with Shoald(config) as running:
        yield running


def embedded(shoald: Shoald, name: str) -> Store:
    """What `shoal.open` gives: calls in this process."""
    return shoald._node.store(name)


def http(shoald: Shoald, name: str) -> Store:
    """Over HTTP, from one address."""
    return shoal.connect(*shoald.urls, store=name)


MAKERS: tuple[Maker, ...] = (embedded, http)


@pytest_asyncio.fixture(params=MAKERS, ids=lambda maker: maker.__name__, loop_scope="session")
async def store(request: pytest.FixtureRequest, shoald: Shoald) -> AsyncIterator[Store]:
    """An empty store."""
    name = next(names)
    await shoald._node.create_store(name)
    made = request.param(shoald, name)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(shoald._node.drop_store, name)
        if request.param is not embedded:
            await stack.enter_async_context(made)
        yield made
