"""Keeps the tasks inside shoald alive: one that ends is started again, or ends the process with its reason.

A task is meant to run until it is cancelled. One that raises, returns, or is cancelled by something else than
`close` has died. Then it is logged, told to telemetry, and started again after a delay that doubles from
`first_ms` to `most_ms`; a task that lived for `healthy_ms` begins anew at `first_ms`. A critical task is not
started again: `failed` gets its error, and whoever waits for it ends the process.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple, Self

from shoal import telemetry
from shoal.clock import Clock, SystemClock
from shoal.errors import AlreadyExists, InternalError, ShoalError, ShuttingDown

_log: Final = logging.getLogger("shoal.supervisor")


class Backoff(NamedTuple):
    """How long a task stays down."""

    first_ms: int = 100
    most_ms: int = 30_000
    healthy_ms: int = 60_000

    def delay_ms(self, attempt: int, jitter: float) -> float:
        """Before restart `attempt` (from 1): doubled each time, bounded; `jitter` 0 to 1 takes off up to half."""
        doubled: int = self.first_ms << min(attempt - 1, 32)
        return min(doubled, self.most_ms) * (1 - jitter / 2)


class _Child(NamedTuple):
    name: str
    run: Callable[[], Awaitable[None]]
    critical: bool


class Supervisor:
    """Use as `async with`, or call `close`. Must be made inside the running loop that it works in.

    `jitter` gives numbers from 0 to 1; without it restarts of many boards may fall together. `failed` never
    has a result, only the error of a critical task.
    """

    def __init__(
        self,
        *,
        backoff: Backoff = Backoff(),  # noqa: B008 - immutable
        jitter: Callable[[], float] = lambda: 0.0,
        clock: Clock | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        grace_ms: int = 5000,
    ) -> None:
        self._backoff = backoff
        self._jitter = jitter
        self._clock: Clock = SystemClock() if clock is None else clock
        self._sleep = sleep
        self._grace_ms = grace_ms
        self._keepers: dict[str, asyncio.Task[None]] = {}
        self._closing = False
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def start(self, name: str, run: Callable[[], Awaitable[None]], *, critical: bool = False) -> None:
        """Run `run()` for ever, as task `name`. Raises AlreadyExists, ShuttingDown."""
        if self._closing:
            raise ShuttingDown(f"task {name!r} is not started any more")
        if name in self._keepers:
            raise AlreadyExists(f"a task {name!r} runs already, give this one another name")
        keeper = asyncio.create_task(self._keep(_Child(name, run, critical)), name=f"shoal {name}")
        self._keepers[name] = keeper
        keeper.add_done_callback(self._kept)

    @property
    def names(self) -> list[str]:
        """The tasks that run or wait for their restart."""
        return [name for name, keeper in self._keepers.items() if not keeper.done()]

    async def close(self) -> None:
        """Cancel all and wait until they are gone; one that does not go within `grace_ms` is logged and left."""
        self._closing = True
        keepers = [keeper for keeper in self._keepers.values() if not keeper.done()]
        for keeper in keepers:
            keeper.cancel()
        if keepers:
            _, left = await asyncio.wait(keepers, timeout=self._grace_ms / 1000)
            for keeper in left:
                _log.error(
                    "%s does not end within %d ms and is left behind", keeper.get_name(), self._grace_ms
                )
        if not self.failed.done():
            self.failed.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.close()

    async def _keep(self, child: _Child) -> None:
        attempt = 0
        while True:
            begin_ms = self._clock.monotonic_ms()
            error = await self._live(child)
            if self._ending():
                _log.warning("task %r ended badly while it was stopped", child.name, exc_info=error)
                return
            lived_ms = self._clock.monotonic_ms() - begin_ms
            attempt = 1 if lived_ms >= self._backoff.healthy_ms else attempt + 1
            if child.critical:
                self._fail(child.name, error)
                return
            delay_ms = self._backoff.delay_ms(attempt, self._jitter())
            _log.warning("task %r died, restart %d in %d ms", child.name, attempt, delay_ms, exc_info=error)
            about = {"task": child.name, "reason": repr(error)}
            telemetry.emit(telemetry.TASK_RESTARTED, {"delay_ms": delay_ms, "attempt": attempt}, about)
            await self._sleep(delay_ms / 1000)

    async def _live(self, child: _Child) -> Exception:
        """Run the child to its end, and say why it ended."""
        try:
            await child.run()
        except asyncio.CancelledError as error:
            if self._ending():
                raise
            cause = InternalError("something it waited for was cancelled")
            cause.__cause__ = error
            return cause
        except Exception as error:  # noqa: BLE001 - reported, and the task restarted or the process ended
            return error
        return InternalError("it returned, and was meant to run for ever")

    def _ending(self) -> bool:
        """Whether this keeper itself was cancelled, by `close` or by the end of the loop."""
        task = asyncio.current_task()
        return self._closing or (task is not None and task.cancelling() > 0)

    def _fail(self, name: str, error: Exception) -> None:
        _log.error("critical task %r died: %s", name, error, exc_info=error)
        telemetry.emit(telemetry.TASK_FAILED, {"attempt": 1}, {"task": name, "reason": repr(error)})
        if self.failed.done():
            return  # another one was first
        reason = error if isinstance(error, ShoalError) else InternalError(f"task {name!r} died: {error!r}")
        reason.__cause__ = error if reason is not error else error.__cause__
        self.failed.set_exception(reason)

    def _kept(self, keeper: asyncio.Task[None]) -> None:
        """A keeper never ends by itself with an error; if it does, that is a defect and ends the process."""
        error = None if keeper.cancelled() else keeper.exception()
        if isinstance(error, Exception):
            self._fail(keeper.get_name(), error)
