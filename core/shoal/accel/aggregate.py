"""Counting over many events' data, without folding them: sums, counts, statistics.

An item is what the aggregator folds (`shoal.tagged.fields_of`). Whole numbers stay exact however large;
the reference's native code sums in doubles.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

from shoal.tagged import Sum, add, fields_of, is_number, read_tag


class AggregationStats(NamedTuple):
    """How many items, how many of them with fields, and how many different field names."""

    total_events: int
    events_with_data: int
    unique_fields: int


def is_native() -> bool:
    """Never so far: no package that we depend on does this faster than Python."""
    return False


def implementation() -> Literal["native", "python"]:
    """Which one it is."""
    return "native" if is_native() else "python"


def sum_field(events: Iterable[Any], field: str) -> int | float:
    """Sum of a field: plain numbers and `Sum` tags count, anything else does not."""
    total: int | float = 0
    for fields in _fields(events):
        value = read_tag(fields.get(field))
        if isinstance(value, Sum):
            value = value.value
        if is_number(value):
            total = add(total, value)
    return total


def count_where(events: Iterable[Any], field: str, value: Any) -> int:
    """How many items have the field with exactly this value: 1, 1.0 and true are three values."""
    kind = type(value)
    return sum(
        1
        for fields in _fields(events)
        if field in fields and type(fields[field]) is kind and fields[field] == value
    )


def aggregation_stats(events: Iterable[Any]) -> AggregationStats:
    """What there is to aggregate."""
    items = list(events)
    with_data = list(_fields(items))
    names = {name for fields in with_data for name in fields}
    return AggregationStats(len(items), len(with_data), len(names))


def _fields(events: Iterable[Any]) -> Iterator[Mapping[str, Any]]:
    return (fields for fields in map(fields_of, events) if fields is not None)
