"""The sans-IO Raft core: messages and time in, work for a driver out. No clock, no thread, no file, no socket.

Whoever drives it calls, in any order, `step`, `handle_deadline`, `propose`, `read_index` and the rest, and after each
takes `ready` until there is none. The order in which a `Ready` must be carried out stands at that class; it is what
makes an acknowledgement a promise. Time is milliseconds of a monotonic clock, and only ever compared with itself.

Sources: "paper" is Ongaro and Ousterhout, In Search of an Understandable Consensus Algorithm (extended version);
"thesis" is Ongaro, Consensus: Bridging Theory and Practice.
"""

from __future__ import annotations

from collections.abc import Sequence

from shoal.raft.election import Election
from shoal.raft.entries import LogStart, LogView
from shoal.raft.errors import ChangeRefused, NotLeader
from shoal.raft.following import Following
from shoal.raft.log import Configuration, HardState
from shoal.raft.membership import check_change
from shoal.raft.messages import (
    Append,
    Appended,
    AskRead,
    AskVote,
    Behind,
    Entry,
    Message,
    ReadAt,
    Ready,
    Role,
    TimeoutNow,
    Vote,
)
from shoal.raft.reads import Reads
from shoal.raft.replication import Replication
from shoal.raft.state import NEVER_MS, TIMEOUT_MS_MAX, TIMEOUT_MS_MIN, Draws, Own, State


class RaftNode:
    """One member."""

    def __init__(
        self, own: Own, start: LogStart, hard_state: HardState, *, random: Draws, now_ms: int
    ) -> None:
        self._state = State(own, LogView(start), hard_state, random, now_ms)
        self._election = Election(self._state)
        self._following = Following(self._state)
        self._reads = Reads(self._state)
        self._leading: Replication | None = None
        self.hollow = False
        """Its databases are gone, and are being copied anew: as long as that lasts it may not lead."""
        self._unadvanced: Ready | None = None
        self._persisting_since_ms = NEVER_MS
        self._known_leader: tuple[int, str | None] = (0, None)
        self._configuration_index = self._state.log.configuration_index
        self._state.wait_for_leader()
        if self.is_alone:
            self._state.election_ms = now_ms

    # -- what it is ------------------------------------------------------------------------------

    @property
    def role(self) -> Role:
        """What it does now."""
        return self._state.role

    @property
    def term(self) -> int:
        """Its term; it may not be durable yet."""
        return self._state.term

    @property
    def leader(self) -> str | None:
        """Who leads, as far as this node knows; itself only with `role` leader."""
        return self._state.leader

    @property
    def log(self) -> LogView:
        """The log; to look at only."""
        return self._state.log

    @property
    def configuration(self) -> Configuration:
        """The configuration in force, committed or not."""
        return self._state.configuration

    @property
    def timeout_ms(self) -> int:
        """The cluster's election timeout."""
        return self._state.timeout_ms

    @property
    def serves(self) -> bool:
        """Whether it leads with a state machine, has given out all that was committed before it did, and stays."""
        leading = self._leading
        if leading is None or leading.target is not None or self.stateless:
            return False
        return leading.serves and self._state.log.handed >= leading.began  # with a slow disk that is later

    @property
    def is_witness(self) -> bool:
        """Whether the configuration in force says that it keeps the log alone."""
        member = self._state.member
        return member is not None and member.witness

    @property
    def stateless(self) -> bool:
        """Whether it has no state machine to apply entries to."""
        return self.hollow or self.is_witness

    @property
    def everywhere(self) -> int:
        """The last entry that every member with a state machine holds, as far as this node knows."""
        return self._following.everywhere if self._leading is None else self._leading.everywhere

    @property
    def handing_over(self) -> bool:
        """Whether it leads and is handing leadership to another."""
        return self._leading is not None and self._leading.target is not None

    @property
    def known_commit(self) -> int:
        """Up to where the group has committed, as far as this node was told; it may lack a part."""
        return max(self._state.log.commit, self._following.told_commit)

    def followers(self) -> dict[str, tuple[int, int]]:
        """Of each other member (matched index, ms since it was heard), on a leader; empty on others."""
        if self._leading is None:
            return {}
        now_ms = self._state.now_ms
        return {
            node_id: (progress.matched, now_ms - progress.heard_ms)
            for node_id, progress in self._leading.progress.items()
        }

    def has_quorum(self) -> bool:
        """Whether it leads and has heard a quorum lately, or follows a leader that it hears."""
        if self._leading is not None:
            return self._leading.has_quorum()
        return self._state.hears_leader

    @property
    def is_alone(self) -> bool:
        """Whether it is the only voter."""
        return self._state.roster.is_alone

    def wish_timeout(self, timeout_ms: int) -> None:
        """The election timeout that this member's disk and links need."""
        self._state.wish_ms = min(max(timeout_ms, TIMEOUT_MS_MIN), TIMEOUT_MS_MAX)

    # -- what comes in ---------------------------------------------------------------------------

    def step(self, sender: str, message: Message, now_ms: int) -> None:
        """A message of a member, which the transport has authenticated.

        Raises ProtocolViolation when the log or the protocol cannot be trusted any more.
        """
        state = self._state
        state.now_ms = now_ms
        if self._is_of_this_term(sender, message):
            self._dispatch(sender, message)
        self._settle()

    def _is_of_this_term(self, sender: str, message: Message) -> bool:
        """Take over a higher term, answer a lower one (paper, 5.1). Whether the message is to be heard."""
        state = self._state
        if message.term > state.term:
            if isinstance(message, AskVote):
                if self._election.refuses_to_hear(message):
                    if message.pre:
                        state.send(sender, Vote(state.term, granted=False, pre=True))
                    return False
                if message.pre:
                    return True
            elif isinstance(message, Vote) and message.pre and message.granted:
                return True
            self._follow(message.term)
        elif message.term < state.term:
            if isinstance(message, Append | Behind):  # a leader of old must hear that its time is over
                state.send(sender, Appended(state.term, 0, 0, state.wish_ms))
            elif isinstance(message, AskVote):
                state.send(sender, Vote(state.term, granted=False, pre=message.pre))
            elif isinstance(message, AskRead):
                state.send(sender, ReadAt(state.term, message.read_id, -1))
            return False
        return True

    def _dispatch(self, sender: str, message: Message) -> None:
        if isinstance(message, Append):
            self._following.on_append(sender, message)
        elif isinstance(message, Appended):
            if self._leading is not None:
                self._leading.on_appended(sender, message)
        elif isinstance(message, AskVote):
            self._election.on_ask_vote(sender, message)
        elif isinstance(message, Vote):
            self._election.on_vote(sender, message)
        elif isinstance(message, Behind):
            self._following.on_behind(sender, message)
        elif isinstance(message, AskRead):
            self._reads.on_ask_read(sender, message, self._leading)
        elif isinstance(message, ReadAt):
            if self._reads.on_read_at(sender, message):
                self._following.hear_commit(message.index)
        else:
            self._on_timeout_now(message)

    def _on_timeout_now(self, message: TimeoutNow) -> None:
        if self._leading is None and not self.stalled(self._state.now_ms):
            self._election.on_timeout_now(message)

    def _follow(self, term: int) -> None:
        self._leading = None
        self._state.follow(term, None)

    def _settle(self) -> None:
        """What follows from a change, whatever caused it."""
        state = self._state
        if state.role == "leader" and self._leading is None:
            self._leading = Replication(state, self._round_confirmed)
            self._configuration_index = state.log.configuration_index
            self._leading.count_commit()
        leading = self._leading
        if leading is not None:
            if state.log.configuration_index != self._configuration_index:
                leading.count_commit()
                leading.count_round()
            self._pass_on_if_stateless(leading)
            self._leave_if_removed(leading)
        self._configuration_index = state.log.configuration_index
        if (state.term, state.leader) != self._known_leader:
            self._known_leader = (state.term, state.leader)
            self._reads.fail()
        self._reads.expire()
        if self._leading is not None:
            self._reads.go_on(self._leading)

    def _round_confirmed(self) -> None:
        if self._leading is not None:
            self._reads.go_on(self._leading)

    def _leave_if_removed(self, leading: Replication) -> None:
        """A leader leads until its own removal is committed, then it goes (thesis 4.2.2)."""
        state = self._state
        if not state.votes and state.log.configuration_index <= state.log.commit:
            target = leading.best_target()
            if target is not None:
                state.send(target, TimeoutNow(state.term))
            self._follow(state.term)

    def _pass_on_if_stateless(self, leading: Replication) -> None:
        """Who has no state machine brings a full member up to date and hands over."""
        if self.stateless and leading.serves and leading.target is None:
            target = leading.best_target()
            if target is not None:
                leading.transfer(target)

    # -- what is asked of it ---------------------------------------------------------------------

    def propose(self, data: bytes, now_ms: int) -> int:
        """Add a command to the log; its index. With the term it names the entry for ever. Raises NotLeader."""
        self._state.now_ms = now_ms
        return self._require_leading().propose(data)

    def propose_configuration(self, configuration: Configuration, now_ms: int) -> int:
        """Change the members; the index of the entry. In force from now on (thesis 4.1).

        Raises NotLeader, and ChangeRefused while another change is under way or no entry of this term is committed:
        without the latter two leaders could each commit a change that the other does not know of.
        """
        self._state.now_ms = now_ms
        leading = self._require_leading()
        log = self._state.log
        if not leading.serves:
            raise ChangeRefused("the leader was just elected; try again")
        if log.configuration_index > log.commit:
            raise ChangeRefused("another change of members is under way; try again when it is done")
        check_change(log.configuration, configuration)
        index = leading.propose_configuration(configuration)
        self._settle()
        return index

    def _require_leading(self) -> Replication:
        leading = self._leading
        if leading is None:
            raise NotLeader(self._state.leader, f"this node is a {self._state.role}")
        if leading.target is not None:
            raise NotLeader(leading.target, f"leadership is being handed to {leading.target}")
        return leading

    def read_index(self, read_id: int, now_ms: int, *, confirmed: bool = True) -> None:
        """Ask how far to have applied before reading: a ReadState with this id comes.

        `confirmed`: linearizable, by a round of a quorum; without, what the leader believes to be committed.
        """
        self._state.now_ms = now_ms
        self._reads.ask(read_id, self._leading, confirmed=confirmed)
        self._settle()

    def transfer(self, target: str | None, now_ms: int) -> str:
        """Hand leadership to `target`, or to the best there is; who it is. Raises NotLeader, ChangeRefused."""
        self._state.now_ms = now_ms
        leading = self._require_leading()
        chosen = target or leading.best_target()
        member = None if chosen is None else self._state.find(chosen)
        if chosen is None:
            raise ChangeRefused("no other voter is alive")
        if chosen == self._state.own.node_id or member is None or not member.voter or member.witness:
            raise ChangeRefused(f"{chosen} cannot lead: it is no other voting member with a store")
        leading.transfer(chosen)
        return chosen

    def step_down(self) -> None:
        """Lead no longer, without a successor."""
        self._follow(self._state.term)
        self._settle()

    def leader_lost(self, node_id: str, now_ms: int) -> None:
        """The driver saw that `node_id`'s process is gone: if it led, an election need not wait."""
        self._state.now_ms = now_ms
        if self._leading is None and self._state.leader == node_id:
            self._election.leader_lost()
            self._settle()

    def unreachable(self, node_id: str, now_ms: int) -> None:
        """Messages to a member were lost: what was sent ahead is to be sent again."""
        self._state.now_ms = now_ms
        progress = None if self._leading is None else self._leading.progress.get(node_id)
        if progress is not None and progress.under_way:
            progress.resend()

    def fetched(self, node_id: str, entries: Sequence[Entry], now_ms: int) -> None:
        """The journal's answer to `Ready.fetch`; empty where it no longer has them."""
        self._state.now_ms = now_ms
        if self._leading is not None:
            self._leading.fetched(node_id, entries)

    # -- time ------------------------------------------------------------------------------------

    def deadline_ms(self) -> int:
        """When `handle_deadline` is to be called, unless something else comes first."""
        state = self._state
        if self._leading is None:
            return state.election_ms
        if self.is_alone or self._leading.target is not None:  # nothing can be done about a disk that hangs
            return self._leading.deadline_ms
        return min(self._leading.deadline_ms, self._persisting_since_ms + state.timeout_ms)

    def handle_deadline(self, now_ms: int) -> None:
        """Do what is due."""
        state, leading = self._state, self._leading
        state.now_ms = now_ms
        if leading is not None:
            self._lead_on(leading)
        elif now_ms >= state.election_ms:
            if self.stalled(now_ms):
                state.wait_for_leader()  # with a disk that hangs it could not even vote for itself
            else:
                self._election.campaign()
        self._settle()

    def _lead_on(self, leading: Replication) -> None:
        state = self._state
        now_ms = state.now_ms
        given_up = leading.give_up_transfer()
        if self.stalled(now_ms) and leading.target is None and not self.is_alone:
            # Heartbeats do not wait for the disk: they must not keep a hung card in power.
            target = None if given_up else leading.best_target()
            if target is None:
                self._follow(state.term)
                return
            leading.transfer(target)
        if now_ms >= leading.quorum_ms:
            if not leading.has_quorum():
                self._follow(state.term)
                return
            leading.agree_on_timeout()
            leading.quorum_ms = now_ms + state.timeout_ms
        if now_ms >= leading.heartbeat_ms:
            leading.heartbeat()

    @property
    def untold(self) -> bool:
        """Whether `tell_commit` has anything to tell."""
        return self._leading is not None and self._leading.untold

    def tell_commit(self, now_ms: int) -> None:
        """On a leader: have the followers hear what is committed, if no entries have told them. No rule needs it."""
        self._state.now_ms = now_ms
        if self._leading is not None:
            self._leading.tell_commit()

    def stalled(self, now_ms: int) -> bool:
        """Whether the disk has been at one write for longer than an election timeout."""
        return now_ms - self._persisting_since_ms >= self._state.timeout_ms

    # -- what goes out ---------------------------------------------------------------------------

    def ready(self) -> Ready | None:
        """The next work for the driver, None when there is none. See Ready."""
        state = self._state
        fetch: list[tuple[str, int]] = []
        if self._leading is not None:
            self._leading.send_entries()
            fetch, self._leading.fetching = self._leading.fetching, []
        hard_state, entries, after = None, [], []
        if self._unadvanced is None:
            hard_state, entries = state.take_unsaved(), state.log.take_unsaved()
            after, state.after = state.after, []
            if hard_state is None and not entries:
                state.messages, after = state.messages + after, []
        messages, state.messages = state.messages, []
        reads, self._reads.states = self._reads.states, []
        behind, self._following.behind = self._following.behind, None
        log = state.log
        committed = log.take_committed(self.everywhere) if log.commit > log.handed else []
        ready = Ready(hard_state, entries, messages, after, committed, reads, fetch, behind)
        if ready.must_persist:
            self._unadvanced = ready
            self._persisting_since_ms = state.now_ms
        elif not (messages or ready.committed or reads or fetch or behind):
            return None
        return ready

    def advance(self, ready: Ready, now_ms: int) -> None:
        """`ready`'s hard state and entries are durable, and its `after` has left."""
        state = self._state
        state.now_ms = now_ms
        if ready is not self._unadvanced:
            raise ValueError("only the ready that was persisted last can be advanced")
        self._unadvanced = None
        self._persisting_since_ms = NEVER_MS
        if ready.hard_state is not None:
            state.saved(ready.hard_state)
            self._election.own_vote_saved()
        if ready.entries:
            state.log.saved(ready.entries)
            if self._leading is not None:
                self._leading.count_commit()
        self._following.saved()
        self._settle()

    def dropped(self, first_index: int) -> None:
        """The journal begins at `first_index` now."""
        self._state.log.dropped(first_index)
