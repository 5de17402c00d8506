"""A real server by several addresses, one of them dead or both alive; and one that is restarted."""

from __future__ import annotations

import asyncio
import socket
from contextlib import AsyncExitStack, aclosing

import pytest_asyncio
from msgspec import structs

import shoal
from shoal.client import RetryPolicy
from shoal.config import Config, StorageConfig
from shoal.server import Shoald
from shoal.types import NO_STREAM, CaughtUp, EventFilter, NewEvent


@pytest_asyncio.fixture(loop_scope="session")
async def urls(shoald):
    """Two addresses of a server with the store `gateway`, which is empty."""
    await shoald._node.create_store("gateway")
    (url,) = shoald.urls
    yield url, url.replace("http://", "HTTP://")
    await shoald._node.drop_store("gateway")


async def test_reads_by_turns_see_every_write(urls):
    async with shoal.connect(*urls, store="gateway") as store:
        for n in range(10):
            await store.streams.append("s", n - 1, [NewEvent("e", n)])
            assert await store.streams.get_version("s") == n
            assert len(await store.streams.read_all()) == n + 1


async def test_a_dead_address_costs_nothing_but_a_try(urls):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{probe.getsockname()[1]}"
        async with shoal.connect(dead, urls[0], store="gateway") as store:
            assert await store.streams.append("s", NO_STREAM, [NewEvent("e", 1)]) == 0
            tail = store.streams.tail(EventFilter(), 0)
            first, caught_up = await anext(tail), await anext(tail)
            await tail.aclose()
    assert first.data == 1
    assert caught_up == CaughtUp(1)


async def test_a_tail_and_a_writer_live_through_a_restart(tmp_path):
    config = Config(
        data_dir=tmp_path,
        telemetry_handlers=(),
        storage=StorageConfig(segment_bytes=2**20, reserve_bytes=2**20),
    )
    seen: list[int] = []

    async def follow(tail) -> None:
        async for item in tail:
            if not isinstance(item, CaughtUp):
                seen.append(item.position)
                if len(seen) == 20:
                    return

    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(Shoald(structs.replace(config, listen="127.0.0.1:0")))
        (url,) = first.urls
        store = await stack.enter_async_context(
            shoal.connect(url, retry=RetryPolicy(attempts=50, base_ms=10))
        )
        tail = await stack.enter_async_context(aclosing(store.streams.tail(EventFilter(), 0)))
        following = asyncio.create_task(follow(tail))
        for n in range(10):
            await store.streams.append("s", n - 1, [NewEvent("e", n)])
        await first.__aexit__(None, None, None)
        writing = asyncio.create_task(store.streams.append("s", 9, [NewEvent("e", n) for n in range(10, 20)]))
        second = Shoald(structs.replace(config, listen=url.removeprefix("http://")))
        await stack.enter_async_context(second)
        async with asyncio.timeout(20):
            assert await writing == 19
            await following
        assert seen == list(range(1, 21))
        assert [event.data for event in await store.streams.read("s")] == list(range(20))
