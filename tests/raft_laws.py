"""What must hold in every life of a Raft cluster, whatever happens (paper, figure 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from raft_kit import Journal, decode, incarnation

from shoal.raft.log import Configuration, Kind
from shoal.raft.messages import Entry
from shoal.raft.node import RaftNode


class Disk(Protocol):
    """A board, as far as a law looks at it."""

    journal: Journal
    life: int
    node: RaftNode | None


class Laws:
    """Sees every step of every board. An AssertionError begins with the law that does not hold."""

    def __init__(self) -> None:
        self.leaders: dict[int, str] = {}
        self.committed: dict[int, Entry] = {}
        self._committed_in: dict[int, int] = {}
        self._configurations: list[tuple[int, Configuration]] = []
        self.last = 0
        self.acknowledged_to = 0
        self._acknowledged: list[Entry] = []
        self._known: dict[tuple[int, int], tuple[Entry, int]] = {}
        self._leading: dict[str, tuple[int, int]] = {}
        """Term and life of those who led when they were looked at last."""
        self.reads = 0

    # -- what is written -------------------------------------------------------------------------

    def created(self, entry: Entry, before: int) -> None:
        """An entry in some log, behind one of term `before`."""
        known = self._known.setdefault((entry.index, entry.term), (entry, before))
        assert known == (entry, before), (
            f"log matching: {entry.index}/{entry.term} is {known}, and {entry} behind {before}"
        )

    def written(self, name: str, journal: Journal, entries: Sequence[Entry]) -> None:
        """A board writes entries: index and term name an entry and all before it (log matching, 5.3)."""
        if not entries:
            return
        before = term_at(journal, entries[0].index - 1)
        for entry in entries:
            assert before is not None, f"log matching: {name} writes {entry.index} behind a hole"
            self.created(entry, before)
            before = entry.term
        for index in range(entries[0].index, journal.last_index + 1):
            agreed = self.committed.get(index)
            assert agreed is None or not holds(journal, agreed) or agreed in entries, (
                f"committed entries stay: {name} replaces {index}"
            )

    # -- who leads, and what is committed --------------------------------------------------------

    def look(self, name: str, node: RaftNode, boards: Mapping[str, Disk]) -> None:
        """After each step of a board."""
        life = boards[name].life
        if node.role == "leader":
            leader = self.leaders.setdefault(node.term, name)
            assert leader == name, f"election safety: {leader} and {name} lead in term {node.term}"
            if self._leading.get(name) != (node.term, life):
                self._complete(name, node)
            self._leading[name] = (node.term, life)
        if name in self._leading and self._leading[name][1] == life:
            self._count(name, node, boards)
        if node.role != "leader":
            self._leading.pop(name, None)

    def _count(self, name: str, node: RaftNode, boards: Mapping[str, Disk]) -> None:
        """What a leader has committed, also in the step in which it ceased to lead."""
        term, _ = self._leading[name]
        while self.last < node.log.commit:
            entry = (node.log.from_index(self.last + 1, 1) or [None])[0]
            assert entry is not None, f"{name} commits {self.last + 1} and does not have it"
            self._held_by_a_quorum(name, node, entry, boards)
            self.commit(entry, term)
            for board_name, board in boards.items():
                other = board.node
                if other is not None and other.role == "leader" and other.term > term:
                    self._complete(board_name, other)

    def commit(self, entry: Entry, term: int) -> None:
        """The leader of `term` counted a quorum for it."""
        self.last = entry.index
        self.committed[entry.index] = entry
        self._committed_in[entry.index] = term
        if entry.kind == Kind.CONFIGURATION:
            self._configurations.append((entry.index, decode(entry)))

    def _complete(self, name: str, node: RaftNode) -> None:
        """A leader has all that was committed in earlier terms (leader completeness, 5.4.3)."""
        for index in range(max(1, node.log.first_index - 1), self.last + 1):
            if self._committed_in[index] < node.term:
                assert node.log.term_at(index) == self.committed[index].term, (
                    f"leader completeness: {name} leads in term {node.term} without {index}"
                )

    def _held_by_a_quorum(self, name: str, node: RaftNode, entry: Entry, boards: Mapping[str, Disk]) -> None:
        """What is committed is on the disks of a majority of the leader's configuration."""
        having = 0
        for member in node.configuration.members:
            board = boards[member.node_id]
            same = incarnation(member.node_id, board.life) == member.incarnation
            having += member.voter and same and holds(board.journal, entry)
        # A later entry of the leader's own term is what was counted (5.4.2): look at where the count stands.
        assert having >= node.configuration.quorum or entry.index < node.log.commit, (
            f"durable on a quorum: {name} commits {entry.index} in term {node.term}, which {having} hold"
        )

    def was_removed(self, name: str, life: int) -> bool:
        """Whether a member was one, and is not by the last committed word."""
        known = [
            any((m.node_id, m.incarnation) == (name, incarnation(name, life)) for m in configuration.members)
            for _, configuration in self._configurations
        ]
        return any(known) and not known[-1]

    def configuration_at(self, index: int) -> tuple[int, Configuration]:
        """The committed configuration in force there."""
        return next(found for found in reversed(self._configurations) if found[0] <= index)

    # -- what is done with it --------------------------------------------------------------------

    def applied(self, name: str, journal: Journal, before: int, entry: Entry) -> None:
        """A board applies an entry (state-machine safety, 5.4.3)."""
        assert entry.index == before + 1, f"applied in order: {name} applies {entry.index} after {before}"
        assert self.committed.get(entry.index) == entry, (
            f"state-machine safety: {name} applies {entry}, committed is {self.committed.get(entry.index)}"
        )
        assert holds(journal, entry), (
            f"applied when durable: {name} applies {entry.index}/{entry.term} before its journal has it"
        )

    def acknowledged(self, entry: Entry) -> None:
        """A client was told that its command is done."""
        self._acknowledged.append(entry)
        self.acknowledged_to = max(self.acknowledged_to, entry.index)

    @property
    def acknowledgements(self) -> int:
        return len(self._acknowledged)

    def read(self, name: str, floor: int, index: int) -> None:
        """A read is answered: it sees all that was acknowledged before it was asked (6.4)."""
        assert index == -1 or index >= floor, (
            f"linearizable reads: {name} reads at {index}, {floor} was acknowledged before"
        )
        self.reads += index >= 0

    def nothing_lost(self, name: str, journal: Journal) -> None:
        """A board that is up to date has every command that was acknowledged, or a snapshot with it."""
        for entry in self._acknowledged:
            assert self.committed[entry.index] == entry, f"no acknowledged command is lost: {entry}"
            assert holds(journal, entry), (
                f"no acknowledged command is lost: {name} lacks {entry.index}/{entry.term}"
            )


def term_at(journal: Journal, index: int) -> int | None:
    """Of an entry on a disk; what is before the log is taken to be right."""
    if index == journal.first_index - 1:
        return journal.previous_term
    found = journal.from_index(index, 1)
    return found[0].term if found else None


def holds(journal: Journal, entry: Entry) -> bool:
    """Whether an entry is on a disk, or was applied there and is no longer needed."""
    return entry.index < journal.first_index or entry in journal.from_index(entry.index, 1)
