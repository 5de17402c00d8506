"""Names, definitions and options of subscriptions: what is taken, in which form, and what is refused where."""

from __future__ import annotations

from typing import Any

import pytest

from shoal.errors import InvalidRequest
from shoal.model.commands import Definition
from shoal.model.definitions import MOST_DEPTH, check_subscription_name, make_definition, make_options
from shoal.types import MAX_VERSION, Limits, SubscriptionOptions

LIMITS = Limits()
DAY_MS = 86_400_000
TYPES = ["stream", "all", "event_type", "event_pattern", "event_payload", "tags"]


def encoded(type: str, selector: Any, limits: Limits = LIMITS) -> str:  # noqa: A002
    return make_definition(type, selector, None, limits).selector.decode()


def refused(type: Any, selector: Any, start_from: Any = None, limits: Limits = LIMITS) -> InvalidRequest:  # noqa: A002
    with pytest.raises(InvalidRequest) as caught:
        make_definition(type, selector, start_from, limits)
    return caught.value


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = {"a": value}
    return value


# -------------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize("name", ["a", "...", "a/b c", "käse", "x" * 128, "é" * 64])
def test_a_name_may_be_any_text_of_up_to_128_bytes(name: str) -> None:
    assert check_subscription_name(name, LIMITS) == name


@pytest.mark.parametrize("name", ["", ".", "..", "a\0", "x" * 129, "é" * 65, "\ud800", None, 7, b"a"])
def test_other_names_are_refused(name: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_subscription_name(name, LIMITS)
    assert caught.value.pointer == "name"


# -------------------------------------------------------------------------------------------------- definitions


@pytest.mark.parametrize("wrong", ["streams", "", None, 1, ["all"], {}])
def test_a_type_is_one_of_six(wrong: Any) -> None:
    error = refused(wrong, None)
    assert error.pointer == "/type"
    assert all(name in error.detail for name in TYPES)


@pytest.mark.parametrize(
    ("given", "kept"),
    [(None, "beginning"), ("beginning", "beginning"), ("end", "end"), (0, 0), (MAX_VERSION, MAX_VERSION)],
)
def test_a_start_is_kept_as_it_was_asked_for(given: Any, kept: Any) -> None:
    assert make_definition("all", None, given, LIMITS) == Definition("all", b"null", kept)


@pytest.mark.parametrize("given", [-1, MAX_VERSION + 1, True, False, 1.0, "now", "7", [], {}])
def test_other_starts_are_refused(given: Any) -> None:
    assert refused("all", None, given).pointer == "/start_from"


@pytest.mark.parametrize(
    ("type", "selector", "expected"),
    [
        ("all", None, "null"),
        ("stream", "$link:x", '"$link:x"'),
        ("event_type", "taken", '"taken"'),
        ("event_type", ["taken"], '"taken"'),
        ("event_type", ("b", "a", "b"), '["a","b"]'),
        ("event_pattern", "order-*?", '"order-*?"'),
        ("tags", ["b", "a", "b"], '["a","b"]'),
        ("tags", {"any": ["b", "a"]}, '["a","b"]'),
        ("tags", {"all": ("b", "a", "b")}, '{"all":["a","b"]}'),
        ("tags", {"all": ["a", "a"]}, '["a"]'),
        ("event_payload", {"b": 1.0, "a": {"d": -0.0, "c": "é"}}, '{"a":{"c":"é","d":0},"b":1}'),
        ("event_payload", {"a": [2, 1.0, {"c": 1, "b": []}]}, '{"a":[2,1,{"b":[],"c":1}]}'),
        ("event_payload", {"a": {}}, '{"a":{}}'),
        ("event_payload", {"a": {"$lt": 2.0, "$gt": 1.5}}, '{"a":{"$gt":1.5,"$lt":2}}'),
        ("event_payload", {"a": {"$gte": "x", "$lte": "y"}}, '{"a":{"$gte":"x","$lte":"y"}}'),
        ("event_payload", {"a": {"$ne": None}, "b": {"$exists": True}}, '{"a":{"$ne":null},"b":{"$exists":true}}'),
        (
            "event_payload",
            {"a": {"$in": ["1", 2, 1.0, True, 1, None, False, 0, None]}},
            '{"a":{"$in":[null,false,true,0,1,2,"1"]}}',
        ),
    ],
)  # fmt: skip
def test_a_selector_has_one_form(type: str, selector: Any, expected: str) -> None:  # noqa: A002
    assert encoded(type, selector) == expected


@pytest.mark.parametrize(
    ("type", "selector", "pointer"),
    [
        ("all", {}, "/selector"),
        ("all", "x", "/selector"),
        ("stream", None, "/selector"),
        ("stream", "..", "/selector"),
        ("stream", "x" * 513, "/selector"),
        ("event_type", None, "/selector"),
        ("event_type", [], "/selector"),
        ("event_type", ["a"] * 65, "/selector"),
        ("event_type", ["a", ""], "/selector/1"),
        ("event_type", "x" * 257, "/selector"),
        ("event_pattern", "", "/selector"),
        ("event_pattern", "é" * 257, "/selector"),
        ("event_pattern", ["*"], "/selector"),
        ("tags", None, "/selector"),
        ("tags", "vip", "/selector"),
        ("tags", [], "/selector"),
        ("tags", {}, "/selector"),
        ("tags", {"none": ["a"]}, "/selector"),
        ("tags", {"all": ["a"], "any": ["b"]}, "/selector"),
        ("tags", {"all": []}, "/selector/all"),
        ("tags", {"any": "vip"}, "/selector/any"),
        ("tags", {"all": ["a", 1]}, "/selector/all/1"),
        ("tags", ["a", "x" * 129], "/selector/1"),
        ("tags", ["a"] * 65, "/selector"),
        ("event_payload", None, "/selector"),
        ("event_payload", {}, "/selector"),
        ("event_payload", [1], "/selector"),
        ("event_payload", b"{}", "/selector"),
        ("event_payload", {"$gt": 1}, "/selector/$gt"),
        ("event_payload", {"a": 1, "$exists": True}, "/selector/$exists"),
        ("event_payload", {"a": {"b/~": {"$near": 1}}}, "/selector/a/b~1~0/$near"),
        ("event_payload", {"a": {"$gt": 1, "b": 2}}, "/selector/a"),
        ("event_payload", {"t": {"$gt": True}}, "/selector/t/$gt"),
        ("event_payload", {"t": {"$gte": None}}, "/selector/t/$gte"),
        ("event_payload", {"t": {"$lt": [1]}}, "/selector/t/$lt"),
        ("event_payload", {"t": {"$lte": {}}}, "/selector/t/$lte"),
        ("event_payload", {"t": {"$ne": []}}, "/selector/t/$ne"),
        ("event_payload", {"t": {"$in": []}}, "/selector/t/$in"),
        ("event_payload", {"t": {"$in": "ab"}}, "/selector/t/$in"),
        ("event_payload", {"t": {"$in": [1, {}]}}, "/selector/t/$in/1"),
        ("event_payload", {"t": {"$exists": 1}}, "/selector/t/$exists"),
        ("event_payload", {"t": [1, {"$gt": 1}]}, "/selector/t/1/$gt"),
        ("event_payload", {"t": [{"a": {"$gt": 1}}]}, "/selector/t/0/a/$gt"),
        ("event_payload", {"t": float("nan")}, "/selector/t"),
        ("event_payload", {"t": {"$gt": float("inf")}}, "/selector/t/$gt"),
        ("event_payload", {"t": [b"x"]}, "/selector/t/0"),
        ("event_payload", {"t": {"$in": [b"x"]}}, "/selector/t/$in/0"),
        ("event_payload", {1: 1}, "/selector"),
        ("event_payload", {"t": "\ud800"}, "/selector"),
        ("event_payload", {"t": object()}, "/selector/t"),
        ("event_payload", {"t": -(10**4299)}, "/selector"),
    ],
)
def test_what_a_selector_cannot_be_is_refused_at_its_place(type: str, selector: Any, pointer: str) -> None:  # noqa: A002
    assert refused(type, selector).pointer == pointer


def test_a_selector_names_the_operators_there_are() -> None:
    detail = refused("event_payload", {"a": {"$near": 1}}).detail
    assert "$near" in detail
    assert all(name in detail for name in ("$gt", "$gte", "$lt", "$lte", "$ne", "$in", "$exists"))


def test_a_selector_is_as_deep_as_data_may_be_and_never_deeper_than_64() -> None:
    assert encoded("event_payload", nested(3), Limits(depth=3)) == '{"a":{"a":{"a":1}}}'
    assert "deep" in refused("event_payload", nested(4), limits=Limits(depth=3)).detail
    assert encoded("event_payload", nested(MOST_DEPTH), Limits(depth=1_000))
    assert "deep" in refused("event_payload", nested(MOST_DEPTH + 1), limits=Limits(depth=1_000)).detail


@pytest.mark.parametrize(
    ("type", "selector"), [("event_payload", {"a": "x" * 7}), ("event_type", ["ab", "cd", "ef"])]
)
def test_a_selector_has_at_most_so_many_bytes(type: str, selector: Any) -> None:  # noqa: A002
    size = len(encoded(type, selector))
    assert encoded(type, selector, Limits(selector_bytes=size))
    assert refused(type, selector, limits=Limits(selector_bytes=size - 1)).pointer == "/selector"


def test_what_holds_itself_or_one_part_many_times_is_refused_at_once() -> None:
    """Depth alone would not end it: each level holds twice what is below."""
    endless: list[Any] = []
    endless += [endless, endless]
    doubled: Any = 1
    for _ in range(60):
        doubled = {"a": doubled, "b": doubled}
    for value in (endless, doubled):
        assert "bytes" in refused("event_payload", {"a": value}).detail


# -------------------------------------------------------------------------------------------------- options


RANGES = [
    ("ack_timeout_ms", 100, DAY_MS),
    ("max_in_flight", 1, 100_000),
    ("max_retries", 0, 1_000),
    ("checkpoint_interval_ms", 10, 3_600_000),
    ("consumer_timeout_ms", 100, DAY_MS),
    ("pool_size", 1, 256),
    ("retention_hold_max_ms", 1, 3650 * DAY_MS),
]


def refused_option(fields: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        make_options(fields)
    return caught.value


@pytest.mark.parametrize(("name", "least", "most"), RANGES)
def test_a_number_keeps_to_its_range(name: str, least: int, most: int) -> None:
    for value in (least, most):
        assert getattr(make_options({name: value}), name) == value
    for wrong in (least - 1, most + 1, True, 500.0, "500", [500], 10**5000):
        error = refused_option({name: wrong})
        assert error.pointer == f"/{name}"
        assert name in error.detail
        assert f"from {least} to {most}" in error.detail
    assert str(most + 1) in refused_option({name: most + 1}).detail


def test_every_option_can_be_given_and_the_rest_is_as_before() -> None:
    base = SubscriptionOptions(max_retries=3, ordered=True)
    given = {"strategy": "by_stream", "ack_durability": "lazy", "backoff_ms": [0, DAY_MS], "ordered": False}
    assert make_options(given, base) == SubscriptionOptions(
        max_retries=3, strategy="by_stream", ack_durability="lazy", backoff_ms=(0, DAY_MS)
    )
    assert make_options({}, base) == base
    assert make_options({"backoff_ms": (), "retention_hold_max_ms": None}).backoff_ms == ()
    given_values = {name: getattr(base, name) for name in SubscriptionOptions.__struct_fields__}
    assert make_options(given_values) == base


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"timeout": 1}, "/timeout"),
        ({"a/b": 1}, "/a~1b"),
        ({7: 1}, "/7"),
        ({"strategy": "other"}, "/strategy"),
        ({"strategy": ["single"]}, "/strategy"),
        ({"ack_durability": None}, "/ack_durability"),
        ({"ordered": 1}, "/ordered"),
        ({"ordered": None}, "/ordered"),
        ({"max_retries": None}, "/max_retries"),
        ({"backoff_ms": 100}, "/backoff_ms"),
        ({"backoff_ms": "100"}, "/backoff_ms"),
        ({"backoff_ms": [1] * 33}, "/backoff_ms"),
        ({"backoff_ms": [1, -1]}, "/backoff_ms/1"),
        ({"backoff_ms": [DAY_MS + 1]}, "/backoff_ms/0"),
        ({"backoff_ms": [True]}, "/backoff_ms/0"),
        ([("ordered", True)], ""),
        (None, ""),
    ],
)
def test_what_an_option_cannot_be_is_refused_at_its_place(fields: Any, pointer: str) -> None:
    assert refused_option(fields).pointer == pointer


def test_32_pauses_may_be_given() -> None:
    assert make_options({"backoff_ms": [1] * 32}).backoff_ms == (1,) * 32


def test_a_refusal_says_what_can_be_chosen_and_what_was_given() -> None:
    detail = refused_option({"strategy": "random"}).detail
    assert all(word in detail for word in ("strategy", "single", "round_robin", "by_stream", "'random'"))


def test_a_refusal_does_not_repeat_all_that_was_given() -> None:
    assert len(refused_option({"strategy": "x" * 10_000}).detail) < 200
    assert len(refused("x" * 10_000, None).detail) < 200
    assert len(refused("event_payload", {"a": {"$" + "x" * 10_000: 1}}).detail) < 200
