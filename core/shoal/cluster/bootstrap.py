"""How empty boards begin exactly one group, once: a state machine without clock, disk or network.

The lowest node id asks, each board promises itself durably to one exact list and never to another, and only all
promises together begin the group. Two groups that share a board would need two promises of it, so there are none.

The caller keeps one order: what is in `to_save` is made durable (`save_promise`), then `saved` is called; `ready`
gives nothing before. What was lost is asked again when `deadline_ms` has come.
"""

from __future__ import annotations

from typing import Final

import msgspec

from shoal.cluster.promise import AskGrant, Begin, Grant, Message, Promise, Refuse, members_hash
from shoal.raft.log import Member

ASK_AGAIN_MS: Final = 1000
SETTLE_MS: Final = 3000
"""How long nobody must come or go before the initiator asks: boards are met one by one, one too many among them."""
CANDIDATES_MAX: Final = 64
OUTBOX_MAX: Final = 256


class Candidate(msgspec.Struct, frozen=True):
    """A board whose mutual TLS handshake is complete. `cluster_id` is the configured one, or of its data; or empty."""

    node_id: str
    incarnation: bytes
    key_hash: bytes
    addresses: tuple[str, ...] = ()
    url: str = ""
    empty: bool = True
    cluster_id: str = ""

    def member(self) -> Member:
        """As it stands in the configuration of a group."""
        return Member(self.node_id, self.incarnation, True, self.key_hash, self.addresses, self.url)  # noqa: FBT003 - a voter


class Bootstrap:
    """One board's part. `expect` counts it; `granted` is what `load_promise` found.

    A promise of an earlier incarnation is void: that board does not exist any more.
    """

    def __init__(self, own: Candidate, expect: int, granted: Promise | None = None) -> None:
        self._own = own
        self._expect = expect
        self._promise = granted if granted is not None and self._is_mine(granted) else None
        self._candidates = {own.node_id: own}
        self._granted_by: set[str] = set()
        self._refusals: dict[str, str] = {}
        self._outbox: list[tuple[str, Message]] = []
        self.to_save: Promise | None = None
        self.deadline_ms: int | None = None if self._promise is None or self._promise.begun else 0

    @property
    def begun(self) -> tuple[Member, ...] | None:
        """The group, once its beginning is durable here: write its `configuration_record` into an empty journal."""
        promise = self._promise
        return promise.members if promise is not None and promise.begun and self.to_save is None else None

    def hear(self, candidate: Candidate, now_ms: int) -> None:
        """A handshake was completed; of two with one node id the later counts."""
        known = self._candidates.get(candidate.node_id)
        full = known is None and len(self._candidates) >= CANDIDATES_MAX
        if candidate.node_id == self._own.node_id or candidate == known or full:
            return
        self._candidates[candidate.node_id] = candidate
        self._settle(now_ms)

    def lost(self, node_id: str, now_ms: int) -> None:
        """The last connection to that board is gone; it does not count until it is heard again."""
        if node_id != self._own.node_id and self._candidates.pop(node_id, None) is not None:
            self._settle(now_ms)

    def step(self, sender_id: str, message: Message, now_ms: int) -> None:
        """A message came from the board whose handshake said `sender_id`; `ready` may have answers then."""
        match message:
            case AskGrant():
                self._asked(sender_id, message.members, now_ms)
            case Grant():
                self._granted(sender_id, message.members_hash)
            case Refuse():
                self._refused(sender_id, message.reason)
            case Begin():
                self._told_to_begin(sender_id, message.members)

    def handle_deadline(self, now_ms: int) -> None:
        """Begin to ask, or ask again, if it is time."""
        if self.deadline_ms is None or now_ms < self.deadline_ms:
            return
        if self._promise is None:
            counting = self._counting()
            self._give(Promise(tuple(counting[node_id].member() for node_id in sorted(counting))))
        self._ask(now_ms)

    def ready(self) -> list[tuple[str, Message]]:
        """What to send, to whom; each once. Empty while something is to be saved first."""
        if self.to_save is not None:
            return []
        outbox, self._outbox = self._outbox, []
        return outbox

    def saved(self, promise: Promise) -> None:
        """`promise`, taken from `to_save`, is durable now."""
        if self.to_save is promise:
            self.to_save = None

    def status(self) -> str:
        """One sentence: what this board waits for. For the log and for `shoal doctor`."""
        promise = self._promise
        if promise is not None:
            return self._status_of(promise)
        obstacle = self._obstacle()
        if obstacle:
            return obstacle
        first = min(self._counting())
        return f"{self._known()}; {first}, the first by name, has to begin and has not asked yet"

    # --- the initiator

    def _settle(self, now_ms: int) -> None:
        """Somebody came or went: ask once it is quiet, if this board is to ask at all."""
        if self._promise is None:
            mine = not self._obstacle() and min(self._counting()) == self._own.node_id
            self.deadline_ms = now_ms + SETTLE_MS if mine else None

    def _ask(self, now_ms: int) -> None:
        """The initiator asks who has not promised; the others tell all, of whom one may have begun."""
        promise = self._promise
        if promise is None or promise.begun:
            self.deadline_ms = None
            return
        self.deadline_ms = now_ms + ASK_AGAIN_MS
        mine = self._leads(promise)
        message: Message = AskGrant(promise.members) if mine else Grant(members_hash(promise.members))
        for node_id in self._others(promise):
            if not (mine and node_id in self._granted_by):
                self._send(node_id, message)

    def _granted(self, sender_id: str, granted_hash: bytes) -> None:
        promise = self._promise
        if promise is None or granted_hash != members_hash(promise.members):
            return
        if promise.begun:
            self._send(sender_id, Begin(promise.members))
        elif self._leads(promise) and sender_id in self._others(promise):
            self._granted_by.add(sender_id)
            self._refusals.pop(sender_id, None)
            if self._granted_by.issuperset(self._others(promise)):
                self._begin(promise)
                for node_id in self._others(promise):
                    self._send(node_id, Begin(promise.members))

    def _refused(self, sender_id: str, reason: str) -> None:
        promise = self._promise
        if promise is not None and self._leads(promise) and sender_id in self._others(promise):
            self._refusals[sender_id] = reason

    # --- those who are asked

    def _asked(self, sender_id: str, members: tuple[Member, ...], now_ms: int) -> None:
        if self._promise is None:
            reason = self._objection(sender_id, members)
            if reason:
                self._send(sender_id, Refuse(reason))
                return
            self._give(Promise(members))
            self.deadline_ms = now_ms + ASK_AGAIN_MS
        promise = self._promise
        if promise is None or promise.members != members:
            self._send(sender_id, Refuse(f"{self._own.node_id} has promised itself to another group"))
        elif promise.begun:
            self._send(sender_id, Begin(members))
        else:
            self._send(sender_id, Grant(members_hash(members)))

    def _objection(self, sender_id: str, members: tuple[Member, ...]) -> str:
        """Why this board does not promise itself to `members`; empty if it may."""
        obstacle = self._obstacle()
        if obstacle:
            return f"{self._own.node_id}: {obstacle}"[:300]
        seen = {node_id: _identity(each.member()) for node_id, each in self._counting().items()}
        if [member.node_id for member in members] != sorted(seen) or any(
            _identity(member) != seen[member.node_id] for member in members
        ):
            return f"{self._own.node_id} knows other boards: {', '.join(sorted(seen))}"[:300]
        if sender_id != members[0].node_id:
            return f"{members[0].node_id} has to begin, not {sender_id}"[:300]
        return ""

    def _told_to_begin(self, sender_id: str, members: tuple[Member, ...]) -> None:
        promise = self._promise
        if (
            promise is not None
            and not promise.begun
            and promise.members == members
            and sender_id in self._others(promise)
        ):
            self._begin(promise)

    # --- both

    def _give(self, promise: Promise) -> None:
        self._promise = self.to_save = promise

    def _begin(self, promise: Promise) -> None:
        self._give(Promise(promise.members, begun=True))
        self.deadline_ms = None

    def _send(self, node_id: str, message: Message) -> None:
        """What does not fit, while a disk hangs, is lost as on the network: it is asked again."""
        if (node_id, message) not in self._outbox and len(self._outbox) < OUTBOX_MAX:
            self._outbox.append((node_id, message))

    def _is_mine(self, promise: Promise) -> bool:
        me = (self._own.node_id, self._own.incarnation)
        return any((member.node_id, member.incarnation) == me for member in promise.members)

    def _leads(self, promise: Promise) -> bool:
        return promise.members[0].node_id == self._own.node_id

    def _others(self, promise: Promise) -> list[str]:
        return [member.node_id for member in promise.members if member.node_id != self._own.node_id]

    def _counting(self) -> dict[str, Candidate]:
        """The candidates of this board's own cluster, by node id."""
        mine = self._own.cluster_id
        return {
            node_id: each
            for node_id, each in self._candidates.items()
            if each.cluster_id == mine or (mine == "" and not each.empty)
        }

    def _obstacle(self) -> str:
        """Why no group can be begun with whom this board knows; empty if one can."""
        counting = self._counting()
        full = sorted(node_id for node_id, each in counting.items() if not each.empty)
        if self._own.node_id in full:
            return "this board holds data and begins no new cluster"
        if full:
            return f"{', '.join(full)} hold data already: have this board added with `shoal cluster add`"
        if len(counting) > self._expect:
            return (
                f"{self._known()}, more than bootstrap_expect: none begins. Turn off those that are too many, or give "
                "the boards of one cluster the same cluster_id"
            )
        if len(counting) < self._expect:
            apart = sorted(set(self._candidates) - set(counting))
            others = f" (of another cluster_id: {', '.join(apart)})" if apart else ""
            return f"{self._known()}; waiting for {self._expect - len(counting)} more{others}"
        return ""

    def _known(self) -> str:
        counting = self._counting()
        return f"{len(counting)} of {self._expect} boards are known: {', '.join(sorted(counting))}"

    def _status_of(self, promise: Promise) -> str:
        names = ", ".join(member.node_id for member in promise.members)
        if promise.begun:
            return f"the group of {names} has begun"
        gone = [member.node_id for member in promise.members if self._is_another(member)]
        if gone:
            return (
                f"this board promised itself to the group of {names}, but {', '.join(gone)} was wiped or is another "
                "board since: unless one of them has begun, move all their data directories aside and start anew"
            )
        if not self._leads(promise):
            return f"this board promised itself to the group of {names}; waiting for word of its beginning"
        missing = [node_id for node_id in self._others(promise) if node_id not in self._granted_by]
        said = "".join(f"; {node_id} refuses: {reason}" for node_id, reason in sorted(self._refusals.items()))
        return f"the group of {names} waits for the promise of {', '.join(missing)}{said}"

    def _is_another(self, member: Member) -> bool:
        known = self._candidates.get(member.node_id)
        return known is not None and _identity(known.member()) != _identity(member)


def _identity(member: Member) -> tuple[str, bytes, bytes, bool, bool]:
    """All that must be the same in the eyes of two boards; addresses may differ."""
    return member.node_id, member.incarnation, member.key_hash, member.voter, member.witness
