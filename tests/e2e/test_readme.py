"""README's commands, run as they stand.

A line `#> text` in a block promises that `text` is in what the block prints, in this order. Only the address and
the place of `.venv` differ from a reader's machine, so that tests can run beside a board of one's own.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest
from e2e.shoald import Shoald, clean_environ, free_port

ROOT = Path(__file__).parents[2]
DEFAULT_URL = "http://127.0.0.1:4589"
PATIENCE_S = 60


class Block(NamedTuple):
    """A fenced block: its first word after the fence, what follows that, and the text."""

    language: str
    title: str
    text: str

    @property
    def promises(self) -> list[str]:
        return [line.removeprefix("#> ") for line in self.text.splitlines() if line.startswith("#> ")]


BLOCKS = [
    Block(*found)
    for found in re.findall(
        r"^```(\w+) ?(\w*)\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL
    )
]
PYTHON = [block for block in BLOCKS if block.language == "python"]
SHELL = [block for block in BLOCKS if block.language == "sh" and not block.title]


def test_readme_has_the_quick_starts_it_names() -> None:
    assert (len(PYTHON), len(SHELL)) == (3, 3)
    assert [block.title for block in BLOCKS if block.title] == ["run", "test", "three", "listen"]
    assert all(block.promises for block in PYTHON + SHELL)


@pytest.fixture
async def board(tmp_path: Path) -> AsyncIterator[Shoald]:
    board = Shoald(tmp_path / "data")
    await board.start()
    yield board
    await board.close()


async def output_of(*command: str, cwd: Path) -> str:
    """What a command prints; it must succeed."""
    process = await asyncio.create_subprocess_exec(
        *command, cwd=cwd, stdout=PIPE, stderr=STDOUT, env=clean_environ()
    )
    out, _ = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    assert process.returncode == 0, out.decode()
    return out.decode()


def assert_kept(promises: list[str], printed: str) -> None:
    """Each promise is in what follows the one before."""
    rest = printed
    for promise in promises:
        assert promise in rest, f"{promise!r} is not in {rest!r}, all of it: {printed!r}"
        rest = rest.partition(promise)[2]


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: block.text.split("\n")[0])
async def test_python_prints_what_readme_says(block: Block, board: Shoald, tmp_path: Path) -> None:
    script = tmp_path / "quick_start.py"
    script.write_text(block.text.replace(DEFAULT_URL, board.url))
    assert_kept(block.promises, await output_of(sys.executable, str(script), cwd=tmp_path))


@pytest.mark.parametrize("block", SHELL, ids=lambda block: block.text.split()[0])
async def test_shell_prints_what_readme_says(block: Block, board: Shoald, tmp_path: Path) -> None:
    (tmp_path / ".venv").symlink_to(Path(sys.executable).parent.parent)
    text = block.text.replace(DEFAULT_URL, board.url)
    script = f"set -eu -o pipefail; export SHOAL_URL={board.url}\n{text}"
    assert_kept(block.promises, await output_of("bash", "-c", script, cwd=tmp_path))


async def test_make_run_shows_readings_until_ctrl_c(tmp_path: Path) -> None:
    options = f"ARGS=--listen 127.0.0.1:{free_port()} --data-dir {tmp_path / 'data'}"
    process = await asyncio.create_subprocess_exec(
        *("make", "--no-print-directory", "run", options),
        cwd=ROOT,
        stdout=PIPE,
        stderr=PIPE,
        env=clean_environ(),
        start_new_session=True,
    )
    assert process.stdout is not None
    seen = []
    try:
        async with asyncio.timeout(PATIENCE_S):
            while sum("cpu" in line for line in seen) < 3:
                line = (await process.stdout.readline()).decode()
                assert line, seen
                seen.append(line)
        started = psutil.Process(process.pid).children(recursive=True)
        assert len(started) >= 3
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        _, err = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    assert b"Traceback" not in err
    assert any("shoal tail board-" in line for line in seen)
    assert not [child for child in started if child.is_running()]
