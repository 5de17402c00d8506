"""Who is in the group and who was met: what that trusts, and every change of it that is asked for or due.

A member is a node id and an incarnation, so a board whose data directory is another than it was is a stranger: it is
met, not trusted, and comes in as a learner, as new ones do. Changes go one after the other, and only on the leader.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import msgspec

from shoal.cluster.driver import RaftDriver
from shoal.cluster.identity import Identity
from shoal.cluster.joining import check_joining, check_place
from shoal.cluster.words import FEATURE_LEVEL, OLD_KEY, STRANGER, PeerSeen, Refusal
from shoal.errors import AlreadyExists, InvalidRequest, NoLeader, NotFound, Timeout, Unavailable
from shoal.raft import membership
from shoal.raft.errors import ChangeRefused
from shoal.raft.log import Configuration, Member
from shoal.raft.member_keys import after_change, holds_key, is_retired
from shoal.raft.quorum import voters
from shoal.raft.state import Draws
from shoal.store.ports import Superseded

CAUGHT_UP_ENTRIES: Final = 64
"""A learner that lacks no more than this becomes a voter."""
ASK_AGAIN_S: Final = 0.5
CANDIDATES_MAX: Final = 64
CHANGE_S: Final = 10.0
"""How long a change may take until nobody knows whether it will be."""
LOOK_S: Final = 0.01
"""How often it is seen whether leadership was taken: who passed the wish on soon hears that this node leads no more."""
SILENT_MS: Final = 30_000
"""A board that is no member says hello every few seconds; one that has not for so long is gone."""
MEET_S: Final = 5.0
"""How long a board that is to be added is looked for."""

Change = Callable[[Configuration], Configuration]

_log = logging.getLogger("shoal.cluster")


class Members:
    """`probe` asks who is at some addresses, `alive` tells whether a node can be reached now.

    `addresses` and `url` are the own ones, once there are any.
    """

    def __init__(
        self,
        driver: RaftDriver,
        identity: Identity,
        random: Draws,
        *,
        probe: Callable[[Sequence[str]], None],
        alive: Callable[[str], bool],
        now_ms: Callable[[], int],
    ) -> None:
        self._driver = driver
        self._now_ms = now_ms
        self.identity = identity
        self._random = random
        self._probe = probe
        self.alive = alive
        self._changing = asyncio.Lock()
        self._came = asyncio.Event()
        self.met: dict[str, PeerSeen] = {}
        self._met_ms: dict[str, int] = {}
        self._were: set[str] = set()
        self._turned_away = b""
        self.addresses: tuple[str, ...] = ()
        self.url = ""
        self.goes_on_without: Callable[[], bool] = lambda: False
        """Whether the others say that this node is no member any more."""

    # -- who is who ------------------------------------------------------------------------------

    @property
    def own_id(self) -> str:
        """This node."""
        return self._driver.own.node_id

    @property
    def configuration(self) -> Configuration:
        """The one in force."""
        return self._driver.core.configuration

    def find(self, node_id: str) -> Member | None:
        """A member by id, whatever its incarnation."""
        return next((m for m in self.configuration.members if m.node_id == node_id), None)

    def is_member(self, node_id: str, incarnation: bytes) -> bool:
        """Whether a board, with the data that it has, is a member."""
        member = self.find(node_id)
        return member is not None and member.incarnation == incarnation

    def has_other_key(self, node_id: str, key_hash: bytes) -> bool:
        """Whether the name is a member's, and the key is not."""
        member = self.find(node_id)
        return member is not None and not holds_key(member, key_hash)

    def _known(self) -> list[Member]:
        """Of the configuration in force and the last committed one: who is leaving must still hear that it does."""
        log = self._driver.core.log
        return [*log.configuration.members, *log.committed_configuration.members]

    def refusal(self, seen: PeerSeen) -> Refusal | None:
        """Why this node may not be a peer; None if it may: membership decides.

        A board that knows no members yet hears every node that its authority has certified. A member comes with the
        key that it had, or with another one that its authority has certified, once: then the former is too old.
        """
        log = self._driver.core.log
        node = (seen.hello.node_id, seen.hello.incarnation)
        named = [
            configuration
            for configuration in (log.configuration, log.committed_configuration)
            if any((m.node_id, m.incarnation) == node for m in configuration.members)
        ]
        if not named and self._known():
            return Refusal(
                STRANGER, "it is not a member with this incarnation: add it with `shoal cluster add`"
            )
        if named and all(is_retired(configuration, seen.key_hash) for configuration in named):
            return Refusal(
                OLD_KEY, "its key counts no more: give it a new one with `shoal ca issue --new-key`"
            )
        return None

    def meet(self, seen: PeerSeen) -> bool:
        """A certified node said hello; False when too many are known, or somebody has the name whose key counts more.

        A board that was removed may be added again with the key that it had, unless another has its name now.
        """
        node_id = seen.hello.node_id
        if is_retired(self.configuration, seen.key_hash) and self._has_better_key(node_id):
            self._warn_of(seen)
            return False
        if node_id not in self.met and len(self.met) >= CANDIDATES_MAX:
            return False
        self.met[node_id] = seen
        self._met_ms[node_id] = self._now_ms()
        self._came.set()
        return True

    def _has_better_key(self, node_id: str) -> bool:
        """Whether a member has the name, or a board was met under it with a key that was never a member's."""
        met = self.met.get(node_id)
        return self.find(node_id) is not None or (
            met is not None and not is_retired(self.configuration, met.key_hash)
        )

    def _warn_of(self, seen: PeerSeen) -> None:
        """Once for a key, however often it comes."""
        if seen.key_hash != self._turned_away:
            self._turned_away = seen.key_hash
            _log.warning(
                "at %s somebody has a key of %s that counts no more, and is not let in. If it is the board itself, "
                "with old files: give it another key, shoal ca issue %s --new-key",
                seen.address,
                seen.hello.node_id,
                seen.hello.node_id,
            )

    def forget_gone(self) -> None:
        """Who is no member any more, or was none and has gone silent: if it lives, it says hello again."""
        known = {member.node_id for member in self._known()}
        gone = self._were - known
        if known:  # boards that begin together keep their connections, and say hello once
            now_ms = self._now_ms()
            strangers = {seen.hello.node_id for seen in self.strangers()}
            gone |= {
                node_id for node_id in strangers if self._met_ms.get(node_id, now_ms) < now_ms - SILENT_MS
            }
        for node_id in gone:
            self.met.pop(node_id, None)
            self._met_ms.pop(node_id, None)
        self._were = known

    def where(self) -> Mapping[str, tuple[str, ...]]:
        """Whom to keep connections to: the members; for a board without any, whom it has met."""
        known = self._known()
        if not known:
            return {node_id: where(seen) for node_id, seen in self.met.items()}
        return {m.node_id: self._addresses_of(m) for m in reversed(known) if m.node_id != self.own_id}

    def _addresses_of(self, member: Member) -> tuple[str, ...]:
        """Where it says it is now, then where it was."""
        seen = self.met.get(member.node_id)
        now = (
            seen.hello.addresses if seen is not None and seen.hello.incarnation == member.incarnation else ()
        )
        return tuple(dict.fromkeys((*now, *member.addresses)))

    def strangers(self) -> list[PeerSeen]:
        """Whom this node has met, and who is no member as it is now."""
        known = {(member.node_id, member.incarnation) for member in self._known()}
        return [
            seen for name, seen in sorted(self.met.items()) if (name, seen.hello.incarnation) not in known
        ]

    def living_voters(self) -> int:
        """How many voters can be reached, this node included."""
        return sum(self.alive(node_id) for node_id in voters(self.configuration))

    @property
    def margin(self) -> int:
        """How many voters may fail before nothing can be written; below 0 nothing can."""
        return self.living_voters() - self.configuration.quorum

    # -- what is due -----------------------------------------------------------------------------

    async def tend(self) -> None:
        """The leader keeps the configuration as the members are: caught-up learners vote, moved boards are found."""
        if self._changing.locked():
            return
        async with self._changing:
            try:
                for change in self._due_changes():
                    await self._commit(change)
                    return
            except Unavailable as error:
                _log.info("members: %s", error)

    def _due_changes(self) -> Iterable[Configuration]:
        configuration = self.configuration
        for member in configuration.members:
            told = self._told(member)
            if told != member:
                yield membership.with_member(configuration, told)
            if not member.voter and not member.stays_learner and self._lacks(member) <= CAUGHT_UP_ENTRIES:
                yield membership.with_voter(configuration, member.node_id)
        level = min((self._level_of(member) for member in configuration.members), default=0)
        if level > configuration.feature_level:
            yield membership.with_level(configuration, level)

    def _level_of(self, member: Member) -> int:
        """Which entries a member understands, as it says itself; 0 for one that was not heard."""
        if member.node_id == self.own_id:
            return FEATURE_LEVEL
        seen = self.met.get(member.node_id)
        heard = seen is not None and seen.hello.incarnation == member.incarnation
        return seen.hello.feature_level if seen is not None and heard else 0

    def _lacks(self, member: Member) -> int:
        """Committed entries that a member has not confirmed; all of them before it has confirmed any."""
        matched = self._driver.core.followers().get(member.node_id, (0, 0))[0]
        commit = self._driver.commit_index
        return commit - matched if matched > 0 else commit + CAUGHT_UP_ENTRIES + 1

    def _told(self, member: Member) -> Member:
        """The member with the key and addresses that it has now."""
        if member.node_id == self.own_id:
            key_hash, addresses, url = self.identity.key_hash, self.addresses, self.url
        else:
            seen = self.met.get(member.node_id)
            if seen is None or seen.hello.incarnation != member.incarnation:
                return member
            key_hash, addresses, url = seen.key_hash, seen.hello.addresses, seen.hello.url
        if is_retired(self.configuration, key_hash):  # another leader has heard of the next one since
            return member
        return msgspec.structs.replace(member, key_hash=key_hash, addresses=addresses, url=url)

    # -- what is asked for -----------------------------------------------------------------------

    async def add(self, node_id: str | None, address: str | None = None, role: str = "voter") -> str:
        """Add an empty board: it learns first, and votes when it has caught up. Its node id.

        A wiped board takes the place of what it was. Raises NotFound when it cannot be met, AlreadyExists,
        InvalidRequest, NoLeader, Unavailable, Timeout.
        """
        self._require_leader()
        check_place(node_id, address)
        if node_id == self.own_id:
            raise AlreadyExists(f"{node_id} is in the cluster already, and leads it", node_id=node_id)
        seen = await self._meet(node_id, address)
        hello = seen.hello
        is_here = self.is_member(hello.node_id, hello.incarnation) and self.alive(hello.node_id)
        if not (hello.empty or is_here):
            seen = await self._meet_again(seen)
            hello = seen.hello
        member = self.find(hello.node_id)
        check_joining(hello, member, alive=self.alive(hello.node_id), level=self.configuration.feature_level)
        if member is not None:
            _log.warning(
                "%s was wiped: what it was is removed, and it is added as a new board", member.node_id
            )
            await self.remove(hello.node_id)
        elif is_retired(self.configuration, seen.key_hash):
            _log.warning("%s is added with the key of a member that was removed", hello.node_id)
        learner = Member(
            hello.node_id,
            hello.incarnation,
            voter=False,
            key_hash=seen.key_hash,
            addresses=where(seen),
            url=hello.url,
            witness=role == "witness",
            stays_learner=role == "learner",
        )
        try:
            await self._change(lambda before: membership.with_learner(before, learner))
        except Unavailable as error:
            if member is None:
                raise
            raise Unavailable(
                f"what {hello.node_id} was is removed, and the board as it is now is perhaps not added: "
                f"{error.detail}. Add it again",
                outcome="unknown",
            ) from error
        return hello.node_id

    async def _meet(self, node_id: str | None, address: str | None) -> PeerSeen:
        """The board that is meant, asked for at its address if need be. Raises NotFound."""
        try:
            async with asyncio.timeout(MEET_S):
                while (found := self._met(node_id, address)) is None:
                    if address is not None:
                        self._probe([address])
                    self._came.clear()
                    with suppress(TimeoutError):  # an address asked a moment ago is asked again later
                        await asyncio.wait_for(self._came.wait(), ASK_AGAIN_S)
        except TimeoutError:
            met = ", ".join(seen.hello.node_id for seen in self.strangers()) or "none"
            who = f"board {node_id!r}" if address is None else f"a board at {address}"
            raise NotFound(
                f"{who} was not met on the network; boards that could be added: {met}. It must run with "
                "mode = cluster and a certificate of this cluster; give its peer address if it is not discovered",
                node_id=node_id,
                address=address,
            ) from None
        return found

    async def _meet_again(self, seen: PeerSeen) -> PeerSeen:
        """What was heard of a board that holds data may be of a life before it was wiped."""
        node_id = seen.hello.node_id
        self.met.pop(node_id, None)
        try:
            return await self._meet(node_id, next(iter(where(seen)), None))
        except NotFound:
            return self.met.setdefault(node_id, seen)

    def _met(self, node_id: str | None, address: str | None) -> PeerSeen | None:
        if node_id is not None:
            return self.met.get(node_id)
        return next((s for s in self.met.values() if address in {s.address, *s.hello.addresses}), None)

    async def remove(self, node_id: str) -> None:
        """Remove a member, also the leader, also one that is gone.

        Raises InvalidRequest, NoLeader, Unavailable, Timeout.
        """
        await self._change(lambda before: membership.without(before, node_id))

    async def promote(self, node_id: str) -> None:
        """Make a learner vote. Raises InvalidRequest, NoLeader, Unavailable, Timeout."""
        self._require_leader()
        member = self.find(node_id)
        if member is not None and not member.voter and (lacks := self._lacks(member)) > CAUGHT_UP_ENTRIES:
            raise Unavailable(f"{node_id} still lacks {lacks} entries: promote it when it has caught up")
        await self._change(lambda before: membership.with_voter(before, node_id))

    async def _change(self, change: Change) -> None:
        async with self._changing:
            self._require_leader()
            before = self.configuration
            try:
                after = change(before)
                membership.check_change(before, after)
            except ChangeRefused as error:
                raise InvalidRequest(str(error), pointer="node_id") from error
            if after != before:
                await self._commit(after)
                self.forget_gone()

    async def _commit(self, configuration: Configuration) -> None:
        """Have it agreed upon. Raises Unavailable and its children."""
        try:
            async with asyncio.timeout(CHANGE_S):
                await self._driver.change(after_change(self.configuration, configuration))
        except ChangeRefused as error:
            raise Unavailable(str(error)) from error
        except Superseded:
            raise NoLeader("leadership changed meanwhile, nothing was done: try again") from None
        except TimeoutError:
            raise Timeout(
                "no quorum has confirmed the change in time: `shoal cluster status` shows whether it was made",
                outcome="unknown",
            ) from None

    async def transfer(self, target: str | None) -> str:
        """Hand leadership over; to whom. Raises NoLeader, InvalidRequest, Unavailable when it is not taken."""
        self._require_leader()
        try:
            chosen = self._driver.transfer(target)
        except ChangeRefused as error:
            raise InvalidRequest(str(error), pointer="node_id") from error
        core = self._driver.core
        while core.handing_over:  # noqa: ASYNC110 - the core tells nobody, and gives up in a timeout
            await asyncio.sleep(LOOK_S)
        if core.role == "leader":
            raise Unavailable(
                f"{chosen} did not take over in time, and may still do so; {self.own_id} leads on. Look who leads "
                "before you try again",
                outcome="unknown",
            )
        return chosen

    def _require_leader(self) -> None:
        """Raises NoLeader."""
        if not self._driver.serves:
            raise NoLeader("only the leader does this, and this node does not lead now: try again")

    # -- when a quorum is lost for ever ----------------------------------------------------------

    async def recover(self, node_id: str, cluster_id: str) -> None:
        """Make this node the only voter, with what it has: for when a majority of boards is destroyed.

        What the lost boards had acknowledged and this one lacks is lost. They must never run again with their data.
        `node_id` and `cluster_id` were typed by whoever knows that. Raises InvalidRequest, OSError, DiskFull.
        """
        own, cluster = self.own_id, self.identity.cluster_id
        if (node_id, cluster_id) != (own, cluster):
            raise InvalidRequest(
                f"nothing was done: this is node {own!r} of cluster {cluster!r}, and something else was typed",
                pointer="node_id",
            )
        member = self.find(own)
        if member is None or member.incarnation != self._driver.own.incarnation:
            raise InvalidRequest(
                "this board is no member, so there is nothing to go on with", pointer="node_id"
            )
        if self._driver.core.stateless:
            raise InvalidRequest("this board holds no stores: recover one that does", pointer="node_id")
        if self._driver.leader is not None or self.margin >= 0:
            raise InvalidRequest(
                "a quorum is alive: nothing has to be recovered. Remove boards that are gone: `shoal cluster remove`",
                pointer="node_id",
            )
        if self.goes_on_without():
            raise InvalidRequest(
                "the cluster goes on without this board, others say, and there would be two. "
                "If they are destroyed since, start this board anew, and recover it then",
                pointer="node_id",
            )
        _log.warning(
            "recover: %s goes on as the only voter from entry %d of term %d; %s must never run again with their data",
            own,
            self._driver.core.log.last_index,
            self._driver.core.log.last_term,
            ", ".join(m.node_id for m in self.configuration.members if m.node_id != own) or "nobody else",
        )
        await self._driver.go_on_alone(self._random)

    def stats(self) -> dict[str, float]:
        """Numbers for metrics."""
        followers = self._driver.core.followers()
        commit = self._driver.commit_index
        others = [m.node_id for m in self.configuration.members if m.node_id != self.own_id]
        numbers: dict[str, Any] = {
            "peers_connected": sum(self.alive(node_id) for node_id in others),
            "quorum_margin": self.margin if voters(self.configuration) else -1,
        }
        lags = {node_id: max(0, commit - matched) for node_id, (matched, _) in followers.items()}
        return numbers | {f"follower_lag_entries:{node_id}": lag for node_id, lag in lags.items()}


def where(seen: PeerSeen) -> tuple[str, ...]:
    """Where it says it is; a connection that it dialled came from a port where nobody listens."""
    return seen.hello.addresses or (seen.address,)
