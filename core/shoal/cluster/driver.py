"""Drives the Raft core: journal, messages and time in and out. The one path of a single board and of a cluster.

The core says in which order its work must be done (`shoal.raft.messages.Ready`); this carries it out on the loop,
with the journal on its own thread. A board alone is a group of one voter that never sends anything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import msgspec

from shoal import telemetry
from shoal.clock import Clock
from shoal.cluster.alone import write_alone
from shoal.cluster.log_reader import LogReader
from shoal.cluster.log_start import begin_group, configuration_record, read_start
from shoal.cluster.pace import Pacemaker
from shoal.cluster.ports import Log, LogWorker, Nobody, Peers
from shoal.errors import DiskFull, NoLeader
from shoal.futures import settle
from shoal.raft.entries import LogStart
from shoal.raft.errors import ChangeRefused, NotLeader
from shoal.raft.log import Configuration, Kind, Member
from shoal.raft.messages import Entry, Message, Ready, Role
from shoal.raft.node import RaftNode
from shoal.raft.state import NEVER_MS, Draws, Own
from shoal.store.ports import Proposed, Superseded

TURNS_FOR_MORE = 3
"""Turns of the loop after a commit in which further entries may come."""
SHED_AGAIN_MS = 30_000
"""After handing over for want of room: where all disks are full, each says so rather than hand on for ever."""
RETRY_FULL_S = 1.0
"""How often a journal without room looks whether there is some."""


class RaftDriver:
    """Proposes, replicates, and hands out what is committed. See shoal.store.ports.Consensus.

    `take` gets committed entries in order, the own proposals among them as `Proposed` through their `done`; `changed`
    is called when role, leader or configuration may have; `failed` when the log can no longer be trusted. Messages that
    `accepts` says no to are taken for lost.
    """

    def __init__(
        self,
        core: RaftNode,
        log: Log,
        worker: LogWorker,
        clock: Clock,
        *,
        own: Own,
        give_reserve: Callable[[], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        self.core = core
        self.own = own
        self._log = log
        self._reader = LogReader(log)
        self._worker = worker
        self._clock = clock
        self._give_reserve = give_reserve
        self._failed = failed
        self._loop = asyncio.get_running_loop()
        self.peers: Peers = Nobody()
        self.take: Callable[[Sequence[Entry]], None] = _nobody
        self.accepts: Callable[[Message], bool] = _anything
        self.changed: Callable[[], None] = _nothing
        self.behind: Callable[[str], None] = _nobody
        self.pace = Pacemaker()
        self._pending: dict[int, tuple[int, Callable[[Proposed | BaseException], None]]] = {}
        self._reads: dict[int, list[asyncio.Future[int]]] = {}
        self._next_read = 0
        self._gathering: dict[bool, list[asyncio.Future[int]]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_ms = NEVER_MS
        self._pump_set = False
        self._stopped = False
        self._telling = False
        self._shed_again_ms = -NEVER_MS
        self._held = False
        """The core is about to be replaced: what it wants is not done any more."""
        self._seen: tuple[Role, str | None, int, bool] | None = None
        self._left: asyncio.Future[None] | None = None
        self.no_room = False
        """The disk has no room for what the leader sent."""

    # -- shoal.store.ports.Consensus -------------------------------------------------------------

    @property
    def role(self) -> str:
        """leader, follower, candidate or pre-candidate; witness and learner where the configuration says so."""
        if self.core.is_witness:
            return "witness"
        member = next((m for m in self.core.configuration.members if m.node_id == self.own.node_id), None)
        if self.core.role != "leader" and member is not None and not member.voter:
            return "learner"
        return self.core.role

    @property
    def term(self) -> int:
        """The current term."""
        return self.core.term

    @property
    def commit_index(self) -> int:
        """Up to where entries are committed, as far as this node knows."""
        return self.core.log.commit

    @property
    def leader(self) -> str | None:
        """Who leads, as far as this node knows."""
        return self.core.leader

    @property
    def serves(self) -> bool:
        """Whether proposals are taken."""
        return self.core.serves

    def propose(
        self, payload: bytes, done: Callable[[Proposed | BaseException], None], *, use_reserve: bool = False
    ) -> None:
        """See shoal.store.ports.Consensus."""
        if self._log.fits(len(payload)):
            self._propose(payload, done)
            return

        def finish(outcome: object) -> None:
            if isinstance(outcome, DiskFull) and self.shed():
                done(Superseded(0))
            elif isinstance(outcome, BaseException):
                done(outcome)
            else:
                self._propose(payload, done)

        self._worker.submit(partial(self._make_room, len(payload), use_reserve=use_reserve), finish)

    def _make_room(self, size: int, *, use_reserve: bool) -> None:
        """Room is had before an entry is proposed: what the followers may have cannot be taken back for lack of it."""
        try:
            self._log.make_room(size, use_reserve=use_reserve)
        except DiskFull:
            if not use_reserve:
                raise
            self._give_reserve()
            self._log.make_room(size, use_reserve=True)

    def _propose(self, payload: bytes, done: Callable[[Proposed | BaseException], None]) -> None:
        try:
            index = self.core.propose(payload, self._clock.monotonic_ms())
        except NotLeader:
            self._loop.call_soon(done, Superseded(0))
            return
        self._pending[index] = (self.core.term, done)
        self._pump()

    # -- messages --------------------------------------------------------------------------------

    def receive(self, node_id: str, message: Message) -> None:
        """A message of an authenticated member. What came in together is worked on together."""
        if not self.accepts(message):
            return
        try:
            self.core.step(node_id, message, self._clock.monotonic_ms())
        except AssertionError as error:
            self._fail(error)
            return
        self._pump_soon()

    def lost(self, node_id: str) -> None:
        """The process of a member is gone."""
        self.core.leader_lost(node_id, self._clock.monotonic_ms())
        self._pump_soon()

    def unreachable(self, node_id: str) -> None:
        """A connection to a member broke: what was sent last may be lost."""
        self.core.unreachable(node_id, self._clock.monotonic_ms())
        self._pump_soon()

    # -- reads -----------------------------------------------------------------------------------

    async def read_index(self, *, confirmed: bool) -> int:
        """How far must be applied to read. Reads that begin in one turn of the loop share it.

        Raises NoLeader when nobody can say now.
        """
        future: asyncio.Future[int] = self._loop.create_future()
        gathering = self._gathering.setdefault(confirmed, [])
        if not gathering:
            self._loop.call_soon(self._ask_read, confirmed)
        gathering.append(future)
        index = await future
        if index < 0:
            raise NoLeader("no leader can be reached: try again; consistency=local reads what this board has")
        return index

    def _ask_read(self, confirmed: bool) -> None:  # noqa: FBT001 - a callback
        futures = self._gathering.pop(confirmed)
        if self._stopped:
            self._answer_reads(futures, -1)
            return
        self._next_read += 1
        self._reads[self._next_read] = futures
        self.core.read_index(self._next_read, self._clock.monotonic_ms(), confirmed=confirmed)
        self._pump()

    def _answer_reads(self, futures: list[asyncio.Future[int]], index: int) -> None:
        for future in futures:
            settle(future, index)

    def _fail_reads(self) -> None:
        for futures in self._reads.values():
            self._answer_reads(futures, -1)
        self._reads.clear()

    def shed(self) -> bool:
        """A leader without room on its disk hands over, where another may have some; not again and again."""
        now_ms = self._clock.monotonic_ms()
        if now_ms < self._shed_again_ms:
            return False
        try:
            self.transfer(None)
        except (NoLeader, ChangeRefused):
            return False
        self._shed_again_ms = now_ms + SHED_AGAIN_MS
        return True

    def send_bulk(self, node_id: str, value: Any) -> bool:
        """Send what is large and may wait behind the core's own messages. False: it did not leave."""
        return self.peers.send(node_id, value, bulk=True)

    # -- members ---------------------------------------------------------------------------------

    async def change(self, configuration: Configuration) -> int:
        """Change the members; done when it is committed. The entry's index. Raises NoLeader, ChangeRefused."""
        future: asyncio.Future[Proposed | BaseException] = self._loop.create_future()
        try:
            index = self.core.propose_configuration(configuration, self._clock.monotonic_ms())
        except NotLeader as error:
            raise NoLeader(str(error), leader=error.leader) from error
        self._pending[index] = (self.core.term, partial(settle, future))
        self._pump()
        outcome = await future
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome.index

    def transfer(self, target: str | None) -> str:
        """Begin to hand leadership over; to whom. Raises NoLeader, ChangeRefused."""
        try:
            chosen = self.core.transfer(target, self._clock.monotonic_ms())
        except NotLeader as error:
            raise NoLeader(str(error), leader=error.leader) from error
        self._pump()
        return chosen

    async def hand_over(self, timeout_s: float) -> None:
        """Leave the lead to another, if this node has it and there is one, before it goes."""
        try:
            self.transfer(None)
        except (NoLeader, ChangeRefused):
            return
        self._left = self._loop.create_future()
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._left

    # -- the pump --------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to keep time."""
        self._pump()

    async def begin_group(self, members: Sequence[Member], random: Draws) -> None:
        """Give an empty log the configuration to begin with, unless it has one by now. Raises OSError, DiskFull."""
        done: asyncio.Future[object] = self._loop.create_future()
        self._worker.submit(partial(begin_group, self._log, members), partial(settle, done))
        outcome = await done
        if isinstance(outcome, BaseException):
            raise outcome
        if outcome and not self._stopped:
            now_ms = self._clock.monotonic_ms()
            kind, index, term, data = configuration_record(Configuration(tuple(members)))
            entry = Entry(index, term, int(kind), data)
            start = LogStart(1, 0, self._log.terms, 1, [entry], self._log.configurations, 0)
            self.core = RaftNode(self.own, start, self._log.hard_state, random=random, now_ms=now_ms)
            self._pump()

    async def go_on_alone(self, random: Draws) -> None:
        """Be the only voter from now on, with all that the own log holds: a quorum is lost for ever.

        What the others had committed and this log lacks is lost. Raises OSError, DiskFull.
        """
        self._held = True
        before = self.core
        done: asyncio.Future[LogStart | BaseException] = self._loop.create_future()
        write = partial(self._write_alone, before.term, before.log.handed)
        self._worker.submit(write, partial(settle, done))
        outcome = await done
        self._held = False
        if isinstance(outcome, BaseException):
            self._fail(outcome)
            raise outcome
        now_ms = self._clock.monotonic_ms()
        self.core = RaftNode(self.own, outcome, self._log.hard_state, random=random, now_ms=now_ms)
        self._fail_reads()
        self._pump()

    def _write_alone(self, term: int, handed: int) -> LogStart:
        """On the journal's thread, behind all that the core had given out."""
        write_alone(self._log, self.own, term)
        return read_start(self._log, handed)

    def stop(self) -> None:
        """Nothing more is done; what was asked stays unanswered but for reads."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
        self._fail_reads()

    def _pump_soon(self) -> None:
        if not self._pump_set:
            self._pump_set = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        self._pump_set = False
        if self._stopped or self._held:
            return
        while (ready := self.core.ready()) is not None:
            self._carry_out(ready)
        self._keep_time()
        core = self.core
        if not self._telling and core.untold:
            self._telling = True
            self._loop.call_soon(self._tell_commit, TURNS_FOR_MORE)
        seen = (core.role, core.leader, core.log.configuration_index, core.serves)
        if seen != self._seen:
            self._seen = seen
            if self._left is not None and core.role != "leader":
                settle(self._left, None)
            self.changed()

    def _tell_commit(self, turns: int) -> None:
        if turns:  # those who wait here are answered meanwhile, and what they append next tells it too
            self._loop.call_soon(self._tell_commit, turns - 1)
            return
        self._telling = False
        if not self._stopped:
            self.core.tell_commit(self._clock.monotonic_ms())
            self._pump()

    def _carry_out(self, ready: Ready) -> None:
        send = self.peers.send
        for node_id, message in ready.messages:
            send(node_id, message, bulk=bool(getattr(message, "entries", None)))
        if ready.must_persist:
            self._worker.submit(partial(self._persist, ready), partial(self._persisted, self.core, ready))
        if ready.committed:
            self._hand_out(ready.committed)
        for state in ready.reads:
            self._answer_reads(self._reads.pop(state.read_id), state.index)
        for node_id, index in ready.fetch:
            self._worker.submit(partial(self._reader.read, index), partial(self._fetched, node_id))
        if ready.behind is not None:
            self.behind(ready.behind)

    def _hand_out(self, entries: Sequence[Entry]) -> None:
        if not self._pending:
            self.take(entries)
            return
        foreign: list[Entry] = []
        for entry in entries:
            term, done = self._pending.pop(entry.index, (0, None))
            if done is not None and term == entry.term and entry.kind == Kind.NORMAL:
                if foreign:
                    self.take(foreign)
                    foreign = []
                done(Proposed(entry.index, entry.term))
                continue
            foreign.append(entry)
            if done is not None:
                done(Proposed(entry.index, entry.term) if term == entry.term else Superseded(entry.term))
            self._supersede_before(entry.term)
        if foreign:
            self.take(foreign)

    def _supersede_before(self, committed_term: int) -> None:
        """Once an entry of a later term is committed, none that was proposed behind it in an earlier one will be."""
        for index in [i for i, (term, _) in self._pending.items() if term < committed_term]:
            self._pending.pop(index)[1](Superseded(committed_term))

    # -- the journal -----------------------------------------------------------------------------

    def _persist(self, ready: Ready) -> int:
        """On the journal's thread. What the core itself writes, and what it may not refuse, uses the reserve."""
        records: list[tuple[Kind, int, int, bytes]] = []
        state = ready.hard_state
        if state is not None:
            records.append((Kind.HARD_STATE, 0, state.term, msgspec.msgpack.encode(state)))
        own = not any(entry.kind == Kind.NORMAL for entry in ready.entries)
        records.extend((Kind(e.kind), e.index, e.term, e.data) for e in ready.entries)
        try:
            return self._log.append_records(records, use_reserve=own)
        except DiskFull:
            if not own:
                raise
            self._give_reserve()
            return self._log.append_records(records, use_reserve=True)

    def _persisted(self, core: RaftNode, ready: Ready, outcome: object) -> None:
        if self._stopped or self._held or core is not self.core:
            return
        if isinstance(outcome, DiskFull):  # nothing was written: the others go on, this one as soon as it can
            if not self.no_room:
                self.no_room = True
                self.changed()
            self._loop.call_later(RETRY_FULL_S, self._persist_again, core, ready)
            return
        if not isinstance(outcome, int):
            self._fail(outcome if isinstance(outcome, BaseException) else RuntimeError(repr(outcome)))
            return
        self.no_room = False
        self.pace.synced(outcome / 1e6)
        if ready.entries and telemetry.enabled(telemetry.JOURNAL_SYNCED):
            size = sum(len(entry.data) for entry in ready.entries)
            telemetry.emit(telemetry.JOURNAL_SYNCED, {"duration": outcome, "size_bytes": size}, {})
        for node_id, message in ready.after:
            self.peers.send(node_id, message)
        core.advance(ready, self._clock.monotonic_ms())
        self._pump()

    def _persist_again(self, core: RaftNode, ready: Ready) -> None:
        if self._held:  # while this node goes on alone, nothing of before may come behind what it writes
            self._loop.call_later(RETRY_FULL_S, self._persist_again, core, ready)
        elif not self._stopped and core is self.core:
            self._worker.submit(partial(self._persist, ready), partial(self._persisted, core, ready))

    def _fetched(self, node_id: str, outcome: object) -> None:
        if isinstance(outcome, list):
            self.core.fetched(node_id, outcome, self._clock.monotonic_ms())
            self._pump()
        else:
            self._fail(outcome if isinstance(outcome, BaseException) else RuntimeError(repr(outcome)))

    def dropped(self, first_index: int) -> None:
        """The journal was shortened."""
        self.core.dropped(first_index)

    # -- time ------------------------------------------------------------------------------------

    def _keep_time(self) -> None:
        due_ms = self.core.deadline_ms()
        if due_ms >= self._timer_ms:
            return  # the one that is set looks again when it fires
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._timer_ms = due_ms
        if due_ms < NEVER_MS:
            delay_ms = max(0, due_ms - self._clock.monotonic_ms())
            self._timer = self._loop.call_later(delay_ms / 1_000, self._on_time)

    def _on_time(self) -> None:
        self._timer, self._timer_ms = None, NEVER_MS
        now_ms = self._clock.monotonic_ms()
        self._reader.rest()
        self.core.wish_timeout(
            self.pace.election_timeout_ms
        )  # a follower's deadline moves on and never comes
        if self.core.deadline_ms() <= now_ms:
            self.core.handle_deadline(now_ms)
        self._pump()

    def _fail(self, error: BaseException) -> None:
        self.stop()
        self._failed(error)


def _nobody(_: object) -> None:
    """Nobody takes it yet."""


def _anything(_: Message) -> bool:
    return True


def _nothing() -> None:
    """Nobody wants to know yet."""
