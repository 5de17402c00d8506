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
        self.everywhere = 0
        """What every member with a state machine holds, as the leader says."""

    def on_append(self, sender: str, append: Append) -> None:
        """Entries or a heartbeat of the leader of this term."""
        state, log = self._state, self._state.log
        self._hear(sender, append.timeout_ms)
        self._read_round = append.read_round
        self.everywhere = append.everywhere
        prev_index, prev_term, entries = append.prev_index, append.prev_term, append.entries
        if prev_index < log.commit:  # what is committed agrees (5.4.3, log matching)
            skipped = min(log.commit - prev_index, len(entries))
            if skipped:
                prev_index, prev_term, entries = (
                    entries[skipped - 1].index,
                    entries[skipped - 1].term,
                    entries[skipped:],
                )
            if prev_index < log.commit:
                prev_index, prev_term = log.commit, log.term_at(log.commit) or 0
        if log.term_at(prev_index) != prev_term:
            self._reject(sender, prev_index, prev_term)
            return
        log.merge(prev_index, entries)
        verified = prev_index + len(entries)
        if self._verified_term != state.term:
            self._verified, self._verified_term = 0, state.term
        self._verified = max(self._verified, verified)
        log.commit = max(log.commit, min(append.commit, verified))
        self._owed = self._verified > log.durable
        if not self._owed or not append.entries:
            self._acknowledge()

    def _hear(self, sender: str, timeout_ms: int) -> None:
        state = self._state
        if state.role == "leader":
            raise ProtocolViolation(f"{sender} and {state.own.node_id} both lead in term {state.term}")
        if state.leader not in (None, sender):
            raise ProtocolViolation(f"{sender} and {state.leader} both lead in term {state.term}")
        state.timeout_ms = timeout_ms
        state.follow(state.term, sender)
        state.heard_leader_ms = state.now_ms
        self.behind = None

    def _reject(self, sender: str, prev_index: int, prev_term: int) -> None:
        """Say where the logs may agree, so that the leader skips whole terms (5.3, the optimisation)."""
        state, log = self._state, self._state.log
        below = prev_index - 1 if prev_index <= log.last_index else log.last_index
        hint = max(log.commit, log.last_of_term_at_most(below, prev_term))
        answer = Appended(
            state.term, 0, self._read_round, state.wish_ms, prev_index, hint, log.term_at(hint) or 0
        )
        state.send(sender, answer)

    def on_behind(self, sender: str, behind: Behind) -> None:
        """The leader no longer has the entries that follow here."""
        self._hear(sender, behind.timeout_ms)
        self._read_round = behind.read_round
        log = self._state.log
        if log.last_index + 1 < behind.first_index:
            self.behind = sender
        answer = Appended(
            self._state.term,
            0,
            self._read_round,
            self._state.wish_ms,
            behind.first_index,
            log.last_index,
            log.last_term,
        )
        self._state.send(sender, answer)

    def saved(self) -> None:
        """More is durable: acknowledge it if the leader waits for that."""
        if self._owed and self._verified_term == self._state.term and self._state.leader is not None:
            self._owed = self._verified > self._state.log.durable
            self._acknowledge()

    def _acknowledge(self) -> None:
        state = self._state
        if state.leader is not None:
            matched = min(self._verified, state.log.durable)
            state.send(state.leader, Appended(state.term, matched, self._read_round, state.wish_ms))
