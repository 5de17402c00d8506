"""Any bytes whatever into the JSON reader: refused as InvalidRequest, or read as a second reader reads them."""

from __future__ import annotations

import json
from math import isfinite
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from shoal.errors import InvalidRequest
from shoal.ids import EventIds
from shoal.model.payload import check_json, content_digest, encode_value, json_field, prepare_all
from shoal.types import Limits, NewEvent, decode_payload

LIMITS = Limits(depth=4)

STRUCTURE = [
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    '":',
    '{"a":',
    '{"b" :',
    ',"a":',
    '"\\u0061":',
    " ",
    "\n",
    "\t",
    "\0",
]
SCALARS = ["1", "-", "0", ".", "e9", "1e999", "9" * 4_301, "null", "true", "NaN"]
TEXTS = ['"', "\\", '"a"', '"\\ud83d\\ude00"', '"\\ud800"', '"é"', '"b\\":"']
PIECES = st.sampled_from([*STRUCTURE, *SCALARS, *TEXTS])
VALUES = st.recursive(
    st.sampled_from(["1", "1.5", "null", '"a:b"', '"\\":"', "-0.0"]),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda items: "[" + ", ".join(items) + "]")
        | st.lists(
            st.tuples(st.sampled_from(['"a":', '"b" :', '"\\u0061"\n:', '"\\":":']), inner), max_size=3
        ).map(lambda members: "{" + ",".join(name + value for name, value in members) + "}")
    ),
    max_leaves=8,
)
DOCUMENTS = st.binary(max_size=40) | (st.lists(PIECES, max_size=12).map("".join) | VALUES).map(str.encode)


class Refused(Exception):
    """The second reader does not take it."""


def second_reader(raw: bytes) -> Any:
    """What the standard library reads, with everything refused that a strict reader must refuse."""

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(pairs) != len(dict(pairs)):
            raise Refused
        return dict(pairs)

    def number(text: str) -> float:
        if not isfinite(float(text)):
            raise Refused
        return float(text)

    def constant(_: str) -> Any:
        raise Refused

    try:
        value = json.loads(
            raw.decode(), object_pairs_hook=members, parse_float=number, parse_constant=constant
        )
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        raise Refused from None
    if depth(value) > LIMITS.depth:
        raise Refused
    return value


def depth(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth, value.values()), default=0)
    return 1 + max(map(depth, value), default=0) if isinstance(value, list) else 0


@given(DOCUMENTS)
@example(b'{"a":1,"\\u0061":2}')
@example(b"[[[[[1]]]]]")
@example(b"-0")
def test_both_readers_agree(raw: bytes) -> None:
    try:
        expected = second_reader(raw)
    except Refused:
        expected = Refused
    try:
        value = check_json(raw, LIMITS)
    except InvalidRequest:
        assert expected is Refused
    else:
        assert value == expected
        assert len(content_digest("t", raw, None, None, None, None)) == 16
        name, shown = json_field(raw, None)
        assert (name, decode_payload(shown, None)) == ("data", value)


@given(st.binary(max_size=60), st.sampled_from([None, "application/cbor", "text/plain"]))
def test_any_stored_bytes_have_a_digest_and_can_be_shown(raw: bytes, content_type: str | None) -> None:
    assert len(content_digest("t", raw, content_type, raw, content_type, None)) == 16
    if content_type is not None:
        json.loads(json_field(raw, content_type)[1])


ANYTHING = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(),
        st.binary(),
        st.complex_numbers(),
        st.uuids(),
        st.sampled_from([object(), "\ud800"]),
        st.none().map(lambda _: 10**4301),  # has no repr
    ),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner)
        | st.dictionaries(st.text() | st.integers() | st.none(), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(ANYTHING)
def test_any_python_value_is_refused_or_comes_back_the_same_twice(value: Any) -> None:
    try:
        raw, content_type = encode_value(value, LIMITS)
    except InvalidRequest:
        return
    stored = decode_payload(raw, content_type)
    assert encode_value(stored, LIMITS) == (raw, content_type)


@given(ANYTHING, ANYTHING, ANYTHING, ANYTHING, ANYTHING)
def test_any_event_is_prepared_or_refused(
    event_type: Any, data: Any, metadata: Any, tags: Any, event_id: Any
) -> None:
    event = NewEvent(event_type, data, metadata, tags, event_id)
    try:
        (prepared,) = prepare_all([event], LIMITS, EventIds(now_ms=lambda: 0))
    except InvalidRequest as error:
        refused_at = error.pointer
    else:
        refused_at = None
        assert prepared.event_type == event_type
    assert refused_at is None or refused_at.startswith("/events/0")


EVENTS = st.builds(
    NewEvent,
    st.sampled_from(["taken", "taken", "", 7]) | st.text(max_size=3),
    st.dictionaries(st.text(max_size=3) | st.just("null"), ANYTHING, max_size=3) | ANYTHING,
    st.none() | st.dictionaries(st.text(max_size=2), st.integers(), max_size=1),
)


@given(st.lists(EVENTS, max_size=5))
@example([NewEvent("t", {"a": 1.5}), NewEvent("t", {"a": float("nan")})])
@example([NewEvent("t", {"a": 1}), NewEvent("t", {"a": None, "b": float("-inf")})])
@example([NewEvent("t", {"a": None}), NewEvent("t", {"a": 0.5, "b": "null\n"})])
@example([NewEvent("t", {"a": 1}), NewEvent("t", {"a": b"\0"}), NewEvent("t", {"b": [1]})])
@example([NewEvent("t", {"a": 1}), NewEvent("t", {1: 1})])
@example([NewEvent("t", {"a": 1}), NewEvent("t", {"a": "\ud800"})])
@example([NewEvent("t", {"a": 1}), NewEvent("", {"a": 1})])
@example([NewEvent("t", {"a": 1}), NewEvent("t", {"a": "x" * LIMITS.event_bytes})])
def test_events_prepared_together_are_as_if_each_came_alone(events: list[NewEvent]) -> None:
    def outcome(batch: list[NewEvent], first: int) -> Any:
        try:
            prepared = prepare_all(batch, LIMITS, EventIds(now_ms=lambda: 0))
        except InvalidRequest as error:
            number, _, field = error.pointer.removeprefix("/events/").partition("/")
            return error.detail, int(number) + first, field
        return [(each.event_type, each.data, each.content_type, each.metadata) for each in prepared]

    alone: Any = []
    for number, event in enumerate(events):
        found = outcome([event], number)
        if isinstance(found, tuple):
            alone = found
            break
        alone += found
    assert outcome(events, 0) == alone
