"""A board enrols: `shoal ca serve` on one side, `shoal ca enrol` and `shoald` on the other, as processes."""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from e2e.shoald import clean_environ

from shoal.cluster.identity import load_identity

PATIENCE_S = 60
SHOAL = Path(sys.executable).with_name("shoal")
SHOALD = Path(sys.executable).with_name("shoald")


async def shoal(place: Path, *arguments: str, stdin: str = "") -> tuple[int, str, str]:
    process = await start(place, SHOAL, *arguments)
    async with asyncio.timeout(PATIENCE_S):
        out, err = await process.communicate(stdin.encode())
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def start(place: Path, program: Path, *arguments: str) -> Process:
    return await asyncio.create_subprocess_exec(
        program, *arguments, cwd=place, env=clean_environ(), stdin=PIPE, stdout=PIPE, stderr=PIPE
    )


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[str]:
    """The address of a `shoal ca serve`; at the end it is told to stop, and does."""
    assert (await shoal(tmp_path, "ca", "init", "--cluster-id", "reef"))[0] == 0
    process = await start(tmp_path, SHOAL, "ca", "serve", "--listen", "127.0.0.1:0", "--json")
    assert process.stdout is not None
    try:
        async with asyncio.timeout(PATIENCE_S):
            line = await process.stdout.readline()
        yield json.loads(line)["listen"]
    finally:
        process.terminate()
        async with asyncio.timeout(PATIENCE_S):
            _, err = await process.communicate()
    assert process.returncode == 0
    assert "was enrolled as board-2" in err.decode()


async def test_a_board_enrols_with_its_token_once(desk: str, tmp_path: Path) -> None:
    _, token, _ = await shoal(tmp_path, "ca", "token", "board-2")
    asked = ("ca", "enrol", "board-2", "--from", desk, "--token-file", "-", "--to")
    code, out, err = await shoal(tmp_path, *asked, "two", stdin=token)
    assert (code, err) == (0, out and err)
    assert "node board-2 of cluster reef" in out
    assert (await asyncio.to_thread(load_identity, tmp_path / "two")).node_id == "board-2"
    code, _, err = await shoal(tmp_path, *asked, "three", stdin=token)
    assert code == 6
    assert "make a new one" in err


async def test_shoald_enrols_at_its_first_start_and_erases_the_token(desk: str, tmp_path: Path) -> None:
    _, token, _ = await shoal(tmp_path, "ca", "token", "board-2")
    (tmp_path / "token").write_text(token)
    board = await start(
        tmp_path,
        SHOALD,
        *("--mode", "cluster", "--discovery", "none", "--bootstrap-expect", "0", "--node-id", "board-2"),
        *("--tls-dir", "tls", "--join-token-file", "token", "--seed", desk),
        *("--listen", "127.0.0.1:0", "--peer-listen", "127.0.0.1:0"),
    )
    assert board.stdout is not None
    try:
        async with asyncio.timeout(PATIENCE_S):
            assert "ready" in (await board.stdout.readline()).decode()
    finally:
        board.terminate()
        async with asyncio.timeout(PATIENCE_S):
            await board.communicate()
    assert board.returncode == 0
    assert not (tmp_path / "token").exists()
    assert (await asyncio.to_thread(load_identity, tmp_path / "tls")).node_id == "board-2"


async def test_shoald_that_waits_to_be_enrolled_leaves_when_told(desk: str, tmp_path: Path) -> None:
    _, token, _ = await shoal(tmp_path, "ca", "token", "board-2")
    await shoal(
        tmp_path, "ca", "enrol", "board-2", "--from", desk, "--token-file", "-", "--to", "x", stdin=token
    )
    (tmp_path / "token").write_text(token)
    board = await start(
        tmp_path,
        SHOALD,
        *("--mode", "cluster", "--discovery", "none", "--tls-dir", "tls", "--join-token-file", "token"),
        *("--seed", "127.0.0.1:1"),
    )
    assert board.stderr is not None
    async with asyncio.timeout(PATIENCE_S):
        assert "nobody enrolled this board" in (await board.stderr.readline()).decode()
        board.terminate()
        await board.communicate()
    assert board.returncode == 0
    assert (tmp_path / "token").exists()
