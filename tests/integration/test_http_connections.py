"""One connection too many, on asyncio's loop and on uvloop's, whose transports have nothing in common."""

from __future__ import annotations

import asyncio
from itertools import islice

import pytest
import uvloop
from aiohttp import web

from shoal.http.connections import Connections


class Emptied(Connections):
    """Says when the last connection is gone."""

    emptied: asyncio.Event

    def connection_lost(self, handler: web.RequestHandler, exc: BaseException | None = None) -> None:
        super().connection_lost(handler, exc)
        if not self.open:
            self.emptied.set()


async def refuse_the_many(loops: str) -> None:
    """Of ten connections at once three are served; the others get 503 and are closed, and do not count for ever."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(text="served")

    connections = Emptied(answer, limit=3, header_timeout_s=10)
    connections.emptied = asyncio.Event()
    loop = asyncio.get_running_loop()
    assert type(loop).__module__.startswith(loops)
    server = await loop.create_server(connections, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    for _ in range(2):
        clients = await asyncio.gather(*(asyncio.open_connection(*address) for _ in range(10)))
        answers = {asyncio.create_task(reader.read()): writer for reader, writer in clients}
        refused = [await each for each in islice(asyncio.as_completed(answers, timeout=5), 7)]
        assert all(answer.startswith(b"HTTP/1.1 503 ") for answer in refused)
        assert all(b'"code":"unavailable"' in answer for answer in refused)
        served = [task for task in answers if not task.done()]
        for task in served:
            answers[task].write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert all(answer.endswith(b"served") for answer in await asyncio.gather(*served))
        for writer in answers.values():
            writer.close()
            await writer.wait_closed()
        await asyncio.wait_for(connections.emptied.wait(), 5)
        connections.emptied.clear()
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize("loops", ["asyncio", "uvloop"])
def test_connections_over_the_limit_are_told_so_on_either_loop(loops: str) -> None:
    factory = uvloop.new_event_loop if loops == "uvloop" else asyncio.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(refuse_the_many(loops))
