"""From Python values to the bytes that are stored: JSON, CBOR where there are bytes inside, or bytes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import chain
from math import isfinite
from typing import Any

import msgspec

from shoal.errors import InvalidRequest
from shoal.model.cbor import MAX_CONTAINERS, MAX_DIGITS
from shoal.tagged import Overwrite, Sum
from shoal.types import BINARY, CBOR, Limits

flatten = chain.from_iterable

BYTES = (bytes, bytearray, memoryview)
"""What is taken as bytes."""

_TEXT = frozenset({str})
_EXACT = frozenset({str, int, bool, type(None)})
_FLAT = _EXACT | {float}
_CONTAINERS = frozenset({dict, list, tuple})
_INT64 = 1 << 64
_unreadable = re.compile(rb"-[0-9]{%d}" % MAX_DIGITS).search
"""Perhaps a number that Python writes and our reader of JSON does not take."""
_DICT = frozenset({dict})
_encode = msgspec.json.Encoder().encode
_encode_lines = msgspec.json.Encoder().encode_lines
_members = dict.values
_null = re.compile(b"null").search  # a third faster than `in`


def encode_value(value: Any, limits: Limits, pointer: str = "") -> tuple[bytes, str | None]:
    """What is stored for a Python value, and its content type (None: application/json).

    `bytes` alone are stored as they are; with `bytes` somewhere inside, the whole becomes CBOR. Taken
    are None, bool, int, float, str, bytes, list, tuple, mappings with text keys, Sum and Overwrite.
    """
    if (
        type(value) is dict
        and _FLAT.issuperset(map(type, value.values()))
        and _TEXT.issuperset(map(type, value))
    ):
        raw = _encode_json(value, pointer)
        if not _null(raw) or _all_finite(value.values()):
            return raw, None
    if isinstance(value, BYTES):
        return bytes(value), BINARY
    if _is_plain(value, limits.depth):
        return _encode_json(value, pointer), None
    return _encode_rich(value, limits, pointer)


def encode_flat(values: list[Any]) -> list[bytes] | None:
    """JSON of dicts with text keys and neither containers nor bytes in them; None if any is something else.

    Most events' data are such. What `encode_value` asks of one is asked of all at once, which for a hundred
    takes a third of the time.
    """
    if not (
        _DICT.issuperset(map(type, values))
        and _FLAT.issuperset(map(type, flatten(map(_members, values))))
        and _TEXT.issuperset(map(type, flatten(values)))
    ):
        return None
    try:
        lines = _encode_lines(values)
    except ValueError:  # a lone surrogate, an int too long: `encode_value` says which
        return None
    if _null(lines) and not _all_finite(flatten(map(_members, values))):
        return None
    if len(lines) > MAX_DIGITS and _unreadable(lines):
        return None
    encoded = lines.split(b"\n")  # inside texts JSON escapes line breaks
    encoded.pop()
    return encoded


def _all_finite(members: Iterable[Any]) -> bool:
    """Whether all numbers are; msgspec writes NaN and the infinities as null."""
    return all(isfinite(member) for member in members if type(member) is float)


def encode_metadata(
    metadata: Mapping[str, Any] | None, limits: Limits, pointer: str = "/metadata"
) -> tuple[bytes | None, str | None]:
    """What is stored for metadata, and its content type; nothing for None and for an empty mapping."""
    if metadata is None:
        return None, None
    if not isinstance(metadata, Mapping):
        raise InvalidRequest(f"metadata must be a mapping, not {type(metadata).__name__}", pointer=pointer)
    return encode_value(metadata, limits, pointer) if metadata else (None, None)


def _encode_json(value: Any, pointer: str) -> bytes:
    try:
        raw = _encode(value)
        if len(raw) > MAX_DIGITS and _unreadable(raw):
            msgspec.json.decode(raw)  # raises, unless it stands in a text
    except UnicodeEncodeError:
        reason = "a str with a lone surrogate is not UTF-8"
    except ValueError:
        reason = "an int has more digits than can be read again"
    except RecursionError:
        reason = "nested too deeply"
    else:
        return raw
    raise InvalidRequest(reason, pointer=pointer)


def _is_plain(value: Any, depth: int) -> bool:
    """Whether msgspec writes the value as it is meant; NaN it would write as null."""
    if type(value) in _EXACT:
        return True
    level: list[Any] = [[value]]
    while level:
        below: list[Any] = []
        for container in level:
            members: Any = container
            if type(container) is dict:
                members = container.values()
                if not _TEXT.issuperset(map(type, container)):
                    return False
            for member in members:
                kind = type(member)
                if kind in _CONTAINERS:
                    below.append(member)
                    if len(below) > MAX_CONTAINERS:  # one that holds itself twice doubles at every level
                        return False
                elif kind not in _EXACT and not (kind is float and isfinite(member)):
                    return False
        if below and depth <= 0:
            return False
        depth -= 1
        level = below
    return True


def _encode_rich(value: Any, limits: Limits, pointer: str) -> tuple[bytes, str | None]:
    """The slow way: says exactly what is wrong and where, or makes the value plain."""
    plain = _Plain()
    try:
        value = plain.of(value, limits.depth, pointer)
    except RecursionError:
        raise InvalidRequest("nested too deeply", pointer=pointer) from None
    if not plain.binary:
        return _encode_json(value, pointer), None
    if plain.big is not None:
        raise InvalidRequest("beside bytes an int must fit in 64 bits", pointer=plain.big)
    import cbor2  # rare, and an idle board should not hold it

    return cbor2.dumps(value, canonical=True), CBOR


class _Plain:
    """Turns a value into dict, list, str, int, float, bool, None and bytes, or refuses it."""

    def __init__(self) -> None:
        self.binary = False
        self.big: str | None = None
        self._containers = 0

    def of(self, value: Any, depth: int, pointer: str) -> Any:
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, (str, int, float)):
            return self._scalar(value, pointer)
        if isinstance(value, BYTES):
            self.binary = True
            return bytes(value)
        self._containers += 1
        if depth <= 0 or self._containers > MAX_CONTAINERS:
            raise InvalidRequest("nested too deeply, or in itself", pointer=pointer[:200])
        if isinstance(value, (list, tuple)):
            return [self.of(item, depth - 1, f"{pointer}/{index}") for index, item in enumerate(value)]
        if isinstance(value, (Sum, Overwrite)):
            value = {"$sum" if isinstance(value, Sum) else "$overwrite": value.value}
        if isinstance(value, Mapping):
            return self._mapping(value, depth, pointer)
        raise InvalidRequest(f"{type(value).__name__} is not a JSON value; convert it first", pointer=pointer)

    def _scalar(self, value: str | float, pointer: str) -> str | float:
        """The plain value; of a member of an Enum of str or int, the member's value."""
        if isinstance(value, str):
            return _plain_text(value, pointer)
        if isinstance(value, int):
            if not -_INT64 <= value < _INT64:
                self.big = pointer
            return int(value)
        if not isfinite(value):
            raise InvalidRequest(f"{value} is not a finite number", pointer=pointer)
        return float(value)

    def _mapping(self, value: Mapping[Any, Any], depth: int, pointer: str) -> dict[str, Any]:
        members: dict[str, Any] = {}
        for key, member in value.items():
            if not isinstance(key, str):
                raise InvalidRequest(f"the key {key!r:.80} must be a str", pointer=pointer)
            name = _plain_text(key, pointer)
            members[name] = self.of(member, depth - 1, f"{pointer}/{escape_key(name)}")
        return members


def _plain_text(value: str, pointer: str) -> str:
    text = str.__str__(value)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidRequest("a str with a lone surrogate is not UTF-8", pointer=pointer) from None
    return text


def escape_key(key: str) -> str:
    """A key as it stands in a JSON pointer (RFC 6901)."""
    return key.replace("~", "~0").replace("/", "~1")
