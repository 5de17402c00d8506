"""Processes of a run: jobs that give a result, servers that live as long as a block, nothing left at the end."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from shoal_host import leash

T = TypeVar("T")
READY_S: Final = 30.0
STOP_S: Final = 30.0
_LAST_BYTES: Final = 4_000


class JobFailed(Exception):
    """A process of the benchmark failed; says which and with what last words."""


async def call(kind: type[T], function: Callable[..., Any], *arguments: Any) -> T:
    """The result of `function(*arguments)` run in a fresh process. Raises JobFailed.

    The function stands at the top of a module; arguments and result are what JSON can carry.
    """
    text = msgspec.json.encode(arguments).decode()
    module, name = function.__module__, function.__name__
    process = await _start(sys.executable, "-m", "shoal_host.bench.job", module, name, text, stdout=PIPE)
    async with _ending(process):
        out, err = await process.communicate()
    if process.returncode != 0:
        raise JobFailed(f"{module}.{name}: {_last_words(err)}")
    return msgspec.json.decode(out.rstrip().rpartition(b"\n")[2], type=kind)


@asynccontextmanager
async def server(arguments: list[str], port: int, log: Path) -> AsyncIterator[int]:
    """`python ARGUMENTS...` while the block runs, once its port answers; the value is its process id.

    Raises JobFailed when it ends or does not listen in time.
    """
    async with program([sys.executable, *arguments], port, log) as pid:
        yield pid


@asynccontextmanager
async def program(command: list[str], port: int, log: Path) -> AsyncIterator[int]:
    """The same for any program, named by its path."""
    with log.open("wb") as stderr:
        process = await _start(*command, stderr=stderr.fileno())
    async with _ending(process):
        if not await _listens(process, port):
            raise JobFailed(f"{' '.join(command[:3])}: {_last_words(log.read_bytes())}")
        yield process.pid


async def first_line_after_s(*arguments: str) -> float:
    """Seconds from starting `python ARGUMENTS...` until it prints a line; then it may end. Raises JobFailed."""
    began = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, stdin=DEVNULL, stdout=PIPE, stderr=PIPE, start_new_session=True
    )
    async with _ending(process):
        if process.stdout is None:
            raise RuntimeError("PIPE was asked for")
        line = await process.stdout.readline()
        took_s = time.perf_counter() - began
        _, err = await process.communicate()
    if not line or process.returncode != 0:
        raise JobFailed(f"{' '.join(arguments[:2])}: {_last_words(err)}")
    return took_s


def free_port() -> int:
    """A port that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def _start(*command: str, stdout: int = DEVNULL, stderr: int = PIPE) -> Process:
    """On a leash, so that nothing outlives a benchmark that is killed; in a session of its own for Ctrl-C."""
    leashed = ("-I", "-S", leash.__file__, str(os.getpid()))
    return await asyncio.create_subprocess_exec(
        *(sys.executable, *leashed, *command),
        stdin=DEVNULL,
        stdout=stdout,
        stderr=stderr,
        start_new_session=True,
    )


@asynccontextmanager
async def _ending(process: Process) -> AsyncIterator[None]:
    """However the block ends, the process is gone."""
    try:
        yield
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.terminate()
            try:
                await asyncio.wait_for(process.wait(), STOP_S)
            except (TimeoutError, asyncio.CancelledError):
                with suppress(ProcessLookupError):
                    process.kill()
                await process.wait()


async def _listens(process: Process, port: int) -> bool:
    deadline = time.monotonic() + READY_S
    while process.returncode is None and time.monotonic() < deadline:
        with suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            return True
        await asyncio.sleep(0.01)
    return False


def _last_words(err: bytes) -> str:
    lines = err[-_LAST_BYTES:].decode("utf-8", "replace").split("\n")
    said = [line.strip() for line in lines if line.strip()]
    return said[-1] if said else "it ended without a word"
