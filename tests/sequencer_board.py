"""Everything around a sequencer, in one object that answers when a test tells it to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from shoal.model.commands import Append, ProposedEvent, Write, decode
from shoal.model.event_time import EventTime
from shoal.model.machine import Head, RowsAppended, StoredId, StoreState, StreamDeleted
from shoal.store.forwarding import Forwarding
from shoal.store.memory import StoreMemory
from shoal.store.ports import Proposed, ReadSet, Search
from shoal.store.sequencer import Sequencer
from shoal.testing.clock import FakeClock
from shoal.types import ANY_VERSION


class Board:
    """Consensus, applier and fetcher in one, each answering when told; the database is what was applied."""

    def __init__(self, name: str = "board", send: Callable[[str, Any], bool] = lambda *_: False) -> None:
        self.clock = FakeClock()
        self.proposed: list[tuple[Any, bool]] = []
        self.done: Callable[[Any], None] | None = None
        self.fetches: list[tuple[Any, Callable[[Any], None]]] = []
        self.applied: list[Any] = []
        self.heads: dict[str, Head] = {}
        self.ids: dict[tuple[str, Any], StoredId] = {}
        self.searches: list[Search] = []
        self.found: list[Any] = []
        """What searches find, one after the other: a hit, None, an error, or a future of one of them."""
        self.backlog = 0
        self.role, self.serves, self.leader, self.term = "leader", True, name, 1
        self.index = 0
        self.failures: list[BaseException] = []
        self.hand_overs: list[int] = []
        self.sequencer = Sequencer(
            consensus=self,
            applier=self,
            fetcher=self,
            clock=self.clock,
            event_time=EventTime(),
            forwarding=Forwarding(name, 0, send),
            failed=self.failures.append,
        )
        self.memory = self.sequencer.stores["main"] = StoreMemory(StoreState())
        self.sequencer.listeners["main"] = lambda: None

    def propose(self, payload, done, *, use_reserve=False):
        assert self.done is None, "one proposal at a time"
        self.proposed.append((decode(payload), use_reserve))
        self.payload = payload
        self.done = done

    def apply(self, entries):
        self.applied += entries
        self.hand_overs.append(len(entries))
        for change in (change for entry in entries for part in entry.stores for change in part.changes):
            if isinstance(change, RowsAppended):
                self.heads.update(change.heads)
            elif isinstance(change, StreamDeleted):
                self.heads[change.stream_id] = change.head

    def fetch(self, needs, done):
        self.fetches.append((needs, done))

    async def first_match(self, search):
        self.searches.append(search)
        found = self.found.pop(0)
        if isinstance(found, asyncio.Future):
            found = await found
        if isinstance(found, Exception):
            raise found
        return found

    def answer_fetch(self):
        needs, done = self.fetches.pop(0)
        found = {}
        for need in needs:
            found[need.store] = ReadSet(
                {name: self.heads.get(name) for name in need.heads},
                {key: self.ids[key] for key in self.ids if key[0] in need.ids},
            )
        done(found)

    def sync(self, outcome=None):
        done, self.done = self.done, None
        if outcome is None:
            self.index += 1
            outcome = Proposed(self.index, self.term)
        done(outcome)

    async def turn(self):
        for _ in range(5):
            await asyncio.sleep(0)

    async def through(self):
        """Let everything submitted be decided."""
        await self.turn()
        while self.done is not None:
            if self.fetches:
                self.answer_fetch()
            self.sync()
            await self.turn()

    def append(
        self, stream_id="s", expected=ANY_VERSION, *, kind="e", lane=0, condition=None, size=10, **more
    ):
        event = ProposedEvent(f"id-{next(numbers)}", False, kind, b"1")
        command = Append("main", [Write(stream_id, expected, [event])], condition)
        return self.sequencer.submit(command, size, lane=lane, **more)


numbers = iter(range(10**9))
