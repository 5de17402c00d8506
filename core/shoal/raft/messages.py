"""What members say to each other, and what the core hands to its driver. Each message carries its sender's term.

All are msgpack- and CBOR-ready arrays: new fields go to the end, with a default; a new message takes a new tag.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from shoal.raft.log import HardState, Kind

Role = Literal["follower", "pre-candidate", "candidate", "leader"]


class Entry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One entry of the log; `kind` is a `Kind`."""

    index: int
    term: int
    kind: int
    data: bytes = b""


class AskVote(msgspec.Struct, frozen=True, array_like=True, tag=1, gc=False):
    """A candidate asks for a vote in `term`; with `pre` whether it would get one (thesis 9.6).

    `incarnation` is the voter's, as the candidate's configuration has it: a wiped voter is somebody else.
    `transfer`: the leader itself asked for this election (thesis 3.10).
    """

    term: int
    last_index: int
    last_term: int
    incarnation: bytes
    pre: bool = False
    transfer: bool = False


class Vote(msgspec.Struct, frozen=True, array_like=True, tag=2, gc=False):
    """The answer. A granted pre-vote names the term that was asked for, everything else the voter's own."""

    term: int
    granted: bool
    pre: bool = False


class Append(msgspec.Struct, frozen=True, array_like=True, tag=3, gc=False):
    """Entries that follow (`prev_index`, `prev_term`), or none: a heartbeat (paper, figure 2).

    `read_round` numbers the leader's rounds of being confirmed; `timeout_ms` is the election timeout to use;
    `everywhere` is the last entry that every member with a state machine holds.
    """

    term: int
    prev_index: int
    prev_term: int
    entries: list[Entry]
    commit: int
    read_round: int
    timeout_ms: int
    everywhere: int = 0


class Appended(msgspec.Struct, frozen=True, array_like=True, tag=4, gc=False):
    """Everything up to `matched` is as the leader's *and durable* here.

    `rejected` is the `prev_index` that did not fit (0: it did); then (`hint_index`, `hint_term`) is the last place
    where the logs may agree. `wish_ms` is the election timeout that this member's disk and links need. `incarnation`
    is the sender's: one that was wiped has forgotten to which term it went, so it confirms nothing.
    """

    term: int
    matched: int
    read_round: int
    wish_ms: int
    rejected: int = 0
    hint_index: int = 0
    hint_term: int = 0
    incarnation: bytes = b""


class Behind(msgspec.Struct, frozen=True, array_like=True, tag=5, gc=False):
    """A heartbeat for one that needs entries which the leader's log no longer has: it must take a raft_snapshot.

    The log begins at `first_index`; the entry before had `previous_term`.
    """

    term: int
    first_index: int
    read_round: int
    timeout_ms: int
    previous_term: int = 0


class AskRead(msgspec.Struct, frozen=True, array_like=True, tag=6, gc=False):
    """A follower asks how far it must have applied to read; `confirmed`: by one whom a quorum follows (thesis 6.4).

    `incarnation` is the sender's, as in `Appended`.
    """

    term: int
    read_id: int
    confirmed: bool
    incarnation: bytes = b""


class ReadAt(msgspec.Struct, frozen=True, array_like=True, tag=7, gc=False):
    """The answer: an index, or -1 from one that cannot say."""

    term: int
    read_id: int
    index: int


class TimeoutNow(msgspec.Struct, frozen=True, array_like=True, tag=8, gc=False):
    """The leader hands over: campaign at once (thesis 3.10)."""

    term: int


Message = AskVote | Vote | Append | Appended | Behind | AskRead | ReadAt | TimeoutNow


class ReadState(msgspec.Struct, frozen=True, gc=False):
    """A read may be served once `index` is applied; -1: it cannot be served now."""

    read_id: int
    index: int


class Ready(msgspec.Struct):
    """Work for the driver, in this order.

    1. `messages` leave at once; `committed` is applied; `reads` are answered; `fetch` and `behind` are served.
    2. `hard_state` and `entries` are made durable together (an entry replaces the log from its index on).
    3. Only then `after` leaves, and `RaftNode.advance` is called with this very value.

    A ready that has nothing for step 2 needs no `advance`. While one that has is not advanced, no other has.
    """

    hard_state: HardState | None
    entries: list[Entry]
    messages: list[tuple[str, Message]]
    after: list[tuple[str, Message]]
    committed: list[Entry]
    reads: list[ReadState]
    fetch: list[tuple[str, int]]
    """(member, index): entries from `index` on are wanted from the journal, for `RaftNode.fetched`."""
    behind: str | None
    """The leader from which a raft_snapshot must be taken."""

    @property
    def must_persist(self) -> bool:
        """Whether step 2 has anything."""
        return self.hard_state is not None or bool(self.entries)


CONFIGURATION = int(Kind.CONFIGURATION)
NO_OP = int(Kind.NO_OP)
NORMAL = int(Kind.NORMAL)
