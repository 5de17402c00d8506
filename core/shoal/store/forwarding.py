"""Commands given to a follower: passed on to the leader, answered here when their entry is applied here.

The leader puts them into its entries with their origin, and whoever sees its own origin in an applied entry answers its
caller: so the answer needs no message, and whoever wrote here can read it here. A command is never applied twice:

- a leader refuses what was passed to it in another term, and knows what it has taken in its own;
- an entry of a later term, once applied, proves that nothing more of the terms before will come: what was passed on in
  those and is not answered was *not* applied, and may be passed on again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from shoal.errors import InternalError, NoLeader, NotFound, ShoalError, ShuttingDown, Unavailable, rebuild
from shoal.model.commands import Command, Origin
from shoal.store.lanes import Pending

RESEND_MS = 500
SLICE_BYTES = 1024 * 1024
"""Of what is sent again at once: a frame has its limit."""
WAITING_MAX = 8_192
WAITING_BYTES = 16 * 1024 * 1024
"""Commands that wait for the leader's word, unless the first alone is larger; more wait in the lanes."""
LIVES_MAX = 64
TAKEN_MAX = 100_000
"""Numbers that a leader remembers of one life of a follower: more than can wait at once."""


class Item(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A command with its number, lane, size in bytes and remaining time."""

    number: int
    command: Command
    lane: int
    size: int
    timeout_ms: int


class Forward(msgspec.Struct, frozen=True, array_like=True, tag=20, gc=False):
    """Commands for the leader of `term`; `items` is msgpack of a list of Item."""

    term: int
    life: int
    """Of the follower's process: its numbers are new."""
    items: bytes


class Refused(msgspec.Struct, frozen=True, array_like=True, tag=21, gc=False):
    """The leader did not take a command, and never will in `term`."""

    term: int
    number: int
    code: str
    detail: str
    facts: dict[str, Any]


_encode = msgspec.msgpack.encode
_items = msgspec.msgpack.Decoder(list[Item])
REFUSALS = (Unavailable, NotFound, InternalError)
"""What is refused before it is in an entry; what an entry decides, it tells itself where it is applied."""
_RETRIED = (NoLeader, ShuttingDown)
"""Refusals that say nothing about the command: it may go to the next leader."""


class _Sent(msgspec.Struct, gc=False, eq=False):
    """A command on its way: in which term it left, and when last (monotonic)."""

    pending: Pending
    term: int
    sent_ms: int


class Forwarding:
    """What this node has passed on. Numbers begin where no earlier life of the node has been."""

    def __init__(self, node_id: str, first_number: int, send: Callable[[str, Any], bool]) -> None:
        self._node_id = node_id
        self._life = self._next = first_number
        self._send = send
        self._sent: dict[int, _Sent] = {}
        self._bytes = 0
        self._lost = False

    @property
    def waiting(self) -> int:
        """Commands whose answer is awaited."""
        return len(self._sent)

    @property
    def full(self) -> bool:
        """Whether nothing more may be passed on now."""
        return len(self._sent) >= WAITING_MAX or self._bytes >= WAITING_BYTES

    def may_pass_on(self, term: int) -> bool:
        """Whether commands may leave: those of an earlier term may come back, and go first."""
        oldest = next(iter(self._sent.values()), None)
        return not self.full and (oldest is None or oldest.term == term)

    def connection_broke(self) -> None:
        """What was sent may be lost, and is sent again before anything else: the order of commands is kept."""
        self._lost = True

    def pass_on(self, batch: Sequence[Pending], leader: str, term: int, now_ms: int) -> bool:
        """Send commands to the leader. False: they did not leave."""
        if self._lost and not self.resend(leader, term, now_ms):
            return False
        sent = {self._next + n: _Sent(pending, term, now_ms) for n, pending in enumerate(batch)}
        self._next += len(batch)
        if not self._send(leader, self._forward(term, sent, now_ms)):
            return False
        self._sent |= sent
        self._bytes += sum(_size(pending) for pending in batch)
        return True

    def _pop(self, number: int) -> Pending:
        pending = self._sent.pop(number).pending
        self._bytes -= _size(pending)
        return pending

    def resend(self, leader: str, term: int, now_ms: int) -> bool:
        """What was not answered for long may have been lost: the leader takes each once. False: it did not leave."""
        late_ms = now_ms - RESEND_MS
        due = [
            (number, sent)
            for number, sent in self._sent.items()
            if sent.term == term and (self._lost or sent.sent_ms <= late_ms)
        ]
        for part in _sliced(due):
            if not self._send(leader, self._forward(term, part, now_ms)):
                return False
            for sent in part.values():
                sent.sent_ms = now_ms
        self._lost = False
        return True

    def _forward(self, term: int, sent: Mapping[int, _Sent], now_ms: int) -> Forward:
        items = [
            Item(n, p.command, p.lane, _size(p), max(1, p.deadline_ms - now_ms))
            for n, p in ((number, each.pending) for number, each in sent.items())
        ]
        return Forward(term, self._life, _encode(items))

    def answered(self, origins: Sequence[Origin]) -> dict[int, Pending]:
        """Those of an applied entry that wait here, by the command's place in it."""
        found: dict[int, Pending] = {}
        for origin in origins:
            if origin.node_id == self._node_id and origin.number in self._sent:
                found[origin.place] = self._pop(origin.number)
        return found

    def overtaken(self, term: int) -> list[Pending]:
        """Those passed on before `term`, of which an entry is applied: they will never be."""
        numbers = [number for number, sent in self._sent.items() if sent.term < term]
        return [self._pop(number) for number in numbers]

    def refused(self, refusal: Refused) -> Pending | None:
        """The leader refused a command; the command, if it is to be passed on again."""
        sent = self._sent.get(refusal.number)
        if sent is None or sent.term != refusal.term:
            return None
        pending = self._pop(refusal.number)
        error = rebuild(refusal.code, refusal.detail, refusal.facts)
        if isinstance(error, _RETRIED):
            return pending
        pending.fail(error)
        return None

    def expire(self, now_ms: int, error: Callable[[], ShoalError]) -> None:
        """Answer those that have waited too long: they may still be applied."""
        for number in [n for n, sent in self._sent.items() if sent.pending.deadline_ms <= now_ms]:
            self._pop(number).fail(error())

    def fail_all(self, error: Callable[[], ShoalError]) -> None:
        """Answer everything."""
        for sent in self._sent.values():
            sent.pending.fail(error())
        self._sent.clear()
        self._bytes = 0


def _size(pending: Pending) -> int:
    return max(pending.size, 0)  # below 0 it has been refused for want of room before


def _sliced(due: Sequence[tuple[int, _Sent]]) -> Iterator[dict[int, _Sent]]:
    part: dict[int, _Sent] = {}
    size = 0
    for number, sent in due:
        if part and size + _size(sent.pending) > SLICE_BYTES:
            yield part
            part, size = {}, 0
        part[number] = sent
        size += _size(sent.pending)
    if part:
        yield part


class _Life:
    """Numbers taken of one life of a follower; those up to `forgotten` are no longer known one by one."""

    def __init__(self) -> None:
        self.numbers: OrderedDict[int, None] = OrderedDict()
        self.forgotten = -1

    def is_fresh(self, number: int) -> bool:
        return number > self.forgotten and number not in self.numbers

    def note(self, numbers: Iterable[int]) -> None:
        self.numbers.update(dict.fromkeys(numbers))
        while len(self.numbers) > TAKEN_MAX:
            self.forgotten = max(self.forgotten, self.numbers.popitem(last=False)[0])


class Taken:
    """What a leader has taken from followers in its term, so that what is sent twice is taken once."""

    def __init__(self) -> None:
        self._term = 0
        self._lives: OrderedDict[tuple[str, int], _Life] = OrderedDict()

    def fresh(self, sender: str, forward: Forward) -> list[Item]:
        """The commands that were not taken before. Raises ValueError for what is no list of commands."""
        try:
            items = _items.decode(forward.items)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise ValueError(f"{sender} passed on what is no command: {error}") from error
        if forward.term != self._term:
            self._term = forward.term
            self._lives.clear()
        life = self._lives.setdefault((sender, forward.life), _Life())
        self._lives.move_to_end((sender, forward.life))  # one that is in use is not the first to be forgotten
        while len(self._lives) > LIVES_MAX:
            self._lives.popitem(last=False)
        found = [item for item in items if life.is_fresh(item.number)]
        life.note(item.number for item in found)
        return found


def refusal(term: int, number: int, error: ShoalError) -> Refused:
    """What tells a follower that its command was refused."""
    return Refused(term, number, error.code, error.detail, error.facts)
