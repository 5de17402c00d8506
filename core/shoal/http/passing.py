"""What only the leader can answer: passed on to it over the peers' port, which is TLS between members, and back.

The caller's token was checked where it came in, so what it may touch goes along; a request that was passed on is
never passed on again.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Final, Protocol

import aiohttp
from aiohttp import web
from yarl import URL

from shoal.errors import NoLeader, OutcomeUnknown
from shoal.http.auth import ACCESS, encode_access
from shoal.http.connections import Connection
from shoal.http.context import Call
from shoal.http.lasting import attend
from shoal.http.negotiation import SSE

WATCH_S: Final = 0.1
"""How often it is seen whether the leader is still the same."""
CONNECT_S: Final = 3.0
CONNECTIONS_MAX: Final = 256
_TO_LEADER: Final = ("Content-Type", "Content-Encoding", "Accept", "Last-Event-ID")
_FROM_LEADER: Final = (
    *("Content-Type", "Content-Encoding", "Content-Length", "Link", "Location", "ETag", "Retry-After"),
    *("Cache-Control", "Shoal-Position", "Shoal-Node", "Shoal-Role"),
)


class Leader(Protocol):
    """The way to the leader."""

    def where(self) -> tuple[str, str]:
        """Its node id, and the HOST:PORT of its peers' port. Raises NoLeader, also when it is this node."""

    def http_context(self) -> ssl.SSLContext:
        """The TLS of a member."""


class Passing:
    """Passes requests on."""

    def __init__(self, leader: Leader) -> None:
        self._leader = leader
        self._session: aiohttp.ClientSession | None = None

    async def pass_on(self, call: Call) -> web.StreamResponse:
        """The leader's answer. Raises NoLeader (nothing was done) and OutcomeUnknown."""
        node_id, address = self._leader.where()
        body = await call.body()
        gone = OutcomeUnknown(f"node {node_id} was asked as the leader, and leads no more")
        answer = await attend(call, self._exchange(call, body, node_id, address), None)
        if answer is None:
            raise gone
        return answer

    async def _exchange(
        self, call: Call, body: bytes, node_id: str, address: str
    ) -> web.StreamResponse | None:
        """As `pass_on`; None when the node leads no more before it has answered whole."""
        copying = asyncio.ensure_future(self._copy(call, body, address))
        try:
            while self._leads(node_id):
                await asyncio.wait({copying}, timeout=WATCH_S)
                if copying.done():
                    return copying.result()
        finally:
            copying.cancel()
            await asyncio.wait({copying})
        if call.request.writer.output_size > 0:
            raise ConnectionResetError("the leader leads no more")
        return None

    def _leads(self, node_id: str) -> bool:
        try:
            return self._leader.where()[0] == node_id
        except NoLeader:
            return False

    async def _copy(self, call: Call, body: bytes, address: str) -> web.StreamResponse:
        request = call.request
        headers = {name: request.headers[name] for name in _TO_LEADER if name in request.headers}
        headers[ACCESS] = encode_access(call.access)
        try:
            async with self._open_session().request(
                request.method,
                URL(f"https://{address}{request.raw_path}", encoded=True),
                data=body or None,
                headers=headers,
                skip_auto_headers=("Content-Type", "Accept", "User-Agent"),
                ssl=self._leader.http_context(),
                server_hostname="",
                allow_redirects=False,
            ) as answer:
                return await _copy_answer(request, answer)
        except aiohttp.ClientConnectorError as error:
            raise NoLeader(f"the leader cannot be reached at {address}: {error.os_error}") from error
        except (aiohttp.ClientError, TimeoutError) as error:
            if request.writer.output_size > 0:
                raise ConnectionResetError("the leader's answer is cut short") from error
            raise OutcomeUnknown(f"the leader did not answer whole: {error!r}") from error

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=CONNECTIONS_MAX),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S),
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session

    async def close(self) -> None:
        """Pass on no more."""
        if self._session is not None:
            await self._session.close()


async def _copy_answer(request: web.BaseRequest, answer: aiohttp.ClientResponse) -> web.StreamResponse:
    headers = {name: answer.headers[name] for name in _FROM_LEADER if name in answer.headers}
    if "Content-Length" in headers or answer.status == 204:
        headers.pop("Content-Length", None)  # it is set anew
        return web.Response(status=answer.status, body=await answer.read(), headers=headers)
    if isinstance(request.protocol, Connection) and answer.content_type == SSE:
        request.protocol.may_stall()
    response = web.StreamResponse(status=answer.status, headers=headers)
    await response.prepare(request)
    async for piece in answer.content.iter_any():
        await response.write(piece)
    await response.write_eof()
    return response
