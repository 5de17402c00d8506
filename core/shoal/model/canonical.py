"""Digests of contents: the same for the same content, however it was written down.

Canonical form: msgpack with sorted keys, where a float without a fraction is an integer, as in JCS
(RFC 8785), and an integer beyond 64 bits is an extension of its bytes. JSON and CBOR are both values,
so the same value sent as either is equal. Anything else is its bytes, with its media type.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

import msgspec

from shoal.errors import InvalidRequest
from shoal.model.cbor import decode_cbor
from shoal.types import CBOR, JSON, Limits

DIGEST_BYTES = 16

_encode = msgspec.msgpack.Encoder(order="sorted").encode
_decode_json = msgspec.json.decode
_BIG = 1
_INT64_MIN, _UINT64_MAX = -(1 << 63), (1 << 64) - 1
_ANY_DEPTH = Limits(depth=1 << 30)
_Canonical = tuple[str | None, Any]


def content_digest(
    event_type: str,
    data: bytes,
    content_type: str | None,
    metadata: bytes | None,
    metadata_type: str | None,
    tags: Sequence[str] | None,
) -> bytes:
    """BLAKE2b-128 of an event's content: equal digests, equal events. Never raises for what is stored.

    No metadata and empty metadata are the same, and so are no tags and an empty list.
    """
    described = None if metadata is None else _canonical(metadata, metadata_type)
    if described == (None, {}):
        described = None
    content = (event_type, _canonical(data, content_type), described, tags or ())
    return blake2b(_encode(content), digest_size=DIGEST_BYTES).digest()


def _canonical(raw: bytes, content_type: str | None) -> _Canonical:
    """The canonical form and, for what is no value, the media type."""
    try:
        if content_type is None or content_type == JSON:
            return None, _plain(_decode_json(raw))
        if content_type == CBOR:
            return None, _plain(decode_cbor(raw, _ANY_DEPTH))
    except (msgspec.MsgspecError, ValueError, RecursionError, InvalidRequest):
        return content_type or JSON, raw  # not readable by this release: equal only to the same bytes
    return content_type, raw


def _plain(value: Any) -> Any:
    kind = type(value)
    if kind is dict:
        return {key: member if type(member) is str else _plain(member) for key, member in value.items()}
    if kind is list:
        return [_plain(item) for item in value]
    if kind is float and value.is_integer():
        value = int(value)
        kind = int
    if kind is int and not _INT64_MIN <= value <= _UINT64_MAX:
        return msgspec.msgpack.Ext(_BIG, value.to_bytes((value.bit_length() + 8) // 8, "big", signed=True))
    return value
