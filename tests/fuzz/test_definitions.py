"""Any value whatever as a definition, an option or a name of a subscription: taken, or refused as InvalidRequest."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import example, given
from hypothesis import strategies as st

from shoal.errors import InvalidRequest
from shoal.model.definitions import check_subscription_name, make_definition, make_options
from shoal.model.selectors import compile_selector
from shoal.types import Limits, SubscriptionOptions

LIMITS = Limits(depth=5, selector_bytes=200)
TYPES = ["stream", "all", "event_type", "event_pattern", "event_payload", "tags"]
OPERATORS = ["$gt", "$gte", "$lt", "$lte", "$ne", "$in", "$exists", "$other", "$"]
NO_REPR = 10**4301
LONGEST_NEGATIVE = -(10**4299)  # Python writes it, and no reader of JSON here reads it
HARD = [NO_REPR, LONGEST_NEGATIVE]

ANYTHING = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=4),
        st.binary(max_size=3),
        st.complex_numbers(),
        st.sampled_from([object(), "\ud800", "\0", "..", "single", "end"]),
        st.sampled_from([0, 1]).map(lambda which: HARD[which]),
    ),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner)
        | st.sets(st.integers(), max_size=2)
        | st.dictionaries(
            st.text(max_size=2) | st.sampled_from([*OPERATORS, "any", "all", 7, None, b"a", "\ud800"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=10,
)


def nested(levels: int) -> Any:
    value: Any = 1
    for level in range(levels):
        value = [value] if level % 2 else {"a": value}
    return {"a": value}


@given(st.sampled_from(TYPES) | ANYTHING, ANYTHING, st.none() | ANYTHING)
@example("event_payload", nested(100_000), None)
@example("event_payload", nested(199), None)
@example("tags", nested(100_000), None)
@example(nested(100_000), None, nested(100_000))
def test_any_definition_is_made_or_refused(type: Any, selector: Any, start_from: Any) -> None:  # noqa: A002
    try:
        made = make_definition(type, selector, start_from, LIMITS)
    except InvalidRequest as error:
        assert error.pointer.partition("/")[2].partition("/")[0] in ("type", "selector", "start_from")
        return
    assert len(made.selector) <= LIMITS.selector_bytes
    again = make_definition(made.type, msgspec.json.decode(made.selector), made.start_from, LIMITS)
    assert again == made
    assert compile_selector(made).routes


@given(
    st.dictionaries(
        st.sampled_from(SubscriptionOptions.__struct_fields__)
        | ANYTHING.filter(lambda value: isinstance(value, (str, int, bytes, type(None)))),
        ANYTHING,
        max_size=2,
    )
    | ANYTHING
)
@example({"backoff_ms": nested(100_000), NO_REPR: 1})
@example({NO_REPR: 1})
def test_any_options_are_made_or_refused(fields: Any) -> None:
    try:
        made = make_options(fields)
    except InvalidRequest:
        return
    assert msgspec.convert(msgspec.to_builtins(made), SubscriptionOptions) == made


@given(ANYTHING)
def test_any_name_is_taken_or_refused(name: Any) -> None:
    try:
        assert check_subscription_name(name, LIMITS) == name
    except InvalidRequest as error:
        assert error.pointer == "name"
