"""What selects events: queries, conditions and filters as predicates, compiled once, used per event."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from shoal.errors import InvalidRequest
from shoal.model.names import SYSTEM_PREFIX, check_event_type, check_tags, check_text
from shoal.types import EventFilter, Limits, Query, QueryItem
from shoal.wildcard import compile_wildcard

Matches = Callable[[str, str, Sequence[str]], bool]
"""Whether an event is selected, by its stream id, event type and tags."""


def compile_filter(selection: EventFilter) -> Matches:
    """A predicate for `selection`: every part of it must hold."""
    parts: list[Matches] = []
    if not selection.system:
        parts.append(_is_not_system)
    if selection.types:
        parts.append(_any_type(selection.types))
    if selection.tags:
        parts.append(_all_tags(selection.tags) if selection.tags_match == "all" else _any_tag(selection.tags))
    if selection.stream_pattern is not None:
        parts.append(_stream_pattern(selection.stream_pattern))
    if selection.query is not None:
        parts.append(compile_query(selection.query))
    return _all_of(parts)


def compile_query(query: Query) -> Matches:
    """A predicate for `query`: any of its items."""
    items = [_compile_item(item) for item in query.items]
    if len(items) == 1:
        return items[0]
    return lambda stream_id, event_type, tags: any(item(stream_id, event_type, tags) for item in items)


def check_query(query: Query, limits: Limits, pointer: str = "query") -> None:
    """Raises InvalidRequest if `query` has no items, too many, or a type or tag that no event can have."""
    if not 0 < len(query.items) <= limits.query_items:
        raise InvalidRequest(
            f"{pointer} has {len(query.items)} items, 1 to {limits.query_items} are allowed",
            pointer=f"{pointer}/items",
        )
    for index, item in enumerate(query.items):
        _check_alternatives(item.types, item.tags, limits, f"{pointer}/items/{index}")


def check_filter(selection: EventFilter, limits: Limits, pointer: str = "") -> None:
    """Raises InvalidRequest if `selection` is none, or a part of it can never be meant."""
    if not isinstance(selection, EventFilter):
        raise InvalidRequest(
            f"selection must be an EventFilter, not {type(selection).__name__}", pointer="selection"
        )
    _check_alternatives(selection.types, selection.tags, limits, pointer)
    if selection.stream_pattern is not None:
        check_text(selection.stream_pattern, limits.stream_id_bytes, f"{pointer}/stream_pattern")
    if selection.query is not None:
        check_query(selection.query, limits, f"{pointer}/query")


def _check_alternatives(types: Sequence[str], tags: Sequence[str], limits: Limits, pointer: str) -> None:
    if len(types) > limits.query_items:
        raise InvalidRequest(
            f"{len(types)} types, {limits.query_items} are allowed", pointer=f"{pointer}/types"
        )
    for index, event_type in enumerate(types):
        check_event_type(event_type, limits, f"{pointer}/types/{index}")
    check_tags(tags, limits, f"{pointer}/tags")


def _compile_item(item: QueryItem) -> Matches:
    parts: list[Matches] = []
    if item.types:
        parts.append(_any_type(item.types))
    if item.tags:
        parts.append(_all_tags(item.tags))
    return _all_of(parts)


def _all_of(parts: list[Matches]) -> Matches:
    if not parts:
        return lambda _stream_id, _event_type, _tags: True
    if len(parts) == 1:
        return parts[0]
    if len(parts) == 2:
        first, second = parts
        return lambda stream_id, event_type, tags: (
            first(stream_id, event_type, tags) and second(stream_id, event_type, tags)
        )
    return lambda stream_id, event_type, tags: all(part(stream_id, event_type, tags) for part in parts)


def _is_not_system(stream_id: str, _event_type: str, _tags: Sequence[str]) -> bool:
    return not stream_id.startswith(SYSTEM_PREFIX)


def _any_type(types: Sequence[str]) -> Matches:
    wanted = frozenset(types)
    return lambda _stream_id, event_type, _tags: event_type in wanted


def _any_tag(tags: Sequence[str]) -> Matches:
    wanted = frozenset(tags)
    return lambda _stream_id, _event_type, tags: not wanted.isdisjoint(tags)


def _all_tags(tags: Sequence[str]) -> Matches:
    wanted = frozenset(tags)
    return lambda _stream_id, _event_type, tags: wanted.issubset(tags)


def _stream_pattern(pattern: str) -> Matches:
    matches = compile_wildcard(pattern)
    return lambda stream_id, _event_type, _tags: matches(stream_id)
