"""One request to one board and its answer, over HTTP: nothing here tries again."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import lru_cache
from io import BytesIO
from math import inf
from typing import TYPE_CHECKING, NamedTuple

from shoal.client.problems import error_of
from shoal.errors import ShoalError, ShuttingDown, Timeout, Unreachable
from shoal.types import JSON

if TYPE_CHECKING:
    import ssl

    import aiohttp
    from yarl import URL

EVENT_STREAM = "text/event-stream"
_LARGE_BYTES = 2**20


class Outgoing(NamedTuple):
    """A request as it goes to a board; `path` is percent-encoded already."""

    method: str
    path: str
    params: Mapping[str, str] = {}
    body: bytes | None = None
    content_type: str = JSON


class Reply(NamedTuple):
    """A successful answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class HttpExchange:
    """The network as a client needs it; connections are pooled."""

    def __init__(self, token: str | None, tls: ssl.SSLContext | None = None) -> None:
        self._headers = {"Accept": JSON} | ({"Authorization": f"Bearer {token}"} if token else {})
        self._tls = True if tls is None else tls
        self._session: aiohttp.ClientSession | None = None
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether nothing is sent any more."""
        return self._closed

    async def close(self) -> None:
        """Close all connections; later calls raise ShuttingDown."""
        self._closed = True
        if self._session is not None:
            await self._session.close()

    async def send(self, url: str, outgoing: Outgoing, answer_ms: int, connect_ms: int) -> Reply:
        """The board's answer. Raises the error it answers with; Timeout after `answer_ms`; Unreachable."""
        import aiohttp

        headers = self._headers
        if outgoing.body is not None:
            headers = headers | {"Content-Type": outgoing.content_type}
        timeout = aiohttp.ClientTimeout(
            total=answer_ms / 1000,
            sock_connect=min(connect_ms, answer_ms) / 1000,
            ceil_threshold=inf,  # a call is not to take up to a second longer than it may
        )
        try:
            async with self._open().request(
                outgoing.method,
                _url(url, outgoing.path),
                params=outgoing.params,
                data=_payload(outgoing.body),
                headers=headers,
                timeout=timeout,
                allow_redirects=False,
                ssl=self._tls,
                middlewares=None if outgoing.method == "POST" else (_send_once,),
            ) as response:
                body = await response.read()
        except aiohttp.ConnectionTimeoutError as error:
            raise _unreachable(url, error) from error
        except TimeoutError as error:
            raise Timeout(f"{url} did not answer within {answer_ms} ms", outcome="unknown") from error
        except (aiohttp.ClientError, OSError) as error:
            raise _unreachable(url, error) from error
        if response.status >= 300:
            raise _with_retry_after(error_of(response.status, body), response.headers)
        return Reply(response.status, response.headers, body)

    @asynccontextmanager
    async def listen(
        self, url: str, path: str, params: Mapping[str, str], last_id: str, connect_ms: int, silence_ms: int
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """An event stream as it begins. Raises as `send`; Timeout when nothing comes for `silence_ms`."""
        import aiohttp

        timeout = aiohttp.ClientTimeout(sock_connect=connect_ms / 1000, sock_read=silence_ms / 1000)
        headers = self._headers | {"Accept": EVENT_STREAM, "Last-Event-ID": last_id}
        try:
            async with self._open().get(
                _url(url, path),
                params=params,
                headers=headers,
                timeout=timeout,
                allow_redirects=False,
                ssl=self._tls,
                middlewares=(_send_once,),
            ) as response:
                if response.status != 200:
                    raise error_of(response.status, await response.read())
                yield response
        except TimeoutError as error:
            raise Timeout(f"{url} sent nothing for too long") from error
        except (aiohttp.ClientError, OSError) as error:
            raise _unreachable(url, error) from error

    def _open(self) -> aiohttp.ClientSession:
        if self._closed:
            raise ShuttingDown("this connection is closed; make another with shoal.connect")
        if self._session is None:
            import aiohttp

            self._session = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), read_bufsize=2**18)
        return self._session


async def _send_once(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Hide a lost connection from aiohttp, which would silently send anything but a POST once more."""
    import aiohttp

    try:
        return await handler(request)
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise aiohttp.ClientConnectionError(str(error) or "the connection was closed") from error


@lru_cache(maxsize=1024)
def _url(base: str, path: str) -> URL:
    from yarl import URL

    return URL(f"{base}{path}", encoded=True)


def _payload(body: bytes | None) -> bytes | BytesIO | None:
    """A large body goes in pieces, so that it does not hold up the loop."""
    return BytesIO(body) if body is not None and len(body) > _LARGE_BYTES else body


def _unreachable(url: str, error: Exception) -> Unreachable:
    import ssl

    import aiohttp

    unsent = isinstance(error, (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError))
    cause: Exception = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    number = (cause.errno or 0) if isinstance(cause, OSError) and not isinstance(cause, ssl.SSLError) else 0
    why = os.strerror(number) if number > 0 else str(cause)
    return Unreachable(
        f"no answer from {url} ({why or type(error).__name__}); is shoald running there?",
        outcome="not-applied" if unsent else "unknown",
    )


def _with_retry_after(error: ShoalError, headers: Mapping[str, str]) -> ShoalError:
    seconds = headers.get("Retry-After", "")
    if seconds.isascii() and seconds.isdigit():
        error.facts.setdefault("retry_after_ms", int(seconds) * 1000)
    return error
