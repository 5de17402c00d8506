"""Schemathesis reads `/openapi.json` and tries to catch the board doing what the document does not say."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from http_board import configured
from hypothesis import HealthCheck, settings
from schemathesis.checks import load_all_checks

from shoal.server import Shoald

load_all_checks()


class Background:
    """A board with a real node on a loop and thread of its own, since schemathesis is not asynchronous."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._ready: asyncio.Future[str]
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self._thread.start()
        assert self._started.wait(20)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        async with Shoald(configured(self._data_dir)) as shoald:
            self.url = shoald.urls[0]
            self._started.set()
            await self._stop.wait()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Background]:
    board = Background(tmp_path_factory.mktemp("board"))
    yield board
    board.close()


@pytest.fixture(scope="module")
def api(running: Background) -> Any:
    return schemathesis.openapi.from_url(f"{running.url}/openapi.json").include(path_regex=r"^/(?!v1/stores/\{store\}/)")


schema = schemathesis.pytest.from_fixture("api")


@schema.parametrize()
@settings(max_examples=25, suppress_health_check=list(HealthCheck), derandomize=True)
def test_the_board_does_what_its_document_says(case: Any) -> None:
    """Statuses, media types, headers and bodies as documented; what breaks the schema is refused; no server error."""
    case.call_and_validate(timeout=10)
