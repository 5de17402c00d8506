"""Whole nodes in one thread from one seed: bad things happen, clients work, and what they were told must be true."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from node_kit import small
from node_sim_clients import DELETED, STORE, Client, Consumers, Desk, place_of
from node_sim_faults import Faults
from node_sim_mutants import applied

from shoal.config import Config
from shoal.errors import DiskFull, ShoalError
from shoal.node import Node
from shoal.raft.log import Member
from shoal.raft.messages import Entry
from shoal.storage.segment import Identity
from shoal.store.ports import Proposed
from shoal.testing.history import History, Placed
from shoal.testing.history_checks import check
from shoal.testing.power_cut import scratch_root
from shoal.testing.sim_loop import SimLoop, Stuck, virtual_time
from shoal.testing.sim_network import SimNetwork
from shoal.testing.sim_node import SimNode
from shoal.types import EventFilter

LIVELY_S = 20.0
"""How long after all is mended everything must work again."""


EXPECTED = (
    *("power_cut", "many_lose_power", "restart", "partition", "cut_one_way", "reset", "stop_process"),
    *("slow_disk", "stall", "fill_disk", "step_clock", "transfer", "be_unruly"),
    *("append unknown", "append not-applied", "append again", "read applied", "read_all applied"),
    *("delete applied", "delivered", "acked", "lease expired", "pull failed", "ack failed"),
)
"""What must have happened in a range of seeds, for it to say anything."""


class Simulation:
    """One seed. `trace` is what happened, `digest` a hash of it and of every frame that was sent."""

    def __init__(self, directory: Path, seed: int, *, seconds: float = 15.0) -> None:
        self.seed = seed
        self.seconds = seconds
        rng = self.rng = random.Random(seed)
        self.loop = SimLoop(self._fork())
        self.lines: list[str] = []
        self._hash = hashlib.sha256()
        self.network = SimNetwork(self.loop, self._fork())
        self.network.sent = self._hear
        self.network.delay_s = rng.choice(((0.0001, 0.001), (0.0005, 0.02), (0.01, 0.05)))
        names = [f"n{number}" for number in range(1, rng.choice((3, 3, 3, 5)) + 1)]
        self.nodes = [
            SimNode(self.loop, self.network, self._fork(), self._config(directory, name), trace=self.trace)
            for name in names
        ]
        self.desk = Desk(self.loop, self._fork(), self.network, self.nodes)
        self.desk.trace = self.trace
        self.faults = Faults(self.loop, self._fork(), self.network, self.nodes, self.trace)
        self.clients = [Client(self.desk, f"c{number}") for number in range(1, 4)]
        self.consumers = Consumers(self.desk, "all")
        self._leaders: dict[int, str] = {}
        self._entries: dict[int, tuple[int, bytes]] = {}
        self._quiet = self._over = False

    def _fork(self) -> random.Random:
        return random.Random(self.rng.getrandbits(64))

    def _config(self, directory: Path, name: str) -> Config:
        storage = {
            "commit_interval_ms": self.rng.choice((100, 2_000, 3_600_000)),
            "commit_rows": self.rng.choice((10, 100, 5_000)),
            "reserve_bytes": 0,
        }
        config = small(directory / name, **storage)
        return msgspec.structs.replace(
            config, node_id=name, cluster_id="sim", mode="cluster", timeout_ms=2_000
        )

    # -- hearing ---------------------------------------------------------------------------------

    def trace(self, text: str) -> None:
        """One line of what happened."""
        line = f"{self.loop.time() - 1_000:9.4f} {text}"
        self.lines.append(line)
        self._hash.update(line.encode())

    def _hear(self, sender: str, peer: str, frame: bytes) -> None:
        self._hash.update(f"{self.loop.time()} {sender} {peer}".encode() + frame)

    @property
    def digest(self) -> str:
        """Of everything so far."""
        return self._hash.hexdigest()

    # -- running ---------------------------------------------------------------------------------

    def run(self) -> None:
        """Raises AssertionError that says what does not hold, and how to see it again."""
        gc.collect()
        gc.disable()
        try:
            with virtual_time(self.loop):
                self.loop.run_until_complete(self._main())
                self._watching.cancel()
            problems = [*self.loop.errors, *self.desk.violations]
            assert not problems, "\n".join(problems[:20])
        except (AssertionError, ShoalError, Stuck, RuntimeError) as error:
            last = "\n".join(self.lines[-40:])
            raise AssertionError(f"{error}\n{last}\nagain: make sim SEED={self.seed}") from error
        finally:
            self._bury()
            gc.enable()

    def _bury(self) -> None:
        for node in self.nodes:
            if node.life is not None:
                self.loop.kill(node.life)
                node.bury()
        self.loop.close()

    async def _main(self) -> None:
        members = [Member(node.name, self.rng.randbytes(16)) for node in self.nodes]
        for node, member in zip(self.nodes, members, strict=True):
            node.found(members, Identity("sim", node.name, member.incarnation))
            self.network.hosts[node.name] = node
            node.opened = self._watch
            node.start()
        self._watching = self.loop.create_task(self._look_after())
        await self._eventually(self._make_subscription, 30)
        pause_s = self.rng.choice((0.05, 0.1, 0.3))
        clients = [self.loop.create_task(client.run(self._is_quiet, pause_s)) for client in self.clients]
        work = [self.loop.create_task(self.consumers.consume(n, self._is_over, 0.1)) for n in range(2)]
        await self.faults.run(self.seconds, self.rng.choice((0.3, 1.0, 3.0)))
        await self.faults.heal()
        healed_s = self.loop.time()
        client = Client(self.desk, "last")
        for node in self.nodes:
            await self._eventually(lambda node=node: client.append(node), LIVELY_S)  # type: ignore[misc]
            await self._eventually(lambda node=node: client.read_all(node, "linearizable"), LIVELY_S)  # type: ignore[misc]
        self.trace(f"works again {self.loop.time() - healed_s:.1f} s after all was mended")
        await asyncio.sleep(1)
        self._quiet = self.consumers.careful = True
        await asyncio.gather(*clients)
        await self._eventually(self._is_drained, 60)
        self._over = True
        await asyncio.gather(*work)
        await self._judge()

    def _is_quiet(self) -> bool:
        return self._quiet

    def _is_over(self) -> bool:
        return self._over

    async def _look_after(self) -> None:
        while True:
            await asyncio.sleep(0.1)
            for node in self.nodes:
                if node.failure is not None and not isinstance(node.failure, DiskFull):
                    raise AssertionError(f"{node.name} ended by itself") from node.failure
                self.faults.look_after(node)

    async def _eventually(self, attempt: Callable[[], Awaitable[bool]], seconds: float) -> None:
        end_s = self.loop.time() + seconds
        while not await attempt():
            if self._watching.done():
                self._watching.result()
            assert self.loop.time() < end_s, f"{attempt} did not succeed in {seconds} s; {self._standing()}"
            await asyncio.sleep(0.1)

    async def _make_subscription(self) -> bool:
        try:
            await self.consumers.make(self.rng.choice(self.nodes))
        except ShoalError:
            return False
        return True

    async def _is_drained(self) -> bool:
        return any([await self.consumers.has_all(node) for node in self.nodes])

    def _standing(self) -> str:
        told = [
            f"{n.name}: {n.node.info() if n.node else 'opening' if n.opening else 'off'}" for n in self.nodes
        ]
        return "; ".join(told)

    # -- what must hold all the time ---------------------------------------------------------------

    def _watch(self, host: SimNode, node: Node) -> None:
        """Election safety, and state-machine safety by the entries that are handed out (paper, figure 3)."""
        driver = node.driver
        changed, take, propose = driver.changed, driver.take, driver.propose

        def on_change() -> None:
            if driver.core.role == "leader":
                known = self._leaders.setdefault(driver.term, host.name)
                if known != host.name:
                    self.desk.violations.append(f"{known} and {host.name} lead in term {driver.term}")
                self.trace(f"{host.name} leads in term {driver.term}")
            changed()

        def on_take(entries: Any) -> None:
            for entry in entries:
                self._committed(host, entry.index, entry.term, entry)
            take(entries)

        def on_propose(payload: bytes, done: Callable[[Any], None], *, use_reserve: bool = False) -> None:
            def on_done(outcome: Any) -> None:
                if isinstance(outcome, Proposed):
                    self._committed(
                        host, outcome.index, outcome.term, Entry(outcome.index, outcome.term, 1, payload)
                    )
                done(outcome)

            propose(payload, on_done, use_reserve=use_reserve)

        driver.changed, driver.take, driver.propose = on_change, on_take, on_propose  # type: ignore[method-assign]

    def _committed(self, host: SimNode, index: int, term: int, entry: Entry) -> None:
        told = (term, entry.data)
        if self._entries.setdefault(index, told) != told:
            self.desk.violations.append(f"{host.name} applied another entry {index} of term {term}")

    # -- what must hold at the end -----------------------------------------------------------------

    async def _judge(self) -> None:
        await self._eventually(self._all_have_all, LIVELY_S)
        final = [await self._everything(node) for node in self.nodes]
        tables = [await self._tables(node) for node in self.nodes]
        for node, events, rows in zip(self.nodes, final, tables, strict=True):
            assert events == final[0], f"{node.name} has other events than {self.nodes[0].name}"
            for table, found in rows.items():
                assert found == tables[0][table], (
                    f"{node.name} has another table {table}: {found} {tables[0][table]}"
                )
        violations = check(History(self.desk.operations, final[0]))
        assert not violations, "\n".join(violations)
        missing = [
            event.position
            for event in final[0]
            if not self.consumers.had[event.position] and event.stream_id != DELETED
        ]
        assert not missing, f"never delivered: {missing}"

    async def _all_have_all(self) -> bool:
        indexes = {node.node.sequencer.applied_index if node.node else -1 for node in self.nodes}
        commits = {node.node.driver.commit_index if node.node else -2 for node in self.nodes}
        return indexes == commits and len(indexes) == 1

    async def _everything(self, host: SimNode) -> list[Placed]:
        async def read(node: Node) -> list[Any]:
            events: list[Any] = []
            while True:
                page = await node.store(STORE).streams.read_events(
                    EventFilter(), events[-1].position if events else 0, 1_000, consistency="local"
                )
                events += page.events
                if not page.events:
                    return events

        return [place_of(event) for event in await self.desk.call(host, read)]

    async def _tables(self, host: SimNode) -> dict[str, Any]:
        async def dump(node: Node) -> dict[str, Any]:
            context: Any = node.store(STORE)._context
            result: dict[str, Any] = await context.read_applied(_rows)
            return result

        found: dict[str, Any] = await self.desk.call(host, dump)
        return found


def _rows(connection: Any) -> dict[str, Any]:
    tables = [
        row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY 1")
    ]
    return {
        table: connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall()
        for table in tables
        if table not in {"meta", "reclaim"}
    }


class Outcome(NamedTuple):
    """What became of a seed. `error` is empty where everything held."""

    seed: int
    error: str
    digest: str
    did: Counter[str]


def simulate(directory: Path, seed: int, **options: Any) -> Simulation:
    """Run one seed in a place of its own. Raises AssertionError."""
    simulation = Simulation(directory / str(seed), seed, **options)
    try:
        simulation.run()
    finally:
        shutil.rmtree(directory / str(seed), ignore_errors=True)
    return simulation


def outcomes(seeds: Sequence[int], mutant: str | None = None, *, enough: int = 1_000_000) -> list[Outcome]:
    """Run seeds until `enough` have failed; for a process of its own, whose loop the storage may block."""
    found = []
    with tempfile.TemporaryDirectory(dir=scratch_root()) as directory, applied(mutant):
        for seed in seeds:
            simulation = Simulation(Path(directory) / str(seed), seed)
            error = ""
            try:
                simulation.run()
            except AssertionError as failure:
                error = str(failure)
            shutil.rmtree(Path(directory) / str(seed), ignore_errors=True)
            did = simulation.desk.did + simulation.faults.did
            found.append(Outcome(seed, error, simulation.digest, did))
            enough -= bool(error)
            if not enough:
                break
    return found


def main(seed: int) -> None:
    """Show one seed."""
    with tempfile.TemporaryDirectory(dir=scratch_root()) as directory:
        simulation = Simulation(Path(directory), seed)
        error = ""
        try:
            simulation.run()
        except AssertionError as failure:
            error = str(failure)
    told = f"seed {seed} failed:\n{error}" if error else f"seed {seed}: everything held"
    sys.stdout.write("\n".join([*simulation.lines, f"digest {simulation.digest}", told, ""]))
    sys.exit(bool(error))


if __name__ == "__main__":
    main(int(sys.argv[1]))
