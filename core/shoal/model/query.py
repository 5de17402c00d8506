"""What selects events: queries, conditions and filters as predicates, compiled once, used per event."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from shoal.errors import InvalidRequest
from shoal.model.names import SYSTEM_PREFIX, check_event_type, check_tags, check_text
from shoal.types import MAX_VERSION, Condition, EventFilter, Limits, Query, QueryItem
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
    """A predicate for `query`: any of its items.

    It runs on the loop for every event in memory: an item is looked at only for events that carry the rarest
    of its tags, or have its type if it has none.
    """
    items = query.items
    if len(items) == 1 or any(not item.types and not item.tags for item in items):
        return _any_of([_compile_item(item) for item in items])
    types = frozenset(name for item in items if not item.tags for name in item.types)
    counts = Counter(tag for item in items for tag in item.tags)
    of_tag: dict[str, list[Matches]] = {}
    for item in items:
        if item.tags:
            of_tag.setdefault(min(item.tags, key=counts.__getitem__), []).append(_compile_item(item))
    each = {tag: _any_of(found) for tag, found in of_tag.items()}

    def matches(stream_id: str, event_type: str, tags: Sequence[str]) -> bool:
        if event_type in types:
            return True
        return any(tag in each and each[tag](stream_id, event_type, tags) for tag in tags)

    return matches


def check_query(query: Any, limits: Limits, pointer: str = "query") -> Query:
    """`query` with tuples for lists, what repeats an item left out.

    Raises InvalidRequest if it is no Query, has no items or too many, or a type or tag that no event can have.
    """
    if not isinstance(query, Query):
        raise InvalidRequest(f"{pointer} must be a Query, not {type(query).__name__}", pointer=pointer)
    items = _sequence(query.items, f"{pointer}/items")
    if not 0 < len(items) <= limits.query_items:
        raise InvalidRequest(
            f"{pointer} has {len(items)} items, 1 to {limits.query_items} are allowed",
            pointer=f"{pointer}/items",
        )
    checked = (_check_item(item, limits, f"{pointer}/items/{index}") for index, item in enumerate(items))
    return Query(tuple(dict.fromkeys(checked)))


def check_condition(condition: Any, limits: Limits, pointer: str = "/condition") -> Condition:
    """`condition` with its query as `check_query` gives it. Raises InvalidRequest."""
    if not isinstance(condition, Condition):
        raise InvalidRequest(
            f"{pointer} must be a Condition, not {type(condition).__name__}", pointer=pointer
        )
    after = condition.after
    if type(after) is not int or not 0 <= after <= MAX_VERSION:
        where = f"{pointer}/after"
        raise InvalidRequest(f"{where} must be a whole number from 0 to {MAX_VERSION}", pointer=where)
    return Condition(check_query(condition.query, limits, f"{pointer}/query"), after)


def check_filter(selection: Any, limits: Limits, pointer: str = "") -> EventFilter:
    """`selection` with tuples for lists. Raises InvalidRequest if a part of it can never be meant."""
    if not isinstance(selection, EventFilter):
        raise InvalidRequest(
            f"selection must be an EventFilter, not {type(selection).__name__}",
            pointer=pointer or "selection",
        )
    types, tags = _check_alternatives(selection.types, selection.tags, limits, pointer)
    if selection.tags_match not in ("any", "all"):
        raise InvalidRequest("tags_match is any or all", pointer=f"{pointer}/tags_match")
    if type(selection.system) is not bool:
        raise InvalidRequest("system is true or false", pointer=f"{pointer}/system")
    if selection.stream_pattern is not None:
        check_text(selection.stream_pattern, limits.stream_id_bytes, f"{pointer}/stream_pattern")
    query = selection.query
    if query is not None:
        query = check_query(query, limits, f"{pointer}/query")
    return EventFilter(types, tags, selection.tags_match, selection.stream_pattern, query, selection.system)


def types_filter(types: Any) -> EventFilter:
    """What `read_by_event_types` selects. Raises InvalidRequest when there is nothing to look for."""
    return EventFilter(types=_not_empty(types, "types"))


def tags_filter(tags: Any, match: Any) -> EventFilter:
    """What `read_by_tags` selects. Raises InvalidRequest when there is nothing to look for."""
    if match not in ("any", "all"):
        raise InvalidRequest("match is any or all", pointer="match")
    return EventFilter(tags=_not_empty(tags, "tags"), tags_match=match)


def query_filter(query: Any) -> EventFilter:
    """What `query` selects. Raises InvalidRequest."""
    if not isinstance(query, Query):  # None would be a filter that lets everything pass
        raise InvalidRequest(f"query must be a Query, not {type(query).__name__}", pointer="query")
    return EventFilter(query=query)


def _not_empty(texts: Any, pointer: str) -> tuple[Any, ...]:
    found = _sequence(texts, pointer)
    if not found:
        raise InvalidRequest(f"{pointer} must not be empty", pointer=pointer)
    return found


def _sequence(value: Any, pointer: str) -> tuple[Any, ...]:
    """A list or tuple as a tuple: a str is neither, or it would be read letter by letter."""
    if not isinstance(value, (list, tuple)):
        raise InvalidRequest(f"{pointer} must be a list, not {type(value).__name__}", pointer=pointer)
    return tuple(value)


def _check_item(item: Any, limits: Limits, pointer: str) -> QueryItem:
    if not isinstance(item, QueryItem):
        raise InvalidRequest(f"{pointer} must be a QueryItem, not {type(item).__name__}", pointer=pointer)
    return QueryItem(*_check_alternatives(item.types, item.tags, limits, pointer))


def _check_alternatives(
    types: Any, tags: Any, limits: Limits, pointer: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    types = _sequence(types, f"{pointer}/types")
    if len(types) > limits.query_items:
        raise InvalidRequest(
            f"{len(types)} types, {limits.query_items} are allowed", pointer=f"{pointer}/types"
        )
    for index, event_type in enumerate(types):
        check_event_type(event_type, limits, f"{pointer}/types/{index}")
    check_tags(tags, limits, f"{pointer}/tags")
    return types, tuple(tags)


def _compile_item(item: QueryItem) -> Matches:
    parts: list[Matches] = []
    if item.types:
        parts.append(_any_type(item.types))
    if item.tags:
        parts.append(_all_tags(item.tags))
    return _all_of(parts)


def _any_of(parts: list[Matches]) -> Matches:
    if len(parts) == 1:
        return parts[0]
    return lambda stream_id, event_type, tags: any(part(stream_id, event_type, tags) for part in parts)


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
