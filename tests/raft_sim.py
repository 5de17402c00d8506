"""Raft cores in one thread from one seed: a bad network, bad disks, clocks that differ, members that come and go.

What must hold is checked at every step by `raft_laws.Laws`; `run` is a whole life: faults first, then everything is
mended, and the cluster has to go on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from random import Random

import raft_words
from msgspec import structs
from raft_kit import Journal, configuration, founding, incarnation, member
from raft_laws import Laws

from shoal.raft.errors import ChangeRefused, NotLeader
from shoal.raft.log import Configuration, HardState, Kind
from shoal.raft.membership import with_learner, with_voter, without
from shoal.raft.messages import Entry, Message, Ready
from shoal.raft.node import RaftNode
from shoal.raft.state import Own

SPARE = "XY"


@dataclass
class SimBoard:
    """A board: what is on its disk, and the node that runs on it unless it is down."""

    name: str
    journal: Journal
    rate: float = 1.0
    offset_ms: int = 0
    life: int = 1
    """Counts how often its data directory was wiped."""
    node: RaftNode | None = None
    boot: int = 0
    """Counts starts: what was begun before the last one comes to nothing."""
    writing: Ready | None = None
    hung_until_ms: int = 0
    applied: int = 0
    synced: int = 0
    """What the databases hold durably."""
    taken: dict[tuple[int, int], bytes] = field(default_factory=dict)
    """Proposals that wait for their commit, by index and term."""
    reads: dict[int, int] = field(default_factory=dict)
    """What each read must see at least."""
    wake_ms: int = -1

    def clock(self, now_ms: int) -> int:
        return self.offset_ms + int(now_ms * self.rate)


class Simulation:
    """One life of a cluster."""

    def __init__(self, seed: int, trace: Callable[[str], None] | None = None) -> None:
        self.random = Random(seed)
        self.now_ms = 0
        self._trace = trace
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._order = count()
        self._ids = count(1)
        self.laws = Laws()
        self.cuts: set[tuple[str, str]] = set()
        self.loss = self.random.choice((0.0, 0.02, 0.15))
        self.twice = self.random.choice((0.0, 0.05))
        self.trip_ms = self.random.choice((15, 15, 150))
        self.doom = self.random.choice((0.0, 0.3))
        """How likely the power fails around the write of a term or vote: that is when promises are made."""
        self.wish_ms = self.random.choice((300, 300, 1_000))
        self.faulty = True
        names = self.random.choice(("ABC", "ABC", "ABCDE"))
        witness = len(names) == 3 and self.random.random() < 0.25
        founders = configuration("AB", witnesses="C") if witness else configuration(names)
        self.boards: dict[str, SimBoard] = {}
        self.laws.created(founding(founders), 0)
        self.laws.commit(founding(founders), 1)
        for name in names + SPARE:
            entries = [founding(founders)] if name in names else []
            board = SimBoard(name, Journal(entries, HardState(len(entries))))
            board.rate = self.random.uniform(0.9, 1.1)
            board.offset_ms = self.random.randrange(1_000_000)
            board.applied = board.synced = len(entries)
            self.boards[name] = board
            self.start(board)

    # -- events ----------------------------------------------------------------------------------

    def after(self, ms: float, do: Callable[[], None]) -> None:
        heappush(self._events, (self.now_ms + max(0, round(ms)), next(self._order), do))

    def note(self, line: str) -> None:
        if self._trace is not None:
            self._trace(f"{self.now_ms:>6} {line}")

    def run_until(self, end_ms: int, done: Callable[[], bool] = lambda: False) -> bool:
        """Let time pass; whether `done` came true."""
        while self._events and self._events[0][0] <= end_ms:
            self.now_ms, _, do = heappop(self._events)
            do()
            if done():
                return True
        self.now_ms = end_ms
        return done()

    # -- life and death --------------------------------------------------------------------------

    def start(self, board: SimBoard) -> None:
        if board.node is not None:
            return
        board.boot, board.wake_ms = board.boot + 1, -1
        board.applied = board.synced
        own = Own(board.name, incarnation(board.name, board.life))
        random = Random(self.random.getrandbits(32))
        begin = board.journal.start(board.applied)
        board.node = RaftNode(
            own, begin, board.journal.hard_state, random=random, now_ms=board.clock(self.now_ms)
        )
        board.node.wish_timeout(self.wish_ms)
        self.note(f"{board.name} starts: log to {board.journal.last_index}, applied {board.applied}")
        self.pump(board)

    def crash(self, board: SimBoard) -> None:
        """Power off: of the write under way some records are on the disk, from the first on, or none, or all."""
        if board.node is None:
            return
        if board.writing is not None:
            self._tear(board, board.writing)
        board.node, board.writing, board.hung_until_ms = None, None, 0
        board.taken.clear()
        board.reads.clear()
        self.note(f"{board.name} is down")

    def _tear(self, board: SimBoard, ready: Ready) -> None:
        kept = self.random.randrange(len(ready.entries) + 2)
        if kept:
            entries = ready.entries[: kept - 1] if ready.hard_state else ready.entries[:kept]
            self._write(board, structs.replace(ready, entries=entries))

    def _write(self, board: SimBoard, ready: Ready) -> None:
        self.laws.written(board.name, board.journal, ready.entries)
        board.journal.write(ready)

    def wipe(self, board: SimBoard) -> None:
        """A new data directory: another member, who knows nothing."""
        self.crash(board)
        board.journal, board.life, board.applied, board.synced = Journal(), board.life + 1, 0, 0
        self.start(board)

    # -- the driver's work -----------------------------------------------------------------------

    def pump(self, board: SimBoard) -> None:
        node = board.node
        assert node is not None
        self.laws.look(board.name, node, self.boards)
        while (ready := node.ready()) is not None:
            self._carry_out(board, ready)
            self.laws.look(board.name, node, self.boards)
        self._set_timer(board, node)

    def _carry_out(self, board: SimBoard, ready: Ready) -> None:
        for to, message in ready.messages:
            self.send(board.name, to, message)
        if ready.must_persist:
            assert board.writing is None, "two writes at once"
            board.writing = ready
            self.later(board, self._disk_ms(board), lambda: self._persisted(board, ready))
            if ready.hard_state and self.faulty and self.random.random() < self.doom:
                self.later(board, self.random.randrange(15), lambda: self.crash(board))
                self.after(self.random.randrange(15, 60), lambda: self.start(board))
        for entry in ready.committed:
            self._apply(board, entry)
        for state in ready.reads:
            self.laws.read(board.name, board.reads.pop(state.read_id), state.index)
        for to, index in ready.fetch:
            self.later(
                board, self.random.randrange(20), lambda to=to, index=index: self._fetch(board, to, index)
            )
        if ready.behind is not None:
            source = self.boards[ready.behind]
            self.later(board, self.random.randrange(50, 800), lambda: self._install(board, source))

    def later(self, board: SimBoard, ms: float, do: Callable[[], None]) -> None:
        """Something of this start of a board: nothing comes of it after a crash."""
        boot = board.boot

        def go_on() -> None:
            if board.node is not None and board.boot == boot:
                do()

        self.after(ms, go_on)

    def _disk_ms(self, board: SimBoard) -> int:
        usual = self.random.randrange(8) if self.random.random() < 0.9 else self.random.randrange(200)
        return max(usual, board.hung_until_ms - self.now_ms)

    def _persisted(self, board: SimBoard, ready: Ready) -> None:
        assert board.node is not None
        board.writing = None
        self._write(board, ready)
        for to, message in ready.after:
            self.send(board.name, to, message)
        board.node.advance(ready, board.clock(self.now_ms))
        self.pump(board)

    def _apply(self, board: SimBoard, entry: Entry) -> None:
        self.laws.applied(board.name, board.journal, board.applied, entry)
        board.applied = entry.index
        if self.random.random() < 0.3:
            board.synced = entry.index
        if board.taken.pop((entry.index, entry.term), None) == entry.data:
            self.laws.acknowledged(entry)
        if entry.kind == Kind.CONFIGURATION:
            self.after(self.random.randrange(5_000), self._wipe_removed)

    def _fetch(self, board: SimBoard, to: str, index: int) -> None:
        assert board.node is not None
        entries = board.journal.from_index(index, self.random.randrange(1, 50))
        board.node.fetched(to, entries, board.clock(self.now_ms))
        self.pump(board)

    def _install(self, board: SimBoard, source: SimBoard) -> None:
        """Take over a copy of the source's databases, and begin again with it (paper, figure 13)."""
        index = source.synced
        if source.node is None or index <= board.applied:
            return
        term = self.laws.committed[index].term
        self.crash(board)
        journal = board.journal
        if (
            board.journal.first_index <= index <= journal.last_index
            and journal.from_index(index)[0].term == term
        ):
            journal.drop(index + 1)
        else:
            journal.entries, journal.first_index, journal.previous_term = [], index + 1, term
        journal.configuration = self.laws.configuration_at(index)
        board.synced = index
        self.note(f"{board.name} has a snapshot of {source.name} to {index}/{term}")
        self.start(board)

    def compact(self, board: SimBoard) -> None:
        first = self.random.randrange(1, board.synced + 2)
        if board.node is not None and board.writing is None and first > board.journal.first_index:
            board.journal.drop(first)
            board.node.dropped(first)
            self.note(f"{board.name} keeps its log from {first} on")

    # -- time and messages -----------------------------------------------------------------------

    def _set_timer(self, board: SimBoard, node: RaftNode) -> None:
        wait_ms = (node.deadline_ms() - board.clock(self.now_ms)) / board.rate
        due_ms = self.now_ms + max(0, round(wait_ms)) + 1
        if due_ms < self.now_ms + 10**6 and not self.now_ms < board.wake_ms <= due_ms:
            board.wake_ms = due_ms
            self.later(board, due_ms - self.now_ms, lambda: self._wake(board))

    def _wake(self, board: SimBoard) -> None:
        node, now_ms = board.node, board.clock(self.now_ms)
        assert node is not None
        board.wake_ms = -1
        if node.deadline_ms() <= now_ms:
            node.handle_deadline(now_ms)
        self.pump(board)

    def send(self, sender: str, to: str, message: Message) -> None:
        if to not in self.boards or (sender, to) in self.cuts:
            return
        lost = self.faulty and self.random.random() < self.loss
        if self._trace is not None:
            self.note(f"{sender} -> {to}  {raft_words.say(message)}{'  (lost)' if lost else ''}")
        for _ in range(0 if lost else 2 if self.faulty and self.random.random() < self.twice else 1):
            slow = self.faulty and self.random.random() < 0.03
            delay_ms = self.random.randrange(3_000) if slow else self.random.randrange(1, self.trip_ms)
            self.after(delay_ms, lambda: self._arrive(sender, to, message))

    def _arrive(self, sender: str, to: str, message: Message) -> None:
        board = self.boards[to]
        if board.node is not None and (sender, to) not in self.cuts:
            board.node.step(sender, message, board.clock(self.now_ms))
            self.pump(board)

    # -- clients ---------------------------------------------------------------------------------

    def up(self) -> list[SimBoard]:
        return [board for board in self.boards.values() if board.node is not None]

    def leaders(self) -> list[tuple[SimBoard, RaftNode]]:
        return [(b, b.node) for b in self.up() if b.node is not None and b.node.role == "leader"]

    def propose(self) -> None:
        for board, node in self.leaders():
            data = f"command {next(self._ids)}".encode() * self.random.choice((1, 1, 1, 5_000))
            try:
                index = node.propose(data, board.clock(self.now_ms))
            except NotLeader:
                continue
            board.taken[index, node.term] = data
            self.pump(board)

    def read(self) -> None:
        board = self.random.choice(list(self.boards.values()))
        if board.node is not None:
            number = next(self._ids)
            board.reads[number] = self.laws.acknowledged_to
            board.node.read_index(number, board.clock(self.now_ms))
            self.pump(board)

    def change_members(self) -> None:
        for board, node in self.leaders():
            try:
                node.propose_configuration(self._next_members(node.configuration), board.clock(self.now_ms))
            except (NotLeader, ChangeRefused) as refusal:
                self.note(f"{board.name} does not change the members: {refusal}")
                continue
            self.note(f"{board.name} changes the members: {raft_words.members(node.configuration)}")
            self.pump(board)

    def _next_members(self, before: Configuration) -> Configuration:
        voters = [m.node_id for m in before.members if m.voter]
        learners = [m.node_id for m in before.members if not m.voter]
        strangers = [
            b
            for b in self.boards.values()
            if b.name not in voters + learners and not self.laws.was_removed(b.name, b.life)
        ]
        chance = self.random.random()
        if learners and chance < 0.5:
            return with_voter(before, self.random.choice(learners))
        if strangers and (chance < 0.7 or len(voters) < 3):
            new = self.random.choice(strangers)
            return with_learner(before, member(new.name, life=new.life))
        full = [m.node_id for m in before.members if m.voter and not m.witness]
        leaving = learners if len(voters) < 3 or len(full) < 3 else voters + learners
        if not leaving:
            raise ChangeRefused("nobody can be spared")
        return without(before, self.random.choice(leaving))

    def _wipe_removed(self) -> None:
        """Boards that were removed, by the last committed word, get a new data directory."""
        for board in self.boards.values():
            if self.laws.was_removed(board.name, board.life):
                self.note(f"{board.name} is wiped")
                self.wipe(board)
