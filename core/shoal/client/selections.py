"""How what a caller selects is written into paths, parameters and queries."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from shoal.errors import InvalidRequest
from shoal.types import EventFilter, Limits, Query, QueryItem

BOUNDLESS = Limits(
    body_bytes=2**31,
    event_bytes=2**31,
    events_per_append=2**31,
    stream_id_bytes=2**16,
    event_type_bytes=2**16,
    event_id_bytes=2**16,
    tags_per_event=2**16,
    tag_bytes=2**16,
    depth=512,
    query_items=2**31,
    writes_per_append=2**31,
)
"""The board knows its limits; what is checked here is what cannot be sent at all."""


def stream_path(stream_id: str) -> str:
    """The path of a stream whose id was checked."""
    return f"/streams/{quote(stream_id, safe='')}"


def whole(value: Any, pointer: str) -> int:
    """A whole number, its range being the board's business. Raises InvalidRequest."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidRequest(f"{pointer} must be an int, not {type(value).__name__}", pointer=pointer)
    return int(value)


def fits_parameters(selection: EventFilter) -> bool:
    """Whether parameters can say it: they separate by commas, and know no queries."""
    return selection.query is None and not any("," in text for text in (*selection.types, *selection.tags))


def filter_params(selection: EventFilter) -> dict[str, str]:
    """The parameters of a selection that `fits_parameters`."""
    params: dict[str, str] = {}
    if selection.types:
        params["types"] = ",".join(selection.types)
    if selection.tags:
        params |= {"tags": ",".join(selection.tags), "tags_match": selection.tags_match}
    if selection.stream_pattern is not None:
        params["stream_pattern"] = selection.stream_pattern
    if selection.system:
        params["system"] = "true"
    return params


def as_query(selection: EventFilter) -> Query:
    """The selection as a query, for one that parameters cannot say. Raises InvalidRequest."""
    if selection.stream_pattern is not None or selection.system:
        raise InvalidRequest(
            "a query, or a type or tag with a comma, cannot be combined with stream_pattern or system over HTTP",
            pointer="stream_pattern",
        )
    if selection.query is None:
        return Query(_items(selection))
    if selection.types or selection.tags:
        raise InvalidRequest("put types and tags into the query's items", pointer="query")
    return selection.query


def _items(selection: EventFilter) -> tuple[QueryItem, ...]:
    if selection.tags_match == "any" and selection.tags:
        return tuple(QueryItem(selection.types, (tag,)) for tag in selection.tags)
    return (QueryItem(selection.types, selection.tags),)
