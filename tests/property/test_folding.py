"""Folding in two steps is folding at once, and sums do not depend on the order."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from shoal.accel.aggregate import sum_field
from shoal.aggregator import Overwrite, Sum, aggregate, finalize, foldl, foldr
from shoal.model.payload import encode_value
from shoal.types import Limits

NUMBERS = st.integers(-(10**20), 10**20)
FIELDS = NUMBERS | st.builds(Sum, NUMBERS) | st.builds(Overwrite, NUMBERS) | st.none() | st.text(max_size=2)
EVENTS = st.lists(st.dictionaries(st.sampled_from("abc"), FIELDS), max_size=6)
SUMS = st.lists(st.dictionaries(st.sampled_from("abc"), st.builds(Sum, NUMBERS)), max_size=6)


@given(EVENTS, EVENTS)
def test_folding_on_from_a_state_is_folding_at_once(first: list[Any], second: list[Any]) -> None:
    assert foldl(second, foldl(first)) == foldl(first + second)


@given(EVENTS, EVENTS)
def test_a_state_that_travelled_as_json_folds_on(first: list[Any], second: list[Any]) -> None:
    travelled = msgspec.json.decode(encode_value(foldl(first), Limits())[0])
    assert aggregate(second, travelled) == aggregate(first + second)


@given(SUMS)
def test_sums_do_not_depend_on_the_order(events: list[Any]) -> None:
    assert foldl(events) == foldr(events)
    for name, total in finalize(foldl(events)).items():
        assert total == sum_field(events, name)


@given(EVENTS)
def test_finalizing_twice_is_finalizing_once(events: list[Any]) -> None:
    final = finalize(foldl(events))
    assert finalize(final) == final
