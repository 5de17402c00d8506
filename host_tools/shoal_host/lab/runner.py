"""One run of the lab, from an empty directory to a report."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

from shoal.errors import ConfigError, Unavailable
from shoal_host.lab import namespaces
from shoal_host.lab.cluster import LabCluster
from shoal_host.lab.final import read_final
from shoal_host.lab.injector import Injector
from shoal_host.lab.network import Network, Proxies
from shoal_host.lab.recorder import Began, Found, Kept, Recorder, Stayed
from shoal_host.lab.report import Report, judge
from shoal_host.lab.schedule import NONE, Episode, Kind, plan
from shoal_host.lab.workload import Workload, drain_all
from shoal_host.local_cluster import Place, free_ports, issue_identities

HISTORY: Final = "history.ndjson"
CONSUMERS: Final = 2
_HTTP_PORT: Final = 4589
_PEER_PORT: Final = 4590

NetworkName = Literal["auto", "namespaces", "proxies"]


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run."""

    nodes: int
    seconds: float
    seed: int
    kinds: tuple[Kind, ...]
    data_dir: Path
    network: NetworkName = "auto"
    clients: int = 8
    asked: bool = False
    """Whether just these kinds are wanted: none may be left out."""


async def run(plan_: Plan, tell: Callable[[str], None]) -> Report:
    """Run it; `tell` hears of the progress. Raises ShoalError when the nodes or their network cannot be had."""
    plan_ = await _without_what_cannot_be(plan_, tell)
    episodes = plan(plan_.seed, plan_.nodes, plan_.seconds, plan_.kinds)
    require_empty(plan_.data_dir)
    network, places = await _place(plan_)
    path = plan_.data_dir / HISTORY
    with Recorder(path) as recorder:
        recorder.add(Began(plan_.seed, plan_.nodes, plan_.seconds, plan_.kinds, network.name))

        def died(what: str) -> None:
            tell(what)
            recorder.add(Found(what))

        tell(f"starting {plan_.nodes} node(s) on {network.name}, seed {plan_.seed}, in {plan_.data_dir}")
        async with LabCluster(places, network, died) as cluster:
            first_term = await cluster.term()
            elections = None
            try:
                await _torment(cluster, plan_, episodes, recorder, tell)
                elections = await cluster.term() - first_term
                tell("all nodes are killed and started again, then their events are compared")
                await _restart_all(cluster)
                await _look(cluster, plan_, recorder)
            except Unavailable as error:  # a node that does not come back is what the lab is there to find
                recorder.add(Found(f"the run could not go on: {error}", fatal=True))
    tell(f"judging {sum(1 for _ in recorder.lines):,} lines of history")
    return judge(recorder.lines, elections=elections, history=str(path))


async def _torment(
    cluster: LabCluster,
    plan_: Plan,
    episodes: Sequence[Episode],
    recorder: Recorder,
    tell: Callable[[str], None],
) -> None:
    """All episodes under load. What comes late delays the rest: an episode keeps its length."""
    injector = Injector(cluster, lambda what: tell(f"{recorder.now_us() / 1e6:6.1f} s  {what}"))
    async with Workload(plan_.clients, plan_.seed, cluster.nodes, recorder, consumers=CONSUMERS) as workload:
        begin_us = recorder.now_us()
        await asyncio.sleep(episodes[0].begin_s)
        recorder.add(Stayed(NONE, "", (NONE,), begin_us, recorder.now_us(), recorder.now_us()))
        for episode in episodes:
            workload.check()
            begin_us, begin_s = recorder.now_us(), time.monotonic()
            try:
                nodes = await injector.begin(episode.faults)
                await asyncio.sleep(episode.hold_s)
            finally:
                end_us = recorder.now_us()
                await injector.end()
            rest_s = begin_s + episode.end_s - episode.begin_s - time.monotonic()
            await asyncio.sleep(max(rest_s, 1.0))
            kinds = tuple(fault.kind for fault in episode.faults)
            shown = " and ".join(map(str, episode.faults))
            recorder.add(Stayed(shown, " ".join(nodes), kinds, begin_us, end_us, recorder.now_us()))
        workload.check()


async def _look(cluster: LabCluster, plan_: Plan, recorder: Recorder) -> None:
    """At what the store holds in the end, and at what its subscription has left."""
    final, differences = await read_final(cluster.nodes)
    await drain_all(plan_.seed, cluster.nodes, recorder)
    for what in differences:
        recorder.add(Found(what))
    for event in final:
        recorder.add(Kept(event))


async def _restart_all(cluster: LabCluster) -> None:
    """Kill all at once: what was acknowledged must be on disks, not in memories."""
    await asyncio.gather(*(node.kill() for node in cluster.nodes))
    await cluster.start_all()


async def _place(plan_: Plan) -> tuple[Network, list[Place]]:
    """The network, and where each node is in it."""
    numbers = range(plan_.nodes)
    node_ids = [f"n{number + 1}" for number in numbers]
    tls: dict[str, Path] = {}
    if plan_.nodes > 1:
        tls = await asyncio.to_thread(issue_identities, plan_.data_dir / "tls", node_ids)
    if await _has_namespaces(plan_):
        network: Network = namespaces.Namespaces(plan_.nodes)
        ports = [(_HTTP_PORT, _PEER_PORT)] * plan_.nodes
    else:
        free = free_ports(2 * plan_.nodes)
        ports = list(zip(free[::2], free[1::2], strict=True))
        network = Proxies([f"127.0.0.1:{peer}" for _, peer in ports])
    places = [
        Place(
            node_id,
            f"{network.host(number)}:{ports[number][0]}",
            f"{network.host(number)}:{ports[number][1]}",
            plan_.data_dir / node_id,
            tls.get(node_id),
        )
        for number, node_id in enumerate(node_ids)
    ]
    return network, places


async def _without_what_cannot_be(plan_: Plan, tell: Callable[[str], None]) -> Plan:
    """Without delays where namespaces are wanted and the kernel cannot delay; unless they were asked for."""
    if plan_.network != "namespaces" or plan_.asked or "delay" not in plan_.kinds:
        return plan_
    if await namespaces.why_not(delays=False) or not await namespaces.why_not(delays=True):
        return plan_
    tell("delays are left out: this kernel has no netem; --network proxies has them")
    return replace(plan_, kinds=tuple(kind for kind in plan_.kinds if kind != "delay"))


async def _has_namespaces(plan_: Plan) -> bool:
    """Whether the nodes get namespaces of their own. Raises ConfigError where they are asked for and cannot be had."""
    if plan_.network == "proxies" or (plan_.network == "auto" and plan_.nodes == 1):
        return False
    reason = await namespaces.why_not(delays="delay" in plan_.kinds)
    if plan_.network == "namespaces" and reason:
        raise ConfigError("--network", f"{reason}; proxies need nothing of it")
    return not reason


def require_empty(data_dir: Path) -> None:
    """Make the directory. Raises ConfigError for one that holds something."""
    data_dir.mkdir(parents=True, exist_ok=True)
    if any(data_dir.iterdir()):
        raise ConfigError("--data-dir", f"{data_dir} is not empty: the lab begins with empty nodes")
