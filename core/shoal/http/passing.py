"""What only the leader can answer: passed on to it over the peers' port, which is TLS between members, and back.

The caller's token was checked where it came in, so what it may touch goes along; a request that was passed on is
never passed on again.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Any, Final, Protocol
from weakref import WeakSet

import aiohttp
from aiohttp import web
from yarl import URL

from shoal.errors import NoLeader, OutcomeUnknown, ShuttingDown
from shoal.http.auth import ACCESS, encode_access
from shoal.http.connections import Connection
from shoal.http.context import Call
from shoal.http.lasting import attend
from shoal.http.negotiation import SSE
from shoal.http.pacing import LARGE_BYTES
from shoal.http.routing import request_target

CONNECT_S: Final = 3.0
LAST_WORD_S: Final = 0.5
"""A node that leads no more says so itself, or has just handed over as it was asked to."""
_TO_LEADER: Final = ("Content-Type", "Accept", "Last-Event-ID")
_FROM_LEADER: Final = (
    *("Content-Type", "Content-Encoding", "Content-Length", "Link", "Location", "ETag", "Retry-After"),
    *("Cache-Control", "Shoal-Position", "Shoal-Node", "Shoal-Role"),
)


class Leader(Protocol):
    """The way to the leader."""

    def where(self) -> tuple[str, str]:
        """Its node id, and the HOST:PORT of its peers' port. Raises NoLeader, also when it is this node."""

    async def until_other(self, node_id: str) -> None:
        """Until `where` says another, or nobody."""

    def http_context(self) -> ssl.SSLContext:
        """The TLS of a member."""

    def answers_as(self, node_id: str, certificate: bytes | None) -> bool:
        """Whether a certificate (DER), which the authority gave, is that member's, with a key that counts."""


class _Connector(aiohttp.TCPConnector):
    """Gives connections to one member, and to nobody else that the authority has certified."""

    def __init__(self, leader: Leader, node_id: str) -> None:
        # Bounded by http.max_connections. A limit here would let waiting pulls keep acks from the leader.
        super().__init__(limit=0)
        self._leader = leader
        self._node_id = node_id
        self._proven: WeakSet[Any] = WeakSet()

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Any],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - the base's
    ) -> Any:
        """As the base's, nothing sent yet. Raises NoLeader if somebody else is there."""
        while True:
            connection = await super().connect(req, traces, timeout)
            tls = None if connection.transport is None else connection.transport.get_extra_info("ssl_object")
            certificate = None if tls is None else tls.getpeercert(binary_form=True)
            if self._leader.answers_as(self._node_id, certificate):
                self._proven.add(connection.protocol)
                return connection
            kept = connection.protocol in self._proven  # since before the leader's key was renewed
            connection.close()
            if not kept:
                raise NoLeader(
                    f"at {req.url.authority}, where {self._node_id} was reached, is somebody else",
                    leader=self._node_id,
                )


class Passing:
    """Passes requests on."""

    def __init__(self, leader: Leader) -> None:
        self._leader = leader
        self._sessions: dict[str, aiohttp.ClientSession] = {}

    async def pass_on(self, call: Call) -> web.StreamResponse:
        """The leader's answer. Raises NoLeader (nothing was done) and OutcomeUnknown."""
        node_id, address = self._leader.where()
        body = await call.body()
        answer = await attend(call, self._exchange(call, body, node_id, address), None)
        if answer is None:
            raise ShuttingDown(
                "the node is leaving; whether the leader did it is not known", outcome="unknown"
            )
        return answer

    async def _exchange(self, call: Call, body: bytes, node_id: str, address: str) -> web.StreamResponse:
        """The answer of that node, while it leads. Raises as `pass_on`."""
        copying = asyncio.ensure_future(self._copy(call, body, node_id, address))
        moved = asyncio.ensure_future(self._leader.until_other(node_id))
        try:
            await asyncio.wait({copying, moved}, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait({copying}, timeout=LAST_WORD_S)
            if copying.done():
                return copying.result()
        finally:
            copying.cancel()
            moved.cancel()
            await asyncio.wait({copying, moved})
        if call.request.writer.output_size > 0:
            raise ConnectionResetError("the leader leads no more")
        raise OutcomeUnknown(f"node {node_id} was asked as the leader, and leads no more")

    async def _copy(self, call: Call, body: bytes, node_id: str, address: str) -> web.StreamResponse:
        request = call.request
        headers = {name: request.headers[name] for name in _TO_LEADER if name in request.headers}
        headers[ACCESS] = encode_access(call.access)
        try:
            async with self._session_to(node_id).request(
                request.method,
                URL(f"https://{address}{request_target(request.raw_path)}", encoded=True),
                data=body or None,
                headers=headers,
                skip_auto_headers=("Content-Type", "Accept", "User-Agent"),
                ssl=self._leader.http_context(),
                server_hostname="",
                allow_redirects=False,
            ) as answer:
                return await _copy_answer(request, answer)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise NoLeader(f"the leader cannot be reached at {address}: {error}") from error
        except (aiohttp.ClientError, TimeoutError) as error:
            if request.writer.output_size > 0:
                raise ConnectionResetError("the leader's answer is cut short") from error
            raise OutcomeUnknown(f"the leader did not answer whole: {error!r}") from error

    def _session_to(self, node_id: str) -> aiohttp.ClientSession:
        """One for each node that led, of which there are not many."""
        session = self._sessions.get(node_id)
        if session is None:
            session = self._sessions[node_id] = aiohttp.ClientSession(
                connector=_Connector(self._leader, node_id),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S),
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return session

    async def close(self) -> None:
        """Pass on no more."""
        for session in self._sessions.values():
            await session.close()


async def _copy_answer(request: web.BaseRequest, answer: aiohttp.ClientResponse) -> web.StreamResponse:
    headers = {name: answer.headers[name] for name in _FROM_LEADER if name in answer.headers}
    if answer.status == 204 or (answer.content_length or LARGE_BYTES + 1) <= LARGE_BYTES:
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
