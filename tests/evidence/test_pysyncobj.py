"""Why consensus is written here: pysyncobj loses acknowledged commands. `core/shoal/raft/DESIGN.md` draws on this.

Three real processes on loopback, pysyncobj unmodified, options from its documentation, `kill -9`, no disk fails. A
version that passes one of these scenarios fails the test: then the document has to be written anew.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("pysyncobj") is None, reason="pysyncobj is not installed (extra dev)"
)

ROOT = Path(__file__).parents[2]
NODE = Path(__file__).with_name("pysyncobj_node.py")
DESIGN = ROOT / "core/shoal/raft/DESIGN.md"
COMPACT_AT = 500
BARRIER = 1_000_000
_WAIT_S = 30


class Node:
    """One process of the cluster, and the directory that outlives it."""

    def __init__(self, directory: Path, addresses: list[str], own: str, *, dumps: bool) -> None:
        self.directory = directory
        self._arguments = [str(directory), "dumps" if dumps else "none", own]
        self._arguments += [address for address in addresses if address != own]
        directory.mkdir()
        os.mkfifo(directory / "go-on")
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(NODE), *self._arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    def ask(self, *command: object) -> dict | list:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        return json.loads(self._process.stdout.readline())

    def kill(self) -> None:
        """SIGKILL for this process, not for what it forked: so does the OOM killer."""
        self._process.kill()
        with self._process:
            pass

    def applied(self) -> set[int]:
        """All that the cluster had committed when this was called, as this node has it."""
        until(lambda: self.ask("add", BARRIER, 1) == [BARRIER])
        return {number for number in self.ask("state")["numbers"] if number < BARRIER}

    def finish_dump(self) -> None:
        """Let the forked process write its dump, and wait until it is gone."""
        pid = int((self.directory / "dumping").read_text())
        (self.directory / "go-on").write_bytes(b"")
        until(lambda: not is_ours(pid))
        assert (self.directory / "dump").exists()

    def end(self) -> None:
        self.kill()
        dumping = self.directory / "dumping"
        if dumping.exists() and is_ours(pid := int(dumping.read_text())):
            os.kill(pid, signal.SIGKILL)


def is_ours(pid: int) -> bool:
    """Whether a node has this id: a process that ended has no command line, whoever reaps it."""
    try:
        return str(NODE).encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    except FileNotFoundError:
        return False


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _WAIT_S
    while not holds():
        assert time.monotonic() < deadline, "waited in vain"
        os.sched_yield()


def free_addresses(count: int) -> list[str]:
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    addresses = [f"127.0.0.1:{probe.getsockname()[1]}" for probe in probes]
    for probe in probes:
        probe.close()
    return addresses


@pytest.fixture
def dumps(request: pytest.FixtureRequest) -> bool:
    return request.param


@pytest.fixture
def nodes(tmp_path: Path, dumps: bool) -> Iterator[list[Node]]:
    addresses = free_addresses(3)
    started: list[Node] = []
    try:
        for number, own in enumerate(addresses):
            started.append(Node(tmp_path / f"node-{number}", addresses, own, dumps=dumps))
        yield started
    finally:
        for node in started:
            node.end()


def kill_all_and_start_again(nodes: list[Node]) -> None:
    for node in nodes:
        node.kill()
    for node in nodes:
        node.start()


@pytest.mark.parametrize("dumps", [False], indirect=True)
def test_with_a_journal_and_no_dump_file_compaction_loses_what_was_acknowledged(nodes: list[Node]) -> None:
    """`journalFile` alone: compaction moves the journal's entries into a snapshot that is in memory only."""
    acked = set(nodes[0].ask("add", 0, 3 * COMPACT_AT))
    assert len(acked) > COMPACT_AT
    for node in nodes:
        assert node.applied() >= acked
        until(lambda node=node: node.ask("state")["entries"] < COMPACT_AT)
    committed = nodes[0].ask("state")["committed"]
    kill_all_and_start_again(nodes)
    for node in nodes:
        # The new leader's own entry is committed: the cluster takes what it has for everything.
        until(lambda node=node: node.ask("state")["committed"] > committed)
        state = node.ask("state")
        assert state["numbers"] == []
        assert state["first_index"] > COMPACT_AT  # and nothing before it is on any disk


@pytest.mark.parametrize("dumps", [True], indirect=True)
def test_with_both_files_a_kill_during_a_dump_loses_what_was_acknowledged(nodes: list[Node]) -> None:
    """A forked dump that outlives its node is renamed ahead of the journal, which is then thrown away at start."""
    before = set(nodes[0].ask("add", 0, COMPACT_AT - 50))
    for node in nodes:
        assert node.applied() >= before
    nodes[0].ask("add", COMPACT_AT, 100)
    for node in nodes:
        until((node.directory / "dumping").exists)
    after = set(nodes[0].ask("add", 2 * COMPACT_AT, 400))
    assert after
    for node in nodes:
        node.kill()
    for node in nodes:
        node.finish_dump()
    for node in nodes:
        node.start()
    for node in nodes:
        there = node.applied()
        assert there >= before  # the dump is good
        assert there.isdisjoint(after)


@pytest.mark.parametrize("dumps", [True], indirect=True)
def test_without_a_compaction_the_same_kill_loses_nothing(nodes: list[Node]) -> None:
    """What is seen above is not made by this file."""
    acked = set(nodes[0].ask("add", 0, COMPACT_AT - 50))
    assert acked
    kill_all_and_start_again(nodes)
    for node in nodes:
        assert node.applied() >= acked


def test_the_document_speaks_of_the_version_that_is_tried_here() -> None:
    version = importlib.metadata.version("pysyncobj")
    assert re.search(rf"\bpysyncobj {re.escape(version)}\b", DESIGN.read_text())
