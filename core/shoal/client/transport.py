"""Calls to the boards of one store, and what is known of these: who leads, how new what was read is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from shoal.client.boards import Board, Boards
from shoal.client.exchange import HttpExchange, Outgoing, Reply
from shoal.client.members import Members, all_tls
from shoal.client.retry import Effect, RetryPolicy
from shoal.client.tries import Tries
from shoal.clock import Clock
from shoal.errors import ShoalError, ShuttingDown, Timeout, Unreachable
from shoal.types import JSON, Consistency

if TYPE_CHECKING:
    import aiohttp


def nobody_listens(_change: ShoalError | None) -> None:
    """What a tail that loses its board tells, where nobody asked for it."""


class Options(msgspec.Struct, frozen=True):
    """How a remote store behaves; times in milliseconds. `clock`, `sleep`, `random` are time and randomness."""

    timeout_ms: int
    attempt_ms: int
    connect_timeout_ms: int
    heartbeat_timeout_ms: int
    retry: RetryPolicy
    clock: Clock
    sleep: Callable[[float], Awaitable[None]]
    random: Callable[[], float]
    on_tail: Callable[[ShoalError | None], None] = nobody_listens


class Request(NamedTuple):
    """One call; `path` is relative to the store (or, with `of_node`, to the board) and already percent-encoded.

    `wait_ms` is how long a board may wait before it answers, in each try, beside the usual time.
    """

    method: str
    path: str
    effect: Effect = Effect.NONE
    params: Mapping[str, str] = {}
    body: bytes | None = None
    content_type: str = JSON
    wait_ms: int = 0
    consistency: Consistency | None = None
    of_node: bool = False


class Transport:
    """Sends requests to the boards that `exchange` reaches; `close` closes it."""

    def __init__(self, urls: list[str], store_path: str, exchange: HttpExchange, options: Options) -> None:
        self.boards = Boards(urls)
        self.options = options
        self.seen_position = 0
        self.members = Members(self.boards, self._cluster, options.clock.monotonic_ms, tls=all_tls(urls))
        self._path = store_path
        self._exchange = exchange

    async def close(self) -> None:
        """Close all connections; later calls raise ShuttingDown."""
        await self.members.close()
        await self._exchange.close()

    @property
    def several(self) -> bool:
        """Whether there is another board to turn to."""
        return len(self.boards) > 1

    def saw(self, position: int) -> None:
        """Remember a position: later reads, from whatever board, are at least as new."""
        self.seen_position = max(self.seen_position, position)

    async def call(self, request: Request) -> Reply:
        """Send until it succeeds, must not be repeated, or time and tries are used up. Raises ShoalError."""
        self.members.freshen()
        path = request.path if request.of_node else f"{self._path}{request.path}"
        outgoing = Outgoing(request.method, path, self._params(request), request.body, request.content_type)

        async def send(board: Board, answer_ms: int) -> Reply:
            return await self._send(board, outgoing, answer_ms)

        decided = request.effect is not Effect.NONE or request.consistency in {"leader", "linearizable"}
        return await Tries(
            self.boards,
            self.options,
            send,
            self.members.doubted,
            lambda: self._exchange.closed,
            effect=request.effect,
            wait_ms=request.wait_ms,
            leader_first=decided,
        ).run()

    @asynccontextmanager
    async def listen(
        self, board: Board, path: str, params: Mapping[str, str], last_id: str
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """The chunks of one event stream of `board`; silence is broken off by the heartbeat timeout.

        Where there are other boards, one that is silent is asked whether it lives.
        """
        options = self.options
        self.members.freshen()
        async with self._exchange.listen(
            board.url,
            f"{self._path}{path}",
            params,
            last_id,
            options.connect_timeout_ms,
            options.heartbeat_timeout_ms,
        ) as response:
            self._answered(board, response.headers)
            watching = asyncio.create_task(self._watch(board, response), name=f"watch {board.url}")
            try:
                yield response.content.iter_any()
            finally:
                watching.cancel()
                await asyncio.wait([watching])

    async def _watch(self, board: Board, response: aiohttp.ClientResponse) -> None:
        """Break the stream off when its board does not answer any more: it would send nothing, for ever."""
        every_ms = self.options.attempt_ms
        while True:
            before = response.content.total_bytes
            await asyncio.sleep(every_ms / 1000)
            if response.content.total_bytes != before or not self.several:
                continue
            try:
                await self._exchange.send(board.url, Outgoing("GET", "/livez"), every_ms, every_ms)
            except (Timeout, Unreachable):
                response.close()
                return
            except ShoalError:
                continue

    async def _cluster(self, board: Board) -> bytes:
        limit_ms = self.options.attempt_ms
        reply = await self._exchange.send(board.url, Outgoing("GET", "/v1/cluster"), limit_ms, limit_ms)
        return reply.body

    async def _send(self, board: Board, outgoing: Outgoing, answer_ms: int) -> Reply:
        try:
            reply = await self._exchange.send(board.url, outgoing, answer_ms, self.options.connect_timeout_ms)
        except (Timeout, Unreachable, ShuttingDown):
            raise
        except ShoalError:
            self.boards.answered(board)
            raise
        self._answered(board, reply.headers)
        return reply

    def _answered(self, board: Board, headers: Mapping[str, str]) -> None:
        self.boards.answered(board, headers.get("Shoal-Node"), headers.get("Shoal-Role"))
        position = headers.get("Shoal-Position", "")
        self.saw(int(position) if position.isascii() and position.isdigit() else 0)

    def _params(self, request: Request) -> Mapping[str, str]:
        """With how new the answer must be: as new as what this client has seen, where a board may lag behind."""
        params = request.params
        if request.consistency is not None:
            params = {**params, "consistency": request.consistency}
        if request.effect is not Effect.NONE or request.of_node or not self.several or not self.seen_position:
            return params
        return {**params, "wait_for": str(self.seen_position), "wait_ms": str(self.options.attempt_ms // 2)}
