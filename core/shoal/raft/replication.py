"""A leader's part: entries out, acknowledgements in, what is committed (paper 5.3, 5.4.2; thesis 4.2.2, 6.2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from shoal.raft.entries import encode_configuration
from shoal.raft.log import Configuration
from shoal.raft.messages import CONFIGURATION, NO_OP, NORMAL, Append, Appended, Behind, Entry, TimeoutNow
from shoal.raft.progress import Pace, Progress
from shoal.raft.quorum import has_quorum, matched_by_quorum
from shoal.raft.state import NEVER_MS, TIMEOUT_MS_MAX, TIMEOUT_MS_MIN, State

HEARTBEATS = 4
"""In one election timeout."""


class Replication:
    """Leads: exists anew for each term. `confirmed` is called when a quorum has answered a read round."""

    def __init__(self, state: State, confirmed: Callable[[], None]) -> None:
        self._state = state
        self._confirmed = confirmed
        state.leader = state.own.node_id
        self.began = state.log.last_index + 1
        """The no-op of this term: what is before it may be counted as committed only with it (5.4.2)."""
        self.progress: dict[str, Progress] = {}
        self.read_round = 0
        self.confirmed_round = 0
        self.target: str | None = None
        """Whom leadership is being handed to."""
        self._target_told = False
        self._target_until_ms = NEVER_MS
        self.fetching: list[tuple[str, int]] = []
        state.election_ms = NEVER_MS
        self.heartbeat_ms = state.now_ms
        self.quorum_ms = state.now_ms + state.timeout_ms
        self.adopt_configuration()
        self._append(NO_OP, b"")

    # -- entries in ------------------------------------------------------------------------------

    def _append(self, kind: int, data: bytes) -> int:
        log = self._state.log
        entry = Entry(log.last_index + 1, self._state.term, kind, data)
        log.append((entry,))
        return entry.index

    def propose(self, data: bytes) -> int:
        """Add a command; its index."""
        return self._append(NORMAL, data)

    def propose_configuration(self, configuration: Configuration) -> int:
        """Add a configuration, in force from now on; its index."""
        index = self._append(CONFIGURATION, encode_configuration(configuration))
        self.adopt_configuration()
        return index

    def adopt_configuration(self) -> None:
        """Follow the progress of exactly the members there are."""
        state = self._state
        others = state.others()
        self.progress = {
            node_id: self.progress.get(node_id) or Progress(state.log.last_index + 1, state.now_ms)
            for node_id in others
        }

    @property
    def serves(self) -> bool:
        """Whether an entry of the own term is committed: what is committed is known only then (6.4, 8)."""
        return self._state.log.commit >= self.began

    # -- entries out -----------------------------------------------------------------------------

    def send_entries(self) -> None:
        """To everyone who lacks some and may be sent them."""
        for node_id, progress in self.progress.items():
            while progress.next_index <= self._state.log.last_index and progress.may_send:
                if not self._send_next(node_id, progress):
                    break

    def _send_next(self, node_id: str, progress: Progress) -> bool:
        log = self._state.log
        if log.term_at(progress.next_index - 1) is None:
            progress.fall_behind()
            return False
        entries = log.from_index(progress.next_index)
        if entries is None:
            progress.probing = True
            self.fetching.append((node_id, progress.next_index))
            if progress.pace is Pace.REPLICATE:
                progress.probe(progress.next_index)
                progress.probing = True
            return False
        self._send(node_id, progress, entries, progress.next_index - 1)
        return True

    def fetched(self, node_id: str, entries: Sequence[Entry]) -> None:
        """Entries that were not in memory came from the journal."""
        progress = self.progress.get(node_id)
        if progress is None or progress.pace is not Pace.PROBE:
            return
        progress.probing = False
        if not entries:
            progress.fall_behind()
        elif entries[0].index == progress.next_index and progress.may_send:
            if self._state.log.term_at(progress.next_index - 1) is None:
                progress.fall_behind()
            elif self._state.log.term_at(entries[-1].index) == entries[-1].term:
                self._send(node_id, progress, list(entries), progress.next_index - 1)

    def _send(self, node_id: str, progress: Progress, entries: list[Entry], prev_index: int) -> None:
        self._state.send(node_id, self._message(prev_index, entries))
        progress.told_commit = self._state.log.commit
        if entries:
            size = sum(len(entry.data) for entry in entries)
            progress.sent(entries[-1].index, size, self._state.now_ms)

    def _message(self, prev_index: int, entries: list[Entry]) -> Append:
        state = self._state
        prev_term = state.log.term_at(prev_index) or 0
        return Append(
            state.term,
            prev_index,
            prev_term,
            entries,
            state.log.commit,
            self.read_round,
            state.timeout_ms,
            self.everywhere,
        )

    @property
    def everywhere(self) -> int:
        """The last entry that every member with a state machine holds: a witness may forget it."""
        state, progress = self._state, self.progress
        own = state.own.node_id
        held = [
            state.log.durable if node_id == own else progress[node_id].matched
            for node_id in state.roster.stateful
        ]
        return min(held, default=0)

    def heartbeat(self) -> None:
        """Say to everyone that this node leads; to those being probed, from where."""
        state = self._state
        self.heartbeat_ms = state.now_ms + max(1, state.timeout_ms // HEARTBEATS)
        for node_id, progress in self.progress.items():
            if progress.pace is Pace.BEHIND:
                self._send_behind(node_id)
                continue
            if progress.under_way and state.now_ms - progress.moved_ms > 2 * state.timeout_ms:
                progress.resend()  # or its disk hangs
                progress.moved_ms = state.now_ms
            # From where the logs surely agree: entries on their way must not make a heartbeat look too new.
            replicating = progress.pace is Pace.REPLICATE
            prev_index = progress.matched if replicating else progress.next_index - 1
            if state.log.term_at(prev_index) is None:
                progress.fall_behind()
                continue
            self._send(node_id, progress, [], prev_index)

    @property
    def untold(self) -> bool:
        """Whether someone holds entries and has not heard that they are committed, and may wait for that."""
        return any(self._is_untold(progress) for progress in self.progress.values())

    def _is_untold(self, progress: Progress) -> bool:
        told = progress.told_commit
        return progress.pace is Pace.REPLICATE and told < self._state.log.commit and told < progress.matched

    def tell_commit(self) -> None:
        """To those who are `untold`."""
        for node_id, progress in self.progress.items():
            if self._is_untold(progress):
                self._send(node_id, progress, [], progress.matched)

    def _send_behind(self, node_id: str) -> None:
        state, first = self._state, self._state.log.first_index
        before = state.log.term_at(first - 1) or 0
        state.send(node_id, Behind(state.term, first, self.read_round, state.timeout_ms, before))

    # -- acknowledgements in ---------------------------------------------------------------------

    def on_appended(self, sender: str, answer: Appended) -> None:
        """How far a member is."""
        progress, member = self.progress.get(sender), self._state.find(sender)
        if progress is None or member is None or member.incarnation != answer.incarnation:
            return  # removed meanwhile, or wiped
        progress.heard_ms = self._state.now_ms
        progress.wish_ms = answer.wish_ms
        if answer.read_round > progress.read_round:
            progress.read_round = answer.read_round
            self.count_round()
        if answer.rejected:
            self._rejected(progress, answer)
        elif progress.match(answer.matched, self._state.now_ms):
            self.count_commit()
        self._hand_over()

    def _rejected(self, progress: Progress, answer: Appended) -> None:
        log = self._state.log
        if progress.pace is Pace.BEHIND:
            if answer.hint_index >= log.first_index - 1:
                progress.probe(answer.hint_index + 1)
            return
        if answer.rejected <= progress.matched or (
            progress.pace is Pace.PROBE and answer.rejected != progress.next_index - 1
        ):
            return  # it answers something older
        hint = log.last_of_term_at_most(min(answer.hint_index, answer.rejected - 1), answer.hint_term)
        progress.probe(hint + 1)

    def _matched(self) -> dict[str, int]:
        """By node id; the leader itself counts with what its own journal has synced, no more."""
        matched = {node_id: progress.matched for node_id, progress in self.progress.items()}
        matched[self._state.own.node_id] = self._state.log.durable
        return matched

    def count_commit(self) -> None:
        """Commit what a quorum holds, if it is of the own term (5.4.2)."""
        log = self._state.log
        index = matched_by_quorum(self._state.configuration, self._matched())
        if index > log.commit and log.term_at(index) == self._state.term:
            log.commit = index

    # -- still leading ---------------------------------------------------------------------------

    def count_round(self) -> None:
        confirmed = matched_by_quorum(
            self._state.configuration,
            {node_id: progress.read_round for node_id, progress in self.progress.items()}
            | {self._state.own.node_id: self.read_round},
        )
        if confirmed > self.confirmed_round:
            self.confirmed_round = confirmed
            self._confirmed()

    def begin_round(self) -> int:
        """Ask a quorum whether this node still leads; the number of the round."""
        self.read_round += 1
        self.count_round()
        if self.progress:
            self.heartbeat()
        return self.read_round

    def has_quorum(self) -> bool:
        """Whether a quorum was heard within the election timeout (thesis 6.2)."""
        state = self._state
        heard = {
            node_id
            for node_id, progress in self.progress.items()
            if state.now_ms - progress.heard_ms <= state.timeout_ms
        }
        return has_quorum(state.configuration, heard | {state.own.node_id})

    def agree_on_timeout(self) -> None:
        """The longest election timeout that any member needs holds for all."""
        state = self._state
        wishes = [state.wish_ms, *(progress.wish_ms for progress in self.progress.values())]
        state.timeout_ms = min(max(*wishes, TIMEOUT_MS_MIN), TIMEOUT_MS_MAX)

    # -- handing over (thesis 3.10) --------------------------------------------------------------

    def best_target(self) -> str | None:
        """The voter with a state machine that is furthest among those heard lately."""
        state = self._state
        able = [
            (progress.matched, node_id)
            for node_id, progress in self.progress.items()
            if (member := state.find(node_id)) is not None
            and member.voter
            and not member.witness
            and state.now_ms - progress.heard_ms <= state.timeout_ms
        ]
        return max(able)[1] if able else None

    def transfer(self, target: str) -> None:
        """Take nothing new, bring the target up to date, and let it campaign; given up after an election timeout."""
        self.target = target
        self._target_told = False
        self._target_until_ms = self._state.now_ms + self._state.timeout_ms
        self._hand_over()

    def _hand_over(self) -> None:
        state = self._state
        if self.target is None or self._target_told:
            return
        progress = self.progress[self.target]  # nobody leaves meanwhile: nothing can be proposed
        if progress.matched == state.log.last_index:
            self._target_told = True
            state.send(self.target, TimeoutNow(state.term))

    def give_up_transfer(self) -> bool:
        """Lead on when the target has not taken over in time. Whether it was so."""
        if self.target is None or self._state.now_ms < self._target_until_ms:
            return False
        self.target, self._target_until_ms = None, NEVER_MS
        return True

    @property
    def deadline_ms(self) -> int:
        """When something is to be done without a message."""
        return min(self.heartbeat_ms, self.quorum_ms, self._target_until_ms)
