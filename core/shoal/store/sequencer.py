"""The sequencer: all appends of one loop turn become one entry; entries are decided in the order of the log.

One entry is under way at a time; while its sync runs the next one gathers. That is group commit, and it
is also what keeps the read set simple: when an entry is proposed, all before it are decided. What others have
proposed comes committed and is decided on the same path; on a follower, what is given here goes to the leader.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from shoal.clock import Clock
from shoal.errors import (
    DiskFull,
    NoLeader,
    NotFound,
    ShoalError,
    ShuttingDown,
    StateDiverged,
    Timeout,
    TooBusy,
)
from shoal.model.commands import (
    Append,
    CodecError,
    Command,
    CreateStore,
    CreateSubscription,
    DropStore,
    Proposal,
    SaveSnapshot,
    Settle,
    encode,
)
from shoal.model.event_time import EventTime
from shoal.raft.messages import Entry
from shoal.store.conditions import Conditions, look_up
from shoal.store.deciding import Counters, Decidable, Decider, committed_entry
from shoal.store.forwarding import Forwarding, Refused
from shoal.store.from_followers import FromFollowers
from shoal.store.lanes import Lanes, Pending
from shoal.store.memory import StoreMemory
from shoal.store.ports import Applier, Consensus, Fetcher, Proposed, ReadSet, Superseded
from shoal.store.proposing import UnderWay, make_proposal, sound

BACKLOG_HIGH = 4_000
SWEEP_MS = 50
LANE_LIMIT = 1_000_000

_log = logging.getLogger(__name__)

_NEEDS_ROOM = (Append, SaveSnapshot, CreateStore, CreateSubscription)
"""What is refused while the disk is full: everything else frees space, or settles what takes some."""
_LEADERS = (Settle,)
"""What only the leader's own deliveries say: another leader knows nothing of them."""


class Sequencer:
    """Takes commands on the loop, answers them in the order of the log."""

    def __init__(
        self,
        *,
        consensus: Consensus,
        applier: Applier,
        fetcher: Fetcher,
        clock: Clock,
        event_time: EventTime,
        forwarding: Forwarding,
        failed: Callable[[BaseException], None],
    ) -> None:
        self._consensus = consensus
        self._applier = applier
        self._fetcher = fetcher
        self._clock = clock
        self._event_time = event_time
        self._forwarding = forwarding
        self._failed = failed
        self._loop = asyncio.get_running_loop()
        self._lanes = Lanes()
        self._decider = Decider(applier)
        self._turn_set = False
        self._foreign: deque[Entry] = deque()
        self._under_way: UnderWay | None = None
        self._sweeping = False
        self._closing = False
        self._broken = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._moved = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._conditions = Conditions(consensus, self.stores, fetcher, self._lanes, self._wake)
        self.followers = FromFollowers(consensus, clock, self._queue_passed_on)
        """Where commands go that a follower passes on."""
        self._decider.catalog_changed = self._on_catalog
        self.catalog_changed: Callable[[CreateStore | DropStore], None] = _nothing
        """Called with each decided command that makes or drops a store."""
        self.term_began: Callable[[], None] = _nothing
        """Called when the first entry of a term is decided."""
        self.disk_full: DiskFull | None = None
        """While set, appends are refused with it."""

    @property
    def stores(self) -> dict[str, StoreMemory]:
        """The stores in memory, by name."""
        return self._decider.stores

    @property
    def listeners(self) -> dict[str, Callable[[], None]]:
        """Called when a store of that name has changed."""
        return self._decider.listeners

    @property
    def counters(self) -> Counters:
        """Plain counts since the start."""
        return self._decider.counters

    @property
    def applied_index(self) -> int:
        """The last entry that is decided."""
        return self._decider.applied_index

    @property
    def applied_term(self) -> int:
        """Its term."""
        return self._decider.applied_term

    def begin_after(self, index: int, term: int) -> None:
        """Entries up to `index` are in the database."""
        self._decider.begin_after(index, term)

    def _on_catalog(self, command: CreateStore | DropStore) -> None:
        if isinstance(command, DropStore):
            self._lanes.leave_store(command.store)
        self.catalog_changed(command)

    # -- taking commands -------------------------------------------------------------------------

    def submit(
        self,
        command: Command,
        size: int,
        *,
        lane: int = 0,
        lane_limit: int = LANE_LIMIT,
        timeout_ms: int = 5_000,
    ) -> asyncio.Future[Any]:
        """Queue a command; the future is its answer. Raises TooBusy, ShuttingDown, NotFound, DiskFull."""
        if self._closing:
            raise ShuttingDown("the store is closing")
        store = command.store
        if store not in self.stores and not isinstance(command, CreateStore | DropStore):
            raise NotFound(f"store {store!r} does not exist", store=store)
        if self.disk_full is not None and self._consensus.serves:
            self._require_room(command)
        future: asyncio.Future[Any] = self._loop.create_future()
        self._queue(Pending(command, size, self._clock.monotonic_ms() + timeout_ms, future, lane), lane_limit)
        return future

    def _require_room(self, command: Command) -> None:
        if self.disk_full is not None and isinstance(command, _NEEDS_ROOM):
            self.counters.refused += 1
            raise DiskFull(self.disk_full.detail)

    def _queue(self, pending: Pending, lane_limit: int) -> None:
        command = pending.command
        try:
            if type(command) is Append and command.condition is not None:
                self._conditions.take_in(pending, lane_limit)
            else:
                self._lanes.put(pending, lane_limit)
        except TooBusy:
            self.counters.refused += 1
            raise
        self._wake()
        self._keep_sweeping()

    @property
    def waiting(self) -> int:
        """Commands queued, and those whose condition is looked up."""
        return self._lanes.waiting

    @property
    def _busy(self) -> bool:
        """Whether an entry is being decided, or anybody still waits for an answer."""
        under_way = self._under_way
        deciding = under_way is not None and not (
            under_way.own and all(pending.future.done() for pending in under_way.waiting)
        )
        return deciding or self.waiting > 0 or self._forwarding.waiting > 0

    def _wake(self) -> None:
        if not self._turn_set and self._under_way is None:
            self._turn_set = True
            self._loop.call_soon(self._turn)

    def resume(self) -> None:
        """The writer thread has caught up, or the leader may be another."""
        self._wake()

    def _keep_sweeping(self) -> None:
        if not self._sweeping:
            self._sweeping = True
            self._loop.call_later(SWEEP_MS / 1_000, self._sweep)

    def _sweep(self) -> None:
        """Answer what has waited too long: queued commands were not applied, proposed ones may be."""
        now = self._clock.monotonic_ms()
        for pending in () if self._under_way is None else self._under_way.waiting:
            if pending.deadline_ms <= now:
                pending.fail(self._unknown())
        self._forwarding.expire(now, self._unknown)
        if self._consensus.leader is not None:
            self._forwarding.resend(self._consensus.leader, self._consensus.term, now)
        self._lanes.expire(now, self._late)
        if self._lanes.waiting:
            self._wake()  # what was in their way may have expired
        self._sweeping = self._busy
        if self._sweeping:
            self._loop.call_later(SWEEP_MS / 1_000, self._sweep)
        else:
            self._idle.set()

    def _unknown(self) -> ShoalError:
        return Timeout("neither the disk nor a quorum of boards answered in time", outcome="unknown")

    def _late(self) -> ShoalError:
        if self._consensus.serves or self._consensus.leader is not None:
            return Timeout("the store was too busy to take the command in time")
        return NoLeader("no leader was elected in time: too few boards of the cluster can reach each other")

    # -- one turn --------------------------------------------------------------------------------

    def _turn(self) -> None:
        self._turn_set = False
        if self._under_way is not None or self._broken:
            return
        if self._applier.backlog > BACKLOG_HIGH:
            self.hand_over()
            return
        if self._foreign:
            self._begin(self._foreign.popleft())
            return
        batch = self._gather()
        if batch:
            self._idle.clear()
            self._propose(batch, use_reserve=False)
        elif not self._busy:
            self._idle.set()
        if not batch or self._decider.holds_many:
            self.hand_over()

    def _gather(self) -> list[Pending]:
        """Commands for the next entry; on a follower none, they are passed on."""
        consensus = self._consensus
        if consensus.serves:
            taken, term = self._lanes.take(self._conditions.may_go), consensus.term
            # What a follower passed on in an earlier term, it passes on again where that is due.
            return [pending for pending in taken if pending.origin is None or pending.origin.term == term]
        leader = consensus.leader if consensus.role != "leader" else None  # one that serves soon waits for it
        if leader is not None and self._forwarding.may_pass_on(consensus.term):
            batch = self._own_only(self._lanes.take(None))
            if batch:
                self._pass_on(batch, leader)
        return []

    def _own_only(self, batch: list[Pending]) -> list[Pending]:
        """What was given to this node, and may go to another."""
        for pending in batch:
            if isinstance(pending.command, _LEADERS):
                pending.fail(NoLeader("this node no longer leads"))
        return [p for p in batch if p.origin is None and not isinstance(p.command, _LEADERS)]

    def _pass_on(self, batch: list[Pending], leader: str) -> None:
        now_ms = self._clock.monotonic_ms()
        if not self._forwarding.pass_on(batch, leader, self._consensus.term, now_ms):
            self._lanes.put_back(batch)
            self._loop.call_later(SWEEP_MS / 1_000, self._wake)
        elif self._lanes.waiting:
            self._wake()  # what was more than one entry holds

    def _propose(self, batch: list[Pending], *, use_reserve: bool) -> None:
        proposal = make_proposal(batch, self._decider, self._clock, self._event_time)
        try:
            payload = encode(proposal)
            needs = self._decider.needs(proposal.commands)
        except Exception:  # noqa: BLE001 - a defect, whatever it is: found again below, command by command
            self._propose_sound(batch, use_reserve=use_reserve)
            return
        entry = Decidable(proposal, len(payload), [p.future for p in batch], [p.checked for p in batch])
        under_way = self._under_way = UnderWay(entry, batch, own=True, fetched=None if needs else {})
        self._consensus.propose(payload, partial(self._on_proposed, under_way), use_reserve=use_reserve)
        if needs:
            self._fetcher.fetch(needs, partial(self._on_fetched, under_way))

    def _propose_sound(self, batch: list[Pending], *, use_reserve: bool) -> None:
        """Without the commands that cannot be stored; the others are not to suffer for them."""
        good = sound(batch, self._decider)
        if len(good) == len(batch):  # the proposal itself, then: nothing can be promised any more
            self._under_way = UnderWay(Decidable(Proposal(0, 0, []), 0, [], []), batch, own=True)
            self._break(RuntimeError("an entry cannot be proposed, though each of its commands can"))
        elif good:
            self._propose(good, use_reserve=use_reserve)
        else:
            self._wake()

    # -- what came committed ---------------------------------------------------------------------

    def take(self, entries: Sequence[Entry]) -> None:
        """Entries that others proposed, committed, in the order of the log."""
        self._foreign.extend(entries)
        self._idle.clear()
        self._wake()

    def _begin(self, entry: Entry) -> None:
        """Decide an entry that came committed, once its read set is here."""
        try:
            decidable, waiting = committed_entry(entry, self._forwarding.answered)
        except CodecError as error:
            self._break(RuntimeError(f"entry {entry.index}: {error}. Install the release that wrote it"))
            return
        needs = self._decider.needs(decidable.proposal.commands)
        under_way = self._under_way = UnderWay(decidable, waiting, own=False, fetched=None if needs else {})
        under_way.proposed = Proposed(entry.index, entry.term)
        if any(
            type(command) is Append and command.condition is not None
            for command in decidable.proposal.commands
        ):
            under_way.searching = True
            task = self._loop.create_task(self._search(under_way))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        if needs:
            self._fetcher.fetch(needs, partial(self._on_fetched, under_way))
        self._decide_when_ready(under_way)

    async def _search(self, under_way: UnderWay) -> None:
        """What the database holds of conditions, as of the entry before."""
        try:
            for place, command in enumerate(under_way.entry.proposal.commands):
                if type(command) is Append and command.condition is not None:
                    under_way.entry.checked[place] = await look_up(self.stores, self._fetcher, command)
        except Exception as error:  # noqa: BLE001 - a member that cannot decide what others have must end
            self._break(error)
            return
        under_way.searching = False
        self._decide_when_ready(under_way)

    # -- between nodes ---------------------------------------------------------------------------

    def _queue_passed_on(self, pending: Pending) -> None:
        if self._closing:
            raise ShuttingDown("the leader is closing")
        self._require_room(pending.command)
        self._queue(pending, LANE_LIMIT)

    def connection_broke(self) -> None:
        """What was passed on may be lost."""
        self._forwarding.connection_broke()

    def hear_refusal(self, refused: Refused) -> None:
        """The leader refused a command of this node."""
        pending = self._forwarding.refused(refused)
        if pending is not None:
            self._lanes.put_back([pending])
            self._loop.call_later(SWEEP_MS / 1_000, self._wake)

    # -- deciding --------------------------------------------------------------------------------

    def _on_proposed(self, under_way: UnderWay, outcome: Proposed | BaseException) -> None:
        under_way.proposed = outcome
        self._decide_when_ready(under_way)

    def _on_fetched(self, under_way: UnderWay, outcome: dict[str, ReadSet] | BaseException) -> None:
        under_way.fetched = outcome
        self._decide_when_ready(under_way)

    def _decide_when_ready(self, under_way: UnderWay) -> None:
        proposed, fetched = under_way.proposed, under_way.fetched
        if proposed is None or fetched is None or under_way.searching or self._broken:
            return
        if isinstance(proposed, DiskFull | Superseded):
            self._under_way = None
            self._take_back(list(under_way.waiting), proposed)
            return
        broken = next((x for x in (proposed, fetched) if isinstance(x, BaseException)), None)
        if broken is not None or isinstance(proposed, BaseException) or isinstance(fetched, BaseException):
            self._break(broken or RuntimeError("unreachable"))
            return
        later_term = proposed.term > self._decider.applied_term
        try:
            self._decide_those_before(proposed.index)
            self._decider.decide(proposed, under_way.entry, fetched, own=under_way.own)
        except Exception as error:  # a defect: what it left half done must not be built upon
            self._break(error)
            if isinstance(error, StateDiverged):
                return
            raise
        self._under_way = None
        if later_term:
            self._lanes.put_back(self._forwarding.overtaken(proposed.term))
            self.term_began()
        self._moved.set()
        self._decider.forget()
        self._wake()

    def _decide_those_before(self, index: int) -> None:
        """A change of members may come committed while an own entry that follows it is under way: it has its place."""
        while self._foreign and self._foreign[0].index < index:
            entry = self._foreign.popleft()
            decidable, _ = committed_entry(entry, self._forwarding.answered)
            self._decider.decide(Proposed(entry.index, entry.term), decidable, {})

    def _take_back(self, batch: list[Pending], why: DiskFull | Superseded) -> None:
        if isinstance(why, DiskFull):
            self._disk_full(batch, why)
            return
        self._lanes.put_back(batch)  # it was never applied: it may go to the next leader
        self._wake()

    def hand_over(self) -> None:
        """Give decided entries to the writer thread. See Decider."""
        self._decider.hand_over()

    def _break(self, error: BaseException) -> None:
        self.give_up(error)
        self._failed(error)

    def give_up(self, error: BaseException) -> None:
        """The log or the database failed: nothing more can be promised, the node ends."""
        self._closing = self._broken = True
        for pending in () if self._under_way is None else self._under_way.waiting:
            pending.fail(Timeout(f"the storage failed: {error}", outcome="unknown"))
        self._forwarding.fail_all(lambda: Timeout(f"the storage failed: {error}", outcome="unknown"))
        self._lanes.fail_all(ShuttingDown(f"the storage failed: {error}"))
        self._idle.set()
        self._moved.set()

    def _disk_full(self, batch: list[Pending], error: DiskFull) -> None:
        """Appends are refused; what frees space may use the reserve, once."""
        again: list[Pending] = []
        for pending in batch:
            if isinstance(pending.command, _NEEDS_ROOM) or pending.size < 0:
                pending.fail(DiskFull(error.detail))
                self.counters.refused += 1
            else:
                pending.size = -1
                again.append(pending)
        if again and self._may_propose_again(again):
            self._propose(again, use_reserve=True)
        else:
            self._lanes.put_back(again)
            self._wake()

    def _may_propose_again(self, batch: list[Pending]) -> bool:
        """Whether nothing has changed since these were taken from their lanes."""
        term = self._consensus.term
        same_term = all(pending.origin is None or pending.origin.term == term for pending in batch)
        return self._consensus.serves and same_term and not self._foreign

    async def wait_applied(self, index: int, timeout_ms: int) -> None:
        """Until entry `index` is decided here. Raises Timeout, ShuttingDown."""
        if self.applied_index >= index:
            return
        try:
            async with asyncio.timeout(timeout_ms / 1_000):
                while self.applied_index < index:
                    if self._closing:
                        raise ShuttingDown("the store is closing")
                    self._moved.clear()
                    await self._moved.wait()
        except TimeoutError as error:
            raise Timeout(f"entry {index} was not applied in {timeout_ms} ms") from error

    # -- what the database has ---------------------------------------------------------------------

    def committed(self, index: int, positions: dict[str, int]) -> None:
        """SQLite has committed entries up to `index`: the tail may go, once nothing is undecided."""
        self._decider.committed = (index, positions)
        if self._under_way is None:
            self._decider.forget()

    async def close(self) -> None:
        """Take nothing new, and wait until everything taken is answered."""
        self._closing = True
        while not self._broken and self._busy:
            self._idle.clear()
            self._wake()
            self._keep_sweeping()
            await self._idle.wait()
        self.hand_over()


def _nothing(*_: object) -> None:
    """Nobody wants to know."""
