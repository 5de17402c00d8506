"""What the power-cut suite asks of a reopened image. The reference is the same run, never cut."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import apsw
from power_cut_subscriptions import Subscribed, differences, read_subscribed
from power_cut_workload import Answered, Asked, Model, State, StoredEvent, StreamState

from shoal.storage.chain import GENESIS, link
from shoal.storage.engine import Settings
from shoal.storage.files import RealFiles
from shoal.storage.recovery import Opened, open_storage
from shoal.storage.segment import Identity
from shoal.types import Event

MAIN, LATE = "main", "late"
SEGMENT_BYTES = 16 * 1024
COMMIT_ROWS = 12

_EVENTS = """
    SELECT stream.name, event.version, position, event_id, type.name, epoch_us, data, content_type,
           metadata, metadata_type, tags, own_id, coalesce(reading_us, epoch_us), event.chain
    FROM event JOIN stream ON stream.id = event.stream JOIN type ON type.id = event.type
    ORDER BY position
"""
_COUNTS = """
    SELECT (SELECT count(*) FROM event), (SELECT total(events) FROM type),
           (SELECT count(*) FROM tagged), (SELECT total(events) FROM tag)
"""


class Found(NamedTuple):
    """What a store's file holds; a row is an Event's fields, whether the caller gave the id, the clock, the chain."""

    position: int
    rows: list[tuple[Any, ...]]
    streams: dict[str, StreamState]
    heads: dict[str, bytes]
    snapshots: frozenset[tuple[str, int, str]]
    counts: tuple[int, ...]
    subscribed: Subscribed = Subscribed()

    @property
    def state(self) -> State:
        """As the model has it."""
        return State(self.position, frozenset(self.streams.items()), self.snapshots, self.subscribed)


class Problem(AssertionError):
    """The image is not one that a correct store may leave."""


def reopen(data_dir: Path) -> Opened:
    """Recover a data directory with the real files and SQLite's own VFS."""
    return open_storage(
        RealFiles(),
        data_dir,
        Settings(COMMIT_ROWS, 1 << 20, 1 << 18, 1 << 20),
        lambda: Identity("cluster", "node", bytes(16)),
        segment_bytes=SEGMENT_BYTES,
        floor_bytes=0,
    )


def read(opened: Opened, name: str) -> Found:
    """Everything in a store, hidden events too; nothing where there is no such store."""
    store = opened.engine.stores.get(name)
    if store is None:
        return Found(0, [], {}, {}, frozenset(), (0, 0, 0, 0))
    return read_file(store.db.connection, store.state.position)


def read_file(connection: apsw.Connection, position: int) -> Found:
    """The same, of one SQLite file."""
    streams: dict[str, StreamState] = {}
    heads: dict[str, bytes] = {}
    query = "SELECT name, version, visible_from, tombstoned, chain FROM stream"
    for name, version, visible_from, tombstoned, chain in connection.execute(query):
        streams[name] = StreamState(version, visible_from, bool(tombstoned))
        heads[name] = chain
    snapshots = frozenset(
        (name, version, data.decode().strip('"'))
        for name, version, data in connection.execute("SELECT stream, version, data FROM snapshot")
    )
    (counts,) = connection.execute(_COUNTS)
    return Found(
        position,
        list(connection.execute(_EVENTS)),
        streams,
        heads,
        snapshots,
        counts,
        read_subscribed(connection),
    )


class Reference:
    """A store of the uncut run, its rows and its history, made ready for comparing thousands of images with it.

    The disk held step `base` of the history when the recording began.
    """

    def __init__(self, name: str, found: Found, model: Model, base: int, marks: Iterable[object]) -> None:
        _check_uncut(found, model)
        self.name = name
        self.model = model
        self._bounds = list(bounds(name, base, marks))
        self.rows = found.rows
        self._gapless = not any(stream.tombstoned for stream in found.streams.values())
        self._by_position = {row[2]: row for row in found.rows}
        self._steps: dict[State, list[int]] = {}
        for step, state in enumerate(model.states):
            self._steps.setdefault(state, []).append(step)

    def check(self, found: Found, marks: Sequence[object]) -> int:
        """The image is one moment of the history: not before the last answer, not after the last question.

        Returns the step of the history. Raises Problem.
        """
        least, most = self._bounds[len(marks)]
        steps = self._steps.get(found.state, [])
        fitting = [step for step in steps if least <= step <= most]
        if not fitting:
            raise Problem(_explain(found, least, most, steps, self.model))
        if not (self._gapless and found.rows == self.rows[: found.position]):
            check_rows(found, self._by_position)
        rows, by_type, tagged, by_tag = found.counts
        if (len(found.rows), len(found.rows), tagged) != (rows, by_type, by_tag):
            raise Problem(f"the counts do not agree: {found.counts}")
        return fitting[0]


def bounds(name: str, least: int, marks: Iterable[object]) -> Iterator[tuple[int, int]]:
    """After each number of marks: the step last answered, and the last one that may have been reached."""
    open_questions = 0
    yield least, least
    for mark in marks:
        if isinstance(mark, Asked) and mark.store == name:
            open_questions += 1
        elif isinstance(mark, Answered) and mark.store == name:
            open_questions -= 1
            least = mark.step
        yield least, least + open_questions


def _check_uncut(found: Found, model: Model) -> None:
    """The run that was never cut holds what its answers said, event by event, and its chains are right."""
    if found.state != model.states[-1]:
        raise Problem("the uncut run is not what its answers say")
    check_chains(found)
    check_rows(found, {})
    for row in found.rows:
        event, stored = Event(*row[:11]), model.events[row[2] - 1]
        seen = StoredEvent(
            event.stream_id,
            event.version,
            event.event_id if row[11] else None,
            event.event_type,
            event.data,
            event.metadata or None,
            event.tags or None,
        )
        if seen != stored:
            raise Problem(f"position {row[2]} holds {seen}, not {stored}")


def check_rows(found: Found, reference: dict[int, tuple[Any, ...]]) -> None:
    """Positions are gapless, versions dense, and every stored byte is that of the uncut run."""
    gone = {name for name, stream in found.streams.items() if stream.tombstoned}
    positions = [row[2] for row in found.rows]
    if not gone and positions != list(range(1, found.position + 1)):
        raise Problem(f"positions up to {found.position} have gaps or duplicates: {positions}")
    versions: dict[str, int] = {}
    for row in found.rows:
        name, version, position = row[:3]
        if name not in gone and version != versions.get(name, -1) + 1:
            raise Problem(f"{name} goes on with version {version} after {versions.get(name, -1)}")
        versions[name] = version
        # Rows of a stream that the uncut run deleted for ever are not in the reference.
        if reference.get(position, row) != row:
            raise Problem(f"position {position} holds {row}, not {reference[position]}")
    for name, stream in found.streams.items():
        if name not in gone and stream.version != versions.get(name, -1):
            raise Problem(f"{name} says {stream}, its last event is {versions.get(name, -1)}")


def check_chains(found: Found) -> None:
    """Each stream's hash chain, from the first event to the head. Raises Problem."""
    chains: dict[str, bytes] = {}
    gone = {name for name, stream in found.streams.items() if stream.tombstoned}
    for row in found.rows:
        *fields, own, reading, chain = row
        if row[0] in gone:
            continue
        if chain != link(chains.get(row[0], GENESIS), tuple(fields), bool(own), reading):
            raise Problem(f"the chain of {row[0]} breaks at position {row[2]}")
        chains[row[0]] = chain
    for name, head in found.heads.items():
        if name not in gone and head != chains.get(name, GENESIS):
            raise Problem(f"the head of {name} is not the chain value of its last event")


def _explain(found: Found, least: int, most: int, steps: list[int], model: Model) -> str:
    oldest, newest = model.states[least], model.states[min(most, len(model.states) - 1)]
    lines = [
        f"found a state of steps {steps}, answered {least}, asked for {most} of {len(model.states) - 1}",
        f"  positions: found {found.position}, answered {oldest.position}, asked for {newest.position}",
        f"  streams not as answered: {sorted(oldest.streams ^ found.state.streams)}",
        f"  snapshots not as answered: {sorted((s, v) for s, v, _ in oldest.snapshots ^ found.snapshots)}",
        *differences(oldest.subscribed, found.subscribed),
    ]
    return "\n".join(lines)
