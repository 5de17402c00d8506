"""Whatever is done to a store, it answers like a few dicts: a stateful test against a plain model."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from msgspec import structs

from shoal import sync
from shoal.client import connect
from shoal.config import Config, StorageConfig
from shoal.errors import (
    ConditionFailed,
    EventIdReused,
    ShoalError,
    StreamNotFound,
    StreamTombstoned,
    WrongExpectedVersion,
)
from shoal.server import Shoald
from shoal.store.api import Store
from shoal.types import (
    ANY_VERSION,
    STREAM_EXISTS,
    Condition,
    EventFilter,
    NewEvent,
    Query,
    QueryItem,
    StreamWrite,
)

STREAMS = ["a", "a/1", "b ü"]
TYPES = ["x", "y", "z"]
TAGS = ["s", "t"]

stream_ids = st.sampled_from(STREAMS)
versions = st.sampled_from([-2, -2, -2, -2, -2, -2, -1, -1, -4, -4, 0, 1, 2, 3])
seldom = st.integers(0, 9).map(lambda drawn: drawn == 7)
new_events = st.builds(
    NewEvent,
    event_type=st.sampled_from(TYPES),
    data=st.integers(0, 3) | st.just({"k": [None, "é"]}) | st.just(b"\0\1"),
    metadata=st.none() | st.just({"m": 1}),
    tags=st.none() | st.lists(st.sampled_from(TAGS), max_size=2),
    event_id=st.none() | st.sampled_from([f"id-{n}" for n in range(12)]),
)
batches = st.lists(new_events, max_size=4).filter(
    lambda events: len(ids := [event.event_id for event in events if event.event_id]) == len(set(ids))
)
items = st.builds(
    QueryItem,
    types=st.lists(st.sampled_from(TYPES), max_size=2).map(tuple),
    tags=st.lists(st.sampled_from(TAGS), max_size=2).map(tuple),
)
queries = st.builds(Query, st.lists(items, min_size=1, max_size=2).map(tuple))


class Stored(NamedTuple):
    """An event as the model remembers it."""

    stream_id: str
    version: int
    position: int
    event: NewEvent


class ModelStream:
    """All events a stream ever had, and from where on they can be read."""

    def __init__(self) -> None:
        self.events: list[Stored] = []
        self.visible_from = 0
        self.tombstoned = False
        self.snapshots: dict[int, Any] = {}

    @property
    def readable(self) -> list[Stored]:
        return [] if self.tombstoned else self.events[self.visible_from :]

    @property
    def version(self) -> int:
        return self.events[-1].version if self.readable else -1


def content(event: NewEvent) -> tuple[Any, ...]:
    return (event.event_type, event.data, event.metadata or {}, list(event.tags or []))


def matches(query: Query, event: NewEvent) -> bool:
    tags = set(event.tags or [])
    return any(
        (not item.types or event.event_type in item.types) and tags.issuperset(item.tags)
        for item in query.items
    )


class Model:
    """The decided semantics, as plainly as they can be said."""

    def __init__(self) -> None:
        self.streams: dict[str, ModelStream] = {name: ModelStream() for name in STREAMS}
        self.position = 0

    def log(self) -> list[Stored]:
        return sorted(
            (stored for stream in self.streams.values() for stored in stream.readable),
            key=lambda stored: stored.position,
        )

    def append(
        self, writes: list[StreamWrite], condition: Condition | None = None
    ) -> list[tuple[int, int, bool]]:
        """(first version, version, duplicate) per write, or the error that the store must raise."""
        for write in writes:
            if self.streams[write.stream_id].tombstoned:
                raise StreamTombstoned(write.stream_id)
        found = [self._places(write) for write in writes]
        if any(place for places in found for place in places):
            return [self._duplicate(write, places) for write, places in zip(writes, found, strict=True)]
        for write in writes:
            self._check(write)
        if condition is not None:
            for stored in self.log():
                if stored.position > condition.after and matches(condition.query, stored.event):
                    raise ConditionFailed(stored.position)
        return [self._store(write) for write in writes]

    def _places(self, write: StreamWrite) -> list[Stored | None]:
        by_id = {stored.event.event_id: stored for stored in self.streams[write.stream_id].events}
        return [by_id.get(event.event_id) if event.event_id else None for event in write.events]

    def _duplicate(self, write: StreamWrite, places: list[Stored | None]) -> tuple[int, int, bool]:
        for event, place in zip(write.events, places, strict=True):
            if place is None or content(place.event) != content(event):
                raise EventIdReused(write.stream_id, event.event_id or "")
        versions = [place.version for place in places if place]
        if versions != list(range(versions[0], versions[0] + len(versions))):
            raise EventIdReused(write.stream_id, "")
        return versions[0], versions[-1], True

    def _check(self, write: StreamWrite) -> None:
        actual = self.streams[write.stream_id].version
        expected = write.expected_version
        fits = expected in {ANY_VERSION, actual} or (expected == STREAM_EXISTS and actual >= 0)
        if not fits:
            raise WrongExpectedVersion(write.stream_id, expected, actual)

    def _store(self, write: StreamWrite) -> tuple[int, int, bool]:
        stream = self.streams[write.stream_id]
        if not write.events:
            return stream.version + 1, stream.version, False
        if not stream.readable:
            stream.snapshots.clear()
        first = len(stream.events)
        for event in write.events:
            self.position += 1
            stream.events.append(Stored(write.stream_id, len(stream.events), self.position, event))
        return first, len(stream.events) - 1, False

    def delete(self, stream_id: str, *, hard: bool) -> None:
        stream = self.streams[stream_id]
        stream.visible_from = len(stream.events)
        stream.tombstoned = stream.tombstoned or hard
        stream.snapshots.clear()


def outcome(call: Any) -> tuple[Any, ...]:
    """What a call came to, comparable: its value, or its error with the facts that are decided."""
    try:
        return ("ok", call())
    except (WrongExpectedVersion, ConditionFailed, StreamTombstoned, StreamNotFound) as error:
        return (type(error), error.facts)
    except ShoalError as error:
        return (type(error),)


CONFIG = Config(
    listen="127.0.0.1:0",
    telemetry_handlers=(),
    storage=StorageConfig(segment_bytes=1024 * 1024, reserve_bytes=1024 * 1024, commit_rows=5),
)


@asynccontextmanager
async def served(data_dir: Path) -> AsyncIterator[Store]:
    """A store behind a whole server, both on the same loop."""
    async with Shoald(structs.replace(CONFIG, data_dir=data_dir)) as shoald, connect(*shoald.urls) as store:
        yield store


class StoreMachine(RuleBasedStateMachine):
    """Does the same to an embedded store and to the model."""

    @initialize()
    def open(self) -> None:
        self.model = Model()
        self.folder = tempfile.TemporaryDirectory()
        self._open()

    def _open(self) -> None:
        self.store = sync.open(data_dir=Path(self.folder.name), config=CONFIG)

    def teardown(self) -> None:
        self.store.close()
        self.folder.cleanup()

    @rule(really=seldom)
    def reopen(self, really: bool) -> None:
        if really:
            self.store.close()
            self._open()

    @rule(stream_id=stream_ids, expected=versions, events=batches)
    def append(self, stream_id: str, expected: int, events: list[NewEvent]) -> None:
        def real() -> list[tuple[int, int, bool]]:
            result = self.store.streams.append(stream_id, expected, events)
            return [(result.first_version, int(result), result.duplicate)]

        assert outcome(real) == outcome(lambda: self.model.append([StreamWrite(stream_id, expected, events)]))

    @rule(
        stream_id=stream_ids,
        expected=versions,
        first=st.integers(0, 6),
        count=st.integers(1, 3),
        step=st.sampled_from([1, 1, 1, 2, -1]),
        change=st.sampled_from([None, None, None, "y", "z"]),
    )
    def append_again(
        self, stream_id: str, expected: int, first: int, count: int, step: int, change: str | None
    ) -> None:
        """Send events that may be there: as they were, with holes, in another order, or changed."""
        known = [stored.event for stored in self.model.streams[stream_id].events if stored.event.event_id]
        events = known[first : first + count][::step]
        if change is not None and events:
            events[-1] = structs.replace(events[-1], event_type=change)
        self.append(stream_id, expected, events)

    @rule(
        writes=st.lists(
            st.builds(StreamWrite, stream_ids, versions, batches.filter(bool)),
            min_size=1,
            max_size=3,
            unique_by=lambda write: write.stream_id,
        ),
        query=queries,
        back=st.sampled_from([None, 0, 0, 1, 2, 5]),
    )
    def append_many(self, writes: list[StreamWrite], query: Query, back: int | None) -> None:
        condition = None if back is None else Condition(query, max(0, self.model.position - back))

        def real() -> list[tuple[int, int, bool]]:
            result = self.store.streams.append_many(writes, condition)
            return [(part.first_version, int(part), part.duplicate) for part in result.results]

        assert outcome(real) == outcome(lambda: self.model.append(writes, condition))

    @rule(stream_id=stream_ids, hard=seldom)
    def delete(self, stream_id: str, hard: bool) -> None:
        if self.model.streams[stream_id].tombstoned and not hard:
            return
        self.store.streams.delete(stream_id, hard=hard)
        self.model.delete(stream_id, hard=hard)

    @rule(stream_id=stream_ids, version=st.integers(0, 5), data=st.integers() | st.just(b"\1"))
    def save_snapshot(self, stream_id: str, version: int, data: Any) -> None:
        stream = self.model.streams[stream_id]
        if stream.readable and version >= stream.visible_from:
            self.store.snapshots.save(stream_id, version, data)
            stream.snapshots[version] = data

    @rule(stream_id=stream_ids, version=st.none() | st.integers(0, 5))
    def delete_snapshots(self, stream_id: str, version: int | None) -> None:
        stream = self.model.streams[stream_id]
        if version is None:
            self.store.snapshots.delete(stream_id)
            stream.snapshots.clear()
        else:
            self.store.snapshots.delete_at(stream_id, version)
            stream.snapshots.pop(version, None)

    @rule(
        stream_id=stream_ids,
        start=st.none() | st.integers(0, 14),
        count=st.integers(1, 5),
        backward=st.booleans(),
    )
    def read(self, stream_id: str, start: int | None, count: int, backward: bool) -> None:
        stream = self.model.streams[stream_id]
        if backward:
            wanted = [stored for stored in stream.readable[::-1] if start is None or stored.version <= start]
        else:
            wanted = [stored for stored in stream.readable if stored.version >= (start or 0)]

        def real() -> list[Stored]:
            direction = "backward" if backward else "forward"
            return self._stored(self.store.streams.read(stream_id, start, count, direction))

        def modelled() -> list[Stored]:
            if stream.tombstoned:
                raise StreamTombstoned(stream_id)
            if not stream.readable:
                raise StreamNotFound(stream_id)
            return wanted[:count]

        assert outcome(real) == outcome(modelled)

    @rule(after=st.integers(0, 30), count=st.integers(1, 5), query=queries)
    def query(self, after: int, count: int, query: Query) -> None:
        page = self.store.streams.query(query, after, count)
        wanted = [
            stored for stored in self.model.log() if stored.position > after and matches(query, stored.event)
        ]
        assert self._stored(page.events) == wanted[:count]
        assert page.head == self.model.position
        rest = self.store.streams.query(query, page.next, 10_000)
        assert self._stored(rest.events) == wanted[count:]

    @rule(after=st.none() | st.integers(0, 30), pattern=st.none() | st.sampled_from(["a*", "?", "b ü"]))
    def read_backward(self, after: int | None, pattern: str | None) -> None:
        page = self.store.streams.read_events(EventFilter(stream_pattern=pattern), after, 100, "backward")
        wanted = {None: STREAMS, "a*": ["a", "a/1"], "?": ["a"], "b ü": ["b ü"]}[pattern]
        assert self._stored(page.events) == [
            stored
            for stored in self.model.log()[::-1]
            if stored.stream_id in wanted and (after is None or stored.position < after)
        ]

    @invariant()
    def everything_is_as_modelled(self) -> None:
        streams, model = self.store.streams, self.model
        assert self._stored(streams.read_all(None, 10_000)) == model.log()
        assert {name: streams.get_version(name) for name in STREAMS} == {
            name: stream.version for name, stream in model.streams.items()
        }
        assert streams.list_streams() == sorted(
            name for name, stream in model.streams.items() if stream.readable
        )
        for name, stream in model.streams.items():
            snapshots = {found.version: found.data for found in self.store.snapshots.list(name)}
            assert snapshots == dict(sorted(stream.snapshots.items()))

    def _stored(self, events: list[Any]) -> list[Stored]:
        """The store's events in the model's form; ids that the store made are not compared."""
        own = {
            stored.position: stored.event
            for stream in self.model.streams.values()
            for stored in stream.events
        }
        found = []
        for event in events:
            known = own[event.position]
            assert (event.event_type, event.data, event.metadata, event.tags) == content(known)
            assert known.event_id is None or event.event_id == known.event_id
            found.append(Stored(event.stream_id, event.version, event.position, known))
        return found


class HttpStoreMachine(StoreMachine):
    """The same over HTTP."""

    def _open(self) -> None:
        self.store = sync.Store(lambda: served(Path(self.folder.name)))


TestEmbeddedStore = StoreMachine.TestCase
TestEmbeddedStore.settings = settings(settings.default, max_examples=30, stateful_step_count=30)
TestHttpStore = HttpStoreMachine.TestCase
TestHttpStore.settings = settings(settings.default, max_examples=10, stateful_step_count=30)
