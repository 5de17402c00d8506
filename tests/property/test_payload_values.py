"""Whatever JSON-like value goes in comes out again, and its digest is that of the value, not of its writing."""

from __future__ import annotations

import json
from math import inf
from typing import Any

import cbor2
from hypothesis import given
from hypothesis import strategies as st

from shoal.model.payload import check_json, content_digest, decode_cbor, encode_value
from shoal.tagged import Sum
from shoal.types import CBOR, Limits, decode_payload

LIMITS = Limits()

TEXTS = st.text(st.characters(codec="utf-8"), max_size=8)
INT64 = st.integers(-(2**63), 2**64 - 1)
NUMBERS = INT64 | st.floats(allow_nan=False, allow_infinity=False)
SCALARS = st.none() | st.booleans() | NUMBERS | TEXTS


def containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4)


JSON_VALUES = st.recursive(SCALARS | st.integers(), containers, max_leaves=12)
CBOR_VALUES = st.recursive(SCALARS | st.binary(max_size=8), containers, max_leaves=12)


def shuffled(value: Any, whole_below: float = inf) -> Any:
    """The same value with the keys the other way round, and whole floats (below the limit) as integers."""
    if isinstance(value, dict):
        return {key: shuffled(value[key], whole_below) for key in reversed(list(value))}
    if isinstance(value, list):
        return [shuffled(item, whole_below) for item in value]
    whole = isinstance(value, float) and value.is_integer() and abs(value) < whole_below
    return int(value) if whole else value


def digest(data: bytes, content_type: str | None = None) -> bytes:
    return content_digest("t", data, content_type, None, None, None)


@given(JSON_VALUES)
def test_a_json_value_comes_back(value: Any) -> None:
    raw, content_type = encode_value(value, LIMITS)
    assert content_type is None
    assert check_json(raw, LIMITS) == decode_payload(raw, None) == json.loads(raw) == value


@given(CBOR_VALUES)
def test_a_value_with_bytes_comes_back(value: Any) -> None:
    raw, content_type = encode_value([value, b"x"], LIMITS)
    assert content_type == CBOR
    assert decode_cbor(raw, LIMITS) == decode_payload(raw, CBOR) == [value, b"x"]


@given(JSON_VALUES)
def test_the_writing_does_not_change_the_digest(value: Any) -> None:
    raw, _ = encode_value(value, LIMITS)
    other = json.dumps(shuffled(value), indent=1, ensure_ascii=True).encode()
    assert digest(raw) == digest(other)


@given(st.recursive(SCALARS, containers, max_leaves=12))
def test_json_and_cbor_have_the_same_digest(value: Any) -> None:
    raw, _ = encode_value(value, LIMITS)
    other = cbor2.dumps(shuffled(value, 2.0**63))  # beyond that cbor2 writes a tag
    assert digest(raw) == digest(cbor2.dumps(value), CBOR) == digest(other, CBOR)


@given(JSON_VALUES, JSON_VALUES)
def test_different_values_have_different_digests(left: Any, right: Any) -> None:
    same = json.dumps(shuffled(left), sort_keys=True) == json.dumps(shuffled(right), sort_keys=True)
    assert (digest(encode_value(left, LIMITS)[0]) == digest(encode_value(right, LIMITS)[0])) is same


@given(st.dictionaries(TEXTS, JSON_VALUES | st.builds(Sum, NUMBERS), max_size=4))
def test_tags_travel_as_objects(value: dict[str, Any]) -> None:
    raw, _ = encode_value(value, LIMITS)
    plain = {key: {"$sum": item.value} if isinstance(item, Sum) else item for key, item in value.items()}
    assert json.loads(raw) == plain
