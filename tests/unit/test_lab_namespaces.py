"""Namespaces between nodes, where this machine lets us make them: cuts in one direction, and nothing left behind."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import threading

import pytest

from shoal_host.exits import Failure
from shoal_host.lab import namespaces
from shoal_host.lab.namespaces import Namespaces, remove_leftovers
from shoal_host.lab.node import enter_namespace

PORT = 4590
PATIENCE_S = 5
SHORT_S = 0.2
"""How long a datagram that must not come is waited for."""

REASON = asyncio.run(namespaces.why_not(delays=False))
pytestmark = pytest.mark.skipif(bool(REASON), reason=f"cannot be had here: {REASON}")


def ours(pid: int) -> list[str]:
    """Namespaces and links of the lab with this process id."""
    names = asyncio.run(namespaces._names())
    return [name for name in names if f"-{pid}-" in name or name.startswith((f"shl{pid}b", f"shl{pid}n"))]


def socket_in(network: Namespaces, node: int) -> socket.socket:
    """A datagram socket of a node: made by a thread that moves there."""
    made: list[socket.socket] = []

    def make() -> None:
        enter_namespace(network.node_options(node)[1])
        opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        opened.bind((network.host(node), PORT))
        made.append(opened)

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    return made[0]


def dead_pid() -> int:
    """Of a process that is no more."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.fixture
def network():
    made = Namespaces(3, dead_pid())
    asyncio.run(made.start())
    yield made
    asyncio.run(made.close())


def passes(source: socket.socket, target: socket.socket) -> bool:
    """Whether a datagram arrives."""
    mark = os.urandom(8)
    source.sendto(mark, target.getsockname())
    target.settimeout(SHORT_S)
    try:
        while target.recv(8) != mark:
            pass
    except TimeoutError:
        return False
    return True


def test_cuts_are_of_one_direction_and_heal(network) -> None:
    sockets = [socket_in(network, node) for node in range(3)]
    a, b, c = sockets
    try:
        assert passes(a, b)
        assert passes(b, a)
        asyncio.run(network.cut(0, 1))
        assert not passes(a, b)
        assert passes(b, a)
        assert passes(a, c)
        asyncio.run(network.cut(1, 0))
        assert not passes(b, a)
        asyncio.run(network.heal())
        assert passes(a, b)
        assert passes(b, a)
    finally:
        for each in sockets:
            each.close()


def test_the_lab_reaches_every_node(network) -> None:
    with socket_in(network, 2) as node, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
        assert passes(own, node)


def test_nothing_is_left_behind() -> None:
    network = Namespaces(2, dead_pid())
    asyncio.run(network.start())
    assert len(ours(network._pid)) == 5
    asyncio.run(network.close())
    assert ours(network._pid) == []
    asyncio.run(network.close())  # once more is fine


def test_what_a_killed_lab_left_is_removed_and_a_running_one_keeps_its_own() -> None:
    dead, running = Namespaces(1, dead_pid()), Namespaces(1)
    asyncio.run(dead.start())
    asyncio.run(running.start())
    try:
        assert ours(dead._pid) == []  # the second one's start has done it already
        asyncio.run(dead.start())
        asyncio.run(remove_leftovers())
        assert ours(dead._pid) == []
        assert len(ours(os.getpid())) == 3
    finally:
        asyncio.run(running.close())
        asyncio.run(dead.close())


def test_a_start_that_fails_leaves_nothing() -> None:
    first, second = Namespaces(1), Namespaces(1)
    asyncio.run(first.start())
    try:
        with pytest.raises(Failure, match="File exists"):
            asyncio.run(second.start())
        assert ours(os.getpid()) == []
    finally:
        asyncio.run(first.close())
