"""A real server by several addresses: one of them dead, or both alive."""

from __future__ import annotations

import socket

import pytest_asyncio

import shoal
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
