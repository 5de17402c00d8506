"""Decides entries in the order of the log, and keeps what is decided until the database takes it.

Every member decides the same: from the entry, from what it holds in memory, and from a read set of its database.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from shoal.errors import NotFound, ShoalError
from shoal.model.commands import (
    Append,
    Command,
    CreateStore,
    DeleteStream,
    DropStore,
    Origin,
    Proposal,
    SaveSnapshot,
    decode,
)
from shoal.model.machine import Change, Head, StoredId, StoreState, decide
from shoal.model.subscriptions import SubscriptionState
from shoal.raft.log import Kind
from shoal.raft.messages import Entry
from shoal.store.lanes import Checked, Pending
from shoal.store.memory import StoreMemory
from shoal.store.ports import Applier, ApplyEntry, Need, Proposed, ReadSet, StoreChanges
from shoal.store.state_digest import check
from shoal.types import Query

HELD_COMMANDS = 512
HELD_BYTES = 256 * 1024

_CATALOGUE = (CreateStore, DropStore)

Answer = tuple[asyncio.Future[Any], Any]


class Counters(msgspec.Struct):
    """Plain counts since the start."""

    entries: int = 0
    commands: int = 0
    conflicts: int = 0
    refused: int = 0


class Decidable(msgspec.Struct, gc=False, eq=False):
    """An entry with what its decision needs. `futures` are of those who wait here, by command; `size` is in bytes."""

    proposal: Proposal
    size: int
    futures: Sequence[asyncio.Future[Any] | None]
    checked: list[Checked | None]
    configuration: bytes | None = None


def committed_entry(
    entry: Entry, answered: Callable[[Sequence[Origin]], Mapping[int, Pending]]
) -> tuple[Decidable, Sequence[Pending]]:
    """An entry that came committed, and who waits for it here, whom `answered` finds. Raises CodecError."""
    proposal = decode(entry.data) if entry.kind == Kind.NORMAL else Proposal(0, 0, [])
    waiting = answered(proposal.origins) if proposal.origins else {}
    places = range(len(proposal.commands))
    futures = [waiting[place].future if place in waiting else None for place in places]
    configuration = entry.data if entry.kind == Kind.CONFIGURATION else None
    decidable = Decidable(proposal, len(entry.data), futures, [None] * len(places), configuration)
    return decidable, list(waiting.values())


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


class Decider:
    """The stores in memory. `catalog_changed` hears of stores made and dropped, with the entry's index."""

    def __init__(self, applier: Applier) -> None:
        self._applier = applier
        self._decided: list[ApplyEntry] = []
        self._held_commands = 0
        self._held_bytes = 0
        self.stores: dict[str, StoreMemory] = {}
        self.listeners: dict[str, Callable[[], None]] = {}
        self.catalog_changed: Callable[[CreateStore | DropStore], None] = _nobody
        self.counters = Counters()
        self.applied_index = 0
        self.applied_term = 0
        self.digested_index = 0
        """The last entry whose state was compared with its leader's; the start for one that has compared none."""
        self.committed: tuple[int, dict[str, int]] | None = None
        """The last entry that the database has, and the positions of the stores then."""

    def begin_after(self, index: int, term: int) -> None:
        """Entries up to `index` are in the database."""
        self.applied_index = self.digested_index = index
        self.applied_term = term

    def forget(self) -> None:
        """What the database has may leave memory. Not while an entry is under way that was fetched for before."""
        for memory in self.stores.values():
            memory.trim()
        if self.committed is None:
            return
        index, positions = self.committed
        self.committed = None
        for name, position in positions.items():
            found = self.stores.get(name)
            if found is not None and index >= found.since:  # not that of a dropped one of the same name
                found.forget(index, position)

    # -- read sets -------------------------------------------------------------------------------

    def needs(self, commands: Sequence[Command]) -> list[Need]:
        """What must be fetched before these can be decided."""
        needs: dict[str, Need] = {}
        for command in commands:
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

    # -- deciding --------------------------------------------------------------------------------

    def decide(
        self, proposed: Proposed, entry: Decidable, fetched: Mapping[str, ReadSet], *, own: bool = False
    ) -> None:
        """Decide an entry's commands in order, and answer those who wait. Raises StateDiverged."""
        proposal = entry.proposal
        if proposal.digest is not None and proposal.digest.index == self.applied_index:
            if not own:
                check(proposal.digest, self.stores)
            self.digested_index = proposed.index
        changes: dict[str, list[Change]] = {}
        catalog: list[CreateStore | DropStore] = []
        views: dict[str, _View] = {}
        answers: list[Answer] = []
        for command, future, checked in zip(proposal.commands, entry.futures, entry.checked, strict=True):
            if isinstance(command, _CATALOGUE):
                self._decide_catalog(command, proposed.index)
                catalog.append(command)
                result: Any = proposed.index
            else:
                result = self._decide_command(
                    command, checked, proposal, views, fetched, proposed.index, changes
                )
            if future is not None:
                answers.append((future, result))
        self.applied_index, self.applied_term = proposed.index, proposed.term
        self.counters.entries += 1
        self.counters.commands += len(proposal.commands)
        self._hold(proposed, entry, changes, catalog)
        for name in changes:
            if name in self.stores:
                self.stores[name].tell()
        for command in catalog:
            self.catalog_changed(command)
        _give(answers)
        for name in changes:
            self.listeners[name]()

    def _decide_command(
        self,
        command: Any,
        checked: Checked | None,
        proposal: Proposal,
        views: dict[str, _View],
        fetched: Mapping[str, ReadSet],
        index: int,
        changes: dict[str, list[Change]],
    ) -> Any:
        store = command.store
        memory = self.stores.get(store)
        if memory is None:
            return NotFound(f"store {store!r} does not exist", store=store)
        view = views.get(store)
        if view is None:
            view = views[store] = _View(memory, fetched.get(store) or ReadSet())
        view.checked = checked
        try:
            decision = decide(memory.state, view, command, proposal.clock_us, proposal.reading_us)
        except ShoalError as error:
            self.counters.conflicts += 1
            return error
        change = decision.change
        if change is not None:
            memory.apply(index, change)
            if store in changes:
                changes[store].append(change)
            else:
                changes[store] = [change]
        return decision.result

    def _decide_catalog(self, command: CreateStore | DropStore, index: int) -> None:
        store = command.store
        if isinstance(command, DropStore):
            self.stores.pop(store, None)
        elif store not in self.stores:
            self.stores[store] = StoreMemory(StoreState(), since=index)
            self.listeners.setdefault(store, _nothing)

    # -- what the database is to take ------------------------------------------------------------

    def _hold(
        self,
        proposed: Proposed,
        entry: Decidable,
        changes: dict[str, list[Change]],
        catalog: list[CreateStore | DropStore],
    ) -> None:
        stores = [
            StoreChanges(name, found, _copy(self.stores[name].state))
            for name, found in changes.items()
            if name in self.stores
        ]
        self._decided.append(
            ApplyEntry(proposed.index, proposed.term, stores, catalog, entry.size, entry.configuration)
        )
        self._held_commands += len(entry.proposal.commands)
        self._held_bytes += entry.size

    @property
    def holds_many(self) -> bool:
        """Whether what is held is worth waking the writer for."""
        return self._held_commands >= HELD_COMMANDS or self._held_bytes >= HELD_BYTES

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


def _give(answers: Sequence[Answer]) -> None:
    for future, answer in answers:
        if future.done():
            continue
        if isinstance(answer, ShoalError):
            future.set_exception(answer)
        else:
            future.set_result(answer)


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


def _nobody(_: object) -> None:
    """Nobody wants to know of stores."""


def _nothing() -> None:
    """Nobody listens to a store that was just created."""
