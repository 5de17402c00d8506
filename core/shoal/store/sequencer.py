"""The sequencer: all appends of one loop turn become one entry; decided in order once it is durable.

One entry is under way at a time; while its sync runs the next one gathers. That is group commit, and it
is also what keeps the read set simple: when an entry is proposed, all before it are decided.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import msgspec

from shoal.clock import Clock
from shoal.errors import DiskFull, InternalError, NotFound, ShoalError, ShuttingDown, Timeout, TooBusy
from shoal.model.commands import (
    Append,
    Command,
    CreateStore,
    CreateSubscription,
    DeleteStream,
    DropStore,
    Proposal,
    SaveSnapshot,
    encode,
)
from shoal.model.event_time import EventTime
from shoal.model.machine import Change, Head, StoredId, StoreState, decide
from shoal.model.subscriptions import SubscriptionState
from shoal.store.conditions import Conditions
from shoal.store.lanes import Checked, Lanes, Pending
from shoal.store.memory import StoreMemory
from shoal.store.ports import Applier, ApplyEntry, Consensus, Fetcher, Need, Proposed, ReadSet, StoreChanges
from shoal.types import Query

BACKLOG_HIGH = 4_000
HELD_COMMANDS = 512
HELD_BYTES = 256 * 1024
SWEEP_MS = 50

_log = logging.getLogger(__name__)

_CATALOGUE = (CreateStore, DropStore)
_NEEDS_ROOM = (Append, SaveSnapshot, CreateStore, CreateSubscription)
"""What is refused while the disk is full: everything else frees space, or settles what takes some."""


class Counters(msgspec.Struct):
    """Plain counts since the start."""

    entries: int = 0
    commands: int = 0
    conflicts: int = 0
    refused: int = 0


class _View:
    """A store as of the entry before: memory first, then what was fetched."""

    __slots__ = ("_fetched", "_memory", "checked")

    def __init__(self, memory: StoreMemory, fetched: ReadSet) -> None:
        self._memory = memory
        self._fetched = fetched
        self.checked: Checked | None = None
        """Of the command that is decided now."""

    def head(self, stream_id: str) -> Head | None:
        try:
            return self._memory.head(stream_id)
        except KeyError:
            head = self._fetched.heads[stream_id]
            self._memory.learn(stream_id, head)
            return head

    def stored_id(self, stream_id: str, event_id: bytes | str) -> StoredId | None:
        return self._memory.stored_id(stream_id, event_id) or self._fetched.ids.get((stream_id, event_id))

    def first_match(self, query: Query, after: int) -> int | None:
        if self.checked is not None and self.checked.hit is not None:
            return self.checked.hit.position
        return self._memory.first_match(query, after)

    def subscription(self, name: str) -> SubscriptionState | None:
        return self._memory.subscriptions.get(name)


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
        failed: Callable[[BaseException], None],
    ) -> None:
        self._consensus = consensus
        self._applier = applier
        self._fetcher = fetcher
        self._clock = clock
        self._event_time = event_time
        self._failed = failed
        self._loop = asyncio.get_running_loop()
        self._lanes = Lanes()
        self._turn_set = False
        self._in_flight: list[Pending] = []
        self._proposal: Proposal | None = None
        self._size = 0
        self._proposed: Proposed | BaseException | None = None
        self._fetched: dict[str, ReadSet] | BaseException | None = None
        self._committed: tuple[int, dict[str, int]] | None = None
        self._sweeping = False
        self._closing = False
        self._broken = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._stalled = False
        self._decided: list[ApplyEntry] = []
        self._held_commands = 0
        self._held_bytes = 0
        self.stores: dict[str, StoreMemory] = {}
        self._conditions = Conditions(self.stores, fetcher, self._lanes, self._wake)
        self.listeners: dict[str, Callable[[], None]] = {}
        self.counters = Counters()
        self.applied_index = 0
        self.disk_full: DiskFull | None = None
        """While set, appends are refused with it."""

    # -- taking commands -------------------------------------------------------------------------

    def submit(
        self,
        command: Command,
        size: int,
        *,
        lane: int = 0,
        lane_limit: int = 1_000_000,
        timeout_ms: int = 5_000,
    ) -> asyncio.Future[Any]:
        """Queue a command; the future is its answer. Raises TooBusy, ShuttingDown, NotFound."""
        if self._closing:
            raise ShuttingDown("the store is closing")
        store = command.store
        if store not in self.stores and not isinstance(command, CreateStore | DropStore):
            raise NotFound(f"store {store!r} does not exist", store=store)
        if self.disk_full is not None and isinstance(command, _NEEDS_ROOM):
            self.counters.refused += 1
            raise DiskFull(self.disk_full.detail)
        future: asyncio.Future[Any] = self._loop.create_future()
        try:
            pending = Pending(command, size, self._clock.monotonic_ms() + timeout_ms, future, lane)
            if type(command) is Append and command.condition is not None:
                self._conditions.take_in(pending, lane_limit)
            else:
                self._lanes.put(pending, lane_limit)
        except TooBusy:
            self.counters.refused += 1
            raise
        self._wake()
        if not self._sweeping:
            self._sweeping = True
            self._loop.call_later(SWEEP_MS / 1_000, self._sweep)
        return future

    @property
    def waiting(self) -> int:
        """Commands queued, and those whose condition is looked up."""
        return self._lanes.waiting

    def _wake(self) -> None:
        if not self._turn_set and self._proposal is None:
            self._turn_set = True
            self._loop.call_soon(self._turn)

    def resume(self) -> None:
        """The writer thread has caught up."""
        if self._stalled:
            self._stalled = False
            self._wake()

    def _sweep(self) -> None:
        """Answer what has waited too long: queued commands were not applied, proposed ones may be."""
        now = self._clock.monotonic_ms()
        for pending in self._in_flight:
            if pending.deadline_ms <= now:
                pending.fail(Timeout("the disk did not answer in time", outcome="unknown"))
        self._lanes.expire(now)
        self._sweeping = bool(self._in_flight) or self.waiting > 0
        if self._sweeping:
            self._loop.call_later(SWEEP_MS / 1_000, self._sweep)

    # -- one turn --------------------------------------------------------------------------------

    def _turn(self) -> None:
        self._turn_set = False
        if self._proposal is not None or self._broken:
            return
        if self._applier.backlog > BACKLOG_HIGH:
            self._stalled = True
            self.hand_over()
            return
        batch = self._lanes.take(self._conditions.may_go)
        if batch:
            self._idle.clear()
            self._propose(batch, use_reserve=False)
        elif not self.waiting:
            self._idle.set()
        if not batch or self._held_commands >= HELD_COMMANDS or self._held_bytes >= HELD_BYTES:
            self.hand_over()

    def _propose(self, batch: list[Pending], *, use_reserve: bool) -> None:
        reading = self._clock.wall()
        last = max((memory.state.epoch_us for memory in self.stores.values()), default=0)
        clock_us = self._event_time.stamp(reading, self._clock.monotonic_ms(), last)
        proposal = Proposal(clock_us, reading.epoch_us, [pending.command for pending in batch])
        try:
            payload = encode(proposal)
            needs = self._needs(batch)
        except Exception:  # noqa: BLE001 - a defect, whatever it is: found again below, command by command
            self._propose_sound(batch, use_reserve=use_reserve)
            return
        self._in_flight = batch
        self._proposal = proposal
        self._proposed = None
        self._fetched = None if needs else {}
        self._size = len(payload)
        self._consensus.propose(payload, self._on_proposed, use_reserve=use_reserve)
        if needs:
            self._fetcher.fetch(needs, self._on_fetched)

    def _propose_sound(self, batch: list[Pending], *, use_reserve: bool) -> None:
        """Answer the commands that the checks should have refused; the others are not to suffer for them."""
        good: list[Pending] = []
        for pending in batch:
            try:
                encode(Proposal(0, 0, [pending.command]))
                self._needs([pending])
            except Exception as error:  # noqa: BLE001 - told to whoever sent it
                pending.fail(InternalError(f"the command cannot be stored: {error!r}"))
                _log.exception("a command cannot be stored")
            else:
                good.append(pending)
        if len(good) == len(batch):  # the proposal itself, then: nothing can be promised any more
            self._in_flight = batch
            self._break(RuntimeError("an entry cannot be proposed, though each of its commands can"))
        elif good:
            self._propose(good, use_reserve=use_reserve)
        else:
            self._wake()

    def _needs(self, batch: list[Pending]) -> list[Need]:
        needs: dict[str, Need] = {}
        for pending in batch:
            command = pending.command
            memory = self.stores.get(command.store)
            if memory is None:
                continue
            need = needs.get(command.store)
            if need is None:
                need = needs[command.store] = Need(command.store)
            if isinstance(command, Append):
                _need_of_append(need, memory, command)
            elif isinstance(command, DeleteStream | SaveSnapshot) and not memory.knows(command.stream_id):
                need.heads.add(command.stream_id)
        return [need for need in needs.values() if need]

    def _on_proposed(self, outcome: Proposed | BaseException) -> None:
        self._proposed = outcome
        self._decide_when_ready()

    def _on_fetched(self, outcome: dict[str, ReadSet] | BaseException) -> None:
        self._fetched = outcome
        self._decide_when_ready()

    def _decide_when_ready(self) -> None:
        proposed, fetched = self._proposed, self._fetched
        if proposed is None or fetched is None or self._broken:
            return
        batch = self._in_flight
        if isinstance(proposed, DiskFull):
            self._in_flight, self._proposal = [], None
            self._disk_full(batch, proposed)
            return
        broken = next((x for x in (proposed, fetched) if isinstance(x, BaseException)), None)
        if broken is not None or isinstance(proposed, BaseException) or isinstance(fetched, BaseException):
            self._break(broken or RuntimeError("unreachable"))
            return
        try:
            self._decide(proposed, fetched, batch)
        except Exception as error:  # a defect: what it left half done must not be built upon
            self._break(error)
            raise
        self._in_flight, self._proposal = [], None
        self._forget_committed()
        self._wake()

    def hand_over(self) -> None:
        """Give decided entries to the writer thread.

        It happens after the next proposal, so that the writer works while the disk syncs and not while
        answered callers run, and for many small entries at once: waking the writer for each cost a single
        caller a fifth of its latency, and rows cost a fourth when they go into SQLite by the hundred.
        Whoever reads on the writer's connection calls it first.
        """
        if self._decided:
            self._applier.apply(self._decided)
            self._decided = []
            self._held_commands = self._held_bytes = 0

    def _break(self, error: BaseException) -> None:
        self.give_up(error)
        self._failed(error)

    def give_up(self, error: BaseException) -> None:
        """The log or the database failed: nothing more can be promised, the node ends."""
        self._closing = self._broken = True
        for pending in self._in_flight:
            pending.fail(Timeout(f"the storage failed: {error}", outcome="unknown"))
        self._lanes.fail_all(ShuttingDown(f"the storage failed: {error}"))
        self._idle.set()

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
        if again:
            self._propose(again, use_reserve=True)
        else:
            self._wake()

    # -- deciding --------------------------------------------------------------------------------

    def _decide(self, proposed: Proposed, fetched: dict[str, ReadSet], batch: list[Pending]) -> None:
        proposal = self._proposal
        if proposal is None:
            raise RuntimeError("no entry is under way")
        index = proposed.index
        changes: dict[str, list[Change]] = {}
        catalog: list[CreateStore | DropStore] = []
        views: dict[str, _View] = {}
        answers: list[tuple[asyncio.Future[Any], Any]] = []
        for pending in batch:
            command, future = pending.command, pending.future
            store = command.store
            if isinstance(command, _CATALOGUE):
                self._decide_catalog(command, index)
                catalog.append(command)
                answers.append((future, index))
                continue
            memory = self.stores.get(store)
            if memory is None:
                answers.append((future, NotFound(f"store {store!r} does not exist", store=store)))
                continue
            view = views.get(store)
            if view is None:
                view = views[store] = _View(memory, fetched.get(store) or ReadSet())
            view.checked = pending.checked
            try:
                decision = decide(memory.state, view, command, proposal.clock_us, proposal.reading_us)
            except ShoalError as error:
                self.counters.conflicts += 1
                answers.append((future, error))
                continue
            change = decision.change
            if change is not None:
                memory.apply(index, change)
                if store in changes:
                    changes[store].append(change)
                else:
                    changes[store] = [change]
            answers.append((future, decision.result))
        self.applied_index = index
        self.counters.entries += 1
        self.counters.commands += len(batch)
        stores = [
            StoreChanges(name, found, _copy(self.stores[name].state))
            for name, found in changes.items()
            if name in self.stores
        ]
        self._decided.append(ApplyEntry(index, proposed.term, stores, catalog, self._size))
        self._held_commands += len(batch)
        self._held_bytes += self._size
        for name in changes:
            if name in self.stores:
                self.stores[name].tell()
        for future, answer in answers:
            if future.done():
                continue
            if isinstance(answer, ShoalError):
                future.set_exception(answer)
            else:
                future.set_result(answer)
        for name in changes:
            self.listeners[name]()
        for memory in self.stores.values():
            memory.trim()

    def _decide_catalog(self, command: CreateStore | DropStore, index: int) -> None:
        store = command.store
        if isinstance(command, DropStore):
            self.stores.pop(store, None)
            self._lanes.leave_store(store)
        elif store not in self.stores:
            self.stores[store] = StoreMemory(StoreState(), since=index)
            self.listeners.setdefault(store, _nobody)

    # -- what the database has ---------------------------------------------------------------------

    def committed(self, index: int, positions: dict[str, int]) -> None:
        """SQLite has committed entries up to `index`: the tail may go, once nothing is undecided."""
        self._committed = (index, positions)
        if self._proposal is None:
            self._forget_committed()

    def _forget_committed(self) -> None:
        if self._committed is None:
            return
        index, positions = self._committed
        self._committed = None
        for name, position in positions.items():
            memory = self.stores.get(name)
            if memory is not None and index >= memory.since:  # not that of a dropped one of the same name
                memory.forget(index, position)

    async def close(self) -> None:
        """Take nothing new, and wait until everything taken is answered."""
        self._closing = True
        while not self._broken and (self.waiting or self._proposal is not None):
            self._idle.clear()
            self._wake()
            await self._idle.wait()
        self.hand_over()


def _need_of_append(need: Need, memory: StoreMemory, command: Append) -> None:
    for write in command.writes:
        stream_id = write.stream_id
        known = memory.knows(stream_id)
        if not known:
            need.heads.add(stream_id)
        if not known or memory.head(stream_id) is not None:
            for event in write.events:
                if event.own_id:
                    need.ids.setdefault(stream_id, []).append(event.event_id)


def _copy(state: StoreState) -> StoreState:
    return StoreState(state.position, state.epoch_us)


def _nobody() -> None:
    """Nobody listens to a store that was just created."""
