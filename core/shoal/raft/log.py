"""The words of the replicated log: record kinds, hard state, configuration (Raft paper, figure 2).

A store on one board is a group of one voter, whose journal speaks the same words: it becomes a cluster without a
migration.
"""

from __future__ import annotations

from enum import IntEnum

import msgspec


class Kind(IntEnum):
    """What a journal record is. The numbers are on disk: never reuse one."""

    NORMAL = 1
    NO_OP = 2
    CONFIGURATION = 3
    HARD_STATE = 4
    RAFT_SNAPSHOT = 5

    @property
    def is_entry(self) -> bool:
        """Entries take an index of the log; the other kinds describe it."""
        return self in (Kind.NORMAL, Kind.NO_OP, Kind.CONFIGURATION)


class HardState(msgspec.Struct, frozen=True, array_like=True):
    """What a member must remember before it answers: its term and whom it voted for in it."""

    term: int = 0
    voted_for: str = ""


class Member(msgspec.Struct, frozen=True, array_like=True):
    """A member of the configuration: a node is (id, incarnation), so that a wiped board is a stranger.

    `key_hash` is the SHA-256 of its public key (DER); `addresses` are `HOST:PORT` where peers reach it, `url` is
    where clients do. A learner has `voter` false, and becomes one when it has caught up unless
    it `stays_learner`; a witness votes and keeps entries, but no state machine.
    """

    node_id: str
    incarnation: bytes
    voter: bool = True
    key_hash: bytes = b""
    addresses: tuple[str, ...] = ()
    url: str = ""
    witness: bool = False
    stays_learner: bool = False


class Configuration(msgspec.Struct, frozen=True, array_like=True):
    """Who votes and who learns, and which entries every member understands: no newer ones may be proposed."""

    members: tuple[Member, ...] = ()
    feature_level: int = 1
    retired_keys: bytes = b""
    """The beginnings (8 bytes each) of the hashes of keys that members had before, or left with: nobody comes in with
    one as a member again."""

    @property
    def quorum(self) -> int:
        """Votes that commit."""
        return sum(member.voter for member in self.members) // 2 + 1
