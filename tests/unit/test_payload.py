"""Payloads: Python values to stored bytes, events to proposals, and how payloads are shown."""

from __future__ import annotations

import json
from collections import OrderedDict
from enum import IntEnum, StrEnum
from types import MappingProxyType
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest

from shoal.errors import BodyTooLarge, InvalidRequest
from shoal.ids import EventIds
from shoal.model.payload import (
    check_media_type,
    encode_metadata,
    encode_value,
    json_field,
    prepare,
    prepare_all,
    propose,
)
from shoal.tagged import Overwrite, Sum
from shoal.types import BINARY, CBOR, Limits, NewEvent, decode_payload

LIMITS = Limits()
NEW_ID = bytes(range(16))
CANONICAL = "0192f0c1-7b3e-7abc-8def-0123456789ab"


class Colour(StrEnum):
    RED = "red"


class Level(IntEnum):
    HIGH = 3


def nested(depth: int, innermost: Any = 1) -> Any:
    value = innermost
    for _ in range(depth):
        value = [value]
    return value


def ids() -> EventIds:
    return EventIds(now_ms=lambda: 1_700_000_000_000)


# ------------------------------------------------------------------------------------------------------ values


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        0,
        -(2**63),
        2**70,
        10**4299,
        1.5,
        5e-324,
        "",
        "käse \U0001f41f \0",
        [],
        {},
        {"a": 1, "b": "x", "c": None, "d": False},
        {"a": 1.5, "b": None},
        {"": {"": [{}, [], [[1, 2.5, None]]]}},
        [None, 1.5],
        nested(64),
    ],
    ids=lambda value: repr(value)[:30] if not isinstance(value, int) else "int",
)
def test_a_json_value_comes_back_as_it_was(value: Any) -> None:
    raw, content_type = encode_value(value, LIMITS)
    assert content_type is None
    assert decode_payload(raw, content_type) == value
    if not isinstance(value, int):
        assert json.loads(raw) == value


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        ((1, (2, 3)), [1, [2, 3]]),
        ({"a": (1,)}, {"a": [1]}),
        (OrderedDict(a=1), {"a": 1}),
        (MappingProxyType({"a": {"b": 1}}), {"a": {"b": 1}}),
        ({"a": Colour.RED, Colour.RED: Level.HIGH}, {"a": "red", "red": 3}),
        ({"n": Sum(2), "v": Overwrite([1])}, {"n": {"$sum": 2}, "v": {"$overwrite": [1]}}),
    ],
)
def test_values_with_an_obvious_json_form_are_taken(value: Any, plain: Any) -> None:
    raw, content_type = encode_value(value, LIMITS)
    assert (json.loads(raw), content_type) == (plain, None)


@pytest.mark.parametrize(
    ("value", "pointer"),
    [
        (float("nan"), ""),
        (float("inf"), ""),
        ({"a": float("nan")}, "/a"),
        ({"a": None, "b": [1, {"c": float("-inf")}]}, "/b/1/c"),
        ([1.5, float("nan")], "/1"),
        ({"a": (1, float("inf"))}, "/a/1"),
        ({1: 2}, ""),
        ({None: 2}, ""),
        ({"a": {True: 2}}, "/a"),
        ({"a/b~c": {1.5: 2}}, "/a~1b~0c"),
        ("\ud800", ""),
        ({"a": "\udfff"}, None),
        ({"\udfff": 1}, None),
        ({"a": ["\udfff", b""]}, "/a/0"),
        (10**5000, None),
        ({"a": [10**5000]}, None),
        ({"a": {1, 2}}, "/a"),
        (object(), ""),
        (uuid4(), ""),
        ([UUID(CANONICAL)], "/0"),
        (nested(65), "/0" * 64),
        ({"a": nested(64)}, "/a" + "/0" * 63),
        ({"a": [b"x", 2**64]}, "/a/1"),
        ({"a": [b"x", -(2**64) - 1]}, "/a/1"),
    ],
    ids=lambda value: str(type(value)),
)
def test_what_json_cannot_say_is_refused_with_a_pointer(value: Any, pointer: str | None) -> None:
    with pytest.raises(InvalidRequest) as caught:
        encode_value(value, LIMITS)
    assert pointer is None or caught.value.pointer == pointer


def test_a_value_that_holds_itself_is_refused() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(InvalidRequest, match="nested too deeply"):
        encode_value(value, LIMITS)


def test_a_value_far_too_deep_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="nested too deeply"):
        encode_value(nested(100_000), msgspec.structs.replace(LIMITS, depth=1_000_000))


@pytest.mark.parametrize("value", [b"\x00\xff", bytearray(b"\x00\xff"), memoryview(b"\x00\xff")])
def test_bytes_are_stored_as_they_are(value: Any) -> None:
    assert encode_value(value, LIMITS) == (b"\x00\xff", BINARY)


def test_a_value_with_bytes_inside_becomes_cbor_that_does_not_depend_on_order() -> None:
    value = {"b": [b"\x00", 1.5, None, True], "a": {"n": -(2**64), "t": "é"}}
    raw, content_type = encode_value(value, LIMITS)
    assert content_type == CBOR
    assert decode_payload(raw, content_type) == value
    assert encode_value(dict(reversed(value.items())), LIMITS) == (raw, content_type)


# ------------------------------------------------------------------------------------------------------ events


def test_an_event_is_prepared_with_the_servers_id() -> None:
    proposed = prepare(NewEvent("t", {"a": 1}), LIMITS, NEW_ID)
    assert proposed.event_id == NEW_ID
    assert not proposed.own_id
    assert (proposed.event_type, proposed.data, proposed.content_type) == ("t", b'{"a":1}', None)
    assert (proposed.metadata, proposed.metadata_type, proposed.tags) == (None, None, None)


def test_an_event_is_prepared_with_all_its_parts() -> None:
    event = NewEvent("t", [1], {"k": b"\1"}, ("x", "y"), CANONICAL)
    proposed = prepare(event, LIMITS, NEW_ID)
    assert (proposed.event_id, proposed.own_id) == (UUID(CANONICAL).bytes, True)
    assert proposed.tags == ["x", "y"]
    assert proposed.metadata_type == CBOR
    assert prepare(NewEvent("t", 1, event_id="order-1"), LIMITS, NEW_ID).event_id == "order-1"


def test_empty_metadata_and_tags_are_none() -> None:
    proposed = prepare(NewEvent("t", 1, {}, []), LIMITS, NEW_ID)
    assert (proposed.metadata, proposed.tags) == (None, None)


@pytest.mark.parametrize(
    ("event", "pointer"),
    [
        (NewEvent("", 1), "/event_type"),
        (NewEvent(None, 1), "/event_type"),  # type: ignore[arg-type]
        (NewEvent("t", {"a": [float("nan")]}), "/data/a/0"),
        (NewEvent("t", 1, [1]), "/metadata"),  # type: ignore[arg-type]
        (NewEvent("t", 1, b"x"), "/metadata"),  # type: ignore[arg-type]
        (NewEvent("t", 1, {"k": object()}), "/metadata/k"),
        (NewEvent("t", 1, tags="ab"), "/tags"),
        (NewEvent("t", 1, tags=["a", ""]), "/tags/1"),
        (NewEvent("t", 1, event_id=""), "/event_id"),
        (NewEvent("t", 1, event_id="a\0"), "/event_id"),
        (NewEvent("t", 1, event_id=UUID(CANONICAL)), "/event_id"),  # type: ignore[arg-type]
        (NewEvent("t", 1, data_content_type="image/png"), "/data_content_type"),
        (NewEvent("t", b"", data_content_type="png"), "/data_content_type"),
        (NewEvent("t", b"{", data_content_type="application/json"), "/data"),
        (NewEvent("t", b"\xff", data_content_type="application/cbor"), "/data"),
        ({"event_type": "t"}, ""),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_bad_event_is_refused_where_it_is_bad(event: Any, pointer: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        prepare_all([NewEvent("t", 1), event], LIMITS, ids())
    assert caught.value.pointer == f"/events/1{pointer}"


@pytest.mark.parametrize(
    ("declared", "stored"),
    [
        ("application/json", None),
        ("Application/JSON; charset=utf-8", None),
        ("application/cbor", CBOR),
        ("image/png", "image/png"),
        ('text/plain; charset="utf 8"', 'text/plain; charset="utf 8"'),
        ("application/vnd.x+json", "application/vnd.x+json"),
    ],
)
def test_media_types_are_stored_by_their_plain_names(declared: str, stored: str | None) -> None:
    assert check_media_type(declared) == stored


@pytest.mark.parametrize(
    "declared",
    [
        "",
        "a",
        "a/",
        "/a",
        "a/b\n",
        "a/b;",
        "a/b; c",
        "ä/b",
        "a/b; c=ä",
        'a/b; c="\x7f"',
        "a/" + "b" * 300,
        5,
        b"a/b",
    ],
)
def test_other_texts_are_no_media_types(declared: Any) -> None:
    with pytest.raises(InvalidRequest):
        check_media_type(declared)


def test_bytes_that_are_said_to_be_json_or_cbor_become_values() -> None:
    as_json = prepare(NewEvent("t", b'{"a": 1}', data_content_type="application/json"), LIMITS, NEW_ID)
    assert (as_json.data, as_json.content_type) == (b'{"a": 1}', None)
    as_cbor = prepare(NewEvent("t", b"\xa1\x61a\x01", data_content_type="application/cbor"), LIMITS, NEW_ID)
    assert (as_cbor.data, as_cbor.content_type) == (b"\xa1\x61a\x01", CBOR)


def test_an_event_over_its_limit_is_too_large() -> None:
    limits = Limits(event_bytes=10)
    prepare(NewEvent("t", b"x" * 10), limits, NEW_ID)
    for event in (
        NewEvent("t", b"x" * 11),
        NewEvent("t", b"x" * 11, data_content_type="a/b"),
        NewEvent("t", "x" * 9),
        NewEvent("t", 1, {"k": "xxxx"}),
    ):
        with pytest.raises(BodyTooLarge) as caught:
            prepare(event, limits, NEW_ID)
        assert caught.value.pointer == "/data"


def test_a_batch_over_its_limit_is_too_large() -> None:
    limits = Limits(events_per_append=2)
    assert len(prepare_all([NewEvent("t", 1)] * 2, limits, ids())) == 2
    with pytest.raises(BodyTooLarge):
        prepare_all([NewEvent("t", 1)] * 3, limits, ids())


def test_a_batch_must_be_a_list() -> None:
    for events in ("ab", {"a": 1}, NewEvent("t", 1), None):
        with pytest.raises(InvalidRequest):
            prepare_all(events, LIMITS, ids())  # type: ignore[arg-type]


@pytest.mark.parametrize("twice", [CANONICAL, "order-1"])
def test_an_id_twice_in_a_batch_is_refused(twice: str) -> None:
    events = [NewEvent("t", 1, event_id=twice), NewEvent("t", 2), NewEvent("t", 3, event_id=twice)]
    with pytest.raises(InvalidRequest) as caught:
        prepare_all(events, LIMITS, ids())
    assert caught.value.pointer == "/events/2/event_id"


def test_a_batch_gets_different_ascending_ids() -> None:
    prepared = prepare_all([NewEvent("t", 1)] * 100, LIMITS, ids())
    made = [event.event_id for event in prepared]
    assert made == sorted(set(made))  # type: ignore[type-var]
    assert prepare_all([], LIMITS, ids()) == []


def test_payloads_that_are_encoded_already_are_proposed_as_they_are() -> None:
    proposed = propose("t", b"[ 1 ]", None, b'{"k":1}', None, ["x"], "id", NEW_ID, LIMITS)
    assert (proposed.event_id, proposed.own_id, proposed.data, proposed.metadata) == (
        "id",
        True,
        b"[ 1 ]",
        b'{"k":1}',
    )


# ------------------------------------------------------------------------------------------------------- shown


def test_json_stands_in_json_as_it_is_but_on_one_line() -> None:
    assert json_field(b'{"a":1}', None) == ("data", b'{"a":1}')
    name, raw = json_field(b'{\r\n "a": "\\n",\n "b": 1}', "application/json")
    assert (name, json.loads(raw)) == ("data", {"a": "\n", "b": 1})
    assert not {10, 13} & set(raw)


@pytest.mark.parametrize("content_type", [BINARY, CBOR, "image/png"])
def test_anything_else_stands_in_json_as_base64(content_type: str) -> None:
    assert json_field(b"\x00\xff\xfe", content_type) == ("data_base64", b'"AP/+"')


def test_metadata_is_encoded_as_a_value_or_not_at_all() -> None:
    assert encode_metadata(None, LIMITS) == (None, None)
    assert encode_metadata({}, LIMITS) == (None, None)
    assert encode_metadata(MappingProxyType({"a": 1}), LIMITS) == (b'{"a":1}', None)
