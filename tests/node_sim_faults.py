"""What happens to simulated nodes: power cuts, restarts, partitions, stopped processes, bad disks, wrong clocks."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

from shoal.errors import ShoalError
from shoal.raft.errors import ChangeRefused
from shoal.testing.faulty_files import DiskFaults
from shoal.testing.sim_loop import SimLoop
from shoal.testing.sim_network import SimNetwork
from shoal.testing.sim_node import SimNode

YEAR_US = 31_557_600_000_000


class Faults:
    """Does something bad now and then, until told to mend everything."""

    def __init__(
        self,
        loop: SimLoop,
        rng: random.Random,
        network: SimNetwork,
        nodes: list[SimNode],
        trace: Callable[[str], None],
    ) -> None:
        self._loop = loop
        self._rng = rng
        self._network = network
        self._nodes = nodes
        self._trace = trace
        self._stalls = 0
        self._pending: set[asyncio.Task[None]] = set()
        self._mended = asyncio.Event()
        self.did: Counter[str] = Counter()

    async def run(self, seconds: float, pause_s: float) -> None:
        """For so long, something every `pause_s` or so."""
        rng = self._rng
        actions = (
            (self._power_cut, 4),
            (self._many_lose_power, 2),
            (self._restart, 1.5),
            (self._partition, 3),
            (self._cut_one_way, 2),
            (self._reset, 2),
            (self._stop_process, 2),
            (self._slow_disk, 2),
            (self._stall, 2),
            (self._fill_disk, 1),
            (self._step_clock, 1),
            (self._transfer, 2),
            (self._be_unruly, 1),
        )
        end_s = self._loop.time() + seconds
        while self._loop.time() < end_s:
            await asyncio.sleep(rng.random() * 2 * pause_s)
            action = rng.choices([each for each, _ in actions], [weight for _, weight in actions])[0]
            self.did[action.__name__.removeprefix("_")] += 1
            action()

    async def heal(self) -> None:
        """Everybody is well again."""
        self._mended.set()
        self._trace("all is mended")
        self._network.heal()
        for node in self._nodes:
            node.faults = node.usual
            if node.life is not None:
                self._loop.go_on(node.life)
        while self._pending:
            await asyncio.wait(self._pending)
        for node in self._nodes:
            if node.life is None:
                node.start()

    def look_after(self, node: SimNode) -> None:
        """A process that ended by itself is started again, as systemd does."""
        if node.failure is not None and node.life is not None:
            self._off(node, self._rng.random())

    # -- what may happen -------------------------------------------------------------------------

    def _some(self) -> SimNode:
        return self._rng.choice(self._nodes)

    def _after(self, most_s: float, call: Callable[[], None]) -> None:
        """Mend it some time later."""

        async def later() -> None:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._rng.random() * most_s):
                    await self._mended.wait()
            call()

        task = self._loop.create_task(later())
        self._pending.add(task)
        task.add_done_callback(self._pending.discard)

    def _off(self, node: SimNode, most_s: float) -> None:
        node.power_off()
        self._after(most_s, lambda: node.start() if node.life is None else None)

    def _power_cut(self) -> None:
        node = self._some()
        if node.life is not None:
            self._off(node, self._rng.choice((0.2, 2, 6)))

    def _many_lose_power(self) -> None:
        chosen = self._rng.sample(self._nodes, self._rng.randint(len(self._nodes) // 2 + 1, len(self._nodes)))
        self._trace(f"{', '.join(node.name for node in chosen)} lose power")
        for node in chosen:
            if node.life is not None:
                self._off(node, self._rng.choice((0.2, 2, 8)))

    def _restart(self) -> None:
        node = self._some()
        life = node.life
        if life is None or node.node is None or life.stopped:
            return
        self._trace(f"{node.name} is restarted")

        async def restart() -> None:
            stopping = self._loop.spawn(life, node.stop())
            await asyncio.wait({stopping}, timeout=15)
            if node.life is not life:
                return
            if not stopping.done():
                self._trace(f"{node.name} does not end and is killed")
                self.did["killed"] += 1
                node.power_off()
            else:
                stopping.result()
                node.closed()
            node.start()

        task = self._loop.create_task(restart())
        self._pending.add(task)
        task.add_done_callback(self._pending.discard)

    def _cut(self, pairs: set[tuple[str, str]], most_s: float) -> None:
        self._trace(f"cut {sorted(pairs)}")
        self._network.cuts |= pairs
        self._after(most_s, lambda: self._network.cuts.difference_update(pairs))

    def _partition(self) -> None:
        names = [node.name for node in self._nodes]
        leading = [node.name for node in self._nodes if node.node is not None and node.node.driver.serves]
        side = set(self._rng.sample(names, self._rng.randint(1, len(names) - 1)))
        if leading and self._rng.random() < 0.5:
            side = {leading[0]}
        pairs = {(a, b) for a in names for b in names if (a in side) != (b in side)}
        self._cut(pairs, self._rng.choice((1, 5, 8)))

    def _cut_one_way(self) -> None:
        a, b = self._rng.sample([node.name for node in self._nodes], 2)
        self._cut({(a, b)}, self._rng.choice((1, 5)))

    def _reset(self) -> None:
        names = [node.name for node in self._nodes]
        lines = [(a, b) for a in names for b in names if a != b]
        self._network.reset(self._rng.sample(lines, self._rng.randint(1, len(lines))))

    def _stop_process(self) -> None:
        node = self._some()
        life = node.life
        if life is None or life.stopped:
            return
        self._trace(f"{node.name} is stopped")
        self._loop.stop_life(life)
        self._after(self._rng.choice((0.5, 3, 8)), lambda: self._loop.go_on(life))

    def _slow_disk(self) -> None:
        node = self._some()
        delay_ms = self._rng.choice((5, 50, 300))
        self._trace(f"{node.name} has a disk that takes {delay_ms} ms")
        node.faults = DiskFaults(sync_delay_ms=delay_ms)
        self._after(8, lambda: setattr(node, "faults", node.usual))

    def _stall(self) -> None:
        node = self._some()
        self._stalls += 1
        stall_ms = self._rng.choice((500, 2_000, 6_000))
        self._trace(f"{node.name} has a disk that hangs for {stall_ms} ms")
        node.faults = DiskFaults(node.usual.sync_delay_ms, self._stalls, stall_ms)

    def _fill_disk(self) -> None:
        node = self._some()
        self._trace(f"{node.name} has a full disk")
        node.faults = DiskFaults(full=True)
        self._after(6, lambda: setattr(node, "faults", node.usual))

    def _step_clock(self) -> None:
        node = self._some()
        node.clock.wall_us = self._rng.choice((0, -5, 1, 30)) * YEAR_US + self._rng.randint(-(10**9), 10**9)
        node.clock.quality = self._rng.choice(("ntp", "rtc", "unknown"))
        self._trace(f"{node.name} has its clock off by {node.clock.wall_us / YEAR_US:.1f} years")

    def _transfer(self) -> None:
        for host in self._nodes:
            if host.node is not None and host.life is not None and host.node.driver.serves:
                try:
                    chosen = host.life.context.copy().run(host.node.driver.transfer, None)
                except (ShoalError, ChangeRefused):
                    continue
                self._trace(f"{host.name} hands over to {chosen}")

    def _be_unruly(self) -> None:
        self._trace("the network repeats and drops")
        self._network.repeats, self._network.drops = self._rng.choice(((0.1, 0.0), (0.05, 0.05), (0.3, 0.2)))

        def mend() -> None:
            self._network.repeats = self._network.drops = 0.0

        self._after(5, mend)
