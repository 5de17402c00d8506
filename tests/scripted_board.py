"""A board that answers by script, over real HTTP on loopback: for what a sound board never does."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any, NamedTuple, Self

from aiohttp import web

from shoal.testing.clock import FakeClock


class Seen(NamedTuple):
    """A request as it arrived."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes


Step = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class ScriptedBoard:
    """Takes one step of its script for each request, the last one again and again.

    What a client asks beside its calls is no part of the script: `GET /v1/cluster` is answered by `cluster`, as a
    single board does where none is given, and `GET /livez` by `alive`.
    """

    def __init__(self, *script: Step, tls: ssl.SSLContext | None = None) -> None:
        self.script = list(script)
        self.seen: list[Seen] = []
        self.asked_for_members = 0
        self.cluster = problem(404, "not-found")
        self.alive = answer({"status": "alive"})
        self.url = ""
        self._tls = tls
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        server = web.Server(self._handle)
        runner = web.ServerRunner(server, shutdown_timeout=0.01)
        await runner.setup()
        self._stack.push_async_callback(runner.cleanup)
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=self._tls)
        await site.start()
        self.url = f"{'http' if self._tls is None else 'https'}://127.0.0.1:{runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        if request.path == "/v1/cluster":
            self.asked_for_members += 1
            return await self.cluster(request)
        if request.path == "/livez":
            return await self.alive(request)
        self.seen.append(
            Seen(request.method, request.raw_path.partition("?")[0], request.query, request.headers, body)
        )
        step = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        return await step(request)


def answer(document: Any, status: int = 200, **headers: str) -> Step:
    """A JSON answer."""

    async def step(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(
            status=status,
            body=json.dumps(document).encode(),
            headers={name.replace("_", "-"): v for name, v in headers.items()},
        )

    return step


def problem(status: int, code: str, outcome: str = "not-applied", **facts: Any) -> Step:
    """A problem document."""
    return answer({"code": code, "detail": f"scripted {code}", "outcome": outcome, **facts}, status)


async def hang_up(request: web.BaseRequest) -> web.StreamResponse:
    """Take the whole request, then break the connection without a word."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def say_nothing(request: web.BaseRequest) -> web.StreamResponse:
    """Never answer."""
    await asyncio.Event().wait()
    return web.Response()


def event_stream(*parts: bytes, hang: bool = False, status: int = 200) -> Step:
    """Send the parts as server-sent events, then end, or stay open in silence."""

    async def step(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(status=status, headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for part in parts:
            await response.write(part)
        if hang:
            await asyncio.Event().wait()
        return response

    return step


class Pauses:
    """Sleeps that take no time: they move the clock, and are written down."""

    def __init__(self, clock: FakeClock) -> None:
        self.ms: list[int] = []
        self._clock = clock

    async def __call__(self, seconds: float) -> None:
        self.ms.append(round(seconds * 1000))
        self._clock.advance(seconds * 1000)
        await asyncio.sleep(0)
