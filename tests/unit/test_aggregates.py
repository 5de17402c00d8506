"""The aggregator: the reference's table, with tags kept while folding as its README promises."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from shoal import aggregator
from shoal.aggregator import Overwrite, Sum, aggregate, finalize, foldl, foldr
from shoal.model.payload import encode_value
from shoal.types import Event, Limits, NewEvent, Snapshot


def recorded(data_raw: bytes, content_type: str | None = None) -> Event:
    return Event("s", 0, 1, "id", "t", 0, data_raw, content_type)


def snapshot(data_raw: bytes, content_type: str | None = None) -> Snapshot:
    return Snapshot("s", 0, 0, data_raw, content_type)


@pytest.mark.parametrize(
    ("events", "initial", "state"),
    [
        ([{"a": Sum(1), "b": Overwrite(5)}, {"a": Sum(2)}], None, {"a": Sum(3), "b": Overwrite(5)}),
        ([{"a": Sum(2)}], {"a": 10}, {"a": Sum(12)}),
        ([{"a": Sum(2)}], {"a": Overwrite(10)}, {"a": Sum(2)}),
        ([{"a": Sum("x")}], {"a": 1}, {"a": Sum("x")}),
        ([{"a": Sum(True)}], {"a": 1}, {"a": Sum(True)}),
        ([{"a": Sum(2)}], {"a": True}, {"a": Sum(2)}),
        ([{"a": Sum(2)}], {"a": Sum("x")}, {"a": Sum(2)}),
        ([{"a": Sum(5)}, {"a": Sum(1.5)}], None, {"a": Sum(6.5)}),
        ([{"a": Sum(5)}, {"a": 1}, {"a": Sum(2)}], None, {"a": Sum(3)}),
        ([{"a": Overwrite(1)}, {"a": Overwrite(2)}, {"b": None}], None, {"a": Overwrite(2), "b": None}),
        ([{"a": {"$min": 1}}], {"a": 5}, {"a": {"$min": 1}}),
        ([], None, {}),
        ([], {"a": 1}, {"a": 1}),
        (["text", None, 5, b"x", ["a"]], {"a": 1}, {"a": 1}),
        ([{"data": {"a": 1}, "b": 2}], None, {"a": 1}),
        ([{"data": 5, "b": 2}], None, {"data": 5, "b": 2}),
    ],
)
def test_foldl(events: list[Any], initial: dict[str, Any] | None, state: dict[str, Any]) -> None:
    assert foldl(events, initial) == state


def test_foldl_takes_events_and_passes_over_their_bytes() -> None:
    events = [
        recorded(b'{"a":{"$sum":1},"v":{"$overwrite":"x"}}'),
        recorded(b"\x00", "application/octet-stream"),
        recorded(b"[1]"),
        NewEvent("t", {"a": Sum(2)}),
        NewEvent("t", b"x"),
    ]
    assert foldl(events) == {"a": Sum(3), "v": Overwrite("x")}


def test_foldl_leaves_its_initial_state_alone() -> None:
    initial = {"a": Sum(1)}
    assert foldl([{"a": Sum(1)}], initial) == {"a": Sum(2)}
    assert initial == {"a": Sum(1)}


def test_foldr_begins_with_the_last_event() -> None:
    assert foldr([{"b": 1}, {"b": 2}]) == {"b": 1}
    assert foldr([{"a": Sum(1)}, {"a": Sum(2)}], {"a": 3}) == {"a": Sum(6)}
    assert foldr([{"a": 10}, {"a": Sum(1)}]) == {"a": 10}


@pytest.mark.parametrize(
    ("state", "final"),
    [
        ({"a": Sum(3), "b": Overwrite(7), "c": {"$other": 1}}, {"a": 3, "b": 7, "c": {"$other": 1}}),
        ({"a": Sum("x")}, {"a": "x"}),
        ({"a": {"$sum": 3}, "b": {"$overwrite": {"$sum": 1}}}, {"a": 3, "b": {"$sum": 1}}),
        ({"a": {"b": Sum(1)}, "c": [Sum(1)]}, {"a": {"b": Sum(1)}, "c": [Sum(1)]}),
        ({"a": {"$sum": 3, "more": 1}}, {"a": {"$sum": 3, "more": 1}}),
    ],
)
def test_finalize_takes_off_the_tags_of_the_fields_only(state: dict[str, Any], final: dict[str, Any]) -> None:
    assert finalize(state) == final


def test_aggregate_folds_and_finalizes() -> None:
    assert aggregate([{"a": Sum(1)}]) == {"a": 1}
    assert aggregate([{"a": Sum(1)}], finalize=False) == {"a": Sum(1)}
    assert aggregate([{"a": Sum(1)}], initial_state={"a": 5}) == {"a": 6}


def test_aggregate_goes_on_from_a_snapshot_and_then_ignores_the_initial_state() -> None:
    events = [{"a": Sum(1)}]
    assert aggregate(events, snapshot(b"\x00", "application/octet-stream"), initial_state={"a": 5}) == {
        "a": 1
    }
    assert aggregate(events, snapshot(b"[1]"), initial_state={"a": 5}) == {"a": 1}
    assert aggregate(events, snapshot(b'{"a":10,"b":1}'), initial_state={"a": 5}) == {"a": 11, "b": 1}
    assert aggregate(events, snapshot(b'{"a":{"$sum":10}}')) == {"a": 11}
    assert aggregate(events, {"a": 2}) == {"a": 3}


def test_folding_on_from_what_travelled_as_json_is_folding_at_once() -> None:
    first, second = [{"a": Sum(1), "b": Overwrite(1)}], [{"a": Sum(2)}, {"c": 1}]
    raw, _ = encode_value(foldl(first), Limits())
    assert raw == b'{"a":{"$sum":1},"b":{"$overwrite":1}}'
    assert finalize(foldl(second, msgspec.json.decode(raw))) == finalize(foldl(first + second))


def test_a_sum_stays_a_number_where_doubles_overflow() -> None:
    for left, right in ((10**400, 1.5), (1e308, 1e308), (-1e308, -(10**308))):
        total = foldl([{"a": Sum(left)}, {"a": Sum(right)}])["a"].value
        assert total == int(left) + int(right)
    assert foldl([{"a": Sum(1)}, {"a": Sum(float("nan"))}])["a"].value != 1


def test_the_public_names_are_the_references() -> None:
    assert set(aggregator.__all__) == {"foldl", "foldr", "finalize", "aggregate", "Sum", "Overwrite"}
