"""JSON from others: what is read, what is refused, and that refusing is never slow."""

from __future__ import annotations

import pytest

from shoal.errors import InvalidRequest
from shoal.model.payload import check_json
from shoal.types import Limits

LIMITS = Limits()
MIB = 1024 * 1024


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (b"null", None),
        (b' {"a" : [1, 2.5, -0, "x"]}\r\n\t', {"a": [1, 2.5, 0, "x"]}),
        (b'"\\ud83d\\ude00\\u0000\\/"', "\U0001f600\0/"),
        ('"käse"'.encode(), "käse"),
        (b"1" * 400, int("1" * 400)),
        (b"1e308", 1e308),
        (b"1e-999", 0.0),
        (b"[" * 64 + b"]" * 64, None),
        (b'{"a":{"a":1},"b":{"a":2}}', {"a": {"a": 1}, "b": {"a": 2}}),
        (b'{"":1,"\\u0000":2}', {"": 1, "\0": 2}),
    ],
    ids=lambda raw: repr(raw)[:20],
)
def test_json_is_read(raw: bytes, value: object) -> None:
    read = check_json(raw, LIMITS)
    assert value is None or read == value


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b" ",
        b"{",
        b"[1,]",
        b"[1] x",
        b"{'a':1}",
        b"nul",
        b"01",
        b"+1",
        b".5",
        b"1.",
        b"1_0",
        b"/**/1",
        b"NaN",
        b"[Infinity]",
        b"-Infinity",
        b"1e999",
        b'{"a":[-1e400]}',
        b"1.7976931348623159e308",
        b"1" * 5_000,
        b"\xef\xbb\xbf1",
        b'"\xff"',
        b'"\xc0\x80"',
        b'"\xed\xa0\x80"',
        b'{"\xff":1}',
        b'"\\ud800"',
        b'"\\ud800\\u0041"',
        b'{"\\udc00":1}',
        b'"a\nb"',
        b'"\x00"',
        b"1\x00",
        b"[" * 65 + b"]" * 65,
        b'{"a":' * 65 + b"1" + b"}" * 65,
        '"a"'.encode("utf-16"),
    ],
    ids=lambda raw: repr(raw)[:20],
)
def test_what_is_not_strict_json_is_refused_with_the_pointer(raw: bytes) -> None:
    with pytest.raises(InvalidRequest, match="JSON") as caught:
        check_json(raw, LIMITS, "/events/3/data")
    assert caught.value.pointer == "/events/3/data"


@pytest.mark.parametrize(
    "raw",
    [
        b'{"a":1,"a":1}',
        b'{"a":1,"b":2,"a":3}',
        b'{"a":1,"\\u0061":2}',
        b'{"a" :1,"a"\n:2}',
        b'{"a"\t:1,"a"\r:2}',
        b'[{"x":{"a":1,"a":1}}]',
        b'{"a":{},"a":[]}',
        b'{"a":":","a":"b:c"}',
        b'{"x":"\\":","a":1,"a":2}',
        b'{"x":":\\"","a" :1,"a":2}',
        b'{"":1,"":1}',
        b'{"x":1,"a" :1,"a":2}',
        b'{"x":1,"a"\t:1,"a":2}',
        b'{"x":1,"a"\n:1,"a":2}',
        b'{"x":1,"a"\r:1,"a":2}',
    ],
)
def test_a_key_twice_in_one_object_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidRequest, match="twice in one object"):
        check_json(raw, LIMITS)


@pytest.mark.parametrize(
    "raw",
    [b'{"a":"\\":","b":":"}', b'[":", "\\":", " :"]', b'":"', b'{"a" : "b :c", "b":1}', b'{"\\":":1,":":2}'],
)
def test_colons_inside_texts_are_no_keys(raw: bytes) -> None:
    check_json(raw, LIMITS)


@pytest.mark.parametrize(
    "raw",
    [
        b"[" * (16 * MIB),
        b'{"a":' * (3 * MIB),
        b"[" * 900_000,
        b"[" + b"{}," * (5 * MIB) + b"{}]",
        b"[" + b'{"":0,"":0},' * 80_000 + b"0]",
        b"9" * (16 * MIB),
        b'"' + b'\\":' * MIB,
        b'{"a":":"' + b',"k":0' * 50_000 + b"}",
    ],
    ids=["arrays", "objects", "deep", "wide", "twice", "digits", "open", "colons"],
)
def test_a_bomb_is_refused_at_once(raw: bytes) -> None:
    with pytest.raises(InvalidRequest):
        check_json(raw, LIMITS)


def test_a_large_honest_document_is_read() -> None:
    raw = b"[" + b'{"a":[1,2]},' * 100_000 + b"0]"
    assert len(check_json(raw, LIMITS)) == 100_001
