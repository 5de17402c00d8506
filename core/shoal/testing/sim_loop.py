"""An event loop whose time is an argument: it jumps to the next thing that is due, so a minute takes milliseconds.

Everything of one simulated process runs in a `Life`: its tasks, timers and callbacks carry it in their context, so that
a process can be killed in the midst of things (nothing of it runs again) or stopped (everything runs later). Nothing
waits for the real world; when nothing is left to happen, `Stuck` says so.
"""

from __future__ import annotations

import asyncio
import heapq
import random
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import Context, ContextVar, copy_context
from typing import Any, Final
from unittest import mock

TURNS_MAX: Final = 200_000
"""Callbacks at one moment: more is a loop that does not end."""
LATE_S: Final = 0.0005
"""How much later than asked a timer fires, at most: never earlier, as with a real one."""
START_S: Final = 1_000.0

_life: ContextVar[Life | None] = ContextVar("life", default=None)


class Stuck(Exception):
    """Nothing is left to happen, or it never stops happening at one moment, and what is awaited has not come."""


class Life:
    """One life of a simulated process, from its start to its end."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.dead = False
        self.stopped = False
        self.held: list[asyncio.Handle] = []
        self.tasks: list[asyncio.Task[Any]] = []
        self.context: Final[Context] = copy_context()
        self.context.run(_life.set, self)


class SimLoop(asyncio.BaseEventLoop):
    """The loop. `errors` has what callbacks and forgotten tasks of the living have raised."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self._rng = rng
        self._now_s = START_S
        self._due: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._number = 0
        self._turns = 0
        self._next: deque[asyncio.Handle] = deque()
        self.spent_s = 0.0
        """What the job that runs now has taken so far (see `sim_worker`)."""
        self.errors: list[str] = []
        self.set_exception_handler(self._on_error)

    # -- time ------------------------------------------------------------------------------------

    def time(self) -> float:
        """Simulated seconds."""
        return self._now_s

    def thread_time(self) -> float:
        """Simulated seconds as the thread has it that runs now."""
        return self._now_s + self.spent_s

    # -- lives -----------------------------------------------------------------------------------

    def spawn(self, life: Life, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """A task of that life."""
        task = self.create_task(work, context=life.context)
        life.tasks.append(task)
        return task

    def kill(self, life: Life) -> None:
        """Nothing of it ever runs again."""
        life.dead = True
        life.held.clear()

    def stop_life(self, life: Life) -> None:
        """SIGSTOP: what comes due waits."""
        life.stopped = True

    def go_on(self, life: Life) -> None:
        """SIGCONT: what came due runs, late."""
        life.stopped = False
        self._next.extend(life.held)
        life.held.clear()

    # -- what asyncio calls ----------------------------------------------------------------------

    def call_soon(  # type: ignore[override]  # less precise about arguments than typeshed
        self, callback: Any, *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        """In the order of the calls."""
        handle = asyncio.Handle(callback, args, self, context)
        self._next.append(handle)
        return handle

    def call_soon_threadsafe(  # type: ignore[override]  # less precise about arguments than typeshed
        self, callback: Any, *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        """There is one thread."""
        return self.call_soon(callback, *args, context=context)

    def call_later(  # type: ignore[override]  # less precise about arguments than typeshed
        self, delay: float, callback: Any, *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """See call_at."""
        return self.call_at(self._now_s + max(0.0, delay), callback, *args, context=context)

    def call_at(  # type: ignore[override]  # less precise about arguments than typeshed
        self, when: float, callback: Any, *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """A little later than asked, as the seed has it."""
        when = max(when, self._now_s) + self._rng.random() * LATE_S
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self._number += 1
        heapq.heappush(self._due, (when, self._number, handle))
        return handle

    def run_in_executor(  # type: ignore[override]  # less precise about arguments than typeshed
        self, _executor: Any, func: Callable[..., Any], *args: Any
    ) -> Any:
        """In place: threads of their own are not simulated."""
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except BaseException as error:  # noqa: BLE001 - handed to whoever waits
            future.set_exception(error)
        return future

    def _run_once(self) -> None:
        while not self._next:
            if not self._due:
                raise Stuck("nothing is left to happen")
            when, _, timer = heapq.heappop(self._due)
            if not timer.cancelled():
                self._now_s, self._turns = when, 0
                self._next.append(timer)
        self._turns += 1
        if self._turns > TURNS_MAX:
            raise Stuck(f"{TURNS_MAX} callbacks at one moment; the last: {self._next[0]!r}")
        handle = self._next.popleft()
        life = _life_of(handle)
        if handle.cancelled() or (life is not None and life.dead):
            return
        if life is not None and life.stopped:
            life.held.append(handle)
            return
        handle._run()  # noqa: SLF001 - as every loop does

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """It is left where it is, and passed over."""

    def _write_to_self(self) -> None:
        """Nothing sleeps that must be woken."""

    def _process_events(self, event_list: object) -> None:
        """There are none."""

    def _on_error(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        handle = context.get("handle")
        life = _life.get() if handle is None else _life_of(handle)
        if life is None or not life.dead:
            name = "the simulation" if life is None else life.name
            self.errors.append(f"{name}: {context['message']}: {context.get('exception')!r}")


def _life_of(handle: asyncio.Handle) -> Life | None:
    context: Context = handle._context  # type: ignore[attr-defined]  # noqa: SLF001 - asyncio keeps it there, since 3.7
    return context.get(_life)


@contextmanager
def virtual_time(loop: SimLoop) -> Iterator[None]:
    """Whoever measures how long something took gets the loop's time."""

    def seconds() -> float:
        return loop.thread_time()

    def nanoseconds() -> int:
        return round(loop.thread_time() * 1e9)

    with mock.patch.multiple(
        time,
        monotonic=seconds,
        perf_counter=seconds,
        time=seconds,
        monotonic_ns=nanoseconds,
        perf_counter_ns=nanoseconds,
        time_ns=nanoseconds,
    ):
        yield
