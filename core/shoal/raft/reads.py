"""ReadIndex: reads see everything acknowledged before them, without a clock (thesis 6.4).

The leader notes its commit index, has a quorum confirm that it still leads, and answers with the index; many
reads share a round. A follower asks the leader, and serves the read itself once it has applied that far. Its question
is a confirmation already: where leader and follower are a quorum, there is no round (see DESIGN.md for why that holds).
"""

from __future__ import annotations

from shoal.raft.messages import AskRead, ReadAt, ReadState
from shoal.raft.quorum import has_quorum
from shoal.raft.replication import Replication
from shoal.raft.state import State


class Reads:
    """Reads under way: those to be confirmed here, and those asked of the leader."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._waiting: list[tuple[str, int]] = []
        """(member, id) that need a round of their own, or the leader's first commit."""
        self._round: list[tuple[str, int]] = []
        self._round_number = 0
        self._round_index = 0
        self._asked: dict[int, tuple[str, int, int]] = {}
        """By the id on the wire: the leader that was asked, the id of the read, and when."""
        self._next_id = state.random.getrandbits(62)  # an answer to an earlier life of this node fits no read
        self.states: list[ReadState] = []

    def ask(self, read_id: int, leading: Replication | None, *, confirmed: bool) -> None:
        """Begin a read of this node; a ReadState with its id comes, at once where nobody can be asked."""
        state = self._state
        if leading is not None:
            self._take(state.own.node_id, read_id, leading, by_round=confirmed)
        elif state.leader is None:
            self.states.append(ReadState(read_id, -1))
        else:
            self._next_id += 1
            self._asked[self._next_id] = (state.leader, read_id, state.now_ms)
            state.send(state.leader, AskRead(state.term, self._next_id, confirmed, state.own.incarnation))

    def on_ask_read(self, sender: str, ask: AskRead, leading: Replication | None) -> None:
        """A follower asks."""
        if leading is None:
            self._state.send(sender, ReadAt(self._state.term, ask.read_id, -1))
        else:
            by_round = ask.confirmed and not self._is_quorum(sender, ask)
            self._take(sender, ask.read_id, leading, by_round=by_round)

    def _is_quorum(self, sender: str, ask: AskRead) -> bool:
        """Whether this leader and a follower that asks it in this term are a quorum. A wiped one is nobody's."""
        state, member = self._state, self._state.find(sender)
        if member is None or member.incarnation != ask.incarnation:
            return False
        return has_quorum(state.configuration, (sender, state.own.node_id))

    def _take(self, member: str, read_id: int, leading: Replication, *, by_round: bool) -> None:
        if not by_round and leading.serves:
            self._answer(member, read_id, self._state.log.commit)
            return
        self._waiting.append((member, read_id))
        self.go_on(leading)

    def go_on(self, leading: Replication) -> None:
        """Answer what the round under way has confirmed, and begin the next for what came since."""
        if self._round and leading.confirmed_round >= self._round_number:
            served, self._round = self._round, []
            for member, read_id in served:
                self._answer(member, read_id, self._round_index)
        if self._waiting and not self._round and leading.serves:
            self._round, self._waiting = self._waiting, []
            self._round_index = self._state.log.commit
            self._round_number = leading.read_round + 1
            leading.begin_round()  # alone, it is confirmed at once, and comes back here

    def _answer(self, member: str, read_id: int, index: int) -> None:
        if member == self._state.own.node_id:
            self.states.append(ReadState(read_id, index))
        else:
            self._state.send(member, ReadAt(self._state.term, read_id, index))

    def on_read_at(self, sender: str, answer: ReadAt) -> bool:
        """The leader answers. Whether it was the one that was asked."""
        if answer.read_id in self._asked and self._asked[answer.read_id][0] == sender:
            _, read_id, _ = self._asked.pop(answer.read_id)
            self.states.append(ReadState(read_id, answer.index))
            return True
        return False

    def expire(self) -> None:
        """Fail what has been asked for longer than an election timeout: question or answer is lost."""
        limit_ms = self._state.now_ms - self._state.timeout_ms
        for wire_id, (_, read_id, asked_ms) in list(self._asked.items()):
            if asked_ms > limit_ms:  # in the order of asking
                break
            del self._asked[wire_id]
            self.states.append(ReadState(read_id, -1))

    def fail(self) -> None:
        """Leadership changed: nothing under way can be answered."""
        for member, read_id in self._waiting + self._round:
            self._answer(member, read_id, -1)
        self._waiting, self._round = [], []
        self.states.extend(ReadState(read_id, -1) for _, read_id, _ in self._asked.values())
        self._asked.clear()
