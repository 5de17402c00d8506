"""Boards over HTTP for the tests of this folder: one a file, and a fresh store of it for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from http_board import Board, running_board


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_board(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Board]:
    """One board for all tests of a file; they run on the file's loop (`loop_scope="module"`)."""
    async with running_board(tmp_path_factory.mktemp("board")) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def board(shared_board: Board) -> Board:
    """The shared board, through an empty store."""
    return await shared_board.fresh()
