"""Digests of contents: equal for equal contents however they were sent, different for different ones."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

import cbor2
import msgspec
import pytest

from shoal.model.payload import content_digest, encode_value
from shoal.types import BINARY, CBOR, JSON, Limits

LIMITS = Limits()


def digest(
    data: bytes = b"1",
    content_type: str | None = None,
    metadata: bytes | None = None,
    metadata_type: str | None = None,
    tags: list[str] | None = None,
    event_type: str = "t",
) -> bytes:
    return content_digest(event_type, data, content_type, metadata, metadata_type, tags)


def test_a_digest_is_blake2b_of_the_canonical_form_and_never_changes() -> None:
    raw = b'{"b":[1.5,null,true,"\xc3\xa9"],"a":-3.0}'
    canonical = bytes.fromhex(
        "94 a174"  # [type,
        "92 c0 82 a161 fd a162 94 cb3ff8000000000000 c0 c3 a2c3a9"  # [null, {"a": -3, "b": [1.5, null, true, "é"]}],
        "92 c0 81 a16b 01"  # [null, {"k": 1}],
        "91 a178"  # ["x"]]
    )
    expected = blake2b(canonical, digest_size=16).digest()
    assert digest(raw, metadata=b'{"k":1}', tags=["x"]) == expected
    assert expected.hex() == "c01129ad739159abbcdaea4c562e1672"


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (b'{"a":1,"b":2}', b'{ "b" : 2, "a" : 1 }'),
        (b"[1.0, 1e2, -0.0, 0]", b"[1, 100, 0, -0.0]"),
        (b"1e22", b"10000000000000000000000"),
        (b'"\\u0061"', b'"a"'),
        (b'{"x":{"b":[{"d":1,"c":2.0}],"a":0}}', b'{"x":{"a":0,"b":[{"c":2,"d":1.0}]}}'),
    ],
)
def test_the_same_value_written_otherwise_is_equal(left: bytes, right: bytes) -> None:
    assert digest(left) == digest(right, JSON)
    assert digest(metadata=left) == digest(metadata=right)


@pytest.mark.parametrize(
    "value",
    [None, True, 0, -1, 1.5, 2**64 - 1, -(2**63), "é", [], {}, {"b": [1, {"a": None}], "a": "x"}, [1.0, 0.1]],
)
def test_the_same_value_as_json_and_as_cbor_is_equal(value: Any) -> None:
    as_json, as_cbor = msgspec.json.encode(value), cbor2.dumps(value)
    assert digest(as_json) == digest(as_cbor, CBOR)
    assert digest(metadata=as_json) == digest(metadata=as_cbor, metadata_type=CBOR)


def test_different_contents_differ() -> None:
    contents = [
        digest(b"1"),
        digest(b"2"),
        digest(b'"1"'),
        digest(b"true"),
        digest(b"null"),
        digest(b"[]"),
        digest(b"{}"),
        digest(b"1.5"),
        digest(b"0"),
        digest(str(2**64).encode()),
        digest(str(2**64 + 1).encode()),
        digest(str(-(2**64)).encode()),
        digest(b'["a"]'),
        digest(b"1", BINARY),
        digest(b"1", "text/plain"),
        digest(b'"AQ=="'),
        digest(b"\1", BINARY),
        digest(b"\x41\1", CBOR),
        digest(event_type="u"),
        digest(tags=["a"]),
        digest(tags=["b"]),
        digest(tags=["a", "b"]),
        digest(tags=["b", "a"]),
        digest(metadata=b'{"a":1}'),
        digest(metadata=b'{"a":2}'),
        digest(metadata=b'{"b":1}'),
    ]
    assert len(set(contents)) == len(contents)


def test_no_metadata_and_no_tags_are_as_empty_ones() -> None:
    assert digest() == digest(metadata=b"{ }", tags=[]) == digest(metadata=b"\xa0", metadata_type=CBOR)


@pytest.mark.parametrize(
    ("raw", "content_type"),
    [
        (b"{", None),
        (b"", None),
        (b"\xff", CBOR),
        (b"\xc0\x00", CBOR),
        (b"[" * 5_000 + b"]" * 5_000, None),
        (b"\x81" * 5_000 + b"\x00", CBOR),
        (b"9" * 4_299, None),
        (b"1e308", None),
        (b"x", "image/png"),
    ],
    ids=lambda raw: repr(raw)[:20],
)
def test_whatever_is_stored_has_a_digest_of_its_own(raw: bytes, content_type: str | None) -> None:
    assert len(digest(raw, content_type)) == 16
    assert digest(raw, content_type) == digest(raw, content_type)
    assert digest(raw, content_type) != digest(raw, BINARY)


def test_bytes_inside_a_value_are_not_their_base64() -> None:
    raw, content_type = encode_value({"a": b"\1"}, LIMITS)
    assert digest(raw, content_type) != digest(b'{"a":"AQ=="}')


def test_what_cannot_be_read_is_equal_only_to_the_same_bytes_of_the_same_type() -> None:
    digests = [digest(b"{"), digest(b"{", CBOR), digest(b"{", BINARY), digest(b"\x41{", CBOR), digest(b"{{")]
    assert len(set(digests)) == len(digests)
