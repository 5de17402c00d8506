"""A cluster of Raft cores in one thread, for directed tests: time, messages and disks move when the test says so.

A disk persists at once unless it is in `slow`; a message waits on the wire until `deliver`, unless its link is cut.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from random import Random
from typing import Any

import msgspec
import raft_words

from shoal.raft.entries import LogStart, encode_configuration
from shoal.raft.log import Configuration, HardState, Member
from shoal.raft.messages import CONFIGURATION, NORMAL, Entry, Message, ReadState, Ready
from shoal.raft.node import RaftNode
from shoal.raft.state import Own


def member(name: str, *, voter: bool = True, witness: bool = False, life: int = 1) -> Member:
    """A member; `life` counts how often its data directory was wiped."""
    return Member(name, incarnation(name, life), voter=voter, witness=witness)


def incarnation(name: str, life: int = 1) -> bytes:
    return f"{name}{life}".encode().ljust(16, b"-")


def configuration(voters: str, learners: str = "", witnesses: str = "") -> Configuration:
    named = [member(name) for name in voters] + [member(name, voter=False) for name in learners]
    return Configuration((*named, *(member(name, witness=True) for name in witnesses)))


@dataclass
class Sent:
    """A message on the wire."""

    sender: str
    to: str
    message: Message

    def __str__(self) -> str:
        return f"{self.sender} -> {self.to}  {raft_words.say(self.message)}"


@dataclass
class Journal:
    """What a board's disk holds for ever."""

    entries: list[Entry] = field(default_factory=list)
    hard_state: HardState = field(default_factory=HardState)
    first_index: int = 1
    previous_term: int = 0
    configuration: tuple[int, Configuration] | None = None
    """Of the entries that are gone."""

    def write(self, ready: Ready) -> None:
        self.hard_state = ready.hard_state or self.hard_state
        for entry in ready.entries:
            del self.entries[entry.index - self.first_index :]
            assert entry.index == self.last_index + 1, "a hole in the journal"
            self.entries.append(entry)

    @property
    def last_index(self) -> int:
        return self.first_index + len(self.entries) - 1

    def from_index(self, index: int, count: int = 1000) -> list[Entry]:
        return self.entries[index - self.first_index :][:count] if index >= self.first_index else []

    def drop(self, first_index: int) -> None:
        """Forget what is before."""
        gone = self.entries[: first_index - self.first_index]
        for entry in gone:
            if entry.kind == CONFIGURATION:
                self.configuration = (entry.index, decode(entry))
        if gone:
            self.previous_term = gone[-1].term
        del self.entries[: len(gone)]
        self.first_index += len(gone)

    def start(self, applied: int, cached_from: int | None = None) -> LogStart:
        runs = [(e.index, e.term) for e in self.entries[:1]]
        runs += [(b.index, b.term) for a, b in pairwise(self.entries) if a.term != b.term]
        found = [] if self.configuration is None else [self.configuration]
        found += [(e.index, decode(e)) for e in self.entries if e.kind == CONFIGURATION]
        cached = self.from_index(applied + 1 if cached_from is None else cached_from)
        return LogStart(self.first_index, self.previous_term, runs, self.last_index, cached, found, applied)


def decode(entry: Entry) -> Configuration:
    return msgspec.msgpack.decode(entry.data, type=Configuration)


def founding(members: Configuration) -> Entry:
    """The first entry of every log."""
    return Entry(1, 1, CONFIGURATION, encode_configuration(members))


def log_of(members: Configuration, terms: Iterable[int]) -> list[Entry]:
    """A log with a configuration and then commands of the terms given."""
    rest = [Entry(index, term, NORMAL, f"{index}/{term}".encode()) for index, term in enumerate(terms, 2)]
    return [founding(members), *rest]


class Board:
    """One node, its disk and its state machine."""

    def __init__(self, name: str, journal: Journal, applied: int = 1, life: int = 1) -> None:
        self.name, self.journal, self.life = name, journal, life
        self.node: RaftNode | None = None
        self.applied = applied
        self.commands: list[Entry] = []
        self.pending: Ready | None = None
        self.reads: list[ReadState] = []
        self.fetches: list[tuple[str, int]] = []
        self.behind: str | None = None


class Cluster:
    """Boards A, B, C ... and the wire between them."""

    def __init__(
        self,
        names: str = "ABC",
        members: Configuration | None = None,
        *,
        logs: dict[str, Sequence[int]] | None = None,
        terms: dict[str, int] | None = None,
        seed: int = 1,
    ) -> None:
        self.now_ms = 0
        self.random = Random(seed)
        self.wire: list[Sent] = []
        self.cuts: set[tuple[str, str]] = set()
        self.slow: set[str] = set()
        self.fetch_by_hand = False
        self.transcript = raft_words.Transcript()
        founders = members or configuration(names)
        self.boards: dict[str, Board] = {}
        for name in names:
            entries = log_of(founders, (logs or {}).get(name, ()))
            term = max((terms or {}).get(name, 1), entries[-1].term)
            self.boards[name] = Board(name, Journal(entries, HardState(term)))
            self.start(name)

    def __getitem__(self, name: str) -> RaftNode:
        node = self.boards[name].node
        assert node is not None, f"{name} is down"
        return node

    # -- life and death --------------------------------------------------------------------------

    def stranger(self, name: str, life: int = 1) -> None:
        """A board with an empty data directory, wiped `life - 1` times."""
        self.boards[name] = Board(name, Journal(), applied=0, life=life)
        self.start(name)

    def start(self, name: str, cached_from: int | None = None) -> None:
        """Start with what is on the disk."""
        board = self.boards[name]
        own = Own(name, incarnation(name, board.life))
        start = board.journal.start(board.applied, cached_from)
        board.node = RaftNode(
            own, start, board.journal.hard_state, random=Random(self.random.random()), now_ms=self.now_ms
        )
        self.work(name)

    def crash(self, name: str) -> None:
        """Power off: what was not persisted is lost."""
        board = self.boards[name]
        board.node, board.pending, board.reads, board.fetches = None, None, [], []
        self.transcript.note(self.now_ms, f"{name} is down")

    def restart(self, name: str) -> None:
        if self.boards[name].node is not None:
            self.crash(name)
        self.transcript.note(self.now_ms, f"{name} starts")
        self.start(name)

    # -- work ------------------------------------------------------------------------------------

    def work(self, name: str) -> None:
        """Carry out what the node is ready for, as its driver would."""
        board, node = self.boards[name], self[name]
        while (ready := node.ready()) is not None:
            self.send(name, ready.messages)
            for entry in ready.committed:
                assert entry.index == board.applied + 1, f"{name} applies {entry.index} after {board.applied}"
                board.applied = entry.index
                board.commands.append(entry)
            board.reads += ready.reads
            board.behind = ready.behind or board.behind
            board.fetches += ready.fetch
            if ready.must_persist:
                assert board.pending is None, "two writes at once"
                board.pending = ready
                if name not in self.slow:
                    self.persist(name)
        self.transcript.see(self.now_ms, name, node)
        while board.fetches and not self.fetch_by_hand:
            self.fetch(name)

    def persist(self, name: str) -> None:
        """The write under way is done."""
        board = self.boards[name]
        ready, board.pending = board.pending, None
        assert ready is not None, f"{name} writes nothing"
        board.journal.write(ready)
        self.send(name, ready.after)
        self[name].advance(ready, self.now_ms)
        self.work(name)

    def fetch(self, name: str, count: int = 1000) -> None:
        """Answer the node's first question to its journal."""
        board = self.boards[name]
        to, index = board.fetches.pop(0)
        self[name].fetched(to, board.journal.from_index(index, count), self.now_ms)
        self.work(name)

    def compact(self, name: str, first_index: int) -> None:
        """The board's journal forgets what is before."""
        self.boards[name].journal.drop(first_index)
        self[name].dropped(first_index)

    # -- the wire --------------------------------------------------------------------------------

    def send(self, sender: str, messages: Iterable[tuple[str, Message]]) -> None:
        self.wire += [Sent(sender, to, message) for to, message in messages if (sender, to) not in self.cuts]

    def cut(self, *names: str) -> None:
        """Nothing goes between these boards and the others, either way."""
        for name in names:
            for other in set(self.boards) - set(names):
                self.cuts |= {(name, other), (other, name)}
        self.transcript.note(self.now_ms, f"{', '.join(names)} cut off")

    def heal(self) -> None:
        if self.cuts:
            self.transcript.note(self.now_ms, "the links are whole again")
        self.cuts.clear()

    def waiting(self, kind: type | None = None, sender: str = "", to: str = "") -> list[Any]:
        """Messages on the wire."""
        return [s.message for s in self.wire if matches(s, kind, sender, to)]

    def take(self, kind: type | None = None, sender: str = "", to: str = "") -> list[Sent]:
        """Take messages off the wire: to deliver them later, twice or never."""
        taken = [s for s in self.wire if matches(s, kind, sender, to)]
        self.wire = [s for s in self.wire if not matches(s, kind, sender, to)]
        return taken

    def step(self, sent: Sent) -> None:
        """Let one message arrive."""
        board = self.boards.get(sent.to)
        if board is not None and board.node is not None:
            self.transcript.arrives(self.now_ms, sent)
            board.node.step(sent.sender, sent.message, self.now_ms)
            self.work(sent.to)

    def tell(self, to: str, sender: str, message: Message) -> None:
        """Let a message arrive that nobody sent."""
        self.step(Sent(sender, to, message))

    def deliver(self, kind: type | None = None, sender: str = "", to: str = "", rounds: int = 1000) -> None:
        """Let messages arrive, and what they cause, until none is left that fits."""
        for _ in range(rounds):
            taken = self.take(kind, sender, to)
            if not taken:
                return
            for sent in taken:
                self.step(sent)

    # -- time ------------------------------------------------------------------------------------

    def wait(self, ms: int) -> None:
        """Time passes, and nobody does anything."""
        self.now_ms += ms

    def due(self, name: str) -> None:
        """Time passes to what the board has to do next, and it does it."""
        self.now_ms = max(self.now_ms, self[name].deadline_ms())
        self[name].handle_deadline(self.now_ms)
        self.work(name)

    def run(self, ms: int) -> None:
        """All boards live on; each message takes a millisecond."""
        end_ms = self.now_ms + ms
        while self.now_ms < end_ms:
            for name, board in self.boards.items():
                if board.node is not None and board.node.deadline_ms() <= self.now_ms:
                    board.node.handle_deadline(self.now_ms)
                    self.work(name)
            self.now_ms += 1
            taken, self.wire = self.wire, []
            for sent in taken:
                self.step(sent)

    # -- what tests say most ---------------------------------------------------------------------

    def elect(self, name: str) -> None:
        """Let a board campaign, and win if it may."""
        self.due(name)
        self.deliver()

    def propose(self, name: str, data: bytes = b"x") -> int:
        index = self[name].propose(data, self.now_ms)
        self.work(name)
        return index

    def change(self, name: str, members: Configuration) -> int:
        index = self[name].propose_configuration(members, self.now_ms)
        self.work(name)
        return index

    def read(self, name: str, read_id: int = 1, *, confirmed: bool = True) -> None:
        self[name].read_index(read_id, self.now_ms, confirmed=confirmed)
        self.work(name)

    def terms(self, name: str) -> list[int | None]:
        """The terms of a board's log, from its first entry on."""
        log = self[name].log
        return [log.term_at(index) for index in range(log.first_index, log.last_index + 1)]

    def commits(self) -> dict[str, int]:
        return {name: self[name].log.commit for name in self.boards if self.boards[name].node is not None}


def matches(sent: Sent, kind: type | None, sender: str, to: str) -> bool:
    return (
        (kind is None or isinstance(sent.message, kind))
        and sender in ("", sent.sender)
        and to in ("", sent.to)
    )


def led_by_a(names: str = "ABC", **more: Any) -> Cluster:
    """A cluster with A as its leader, and everybody up to date."""
    cluster = Cluster(names, **more)
    cluster.elect("A")
    cluster.due("A")
    cluster.deliver()
    assert cluster["A"].serves
    return cluster
