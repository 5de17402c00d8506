"""A workload for the power-cut suite, and an independent model of what a store must hold after each answer.

All randomness comes from a seed and, with `InlineWorker`, everything runs in one thread, so the same seed
writes the same log. Each command is marked on the disk when it is asked and when it is answered.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple
from uuid import UUID

from power_cut_subscriptions import Draws, Subscribed, SubscriptionsModel, read_subscribed

from shoal.errors import (
    ConditionFailed,
    EventIdReused,
    InvalidRequest,
    NotFound,
    StreamNotFound,
    StreamTombstoned,
    WrongExpectedVersion,
)
from shoal.store.api import Store
from shoal.store.context import StoreContext
from shoal.store.local import LocalStore
from shoal.types import (
    ANY_VERSION,
    NO_STREAM,
    STREAM_EXISTS,
    Appended,
    AppendedMany,
    Condition,
    NewEvent,
    Query,
    QueryItem,
    StreamWrite,
)

STREAMS: Final = tuple(f"board-{number}" for number in range(6))
TYPES: Final = ("reading", "alarm", "ack")
TAGS: Final = ("kitchen", "cellar", "roof")


_REFUSED: Final = (
    ConditionFailed,
    EventIdReused,
    InvalidRequest,  # a snapshot of a version that was deleted meanwhile
    NotFound,  # a subscription that was deleted or reset meanwhile
    StreamNotFound,
    StreamTombstoned,
    WrongExpectedVersion,
)


class Asked(NamedTuple):
    """A mark: command `number` was handed to the store; `writes` if it was an append."""

    store: str
    number: int
    writes: Sequence[StreamWrite]


class Answered(NamedTuple):
    """A mark: the store answered; `step` is how many changes the model holds since."""

    store: str
    number: int
    step: int


class StoredEvent(NamedTuple):
    """What must be found at a position; `event_id` is None where the store made it."""

    stream_id: str
    version: int
    event_id: str | None
    event_type: str
    data: Any
    metadata: Mapping[str, Any] | None
    tags: Sequence[str] | None


class StreamState(NamedTuple):
    """A stream as the decisions say: last version given, first readable one, deleted for ever."""

    version: int = -1
    visible_from: int = 0
    tombstoned: bool = False

    @property
    def actual(self) -> int:
        """What `get_version` answers."""
        return self.version if self.visible_from <= self.version and not self.tombstoned else -1


class State(NamedTuple):
    """Everything but the events themselves; equal states are the same moment of a history."""

    position: int
    streams: frozenset[tuple[str, StreamState]]
    snapshots: frozenset[tuple[str, int, str]]
    subscribed: Subscribed = Subscribed()


class Model:
    """The history of a store: events by position, and the state after each change."""

    def __init__(self) -> None:
        self.events: list[StoredEvent] = []
        self.streams: dict[str, StreamState] = {}
        self.snapshots: dict[tuple[str, int], str] = {}
        self.subscriptions = SubscriptionsModel(Subscribed())
        self.states: list[State] = []
        self.note()

    def until(self, step: int) -> Model:
        """The same history, ended after `step`: a power cut chose it."""
        cut = Model()
        cut.states = self.states[: step + 1]
        last = cut.states[-1]
        cut.events = self.events[: last.position]
        cut.streams = dict(last.streams)
        cut.subscriptions = SubscriptionsModel(last.subscribed)
        cut.snapshots = {(stream_id, version): data for stream_id, version, data in last.snapshots}
        return cut

    def actual(self, stream_id: str) -> int:
        """What `get_version` must answer."""
        return self._stream(stream_id).actual

    def _stream(self, stream_id: str) -> StreamState:
        return self.streams.get(stream_id, StreamState())

    def appended(self, writes: Sequence[StreamWrite], answer: AppendedMany) -> None:
        """Take an accepted append, checking that its answer is the only right one."""
        if answer.duplicate:
            return
        for write, result in zip(writes, answer.results, strict=True):
            self._append_to(write, result)
        if any(write.events for write in writes):
            same("position", answer.position, len(self.events))
        self.note()

    def _append_to(self, write: StreamWrite, result: Appended) -> None:
        before = self.streams.get(write.stream_id, StreamState())
        if not write.events:
            same("version of nothing appended", int(result), before.actual)
            return
        version = before.version
        for event in write.events:
            version += 1
            self.events.append(
                StoredEvent(
                    write.stream_id,
                    version,
                    event.event_id,
                    event.event_type,
                    event.data,
                    event.metadata,
                    event.tags,
                )
            )
        same("versions", (result.first_version, int(result)), (before.version + 1, version))
        same("position", result.position, len(self.events))
        self.streams[write.stream_id] = before._replace(version=version)

    def deleted(self, stream_id: str, *, hard: bool) -> None:
        """Take a delete."""
        before = self.streams.get(stream_id)
        if before is None or before.tombstoned or (before.actual == NO_STREAM and not hard):
            return
        self.streams[stream_id] = StreamState(before.version, before.version + 1, hard)
        self.snapshots = {key: data for key, data in self.snapshots.items() if key[0] != stream_id}
        self.subscriptions.forget_stream(stream_id)
        self.note()

    def saved(self, stream_id: str, version: int, data: str) -> None:
        """Take a saved snapshot; one of a deleted stream would have no life to belong to."""
        same(
            "a snapshot's stream was deleted", stream_id in self.streams and self.actual(stream_id) < 0, False
        )
        same("a snapshot's version was deleted", version < self._stream(stream_id).visible_from, False)
        self.snapshots[stream_id, version] = data
        self.note()

    def forgot(self, stream_id: str, version: int) -> None:
        """Take a deleted snapshot."""
        self.snapshots.pop((stream_id, version), None)
        self.note()

    def readable(self) -> list[str | None]:
        """The stream of each event in order, None for those that are hidden."""
        return [event.stream_id if self.shows(event) else None for event in self.events]

    def shows(self, event: StoredEvent) -> bool:
        """Whether it can be read."""
        stream = self.streams[event.stream_id]
        return not stream.tombstoned and event.version >= stream.visible_from

    def note(self) -> None:
        """The history has come to a new state."""
        snapshots = frozenset((*key, data) for key, data in self.snapshots.items())
        self.states.append(
            State(len(self.events), frozenset(self.streams.items()), snapshots, self.subscriptions.now)
        )


class Workload:
    """Rounds of commands, several at once, against a store that may be closed and opened in between."""

    def __init__(self, name: str, seed: int, mark: Callable[[object], None], model: Model) -> None:
        self.name = name
        self.rng = random.Random(f"{seed} {name}")
        self.model = model
        self._draws = Draws(self.rng, name, model)
        self.answers: dict[str, int] = {}
        self._mark = mark
        self._asked = 0
        self._repeatable: list[StreamWrite] = []

    async def run(self, store: Store, rounds: int) -> None:
        """Some rounds; every answer is held against the model."""
        for _ in range(rounds):
            count = self.rng.choice((1, 1, 2, 5))
            await asyncio.gather(*(self._command(store) for _ in range(count)))
            await self._read_back(store)

    async def look(self, store: Store) -> None:
        """All that can be read is what the model says, by the public interface."""
        readable = [
            (position, event)
            for position, event in enumerate(self.model.events, 1)
            if self.model.shows(event)
        ]
        events = await store.streams.read_all(None, 10_000)
        same("events", [event.position for event in events], [position for position, _ in readable])
        for event, (position, stored) in zip(events, readable, strict=True):
            found = (event.stream_id, event.version, event.data)
            same(f"event {position}", found, (stored.stream_id, stored.version, stored.data))
        for stream_id in STREAMS:
            actual = self.model.actual(stream_id)
            same(f"version of {stream_id}", await store.streams.get_version(stream_id), actual)
            snapshots = [
                (snapshot.version, snapshot.data) for snapshot in await store.snapshots.list(stream_id)
            ]
            usable = actual >= 0 or stream_id not in self.model.streams
            kept = self.model.snapshots.items() if usable else ()
            saved = sorted((version, data) for (name, version), data in kept if name == stream_id)
            same(f"snapshots of {stream_id}", snapshots, saved)
            if actual >= 0:
                await self._must_conflict(store, stream_id)
        context = context_of(store)
        parked = await context.read_applied(read_subscribed)
        memory = frozenset(context.memory.subscriptions.values())
        same("subscriptions", (memory, parked.parked), self.model.subscriptions.now)

    async def _must_conflict(self, store: Store, stream_id: str) -> None:
        try:
            await store.streams.append(stream_id, NO_STREAM, self._events(1))
        except WrongExpectedVersion:
            return
        raise AssertionError(f"{stream_id} exists, and an append as a new stream was accepted")

    async def retry(self, store: Store, unanswered: Sequence[Sequence[StreamWrite]]) -> None:
        """What a client does whose request the power cut left unanswered: the same again, never twice there."""
        for writes in unanswered:
            ids = [(write.stream_id, event.event_id) for write in writes for event in write.events]
            if ids and all(event_id for _, event_id in ids):
                there = {(event.stream_id, event.event_id) for event in self.model.events}
                again = [StreamWrite(write.stream_id, ANY_VERSION, write.events) for write in writes]
                await self._write(store, again, there=ids[0] in there)

    async def _read_back(self, store: Store) -> None:
        """What was answered can be read at once, whether SQLite has it yet or not."""
        stream_id = self.rng.choice(STREAMS)
        actual = self.model.actual(stream_id)
        same(f"version of {stream_id}", await store.streams.get_version(stream_id), actual)
        if actual >= 0:
            (last,) = await store.streams.read(stream_id, None, 1, "backward")
            stored = self.model.events[last.position - 1]
            same(f"last event of {stream_id}", (last.version, last.data), (actual, stored.data))

    def _command(self, store: Store) -> Awaitable[None]:
        choices: list[tuple[int, Callable[[Store], Awaitable[None]]]] = [
            (50, self._append),
            (14, self._append_many),
            (8, self._repeat),
            (6, self._reuse_id),
            (6, self._conflict),
            (12, self._condition),
            (4, self._delete),
            (4, self._race),
            (8, self._snapshot),
            (40, self._subscription),
        ]
        (chosen,) = self.rng.choices([call for _, call in choices], [weight for weight, _ in choices])
        return chosen(store)

    # -- commands: each draws what it needs before it awaits anything ------------------------------

    async def _append(self, store: Store) -> None:
        stream_id = self.rng.choice(STREAMS)
        events = self._events(self.rng.choice((0, 1, 1, 1, 2, 4, 12)))
        write = StreamWrite(stream_id, ANY_VERSION, events)
        await self._write(store, [write])

    async def _append_many(self, store: Store) -> None:
        chosen = self.rng.sample(STREAMS, self.rng.choice((2, 3)))
        await self._write(
            store, [StreamWrite(name, ANY_VERSION, self._events(self.rng.randint(0, 3))) for name in chosen]
        )

    async def _repeat(self, store: Store) -> None:
        """The same request again, as a client does that never heard the answer: no second event."""
        if not self._repeatable:
            return
        write = self.rng.choice(self._repeatable)
        await self._write(store, [write])

    async def _reuse_id(self, store: Store) -> None:
        if not self._repeatable:
            return
        write = self.rng.choice(self._repeatable)
        other = NewEvent("alarm", "another", event_id=write.events[0].event_id)
        await self._write(store, [StreamWrite(write.stream_id, ANY_VERSION, [other])])

    async def _conflict(self, store: Store) -> None:
        stream_id = self.rng.choice(STREAMS)
        expected = self.rng.choice((NO_STREAM, STREAM_EXISTS, self.rng.randrange(40)))
        await self._write(store, [StreamWrite(stream_id, expected, self._events(2))])

    async def _condition(self, store: Store) -> None:
        query = Query((QueryItem((self.rng.choice(TYPES),), (self.rng.choice(TAGS),)),))
        condition = Condition(query, max(0, len(self.model.events) - self.rng.choice((0, 10, 30))))
        write = StreamWrite(self.rng.choice(STREAMS), ANY_VERSION, self._events(2))
        await self._write(store, [write], condition)

    async def _race(self, store: Store) -> None:
        """A delete, and at once an append on condition that nothing like the deleted stream's last event is there.

        Both may be decided in one entry; the journal's replay must come to the same answer.
        """
        stream_id, other = self.rng.sample(STREAMS[1:], 2)
        last = next((n for n, e in enumerate(reversed(self.model.events)) if e.stream_id == stream_id), None)
        if last is None:
            return
        position = len(self.model.events) - last
        event = self.model.events[position - 1]
        condition = Condition(Query((QueryItem((event.event_type,), tuple(event.tags or ())),)), position - 1)
        await asyncio.gather(
            self._ask(store.streams.delete(stream_id), lambda _: self.model.deleted(stream_id, hard=False)),
            self._write(store, [StreamWrite(other, ANY_VERSION, self._events(2))], condition),
        )

    async def _delete(self, store: Store) -> None:
        # Of six streams one may go for ever, and only late: the others go on.
        hard = self.rng.random() < 0.1 and len(self.model.events) > 150
        stream_id = STREAMS[0] if hard else self.rng.choice(STREAMS)
        await self._ask(
            store.streams.delete(stream_id, hard=hard), lambda _: self.model.deleted(stream_id, hard=hard)
        )

    async def _snapshot(self, store: Store) -> None:
        stream_id = self.rng.choice(STREAMS)
        version = self.model.streams.get(stream_id, StreamState()).visible_from + self.rng.randrange(5)
        if self.rng.random() < 0.3:
            await self._ask(
                store.snapshots.delete_at(stream_id, version), lambda _: self.model.forgot(stream_id, version)
            )
            return
        data = f"state {self.rng.randrange(10**6)}" * self.rng.choice((1, 40))
        await self._ask(
            store.snapshots.save(stream_id, version, data),
            lambda _: self.model.saved(stream_id, version, data),
        )

    async def _subscription(self, store: Store) -> None:
        command, taken = self._draws.draw()

        def accepted(answer: Any) -> None:
            taken(answer)
            self._count(type(command).__name__)

        await self._ask(context_of(store).submit(command, command.store, 100), accepted)

    async def _write(
        self,
        store: Store,
        writes: list[StreamWrite],
        condition: Condition | None = None,
        *,
        there: bool | None = None,
    ) -> None:
        def accepted(answer: AppendedMany) -> None:
            if there is not None:
                same("duplicate", answer.duplicate, there)
            self.model.appended(writes, answer)
            own = all(event.event_id for write in writes for event in write.events)
            if own and len(writes) == 1 and writes[0].events and not answer.duplicate:
                self._repeatable.append(writes[0])

        await self._ask(store.streams.append_many(writes, condition), accepted, writes)

    async def _ask(
        self, asked: Awaitable[Any], accepted: Callable[[Any], None], writes: Sequence[StreamWrite] = ()
    ) -> None:
        self._asked += 1
        number = self._asked
        self._mark(Asked(self.name, number, writes))
        try:
            answer = await asked
        except _REFUSED as refused:
            self._count(refused.code)
        else:
            accepted(answer)
            self._count("duplicate" if getattr(answer, "duplicate", False) else "accepted")
        self._mark(Answered(self.name, number, len(self.model.states) - 1))

    def _count(self, outcome: str) -> None:
        self.answers[outcome] = self.answers.get(outcome, 0) + 1

    def _events(self, count: int) -> list[NewEvent]:
        own = self.rng.random() < 0.4
        return [self._event(own=own) for _ in range(count)]

    def _event(self, *, own: bool) -> NewEvent:
        rng = self.rng
        event_id = None
        if own:
            event_id = (
                str(UUID(int=rng.getrandbits(128))) if rng.random() < 0.5 else f"sensor-{rng.getrandbits(60)}"
            )
        size = rng.choice((5, 20, 200, 200, 1500))
        return NewEvent(
            rng.choice(TYPES),
            {"value": rng.randrange(1000), "note": "x" * rng.randrange(size)},
            metadata={"at": rng.randrange(1000)} if rng.random() < 0.3 else None,
            tags=rng.sample(TAGS, rng.randint(1, 2)) if rng.random() < 0.5 else None,
            event_id=event_id,
        )


def context_of(store: Store) -> StoreContext:
    """What commands on subscriptions are submitted to; the store must be a node's own."""
    if not isinstance(store, LocalStore):
        raise TypeError(store)
    return store._context


def same(what: str, found: object, wanted: object) -> None:
    """Raise unless they are equal; where this runs, no test framework explains a bare assertion."""
    if found != wanted:
        raise AssertionError(f"{what}: {found!r}, not {wanted!r}")
