"""Nodes for the lab's tests: a store in memory behind HTTP, which can be told to lie."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
from aiohttp import web

from shoal_host.lab.recorder import Recorder


class StubNode:
    """What a workload and the last comparison want of a node."""

    def __init__(self, url: str, session: aiohttp.ClientSession | None = None, node_id: str = "n1") -> None:
        self.url = url
        self.node_id = node_id
        self.headers: dict[str, str] = {}
        self._session = session

    async def ask(self, path: str):
        assert self._session is not None
        async with self._session.get(self.url + path) as answer:
            return await answer.json() if answer.status == 200 else None


class CountingRecorder(Recorder):
    """Says when so many lines are there."""

    def __init__(self, path, count: int) -> None:
        super().__init__(path)
        self.enough = asyncio.Event()
        self._count = count

    def add(self, line) -> None:
        super().add(line)
        if len(self.lines) >= self._count:
            self.enough.set()


class LyingStore:
    """A store that keeps its promises but for `lie`: lose, double, alter, stale, misplace, or honest."""

    def __init__(self, lie: str) -> None:
        self.lie = lie
        self.log: list[dict] = []
        self.appends = 0

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[str]:
        app = web.Application()
        app.router.add_post("/v1/streams/{stream_id}", self.append)
        app.router.add_get("/v1/streams/{stream_id}", self.read)
        app.router.add_get("/v1/events", self.read_all)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()

    def stream(self, stream_id: str) -> list[dict]:
        return [event for event in self.log if event["stream_id"] == stream_id]

    async def append(self, request: web.Request) -> web.Response:
        stream_id, events = request.match_info["stream_id"], await request.json()
        version, expected = len(self.stream(stream_id)) - 1, int(request.query["expected_version"])
        if expected not in {-2, version}:
            facts = {"expected_version": expected, "actual_version": version, "stream_id": stream_id}
            problem = {"code": "wrong-expected-version", "detail": "no", "outcome": "not-applied"} | facts
            return web.json_response(problem, status=409)
        self.appends += 1
        lying = self.appends % 10 == 0
        first, position = version + 1, len(self.log) + len(events)
        if not (lying and self.lie == "lose"):
            self.store(stream_id, events, lying=lying)
        version += len(events) + (lying and self.lie == "misplace")
        answer = {"first_version": first, "version": version, "position": position}
        answer["first_version"] += lying and self.lie == "misplace"
        return web.json_response(answer, status=201)

    def store(self, stream_id: str, events: list[dict], *, lying: bool) -> None:
        for event in events * (2 if lying and self.lie == "double" else 1):
            data = event["data"] | ({"n": -1} if lying and self.lie == "alter" else {})
            place = {"version": len(self.stream(stream_id)), "position": len(self.log) + 1}
            given = {"event_id": f"id-{len(self.log)}"}
            self.log.append(given | event | {"stream_id": stream_id, "data": data} | place)

    async def read(self, request: web.Request) -> web.Response:
        events = self.seen(self.stream(request.match_info["stream_id"]))
        if not events:
            return web.json_response({"code": "stream-not-found", "stream_id": "x"}, status=404)
        begin = int(request.query["from"])
        page = events[begin : begin + int(request.query["limit"])]
        return web.json_response({"version": len(events) - 1, "events": page})

    async def read_all(self, request: web.Request) -> web.Response:
        local = request.query["consistency"] == "local"
        events = self.log if local else self.seen(self.log)
        begin = int(request.query.get("after", 0))
        page = events[begin : begin + int(request.query["limit"])]
        return web.json_response({"head": len(events), "events": page, "next": begin + len(page)})

    def seen(self, events: list[dict]) -> list[dict]:
        return events[:-2] if self.lie == "stale" and self.appends % 7 == 0 else events
