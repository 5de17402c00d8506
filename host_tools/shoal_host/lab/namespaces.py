"""A network namespace for each node, a bridge between them, made and removed with iproute2. Needs root.

A cut gives a node a wrong hardware address of another (ip-neighbour(8)): what it sends there goes to nobody, silently
and in one direction only, and no kernel module is needed. A delay needs `netem` (tc-netem(8)).

All names hold the process id of the lab that made them. A lab that was killed leaves its own behind; the next one
removes what belongs to no running process.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Iterable
from typing import Final

import psutil

from shoal_host.exits import Failure

_NOBODY: Final = "02:00:00:00:00:00"
_NET: Final = "198.18"
"""For measuring networks (RFC 2544): no real network has it."""
_NAMESPACE: Final = re.compile(r"shoal-lab-(\d+)-\d+")
_LINK: Final = re.compile(r"shl(\d+)(?:b|n\d+)")


class Namespaces:
    """Nodes at 198.18.X.2 and up; the lab itself reaches them from 198.18.X.1."""

    name = "namespaces"

    def __init__(self, nodes: int, pid: int | None = None) -> None:
        self._nodes = nodes
        self._pid = os.getpid() if pid is None else pid
        self._net = f"{_NET}.{self._pid % 256}"
        self._cuts: set[tuple[int, int]] = set()
        self._delayed: set[int] = set()

    def host(self, node: int) -> str:
        return f"{self._net}.{node + 2}"

    def node_options(self, node: int) -> list[str]:
        return ["--namespace", self._namespace(node)]

    async def start(self) -> None:
        await remove_leftovers()
        bridge = f"shl{self._pid}b"
        try:
            await ip("link", "add", bridge, "type", "bridge")
            await ip("address", "add", f"{self._net}.1/24", "dev", bridge)
            await ip("link", "set", bridge, "up")
            for node in range(self._nodes):
                await self._add(node, bridge)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        await _remove(self._pid)

    async def cut(self, source: int, target: int) -> None:
        self._cuts.add((source, target))
        await self._inside(
            source, "neigh", "replace", self.host(target), "lladdr", _NOBODY, "nud", "permanent"
        )

    async def delay(self, node: int, delay_ms: int) -> None:
        self._delayed.add(node)
        await _netem("add", self._namespace(node), delay_ms)

    async def heal(self) -> None:
        for source, target in self._cuts:
            await self._inside(source, "neigh", "del", self.host(target))
        for node in self._delayed:
            await _netem("del", self._namespace(node), 0)
        self._cuts.clear()
        self._delayed.clear()

    def _namespace(self, node: int) -> str:
        return f"shoal-lab-{self._pid}-{node}"

    async def _inside(self, node: int, *arguments: str) -> None:
        if arguments[0] == "neigh":
            arguments = (*arguments, "dev", "eth0")
        await ip("-n", self._namespace(node), *arguments)

    async def _add(self, node: int, bridge: str) -> None:
        namespace, link = self._namespace(node), f"shl{self._pid}n{node}"
        await ip("netns", "add", namespace)
        await ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", namespace)
        await ip("link", "set", link, "master", bridge, "up")
        await self._inside(node, "address", "add", f"{self.host(node)}/24", "dev", "eth0")
        await self._inside(node, "link", "set", "eth0", "up")
        await self._inside(node, "link", "set", "lo", "up")


async def why_not(*, delays: bool) -> str:
    """Why this process cannot make namespaces, with delays in them if they are wanted; empty when it can."""
    if os.geteuid() != 0:
        return "namespaces need root"
    if shutil.which("ip") is None or shutil.which("tc") is None:
        return "namespaces need iproute2 (Debian: apt install iproute2)"
    probe = f"shoal-lab-{os.getpid()}-0"
    try:
        await ip("netns", "add", probe)
        await ip("-n", probe, "link", "add", "br0", "type", "bridge")
        await ip("-n", probe, "link", "add", "eth0", "type", "veth", "peer", "name", "eth1")
        if delays:
            await _netem("add", probe, 1)
    except Failure as error:
        return error.detail
    finally:
        await _remove(os.getpid())
    return ""


async def remove_leftovers() -> None:
    """Remove what labs have left that were killed."""
    found = {
        int(hit[1])
        for name in await _names()
        for hit in [_NAMESPACE.fullmatch(name) or _LINK.fullmatch(name)]
        if hit
    }
    for pid in found:
        if not psutil.pid_exists(pid):
            await _remove(pid)


async def _remove(pid: int) -> None:
    """Remove all that the lab of this process id has made; a namespace takes its links along."""
    for name in await _names():
        namespace, link = _NAMESPACE.fullmatch(name), _LINK.fullmatch(name)
        if namespace is not None and int(namespace[1]) == pid:
            await _output("ip", "netns", "del", name)
        elif link is not None and int(link[1]) == pid:
            await _output("ip", "link", "del", name)  # one that went with its namespace is no error


async def _names() -> Iterable[str]:
    """Names of all namespaces and links."""
    _, namespaces, _ = await _output("ip", "netns", "list")
    _, links, _ = await _output("ip", "-o", "link", "show")
    first = [line.split()[0] for line in namespaces.splitlines() if line.split()]
    return [*first, *(hit[1] for hit in re.finditer(r"^\d+: ([^:@\s]+)", links, re.MULTILINE))]


async def ip(*arguments: str) -> None:
    """One change by iproute2. Raises Failure."""
    await _run("ip", *arguments)


async def _netem(verb: str, namespace: str, delay_ms: int) -> None:
    how = ["netem", "delay", f"{delay_ms}ms"] if verb == "add" else []
    await _run("tc", "-n", namespace, "qdisc", verb, "dev", "eth0", "root", *how)


async def _run(*command: str) -> None:
    code, _, errors = await _output(*command)
    if code != 0:
        raise Failure(f"`{' '.join(command)}` failed: {errors.strip()}")


async def _output(*command: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(*command, stdin=DEVNULL, stdout=PIPE, stderr=PIPE)
    out, errors = await process.communicate()
    return process.returncode or 0, out.decode(errors="replace"), errors.decode(errors="replace")
