"""An event loop in a thread of its own, and calls to it from other threads."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future
from typing import Any, Generic, TypeVar

from shoal.errors import ShuttingDown

T = TypeVar("T")
R = TypeVar("R")


class Call(Generic[T]):
    """A coroutine on its way through the loop; all but `result` belongs to the loop's thread."""

    def __init__(self, coroutine: Coroutine[Any, Any, T]) -> None:
        self.result: Future[T] = Future()
        self._coroutine = coroutine
        self._task: asyncio.Task[T] | None = None
        self._abandoned = False

    def start(self) -> None:
        """Run it."""
        if self._abandoned:
            self.close()
            return
        self._task = asyncio.get_running_loop().create_task(self._coroutine)
        self._task.add_done_callback(self._finish)

    def close(self) -> None:
        """Never run it."""
        self._coroutine.close()

    def abandon(self) -> None:
        """Nobody waits any more."""
        self._abandoned = True
        if self._task is not None:
            self._task.cancel()

    def _finish(self, task: asyncio.Task[T]) -> None:
        if task.cancelled():
            self.result.cancel()
        elif (error := task.exception()) is not None:
            self.result.set_exception(error)
        else:
            self.result.set_result(task.result())


class LoopThread:
    """An event loop in a thread, for calls from other threads."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()
        self._lock = threading.Lock()
        started: Future[asyncio.AbstractEventLoop] = Future()
        self._thread = threading.Thread(target=self._run, args=(started,), name="shoal.sync", daemon=True)
        self._thread.start()
        self._loop = started.result()

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run `coroutine` on the loop and wait for its result; errors come through unchanged."""
        call = Call(coroutine)
        return self.attend(call, call.result.result)

    def attend(self, call: Call[Any], wait: Callable[[], R]) -> R:
        """Run `call` on the loop while this thread does `wait`, whose end, whatever it is, is the call's too.

        A store that is closed meanwhile is ShuttingDown.
        """
        if threading.current_thread() is self._thread:
            call.close()
            raise RuntimeError("shoal.sync would wait for itself here; use the async store on an event loop")
        try:
            if not self._submit(call.start):
                call.close()
                raise ShuttingDown("the store is closed; open it again")
            return wait()
        except CancelledError:
            raise ShuttingDown("the store was closed while this call waited", outcome="unknown") from None
        except BaseException:
            # Ctrl-C, wherever it struck; after any other end there is nothing left to abandon.
            self._submit(call.abandon)
            raise

    def _submit(self, callback: Callable[[], None]) -> bool:
        """Have the loop call `callback`; whether there is still a loop."""
        with self._lock:
            if self._loop is not None:
                self._loop.call_soon_threadsafe(callback)
            return self._loop is not None

    def stop(self) -> None:
        """End the loop and its thread; calls that still wait raise ShuttingDown."""
        with self._lock:
            loop, self._loop = self._loop, None
        if loop is not None:
            loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()

    def _run(self, started: Future[asyncio.AbstractEventLoop]) -> None:
        async def until_stopped() -> None:
            started.set_result(asyncio.get_running_loop())
            await self._stop.wait()

        asyncio.run(until_stopped())
