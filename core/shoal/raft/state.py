"""What all parts of the core share: term, vote, role, log, time, and the messages that are to leave.

Terms and votes are promises: a message that tells of one leaves only when it is durable (paper, figure 2: "updated
on stable storage before responding"), so whatever is sent while the hard state is not goes to `after`.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from shoal.raft.entries import LogView
from shoal.raft.log import Configuration, HardState, Member
from shoal.raft.messages import Message, Role

TIMEOUT_MS_MIN = 300
TIMEOUT_MS_MAX = 5_000
TIMEOUT_MS_FIRST = 1_000
"""Until round trips and the disk are measured."""
NEVER_MS = 2**62


class Draws(Protocol):
    """Chance, as an argument."""

    def randrange(self, stop: int, /) -> int:
        """From 0 to below `stop`."""

    def getrandbits(self, k: int, /) -> int:
        """Below 2**k."""


class Own(msgspec.Struct, frozen=True):
    """This member: a node id, and the life of its data directory."""

    node_id: str
    incarnation: bytes


class Roster:
    """What is asked of a configuration with every message, worked out once."""

    def __init__(self, configuration: Configuration, own: Own) -> None:
        members = configuration.members
        self.configuration = configuration
        self.by_id = {member.node_id: member for member in members}
        self.others = [member.node_id for member in members if member.node_id != own.node_id]
        self.stateful = [member.node_id for member in members if not member.witness]
        found = self.by_id.get(own.node_id)
        self.own = found if found is not None and found.incarnation == own.incarnation else None
        self.votes = self.own is not None and self.own.voter
        self.is_alone = self.votes and sum(member.voter for member in members) == 1


class State:
    """Shared by election, following, replication and reads; `now_ms` is set at each call from outside."""

    def __init__(self, own: Own, log: LogView, hard_state: HardState, random: Draws, now_ms: int) -> None:
        self.own = own
        self.log = log
        self.random = random
        self.now_ms = now_ms
        self.term = hard_state.term
        self.voted_for = hard_state.voted_for
        self.role: Role = "follower"
        self.leader: str | None = None
        self.heard_leader_ms = -NEVER_MS
        self.timeout_ms = TIMEOUT_MS_FIRST
        """The cluster's election timeout."""
        self.wish_ms = TIMEOUT_MS_FIRST
        """The one that this member's disk and links need."""
        self.election_ms = NEVER_MS
        self.messages: list[tuple[str, Message]] = []
        self.after: list[tuple[str, Message]] = []
        self._saved = hard_state
        self._saving: HardState | None = None
        self._roster = Roster(log.configuration, own)

    # -- who -------------------------------------------------------------------------------------

    @property
    def configuration(self) -> Configuration:
        """The one in force."""
        return self.log.configuration

    @property
    def roster(self) -> Roster:
        """Who is in it."""
        configuration = self.log.configuration
        if self._roster.configuration is not configuration:
            self._roster = Roster(configuration, self.own)
        return self._roster

    @property
    def member(self) -> Member | None:
        """This node in the configuration; a new incarnation is not in it."""
        return self.roster.own

    @property
    def votes(self) -> bool:
        """Whether this node may campaign: it is a voter of its own configuration."""
        return self.roster.votes

    def find(self, node_id: str) -> Member | None:
        """A member by id."""
        return self.roster.by_id.get(node_id)

    def others(self) -> list[str]:
        """Node ids of all other members."""
        return self.roster.others

    # -- hard state ------------------------------------------------------------------------------

    @property
    def hard_state(self) -> HardState:
        """Term and vote as they are now."""
        return HardState(self.term, self.voted_for)

    @property
    def unsaved(self) -> bool:
        """Whether term and vote are not durable yet."""
        saved = self._saved
        return self.term != saved.term or self.voted_for != saved.voted_for

    def take_unsaved(self) -> HardState | None:
        """What has not been given out to be made durable."""
        if not self.unsaved:
            return None
        state = self.hard_state
        if state == self._saving:
            return None
        self._saving = state
        return state

    def saved(self, state: HardState) -> None:
        """What was given out is durable."""
        self._saved, self._saving = state, None

    def send(self, node_id: str, message: Message) -> None:
        """Let a message leave, once what it promises is durable."""
        (self.after if self.unsaved else self.messages).append((node_id, message))

    # -- changing --------------------------------------------------------------------------------

    def follow(self, term: int, leader: str | None) -> None:
        """Become a follower in `term`, at or above the own one."""
        if term > self.term:
            self.term, self.voted_for = term, ""
        self.role = "follower"
        self.leader = leader
        self.wait_for_leader()

    def wait_for_leader(self) -> None:
        """Campaign only after a whole election timeout of silence, drawn at random so that votes do not split (5.2)."""
        self.election_ms = self.now_ms + self.timeout_ms + self.random.randrange(self.timeout_ms)

    @property
    def hears_leader(self) -> bool:
        """Whether a leader was heard within the minimum election timeout: then no other is needed (thesis 4.2.3)."""
        return self.leader is not None and self.now_ms - self.heard_leader_ms < self.timeout_ms
