"""A node among others: the node, its transport and what they find of each other, as one.

The node itself (`shoal.node`) knows of peers only that messages can be sent to them. Here its group gets a network: who
is dialled is who is in the configuration, who is trusted is too, an empty board begins a group with others or waits
to be added, and members are added, promoted and removed.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Self

import msgspec

from shoal import telemetry
from shoal.beginning import Beginning
from shoal.catch_up import CatchUp, CopyWord
from shoal.clock import Clock
from shoal.cluster.addresses import reachable_addresses
from shoal.cluster.bootstrap import Candidate
from shoal.cluster.frames import FrameError, pack, unpack
from shoal.cluster.identity import Identity, load_identity
from shoal.cluster.transport import Transport
from shoal.cluster.views import cluster_view
from shoal.cluster.words import PROTOCOL_VERSION, Hello, PeerSeen
from shoal.config import Config
from shoal.errors import ConfigError, InvalidRequest, NoLeader, NotFound
from shoal.node import Means, Node
from shoal.raft import membership
from shoal.raft.errors import ChangeRefused
from shoal.raft.log import Configuration, Member
from shoal.raft.messages import Message
from shoal.store.forwarding import Forward, Refused

TICK_S: Final = 1.0
DEFAULT_PEER_LISTEN: Final = "0.0.0.0:4590"
FEATURE_LEVEL: Final = 1
"""Which entries this release understands."""
CAUGHT_UP_ENTRIES: Final = 64
"""A learner that lacks no more than this becomes a voter."""
HAND_OVER_S: Final = 2.0
CANDIDATES_MAX: Final = 64

AnyMessage = Message | Forward | Refused | CopyWord

_log = logging.getLogger("shoal.cluster")


class _Wire:
    """See shoal.cluster.driver.Peers."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def send(self, node_id: str, value: Any, *, bulk: bool = False) -> bool:
        return self._transport.send(node_id, pack(value), bulk=bulk)


class ClusterNode:
    """Make with `open`, then `start`; use as `async with`. `hints` gives addresses where other nodes may be."""

    def __init__(self, config: Config, node: Node, identity: Identity) -> None:
        self.config = config
        self.node = node
        self._identity = identity
        self._driver = node.driver
        self._loop = asyncio.get_running_loop()
        self._candidates: dict[str, PeerSeen] = {}
        self._alive: set[str] = set()
        self._ticking: asyncio.Task[None] | None = None
        self._changing: asyncio.Task[None] | None = None
        self.must_reopen = asyncio.Event()
        """A copy waits to be installed: whoever runs this node is to close it, and to open it again."""
        self.peer_http: Callable[[], asyncio.Protocol] = asyncio.Protocol
        """Makes what serves HTTP to other members."""
        self._copies = CatchUp(node, self._send_bulk, self.must_reopen.set)
        self.addresses: tuple[str, ...] = ()
        self._url = ""
        self.hints: Callable[[], Sequence[str]] = lambda: config.seeds
        self.on_member: Callable[[str, Sequence[str]], None] = _nobody
        """Hears where a member was reached."""
        self.transport = Transport(
            identity,
            self._hello,
            trusted=self._trusted,
            received=self._received,
            seen=self._on_seen,
            lost=self._on_lost,
            clock=node.means.clock,
            random=node.random,
            http=lambda: self.peer_http(),  # noqa: PLW0108 - set after the transport is made
        )
        self._beginning = Beginning(node, self.transport, self._begin_group)

    def _begin_group(self, members: Sequence[Member]) -> None:
        self._run(self._driver.begin_group(members, self.node.random))

    # -- opening ---------------------------------------------------------------------------------

    @classmethod
    async def open(
        cls, config: Config, *, means: Means | None = None, clock: Clock | None = None
    ) -> ClusterNode:
        """Open the node that the certificate in `config.tls_dir` names. Raises ConfigError, and as Node.open."""
        if config.tls_dir is None:
            raise ConfigError(
                "tls_dir", "name the directory of this board's keys, or make one: shoal ca --help"
            )
        identity = await asyncio.to_thread(load_identity, config.tls_dir)
        for key, given, certified in (
            ("cluster_id", config.cluster_id, identity.cluster_id),
            ("node_id", config.node_id, identity.node_id),
        ):
            if given not in {None, certified}:
                raise ConfigError(
                    key, f"is {given!r}, but {config.tls_dir} holds the certificate of {certified!r}"
                )
        config = msgspec.structs.replace(config, cluster_id=identity.cluster_id, node_id=identity.node_id)
        node = await Node.open(config, means=means, clock=clock)
        try:
            _require_own_data(node, identity)
            return cls(config, node, identity)
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
        self.addresses = reachable_addresses(host, port)
        self._url = urls[0] if urls else ""
        driver, node = self._driver, self.node
        driver.peers = _Wire(self.transport)
        driver.behind = self._copies.fetch
        node.sequencer.followers.refuse = driver.peers.send
        node.leadership.on_change.append(self._on_change)
        if not self._configuration.members:
            own = Candidate(
                self._driver.own.node_id,
                self._driver.own.incarnation,
                self._identity.key_hash,
                self.addresses,
                self._url,
                cluster_id=self._identity.cluster_id,
            )
            await self._beginning.begin(own, self.config.bootstrap_expect)
        self._on_change()
        self._ticking = self._loop.create_task(self._tick())

    async def __aenter__(self) -> Self:
        """The node itself."""
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Close."""
        await self.close()

    async def close(self) -> None:
        """Hand leadership over, answer what was taken, and leave."""
        await self._driver.hand_over(HAND_OVER_S)
        if self._ticking is not None:
            self._ticking.cancel()
        if self._changing is not None:
            self._changing.cancel()
        await self._copies.close()
        await self.node.close()
        await self.transport.close()

    # -- who is who ------------------------------------------------------------------------------

    @property
    def _configuration(self) -> Configuration:
        return self._driver.core.configuration

    def _member(self, node_id: str) -> Member | None:
        return next((m for m in self._configuration.members if m.node_id == node_id), None)

    def _hello(self) -> Hello:
        own = self._driver.own
        empty = not self._configuration.members
        return Hello(
            PROTOCOL_VERSION,
            self._identity.cluster_id,
            own.node_id,
            own.incarnation,
            self.addresses,
            self._url,
            empty,
            FEATURE_LEVEL,
        )

    def _trusted(self, seen: PeerSeen) -> bool:
        """Membership decides. A board that knows no members yet hears every node that its authority has certified."""
        if not self._configuration.members:
            return True
        member = self._member(seen.hello.node_id)
        return (
            member is not None
            and member.incarnation == seen.hello.incarnation
            and holds_key(member, seen.key_hash)
        )

    def _on_seen(self, seen: PeerSeen) -> None:
        hello = seen.hello
        if hello.node_id not in self._candidates and len(self._candidates) >= CANDIDATES_MAX:
            return
        self._candidates[hello.node_id] = seen
        if self._member(hello.node_id) is not None:
            self.on_member(hello.node_id, self._where(seen))
        self._beginning.seen(seen)
        self._dial()

    def _on_lost(self, node_id: str) -> None:
        self._driver.lost(node_id)
        if not self._configuration.members:
            self._candidates.pop(node_id, None)
        self._beginning.lost(node_id)

    def _dial(self) -> None:
        """Connect to the members; a board without any, to whom it has met."""
        members = self._configuration.members
        if members:
            where = {
                m.node_id: self._addresses_of(m) for m in members if m.node_id != self._driver.own.node_id
            }
        else:
            where = {node_id: self._where(seen) for node_id, seen in self._candidates.items()}
        self.transport.dial(where)

    @staticmethod
    def _where(seen: PeerSeen) -> tuple[str, ...]:
        """Where it says it is; a connection that it dialled came from a port where nobody listens."""
        return seen.hello.addresses or (seen.address,)

    def _addresses_of(self, member: Member) -> tuple[str, ...]:
        """Where it says it is now, then where it was."""
        seen = self._candidates.get(member.node_id)
        now = (
            seen.hello.addresses if seen is not None and seen.hello.incarnation == member.incarnation else ()
        )
        return tuple(dict.fromkeys((*now, *member.addresses)))

    def where(self) -> tuple[str, str]:
        """See shoal.http.passing.Leader."""
        leader = self._driver.leader
        if leader is None or leader == self._driver.own.node_id:
            raise NoLeader("no leader is known just now, try again")
        address = self.transport.address_of(leader)
        if address is None:
            raise NoLeader(f"the leader, {leader}, cannot be reached from here", leader=leader)
        return leader, address

    def http_context(self) -> ssl.SSLContext:
        """See shoal.http.passing.Leader."""
        return self.transport.http_context()

    # -- messages --------------------------------------------------------------------------------

    def _send_bulk(self, node_id: str, value: Any) -> bool:
        return self._driver.peers.send(node_id, value, bulk=True)

    def _received(self, sender: str, value: Any) -> None:
        if isinstance(value, bytes):
            self._beginning.receive(sender, value)
            return
        message = unpack(value, AnyMessage)
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
            self._tell_who_is_alive()
            if self._configuration.members:
                self._beginning.over()  # a member that had begun may have been quicker with the first entry
            self._beginning.tick()
            self._look_around()
            if self._driver.serves and (self._changing is None or self._changing.done()):
                self._changing = self._loop.create_task(self._tend())

    def _measure(self) -> None:
        trips = [self.transport.rtt_ms(m.node_id) for m in self._configuration.members]
        self._driver.pace.trip_ms = max((trip_ms for trip_ms in trips if trip_ms is not None), default=0.0)

    def _look_around(self) -> None:
        """Ask at addresses where members that cannot be reached, or boards to begin with, may be."""
        missing = [m for m in self._configuration.members if m.node_id != self._driver.own.node_id]
        if not missing or any(not self.transport.connected(m.node_id) for m in missing):
            self.transport.probe([a for a in self.hints() if a not in self.addresses])

    def _tell_who_is_alive(self) -> None:
        alive = {m.node_id for m in self._configuration.members if self.is_alive(m.node_id)}
        for node_id in alive - self._alive:
            self._tell(telemetry.CLUSTER_NODE_UP, node_id, len(alive))
        for node_id in self._alive - alive:
            member = self._member(node_id)
            reason = "removed" if member is None else "unreachable"
            self._tell(telemetry.CLUSTER_NODE_DOWN, node_id, len(alive), reason=reason)
        self._alive = alive

    def _tell(self, event: telemetry.EventName, node_id: str, count: int, **more: Any) -> None:
        if node_id != self._driver.own.node_id:
            told = {"store_id": "*", "node": node_id, "member_count": count, **more}
            telemetry.emit(event, {"system_time": telemetry.system_time()}, told)

    def is_alive(self, node_id: str) -> bool:
        """Whether the node is this one, or a connection to it stands."""
        return node_id == self._driver.own.node_id or self.transport.connected(node_id)

    def _on_change(self) -> None:
        self._dial()
        self.transport.recheck()

    def _run(self, work: Any) -> None:
        task = self._loop.create_task(work)
        task.add_done_callback(self._on_work_done)
        self._work = task

    def _on_work_done(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self.node.fail(error)

    # -- members ---------------------------------------------------------------------------------

    async def _tend(self) -> None:
        """The leader keeps the configuration as the members are: caught-up learners vote, moved boards are found."""
        try:
            for change in self._due_changes():
                await self._driver.change(change)
                return
        except (ChangeRefused, NoLeader) as error:
            _log.info("members: %s", error)

    def _due_changes(self) -> Iterable[Configuration]:
        configuration = self._configuration
        followers = self._driver.core.followers()
        for member in configuration.members:
            told = self._told(member)
            if told != member:
                yield membership.with_member(configuration, told)
            matched = followers.get(member.node_id, (0, 0))[0]
            lag = self._driver.commit_index - matched
            if not member.voter and not member.stays_learner and matched > 0 and lag <= CAUGHT_UP_ENTRIES:
                yield membership.with_voter(configuration, member.node_id)

    def _told(self, member: Member) -> Member:
        """The member with the key and addresses that it has now."""
        if member.node_id == self._driver.own.node_id:
            key_hash, addresses, url = self._identity.key_hash, self.addresses, self._url
        else:
            seen = self._candidates.get(member.node_id)
            if seen is None or seen.hello.incarnation != member.incarnation:
                return member
            key_hash, addresses, url = seen.key_hash, seen.hello.addresses, seen.hello.url
        key_hash = member.key_hash if holds_key(member, key_hash) and member.key_hash else key_hash
        return msgspec.structs.replace(member, key_hash=key_hash, addresses=addresses, url=url)

    async def add(self, node_id: str, address: str | None = None, role: str = "voter") -> None:
        """Add an empty board that was met: it learns first, and votes when it has caught up.

        Raises NotFound when it was not met, NoLeader, ChangeRefused.
        """
        if address is not None and node_id not in self._candidates:
            self.transport.probe([address])
            await asyncio.sleep(TICK_S)
        seen = self._candidates.get(node_id)
        if seen is None:
            met = ", ".join(sorted(self._candidates)) or "none"
            raise NotFound(f"board {node_id!r} was not met on the network; met were: {met}", node_id=node_id)
        if not seen.hello.empty and self._member(node_id) is None:
            raise InvalidRequest(
                f"board {node_id!r} holds data of its own: add it with --adopt, or empty its data directory",
                pointer="node_id",
            )
        hello = seen.hello
        learner = Member(
            node_id,
            hello.incarnation,
            voter=False,
            key_hash=seen.key_hash,
            addresses=tuple(
                dict.fromkeys((*hello.addresses, *([seen.address] if not hello.addresses else [])))
            ),
            url=hello.url,
            witness=role == "witness",
            stays_learner=role == "learner",
        )
        await self._change(membership.with_learner(self._configuration, learner))

    async def remove(self, node_id: str) -> None:
        """Remove a member, also the leader, also one that is gone. Raises NoLeader, ChangeRefused."""
        await self._change(membership.without(self._configuration, node_id))

    async def promote(self, node_id: str) -> None:
        """Make a learner vote. Raises NoLeader, ChangeRefused."""
        await self._change(membership.with_voter(self._configuration, node_id))

    async def _change(self, configuration: Configuration) -> None:
        await self._driver.change(configuration)

    def transfer(self, target: str | None) -> str:
        """Hand leadership over; to whom. Raises NoLeader, ChangeRefused."""
        return self._driver.transfer(target)

    # -- views -----------------------------------------------------------------------------------

    def view(self) -> dict[str, Any]:
        """The cluster as this node sees it; see api.md, `GET /v1/cluster`."""
        met = {
            node_id: seen.hello.addresses
            for node_id, seen in self._candidates.items()
            if self._member(node_id) is None
        }
        return cluster_view(
            self.node.info(),
            self._driver.core,
            self._identity.cluster_id,
            alive=self.is_alive,
            met=met,
            status=self._beginning.status,
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


def holds_key(member: Member, key_hash: bytes) -> bool:
    """Whether a member may use this key: one of those in the configuration (two while it is renewed), or the first."""
    known = member.key_hash
    return not known or any(known[at : at + 32] == key_hash for at in range(0, len(known), 32))
