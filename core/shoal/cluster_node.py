"""A node among others: the node, its transport and what they find of each other, as one.

The node itself (`shoal.node`) knows of peers only that messages can be sent to them. Here its group gets a network: who
is dialled is who is in the configuration, who is trusted is too, an empty board begins a group with others or waits
to be added, and members are added, promoted and removed.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, Final, Self

import msgspec

from shoal.beginning import Beginning
from shoal.catch_up import CatchUp, CopyWord
from shoal.clock import Clock
from shoal.cluster.addresses import reachable_addresses
from shoal.cluster.bootstrap import Candidate
from shoal.cluster.enroller import Enroller, can_enrol
from shoal.cluster.frames import FrameError
from shoal.cluster.identity import Identity, load_identity
from shoal.cluster.key_watch import KeyWatch
from shoal.cluster.members import Members, where
from shoal.cluster.transport import Transport
from shoal.cluster.views import cluster_view
from shoal.cluster.watch import Watch
from shoal.cluster.words import FEATURE_LEVEL, PROTOCOL_VERSION, Hello, PeerSeen
from shoal.config import Config
from shoal.errors import ConfigError, NoLeader, StorageError, Unavailable
from shoal.node import Means, Node
from shoal.peer_words import decode_message, encode_message
from shoal.raft.log import Member
from shoal.raft.member_keys import holds_key
from shoal.store.forwarding import Forward, Refused

TICK_S: Final = 1.0
DEFAULT_PEER_LISTEN: Final = "0.0.0.0:4590"
HAND_OVER_S: Final = 2.0


class _Wire:
    """See shoal.cluster.driver.Peers."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def send(self, node_id: str, value: Any, *, bulk: bool = False) -> bool:
        return self._transport.send(node_id, encode_message(value), bulk=bulk)


class ClusterNode:
    """Make with `open`, then `start`; use as `async with`. `hints` gives addresses where other nodes may be."""

    def __init__(
        self, config: Config, node: Node, identity: Identity, tls_dir: Path, *, enrols: bool = False
    ) -> None:
        self.config = config
        self._tls_dir = tls_dir
        self.node = node
        self._identity = identity
        self._driver = node.driver
        self._loop = asyncio.get_running_loop()
        self._works: set[asyncio.Task[None]] = set()
        self._moved = asyncio.Event()
        self._tending: asyncio.Task[None] | None = None
        self.must_reopen = asyncio.Event()
        """A copy waits to be installed: whoever runs this node is to close it, and to open it again."""
        self.peer_http: Callable[[], asyncio.Protocol] = asyncio.Protocol
        """Makes what serves HTTP to other members."""
        self._copies = CatchUp(node, self._driver.send_bulk, self.must_reopen.set)
        self.hints: Callable[[], Sequence[str]] = lambda: config.seeds
        self.on_member: Callable[[str, Sequence[str]], None] = _nobody
        """Hears where a member was reached."""
        self._enroller = self._make_enroller() if enrols else None
        self.transport = Transport(
            identity,
            self._hello,
            refusal=lambda seen: self.members.refusal(seen),  # noqa: PLW0108 - made below
            received=self._received,
            seen=self._on_seen,
            lost=self._on_lost,
            broken=self._on_broken,
            refused=lambda node_id, reason: self.watch.refused(node_id, reason),  # noqa: PLW0108 - made below
            clock=node.means.clock,
            random=node.random,
            enrol=None if self._enroller is None else self._enroller.protocol,
            http=lambda: self.peer_http(),  # noqa: PLW0108 - set after the transport is made
        )
        self.members = Members(
            node.driver,
            identity,
            node.random,
            probe=self.transport.probe,
            alive=self.is_alive,
            now_ms=node.means.clock.monotonic_ms,
        )
        self.watch = Watch(
            node.driver,
            self.members,
            node.means.clock,
            applied=lambda: node.journal_only.applied_index,
            beginning=lambda: self._beginning.status,
            has_store=lambda: bool(node.stores) or node.driver.core.is_witness,
        )
        self.members.goes_on_without = lambda: self.watch.removed
        self._beginning = Beginning(node, self.transport, self._begin_group)

    def _make_enroller(self) -> Enroller:
        return Enroller(
            self._tls_dir,
            lambda: self.transport.identity.key_hash,
            clock=self.node.means.clock,
            taken=lambda node_id, key_hash: self.members.has_other_key(node_id, key_hash),  # noqa: PLW0108 - made later
        )

    def _use_identity(self, identity: Identity) -> None:
        """The node has another key or other authorities; what it had is used until the members know."""
        self.transport.reload(identity)
        self._identity = self.members.identity = identity

    def _begin_group(self, members: Sequence[Member]) -> None:
        self._run(self._driver.begin_group(members, self.node.random))

    # -- opening ---------------------------------------------------------------------------------

    @classmethod
    async def open(
        cls, config: Config, *, means: Means | None = None, clock: Clock | None = None
    ) -> ClusterNode:
        """Open the node that the certificate in `config.tls_dir` names. Raises ConfigError, and as Node.open."""
        tls_dir = config.tls_dir
        if tls_dir is None:
            raise ConfigError(
                "tls_dir", "name the directory of this board's keys, or make one: shoal ca --help"
            )
        identity = await asyncio.to_thread(load_identity, tls_dir)
        for key, given, certified in (
            ("cluster_id", config.cluster_id, identity.cluster_id),
            ("node_id", config.node_id, identity.node_id),
        ):
            if given not in {None, certified}:
                raise ConfigError(key, f"is {given!r}, but {tls_dir} holds the certificate of {certified!r}")
        config = msgspec.structs.replace(config, cluster_id=identity.cluster_id, node_id=identity.node_id)
        node = await Node.open(config, means=means, clock=clock)
        try:
            _require_own_data(node, identity)
            _require_release(node)
            enrols = await asyncio.to_thread(can_enrol, tls_dir)
            return cls(config, node, identity, tls_dir, enrols=enrols)
        except BaseException:
            await node.close()
            raise

    async def start(self, urls: Sequence[str]) -> None:
        """Listen for peers, and begin; `urls` are where clients reach this node. Raises ConfigError."""
        wanted = self.config.peer_listen or DEFAULT_PEER_LISTEN
        try:
            host, port = await self.transport.listen(wanted)
        except (OSError, ValueError) as error:
            raise ConfigError("peer_listen", f"cannot listen on {wanted}: {error}") from error
        self.members.addresses = reachable_addresses(host, port)
        self.members.url = urls[0] if urls else ""
        driver, node = self._driver, self.node
        driver.peers = _Wire(self.transport)
        driver.behind = self._copies.fetch
        node.sequencer.followers.refuse = driver.peers.send
        node.leadership.on_change += [self._on_change, self._on_moved]
        node.leadership.why_leaderless = self._why_leaderless
        if not self.members.configuration.members:
            own = Candidate(
                self._driver.own.node_id,
                self._driver.own.incarnation,
                self._identity.key_hash,
                self.members.addresses,
                self.members.url,
                cluster_id=self._identity.cluster_id,
            )
            await self._beginning.begin(own, self.config.begins_with)
        self._on_change()
        self._run(self._tick())
        self._run(KeyWatch(self._tls_dir, self._use_identity).run())

    async def __aenter__(self) -> Self:
        """The node itself."""
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Close."""
        await self.close()

    async def close(self) -> None:
        """Hand leadership over, answer what was taken, and leave."""
        await self._driver.hand_over(HAND_OVER_S)
        for work in self._works:
            work.cancel()
        if self._tending is not None:
            self._tending.cancel()
        if self._enroller is not None:
            await self._enroller.close()
        await self._copies.close()
        await self.node.close()
        await self.transport.close()

    # -- who is who ------------------------------------------------------------------------------

    def _hello(self) -> Hello:
        own = self._driver.own
        empty = not self.members.configuration.members
        return Hello(
            PROTOCOL_VERSION,
            self._identity.cluster_id,
            own.node_id,
            own.incarnation,
            self.members.addresses,
            self.members.url,
            empty,
            FEATURE_LEVEL,
        )

    def _on_seen(self, seen: PeerSeen) -> None:
        if self.members.meet(seen):
            if self.members.find(seen.hello.node_id) is not None:
                self.on_member(seen.hello.node_id, where(seen))
            self._beginning.seen(seen)
            self._dial()

    def _on_lost(self, node_id: str) -> None:
        self._driver.lost(node_id)
        if not self.members.configuration.members:
            self.members.met.pop(node_id, None)
        self._beginning.lost(node_id)

    def _dial(self) -> None:
        self.transport.dial(self.members.where())

    def where(self) -> tuple[str, str]:
        """See shoal.http.passing.Leader."""
        leader = self._driver.leader
        if leader is None:
            raise self._why_leaderless()
        if leader == self._driver.own.node_id:
            raise NoLeader("this board has just become the leader: try again")
        address = self.transport.address_of(leader)
        if address is None:
            raise NoLeader(f"the leader, {leader}, cannot be reached from here", leader=leader)
        return leader, address

    def _why_leaderless(self) -> Unavailable:
        return self.watch.obstacle() or NoLeader("no leader is known just now: try again")

    async def until_other(self, node_id: str) -> None:
        """See shoal.http.passing.Leader."""
        while True:
            try:
                if self.where()[0] != node_id:
                    return
            except NoLeader:
                return
            await self._moved.wait()

    def http_context(self) -> ssl.SSLContext:
        """See shoal.http.passing.Leader."""
        return self.transport.http_context()

    def answers_as(self, node_id: str, certificate: bytes | None) -> bool:
        """See shoal.http.passing.Leader."""
        return self.transport.vouches(node_id, certificate)

    # -- messages --------------------------------------------------------------------------------

    def _received(self, sender: str, value: Any) -> None:
        if isinstance(value, list) and len(value) == 1 and isinstance(value[0], bytes):
            self._beginning.receive(sender, value[0])
            return
        message = decode_message(value)
        if isinstance(message, Forward):
            try:
                self.node.sequencer.followers.take(sender, message)
            except ValueError as error:
                raise FrameError(str(error)) from error
        elif isinstance(message, Refused):
            self.node.sequencer.hear_refusal(message)
        elif isinstance(message, CopyWord):
            self._copies.hear(sender, message)
        else:
            self._driver.receive(sender, message)

    # -- time ------------------------------------------------------------------------------------

    def _now_ms(self) -> int:
        return self.node.means.clock.monotonic_ms()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self._measure()
            self._on_change()  # a change of members is committed, or a board has moved
            self.watch.tick()
            if self.members.configuration.members:
                self._beginning.over()  # a member that had begun may have been quicker with the first entry
            self._beginning.tick()
            if (leader := self._driver.leader) is not None and self._driver.core.hollow:
                self._copies.fetch(leader)
            self._look_around()
            self._show_key()
            if self._driver.serves and (self._tending is None or self._tending.done()):
                self._tending = self._loop.create_task(self.members.tend())

    def _measure(self) -> None:
        trips = [self.transport.rtt_ms(m.node_id) for m in self.members.configuration.members]
        self._driver.pace.trip_ms = max((trip_ms for trip_ms in trips if trip_ms is not None), default=0.0)

    def _look_around(self) -> None:
        """Ask at addresses where members that cannot be reached, or boards to begin with, may be."""
        missing = [m for m in self.members.configuration.members if m.node_id != self._driver.own.node_id]
        if not missing or any(not self.transport.connected(m.node_id) for m in missing):
            self.transport.probe([a for a in self.hints() if a not in self.members.addresses])

    def _show_key(self) -> None:
        """A key that is in use is brought before the leader, so that the one before it counts no more."""
        own = self.members.find(self._driver.own.node_id)
        leader = self._driver.leader
        if own is not None and leader is not None and not holds_key(own, self._identity.key_hash):
            address = self.transport.address_of(leader)
            self.transport.probe([] if address is None else [address])

    def is_alive(self, node_id: str) -> bool:
        """Whether the node is this one, or a connection to it stands."""
        return node_id == self._driver.own.node_id or self.transport.connected(node_id)

    def _on_moved(self) -> None:
        """Who leads, or the way there, may be another."""
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    def _on_broken(self, node_id: str) -> None:
        self._driver.unreachable(node_id)
        self.node.sequencer.connection_broke()
        self._on_moved()

    def _on_change(self) -> None:
        self._dial()
        self.transport.recheck()

    def _run(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Without this work the node cannot go on."""
        task = self._loop.create_task(work)
        self._works.add(task)
        task.add_done_callback(self._on_work_done)
        return task

    def _on_work_done(self, task: asyncio.Task[None]) -> None:
        self._works.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self.node.fail(error)

    # -- shoal.http.context.ServedCluster --------------------------------------------------------

    def obstacle(self) -> Unavailable | None:
        """Why this node cannot serve what is asked of it; None when it can."""
        return self.watch.obstacle()

    @property
    def lag_ms(self) -> int:
        """For how long this node has lacked something that was committed."""
        return self.watch.lag_ms

    def stats(self) -> dict[str, float]:
        """Numbers for metrics."""
        return self.watch.stats()

    def view(self) -> dict[str, Any]:
        """The cluster as this node sees it; see api.md, `GET /v1/cluster`."""
        obstacle = self.watch.obstacle()
        return cluster_view(
            self.node.info(),
            self._driver.core,
            self._identity.cluster_id,
            alive=self.is_alive,
            strangers=self.members.strangers(),
            removed=self.watch.removed,
            status=self.node.journal_only.status or ("" if obstacle is None else obstacle.detail),
        )


def _require_release(node: Node) -> None:
    """A release that does not understand what may be in the log is not to guess at it. Raises StorageError."""
    level = node.driver.core.configuration.feature_level
    if level > FEATURE_LEVEL:
        raise StorageError(
            f"the cluster is at feature level {level}, and this release of shoal understands {FEATURE_LEVEL}: install "
            "the release that the other boards run"
        )


def _require_own_data(node: Node, identity: Identity) -> None:
    """A directory with the data of another cluster, or of another node, is not touched. Raises ConfigError."""
    info = node.info()
    if (info["cluster_id"], info["node_id"]) != (identity.cluster_id, identity.node_id):
        raise ConfigError(
            "data_dir",
            f"{info['data_dir']} holds the data of node {info['node_id']!r} of cluster {info['cluster_id']!r}, and the "
            f"certificate is for {identity.node_id!r} of {identity.cluster_id!r}.\nTo make a cluster of this board: "
            f"shoal ca init --cluster-id {info['cluster_id']}, then a certificate for {info['node_id']}.\n"
            "To give its events to another cluster: shoal cluster add --adopt",
        )


def _nobody(_node_id: str, _addresses: Sequence[str]) -> None:
    """Nobody keeps addresses."""
