"""Both sides of a copy: whatever goes wrong, it goes on by itself or the node says so and ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random
from types import SimpleNamespace
from typing import Any

import apsw
import pytest

from shoal import catch_up
from shoal.catch_up import AskCopy, CatchUp, CopyEnded
from shoal.errors import DiskFull
from shoal.testing.inline_worker import InlineWorker


class Receiver:
    """A node that lags, as far as copying knows it."""

    def __init__(self, make_importer: Callable[[], Any]) -> None:
        self.failures: list[BaseException] = []
        self.tries = 0
        self._make = make_importer
        node: Any = SimpleNamespace(
            make_importer=self._try,
            means=SimpleNamespace(workers=lambda *_: InlineWorker(asyncio.get_running_loop())),
            random=Random(1),
            install=None,
            fail=self.failures.append,
        )
        self.copies = CatchUp(node, lambda *_: True, lambda: None)

    def _try(self) -> Any:
        self.tries += 1
        return self._make()


async def turns() -> None:
    for _ in range(8):
        await asyncio.sleep(0)


def raising(error: Exception) -> Callable[[], Any]:
    def make() -> Any:
        raise error

    return make


@pytest.mark.parametrize("error", [apsw.SQLError("no such table"), ZeroDivisionError("a defect")])
async def test_what_nobody_foresaw_ends_the_node_instead_of_the_copying(error: Exception) -> None:
    receiver = Receiver(raising(error))
    receiver.copies.fetch("leader")
    await turns()
    assert receiver.failures == [error]


async def test_after_a_full_disk_it_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catch_up, "AGAIN_S", 0)
    receiver = Receiver(raising(DiskFull("full")))
    for count in (1, 2):
        receiver.copies.fetch("leader")
        await turns()
        assert (receiver.tries, receiver.failures) == (count, [])


async def test_a_sender_whose_database_fails_says_so(caplog: pytest.LogCaptureFixture) -> None:
    def breaks() -> None:
        raise apsw.IOError("disk I/O error")

    sent: list[Any] = []
    node: Any = SimpleNamespace(
        make_exporter=lambda: SimpleNamespace(close=lambda: None),
        journal_only=SimpleNamespace(require_stores=breaks),
        means=SimpleNamespace(workers=lambda *_: InlineWorker(asyncio.get_running_loop())),
    )
    copies = CatchUp(node, lambda node_id, word: sent.append((node_id, word)) or True, lambda: None)
    copies.hear("n2", AskCopy(7, b""))
    await turns()
    assert sent == [("n2", CopyEnded(7, "the sender failed: disk I/O error"))]
    assert "copying to n2 failed" in caplog.text
