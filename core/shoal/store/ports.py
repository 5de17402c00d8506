"""What the use cases need from the rest: consensus, the database, readers. Adapters live in cluster and storage."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import msgspec

from shoal.model.commands import CreateStore, DropStore
from shoal.model.machine import Change, Head, Row, StoredId, StoreState
from shoal.types import Direction, EventFilter, Query, Snapshot, StreamInfo

T = TypeVar("T")


class Proposed(msgspec.Struct, frozen=True):
    """A proposal's place in the log once it is committed and durable here."""

    index: int
    term: int


class Superseded(Exception):
    """A proposal that will never be applied: an entry of a later `term` has its place, or the leader had changed."""

    def __init__(self, term: int) -> None:
        super().__init__(f"superseded in term {term}")
        self.term = term


class Consensus(Protocol):
    """The replicated log, as seen by whoever proposes."""

    @property
    def role(self) -> str:
        """leader, or another."""

    @property
    def serves(self) -> bool:
        """Whether this node leads, and everything committed before it led has been handed out."""

    @property
    def leader(self) -> str | None:
        """Who leads, as far as is known."""

    @property
    def term(self) -> int:
        """The current term."""

    def propose(
        self, payload: bytes, done: Callable[[Proposed | BaseException], None], *, use_reserve: bool = False
    ) -> None:
        """Propose one entry; `done` is called on the loop when it is committed and durable in this journal.

        A DiskFull passed to `done` means that nothing was written, Superseded that it will never be applied; anything
        else that the outcome is unknown.
        """


class StoreChanges(msgspec.Struct):
    """What entries change in one store, and the store's state after it."""

    store: str
    changes: list[Change]
    state: StoreState


class ApplyEntry(msgspec.Struct, frozen=True):
    """A decided entry, for the database; `size` is that of its payload in the journal, in bytes."""

    index: int
    term: int
    stores: list[StoreChanges]
    catalog: list[CreateStore | DropStore]
    size: int
    configuration: bytes | None = None


class Applier(Protocol):
    """The writer thread's queue."""

    def apply(self, entries: Sequence[ApplyEntry]) -> None:
        """Put the changes of decided entries into the open transaction, after all entries before them."""

    @property
    def backlog(self) -> int:
        """Rows handed over and not in the transaction yet."""


class Need(msgspec.Struct):
    """The read set one entry needs of one store: unknown heads, ids to look up."""

    store: str
    heads: set[str] = msgspec.field(default_factory=set)
    ids: dict[str, list[bytes | str]] = msgspec.field(default_factory=dict)

    def __bool__(self) -> bool:
        """Whether anything must be fetched."""
        return bool(self.heads or self.ids)


class ReadSet(msgspec.Struct):
    """The answer: what SQLite holds of it."""

    heads: dict[str, Head | None] = msgspec.field(default_factory=dict)
    ids: dict[tuple[str, bytes | str], StoredId] = msgspec.field(default_factory=dict)


class Search(msgspec.Struct, frozen=True):
    """Where to look for what a condition forbids: positions `low` to `high` in the database of a store.

    `hidden` has the first version that can be read of streams whose delete the database has not committed.
    """

    store: str
    query: Query
    low: int
    high: int
    hidden: Mapping[str, int]


class Hit(NamedTuple):
    """The first event that a condition forbids."""

    position: int
    stream_id: str
    version: int


class Fetcher(Protocol):
    """Fetches from the database what decisions need of it."""

    def fetch(
        self, needs: Sequence[Need], done: Callable[[dict[str, ReadSet] | BaseException], None]
    ) -> None:
        """Fetch read sets while their entry is being made durable; `done` is called on the loop."""

    async def first_match(self, search: Search) -> Hit | None:
        """The first readable event that a search finds; ended when cancelled. Raises Timeout, NotFound."""


class Bounds(NamedTuple):
    """Positions to read, both inclusive, in which order, and how much of them."""

    low: int
    high: int
    direction: Direction
    limit: int
    max_bytes: int


class Queries(Protocol):
    """Reads of a store's database; each takes a connection first. Rows are in the order of `Event`'s fields."""

    def head(self, connection: Any, stream_id: str) -> Head | None:
        """A stream's head."""

    def stream_rows(self, connection: Any, stream_id: str, low: int, high: int, bounds: Bounds) -> list[Row]:
        """Events of a stream with versions `low` to `high`; `bounds` gives order, count and bytes."""

    def version_after(self, connection: Any, stream_id: str, position: int) -> int | None:
        """Version of the stream's first event past a position, or its next one; None for an unknown stream."""

    def event_rows(self, connection: Any, selection: EventFilter, bounds: Bounds) -> tuple[list[Row], bool]:
        """Readable events that match, and whether all positions in bounds were looked at."""

    def scanned_through(self, bounds: Bounds, rows: Sequence[Row]) -> int:
        """The last position that an incomplete page looked at."""

    def events_of_id(self, connection: Any, event_id: bytes | str, stream_id: str | None) -> list[Row]:
        """Readable events of an id."""

    def streams(
        self,
        connection: Any,
        prefix: str,
        pattern: str | None,
        after: str | None,
        count: int,
        system: bool,  # noqa: FBT001 - called through a queue, by position
    ) -> list[StreamInfo]:
        """Readable streams sorted by id."""

    def snapshots(
        self,
        connection: Any,
        stream_id: str,
        version: int | None,
        latest: bool,  # noqa: FBT001 - called through a queue, by position
    ) -> list[Snapshot]:
        """Usable snapshots, ascending: all, that of a version, or the latest (up to a version)."""

    def covering_snapshot(self, connection: Any, stream_id: str, last: int) -> Snapshot | None:
        """The latest of at most version `last` that was saved when the event of its version was there."""

    def parked_rows(
        self, connection: Any, name: str, after: int, count: int, max_bytes: int
    ) -> list[tuple[Row, str, int, bool]]:
        """What a subscription has parked after a position: readable events, reason, failures, if being replayed."""

    def parked_positions(self, connection: Any, name: str, after: int, count: int) -> list[int]:
        """Positions after `after` that a subscription has parked and that are not being replayed."""

    def replaying(self, connection: Any, name: str, after: int, count: int) -> list[tuple[int, str, int]]:
        """(position, stream, failures) of what is parked after `after` and being replayed."""

    def parked_count(self, connection: Any, name: str) -> int:
        """How many events a subscription has parked."""

    def parked_streams(self, connection: Any, name: str) -> dict[str, int]:
        """How many events of each stream a subscription has parked."""

    def events_at(
        self, connection: Any, positions: Iterable[int], max_bytes: int
    ) -> tuple[list[Row], int | None]:
        """Readable events at `positions`, at most so many bytes, and the last one looked at; None: all were."""


class Reader(Protocol):
    """Runs a query of one store on a connection of its own, off the loop."""

    async def run(self, query: Callable[..., T], *arguments: Any) -> T:
        """On a reading connection: what is committed to SQLite. Raises Timeout."""

    async def run_on_writer(self, query: Callable[..., T], *arguments: Any) -> T:
        """On the writer's connection, after everything decided before: sees what is not committed. Raises Timeout."""
