"""An empty board begins a group with others: bootstrap (consensus.md) driven on a node, its disk and its transport."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from shoal.cluster import promise
from shoal.cluster.bootstrap import Bootstrap, Candidate
from shoal.cluster.frames import FrameError
from shoal.cluster.transport import Transport
from shoal.cluster.words import PeerSeen
from shoal.node import Node
from shoal.raft.log import Member
from shoal.storage.workers import run_job


class Beginning:
    """`begun` gets the members of the group, once; `over` says that this board has a group, however it came to it."""

    def __init__(self, node: Node, transport: Transport, begun: Callable[[tuple[Member, ...]], None]) -> None:
        self._node = node
        self._transport = transport
        self._begun = begun
        self._bootstrap: Bootstrap | None = None
        self._saving = False

    async def begin(self, own: Candidate, expect: int) -> None:
        """Look for others, if so many are to begin together. Raises ConfigError for a promise that is damaged."""
        if expect > 1:
            granted = await run_job(self._node.helper, partial(promise.load_promise, self._data_dir))
            self._bootstrap = Bootstrap(own, expect, granted)

    def over(self) -> None:
        """This board has a group."""
        self._bootstrap = None

    @property
    def status(self) -> str:
        """What is waited for, in words; empty when nothing is."""
        return "" if self._bootstrap is None else self._bootstrap.status()

    @property
    def _data_dir(self) -> Path:
        return self._node.config.data_dir

    def seen(self, seen: PeerSeen) -> None:
        """A certified node said hello."""
        if self._bootstrap is not None:
            hello = seen.hello
            candidate = Candidate(
                hello.node_id,
                hello.incarnation,
                seen.key_hash,
                hello.addresses,
                hello.url,
                hello.empty,
                hello.cluster_id,
            )
            self._bootstrap.hear(candidate, self._now_ms())

    def lost(self, node_id: str) -> None:
        """Its process is gone."""
        if self._bootstrap is not None:
            self._bootstrap.lost(node_id, self._now_ms())

    def receive(self, sender: str, word: bytes) -> None:
        """A word of another board. Raises FrameError for what is none."""
        message = promise.decode(word)
        if message is None:
            raise FrameError("a word of beginning that is none")
        if self._bootstrap is not None:
            self._bootstrap.step(sender, message, self._now_ms())
            self._go_on()

    def tick(self) -> None:
        """Time has passed."""
        if self._bootstrap is not None:
            self._bootstrap.handle_deadline(self._now_ms())
            self._go_on()

    def _go_on(self) -> None:
        bootstrap = self._bootstrap
        if bootstrap is None or self._saving:
            return
        if bootstrap.to_save is not None:
            self._saving = True
            saving = bootstrap.to_save
            save = partial(promise.save_promise, self._data_dir, saving)
            self._node.helper.submit(save, partial(self._on_saved, saving))
            return
        for node_id, message in bootstrap.ready():
            self._transport.send(node_id, [promise.encode(message)])
        if bootstrap.begun is not None:
            self._bootstrap = None
            self._begun(bootstrap.begun)

    def _on_saved(self, saved: promise.Promise, outcome: object) -> None:
        self._saving = False
        if isinstance(outcome, BaseException):
            self._node.fail(outcome)
        elif self._bootstrap is not None:
            self._bootstrap.saved(saved)
            self._go_on()

    def _now_ms(self) -> int:
        return self._node.means.clock.monotonic_ms()
