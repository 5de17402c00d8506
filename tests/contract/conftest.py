"""The makers of stores: every test here runs against each of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

import shoal
from shoal.config import Config
from shoal.server import Shoald
from shoal.store.api import Store

Maker = Callable[[Path], AbstractAsyncContextManager[Store]]


def embedded(data_dir: Path) -> AbstractAsyncContextManager[Store]:
    """A store in this process."""
    return shoal.open(data_dir=data_dir)


@asynccontextmanager
async def http(data_dir: Path) -> AsyncIterator[Store]:
    """A store behind a whole server, on loopback."""
    config = Config(data_dir=data_dir, listen="127.0.0.1:0", telemetry_handlers=())
    async with Shoald(config) as shoald, shoal.connect(*shoald.urls) as store:
        yield store


@asynccontextmanager
async def http_two_urls(data_dir: Path) -> AsyncIterator[Store]:
    """The same by two addresses: boards take turns, and reads say what they must have seen."""
    config = Config(data_dir=data_dir, listen="127.0.0.1:0", telemetry_handlers=())
    async with Shoald(config) as shoald:
        (url,) = shoald.urls
        async with shoal.connect(url, url.replace("127.0.0.1", "localhost")) as store:
            yield store


MAKERS: tuple[Maker, ...] = (embedded, http)


@pytest.fixture(params=MAKERS, ids=lambda maker: maker.__name__)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    """An empty store."""
    async with request.param(tmp_path) as made:
        yield made
