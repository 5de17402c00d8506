"""The real `shoald` as a child of a test: start, wait until ready, kill, stop."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp

READY_S = 30.0
STOP_S = 30.0


def free_port() -> int:
    """A port that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def clean_environ() -> dict[str, str]:
    """This environment without what would configure shoal."""
    return {name: value for name, value in os.environ.items() if not name.startswith("SHOAL_")}


class Shoald:
    """One data directory and the process on it, if one runs. Its stderr is in `log` of all its lives."""

    def __init__(
        self, data_dir: Path, port: int | None = None, environ: Mapping[str, str] | None = None
    ) -> None:
        self.data_dir = data_dir
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log_path = data_dir.with_name(f"{data_dir.name}-{self.port}.log")
        self._environ = {**clean_environ(), **(environ or {})}
        self._process: Process | None = None

    @property
    def log(self) -> str:
        """All that was written to stderr."""
        return self.log_path.read_text("utf-8", "replace") if self.log_path.exists() else ""

    @property
    def pid(self) -> int:
        """Of the running process."""
        assert self._process is not None
        return self._process.pid

    async def launch(self) -> None:
        """Start the process without waiting for it to be ready."""
        address = f"127.0.0.1:{self.port}"
        with self.log_path.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "shoal", "--data-dir", str(self.data_dir), "--listen", address),
                stdin=DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environ,
            )

    async def start(self) -> None:
        """Start and wait until it is ready."""
        await self.launch()
        ended = asyncio.create_task(self.ended())
        ready = asyncio.create_task(self._ready())
        done, waiting = await asyncio.wait(
            (ended, ready), timeout=READY_S, return_when=asyncio.FIRST_COMPLETED
        )
        for task in waiting:
            task.cancel()
        assert ready in done, f"shoald did not become ready:\n{self.log}"

    async def _ready(self) -> None:
        async with aiohttp.ClientSession() as session:
            while True:
                with suppress(aiohttp.ClientError):
                    async with session.get(f"{self.url}/readyz") as answer:
                        if answer.status == 200:
                            return
                await asyncio.sleep(0.02)  # another process: there is nothing here to wait on

    async def ended(self) -> int:
        """Wait for the end of the process; the result is its exit code."""
        assert self._process is not None
        return await self._process.wait()

    async def kill9(self) -> None:
        """SIGKILL, and wait until it is gone."""
        os.kill(self.pid, signal.SIGKILL)
        assert await self.ended() == -signal.SIGKILL

    async def stop(self) -> int:
        """SIGTERM, and wait; the result is the exit code."""
        assert self._process is not None
        self._process.terminate()
        return await asyncio.wait_for(self.ended(), STOP_S)

    async def close(self) -> None:
        """Leave no process behind, whatever the test came to."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()


async def all_events(session: aiohttp.ClientSession, url: str) -> list[dict[str, Any]]:
    """Every event of the store, by position, checked to be gapless."""
    events: list[dict[str, Any]] = []
    after = 0
    while True:
        async with session.get(f"{url}/v1/events", params={"after": after, "limit": 5_000}) as answer:
            assert answer.status == 200, await answer.text()
            page = await answer.json()
        events += page["events"]
        if page["next"] >= page["head"]:
            break
        after = page["next"]
    assert [event["position"] for event in events] == list(range(1, page["head"] + 1)), "positions have gaps"
    return events


def by_stream(events: list[dict[str, Any]]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The events of each stream, in order of position."""
    streams: dict[str, list[dict[str, Any]]] = {}
    for event in events:
        streams.setdefault(event["stream_id"], []).append(event)
    yield from streams.items()
