"""A board over real HTTP on loopback, in the test's own process and loop."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import aiohttp
from yarl import URL

from shoal.config import Config, load
from shoal.server import Shoald

_SMALL = {
    "listen": "127.0.0.1:0",
    "telemetry_handlers": (),
    "storage.segment_bytes": 256 * 1024,
    "storage.reserve_bytes": 0,
    "reader_pool_size": 1,
    "http.max_stores": 1000,
}
"""A board that starts fast: little to allocate, few threads."""


class Reply(NamedTuple):
    """An answer, read to its end."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The code of a problem document, whose form is checked."""
        assert self.headers["Content-Type"] == "application/problem+json", (self.status, self.body)
        problem = self.json
        assert problem["type"].endswith(f":{problem['code']}")
        assert problem["status"] == self.status
        assert problem["title"]
        assert problem["detail"]
        assert isinstance(problem["retryable"], bool)
        assert problem["outcome"] in {"not-applied", "applied", "unknown"}
        return str(problem["code"])


class Board:
    """A running board and a client of it."""

    def __init__(self, url: str, session: aiohttp.ClientSession, store: str | None = None) -> None:
        self.url = url
        self.session = session
        self._store = store

    async def fresh(self) -> Board:
        """The same board seen through a new store, for a test that wants an empty one: `/v1/...` means that store."""
        store = uuid4().hex
        assert (await self.call("PUT", f"/v1/stores/{store}")).status == 201
        return Board(self.url, self.session, store)

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        url = URL(self.url)
        assert url.host is not None
        assert url.port is not None
        return url.host, url.port

    async def call(self, method: str, path: str, body: Any = None, **settings: Any) -> Reply:
        """Send a request; `path` goes out exactly as it is. `body` is sent as JSON, bytes as they are."""
        headers = dict(settings.pop("headers", {}))
        if body is not None:
            headers.setdefault("Content-Type", "application/json")
            settings["data"] = body if isinstance(body, bytes) else json.dumps(body).encode()
        if self._store is not None and path.startswith("/v1/") and not path.startswith("/v1/stores/"):
            path = f"/v1/stores/{self._store}/{path.removeprefix('/v1/')}"
        url = URL(self.url + path, encoded=True)
        async with self.session.request(method, url, headers=headers, **settings) as answer:
            return Reply(answer.status, answer.headers, await answer.read())

    async def append(self, stream: str, *events: Any, **settings: Any) -> Reply:
        """Append events; a bare value becomes an event of type `t` with that data."""
        sent = [event if isinstance(event, dict) else {"event_type": "t", "data": event} for event in events]
        return await self.call("POST", f"/v1/streams/{stream}", sent, **settings)

    async def raw(self, sent: bytes, *, until_closed: bool = True) -> bytes:
        """Bytes over a socket of their own, and what comes back until the board closes it."""
        reader, writer = await asyncio.open_connection(*self.address)
        try:
            writer.write(sent)
            return await reader.read() if until_closed else await reader.readuntil(b"\r\n\r\n")
        finally:
            writer.close()


@asynccontextmanager
async def running_board(data_dir: Path, values: Mapping[str, Any] | None = None) -> AsyncIterator[Board]:
    """A board on a free port, configured by TOML keys."""
    config = configured(data_dir, values)
    async with Shoald(config) as shoald, aiohttp.ClientSession() as session:
        yield Board(shoald.urls[0], session)


def configured(data_dir: Path, values: Mapping[str, Any] | None = None) -> Config:
    """The configuration of a test's board."""
    return load({"data_dir": str(data_dir), **_SMALL, **(values or {})}, {}, None)
