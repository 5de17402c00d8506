"""`shoal up --nodes 3`: three real boards that lose nothing and go on, whichever of them is killed."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest
from e2e.shoald import clean_environ
from e2e.test_up import PATIENCE_S, family, gone, line_of, number, up

from shoal_host.local_cluster import free_ports

GOES_ON_S = 2.0


def free_block() -> str:
    """An address whose port and the two above are free, and so are those of the peers."""
    while True:
        (port,) = free_ports(1)
        taken = {connection.laddr.port for connection in psutil.net_connections("tcp") if connection.laddr}
        if port < 65_000 and not taken & {port, port + 1, port + 2, port + 100, port + 101, port + 102}:
            return f"127.0.0.1:{port}"


class Cluster:
    """Three boards of `shoal up --json`, as a client sees them."""

    def __init__(self, process: Process, nodes: list[dict[str, Any]], session: aiohttp.ClientSession) -> None:
        self.process = process
        self.nodes = nodes
        self.session = session
        self.acknowledged: list[str] = []

    async def append(self, node: dict[str, Any], event_id: str) -> bool:
        """One event at one board; whether it was acknowledged."""
        body = [{"event_type": "said", "data": {"text": event_id}, "event_id": event_id}]
        with suppress(aiohttp.ClientError, TimeoutError):
            async with self.session.post(f"{node['url']}/v1/streams/greetings", json=body) as answer:
                if answer.status == 201:
                    self.acknowledged.append(event_id)
                    return True
        return False

    async def kept(self, node: dict[str, Any]) -> list[str]:
        """The ids of all events, as one board has them now."""
        found: list[str] = []
        while True:
            query = f"from={len(found)}&limit=500&consistency=linearizable"
            async with self.session.get(f"{node['url']}/v1/streams/greetings?{query}") as answer:
                page = await answer.json()
            assert answer.status == 200, page
            found += [event["event_id"] for event in page["events"]]
            if len(found) > page["version"]:
                return found

    async def role(self, node: dict[str, Any]) -> str:
        async with self.session.get(f"{node['url']}/v1/info") as answer:
            role: str = (await answer.json())["node"]["role"]
            return role

    async def leader(self) -> dict[str, Any]:
        roles = [await self.role(node) for node in self.nodes]
        assert roles.count("leader") == 1
        return self.nodes[roles.index("leader")]


@asynccontextmanager
async def cluster(data_dir: Path, listen: str) -> AsyncIterator[Cluster]:
    async with up(data_dir, "--nodes", "3", "--json", listen=listen) as process:
        nodes = json.loads(await line_of(process))["nodes"]
        timeout = aiohttp.ClientTimeout(total=10)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            yield Cluster(process, nodes, session)


async def test_three_boards_are_one_store_and_the_same_command_brings_it_back(tmp_path: Path) -> None:
    listen = free_block()
    async with cluster(tmp_path / "data", listen) as boards:
        assert [node["id"] for node in boards.nodes] == ["n1", "n2", "n3"]
        assert boards.nodes[0]["url"] == f"http://{listen}"
        for node in boards.nodes:  # at once, on any: what is announced can be used
            assert await boards.append(node, f"from {node['id']}")
        for node in boards.nodes:
            assert await boards.kept(node) == ["from n1", "from n2", "from n3"]
        everybody = family(boards.process)
        assert len(everybody) == 4
        os.killpg(boards.process.pid, signal.SIGINT)  # as a terminal does
        assert await asyncio.wait_for(boards.process.wait(), PATIENCE_S) == 0
        await gone(everybody)
    async with cluster(tmp_path / "data", listen) as boards:
        for node in boards.nodes:
            assert await boards.kept(node) == ["from n1", "from n2", "from n3"]
        for node in boards.nodes:
            assert await boards.append(node, f"again {node['id']}")
        for process in family(boards.process)[1:]:
            process.kill()
        boards.process.kill()
        await boards.process.wait()
    async with cluster(tmp_path / "data", listen) as boards:
        for node in boards.nodes:
            assert (await boards.kept(node))[3:] == ["again n1", "again n2", "again n3"]


async def test_the_killed_leader_loses_nothing_and_stops_nothing(tmp_path: Path) -> None:
    async with cluster(tmp_path / "data", free_block()) as boards:
        leader = await boards.leader()
        others = [node for node in boards.nodes if node is not leader]
        done = asyncio.Event()
        acks: asyncio.Queue[float] = asyncio.Queue()

        async def write(node: dict[str, Any]) -> None:
            count = 0
            while not done.is_set():
                count += 1
                if await boards.append(node, f"{node['id']}-{count}"):
                    acks.put_nowait(time.monotonic())

        async def next_acks(count: int) -> list[float]:
            async with asyncio.timeout(PATIENCE_S):
                return [await acks.get() for _ in range(count)]

        writers = [asyncio.create_task(write(node)) for node in others]
        before_s = await next_acks(50)
        os.kill(leader["pid"], signal.SIGKILL)
        killed_s = time.monotonic()
        acks_s = before_s + await next_acks(200)
        done.set()
        await asyncio.gather(*writers)
        assert acks_s[-1] > killed_s
        assert max(later - earlier for earlier, later in pairwise(acks_s)) < GOES_ON_S
        kept = [await boards.kept(node) for node in others]
        assert kept[0] == kept[1]
        assert not set(boards.acknowledged) - set(kept[0])
        assert len(set(kept[0])) == len(kept[0])
        assert {await boards.role(node) for node in others} == {"leader", "follower"}
        boards.process.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(boards.process.wait(), PATIENCE_S) == 0


class Terminal:
    """`shoal up --nodes 3` at a terminal: what it shows, and keys."""

    def __init__(self, process: Process, keys: int) -> None:
        self.process = process
        self._keys = keys

    async def shows(self, *parts: str) -> str:
        """The next line that has one of these in it."""
        assert self.process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            while line := (await self.process.stdout.readline()).decode():
                if any(part in line for part in parts):
                    return line.rstrip()
        raise AssertionError(f"no line with {parts}")

    def types(self, keys: str) -> None:
        os.write(self._keys, keys.encode() + b"\n")


@asynccontextmanager
async def terminal(data_dir: Path, *options: str) -> AsyncIterator[Terminal]:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "shoal_host.cli", "up", "--nodes", "3", "--data-dir", str(data_dir)]
    process = await asyncio.create_subprocess_exec(
        *command,
        "--listen",
        free_block(),
        *options,
        stdin=theirs,
        stdout=PIPE,
        stderr=PIPE,
        env=clean_environ(),
        start_new_session=True,
    )
    os.close(theirs)
    try:
        yield Terminal(process, ours)
    finally:
        for one in family(process) if process.returncode is None else []:
            one.kill()
        await process.wait()
        os.close(ours)


async def test_a_person_kills_boards_and_starts_them_and_the_readings_go_on(tmp_path: Path) -> None:
    async with terminal(tmp_path / "data", "--agent", "--interval", "0.2") as screen:
        assert screen.process.stderr is not None
        assert b"starting 3 boards" in await asyncio.wait_for(screen.process.stderr.readline(), PATIENCE_S)
        leads = await screen.shows(" leads; ")
        leader = leads.split()[0]
        assert "k2 and Enter kill board 2" in await screen.shows("k2")
        seen = number(await screen.shows("cpu"))
        screen.types(f"k{leader[1:]}")
        await screen.shows(f"{leader} was killed and stays down")
        following = (await screen.shows("leads now")).split()[0]
        assert following != leader
        assert number(await screen.shows("cpu")) > seen
        screen.types(f"s{leader[1:]}")
        await screen.shows(f"{leader} is back")
        seen = number(await screen.shows("cpu"))
        screen.types("k1")  # the one the agent prefers
        await screen.shows("n1 was killed and stays down")
        for _ in range(5):
            assert (seen := seen + 1) <= number(await screen.shows("cpu"))
        everybody = family(screen.process)
        screen.process.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(screen.process.wait(), PATIENCE_S) == 0
        await gone(everybody)


async def test_ctrl_c_while_they_start_leaves_nothing_behind(tmp_path: Path) -> None:
    async with up(tmp_path / "data", "--nodes", "3", listen=free_block()) as process:
        assert process.stderr is not None
        await asyncio.wait_for(process.stderr.readline(), PATIENCE_S)
        async with asyncio.timeout(PATIENCE_S):
            while len(everybody := family(process)) < 4:  # noqa: ASYNC110 - a child's start is told to nobody
                await asyncio.sleep(0)
        process.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(process.wait(), PATIENCE_S) == 0
        await gone(everybody)


@pytest.mark.parametrize(
    ("first", "then", "said"),
    [
        ([], ["--nodes", "3"], b"holds a board of its own"),
        (["--nodes", "3"], [], b"holds a cluster of 3 boards, write --nodes 3"),
        (["--nodes", "3"], ["--nodes", "5"], b"holds a cluster of 3 boards, write --nodes 3"),
    ],
)
async def test_a_directory_of_other_boards_is_refused(
    tmp_path: Path, first: list[str], then: list[str], said: bytes
) -> None:
    listen = free_block()
    async with up(tmp_path / "data", *first, "--json", listen=listen) as process:
        await line_of(process)
        process.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(process.wait(), PATIENCE_S) == 0
    async with up(tmp_path / "data", *then, listen=listen) as process:
        _, errors = await asyncio.wait_for(process.communicate(), PATIENCE_S)
        assert said in errors
        assert process.returncode == 2


async def test_taken_ports_are_named(tmp_path: Path) -> None:
    listen = free_block()
    port = int(listen.rpartition(":")[2])
    server = await asyncio.start_server(lambda _reader, _writer: None, "127.0.0.1", port + 101)
    async with server, up(tmp_path / "data", "--nodes", "3", listen=listen) as process:
        _, errors = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    assert f"port {port + 101} is taken".encode() in errors
    assert f"from 127.0.0.1:{port + 100} to 127.0.0.1:{port + 102}".encode() in errors
    assert process.returncode == 2
