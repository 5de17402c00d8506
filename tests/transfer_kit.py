"""What the tests of the raft_snapshot share: boards made of journal and databases alone, and transfers between them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
from node_kit import IDENTITY, SEGMENT

from shoal.model.commands import (
    Append,
    CreateStore,
    CreateSubscription,
    Definition,
    DeleteStream,
    Parked,
    Proposal,
    ProposedEvent,
    SaveSnapshot,
    Settle,
    Write,
    encode,
)
from shoal.raft.log import Configuration, HardState, Kind, Member
from shoal.storage.engine import Settings
from shoal.storage.exporter import Exporter
from shoal.storage.files import Files, RealFiles
from shoal.storage.generation import Places
from shoal.storage.importer import Importer
from shoal.storage.recovery import open_storage
from shoal.storage.segment import Identity
from shoal.storage.transfer import other_tables, rows_of
from shoal.types import ANY_VERSION, SubscriptionOptions

RECEIVER = Identity(IDENTITY.cluster_id, "receiver", b"r" * 16)
MEMBERS = Configuration((Member("node", b"i" * 16), Member("receiver", b"r" * 16)))
SMALL = Settings(commit_rows=10_000, commit_bytes=1 << 24, cache_bytes=1 << 18, wal_limit_bytes=1 << 26)


class Board:
    """A data directory, opened; entries are appended to its journal and applied."""

    def __init__(
        self,
        data_dir: Path,
        identity: Identity = IDENTITY,
        *,
        files: Files | None = None,
        vfs: str | None = None,
        own: Path | None = None,
        segment_bytes: int = SEGMENT,
        settings: Settings = SMALL,
    ) -> None:
        """`own` is where store "own" has its file."""
        data_dir.mkdir(exist_ok=True)
        self.files = files or RealFiles()
        self.vfs = vfs
        self.identity = identity
        others = [] if own is None else [own]
        self.places = Places(data_dir, lambda name: own if name == "own" else None, others)
        opened = open_storage(
            self.files,
            data_dir,
            msgspec.structs.replace(settings, vfs=vfs),
            lambda: identity,
            segment_bytes=segment_bytes,
            floor_bytes=0,
            store_directory=self.places.store_directory,
            other_directories=others,
        )
        self.journal, self.engine, self.notes = opened.journal, opened.engine, opened.notes
        self.hollow = opened.hollow
        self.open = True

    def vote(self, term: int, voted_for: str) -> None:
        """Make a hard state durable."""
        state = msgspec.msgpack.encode(HardState(term, voted_for))
        self.journal.append_records([(Kind.HARD_STATE, 0, term, state)])

    def add(self, payload: bytes, kind: Kind = Kind.NORMAL, term: int = 1) -> None:
        """Have an entry in the journal, and not in the databases."""
        self.journal.append_records([(kind, self.journal.last_index + 1, term, payload)])

    def apply(self, *commands: Any, term: int = 1) -> None:
        """An entry, in the journal and applied."""
        self.add(proposal(self.journal.last_index + 1, *commands), term=term)
        self.catch_up()

    def configure(self, configuration: Configuration, term: int = 1) -> None:
        """An entry that says who is a member."""
        self.add(msgspec.msgpack.encode(configuration), Kind.CONFIGURATION, term)
        self.catch_up()

    def catch_up(self) -> None:
        """Apply what the journal has."""
        self.engine.replay(self.journal.read(self.engine.applied_index))

    def importer(self) -> Importer:
        """What takes a raft_snapshot here."""
        return Importer(self.files, self.places, self.identity, vfs=self.vfs)

    def close_databases(self) -> None:
        """As for an install."""
        if self.open:
            self.open = False
            self.engine.close()

    def close(self) -> None:
        """Give the directory up; twice is once."""
        self.close_databases()
        self.journal.close()

    def rows(self) -> dict[str, Any]:
        """Everything in the databases but whose they are, when no rows wait to be removed any more."""
        for _ in range(3):
            self.engine.commit()
        databases = {name: store.db for name, store in self.engine.stores.items()}
        found: dict[str, Any] = {}
        for name, database in {"": self.engine.catalog, **databases}.items():
            tables = other_tables(database.connection)
            found[name] = {table: list(rows_of(database.connection, table)) for table in tables}
            if name:
                for table in ("event", "tagged"):
                    found[name][table] = list(rows_of(database.connection, table))
        return found


def proposal(index: int, *commands: Any) -> bytes:
    """An entry's payload."""
    return encode(Proposal(index * 10, index * 10, list(commands)))


def append(store: str, stream: str, count: int = 1, *, own: bool = False, size: int = 1) -> Append:
    """Events that are told apart by the stream's name; those with ids of their own are not repeated."""
    append.calls += 1  # type: ignore[attr-defined] # a counter of the function's own
    number = append.calls  # type: ignore[attr-defined] # the same
    events = [
        ProposedEvent(
            f"{store}-{stream}-{number}-{n}",
            own,
            f"type-{n % 3}",
            b'"%s"' % (b"x" * size),
            tags=["t", f"t{n}"],
        )
        for n in range(count)
    ]
    return Append(store, [Write(stream, ANY_VERSION, events)])


append.calls = 0  # type: ignore[attr-defined] # the same


def fill(board: Board) -> None:
    """Everything there can be in a store, in three stores, one of them with a directory of its own."""
    board.apply(CreateStore("main"), CreateStore("own"), CreateStore("other"))
    board.configure(MEMBERS)
    for n in range(6):
        board.apply(append("main", f"s{n}", 3 + n, own=n % 2 == 0), append("own", "mine", 2))
    board.engine.commit()
    definition = Definition("all", b"{}", "beginning")
    board.apply(CreateSubscription("main", "mail", definition, SubscriptionOptions(), []))
    life = board.engine.stores["main"].subscription("mail").life
    parked = [Parked(3, "s0", "why", 2), Parked(5, "s1", "because", 4)]
    board.apply(Settle("main", "mail", life, 2, [6], parked))
    board.apply(SaveSnapshot("main", "s3", 2, b"{}"), SaveSnapshot("own", "mine", 1, b"[1]"))
    board.apply(DeleteStream("main", "s1", ANY_VERSION, hard=False))
    board.apply(DeleteStream("main", "s2", ANY_VERSION, hard=True))
    board.apply(append("main", "s1", 2), append("main", "big", 1, size=200_000))
    board.vote(3, "somebody")


def chunks(
    board: Board, cursor: bytes | None = None, between: Callable[[], None] = lambda: None
) -> Iterator[bytes]:
    """A whole transfer from a board; `between` happens when the events have gone."""
    exporter = Exporter(board.engine)
    try:
        exporter.begin(cursor)
        yield from exporter.events()
        between()
        board.engine.commit()
        exporter.hold()
        yield from exporter.rest()
    finally:
        exporter.close()


def feed(importer: Importer, sent: Iterable[bytes]) -> None:
    """Take all of it."""
    for chunk in sent:
        importer.feed(chunk)


def copy(source: Board, target: Board) -> tuple[int, int]:
    """A transfer from beginning to end; the target's databases are closed then."""
    importer = target.importer()
    feed(importer, chunks(source))
    target.close_databases()
    return importer.finish(target.journal)
