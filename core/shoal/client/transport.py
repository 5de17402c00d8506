"""Calls to the boards of one store: which board, how long, and whether to try again."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from io import BytesIO
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from shoal.client.boards import Board, Boards
from shoal.client.problems import error_of
from shoal.client.retry import Effect, RetryPolicy, may_repeat, settle
from shoal.clock import Clock
from shoal.errors import (
    NoLeader,
    NoQuorum,
    ShoalError,
    ShuttingDown,
    Timeout,
    TooBusy,
    Unreachable,
)
from shoal.types import JSON

if TYPE_CHECKING:
    import aiohttp
    from yarl import URL

EVENT_STREAM = "text/event-stream"
_NEEDS_REST = (Unreachable, Timeout, ShuttingDown, NoLeader, NoQuorum)
_LARGE_BYTES = 2**20
_POSITION_HEADER = "Shoal-Position"


def nobody_listens(_change: ShoalError | None) -> None:
    """What a tail that loses its board tells, where nobody asked for it."""


class Options(msgspec.Struct, frozen=True):
    """How a remote store behaves; times in milliseconds. `clock`, `sleep`, `random` are time and randomness."""

    timeout_ms: int
    connect_timeout_ms: int
    heartbeat_timeout_ms: int
    retry: RetryPolicy
    clock: Clock
    sleep: Callable[[float], Awaitable[None]]
    random: Callable[[], float]
    on_tail: Callable[[ShoalError | None], None] = nobody_listens


class Request(NamedTuple):
    """One call; `path` is relative to the store and already percent-encoded.

    `wait_ms` is how long a board may wait before it answers, in each try, beside the usual time.
    """

    method: str
    path: str
    effect: Effect = Effect.NONE
    params: Mapping[str, str] = {}
    body: bytes | None = None
    content_type: str = JSON
    wait_ms: int = 0


class Reply(NamedTuple):
    """A successful answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Transport:
    """Sends requests to the boards; the connections are pooled, and closed by `close`."""

    def __init__(self, urls: list[str], store_path: str, token: str | None, options: Options) -> None:
        self.boards = Boards(urls)
        self.options = options
        self.seen_position = 0
        self._path = store_path
        self._headers = {"Accept": JSON} | ({"Authorization": f"Bearer {token}"} if token else {})
        self._session: aiohttp.ClientSession | None = None
        self._closed = False

    async def close(self) -> None:
        """Close all connections; later calls raise ShuttingDown."""
        self._closed = True
        if self._session is not None:
            await self._session.close()

    def saw(self, position: int) -> None:
        """Remember a position: later reads, from whatever board, are at least as new."""
        self.seen_position = max(self.seen_position, position)

    async def call(self, request: Request) -> Reply:
        """Send until it succeeds, must not be repeated, or time and tries are used up. Raises ShoalError."""
        options = self.options
        deadline_ms = options.clock.monotonic_ms() + options.timeout_ms
        tried: set[Board] = set()
        unknown_before = False
        for failures in range(1, options.retry.attempts + 1):
            now_ms = options.clock.monotonic_ms()
            board = self.boards.pick(now_ms, tried)
            try:
                return await self._once(board, request, deadline_ms - now_ms)
            except ShoalError as error:
                began_ms, now_ms = now_ms, options.clock.monotonic_ms()
                deadline_ms += min(request.wait_ms, now_ms - began_ms)
                if isinstance(error, _NEEDS_REST):
                    self.boards.failed(board, now_ms)
                tried.add(board)
                pause_ms = self._pause_ms(error, failures, tried, now_ms)
                last = failures == options.retry.attempts or now_ms + pause_ms >= deadline_ms
                if last or not may_repeat(error, request.effect):
                    raise settle(error, request.effect, unknown_before=unknown_before) from error.__cause__
                unknown_before |= error.outcome == "unknown"
            if pause_ms:
                await options.sleep(pause_ms / 1000)
        raise AssertionError("unreachable: the last try returns or raises")

    @asynccontextmanager
    async def listen(
        self, board: Board, path: str, params: Mapping[str, str], last_id: str
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """The chunks of one event stream of `board`; silence is broken off by the heartbeat timeout."""
        import aiohttp

        options = self.options
        timeout = aiohttp.ClientTimeout(
            sock_connect=options.connect_timeout_ms / 1000, sock_read=options.heartbeat_timeout_ms / 1000
        )
        headers = self._headers | {"Accept": EVENT_STREAM, "Last-Event-ID": last_id}
        try:
            async with (await self._open()).get(
                self._url(board, path), params=params, headers=headers, timeout=timeout, allow_redirects=False
            ) as response:
                if response.status != 200:
                    raise error_of(response.status, await response.read())
                self.boards.answered(board)
                yield response.content.iter_any()
        except TimeoutError as error:
            raise Timeout(f"{board.url} sent nothing for too long") from error
        except (aiohttp.ClientError, OSError) as error:
            raise _unreachable(board, error) from error

    async def _once(self, board: Board, request: Request, left_ms: int) -> Reply:
        import aiohttp

        share_ms = max(1, min(left_ms, self.options.timeout_ms // len(self.boards)))
        answer_ms = share_ms + request.wait_ms
        headers = (
            self._headers if request.body is None else self._headers | {"Content-Type": request.content_type}
        )
        timeout = aiohttp.ClientTimeout(
            total=answer_ms / 1000, sock_connect=min(self.options.connect_timeout_ms, share_ms) / 1000
        )
        try:
            async with (await self._open()).request(
                request.method,
                self._url(board, request.path),
                params=self._with_position(request, share_ms),
                data=_payload(request.body),
                headers=headers,
                timeout=timeout,
                allow_redirects=False,
            ) as response:
                body = await response.read()
        except aiohttp.ConnectionTimeoutError as error:
            raise _unreachable(board, error) from error
        except TimeoutError as error:
            detail = f"{board.url} did not answer within {answer_ms} ms"
            raise Timeout(detail, outcome="unknown") from error
        except (aiohttp.ClientError, OSError) as error:
            raise _unreachable(board, error) from error
        self.boards.answered(board)
        self.saw(_position(response.headers))
        if response.status >= 300:
            raise _with_retry_after(error_of(response.status, body), response.headers)
        return Reply(response.status, response.headers, body)

    def _with_position(self, request: Request, share_ms: int) -> Mapping[str, str]:
        """Ask a board that may lag behind to catch up with what this client has seen."""
        if request.effect is not Effect.NONE or len(self.boards) == 1 or not self.seen_position:
            return request.params
        waiting = {"wait_for": str(self.seen_position), "wait_ms": str(share_ms // 2)}
        return {**request.params, **waiting}

    def _pause_ms(self, error: ShoalError, failures: int, tried: set[Board], now_ms: int) -> int:
        """None before a board that was not asked yet, else growing; a busy board's own wish counts."""
        if not isinstance(error, TooBusy) and self.boards.fresh(now_ms, tried):
            return 0
        pause_ms = self.options.retry.pause_ms(failures, self.options.random)
        return max(pause_ms, int(error.facts.get("retry_after_ms", 0)))

    def _url(self, board: Board, path: str) -> URL:
        from yarl import URL

        return URL(f"{board.url}{self._path}{path}", encoded=True)

    async def _open(self) -> aiohttp.ClientSession:
        if self._closed:
            raise ShuttingDown("this connection is closed; make another with shoal.connect")
        if self._session is None:
            import aiohttp

            self._session = aiohttp.ClientSession(
                cookie_jar=aiohttp.DummyCookieJar(), middlewares=(_send_once,), read_bufsize=2**18
            )
        return self._session


async def _send_once(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Hide a lost connection from aiohttp, which would silently send PUT and DELETE once more."""
    import aiohttp

    try:
        return await handler(request)
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise aiohttp.ClientConnectionError(str(error) or "the connection was closed") from error


def _payload(body: bytes | None) -> bytes | BytesIO | None:
    """A large body goes in pieces, so that it does not hold up the loop."""
    return BytesIO(body) if body is not None and len(body) > _LARGE_BYTES else body


def _unreachable(board: Board, error: Exception) -> Unreachable:
    import aiohttp

    unsent = isinstance(error, (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError))
    return Unreachable(
        f"no answer from {board.url} ({str(error) or type(error).__name__}); is shoald running there?",
        outcome="not-applied" if unsent else "unknown",
    )


def _position(headers: Mapping[str, str]) -> int:
    text = headers.get(_POSITION_HEADER, "")
    return int(text) if text.isascii() and text.isdigit() else 0


def _with_retry_after(error: ShoalError, headers: Mapping[str, str]) -> ShoalError:
    seconds = headers.get("Retry-After", "")
    if seconds.isascii() and seconds.isdigit():
        error.facts.setdefault("retry_after_ms", int(seconds) * 1000)
    return error
