"""A strict reader of CBOR: what maps to JSON, plus byte strings; nothing else gets in.

cbor2 cannot promise this: it turns tags into dates, decimals and shared references before anybody can
refuse them, lets the last of two equal keys win, and has no limit on depth of its own. So the little
that is wanted is read here. Refused: tags other than those of large integers, undefined and other simple
values, infinities and NaN, keys that are not text, keys that come twice, indefinite lengths, bytes behind
the item. Integers and lengths need not be in their shortest form. A declared length is compared with the
bytes that are left before anything is made of it.
"""

from __future__ import annotations

from math import isfinite
from struct import unpack_from
from typing import Any, Final

from shoal.errors import InvalidRequest
from shoal.types import Limits

MAX_CONTAINERS: Final = 1_000_000
"""Maps and arrays in one document: in memory empty ones take 25 (JSON) to 64 times (CBOR) their size."""

MAX_DIGITS: Final = 4300
"""Of an integer, its sign included: all that our reader of JSON takes."""
LEAST_INTEGER: Final = 1 - 10 ** (MAX_DIGITS - 1)
GREATEST_INTEGER: Final = 10**MAX_DIGITS - 1

_BYTES, _TEXT, _ARRAY, _MAP, _TAG, _OTHER = 2, 3, 4, 5, 6, 7
_INDEFINITE = 31
_POSITIVE, _NEGATIVE = 2, 3
_SMALL = bytes(range(24))
_MANY, _MOST = 16, 64 * 1024
"""Small numbers in a row, after which more are looked for; how far ahead at most."""
_LITERALS = {20: False, 21: True, 22: None}
_FLOATS = {25: (">e", 2), 26: (">f", 4), 27: (">d", 8)}


class _Refused(ValueError):
    """The bytes are not what `decode_cbor` reads; the text says why."""


def decode_cbor(raw: bytes, limits: Limits, pointer: str = "") -> Any:
    """The value of one complete CBOR item. Raises InvalidRequest, for any input whatever."""
    reader = _Reader(raw)
    try:
        value = reader.item(limits.depth)
        if reader.at == len(raw):
            return value
        reason = "bytes behind the item"
    except _Refused as error:
        reason = str(error)
    except IndexError:
        reason = "it ends too early"
    except RecursionError:
        reason = "nested too deeply"
    raise InvalidRequest(f"not acceptable as CBOR: {reason} (byte {reader.at})", pointer=pointer)


class _Reader:
    """Reads items one after the other; `at` is the next byte."""

    __slots__ = ("at", "containers", "raw")

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.at = 0
        self.containers = 0

    def item(self, depth: int) -> Any:
        """The next item, with at most `depth` containers around what is innermost."""
        initial = self.raw[self.at]
        self.at += 1
        major, info = initial >> 5, initial & 31
        if major == _OTHER:
            return self._other(info)
        argument = info if info < 24 else self._argument(info)
        if major < _BYTES:
            return -1 - argument if major else argument
        if major == _TEXT:
            return self._text(argument)
        if major == _BYTES:
            return self._bytes(argument)
        if major == _TAG:
            return self._tagged(argument)
        return self._container(major, argument, depth)

    def _argument(self, info: int) -> int:
        if info > 27:
            raise _Refused("an indefinite length" if info == _INDEFINITE else "a reserved length")
        return int.from_bytes(self._bytes(1 << (info - 24)), "big")

    def _bytes(self, size: int) -> bytes:
        begin = self.at
        end = begin + size
        if end > len(self.raw):
            raise _Refused(f"{size} bytes are announced, {len(self.raw) - begin} are left")
        self.at = end
        return self.raw[begin:end]

    def _text(self, size: int) -> str:
        raw = self._bytes(size)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise _Refused("text that is not UTF-8") from None

    def _tagged(self, tag: int) -> int:
        """An integer beyond 64 bits (RFC 8949, 3.4.3), as our own answers have them."""
        if tag not in (_POSITIVE, _NEGATIVE):
            raise _Refused(f"tag {tag}: of all tags only those of large integers are taken")
        if self.raw[self.at] >> 5 != _BYTES:
            raise _Refused("a large integer that is no byte string")
        number = int.from_bytes(self.item(0), "big")
        if tag == _NEGATIVE:
            number = -1 - number
        if not LEAST_INTEGER <= number <= GREATEST_INTEGER:
            raise _Refused(f"an integer of more than {MAX_DIGITS} digits")
        return number

    def _container(self, major: int, size: int, depth: int) -> Any:
        left = len(self.raw) - self.at
        if size > left:
            raise _Refused(f"{size} items are announced, {left} bytes are left")
        if depth <= 0:
            raise _Refused("nested too deeply")
        self.containers += 1
        if self.containers > MAX_CONTAINERS:
            raise _Refused(f"more than {MAX_CONTAINERS:,} maps and arrays")
        return self._array(size, depth - 1) if major == _ARRAY else self._map(size, depth - 1)

    def _array(self, size: int, depth: int) -> list[Any]:
        raw, item = self.raw, self.item
        items: list[Any] = []
        small = 0
        while len(items) < size:
            initial = raw[self.at]
            if initial >= 24:
                small = 0
                items.append(item(depth))
                continue
            self.at += 1
            items.append(initial)
            small += 1
            if (
                small == _MANY
            ):  # long arrays of readings are mostly small numbers: the rest of the run at once
                small = 0
                self._run(items, size)
        return items

    def _run(self, items: list[Any], size: int) -> None:
        """Take the small numbers that come next; looks twice as far ahead as long as there is nothing else."""
        ahead = _MANY
        while True:
            part = self.raw[self.at : self.at + min(size - len(items), ahead)]
            run = len(part) - len(part.lstrip(_SMALL))
            items += part[:run]
            self.at += run
            if run < ahead:
                return
            ahead = min(2 * ahead, _MOST)

    def _map(self, size: int, depth: int) -> dict[str, Any]:
        members: dict[str, Any] = {}
        for _ in range(size):
            if self.raw[self.at] >> 5 != _TEXT:
                raise _Refused("a key that is not text")
            key = self.item(0)
            if key in members:
                raise _Refused(f"the key {key[:80]!r} twice")
            members[key] = self.item(depth)
        return members

    def _other(self, info: int) -> float | bool | None:
        if info in _LITERALS:
            return _LITERALS[info]
        if info not in _FLOATS:
            raise _Refused("a simple value other than true, false and null")
        layout, size = _FLOATS[info]
        number: float = unpack_from(layout, self._bytes(size))[0]
        if not isfinite(number):
            raise _Refused("a number that is not finite")
        return number
