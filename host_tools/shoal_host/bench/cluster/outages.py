"""The leader killed, and the leader paused, while clients append: how long until they go on."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from shoal_host.bench.bench import Bench
from shoal_host.bench.cluster import ours
from shoal_host.bench.cluster.watching import Watched, clients, until
from shoal_host.bench.rows import Row, Spread, at_most

if TYPE_CHECKING:
    from shoal_host.commands.up_cluster import Boards
    from shoal_host.local_cluster import Place

CLIENTS: Final = 6
_SETTLE_S: Final = 1.5
"""Between trials: the board that came back catches up, and the group is as it was."""
_LIMIT_S: Final = 30.0
_PAUSED_S: Final = 8.0


async def killed(bench: Bench) -> list[Row]:
    """SIGKILL to the leader, and the time until an append that began later is answered."""
    took: list[float] = []
    directory = bench.fresh("killed")
    where = await asyncio.to_thread(ours.places, directory)
    urls = [place.url for place in where]
    async with ours.boards(where) as boards, clients(urls, CLIENTS, "killed") as watched:
        for trial in range(bench.sizes.kills):
            await asyncio.sleep(_SETTLE_S)
            leader = await _leader(boards, where)
            moment = time.monotonic()
            await boards.obey(f"k{leader}")
            took.append(await _first_after(watched, moment))
            bench.say(f"    trial {trial + 1}: {took[-1]:.3f} s")
            await boards.obey(f"s{leader}")
            await boards.until_led()
    bench.done_with(directory)
    return [killed_row(took, watched.errors)]


def killed_row(took: list[float], errors: list[str]) -> Row:
    """The median and the worst of all trials."""
    found = Spread.of(took)
    return Row(
        "cluster-killed",
        f"leader killed: next acknowledged append, {len(took)} trials",
        "s",
        found,
        targets=(
            at_most("median under 0.5 s", found.median, 0.5),
            at_most("worst under 1.5 s", found.high, 1.5),
        ),
        details={"trials_s": took, "errors": errors},
    )


async def paused(bench: Bench) -> list[Row]:
    """SIGSTOP to the leader: the longest that any client waits for an answer meanwhile."""
    gaps: list[float] = []
    hung = 0
    directory = bench.fresh("paused")
    where = await asyncio.to_thread(ours.places, directory)
    urls = [place.url for place in where]
    async with ours.boards(where) as boards, clients(urls, CLIENTS, "paused") as watched:
        for _ in range(bench.sizes.pauses):
            await asyncio.sleep(_SETTLE_S)
            leader = await _leader(boards, where)
            moment = time.monotonic()
            await boards.obey(f"p{leader}")
            await asyncio.sleep(_PAUSED_S)
            end = time.monotonic()
            gaps.append(watched.longest_silence(moment, end))
            hung += sum(not any(a.began > moment for a in answers) for answers in watched.answers)
            await boards.obey(f"c{leader}")
            await boards.until_led()
    bench.done_with(directory)
    return [paused_row(gaps, hung, watched.errors)]


def paused_row(gaps: list[float], hung: int, errors: list[str]) -> Row:
    """Each trial counts with the client that waited longest."""
    found = Spread.of(gaps)
    return Row(
        "cluster-paused",
        f"leader paused for {_PAUSED_S:g} s: longest wait of {CLIENTS} clients, {len(gaps)} trials",
        "s",
        found,
        targets=(at_most("all go on within 2 s", found.high, 2), at_most("none hangs", hung, 0)),
        details={"trials_s": gaps, "errors": errors},
    )


async def _leader(boards: Boards, where: list[Place]) -> int:
    """Its number as `obey` wants it, from 1. Raises Unavailable."""
    name = await boards.until_led()
    return [place.node_id for place in where].index(name) + 1


async def _first_after(watched: Watched, moment: float) -> float:
    """Seconds until an append that began later is answered; the limit when none is."""
    await until(lambda: watched.first_after(moment) is not None, _LIMIT_S)
    first = watched.first_after(moment)
    return _LIMIT_S if first is None else first
