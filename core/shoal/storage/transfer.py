"""The wire form of a raft_snapshot: chunks, and the rows of a database as both sides read them. No files here.

A chunk is `SRSC`, its number (u32), a checksum (u64), then the msgpack of one of the structures below. The
checksum is xxh3 of the body, seeded with xxh3 of number and magic, seeded with the checksum of the chunk before:
one that is changed, cut, left out or out of order does not verify. Little-endian. In order:

    Manifest                          what will come; chunk 0
    Events ...                        by store and position, while the sender goes on
    State                             everything from here on is as of one entry
    Events ... Rows ... TableEnd ...  per store the later events, then each other table
    Rows ... TableEnd ...             the catalogue's tables (store "")
    End

`tagged` is not sent, since the events name their tags; `reclaim` comes empty out of it, since rows that wait to
be removed are not taken over. Tables and columns are those of the file: a later migration needs nothing here.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from hashlib import sha256
from typing import Any

import apsw
import msgspec

from shoal.accel.hash import xxh3_64
from shoal.errors import TransferRefused
from shoal.raft.log import Configuration

CHUNK_BYTES = 64 * 1024
FORMAT = 1
CATALOG_STORE = ""
MAGIC = b"SRSC"
_LEAD = struct.Struct("<4sI")
_SUM = struct.Struct("<Q")
HEAD_BYTES = _LEAD.size + _SUM.size
_NOT_ROW_BY_ROW = ("event", "tagged")
IDENTITY_KEYS = ("cluster_id", "incarnation", "digest")
"""Of the meta tables: each node's own."""

_encode = msgspec.msgpack.Encoder().encode
encode_row = _encode


class StoreAt(msgspec.Struct, frozen=True, array_like=True):
    """A store by name and by the entry that created it; events up to position `after` are not sent.

    `mark` is the digest of the event there (of a cursor), `size_bytes` the size of the sender's file.
    """

    name: str
    created_index: int
    after: int = 0
    mark: bytes = b""
    size_bytes: int = 0

    @property
    def key(self) -> tuple[str, int]:
        """What tells it from a later store of the same name."""
        return self.name, self.created_index


class Manifest(msgspec.Struct, frozen=True, array_like=True, tag=0):
    """What will come: the state of entry `index` or a later one (`State` says which)."""

    format: int
    cluster_id: str
    node_id: str
    index: int
    term: int
    configuration: Configuration
    schemas: tuple[int, int]
    """Migrations of the catalogue and of the stores."""
    catalog_bytes: int
    stores: tuple[StoreAt, ...]
    configuration_index: int = 0


class Events(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """Rows of a store's event table, in order, that come right after position `after`."""

    name: str
    created_index: int
    after: int
    rows: Sequence[Any]


class State(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """The entry that everything else is as of, and the stores there are then."""

    index: int
    term: int
    configuration: Configuration
    configuration_index: int
    stores: tuple[StoreAt, ...]


class Rows(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """Rows of another table, in the order of its key."""

    store: str
    table: str
    rows: Sequence[Any]


class TableEnd(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """The table is complete; `digest` is that of all its rows."""

    store: str
    table: str
    digest: bytes


class End(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """Everything has come; `digest` covers what State and TableEnd said."""

    digest: bytes


Body = Manifest | Events | State | Rows | TableEnd | End
_decoder = msgspec.msgpack.Decoder(Body)
_cursor_decoder = msgspec.msgpack.Decoder(tuple[StoreAt, ...])


class ChunkWriter:
    """Numbers the chunks of one transfer."""

    def __init__(self) -> None:
        self._number = 0
        self._before = 0

    def write(self, body: Body) -> bytes:
        """The next chunk."""
        content = _encode(body)
        lead = _LEAD.pack(MAGIC, self._number)
        self._before = xxh3_64(content, xxh3_64(lead, self._before))
        self._number += 1
        return b"".join((lead, _SUM.pack(self._before), content))


class ChunkReader:
    """Takes the chunks of a transfer, each only once and only in order; chunk 0 begins a new one."""

    def __init__(self) -> None:
        self._number = 0
        self._before = 0

    def read(self, chunk: bytes) -> Body:
        """What the chunk says. Raises TransferRefused."""
        if len(chunk) < HEAD_BYTES or chunk[:4] != MAGIC:
            raise refused("it is no chunk")
        _, number = _LEAD.unpack_from(chunk)
        (checksum,) = _SUM.unpack_from(chunk, _LEAD.size)
        before = self._before if number else 0
        if number not in (0, self._number):
            raise refused(f"chunk {number} came where chunk {self._number} must come")
        content = memoryview(chunk)[HEAD_BYTES:]
        if xxh3_64(content, xxh3_64(chunk[: _LEAD.size], before)) != checksum:
            raise refused(f"chunk {number} is damaged")
        try:
            body: Body = _decoder.decode(content)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise refused(f"chunk {number} does not decode: {error}") from error
        if (number == 0) != isinstance(body, Manifest):
            raise refused(f"chunk {number} is {type(body).__name__}")
        self._number, self._before = number + 1, checksum
        return body


def refused(why: str) -> TransferRefused:
    """An error that says that the transfer may be asked for again."""
    return TransferRefused(
        f"the raft_snapshot was refused: {why}; what is here is as it was, ask for it again from the cursor"
    )


def encode_cursor(stores: Sequence[StoreAt]) -> bytes:
    """Where a receiver is."""
    return _encode(tuple(stores))


def decode_cursor(cursor: bytes | None) -> dict[tuple[str, int], StoreAt]:
    """The inverse; nothing for None. Raises TransferRefused."""
    if cursor is None:
        return {}
    try:
        return {store.key: store for store in _cursor_decoder.decode(cursor)}
    except msgspec.MsgspecError as error:
        raise refused(f"the cursor does not decode: {error}") from error


# -- rows ----------------------------------------------------------------------------------------


def other_tables(connection: apsw.Connection) -> list[str]:
    """The tables that are sent row by row."""
    names = connection.execute(
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%' ORDER BY name"
    )
    return [str(name) for (name,) in names if name not in _NOT_ROW_BY_ROW]


def columns(connection: apsw.Connection, table: str) -> int:
    """How many columns a table has."""
    return len(list(connection.execute("SELECT 1 FROM pragma_table_info(?)", (table,))))


def rows_of(connection: apsw.Connection, table: str) -> Iterator[tuple[Any, ...]]:
    """All rows of a table in the order of its key, without what is each node's own."""
    keys = connection.execute("SELECT name FROM pragma_table_info(?) WHERE pk > 0 ORDER BY pk", (table,))
    order = ", ".join(f'"{name}"' for (name,) in keys) or "rowid"
    if table != "meta":
        yield from connection.execute(f'SELECT * FROM "{table}" ORDER BY {order}')  # noqa: S608 - names of our own schema
        return
    marks = ",".join("?" * len(IDENTITY_KEYS))
    sql = f"SELECT * FROM meta WHERE key NOT IN ({marks}) ORDER BY key"  # noqa: S608 - question marks
    yield from connection.execute(sql, IDENTITY_KEYS)


class TableDigest:
    """SHA-256 over rows in order."""

    def __init__(self) -> None:
        self._sum = sha256()

    def add(self, encoded: bytes) -> None:
        """One more row, as `encode_row` has it."""
        self._sum.update(encoded)

    @property
    def value(self) -> bytes:
        """Of the rows so far."""
        return self._sum.digest()


def digest_of(connection: apsw.Connection, table: str) -> bytes:
    """Digest of a table as it lies in the file."""
    digest = TableDigest()
    for row in rows_of(connection, table):
        digest.add(_encode(row))
    return digest.value


def whole_digest(state: State, ends: Sequence[TableEnd]) -> bytes:
    """Digest over everything that is as of `state`; the chains in the stream tables cover the events."""
    return sha256(_encode((state, tuple(ends)))).digest()
