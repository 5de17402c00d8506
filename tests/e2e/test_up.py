"""`shoal up`: what `make run` does, with the real `shoald` and this machine's real readings."""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest
from e2e.shoald import Shoald, clean_environ, free_port

from shoal.tokens import TokenFile

PATIENCE_S = 40


@asynccontextmanager
async def up(data_dir: Path, *options: str, listen: str | None = None) -> AsyncIterator[Process]:
    """`shoal up` in a session of its own; nothing of it outlives the block."""
    address = listen or f"127.0.0.1:{free_port()}"
    process = await asyncio.create_subprocess_exec(
        *(
            sys.executable,
            "-m",
            "shoal_host.cli",
            "up",
            "--data-dir",
            str(data_dir),
            "--listen",
            address,
            *options,
        ),
        stdout=PIPE,
        stderr=PIPE,
        env=clean_environ(),
        start_new_session=True,
    )
    try:
        yield process
    finally:
        children = family(process) if process.returncode is None else []
        for one in children:
            one.kill()
        await process.wait()


def family(process: Process) -> list[psutil.Process]:
    """The process and what it started."""
    me = psutil.Process(process.pid)
    return [me, *me.children(recursive=True)]


async def line_of(process: Process, *, having: str = "") -> str:
    """The next line on stdout that has this in it."""
    assert process.stdout is not None
    assert process.stderr is not None
    seen = []
    with suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE_S):
            while line := (await process.stdout.readline()).decode():
                if having in line:
                    return line.rstrip()
                seen.append(line)
    if process.returncode is None:
        process.kill()
    raise AssertionError(f"no line with {having!r}: {seen}, {(await process.stderr.read()).decode()}")


def number(reading: str) -> int:
    """The version of a reading's event."""
    return int(reading.split("#")[1].split(maxsplit=1)[0])


async def gone(processes: list[psutil.Process]) -> None:
    """Wait until all have ended, by the handles the kernel gives."""
    for one in processes:
        try:
            handle = os.pidfd_open(one.pid)
        except ProcessLookupError:
            continue
        try:
            ready, _, _ = await asyncio.to_thread(select.select, [handle], [], [], PATIENCE_S)
            assert ready, f"{one} is still there"
        finally:
            os.close(handle)


async def test_real_readings_arrive_and_ctrl_c_leaves_nothing_behind(tmp_path: Path) -> None:
    async with up(tmp_path / "data", "--agent", "--interval", "0.2") as process:
        answers = await line_of(process, having="answers at http://127.0.0.1:")
        assert str(tmp_path / "data") in await line_of(process)
        hint = await line_of(process, having=" tail board-")
        url = answers.split()[-1]
        assert url in hint
        readings = [await line_of(process, having="cpu") for _ in range(3)]
        assert all("memory" in reading and "processes" in reading for reading in readings)
        stream_id = hint.split(" tail ")[1].split()[0]
        async with aiohttp.ClientSession() as session, session.get(f"{url}/v1/streams/{stream_id}") as answer:
            events = (await answer.json())["events"]
        assert [event["event_type"] for event in events][:2] == ["board_agent_started", "board_measured"]
        assert events[1]["data"]["memory_total_bytes"] == psutil.virtual_memory().total
        everybody = family(process)
        assert len(everybody) == 3
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        assert await asyncio.wait_for(process.wait(), PATIENCE_S) == 0
        assert process.stderr is not None
        assert await process.stderr.read() == b""
        await gone(everybody)


async def test_json_names_the_nodes_and_the_same_command_brings_the_data_back(tmp_path: Path) -> None:
    ids = set()
    for round_ in range(2):
        async with up(tmp_path / "data", "--json") as process:
            (node,) = json.loads(await line_of(process))["nodes"]
            assert set(node) == {"id", "url", "pid", "data_dir"}
            assert psutil.Process(node["pid"]).is_running()
            assert node["data_dir"] == str(tmp_path / "data")
            ids.add(node["id"])
            async with aiohttp.ClientSession() as session:
                async with session.get(f"{node['url']}/v1/info") as answer:
                    assert (await answer.json())["node"]["node_id"] == node["id"]
                body: list[dict[str, Any]] = [{"event_type": "t", "data": round_}]
                async with session.post(f"{node['url']}/v1/streams/s", json=body) as answer:
                    assert (await answer.json())["version"] == round_
            process.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(process.wait(), PATIENCE_S) == 0
    assert len(ids) == 1


async def test_a_board_with_tokens_shows_its_readings_too(tmp_path: Path) -> None:
    """A token for the run is made, and gone afterwards; tokens of others stay."""
    file = TokenFile(tmp_path / "data")
    await asyncio.to_thread(file.add, "admin", name="mine")
    async with up(tmp_path / "data", "--agent", "--interval", "0.2") as process:
        await line_of(process, having="cpu")
        mine, own = await asyncio.to_thread(file.tokens)
        assert (mine.name, own.name, own.role, own.streams) == ("mine", "shoal up", "append", ("board-*",))
        process.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(process.wait(), PATIENCE_S) == 0
    assert [token.name for token in await asyncio.to_thread(file.tokens)] == ["mine"]


async def test_the_first_token_of_a_running_board_does_not_end_its_agent(tmp_path: Path) -> None:
    """Agent and display begin again with a token made for them."""
    file = TokenFile(tmp_path / "data")
    async with up(tmp_path / "data", "--agent", "--interval", "0.2") as process:
        assert process.stderr is not None
        await line_of(process, having="cpu")
        await asyncio.to_thread(file.add, "admin", name="mine")
        said = await asyncio.wait_for(process.stderr.readline(), PATIENCE_S)
        assert said == b"shoal: the board asks for tokens now; the agent goes on with one of its own\n"
        begun = number(await line_of(process, having="cpu"))
        while number(await line_of(process, having="cpu")) < begun + 10:
            pass  # more than was on its way when the first agent ended
        assert {token.name for token in await asyncio.to_thread(file.tokens)} == {"mine", "shoal up"}
        process.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(process.wait(), PATIENCE_S) == 0
        assert await process.stderr.read() == b""
    assert [token.name for token in await asyncio.to_thread(file.tokens)] == ["mine"]


async def test_an_up_that_finds_the_directory_in_use_leaves_its_tokens_alone(tmp_path: Path) -> None:
    file = TokenFile(tmp_path / "data")
    await asyncio.to_thread(file.add, "admin", name="mine")
    async with up(tmp_path / "data", "--agent", "--interval", "0.2") as first:
        await line_of(first, having="cpu")
        before = await asyncio.to_thread(file.tokens)
        async with up(tmp_path / "data", "--agent") as second:
            assert await asyncio.wait_for(second.wait(), PATIENCE_S) == 2
        assert await asyncio.to_thread(file.tokens) == before
        first.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(first.wait(), PATIENCE_S) == 0


@pytest.mark.parametrize(("missing", "as_json"), [(False, True), (False, False), (True, False)])
async def test_a_damaged_directory_ends_with_7(tmp_path: Path, *, missing: bool, as_json: bool) -> None:
    board = Shoald(tmp_path / "data")
    await board.start()
    events = [{"event_type": "t", "data": f"reading {number}"} for number in range(9)]
    async with aiohttp.ClientSession() as session:
        for event in events:  # a damaged record is only known from a torn one by those behind it
            async with session.post(f"{board.url}/v1/streams/s", json=[event]) as answer:
                assert answer.status == 201
    await board.kill9()
    (segment,) = (board.data_dir / "journal").glob("*.seg")
    if missing:
        segment.unlink()
    else:
        segment.write_bytes(segment.read_bytes().replace(b"reading 3", b"reading x"))
    async with up(board.data_dir, *(["--json"] if as_json else [])) as process:
        assert await asyncio.wait_for(process.wait(), PATIENCE_S) == 7
        assert process.stdout is not None
        assert process.stderr is not None
        said = (await process.stderr.read()).decode()
        assert await process.stdout.read() == b""
        detail = json.loads(said)["error"]["detail"] if as_json else said
        assert ("the journal is missing" if missing else "was durable and is damaged") in detail


async def test_a_board_that_dies_is_reported(tmp_path: Path) -> None:
    async with up(tmp_path / "data", "--agent", "--json") as process:
        (node,) = json.loads(await line_of(process))["nodes"]
        everybody = family(process)
        os.kill(node["pid"], signal.SIGKILL)
        assert await asyncio.wait_for(process.wait(), PATIENCE_S) == 1
        assert process.stderr is not None
        said = (await process.stderr.read()).decode()
        assert "shoald was ended by signal 9" in said
        assert "Traceback" not in said
        await gone(everybody)


async def test_nothing_outlives_an_up_that_was_killed(tmp_path: Path) -> None:
    async with up(tmp_path / "data", "--agent", "--json") as process:
        await line_of(process)
        everybody = family(process)
        process.kill()
        await process.wait()
        await gone(everybody)


async def test_the_agent_goes_on_when_the_store_was_away(tmp_path: Path) -> None:
    """Readings made meanwhile arrive late, in order, none twice."""
    board = Shoald(tmp_path / "data")
    await board.start()
    agent = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "shoal_device.agent", "--url", board.url, "--node", "x", "--interval", "0.1"),
        stderr=PIPE,
        env=clean_environ(),
    )
    try:
        before = await measurements(board, 5)
        for _ in range(2):
            await board.kill9()
            await board.start()
            before = await measurements(board, len(before) + 10)
        agent.terminate()
        assert await asyncio.wait_for(agent.wait(), PATIENCE_S) == 0
        times = [event["data"]["measured_epoch_us"] for event in await measurements(board, len(before))]
        assert times == sorted(set(times))
        longest = max(later - earlier for earlier, later in pairwise(times))
        assert longest < 1_000_000, "a gap: readings made while the store was away are missing"
    finally:
        if agent.returncode is None:
            agent.kill()
            await agent.wait()
        await board.close()


async def measurements(board: Shoald, at_least: int) -> list[dict[str, Any]]:
    """The readings in the stream, once there are `at_least` so many."""
    async with asyncio.timeout(PATIENCE_S), aiohttp.ClientSession() as session:
        while True:
            async with session.get(f"{board.url}/v1/streams/board-x", params={"limit": "10000"}) as answer:
                events = (await answer.json()).get("events", [])
            found = [event for event in events if event["event_type"] == "board_measured"]
            if len(found) >= at_least:
                return found
            await asyncio.sleep(0.05)  # another process: there is nothing here to wait on


@pytest.mark.parametrize("taken", [True, False])
async def test_a_board_that_cannot_start_says_why_with_exit_code_2(tmp_path: Path, *, taken: bool) -> None:
    """The port is taken; the directory is in use."""
    board = Shoald(tmp_path / "data")
    await board.start()
    try:
        directory = tmp_path / "other" if taken else board.data_dir
        listen = f"127.0.0.1:{board.port}" if taken else None
        async with up(directory, listen=listen) as process:
            assert await asyncio.wait_for(process.wait(), PATIENCE_S) == 2
            assert process.stderr is not None
            said = (await process.stderr.read()).decode()
            assert ("choose another with --listen" in said) if taken else ("in use" in said)
            assert "Traceback" not in said
    finally:
        await board.close()
