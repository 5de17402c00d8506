"""What each type of selector selects, which index serves it, and where a live row is looked up."""

from __future__ import annotations

from typing import Any

import cbor2
import msgspec
import pytest

from shoal.model import selectors
from shoal.model.definitions import make_definition
from shoal.model.machine import Row
from shoal.model.selectors import Selector, compile_selector
from shoal.types import BINARY, CBOR, EventFilter, Limits

HUGE = 10**400


def selector(type: str, wanted: Any) -> Selector:  # noqa: A002
    return compile_selector(make_definition(type, wanted, None, Limits()))


def row(
    stream_id: str = "order-1",
    event_type: str = "placed",
    data: bytes = b"{}",
    content_type: str | None = None,
    tags: list[str] | None = None,
) -> Row:
    raw = None if tags is None else msgspec.json.encode(tags)
    return (stream_id, 0, 1, b"\0" * 16, event_type, 0, data, content_type, None, None, raw)


def selects(wanted: Any, data: Any) -> bool:
    return selector("event_payload", wanted).matches(row(data=msgspec.json.encode(data)))


def test_a_stream_is_one_id_and_may_be_the_stores_own() -> None:
    found = selector("stream", "$link:*")
    assert found.matches(row("$link:*"))
    assert not found.matches(row("$link:x"))
    assert found.stream_id == "$link:*"
    assert (found.selection, found.residual) == (EventFilter(system=True), None)
    assert found.routes == (("stream", "$link:*"),)


def test_all_is_everything_but_the_stores_own() -> None:
    found = selector("all", None)
    assert found.matches(row())
    assert not found.matches(row("$link:x"))
    assert found == Selector(found.matches, None, EventFilter(), None, (("any", ""),))


def test_event_types_are_alternatives() -> None:
    found = selector("event_type", ["paid", "placed"])
    assert found.matches(row(event_type="paid"))
    assert not found.matches(row(event_type="pai"))
    assert not found.matches(row("$link:x"))
    assert found.selection == EventFilter(types=("paid", "placed"))
    assert found.routes == (("type", "paid"), ("type", "placed"))
    assert selector("event_type", "paid").routes == (("type", "paid"),)


@pytest.mark.parametrize(
    ("pattern", "stream_id", "selected", "route"),
    [
        ("order-*", "order-1", True, ("prefix", "order-")),
        ("order-?", "order-12", False, ("prefix", "order-")),
        ("o?d*", "odd-one", True, ("prefix", "o")),
        ("order-1", "order-1", True, ("prefix", "order-1")),
        ("*", "$link:x", False, ("pattern", "*")),
        ("?link:x", "$link:x", False, ("pattern", "?link:x")),
        ("*-1", "order-1", True, ("pattern", "*-1")),
        ("$link:*", "$link:x", True, ("prefix", "$link:")),
        ("$*", "order-1", False, ("prefix", "$")),
    ],
)
def test_a_pattern_finds_the_stores_own_only_if_it_begins_so(
    pattern: str, stream_id: str, selected: bool, route: tuple[str, str]
) -> None:
    found = selector("event_pattern", pattern)
    assert found.matches(row(stream_id)) is selected
    assert found.selection == EventFilter(stream_pattern=pattern, system=pattern.startswith("$"))
    assert (found.residual, found.routes) == (None, (route,))


def test_tags_any() -> None:
    found = selector("tags", ["b", "a"])
    assert found.matches(row(tags=["b", "c"]))
    assert not found.matches(row(tags=["c"]))
    assert not found.matches(row())
    assert not found.matches(row("$link:x", tags=["a"]))
    assert found.selection == EventFilter(tags=("a", "b"))
    assert found.routes == (("tag", "a"), ("tag", "b"))


def test_tags_all_are_looked_up_under_one_of_them() -> None:
    found = selector("tags", {"all": ["vip", "customer:7"]})
    assert found.matches(row(tags=["x", "customer:7", "vip"]))
    assert not found.matches(row(tags=["vip"]))
    assert not found.matches(row())
    assert found.selection == EventFilter(tags=("customer:7", "vip"), tags_match="all")
    assert found.routes == (("tag", "customer:7"),)


def test_a_payload_is_what_no_index_decides() -> None:
    found = selector("event_payload", {"a": 1})
    assert found.matches(row(data=b'{"a":1}'))
    assert not found.matches(row("$link:x", data=b'{"a":1}'))
    assert (found.selection, found.routes) == (EventFilter(), (("any", ""),))
    assert found.residual is not None
    assert found.residual(row(data=b'{"a":1}'))
    assert not found.residual(row(data=b'{"a":2}'))


@pytest.mark.parametrize(
    ("wanted", "data", "selected"),
    [
        ({"a": 1}, {"a": 1.0, "b": 2}, True),
        ({"a": 1}, {"a": True}, False),
        ({"a": 1}, {"a": "1"}, False),
        ({"a": 1}, {"b": 1}, False),
        ({"a": 0}, {"a": False}, False),
        ({"a": True}, {"a": True}, True),
        ({"a": True}, {"a": 1}, False),
        ({"a": None}, {"a": None}, True),
        ({"a": None}, {}, False),
        ({"a": "1"}, {"a": "1"}, True),
        ({"a": "1"}, {"a": 1}, False),
        ({"a": 2**53 + 1}, {"a": 2.0**53}, False),
        ({"a": HUGE}, {"a": HUGE}, True),
        ({"a": {"b": 1}}, {"a": {"b": 1, "c": 2}}, True),
        ({"a": {"b": 1}}, {"a": [1]}, False),
        ({"a": {"b": 1}}, {}, False),
        ({"a": {}}, {"a": {"b": 1}}, True),
        ({"a": {}}, {"a": 1}, False),
        ({"a": [1, "x"]}, {"a": [1.0, "x"]}, True),
        ({"a": [1]}, {"a": [True]}, False),
        ({"a": [1]}, {"a": [1, 2]}, False),
        ({"a": [1, 2]}, {"a": [2, 1]}, False),
        ({"a": []}, {"a": {}}, False),
        ({"a": [{"b": 1}]}, {"a": [{"b": 1}]}, True),
        ({"a": [{"b": 1}]}, {"a": [{"b": 1, "c": 2}]}, False),
        ({"a": [{"b": 1}]}, {"a": [{"c": 1}]}, False),
        ({"a": [{"b": {"c": 1}}]}, {"a": [{"b": {"c": 1, "d": 1}}]}, False),
        ({"a": [{}]}, {"a": [[]]}, False),
        ({"a": 1}, [1], False),
        ({"a": 1}, "a", False),
    ],
)
def test_data_has_every_key_with_an_equal_value(wanted: Any, data: Any, selected: bool) -> None:
    assert selects(wanted, data) is selected


@pytest.mark.parametrize(
    ("operators", "taken", "left"),
    [
        ({"$gt": 1}, [2, 1.5, HUGE], [1, 1.0, "2", True, None, [2], {}]),
        ({"$gte": 1}, [1, 1.0], [0.5, "1", True, None]),
        ({"$lt": 1}, [0, -1.5, -HUGE], [1, "0", False, None]),
        ({"$lte": 1}, [1], [1.5, True, "1"]),
        ({"$gt": "b"}, ["ba", "c", "\U0001f41f"], ["b", "a", 3, None, ["c"]]),
        ({"$gte": 1, "$lt": 3}, [1, 2], [0, 3]),
        ({"$ne": 1}, [2, "1", True, None, [], {}], [1, 1.0]),
        ({"$ne": None}, [0, False, ""], [None]),
        ({"$in": [1, "b"]}, [1.0, "b"], [True, "1", None, [1], {}]),
        ({"$in": [True, None]}, [True, None], [1, False, "", 0, []]),
        ({"$exists": True}, [None, 0, {}], []),
        ({"$exists": True, "$gt": 1}, [2], [1]),
    ],
)
def test_operators(operators: Any, taken: list[Any], left: list[Any]) -> None:
    for value in taken:
        assert selects({"a": operators}, {"a": value}), value
    for value in left:
        assert not selects({"a": operators}, {"a": value}), value
    assert not selects({"a": operators}, {"b": 1})


def test_only_exists_false_takes_a_key_that_is_not_there() -> None:
    assert selects({"a": {"$exists": False}}, {"b": 1})
    assert not selects({"a": {"$exists": False}}, {"a": None})
    assert selects({"a": {"b": {"$exists": False}}}, {"a": {}})
    assert not selects({"a": {"b": {"$exists": False}}}, {})


@pytest.mark.parametrize(
    ("data", "content_type"),
    [
        (b"\xff\xfe", BINARY),
        (b'{"a":1}', "text/plain"),
        (b"{", None),
        (b"", None),
        (b"", CBOR),
        (b"\xff", CBOR),
        (b"\xc1\x1b" + b"\xff" * 8, CBOR),  # a time beyond all times
        (b"\x81" * 1_000 + b"\x01", CBOR),
        (cbor2.dumps({"a": float("nan")}), CBOR),
        (cbor2.dumps({"a": HUGE, "b": b"x"}), CBOR),
        (cbor2.dumps({"a": b"x"}), CBOR),
        (cbor2.dumps({1: 1, None: 2}), CBOR),
        (cbor2.dumps([1]), CBOR),
    ],
)
@pytest.mark.parametrize(
    "wanted",
    [
        {"a": 1},
        {"a": "x"},
        {"a": {"$lt": 1}},
        {"a": {"$in": [1, "x", None]}},
        {"a": [1]},
        {"a": {"b": 1}},
    ],
)
def test_data_that_is_no_such_object_does_not_match(data: bytes, content_type: str, wanted: Any) -> None:
    assert not selector("event_payload", wanted).matches(row(data=data, content_type=content_type))


def test_cbor_is_data_like_json() -> None:
    found = selector("event_payload", {"a": {"$gt": 1}, "b": {"$ne": "x"}})
    assert found.matches(row(data=cbor2.dumps({"a": 1.5, "b": b"x"}), content_type=CBOR))


def test_an_event_is_not_passed_over_because_memory_was_short(monkeypatch: pytest.MonkeyPatch) -> None:
    def short(_raw: bytes, _content_type: str | None) -> Any:
        raise MemoryError

    monkeypatch.setattr(selectors, "decode_payload", short)
    with pytest.raises(MemoryError):
        selector("event_payload", {"a": 1}).matches(row())
