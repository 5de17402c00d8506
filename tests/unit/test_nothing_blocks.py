"""That the guard of `tests/conftest.py` is awake: without it a blocking call on the loop would go unseen."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from blockbuster import BlockingError

from shoal.storage.files import RealFiles


def write_and_sync(path: Path) -> bytes:
    files = RealFiles()
    fd = files.create(path)
    try:
        files.write(fd, b"reading", 0)
        files.sync_data(fd)
    finally:
        files.close(fd)
    return files.read(path)


async def test_our_code_may_not_touch_a_file_on_the_loop(tmp_path: Path) -> None:
    with pytest.raises(BlockingError):
        write_and_sync(tmp_path / "segment")


async def test_in_a_thread_it_may(tmp_path: Path) -> None:
    assert await asyncio.to_thread(write_and_sync, tmp_path / "segment") == b"reading"


async def test_a_test_itself_may(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("seen", encoding="utf-8")
    assert (tmp_path / "notes").read_text(encoding="utf-8") == "seen"
