"""`shoal up`: a board on this machine, watched until Ctrl-C."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import click

from shoal.errors import ConfigError, ShoalError, Unauthorized
from shoal.raft.membership import MEMBERS_MAX
from shoal.types import CaughtUp, Event, EventFilter
from shoal_host.children import Child
from shoal_host.commands.up_cluster import up_cluster
from shoal_host.exits import one_line
from shoal_host.local_board import (
    STOP_S,
    Died,
    LocalNode,
    require_free,
    require_unused,
    start_agent,
    start_node,
    until_admitted,
)
from shoal_host.local_cluster import boards_in
from shoal_host.options import DEFAULT_URL, data_dir_option, json_option
from shoal_host.output import note, own_name, print_json
from shoal_host.own_token import OwnToken
from shoal_host.reading_line import reading_line

_MEASURED: Final = "board_measured"


@click.command(
    epilog="""\b
Examples:
  shoal up
  shoal up --agent --data-dir ./shoal-data
  shoal up --listen 127.0.0.1:4600 --json
  shoal up --nodes 3 --data-dir ./cluster
"""
)
@click.option(
    "--nodes", type=click.IntRange(1, MEMBERS_MAX), default=1, show_default=True, help="Boards to start."
)
@data_dir_option
@click.option(
    "--listen",
    default="127.0.0.1:4589",
    envvar="SHOAL_LISTEN",
    show_envvar=True,
    show_default=True,
    metavar="HOST:PORT",
    help="Where the board answers HTTP.",
)
@click.option("--agent", is_flag=True, help="Append this machine's readings once a second, and show them.")
@click.option(
    "--interval",
    type=click.FloatRange(0.1, 86_400),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="Time between the agent's readings.",
)
@click.option("--logs", is_flag=True, help="Show what shoald logs.")
@click.option(
    "--from-make", is_flag=True, hidden=True, help="Advise in terms of `make run`, which called this."
)
@json_option
def up(
    *,
    nodes: int,
    data_dir: Path,
    listen: str,
    agent: bool,
    interval: float,
    logs: bool,
    from_make: bool,
    as_json: bool,
) -> None:
    """Start a board on this machine, or a cluster of several, and keep it until Ctrl-C.

    With --json the first line, once all are ready, is {"nodes": [{"id", "url", "pid", "data_dir"}]}.
    The data stays in --data-dir: the same command brings the boards back. Several take the ports from that of
    --listen on. At a terminal, k2 and Enter kill board 2, s2 starts it again, p2 pauses it, c2 lets it go on.
    """
    there = boards_in(data_dir)
    if there not in {0, nodes}:
        raise ConfigError("--nodes", f"{data_dir} holds a cluster of {there} boards, write --nodes {there}")
    if nodes > 1:
        up_cluster(
            data_dir.absolute(),
            listen,
            nodes,
            agent_interval_s=interval if agent else None,
            logs=logs,
            as_json=as_json,
        )
        return
    require_free(listen, "make run ARGS='--listen {}'" if from_make else "--listen {}")
    require_unused(data_dir)
    heard = _log if logs else _ignore
    board = _Board(data_dir.absolute(), listen, heard, interval if agent else None, as_json=as_json)
    try:
        asyncio.run(board.run())
    except Died as error:
        if as_json:
            raise
        note(f"shoal: {error}")  # what a process said last stays in lines
        sys.exit(error.exit_code)


class _Board:
    """The board with its agent, from start to stop."""

    def __init__(
        self,
        data_dir: Path,
        listen: str,
        heard: Callable[[str], None],
        interval_s: float | None,
        *,
        as_json: bool,
    ) -> None:
        self._data_dir = data_dir
        self._listen = listen
        self._heard = heard
        self._interval_s = interval_s
        self._as_json = as_json
        self._token = OwnToken(data_dir, os.environ.get("SHOAL_TOKEN"))
        self._children: list[Child] = []
        self._stop = asyncio.Event()

    async def run(self) -> None:
        """Run until a signal. Raises Died when the board ends by itself."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._signalled)
        starting = asyncio.create_task(start_node(self._data_dir, self._listen, self._token, self._heard))
        try:
            if await self._unless_stopped(starting):
                node = starting.result()
                self._children.append(node.child)
                await self._watch(node)
        finally:
            await self._stop_all()

    def _signalled(self) -> None:
        if self._stop.is_set():  # the second Ctrl-C: no more waiting
            for child in self._children:
                child.kill()
        self._stop.set()

    async def _watch(self, node: LocalNode) -> None:
        tasks = []
        if self._interval_s is not None:
            agent = await start_agent(node, self._interval_s, self._heard)
            self._children.append(agent)
            tasks.append(asyncio.create_task(self._keep_agent(node, agent, self._interval_s)))
        self._announce(node)
        if self._interval_s is not None and not self._as_json:
            tasks.append(asyncio.create_task(show_readings(node)))
        ended = asyncio.create_task(node.child.ended())
        try:
            if await self._unless_stopped(ended):
                raise Died(node.child, ended.result())
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _keep_agent(self, node: LocalNode, agent: Child, interval_s: float) -> None:
        """An agent that ends is reported; one that only lacked the board's first token begins again with one."""
        while True:
            shown = node.token.text
            code = await agent.ended()
            if self._stop.is_set():
                return
            if not await _renewed(node, shown):
                note(f"shoal: {Died(agent, code)}\nthe board goes on without it")
                return
            note("shoal: the board asks for tokens now; the agent goes on with one of its own")
            self._children.remove(agent)
            agent = await start_agent(node, interval_s, self._heard)
            self._children.append(agent)

    async def _unless_stopped(self, task: asyncio.Task[LocalNode] | asyncio.Task[int]) -> bool:
        """Wait for `task` or for a signal; false, with the task cancelled, if the signal came first."""
        stopping = asyncio.create_task(self._stop.wait())
        await asyncio.wait((task, stopping), return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if task.done() and not self._stop.is_set():
            return True
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        return False

    async def _stop_all(self) -> None:
        """The agent first, so that it can still hand in what it read."""
        self._stop.set()
        for child in reversed(self._children):
            await child.stop(STOP_S)
        self._token.revoke()

    def _announce(self, node: LocalNode) -> None:
        if self._as_json:
            print_json({"nodes": [node.fields()]})
            sys.stdout.flush()
            return
        click.echo(f"The board {one_line(node.node_id)} answers at {node.url}")
        click.echo(f"Its data is in {node.data_dir}")
        stream = f" board-{node.node_id}" if self._interval_s is not None else ""
        url = "" if node.url == DEFAULT_URL else f" --url {node.url}"
        click.echo(f"Follow it from another terminal: {own_name()} tail{stream}{url}")
        click.echo("Ctrl-C stops it; the data stays.\n")


async def show_readings(node: LocalNode) -> None:
    """A line per reading; an error is shown once and ends the showing, not the board."""
    after: int | None = None
    while True:
        shown = node.token.text
        try:
            async for item in _readings(node, after):
                after = item.position
                if not isinstance(item, CaughtUp) and item.event_type == _MEASURED:
                    click.echo(one_line(reading_line(item)))
                    sys.stdout.flush()
        except ShoalError as error:
            if not isinstance(error, Unauthorized) or not await _renewed(node, shown):
                note(f"shoal: readings cannot be shown: {one_line(str(error))}")
                return


async def _readings(node: LocalNode, after: int | None) -> AsyncIterator[Event | CaughtUp]:
    import shoal

    name = os.environ.get("SHOAL_STORE") or "main"
    async with shoal.connect(node.url, *node.others, store=name, token=node.token.text) as store:
        async for item in store.streams.tail(EventFilter(), after, f"board-{node.node_id}"):
            yield item


async def _renewed(node: LocalNode, shown: str | None) -> bool:
    """Whether there is another token than the one `shown`, made now if the board wants one."""
    try:
        node.token.renew()
    except ConfigError as error:
        note(f"shoal: {one_line(str(error))}")
    if node.token.text == shown:
        return False
    await until_admitted(node)
    return True


def _log(line: str) -> None:
    note(one_line(line))


def _ignore(line: str) -> None:
    """Keep quiet: what matters is shown when a process ends."""
