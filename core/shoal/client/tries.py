"""The tries of one call: which board, how long, again or not, and another one beside a board that keeps silent."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import Any, Protocol

from shoal.client.boards import Board, Boards
from shoal.client.exchange import Reply
from shoal.client.retry import Effect, RetryPolicy, awaits_election, may_repeat, settle
from shoal.clock import Clock
from shoal.errors import ShoalError, ShuttingDown, Timeout, TooBusy, Unreachable

_NEEDS_REST = (Unreachable, Timeout, ShuttingDown)


class Rules(Protocol):
    """What the tries need of the client's options."""

    @property
    def timeout_ms(self) -> int: ...
    @property
    def attempt_ms(self) -> int: ...
    @property
    def retry(self) -> RetryPolicy: ...
    @property
    def clock(self) -> Clock: ...
    @property
    def sleep(self) -> Callable[[float], Awaitable[None]]: ...
    @property
    def random(self) -> Callable[[], float]: ...


class Tries:
    """One call. `send` makes one try of a board, `doubted` is told when one failed, `closed` says when to end.

    A board that says nothing for `attempt_ms` is left to it and another one is asked too, where that is harmless
    (`effect`); the first success counts. `wait_ms` is how long a board may wait before it answers, in each try,
    beside the usual time.
    """

    def __init__(
        self,
        boards: Boards,
        rules: Rules,
        send: Callable[[Board, int], Awaitable[Reply]],
        doubted: Callable[[], None],
        closed: Callable[[], bool],
        *,
        effect: Effect,
        wait_ms: int = 0,
        leader_first: bool = False,
    ) -> None:
        self._boards = boards
        self._rules = rules
        self._send = send
        self._doubted = doubted
        self._closed = closed
        self._effect = effect
        self._wait_ms = wait_ms
        self._leader_first = leader_first
        self._deadline_ms = rules.clock.monotonic_ms() + rules.timeout_ms
        self._began_ms = 0
        self._counted = 0
        self._failures = 0
        self._tried: set[Board] = set()
        self._open: dict[asyncio.Future[Reply], Board] = {}
        self._unknown = False
        self._said: ShoalError | None = None

    async def run(self) -> Reply:
        """The answer. Raises ShoalError, its outcome that of all tries."""
        try:
            self._start()
            while True:
                ended = await self._first_end()
                if ended is None:
                    self._keep_silent()
                elif ended.exception() is None:
                    return ended.result()
                elif not await self._go_on(ended):
                    continue
                self._start()
        finally:
            await _cancel(self._open)

    def _start(self) -> None:
        self._began_ms = now_ms = self._rules.clock.monotonic_ms()
        busy = self._open.values()
        board = self._boards.pick(now_ms, self._tried, busy, leader_first=self._leader_first)
        answer_ms = max(1, self._deadline_ms - now_ms)
        if self._effect is Effect.ONCE:
            # Nobody else may be asked meanwhile, and who waits should not wait for a board that hangs.
            answer_ms = min(answer_ms, max(1, self._rules.timeout_ms // len(self._boards)))
        self._tried.add(board)
        self._counted += 1
        self._open[asyncio.ensure_future(self._send(board, answer_ms + self._wait_ms))] = board

    async def _first_end(self) -> asyncio.Future[Reply] | None:
        """A try that ended, rather one that went well; None when another board should be asked meanwhile."""
        others = len(self._boards) > len(self._open) and not self._spent()
        patience_ms = self._rules.attempt_ms + self._wait_ms
        done, _ = await asyncio.wait(
            self._open,
            timeout=patience_ms / 1000 if others and self._effect is not Effect.ONCE else None,
            return_when=asyncio.FIRST_COMPLETED,
        )
        return min(done, key=lambda future: future.exception() is not None, default=None)

    def _spent(self) -> bool:
        return self._counted >= self._rules.retry.attempts * len(self._boards)

    def _keep_silent(self) -> None:
        """Boards that keep silent are left alone by other calls, until they say something."""
        now_ms = self._rules.clock.monotonic_ms()
        self._extend(now_ms)
        for board in self._open.values():
            if board.resting_until_ms <= now_ms:
                self._boards.failed(board, now_ms)
        self._doubted()
        self._unknown = True

    async def _go_on(self, ended: asyncio.Future[Reply]) -> bool:
        """After a failure: whether to make another try now. Raises when there is nothing more to wait for."""
        board, error = self._open.pop(ended), ended.exception()
        if not isinstance(error, ShoalError):
            raise error or AssertionError("it failed")
        now_ms = self._rules.clock.monotonic_ms()
        self._extend(now_ms)
        self._judge(board, error, now_ms)
        pause_ms = self._pause_ms(error, now_ms)
        spent = self._spent() or now_ms + pause_ms >= self._deadline_ms
        if self._closed() or not may_repeat(error, self._effect) or (spent and not self._open):
            told = self._best_told(error)
            raised = settle(told, self._effect, unknown_before=self._unknown)
            raise raised from (told.__cause__ if raised is told else told)
        self._unknown |= error.outcome == "unknown"
        if not spent:
            await self._pause(pause_ms)
        return not spent and not any(future.done() for future in self._open)

    def _best_told(self, error: ShoalError) -> ShoalError:
        """Of boards that cannot be reached and one that says why it cannot, the latter is worth telling."""
        unsent = isinstance(error, Unreachable) and error.outcome == "not-applied"
        return self._said if unsent and self._said is not None else error

    def _extend(self, now_ms: int) -> None:
        """A board that was asked to wait has not used up the time for that."""
        self._deadline_ms += min(self._wait_ms, now_ms - self._began_ms)

    def _judge(self, board: Board, error: ShoalError, now_ms: int) -> None:
        self._failures += 1
        if not isinstance(error, Unreachable | Timeout):
            self._said = error
        if awaits_election(error):
            self._counted -= 1
            leader_id = error.facts.get("leader")
            self._boards.without_leader(board, now_ms, leader_id if isinstance(leader_id, str) else None)
            self._leader_first = True
        elif isinstance(error, _NEEDS_REST):
            self._boards.failed(board, now_ms)
        else:
            return
        self._doubted()

    def _pause_ms(self, error: ShoalError, now_ms: int) -> int:
        """None before a board that was not asked yet, else growing with each round."""
        if not isinstance(error, TooBusy) and self._boards.fresh(now_ms, self._tried):
            return 0
        rules, rounds = self._rules, max(1, self._failures // len(self._boards))
        return rules.retry.pause_after(error, rounds, rules.random)

    async def _pause(self, pause_ms: int) -> None:
        """Pause, unless a try that is still open ends meanwhile."""
        if not pause_ms:
            return
        if not self._open:
            await self._rules.sleep(pause_ms / 1000)
            return
        sleeping = asyncio.ensure_future(self._rules.sleep(pause_ms / 1000))
        waited: list[asyncio.Future[Any]] = [sleeping, *self._open]
        try:
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await _cancel([sleeping])


async def _cancel(futures: Collection[asyncio.Future[Any]]) -> None:
    """End what is still open; its connection closes."""
    left = [future for future in futures if not future.done()]
    for future in left:
        future.cancel()
    if left:
        await asyncio.wait(left)
    for future in futures:
        if not future.cancelled():
            future.exception()  # seen: asyncio need not complain
