"""A strict reader of JSON from others: what it lets through decodes alike for every reader.

msgspec's decoder is strict already (RFC 8259 to the letter, UTF-8, finite numbers, whole surrogate
pairs); added are depth, size and keys written twice. Depth is measured level by level on the decoded
value, so no document is too deep for the measuring.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec

from shoal.errors import InvalidRequest
from shoal.model.cbor import MAX_CONTAINERS
from shoal.types import Limits

_CONTAINERS = frozenset({dict, list})
_SCALARS = frozenset({str, int, float, bool, type(None)})
_decode = msgspec.json.Decoder().decode


def check_json(raw: bytes, limits: Limits, pointer: str = "") -> Any:
    """The value of one complete JSON document, strictly read. Time is linear in the document's size.

    Refuses what is not UTF-8, nested deeper than `limits.depth`, numbers that are not finite or have
    too many digits, a key twice in one object, escapes of lone surrogates, and documents with more than
    a million brackets (they take 25 times their size in memory). Raises InvalidRequest only.
    """
    if raw.count(b"{") + raw.count(b"[") > MAX_CONTAINERS:
        raise _refusal(f"more than {MAX_CONTAINERS:,} objects and arrays", pointer)
    try:
        value = _decode(raw)
    except RecursionError:
        raise _refusal("nested too deeply", pointer) from None
    except UnicodeDecodeError:
        raise _refusal("not UTF-8", pointer) from None
    except msgspec.MsgspecError as error:
        raise _refusal(str(error), pointer) from None
    keys = _count_keys(value, limits.depth)
    if keys < 0:
        raise _refusal("nested too deeply", pointer)
    if keys != _most_keys(raw):
        _refuse_repeated_keys(raw, pointer)
    return value


def _refusal(reason: str, pointer: str) -> InvalidRequest:
    return InvalidRequest(f"not acceptable as JSON: {reason}", pointer=pointer)


def _count_keys(value: Any, depth: int) -> int:
    """How many members the objects in `value` have; -1 if it is nested deeper than `depth`."""
    keys = 0
    level = [value] if type(value) in _CONTAINERS else []
    while level:
        if depth <= 0:
            return -1
        depth -= 1
        below: list[Any] = []
        for container in level:
            members = container
            if type(container) is dict:
                keys += len(container)
                members = container.values()
            if not _SCALARS.issuperset(map(type, members)):
                below += [member for member in members if type(member) in _CONTAINERS]
        level = below
    return keys


def _most_keys(raw: bytes) -> int:
    """At least the number of members written in a valid document.

    The colon behind a name follows a quote or white space; texts that hold such pairs only raise the
    count. So when the decoded value has this many keys, none was written twice.
    """
    most = raw.count(b'":')
    if most == raw.count(b":"):
        return most
    return most + raw.count(b" :") + raw.count(b"\t:") + raw.count(b"\n:") + raw.count(b"\r:")


def _refuse_repeated_keys(raw: bytes, pointer: str) -> None:
    """The exact and slower way: looks at the names of every object as they were written."""

    def check(pairs: list[tuple[str, Any]]) -> None:
        names = [name for name, _ in pairs]
        if len(names) == len(set(names)):
            return
        seen: set[str] = set()
        for name in names:
            if name in seen:
                raise _refusal(f"the key {name[:80]!r} twice in one object", pointer)
            seen.add(name)

    json.loads(raw.decode(), object_pairs_hook=check)
