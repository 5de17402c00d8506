"""A whole node in a simulation: it can lose its power, be stopped, have a bad disk and a wrong clock.

Its disk is a `PowerCutDisk`: journal and SQLite are the real ones, on real files in memory, and when the power goes
what was not synced meets the fate that the seed has for it (see DESIGN.md). Then a new life begins on what is left.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from shoal.clock import WallReading
from shoal.cluster.frames import Decoder, encode
from shoal.cluster.log_start import found_group
from shoal.config import Config
from shoal.node import Node
from shoal.peer_words import decode_message, encode_message
from shoal.raft.log import Member
from shoal.raft.messages import Message
from shoal.storage.files import RealFiles
from shoal.storage.journal import open_journal
from shoal.storage.means import Means
from shoal.storage.segment import Identity
from shoal.store.forwarding import Forward, Refused
from shoal.testing.clock import START_US
from shoal.testing.faulty_files import DiskFaults, FaultyFiles
from shoal.testing.power_cut import PowerCutDisk
from shoal.testing.power_cut_images import build_image
from shoal.testing.sim_loop import Life, SimLoop
from shoal.testing.sim_network import SimNetwork
from shoal.testing.sim_worker import SimWorker
from shoal.testing.write_log import WriteLog

CUT_WITHIN = ("journal", "writer")
"""Threads whose job may be cut in its midst: nobody reads what it writes before it has ended."""


class SimClock:
    """Of one board. `wall_us` is what its wall clock is off, `rate` how fast its crystal runs."""

    def __init__(self, loop: SimLoop, rng: random.Random) -> None:
        self._loop = loop
        self._rate = 1 + rng.uniform(-0.001, 0.001)
        self._booted_s = loop.time() - rng.uniform(0, 1_000)
        self.wall_us = rng.choice((0, 0, rng.randint(-10_000_000, 10_000_000)))
        self.quality: Any = "ntp"

    def monotonic_ms(self) -> int:
        """See shoal.clock.Clock."""
        return int((self._loop.time() - self._booted_s) * self._rate * 1_000)

    def wall(self) -> WallReading:
        """See shoal.clock.Clock."""
        return WallReading(START_US + int(self._loop.time() * 1e6) + self.wall_us, self.quality)

    def epoch_ms(self) -> int:
        """See shoal.clock.Clock."""
        return self.wall().epoch_us // 1_000


class _Means(Means):
    """As given, and `node` once it is made."""

    node: _Kept | None = None


class _Kept(Node):
    """A node that can be had before it is open."""

    def __init__(self, config: Config, means: Means) -> None:
        super().__init__(config, means)
        if isinstance(means, _Means):
            means.node = self

    def let_go(self) -> None:
        """Close files and connections, whatever state they are in."""
        self._abandon()


class SimNode:
    """One board, over all its lives. `node` is there while it is open."""

    def __init__(
        self,
        loop: SimLoop,
        network: SimNetwork,
        rng: random.Random,
        config: Config,
        *,
        trace: Callable[[str], None],
    ) -> None:
        if config.node_id is None:
            raise ValueError("a simulated node needs a node_id")
        self.name = config.node_id
        self.rng = rng
        self.clock = SimClock(loop, rng)
        self.usual = DiskFaults(sync_delay_ms=rng.choice((0.05, 1, 10, 40)))
        self.faults = self.usual
        """How its disk is now; `usual` where nothing is wrong with it."""
        self.life: Life | None = None
        self.node: Node | None = None
        self.opening = False
        self.opened: Callable[[SimNode, Node], None] = _nobody
        """Hears of each node that has opened."""
        self.lives = 0
        self.hears_of_breaks = rng.random() < 0.5
        """Whether the core is told of broken connections: it must do without."""
        self.failure: BaseException | None = None
        """Why the last life ended by itself."""
        self._loop = loop
        self._network = network
        self._config = config
        self._trace = trace
        self._place = config.data_dir
        self._disk: PowerCutDisk | None = None
        self._workers: dict[str, SimWorker] = {}
        self._means: _Means | None = None
        self._graves: list[Any] = []

    # -- beginning -------------------------------------------------------------------------------

    def found(self, members: list[Member], identity: Identity) -> None:
        """Make the journal with the configuration that the group begins with."""
        directory = self._directory() / "journal"
        journal = open_journal(
            RealFiles(),
            directory,
            lambda: identity,
            segment_bytes=self._config.storage.segment_bytes,
            floor_bytes=0,
            may_create=True,
        )
        found_group(journal, members)
        journal.close()

    @property
    def listening(self) -> Life | None:
        """See Host."""
        return None if self.node is None else self.life

    def _directory(self) -> Path:
        return self._place / str(self.lives)

    def start(self) -> None:
        """Begin a life. It can be used once `node` is there; `failure` says when it could not."""
        life = self.life = Life(self.name)
        self.opening, self.failure = True, None
        self._disk = PowerCutDisk(self._directory())
        self._workers = {}
        self._means = _Means(
            clock=self.clock,
            files=FaultyFiles(self._say_faults, self._disk.files, self._sleep),
            workers=self._make_worker,
            entropy=self.rng.randbytes,
            vfs=self._disk.vfs_name,
        )
        self._loop.spawn(life, self._live(life, self._means))

    async def _live(self, life: Life, means: Means) -> None:
        config = msgspec.structs.replace(self._config, data_dir=self._directory())
        try:
            node = await _Kept.open(config, means=means)
        except Exception as error:  # noqa: BLE001 - told to the simulation
            self._end_by_itself(life, error)
            return
        node.driver.peers = _Wire(self._network, life)
        node.sequencer.followers.refuse = node.driver.peers.send
        self.node, self.opening = node, False
        self.opened(self, node)
        node.failed.add_done_callback(lambda failed: self._end_by_itself(life, failed.exception()))

    def _end_by_itself(self, life: Life, error: BaseException | None) -> None:
        if life is self.life and not life.dead:
            self._trace(f"{self.name} ends: {error!r}")
            self.failure = error
            self.opening = False

    # -- what the network tells --------------------------------------------------------------------

    def connected(self, _peer: str) -> None:
        """See Host."""
        if self.node is not None:
            self.node.driver.pace.trip_ms = 2_000 * self._network.rest_s()

    def broken(self, peer: str) -> None:
        """See Host."""
        if self.node is not None and self.hears_of_breaks:
            self.node.driver.unreachable(peer)
            self.node.sequencer.connection_broke()

    def gone(self, peer: str) -> None:
        """See Host."""
        if self.node is not None:
            self.node.driver.lost(peer)

    def received(self, peer: str, frame: bytes) -> None:
        """See Host."""
        node = self.node
        if node is None:
            return
        (value,) = Decoder().feed(frame)
        message = decode_message(value)
        if isinstance(message, Forward):
            node.sequencer.followers.take(peer, message)
        elif isinstance(message, Refused):
            node.sequencer.hear_refusal(message)
        elif isinstance(message, Message):
            node.driver.receive(peer, message)

    # -- disk and threads --------------------------------------------------------------------------

    def _say_faults(self) -> DiskFaults:
        return self.faults

    def _sleep(self, seconds: float) -> None:
        self._loop.spent_s += seconds

    def _make_worker(self, name: str, threads: int) -> SimWorker:
        if self._disk is None or self.life is None:
            raise RuntimeError("a worker of no life")
        entries = self._disk.log.entries
        worker = SimWorker(self._loop, self.life, self.rng, threads=threads, written=lambda: len(entries))
        self._workers[name] = worker
        return worker

    # -- ending ------------------------------------------------------------------------------------

    def power_off(self) -> None:
        """Lose all that was not synced, each write by the fate that is drawn for its file."""
        if self.life is None or self._disk is None:
            return
        self._loop.kill(self.life)
        log = WriteLog(self._left(self._disk.log.entries), self._disk.log.start)
        old = self._directory()
        self.lives += 1
        image = build_image(log, self._directory(), len(log.entries), self.rng.getrandbits(32))
        self._trace(f"{self.name} loses power; {image.describe()}")
        self.bury()
        shutil.rmtree(old)

    def _left(self, entries: list[Any]) -> list[Any]:
        """The log without the ends of jobs that were under way."""
        left: list[Any] = list(entries)
        for name in CUT_WITHIN:
            worker = self._workers.get(name)
            for began, end in () if worker is None else worker.running.values():
                for at in range(self.rng.randint(began, end), end):
                    left[at] = None
        return [entry for entry in left if entry is not None]

    async def stop(self) -> None:
        """End as a person has it end: hand over, answer, commit. To be awaited in the life of the node."""
        if self.node is not None:
            await self.node.driver.hand_over(2.0)
            await self.node.close()

    def closed(self) -> None:
        """After `stop`: the files are what the next life begins with."""
        if self.life is not None:
            self._loop.kill(self.life)
        old = self._directory()
        self.lives += 1
        shutil.copytree(old, self._directory(), ignore=shutil.ignore_patterns("*-shm", "LOCK"))
        self.bury()
        shutil.rmtree(old)

    def bury(self) -> None:
        """Close what a life had open; the directory stays."""
        node = None if self._means is None else self._means.node
        if node is not None:
            with suppress(Exception):
                node.let_go()
        if self._disk is not None:
            self._disk.files.close_all()
            self._disk.close()
        # Kept, so that nothing of it is collected, and runs to its end, in the midst of another life.
        self._graves.append((self.life, self._means, self._workers))
        self.life = self.node = self._disk = self._means = None
        self.opening = False


class _Wire:
    """See shoal.cluster.driver.Peers."""

    def __init__(self, network: SimNetwork, life: Life) -> None:
        self._network = network
        self._life = life

    def send(self, node_id: str, value: Any, *, bulk: bool = False) -> bool:
        return self._network.send(self._life, node_id, encode(encode_message(value)), bulk=bulk)


def _nobody(_host: SimNode, _node: Node) -> None:
    """Nobody wants to know."""
