"""Frames between peers: what travels inside TLS, cut into values again.

A frame is 4 bytes of length (big-endian, of all that follows), a byte of flags, and a body: one CBOR item.
Flag 1 says that the body is a block of LZ4 behind its size, flag 2 that the value is a word of the transport itself
and not for whoever uses it. Both ends are limited: in bytes, also of what LZ4 would make, and in depth; tags are
refused, since decoding some of them costs without bound. Pure: bytes in, values out.
"""

from __future__ import annotations

from functools import cache
from struct import Struct
from typing import Any, Final, NamedTuple, NoReturn

import cbor2
import lz4.block  # type: ignore[import-untyped] # it comes without types
import msgspec

FRAME_BYTES_MAX: Final = 32 * 1024 * 1024
"""Of a frame, and of what LZ4 makes of one: an entry of the log has up to 16 MiB."""
DEPTH_MAX: Final = 16
COMPRESS_BYTES_MIN: Final = 4096

_LZ4, _WORD = 1, 2
_HEAD: Final = Struct(">IB")
_SIZE: Final = Struct("<I")  # as python-lz4 puts it before a block
_LZ4_RATIO_MAX: Final = 255
"""No byte of a block stands for more (LZ4 block format): a larger claim only asks for memory."""
_PAYS: Final = 7 / 8


class FrameError(ValueError):
    """The peer sent what is no frame within the limits, or asked to send such a one; the connection is at its end."""


class Word(NamedTuple):
    """A value of the transport's own: hello, ping and the like."""

    value: Any


def pack(message: Any) -> Any:
    """The plain value that stands for a msgspec struct; byte strings stay what they are."""
    return msgspec.to_builtins(message, builtin_types=(bytes,))


def unpack(value: Any, kind: Any) -> Any:
    """Inverse of `pack`; `kind` is a struct, or a union of tagged ones. Raises FrameError."""
    try:
        return msgspec.convert((value,), _holder_of(kind), builtin_types=(bytes,)).value
    except (msgspec.ValidationError, UnicodeError, RecursionError, OverflowError) as error:
        raise FrameError(f"not a message of this protocol: {error}") from None


@cache
def _holder_of(kind: Any) -> Any:
    """A struct around `kind`: msgspec works out once what a field may be, but a union anew with each call."""
    return msgspec.defstruct("Holder", [("value", kind)], array_like=True)


def encode(value: Any) -> bytes:
    """The frame of a plain value, or of a `Word`. Raises FrameError where a receiver would refuse its size."""
    flags = 0
    if isinstance(value, Word):
        flags, value = _WORD, value.value
    body = cbor2.dumps(value)
    if len(body) >= FRAME_BYTES_MAX:
        raise FrameError(f"a frame of {len(body)} bytes, at most {FRAME_BYTES_MAX} can be sent")
    if len(body) > COMPRESS_BYTES_MIN:
        block = lz4.block.compress(body)
        if len(block) < len(body) * _PAYS:
            flags, body = flags | _LZ4, block
    return _HEAD.pack(1 + len(body), flags) + body


class Decoder:
    """Cuts a stream of bytes into values. `bytes_max` limits frames; it may be raised between them."""

    def __init__(self, bytes_max: int = FRAME_BYTES_MAX) -> None:
        self.bytes_max = bytes_max
        self._parts: list[bytes] = []
        self._waiting_bytes = 0
        self._wanted_bytes = _HEAD.size

    def feed(self, data: bytes) -> list[Any]:
        """The values that `data` completes. Raises FrameError; nothing can be read behind one."""
        self._parts.append(data)
        self._waiting_bytes += len(data)
        if self._waiting_bytes < self._wanted_bytes:
            return []  # joined once all is there, so that many small pieces do not cost their square
        whole = b"".join(self._parts) if len(self._parts) > 1 else data
        values, at = [], 0
        self._wanted_bytes = _HEAD.size
        while len(whole) - at >= self._wanted_bytes:
            length, flags = _HEAD.unpack_from(whole, at)
            self._check(length, flags)
            end = at + 4 + length
            if end > len(whole):
                self._wanted_bytes = end - at
                break
            values.append(self._value(whole[at + _HEAD.size : end], flags))
            at = end
        rest = whole[at:]
        self._parts, self._waiting_bytes = [rest], len(rest)
        return values

    def _check(self, length: int, flags: int) -> None:
        if not 1 < length <= self.bytes_max:
            raise FrameError(f"a frame of {length} bytes, allowed are 2 to {self.bytes_max}")
        if flags > _LZ4 | _WORD:
            raise FrameError(f"a frame with unknown flags {flags}")

    def _value(self, body: bytes, flags: int) -> Any:
        if flags & _LZ4:
            body = self._decompressed(body)
        try:
            value = cbor2.loads(body, max_depth=DEPTH_MAX, allow_indefinite=False, **_NO_TAGS)
        except (cbor2.CBORError, ValueError, TypeError, OverflowError, RecursionError) as error:
            raise FrameError(f"a frame that is no CBOR within the limits: {error}") from None
        return Word(value) if flags & _WORD else value

    def _decompressed(self, block: bytes) -> bytes:
        size = _SIZE.unpack_from(block)[0] if len(block) > _SIZE.size else 0
        if not 0 < size <= min(self.bytes_max, _LZ4_RATIO_MAX * len(block)):
            raise FrameError(f"a block of {len(block)} bytes that claims to hold {size}")
        try:
            raw: bytes = lz4.block.decompress(block)
        except (lz4.block.LZ4BlockError, ValueError) as error:
            raise FrameError(f"a damaged block of LZ4: {error}") from None
        return raw


def _refuse(*_args: object) -> NoReturn:
    raise ValueError("a tag")


_NO_TAGS: Final[dict[str, Any]] = {
    # The known ones do not come to the hook.
    "semantic_decoders": dict.fromkeys((*range(1100), 43000, 55799), _refuse),
    "tag_hook": _refuse,
}
