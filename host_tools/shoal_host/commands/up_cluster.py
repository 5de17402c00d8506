"""`shoal up --nodes N`: several boards of one cluster on this machine, and the keys that trouble them."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import click

from shoal.errors import ConfigError, ShoalError, Unavailable
from shoal_host.children import Child
from shoal_host.exits import one_line
from shoal_host.local_board import (
    READY_S,
    STOP_S,
    Died,
    LocalNode,
    info_of,
    require_free,
    require_unused,
    start_agent,
    start_node,
)
from shoal_host.local_cluster import Place, cluster_options, issue_identities, places_in
from shoal_host.output import note, own_name, print_json
from shoal_host.own_token import OwnToken

_POLL_S: Final = 0.1
_LOOK_S: Final = 0.5
_KEYS: Final = re.compile(r"([kspc])([1-9][0-9]?)")

Options = Callable[[Place, Sequence[Place]], list[str]]
Heard = Callable[[str], None]


class Boards:
    """Boards of one cluster, from start to stop. One that ends by itself stays down until it is started again."""

    def __init__(self, places: Sequence[Place], heard: Heard, options: Options = cluster_options) -> None:
        self._places = places
        self._heard = heard
        self._options = options
        self._tokens = [OwnToken(place.data_dir, os.environ.get("SHOAL_TOKEN")) for place in places]
        self._watching: dict[int, asyncio.Task[None]] = {}
        self.nodes: dict[int, LocalNode] = {}

    async def start(self) -> None:
        """Start all at once, as they need each other, and wait until all are ready. Raises Died, Unavailable."""
        numbers = range(len(self._places))
        starting = [asyncio.create_task(self._start(number)) for number in numbers]
        try:
            for started in asyncio.as_completed(starting):
                await started
        except BaseException:
            for task in starting:
                task.cancel()
            await asyncio.gather(*starting, return_exceptions=True)
            raise

    @property
    def count(self) -> int:
        """How many there are, running or not."""
        return len(self._places)

    async def leader(self) -> str | None:
        """Who leads, as far as those know that answer."""
        return _leading(await self._infos())

    async def until_led(self) -> str:
        """Wait until one leads and all have their stores; who leads. Raises Unavailable."""
        try:
            async with asyncio.timeout(READY_S):
                while True:
                    infos = await self._infos()
                    leader = _leading(infos)
                    if leader is not None and all(info is not None and info["stores"] for info in infos):
                        return leader
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            raise Unavailable(
                f"the boards chose no leader within {READY_S:g} s; --logs shows what they do"
            ) from None

    async def _infos(self) -> list[dict[str, Any] | None]:
        running = [node for node in self.nodes.values() if node.child.running]
        return await asyncio.gather(*map(info_of, running))

    async def stop(self) -> None:
        """Stop all."""
        for task in self._watching.values():
            task.cancel()
        for node in self.nodes.values():
            _signal(node, signal.SIGCONT)
        await asyncio.gather(*(node.child.stop(STOP_S) for node in self.nodes.values()))
        for token in self._tokens:
            await asyncio.to_thread(token.revoke)

    def kill_all(self) -> None:
        """SIGKILL to all."""
        for node in self.nodes.values():
            node.child.kill()

    async def obey(self, keys: str) -> str:
        """Do what was typed: k2, s2, p2, c2; the result says what was done, or what can be typed."""
        hit = _KEYS.fullmatch(keys.strip())
        if hit is None or int(hit[2]) > len(self._places):
            return (
                f"type k, s, p or c and a board from 1 to {len(self._places)}: kill, start, pause, continue"
            )
        number = int(hit[2]) - 1
        node, name = self.nodes.get(number), self._places[number].node_id
        running = node is not None and node.child.running
        if hit[1] == "s":
            return await self._start_again(number) if not running else f"{name} runs already"
        if node is None or not running:
            return f"{name} is down, s{number + 1} starts it"
        if hit[1] == "k":
            self._watching.pop(number).cancel()
            node.child.kill()
            await node.child.ended()
            return f"{name} was killed and stays down, s{number + 1} starts it"
        _signal(node, signal.SIGSTOP if hit[1] == "p" else signal.SIGCONT)
        return f"{name} is paused, c{number + 1} lets it go on" if hit[1] == "p" else f"{name} goes on"

    async def _start(self, number: int, *, alone: bool = True) -> None:
        place, token = self._places[number], self._tokens[number]
        options = self._options(place, self._places)
        node = await start_node(
            place.data_dir, place.listen, token, self._heard, name=place.node_id, options=options, alone=alone
        )
        self.nodes[number] = node
        self._watching[number] = asyncio.create_task(self._watch(node))

    async def _start_again(self, number: int) -> str:
        try:
            await self._start(number, alone=False)  # the others may be down, too
        except ShoalError as error:
            return one_line(str(error))
        return f"{self._places[number].node_id} is back"

    async def _watch(self, node: LocalNode) -> None:
        code = await node.child.ended()
        note(f"shoal: {Died(node.child, code)}\nthe others go on")


def _leading(infos: Sequence[dict[str, Any] | None]) -> str | None:
    """Who says that it leads, the one of the highest term if several do."""
    nodes = [info["node"] for info in infos if info is not None]
    leading = [(node["term"], str(node["node_id"])) for node in nodes if node["role"] == "leader"]
    return max(leading)[1] if leading else None


def up_cluster(
    data_dir: Path, listen: str, count: int, *, agent_interval_s: float | None, logs: bool, as_json: bool
) -> None:
    """Start `count` boards and keep them until a signal. Raises ConfigError, Died, Unavailable."""
    places = places_in(data_dir, listen, count)
    _require_room(data_dir, places)
    issue_identities(data_dir / "tls", [place.node_id for place in places])
    boards = Boards(places, _log if logs else _ignore)
    asyncio.run(_run(boards, agent_interval_s, as_json=as_json))


def _require_room(data_dir: Path, places: Sequence[Place]) -> None:
    """Refuse ports and directories that others have. Raises ConfigError."""
    if (data_dir / "db").exists():
        raise ConfigError("--data-dir", f"{data_dir} holds a board of its own: choose another for a cluster")
    last = places[-1]
    ports = (
        f"--listen; {len(places)} boards take the ports from {places[0].listen} to {last.listen}"
        f" and from {places[0].peer_listen} to {last.peer_listen}"
    )
    for place in places:
        require_free(place.listen, ports)
        require_free(place.peer_listen, ports)
        require_unused(place.data_dir)


async def _run(boards: Boards, agent_interval_s: float | None, *, as_json: bool) -> None:
    stop = asyncio.Event()

    def signalled() -> None:
        if stop.is_set():  # the second Ctrl-C: no more waiting
            boards.kill_all()
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, signalled)
    stopping = asyncio.create_task(stop.wait())
    starting = asyncio.create_task(_start(boards))
    extra: list[asyncio.Task[None]] = []
    agent: Child | None = None
    try:
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            return
        leader = starting.result()
        others = [node.url for number, node in sorted(boards.nodes.items()) if number]
        first = replace(boards.nodes[0], others=tuple(others))
        if agent_interval_s is not None:
            agent = await start_agent(first, agent_interval_s, _ignore)
        _announce(boards, leader, as_json=as_json)
        extra = _beside(boards, first, leader, agent, as_json=as_json)
        await stopping
    finally:
        for task in (starting, *extra):
            task.cancel()
        await asyncio.gather(starting, *extra, return_exceptions=True)
        if agent is not None:
            await agent.stop(STOP_S)
        await boards.stop()


async def _start(boards: Boards) -> str:
    """Start them, telling a person how far it is; who leads. Raises Died, Unavailable."""
    note(
        f"starting {boards.count} boards: they find each other and choose a leader, which takes some seconds"
    )
    await boards.start()
    return await boards.until_led()


def _beside(
    boards: Boards, first: LocalNode, leader: str, agent: Child | None, *, as_json: bool
) -> list[asyncio.Task[None]]:
    """What goes on for a person: who leads, readings, and keys at a terminal."""
    from shoal_host.commands.up import show_readings

    tasks = [] if agent is None else [asyncio.create_task(_tell_end(agent))]
    if as_json:
        return tasks
    tasks.append(asyncio.create_task(_tell_leader(boards, leader)))
    if agent is not None:
        tasks.append(asyncio.create_task(show_readings(first)))
    if sys.stdin.isatty():
        tasks.append(asyncio.create_task(_listen(boards)))
    return tasks


async def _tell_end(agent: Child) -> None:
    code = await agent.ended()
    note(f"shoal: {Died(agent, code)}\nthe boards go on without it")


async def _tell_leader(boards: Boards, told: str) -> None:
    """A line whenever another board leads."""
    while True:
        await asyncio.sleep(_LOOK_S)
        leader = await boards.leader()
        if leader is not None and leader != told:
            click.echo(f"{one_line(leader)} leads now")
            sys.stdout.flush()
            told = leader


async def _listen(boards: Boards) -> None:
    """Lines from the terminal."""
    lines: asyncio.Queue[str] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    loop.add_reader(sys.stdin, lambda: lines.put_nowait(sys.stdin.readline()))
    try:
        while line := await lines.get():
            click.echo(await boards.obey(line))
    finally:
        loop.remove_reader(sys.stdin)


def _announce(boards: Boards, leader: str, *, as_json: bool) -> None:
    nodes = [boards.nodes[number] for number in sorted(boards.nodes)]
    if as_json:
        print_json({"nodes": [node.fields() for node in nodes]})
        sys.stdout.flush()
        return
    for node in nodes:
        click.echo(
            f"The board {one_line(node.node_id)} answers at {node.url}, its data is in {node.data_dir}"
        )
    click.echo(f"{one_line(leader)} leads; append and read at any of them:")
    click.echo(f'  {own_name()} append greetings said \'{{"text": "hello"}}\' --url {nodes[-1].url}')
    click.echo(f"  {own_name()} read greetings --url {nodes[0].url}")
    if sys.stdin.isatty():
        click.echo("k2 and Enter kill board 2, s2 starts it again, p2 pauses it, c2 lets it go on.")
    click.echo("Ctrl-C stops them; the data stays.\n")
    sys.stdout.flush()


def _signal(node: LocalNode, number: signal.Signals) -> None:
    if node.child.running:
        os.kill(node.child.process.pid, number)


def _log(line: str) -> None:
    note(one_line(line))


def _ignore(line: str) -> None:
    """Keep quiet: what matters is shown when a process ends."""
