"""Rules for the texts that name things: streams, event types, tags, event ids.

Each check raises InvalidRequest with a pointer to the field. Lengths are UTF-8 bytes.
"""

from __future__ import annotations

from typing import Any

from shoal.errors import InvalidRequest
from shoal.types import Limits

SYSTEM_PREFIX = "$"
"""Streams whose id begins so are the store's own."""


def check_stream_id(value: Any, limits: Limits, pointer: str = "stream_id") -> None:
    """1 to 512 bytes, no NUL, not `.` or `..` (a URL cannot carry those)."""
    check_text(value, limits.stream_id_bytes, pointer)
    if value in {".", ".."}:
        raise InvalidRequest(f"{pointer} must not be {value!r}: a URL cannot carry it", pointer=pointer)


def check_writable_stream_id(value: Any, limits: Limits, pointer: str = "stream_id") -> None:
    """As `check_stream_id`, and not one of the store's own."""
    check_stream_id(value, limits, pointer)
    if value.startswith(SYSTEM_PREFIX):
        raise InvalidRequest(
            f"{pointer} begins with {SYSTEM_PREFIX!r}: only the store writes to such streams", pointer=pointer
        )


def check_event_type(value: Any, limits: Limits, pointer: str = "event_type") -> None:
    """1 to 256 bytes, no NUL."""
    if not _is_ascii_name(value, limits.event_type_bytes):
        check_text(value, limits.event_type_bytes, pointer)


def check_event_id(value: Any, limits: Limits, pointer: str = "event_id") -> None:
    """1 to 128 bytes, no NUL."""
    check_text(value, limits.event_id_bytes, pointer)


def check_tags(value: Any, limits: Limits, pointer: str = "tags") -> None:
    """A list or tuple of at most 64 tags, each of 1 to 128 bytes, no NUL. The same tag may come twice."""
    if not isinstance(value, (list, tuple)):
        raise InvalidRequest(f"{pointer} must be a list of str, not {type(value).__name__}", pointer=pointer)
    if len(value) > limits.tags_per_event:
        raise InvalidRequest(
            f"{pointer} holds {len(value)} tags, {limits.tags_per_event} are allowed", pointer=pointer
        )
    for index, tag in enumerate(value):
        if not _is_ascii_name(tag, limits.tag_bytes):  # nearly all are: spare making the pointer
            check_text(tag, limits.tag_bytes, f"{pointer}/{index}")


def check_text(value: Any, max_bytes: int, pointer: str) -> None:
    """A str of 1 to `max_bytes` bytes of UTF-8 without NUL."""
    if _is_ascii_name(value, max_bytes):
        return
    if type(value) is not str:
        raise InvalidRequest(f"{pointer} must be a str, not {type(value).__name__}", pointer=pointer)
    size = _utf8_bytes(value, max_bytes, pointer)
    if not size:
        raise InvalidRequest(f"{pointer} must not be empty", pointer=pointer)
    if size > max_bytes:
        raise InvalidRequest(f"{pointer} has {size} bytes, {max_bytes} are allowed", pointer=pointer)
    if "\0" in value:
        raise InvalidRequest(f"{pointer} must not hold a NUL character", pointer=pointer)


def _is_ascii_name(value: Any, max_bytes: int) -> bool:
    return type(value) is str and value.isascii() and 0 < len(value) <= max_bytes and "\0" not in value


def _utf8_bytes(value: str, max_bytes: int, pointer: str) -> int:
    if len(value) > max_bytes:  # every character is a byte at least: spare encoding a huge one
        return len(value)
    try:
        return len(value.encode())
    except UnicodeEncodeError:
        raise InvalidRequest(f"{pointer} holds a lone surrogate: not UTF-8", pointer=pointer) from None
