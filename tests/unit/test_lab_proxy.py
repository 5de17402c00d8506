"""The proxies between nodes: what passes, what is held, in which direction."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager

import pytest

from shoal.address import split_address
from shoal_host.lab.network import Proxies
from shoal_host.lab.proxy import Proxy, Way

PATIENCE_S = 10
SHORT_S = 0.05
"""How long something that must not come is waited for."""


class Echo:
    """A server that sends back what it gets, and remembers it."""

    def __init__(self) -> None:
        self.got = b""
        self.accepted = 0
        self.grown = asyncio.Condition()

    @asynccontextmanager
    async def serve(self):
        server = await asyncio.start_server(self.handle, "127.0.0.1", 0)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()

    async def handle(self, reader, writer) -> None:
        self.accepted += 1
        try:
            while data := await reader.read(65536):
                async with self.grown:
                    self.got += data
                    self.grown.notify_all()
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    async def has(self, data: bytes) -> None:
        async with asyncio.timeout(PATIENCE_S), self.grown:
            await self.grown.wait_for(lambda: self.got.endswith(data))


class Between:
    """A client, a proxy, and an echo behind it."""

    def __init__(self, echo: Echo, proxy: Proxy, out: Way, back: Way) -> None:
        self.echo, self.proxy, self.out, self.back = echo, proxy, out, back

    async def dial(self):
        return await asyncio.open_connection(*split_address(self.proxy.address))


@pytest.fixture
async def between():
    echo, out, back = Echo(), Way(), Way()
    async with echo.serve() as port:
        proxy = Proxy("127.0.0.1", port, out, back)
        await proxy.start()
        yield Between(echo, proxy, out, back)
        await proxy.close()


async def answer(reader, count) -> bytes:
    return await asyncio.wait_for(reader.readexactly(count), PATIENCE_S)


async def silent(reader) -> bool:
    try:
        await asyncio.wait_for(reader.read(1), SHORT_S)
    except TimeoutError:
        return True
    return False


async def test_bytes_pass_both_ways_and_so_does_the_end(between) -> None:
    reader, writer = await between.dial()
    big = bytes(range(256)) * 8192
    writer.write(big)
    assert await answer(reader, len(big)) == big
    writer.write_eof()
    assert await asyncio.wait_for(reader.read(), PATIENCE_S) == b""
    writer.close()


async def test_a_cut_outwards_holds_what_is_sent_until_it_is_healed(between) -> None:
    reader, writer = await between.dial()
    writer.write(b"a")
    assert await answer(reader, 1) == b"a"
    between.out.cut()
    assert between.out.is_cut
    writer.write(b"b")
    assert await silent(reader)
    assert between.echo.got == b"a"
    between.out.heal()
    assert await answer(reader, 1) == b"b"
    writer.close()


async def test_a_cut_back_lets_requests_through_and_holds_answers(between) -> None:
    reader, writer = await between.dial()
    writer.write(b"a")
    assert await answer(reader, 1) == b"a"
    between.back.cut()
    writer.write(b"b")
    await between.echo.has(b"b")
    assert await silent(reader)
    between.back.heal()
    assert await answer(reader, 1) == b"b"
    writer.close()


@pytest.mark.parametrize("way", ["out", "back"])
async def test_nobody_connects_through_a_cut(between, way) -> None:
    getattr(between, way).cut()
    reader, writer = await between.dial()
    writer.write(b"a")
    assert await silent(reader)
    assert between.echo.accepted == 0
    getattr(between, way).heal()
    assert await answer(reader, 1) == b"a"
    writer.close()


async def test_a_delay_is_added_each_way_and_keeps_the_order(between) -> None:
    reader, writer = await between.dial()
    between.out.delay_s = between.back.delay_s = 0.04
    begun = time.monotonic()
    for number in range(20):
        writer.write(bytes([number]))
        await asyncio.sleep(0)
    assert await answer(reader, 20) == bytes(range(20))
    assert 0.08 <= time.monotonic() - begun < 0.08 * 10  # the delay of many is not the sum of their delays
    between.out.heal()
    assert between.out.delay_s == 0
    writer.close()


async def test_a_held_connection_takes_only_so_much(between) -> None:
    between.out.cut()
    reader, writer = await between.dial()
    writer.transport.set_write_buffer_limits(high=0)
    chunk = bytes(1 << 20)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            for _ in range(100):
                writer.write(chunk)
                await writer.drain()
    assert await silent(reader)
    writer.transport.abort()


async def test_connections_can_be_dropped_and_made_again(between) -> None:
    reader, writer = await between.dial()
    writer.write(b"a")
    assert await answer(reader, 1) == b"a"
    between.proxy.drop()
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await answer(reader, 1)
    writer.close()
    reader, writer = await between.dial()
    writer.write(b"b")
    assert await answer(reader, 1) == b"b"
    writer.close()


async def test_a_node_that_is_down_refuses_behind_the_proxy_too() -> None:
    async with Echo().serve() as port:
        pass
    proxy = Proxy("127.0.0.1", port, Way(), Way())
    await proxy.start()
    reader, writer = await asyncio.open_connection(*split_address(proxy.address))
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await answer(reader, 1)
    writer.close()
    await proxy.close()


@asynccontextmanager
async def three_nodes():
    """Three echoes, and the addresses by which each dials the others."""
    echoes = [Echo() for _ in range(3)]
    async with echoes[0].serve() as a, echoes[1].serve() as b, echoes[2].serve() as c:
        peers = [f"127.0.0.1:{port}" for port in (a, b, c)]
        network = Proxies(peers)
        await network.start()

        async def dial(source, target):
            options = network.node_options(source)
            detours = dict(option.split("=") for option in options[1::2])
            return await asyncio.open_connection(*split_address(detours[peers[target]]))

        try:
            yield network, dial
        finally:
            await network.close()


async def test_each_node_gets_a_detour_to_each_other() -> None:
    async with three_nodes() as (network, _):
        for number in range(3):
            options = network.node_options(number)
            assert options[::2] == ["--dial"] * 2
            assert network.host(number) == "127.0.0.1"
        detours = {text.split("=")[1] for number in range(3) for text in network.node_options(number)[1::2]}
        assert len(detours) == 6


async def test_a_one_way_cut_is_one_way_whoever_dialled() -> None:
    async with three_nodes() as (network, dial):
        there_reader, there = await dial(0, 1)
        back_reader, back = await dial(1, 0)
        other_reader, other = await dial(0, 2)
        for reader, writer in ((there_reader, there), (back_reader, back), (other_reader, other)):
            writer.write(b"a")
            assert await answer(reader, 1) == b"a"
        await network.cut(0, 1)
        for writer in (there, back, other):
            writer.write(b"b")
        assert await answer(other_reader, 1) == b"b"
        assert await silent(there_reader)  # the request is held
        assert await silent(back_reader)  # the answer is held
        await network.heal()
        assert await answer(there_reader, 1) == b"b"
        assert await answer(back_reader, 1) == b"b"
        for writer in (there, back, other):
            writer.close()


async def test_a_delay_slows_what_one_node_sends_and_nothing_else() -> None:
    async with three_nodes() as (network, dial):
        await network.delay(0, 60)
        for source, target, least_s in ((0, 1, 0.06), (1, 0, 0.06)):
            reader, writer = await dial(source, target)
            begun = time.monotonic()
            writer.write(b"a")
            assert await answer(reader, 1) == b"a"
            assert time.monotonic() - begun >= least_s
            writer.close()
        slow = {pair for pair, way in network._ways.items() if way.delay_s}
        assert slow == {(0, 1), (0, 2)}
