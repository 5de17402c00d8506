"""The bytes of a journal segment: header and records, and how a damaged one is judged. Pure.

A segment is a header block of 4,096 bytes, then records, each starting on a multiple of 8:

    offset  size  field
    0       4     magic "SREC"
    4       4     payload length
    8       8     index           of the entry; 0 for records that are not entries
    16      8     term
    24      8     synced_to       bytes of this segment known durable when the record was written
    32      8     chain           checksum of the record before (of the header, for the first)
    40      8     kind            shoal.raft.log.Kind
    48      8     checksum        xxh3 of the payload, seeded with xxh3 of the 48 bytes above, seeded with the salt
    56      n     payload, padded with zeros to a multiple of 8

The salt is the header's checksum: nobody who can only append events can forge a record. A record that
does not verify is a *torn tail* if nothing after it proves that it had once been durable, and
*corruption* if a later valid record says so by `synced_to`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

import msgspec

from shoal.accel.hash import xxh3_64
from shoal.raft.log import Configuration, HardState, Kind

MAGIC = b"SHOALSEG"
FORMAT = 1
HEADER_BYTES = 4096
RECORD_MAGIC = b"SREC"
RECORD_HEAD = struct.Struct("<4sIQQQQQ")
_SUM = struct.Struct("<Q")
_HEADER_LEAD = struct.Struct("<8sHHIQ")
RECORD_OVERHEAD = RECORD_HEAD.size + _SUM.size
ALIGNMENT = 8


class Identity(msgspec.Struct, frozen=True, array_like=True):
    """Who wrote this: the cluster, the node, and the life of its data directory (128 random bits)."""

    cluster_id: str
    node_id: str
    incarnation: bytes


class SegmentHead(msgspec.Struct, frozen=True, array_like=True):
    """First thing in a segment: enough to start from when every older segment is gone; `size` is in bytes."""

    identity: Identity
    sequence: int
    size: int
    first_index: int
    last_term: int
    chain: int
    hard_state: HardState
    configuration: Configuration
    configuration_index: int


class Record(msgspec.Struct, frozen=True, gc=False):
    """A record as read back; `offset` and `end` are its place in the segment."""

    kind: Kind
    index: int
    term: int
    payload: bytes
    offset: int
    end: int
    synced_to: int
    checksum: int


class SegmentError(ValueError):
    """The header of a segment does not verify."""


class Scan(msgspec.Struct, frozen=True):
    """What a segment holds: its good records, where they end, and what was wrong there.

    `torn` says that bytes after `end` were written but never made durable; `corrupt_at` is the offset
    of a record that had been durable and no longer verifies (None: none).
    """

    head: SegmentHead
    records: list[Record]
    end: int
    checksum: int
    torn: bool
    corrupt_at: int | None


_encode = msgspec.msgpack.encode
_head_decoder = msgspec.msgpack.Decoder(SegmentHead)


def encode_head(head: SegmentHead) -> tuple[bytes, int]:
    """The header block, and its checksum (salt and first chain value of the records)."""
    body = _encode(head)
    checksum = xxh3_64(body)
    lead = _HEADER_LEAD.pack(MAGIC, FORMAT, 0, len(body), checksum)
    block = lead + body
    if len(block) > HEADER_BYTES:
        raise SegmentError(f"configuration of {len(body)} bytes does not fit a segment header")
    return block.ljust(HEADER_BYTES, b"\0"), checksum


def decode_head(block: bytes | memoryview) -> tuple[SegmentHead, int]:
    """Inverse of `encode_head`. Raises SegmentError for anything else."""
    if len(block) < HEADER_BYTES:
        raise SegmentError("segment is shorter than its header")
    magic, version, _, length, checksum = _HEADER_LEAD.unpack_from(block)
    if magic != MAGIC:
        raise SegmentError("not a journal segment")
    if version != FORMAT:
        raise SegmentError(f"segment format {version}, this release reads {FORMAT}")
    body = bytes(block[_HEADER_LEAD.size : _HEADER_LEAD.size + min(length, HEADER_BYTES)])
    if len(body) != length or xxh3_64(body) != checksum:
        raise SegmentError("segment header is damaged")
    try:
        return _head_decoder.decode(body), checksum
    except msgspec.MsgspecError as error:
        raise SegmentError(f"segment header does not decode: {error}") from error


def record_bytes(payload_length: int) -> int:
    """Size on disk of a record with a payload of that length."""
    return RECORD_OVERHEAD + payload_length + -payload_length % ALIGNMENT


def encode_record(
    kind: Kind, index: int, term: int, payload: bytes, *, synced_to: int, chain: int, salt: int
) -> tuple[bytes, int]:
    """A record's bytes, and its checksum: the chain value of the next one."""
    head = RECORD_HEAD.pack(RECORD_MAGIC, len(payload), index, term, synced_to, chain, kind)
    checksum = xxh3_64(payload, xxh3_64(head, salt))
    padding = b"\0" * (-len(payload) % ALIGNMENT)
    return b"".join((head, _SUM.pack(checksum), payload, padding)), checksum


def _record_at(data: memoryview, offset: int, salt: int) -> tuple[Record, int] | None:
    """The record at `offset` and the chain value it claims, or None if it does not verify."""
    if offset + RECORD_OVERHEAD > len(data) or data[offset : offset + 4] != RECORD_MAGIC:
        return None
    _, length, index, term, synced_to, chain, kind = RECORD_HEAD.unpack_from(data, offset)
    end = offset + record_bytes(length)
    if end > len(data) or kind not in Kind._value2member_map_:
        return None
    (checksum,) = _SUM.unpack_from(data, offset + RECORD_HEAD.size)
    start = offset + RECORD_OVERHEAD
    payload = bytes(data[start : start + length])
    head = bytes(data[offset : offset + RECORD_HEAD.size])
    if xxh3_64(payload, xxh3_64(head, salt)) != checksum:
        return None
    return Record(Kind(kind), index, term, payload, offset, end, synced_to, checksum), chain


def _valid_after(data: bytes, offset: int, salt: int) -> Iterator[Record]:
    """Every record after `offset` that verifies by itself."""
    view = memoryview(data)
    at = data.find(RECORD_MAGIC, offset)
    while at != -1:
        found = _record_at(view, at, salt) if at % ALIGNMENT == 0 else None
        if found is None:
            at = data.find(RECORD_MAGIC, at + 1)
        else:
            yield found[0]
            at = data.find(RECORD_MAGIC, found[0].end)


def scan(data: bytes, *, last: bool) -> Scan:
    """Read a whole segment; zeros at the end of the file may be left out.

    `last` is false for one that a later segment follows: all of it was durable.

    Raises SegmentError when the header is damaged.
    """
    head, salt = decode_head(memoryview(data)[:HEADER_BYTES])
    view = memoryview(data)
    records: list[Record] = []
    offset, chain = HEADER_BYTES, salt
    while True:
        found = _record_at(view, offset, salt)
        if found is None and len(data) < head.size and data[offset : offset + 4] == RECORD_MAGIC:
            data = data.ljust(head.size, b"\0")  # its last bytes may be the zeros that were left out
            view = memoryview(data)
            found = _record_at(view, offset, salt)
        if found is None or found[1] != chain:
            break
        record = found[0]
        records.append(record)
        offset, chain = record.end, record.checksum
    written = data[offset:] != bytes(len(data) - offset)
    proof = any(record.synced_to > offset for record in _valid_after(data, offset, salt))
    corrupt = proof or (written and not last)
    return Scan(head, records, offset, chain, written and not corrupt, offset if corrupt else None)


def standing(records: Iterable[Record]) -> list[Record]:
    """The entries among records that none after them replaces."""
    entries: list[Record] = []
    for record in records:
        if not record.kind.is_entry:
            continue
        while entries and entries[-1].index >= record.index:
            entries.pop()
        entries.append(record)
    return entries
