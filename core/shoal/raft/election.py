"""Elections: pre-votes and votes, asked for and given (paper 5.2 and 5.4.1; thesis 4.2.3, 9.6)."""

from __future__ import annotations

from shoal.raft.messages import AskVote, TimeoutNow, Vote
from shoal.raft.quorum import has_quorum
from shoal.raft.state import State

LOST_MS = 100
"""How soon a member may campaign, at random, after the leader's process is known to be gone."""


class Election:
    """Campaigns, and judges the campaigns of others. `won` is asked for by the node after each call."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._granted: set[str] = set()
        self.transfer = False
        """The campaign under way was asked for by the leader."""

    # -- campaigning -----------------------------------------------------------------------------

    def campaign(self, *, transfer: bool = False) -> None:
        """Ask whether a vote would be given; with `transfer` ask for the vote itself."""
        state = self._state
        state.leader = None
        self.transfer = transfer
        state.wait_for_leader()
        if not state.votes:
            return
        self._granted = set()
        if transfer:
            self._ask_for_votes()
            return
        state.role = "pre-candidate"
        self._ask(state.term + 1, pre=True)
        self._count(state.own.node_id)

    def _ask_for_votes(self) -> None:
        state = self._state
        state.role = "candidate"
        state.term += 1
        state.voted_for = state.own.node_id
        self._granted = set()
        self._ask(state.term, pre=False)

    def _ask(self, term: int, *, pre: bool) -> None:
        state, log = self._state, self._state.log
        for member in state.configuration.members:
            if member.voter and member.node_id != state.own.node_id:
                ask = AskVote(term, log.last_index, log.last_term, member.incarnation, pre, self.transfer)
                state.send(member.node_id, ask)

    def own_vote_saved(self) -> None:
        """The own vote is durable: only now may it count."""
        state = self._state
        if state.role == "candidate" and state.voted_for == state.own.node_id and not state.unsaved:
            self._count(state.own.node_id)

    def on_vote(self, sender: str, vote: Vote) -> None:
        """Count a granted vote, once for each node id."""
        state = self._state
        if not vote.granted:
            return
        if vote.pre:
            if state.role == "pre-candidate" and vote.term == state.term + 1:
                self._count(sender)
        elif state.role == "candidate" and vote.term == state.term:
            self._count(sender)

    def _count(self, voter: str) -> None:
        state = self._state
        self._granted.add(voter)
        if has_quorum(state.configuration, self._granted):
            if state.role == "pre-candidate":
                self._ask_for_votes()
            elif state.own.node_id in self._granted:
                state.role = "leader"

    # -- voting ----------------------------------------------------------------------------------

    def refuses_to_hear(self, ask: AskVote) -> bool:
        """Whether a leader is there, so that the candidate must not even raise the term (thesis 4.2.3)."""
        state = self._state
        return not ask.transfer and (state.hears_leader or state.role == "leader")

    def on_ask_vote(self, sender: str, ask: AskVote) -> None:
        """Give or refuse a vote; the term has been taken over where it is higher, unless it is a pre-vote."""
        state = self._state
        sound = (
            ask.term >= state.term
            and ask.incarnation == state.own.incarnation
            and state.log.is_behind(ask.last_index, ask.last_term)
        )
        if ask.pre:
            granted = sound and ask.term > state.term
            state.send(sender, Vote(ask.term if granted else state.term, granted, pre=True))
            return
        granted = sound and state.leader is None and state.voted_for in ("", sender)
        if granted:
            state.role = "follower"
            state.voted_for = sender
            state.wait_for_leader()
        state.send(sender, Vote(state.term, granted))

    def on_timeout_now(self, _message: TimeoutNow) -> None:
        """The leader hands over to this node."""
        self.campaign(transfer=True)

    def leader_lost(self) -> None:
        """The leader's process is known to be gone: do not wait for its silence to grow long."""
        state = self._state
        state.leader = None
        state.heard_leader_ms = state.now_ms - state.timeout_ms
        state.election_ms = min(state.election_ms, state.now_ms + state.random.randrange(LOST_MS))
