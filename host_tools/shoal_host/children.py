"""Processes that a command starts, watches and stops."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from shoal_host import leash

_LAST_LINES: Final = 20
_LINE_BYTES: Final = 64 * 1024


class Child:
    """A process in a group of its own, so that Ctrl-C reaches only who started it."""

    def __init__(self, name: str, process: Process, heard: Callable[[str], None]) -> None:
        self.name = name
        self.process = process
        self.last_lines: deque[str] = deque(maxlen=_LAST_LINES)
        self._heard = heard
        self._listening = asyncio.create_task(self._listen(), name=f"listen-{name}")

    @classmethod
    async def start(
        cls,
        name: str,
        arguments: Sequence[str],
        *,
        environ: Mapping[str, str] | None = None,
        heard: Callable[[str], None],
    ) -> Child:
        """Start `python ARGUMENTS...`; each line it writes to stderr goes to `heard`."""
        python = sys.executable
        process = await asyncio.create_subprocess_exec(
            *(python, "-I", "-S", leash.__file__, str(os.getpid()), python, *arguments),
            stdin=DEVNULL,
            stdout=DEVNULL,
            stderr=PIPE,
            env=environ,
            start_new_session=True,
            limit=_LINE_BYTES,
        )
        return cls(name, process, heard)

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self.process.returncode is None

    async def ended(self) -> int:
        """Wait for its end; the result is its exit code, negative for a signal."""
        code = await self.process.wait()
        await asyncio.wait((self._listening,), timeout=1)
        return code

    async def stop(self, grace_s: float) -> None:
        """SIGTERM, then SIGKILL for one that does not go in time."""
        if self.running:
            self.process.terminate()
            try:
                await asyncio.wait_for(self.process.wait(), grace_s)
            except TimeoutError:
                self._heard(f"{self.name} did not stop within {grace_s:g} s and was killed")
                self.kill()
        await self.ended()
        self._listening.cancel()

    def kill(self) -> None:
        """SIGKILL."""
        if self.running:
            self.process.kill()

    async def _listen(self) -> None:
        stderr = self.process.stderr
        assert stderr is not None  # noqa: S101 - PIPE was asked for
        while line := await _line(stderr):
            text = line.decode("utf-8", "replace").rstrip()
            self.last_lines.append(text)
            self._heard(text)


async def _line(stream: asyncio.StreamReader) -> bytes:
    """The next line; one that is too long is cut, not an error. Empty at the end."""
    try:
        return await stream.readline()
    except ValueError:
        return b"(a line too long to show)\n"
