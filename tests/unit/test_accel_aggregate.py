"""Counting over events' data."""

from __future__ import annotations

from typing import Any

import pytest

from shoal.accel import aggregate as accel_aggregate
from shoal.accel.aggregate import AggregationStats, aggregation_stats, count_where, sum_field
from shoal.tagged import Overwrite, Sum
from shoal.types import NewEvent


def test_sum_field_adds_plain_numbers_and_sums() -> None:
    events: list[Any] = [
        {"a": 1},
        {"a": 2.5},
        {"a": Sum(3)},
        {"a": {"$sum": 4}},
        {"data": {"a": 5}},
        NewEvent("t", {"a": 6}),
        {"a": Overwrite(100)},
        {"a": "7"},
        {"a": True},
        {"a": None},
        {"b": 1},
        "text",
    ]
    assert sum_field(events, "a") == 21.5
    assert sum_field([], "a") == 0


def test_sums_stay_exact() -> None:
    assert sum_field([{"a": 2**53}, {"a": 1}, {"a": 1}], "a") == 2**53 + 2
    assert sum_field([{"a": 1e308}] * 3, "a") == 3 * int(1e308)


@pytest.mark.parametrize(
    ("value", "count"), [(1, 2), (1.0, 1), (True, 1), ("1", 1), (None, 1), ([1], 1), ({"x": 1}, 1), (2, 0)]
)
def test_count_where_is_strict(value: Any, count: int) -> None:
    events = [{"a": each} for each in (1, 1, 1.0, True, "1", None, [1], {"x": 1})]
    assert count_where([*events, {"b": 1}, "text"], "a", value) == count


def test_statistics_count_items_those_with_fields_and_field_names() -> None:
    events = [{"a": 1, "b": 2}, {"b": 3}, {"data": {"c": 1}}, "text", NewEvent("t", b"x"), {}]
    assert aggregation_stats(iter(events)) == AggregationStats(6, 4, 3)


def test_it_says_what_it_is() -> None:
    assert (accel_aggregate.is_native(), accel_aggregate.implementation()) == (False, "python")
