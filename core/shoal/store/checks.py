"""Checks of what callers pass, shared by the parts of a local store."""

from __future__ import annotations

from typing import Any

from shoal.errors import InvalidRequest
from shoal.model.names import check_stream_id
from shoal.types import ANY_VERSION, MAX_VERSION, NO_STREAM, STREAM_EXISTS, Appended, Limits


def check_expected_version(value: Any) -> None:
    """-1, -2, -4 or an exact version. Raises InvalidRequest."""
    if type(value) is not int or (value < 0 and value not in (NO_STREAM, ANY_VERSION, STREAM_EXISTS)):
        raise InvalidRequest(
            "expected_version is -1 (no stream), -2 (any), -4 (stream exists) or a version",
            pointer="expected_version",
        )
    if value > MAX_VERSION:
        raise InvalidRequest(f"expected_version is at most {MAX_VERSION}", pointer="expected_version")


def check_range(name: str, value: Any, low: int, high: int) -> None:
    """Refuse a number out of range, by the parameter's name. Raises InvalidRequest."""
    if type(value) is not int or not low <= value <= high:
        raise InvalidRequest(f"{name} must be a whole number from {low} to {high}", pointer=name)


def check_each(values: Any, kind: type | tuple[type, ...], pointer: str) -> None:
    """A list or tuple of nothing but `kind`, or one of several. Raises InvalidRequest."""
    if not isinstance(values, (list, tuple)):
        raise InvalidRequest(f"{pointer} must be a list, not {type(values).__name__}", pointer=pointer)
    for index, value in enumerate(values):
        if not isinstance(value, kind):
            where = f"{pointer}/{index}"
            wanted = " or ".join(each.__name__ for each in (kind if isinstance(kind, tuple) else (kind,)))
            raise InvalidRequest(f"{where} must be a {wanted}, not {type(value).__name__}", pointer=where)


def check_events(events: Any, limits: Limits) -> None:
    """A list or tuple of nothing but (stream id, version). Raises InvalidRequest."""
    check_each(events, (list, tuple), "/events")
    for index, event in enumerate(events):
        where = f"/events/{index}"
        if len(event) != 2:
            raise InvalidRequest(f"{where} must be a stream id and a version", pointer=where)
        stream_id, version = event
        check_stream_id(stream_id, limits, where)
        check_range(where, version, 0, MAX_VERSION)


def is_backward(direction: Any) -> bool:
    """Whether a direction is backward. Raises InvalidRequest for anything but the two."""
    if direction not in ("forward", "backward"):
        raise InvalidRequest("direction is forward or backward", pointer="direction")
    return bool(direction == "backward")


def plain_version(value: int) -> int:
    """An append's result is a version with more beside it; it may be the next one's expected version."""
    return value.version if isinstance(value, Appended) else value
