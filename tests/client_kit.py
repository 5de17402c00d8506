"""Remote stores whose clock and pauses are by hand."""

from __future__ import annotations

from typing import Any

from scripted_board import Pauses, ScriptedBoard

from shoal.client import RemoteStore, connect
from shoal.testing.clock import FakeClock


class Clients:
    """Makes clients, and closes them."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.pauses = Pauses(self.clock)
        self.made: list[RemoteStore] = []

    def connect(self, *boards: ScriptedBoard | str, **options: Any) -> RemoteStore:
        urls = [board if isinstance(board, str) else board.url for board in boards]
        given = {"clock": self.clock, "sleep": self.pauses, "random": lambda: 1.0} | options
        self.made.append(connect(*urls, **given))
        return self.made[-1]

    async def close(self) -> None:
        for store in self.made:
            await store.close()
