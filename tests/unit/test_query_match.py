"""Filters and queries as predicates over events."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.errors import InvalidRequest
from shoal.model.query import check_condition, check_filter, check_query, compile_filter, compile_query
from shoal.types import Condition, EventFilter, Limits, Query, QueryItem

LIMITS = Limits()
EVENT = ("order-1", "order_placed", ["region:eu", "vip"])
SYSTEM = ("$link:x", "order_placed", ["vip"])


@pytest.mark.parametrize(
    ("selection", "selected"),
    [
        (EventFilter(), True),
        (EventFilter(types=("order_placed",)), True),
        (EventFilter(types=("a", "order_placed")), True),
        (EventFilter(types=("order_",)), False),
        (EventFilter(tags=("vip", "x")), True),
        (EventFilter(tags=("x",)), False),
        (EventFilter(tags=("vip", "region:eu"), tags_match="all"), True),
        (EventFilter(tags=("vip", "x"), tags_match="all"), False),
        (EventFilter(stream_pattern="order-*"), True),
        (EventFilter(stream_pattern="order-?"), True),
        (EventFilter(stream_pattern="order-"), False),
        (EventFilter(types=("order_placed",), tags=("vip",), stream_pattern="*-1"), True),
        (EventFilter(types=("order_placed",), tags=("x",), stream_pattern="*-1"), False),
        (EventFilter(query=Query((QueryItem(("order_placed",), ("vip",)),))), True),
        (EventFilter(types=("order_placed",), query=Query((QueryItem(("x",)),))), False),
    ],
)
def test_every_part_of_a_filter_must_hold(selection: EventFilter, selected: bool) -> None:
    assert compile_filter(selection)(*EVENT) is selected


def test_the_stores_own_streams_are_selected_only_on_demand() -> None:
    assert not compile_filter(EventFilter())(*SYSTEM)
    assert not compile_filter(EventFilter(stream_pattern="*"))(*SYSTEM)
    assert compile_filter(EventFilter(system=True))(*SYSTEM)
    assert compile_filter(EventFilter(system=True, stream_pattern="$link:*"))(*SYSTEM)


@pytest.mark.parametrize(
    ("items", "selected"),
    [
        ((QueryItem(),), True),
        ((QueryItem(types=("order_placed", "x")),), True),
        ((QueryItem(tags=("vip", "region:eu")),), True),
        ((QueryItem(tags=("vip", "x")),), False),
        ((QueryItem(("x",), ("vip",)),), False),
        ((QueryItem(("x",)), QueryItem(("order_placed",), ("vip",))), True),
        ((QueryItem(("x",)), QueryItem(("y",))), False),
        ((), False),
    ],
)
def test_types_are_or_tags_and_items_or(items: tuple[QueryItem, ...], selected: bool) -> None:
    assert compile_query(Query(items))(*EVENT) is selected


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        (Query(()), "query/items"),
        (Query((QueryItem(),) * 65), "query/items"),
        (Query((QueryItem(), QueryItem(("",)))), "query/items/1/types/0"),
        (Query((QueryItem(tags=("a", "b\0")),)), "query/items/0/tags/1"),
        (Query((QueryItem(types=("t",) * 65),)), "query/items/0/types"),
    ],
)
def test_a_query_that_cannot_be_meant_is_refused(query: Query, pointer: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_query(query, LIMITS)
    assert caught.value.pointer == pointer
    with pytest.raises(InvalidRequest):
        check_filter(EventFilter(query=query), LIMITS)


@pytest.mark.parametrize(
    "bad", [{"types": ("",)}, {"tags": ("\ud800",)}, {"stream_pattern": ""}, {"stream_pattern": "*" * 513}]
)
def test_a_filter_that_cannot_be_meant_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        check_filter(EventFilter(**bad), LIMITS)


def test_a_good_filter_and_query_pass() -> None:
    query = Query((QueryItem(("t",), ("a",)), QueryItem()))
    check_query(query, LIMITS)
    check_filter(EventFilter(("t",), ("a",), "all", "order-*", query), LIMITS)


def test_what_is_no_filter_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="selection must be an EventFilter, not str") as caught:
        check_filter("z", LIMITS)  # type: ignore[arg-type]
    assert caught.value.pointer == "selection"


def test_lists_become_tuples_and_what_repeats_an_item_goes() -> None:
    query = check_query(Query([QueryItem(["t"], ["a"]), QueryItem(("t",), ("a",)), QueryItem()]), LIMITS)
    assert query == Query((QueryItem(("t",), ("a",)), QueryItem()))
    assert hash(check_condition(Condition(Query([QueryItem(["t"])]), 3), LIMITS))
    selection = check_filter(EventFilter(["t"], ["a"], query=Query([QueryItem(["t"])])), LIMITS)
    assert selection == EventFilter(("t",), ("a",), query=Query((QueryItem(("t",)),)))


TEXTS = st.lists(st.sampled_from("abc"), max_size=3)
ITEMS = st.lists(st.builds(QueryItem, TEXTS.map(tuple), TEXTS.map(tuple)), min_size=1, max_size=5)


@given(ITEMS, st.sampled_from("abcd"), TEXTS)
def test_any_item_that_matches_will_do(items: list[QueryItem], event_type: str, tags: list[str]) -> None:
    expected = any(
        (not item.types or event_type in item.types) and set(item.tags) <= set(tags) for item in items
    )
    assert compile_query(Query(tuple(items)))("s", event_type, tags) is expected


def test_items_about_other_events_are_not_looked_at() -> None:
    calls = 0

    def count(_frame: object, what: str, _argument: object) -> None:
        nonlocal calls
        calls += what == "call"

    matches = compile_query(Query(tuple(QueryItem(("t",), ("common", f"tag-{n}")) for n in range(64))))
    sys.setprofile(count)
    try:
        assert not matches("s", "t", ["common", "other"])
    finally:
        sys.setprofile(None)
    assert calls < 10
