"""Integrity: a SHA-256 chain over every stored field of a stream's events, and digests of other rows.

xxh3 in the journal finds torn writes; this finds a changed byte in what a reader could be given. An
event's chain value covers the value before it, so that rows cannot be exchanged or left out either.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import msgspec

GENESIS = bytes(32)
_encode = msgspec.msgpack.Encoder().encode


def link(previous: bytes, row: Sequence[Any], own_id: bool, reading_us: int) -> bytes:  # noqa: FBT001 - a field
    """Chain value of an event: SHA-256 over the value before and everything stored of the event."""
    return sha256(previous + _encode((row, own_id, reading_us))).digest()


def stream_digest(name: str, version: int, visible_from: int, tombstoned: bool, chain: bytes) -> bytes:  # noqa: FBT001 - a column
    """Digest of a row of the stream table."""
    return row_digest((name, version, visible_from, bool(tombstoned), chain))


def row_digest(fields: Sequence[Any]) -> bytes:
    """Digest of a row outside the event table, 16 bytes."""
    return sha256(_encode(fields)).digest()[:16]
