"""Selectors: the compiled predicate agrees with the obvious one, and equal selectors are the same bytes."""

from __future__ import annotations

from datetime import UTC
from typing import Any

import cbor2
import msgspec
from hypothesis import example, given
from hypothesis import strategies as st

from shoal.model.definitions import make_definition
from shoal.model.machine import Row, decode_tags
from shoal.model.query import compile_filter
from shoal.model.selectors import Selector, compile_selector
from shoal.types import CBOR, Limits
from shoal.wildcard import compile_wildcard

LIMITS = Limits()
KEYS = st.sampled_from("abc")
# Few values, of kinds that Python takes for equal, so that they meet.
SCALARS = st.sampled_from(
    [None, True, False, 0, 1, 1.0, 1.5, 2, 2**53 + 1, 2.0**53, 10**30, "", "1", "b", "é"]
)
ORDERED = SCALARS.filter(lambda value: type(value) in (int, float, str))
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=6,
)
DATA = st.dictionaries(KEYS, VALUES, max_size=3) | VALUES
OPERATORS = st.dictionaries(
    st.sampled_from(["$gt", "$gte", "$lt", "$lte"]), ORDERED, min_size=1, max_size=2
) | st.fixed_dictionaries(
    {},
    optional={
        "$ne": SCALARS,
        "$in": st.lists(SCALARS, min_size=1, max_size=4),
        "$exists": st.booleans(),
    },
)
MEMBERS = st.recursive(
    VALUES | OPERATORS, lambda inner: st.dictionaries(KEYS, inner, max_size=2), max_leaves=4
)
PAYLOADS = st.dictionaries(KEYS, MEMBERS, min_size=1, max_size=3)

NAMES = st.sampled_from(["a", "ab", "$a", "$ab", "b"])
PATTERNS = st.text("ab*?$", min_size=1, max_size=4)
TAGS = st.lists(NAMES, min_size=1, max_size=3)
DEFINITIONS = (
    st.tuples(st.just("all"), st.none())
    | st.tuples(st.just("stream"), NAMES)
    | st.tuples(st.just("event_type"), NAMES | st.lists(NAMES, min_size=1))
    | st.tuples(st.just("event_pattern"), PATTERNS)
    | st.tuples(st.just("tags"), TAGS | st.fixed_dictionaries({"all": TAGS}))
    | st.tuples(st.just("event_payload"), PAYLOADS)
)
ROWS = st.builds(
    lambda stream_id, event_type, data, tags: row(stream_id, event_type, msgspec.json.encode(data), None, tags),
    NAMES,
    NAMES,
    DATA,
    st.none() | st.lists(NAMES, max_size=3),
)  # fmt: skip


def row(
    stream_id: str, event_type: str, data: bytes, content_type: str | None, tags: list[str] | None
) -> Row:
    raw = None if tags is None else msgspec.json.encode(tags)
    return (stream_id, 0, 1, b"", event_type, 0, data, content_type, None, None, raw)


def selector(type: str, wanted: Any) -> Selector:  # noqa: A002
    return compile_selector(make_definition(type, wanted, None, LIMITS))


# The definition of what a selector of payloads selects, as it reads.

ABSENT = object()


def kind(value: Any) -> str:
    return "number" if type(value) in (int, float) else type(value).__name__


def equal(wanted: Any, value: Any) -> bool:
    if kind(wanted) != kind(value):
        return False
    if isinstance(wanted, list):
        return len(wanted) == len(value) and all(map(equal, wanted, value))
    if isinstance(wanted, dict):
        return set(wanted) == set(value) and all(equal(wanted[key], value[key]) for key in wanted)
    return wanted == value


def passes(operator: str, operand: Any, value: Any) -> bool:
    if operator == "$exists":
        return (value is not ABSENT) == operand
    if value is ABSENT:
        return False
    if operator == "$ne":
        return not equal(operand, value)
    if operator == "$in":
        return any(equal(each, value) for each in operand)
    if kind(operand) != kind(value):
        return False
    greater, less = operand < value, value < operand
    return {"$gt": greater, "$gte": not less, "$lt": less, "$lte": not greater}[operator]


def selected(wanted: Any, value: Any) -> bool:
    if not isinstance(wanted, dict):
        return equal(wanted, value)
    if wanted and all(key.startswith("$") for key in wanted):
        return all(passes(operator, operand, value) for operator, operand in wanted.items())
    return isinstance(value, dict) and all(
        selected(member, value.get(key, ABSENT)) for key, member in wanted.items()
    )


def shuffled(draw: st.DrawFn, value: Any) -> Any:
    """The same selector, written down in another way."""
    if isinstance(value, dict):
        members = draw(st.permutations(list(value.items())))
        return {
            key: draw(st.permutations(member + member[:1])) if key == "$in" else shuffled(draw, member)
            for key, member in members
        }
    if isinstance(value, list):
        return [shuffled(draw, each) for each in value]
    if type(value) in (int, float) and float(value) == value and draw(st.booleans()):
        return float(value)
    return value


@st.composite
def written_twice(draw: st.DrawFn) -> tuple[Any, Any]:
    wanted = draw(PAYLOADS)
    return wanted, shuffled(draw, wanted)


@st.composite
def nearly_matching(draw: st.DrawFn) -> tuple[Any, Any]:
    """Data made of the selector's own values, so that selectors of several keys match too."""
    wanted = draw(PAYLOADS)
    data = {key: value for key, value in wanted.items() if draw(st.integers(0, 3))}
    return wanted, {**data, **draw(st.dictionaries(KEYS, VALUES, max_size=1))}


@given(PAYLOADS, DATA)
@example({"a": {}}, {})
def test_a_compiled_selector_selects_what_the_definition_does(wanted: Any, data: Any) -> None:
    raw = msgspec.json.encode(data)
    assert selector("event_payload", wanted).matches(row("s", "t", raw, None, None)) is selected(wanted, data)


@given(nearly_matching())
def test_so_it_does_when_data_is_much_like_the_selector(pair: tuple[Any, Any]) -> None:
    wanted, data = pair
    found = selector("event_payload", wanted)
    assert found.matches(row("s", "t", msgspec.json.encode(data), None, None)) is selected(wanted, data)
    assert found.matches(row("s", "t", cbor2.dumps(data), CBOR, None)) is selected(wanted, data)


@given(written_twice())
def test_a_selector_is_the_same_bytes_however_it_is_written(pair: tuple[Any, Any]) -> None:
    first, second = (make_definition("event_payload", wanted, None, LIMITS) for wanted in pair)
    assert first == second
    assert make_definition("event_payload", msgspec.json.decode(first.selector), None, LIMITS) == first


@given(PAYLOADS, PAYLOADS, DATA)
def test_other_bytes_are_another_selector(one: Any, other: Any, data: Any) -> None:
    first, second = (make_definition("event_payload", wanted, None, LIMITS) for wanted in (one, other))
    if first.selector == second.selector:
        assert selected(one, data) is selected(other, data)


@given(DEFINITIONS, ROWS)
def test_its_parts_together_decide_as_the_whole_does(definition: tuple[str, Any], event: Row) -> None:
    """What the indexes serve, and what they leave, is neither more nor less than `matches`."""
    found = selector(*definition)
    tags = [] if event[10] is None else decode_tags(event[10])
    of_stream = found.stream_id in (None, event[0])
    of_index = compile_filter(found.selection)(event[0], event[4], tags)
    left = found.residual is None or found.residual(event)
    assert found.matches(event) is (of_stream and of_index and left)


@given(DEFINITIONS, ROWS)
def test_what_matches_is_found_by_its_routes(definition: tuple[str, Any], event: Row) -> None:
    found = selector(*definition)
    tags = [] if event[10] is None else decode_tags(event[10])
    known = {("any", ""), ("stream", event[0]), ("type", event[4]), *(("tag", tag) for tag in tags)}
    known.update(("prefix", event[0][:length]) for length in range(len(event[0]) + 1))
    known.update(
        route for route in found.routes if route[0] == "pattern" and compile_wildcard(route[1])(event[0])
    )
    if found.matches(event):
        assert known.intersection(found.routes)


# Whatever a writer of CBOR may make of a value: NaN, bytes, keys that are no text, dates, sets.
STRANGE = st.recursive(
    SCALARS | st.binary(max_size=2) | st.floats() | st.integers() | st.datetimes() | st.decimals() | st.uuids(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(KEYS | st.integers() | st.binary(max_size=1) | st.none(), inner, max_size=3)
        | st.frozensets(st.integers(), max_size=2)
    ),
    max_leaves=6,
)  # fmt: skip


@given(
    PAYLOADS, st.binary(max_size=30), st.sampled_from([None, CBOR, "application/octet-stream", "text/plain"])
)
def test_any_bytes_match_or_not(wanted: Any, raw: bytes, content_type: str | None) -> None:
    assert selector("event_payload", wanted).matches(row("s", "t", raw, content_type, None)) in (True, False)


@given(PAYLOADS, st.dictionaries(KEYS, STRANGE, max_size=3) | STRANGE)
def test_any_value_matches_or_not(wanted: Any, data: Any) -> None:
    raw = cbor2.dumps(data, timezone=UTC)
    assert selector("event_payload", wanted).matches(row("s", "t", raw, CBOR, None)) in (True, False)
