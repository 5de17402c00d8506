"""A follower's part: entries in, acknowledgements out (paper 5.3)."""

from __future__ import annotations

from shoal.raft.errors import ProtocolViolation
from shoal.raft.messages import Append, Appended, Behind
from shoal.raft.state import State


class Following:
    """Takes in what the leader sends. An acknowledgement speaks of what is verified *and* durable, never of more."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._verified = 0
        self._verified_term = 0
        self._read_round = 0
        self._owed = False
        """Entries that the leader sent are verified, and not durable yet."""
        self.behind: str | None = None
        self.told_commit = 0
        """What the leader said to be committed; much of it may be missing here."""
        self.everywhere = 0
        """What every member with a state machine holds, as the leader says."""

    def on_append(self, sender: str, append: Append) -> None:
        """Entries or a heartbeat of the leader of this term."""
        state, log = self._state, self._state.log
        self._hear(sender, append.timeout_ms)
        self._read_round = append.read_round
        self.everywhere = append.everywhere
        self.told_commit = append.commit
        prev_index, prev_term, entries = append.prev_index, append.prev_term, append.entries
        unknown = log.first_index - 1 - prev_index
        if unknown > 0:  # committed, and no longer in the log
            prev_index, prev_term = log.first_index - 1, log.term_at(log.first_index - 1) or 0
            entries = entries[unknown:]
        if log.term_at(prev_index) != prev_term:
            if prev_index <= log.commit:
                raise ProtocolViolation(
                    f"{sender} has another entry at {prev_index}, which is committed here"
                )
            self._reject(sender, prev_index, prev_term)
            return
        log.merge(prev_index, entries)
        verified = max(prev_index + len(entries), log.commit)  # a leader has all that is committed (5.4.3)
        if self._verified_term != state.term:
            self._verified, self._verified_term = 0, state.term
        self._verified = max(self._verified, verified)
        log.commit = max(log.commit, min(append.commit, verified))
        self._owed = self._verified > log.durable
        if not self._owed or not append.entries:
            self._acknowledge()

    def hear_commit(self, index: int) -> None:
        """The leader of this term answered that `index` is committed."""
        if self._verified_term == self._state.term:
            log = self._state.log
            log.commit = max(log.commit, min(index, self._verified))

    def _hear(self, sender: str, timeout_ms: int) -> None:
        state = self._state
        if state.leader not in (None, sender):  # the own one, on a leader
            raise ProtocolViolation(f"{sender} and {state.leader} both lead in term {state.term}")
        state.timeout_ms = timeout_ms
        state.follow(state.term, sender)
        state.heard_leader_ms = state.now_ms
        self.behind = None

    def _reject(self, sender: str, prev_index: int, prev_term: int) -> None:
        """Say where the logs may agree, so that the leader skips whole terms (5.3, the optimisation)."""
        log = self._state.log
        below = prev_index - 1 if prev_index <= log.last_index else log.last_index
        hint = max(log.commit, log.last_of_term_at_most(below, prev_term))
        self._answer(sender, 0, prev_index, hint)

    def on_behind(self, sender: str, behind: Behind) -> None:
        """The leader no longer has the entries that follow here."""
        self._hear(sender, behind.timeout_ms)
        self._read_round = behind.read_round
        self.told_commit = max(self.told_commit, behind.first_index)
        log = self._state.log
        start = behind.first_index - 1
        agrees = log.commit
        if agrees < start:  # entries beyond may be another leader's, however many there are
            if log.term_at(start) == behind.previous_term:
                agrees = start
            else:
                self.behind = sender
        self._answer(sender, 0, behind.first_index, agrees)

    def saved(self) -> None:
        """More is durable: acknowledge it if the leader waits for that."""
        if self._owed and self._verified_term == self._state.term and self._state.leader is not None:
            self._owed = self._verified > self._state.log.durable
            self._acknowledge()

    def _acknowledge(self) -> None:
        state = self._state
        if state.leader is not None:
            self._answer(state.leader, min(self._verified, state.log.durable))

    def _answer(self, leader: str, matched: int, rejected: int = 0, hint: int = 0) -> None:
        state = self._state
        hint_term = state.log.term_at(hint) or 0 if rejected else 0
        own = state.own.incarnation
        answer = Appended(
            state.term, matched, self._read_round, state.wish_ms, rejected, hint, hint_term, own
        )
        state.send(leader, answer)
