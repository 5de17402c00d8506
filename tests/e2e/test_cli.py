"""`shoal` as a process against a real board: pipes, Ctrl-C, tokens, files on disk."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from e2e.shoald import Shoald, clean_environ, free_port

SHOAL = (sys.executable, "-m", "shoal_host.cli")
PATIENCE_S = 30


class Ended(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str


async def shoal(*arguments: str, stdin: bytes = b"", **environ: str) -> Ended:
    """Run a command to its end."""
    process = await asyncio.create_subprocess_exec(
        *SHOAL, *arguments, stdin=PIPE, stdout=PIPE, stderr=PIPE, env=clean_environ() | environ
    )
    out, err = await asyncio.wait_for(process.communicate(stdin), PATIENCE_S)
    assert process.returncode is not None
    assert b"Traceback" not in err, err.decode()
    return Ended(process.returncode, out.decode(), err.decode())


@pytest.fixture
async def board(tmp_path: Path) -> AsyncIterator[Shoald]:
    board = Shoald(tmp_path / "data")
    await board.start()
    yield board
    await board.close()


def the_json(ended: Ended) -> Any:
    assert ended.code == 0, ended.err
    return json.loads(ended.out)


async def test_events_go_in_and_come_out(board: Shoald) -> None:
    lines = b"".join(b'{"n": %d}\n' % n for n in range(2_500))
    appended = the_json(
        await shoal("append", "s", "counted", "-", "--json", stdin=lines, SHOAL_URL=board.url)
    )
    assert (appended["events"], appended["version"]) == (2_500, 2_499)
    page = the_json(await shoal("read", "s", "--count", "5000", "--json", "--url", board.url))
    assert [event["data"]["n"] for event in page["events"]] == list(range(2_500))
    listed = the_json(await shoal("streams", "--json", "--url", board.url))
    assert listed["streams"] == [{"stream_id": "s", "version": 2_499}]
    found = the_json(
        await shoal("query", "--type", "counted", "--backward", "--count", "1", "--json", "--url", board.url)
    )
    assert found["events"][0]["data"] == {"n": 2_499}
    state = the_json(await shoal("aggregate", "s", "--json", "--url", board.url))
    assert state == {"version": 2_499, "state": {"n": 2_499}}


async def test_exit_codes_of_a_real_board(board: Shoald) -> None:
    first = ("append", "s", "t", "1", "--expected-version", "none", "--url", board.url)
    assert (await shoal(*first)).code == 0
    assert (await shoal(*first)).code == 3
    assert (await shoal("read", "missing", "--url", board.url)).code == 4
    assert (await shoal("read", "s", "--store", "other", "--url", board.url)).code == 4
    assert (await shoal("append", "", "t", "1", "--url", board.url)).code == 2
    nobody = await shoal("streams", "--url", f"http://127.0.0.1:{free_port()}")
    assert nobody.code == 5
    assert "shoal up" in nobody.err
    assert nobody.err.count("\n") == 1
    assert (await shoal("streams", "--url", "nonsense")).code == 2


async def test_a_reader_that_has_seen_enough_is_no_error(board: Shoald) -> None:
    lines = b"".join(b'"%s"\n' % (b"x" * 200) for _ in range(5_000))
    await shoal("append", "s", "t", "-", "--url", board.url, stdin=lines)
    command = " ".join((*SHOAL, "read", "s", "--count", "5000", "--url", board.url, "| head -n 1"))
    process = await asyncio.create_subprocess_exec(
        "bash", "-o", "pipefail", "-c", command, stdout=PIPE, stderr=PIPE, env=clean_environ()
    )
    out, err = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    assert (process.returncode, out.count(b"\n"), err) == (0, 1, b"")


async def test_a_pipe_that_is_closed_at_once_is_no_error_either() -> None:
    """The benchmark has options of its own, and ends as every other command does."""
    reading, writing = os.pipe()
    os.close(reading)
    process = await asyncio.create_subprocess_exec(
        *SHOAL, "bench", "--list", stdout=writing, stderr=PIPE, env=clean_environ()
    )
    os.close(writing)
    _, err = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    assert (process.returncode, err) == (0, b"")


async def test_a_stream_deleted_for_ever_is_called_so_by_every_command(board: Shoald) -> None:
    await shoal("append", "s", "t", "1", "--url", board.url)
    await shoal("delete", "s", "--hard", "--yes", "--url", board.url)
    for command in ("read", "aggregate", "tail"):
        ended = await shoal(command, "s", "--url", board.url)
        assert (ended.code, "deleted for ever" in ended.err) == (4, True), ended
    assert the_json(await shoal("delete", "s", "--json", "--url", board.url))["deleted"] == "hard"


async def test_ctrl_c_ends_a_tail_quietly_with_130(board: Shoald) -> None:
    await shoal("append", "s", "t", "1", "--url", board.url)
    process = await asyncio.create_subprocess_exec(
        *SHOAL, "tail", "s", "--json", "--url", board.url, stdout=PIPE, stderr=PIPE, env=clean_environ()
    )
    assert process.stdout is not None
    assert process.stderr is not None
    first = json.loads(await asyncio.wait_for(process.stdout.readline(), PATIENCE_S))
    await shoal("append", "s", "t", "2", "--url", board.url)
    second = json.loads(await asyncio.wait_for(process.stdout.readline(), PATIENCE_S))
    assert (first["data"], second["data"]) == (1, 2)
    process.send_signal(signal.SIGINT)
    assert await asyncio.wait_for(process.wait(), PATIENCE_S) == 130
    assert await process.stderr.read() == b""


async def test_ctrl_c_ends_an_append_that_waits_for_input(board: Shoald) -> None:
    process = await asyncio.create_subprocess_exec(
        *SHOAL,
        "append",
        "s",
        "t",
        "-",
        "--url",
        board.url,
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
        env=clean_environ(),
    )
    assert process.stdin is not None
    process.stdin.write(b"1\n")
    await process.stdin.drain()
    seen = await shoal("tail", "s", "--count", "1", "--json", "--url", board.url)
    assert json.loads(seen.out)["data"] == 1  # what came is stored while the rest is waited for
    process.send_signal(signal.SIGINT)
    assert await asyncio.wait_for(process.wait(), PATIENCE_S) == 130
    assert process.stderr is not None
    said = await process.stderr.read()
    assert said == b"shoal: ended by Ctrl-C; 1 event was appended before this\n"
    process.stdin.close()


async def test_a_tail_goes_on_when_the_board_comes_back(board: Shoald) -> None:
    await shoal("append", "s", "t", "1", "--url", board.url)
    process = await asyncio.create_subprocess_exec(
        *SHOAL,
        "tail",
        "--count",
        "2",
        "--json",
        "--url",
        board.url,
        stdout=PIPE,
        stderr=PIPE,
        env=clean_environ(),
    )
    assert process.stdout is not None
    await asyncio.wait_for(process.stdout.readline(), PATIENCE_S)
    await board.kill9()
    await board.start()
    await shoal("append", "s", "t", "2", "--url", board.url)
    line = json.loads(await asyncio.wait_for(process.stdout.readline(), PATIENCE_S))
    assert (line["version"], line["data"]) == (1, 2)
    assert await asyncio.wait_for(process.wait(), PATIENCE_S) == 0


async def test_a_tail_says_that_it_lost_the_board_and_found_it_again(board: Shoald) -> None:
    await shoal("append", "s", "t", "1", "--url", board.url)
    process = await asyncio.create_subprocess_exec(
        *(*SHOAL, "tail", "--after", "0", "--count", "2", "--url", board.url),
        stdout=PIPE,
        stderr=PIPE,
        env=clean_environ(),
    )
    assert process.stdout is not None
    assert process.stderr is not None
    await asyncio.wait_for(process.stdout.readline(), PATIENCE_S)
    await board.kill9()
    lost = await asyncio.wait_for(process.stderr.readline(), PATIENCE_S)
    assert lost.startswith(b"shoal: the board is lost, waiting for it: ")
    await board.start()
    found = await asyncio.wait_for(process.stderr.readline(), PATIENCE_S)
    assert found == b"shoal: the board is there again, nothing was missed\n"
    await shoal("append", "s", "t", "2", "--url", board.url)
    out, err = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    assert (process.returncode, out.count(b"\n"), err) == (0, 1, b"")


async def test_tokens_open_the_door_without_a_restart(board: Shoald) -> None:
    where = ("--data-dir", str(board.data_dir))
    token = (await shoal("tokens", "create", "--role", "append", "--stream", "mine-*", *where)).out.strip()
    assert (await shoal("streams", "--url", board.url)).code == 6
    assert (await shoal("append", "mine-1", "t", "1", "--url", board.url, SHOAL_TOKEN=token)).code == 0
    assert (await shoal("append", "other", "t", "1", "--url", board.url, SHOAL_TOKEN=token)).code == 6
    made = the_json(await shoal("tokens", "list", "--json", *where))["tokens"][0]["id"]
    assert (await shoal("tokens", "revoke", made, *where)).code == 0


async def test_verify_finds_a_changed_byte_and_says_where(board: Shoald) -> None:
    lines = b"".join(b'"reading %d"\n' % n for n in range(100))
    await shoal("append", "diary", "written", "-", "--url", board.url, stdin=lines)
    where = ("--data-dir", str(board.data_dir), "--json")
    assert (await shoal("verify", *where)).code == 5  # in use
    assert await board.stop() == 0
    sound = the_json(await shoal("verify", *where))
    assert (sound["ok"], sound["streams"], sound["events"], sound["problems"]) == (True, 1, 100, [])
    (path,) = (board.data_dir / "db/g1").glob("main-*.db")
    content = path.read_bytes()
    path.write_bytes(content.replace(b"reading 77", b"reading 7x"))
    damaged = await shoal("verify", *where)
    assert damaged.code == 7
    (problem,) = json.loads(damaged.out)["problems"]
    assert "'diary', version 77" in problem["where"]
    assert (await shoal("verify", "--data-dir", str(board.data_dir / "none"))).code == 4


async def test_verify_after_a_kill_counts_what_only_the_journal_has(board: Shoald) -> None:
    await shoal("append", "diary", "written", "-", "--url", board.url, stdin=b"1\n2\n")
    await board.kill9()
    where = ("--data-dir", str(board.data_dir))
    verified = await shoal("verify", *where)
    assert verified.code == 0
    assert "not in the database yet; the next start puts them there" in verified.out
    path = max((board.data_dir / "journal").glob("*.seg"))
    data = path.read_bytes()
    path.write_bytes(data[:4200] + bytes([data[4200] ^ 1]) + data[4201:])
    damaged = await shoal("verify", *where)
    assert damaged.code == 7
    assert "set it aside (mv" in damaged.out


async def test_the_database_can_be_looked_into_but_not_changed(board: Shoald) -> None:
    lines = b'{"n": 1}\n{"n": 2}\n'
    await shoal("append", "s", "counted", "-", "--url", board.url, stdin=lines)
    where = ("--data-dir", str(board.data_dir))
    while_running = await shoal("db", "tables", *where)
    assert "shoald is running" in while_running.err
    assert await board.stop() == 0
    tables = {
        row["table"]: row["rows"] for row in the_json(await shoal("db", "tables", "--json", *where))["tables"]
    }
    assert (tables["event"], tables["stream"]) == (2, 1)
    assert "CREATE TABLE" in (await shoal("db", "schema", *where)).out
    rows = the_json(await shoal("db", "rows", "events", "--json", *where))["rows"]
    assert [(row["stream"], row["version"], row["type"], row["data"]) for row in rows] == [
        ("s", 0, "counted", '{"n":1}'),
        ("s", 1, "counted", '{"n":2}'),
    ]
    count = await shoal("db", "query", "SELECT count(*) AS events FROM events", *where)
    assert count.out.splitlines() == ["events", "2"]
    for statement in ("DELETE FROM event", "DROP TABLE event", "CREATE TABLE mine (a)", "nonsense"):
        assert (await shoal("db", "query", statement, *where)).code == 2
    assert (await shoal("db", "rows", "nothing", *where)).code == 4
    assert (await shoal("db", "tables", "--store", "other", *where)).code == 4
    assert (await shoal("db", "tables", "--data-dir", os.devnull + "x")).code == 4
    await board.start()
    assert the_json(await shoal("read", "s", "--json", "--url", board.url))["version"] == 1
