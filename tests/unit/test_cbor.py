"""CBOR from others: the subset that maps to JSON, plus byte strings. Vectors from RFC 8949, appendix A."""

from __future__ import annotations

import struct
from typing import Any

import cbor2
import msgspec
import pytest

from shoal.errors import InvalidRequest
from shoal.model.cbor import GREATEST_INTEGER, LEAST_INTEGER, MAX_CONTAINERS, decode_cbor
from shoal.types import Limits

LIMITS = Limits()


@pytest.mark.parametrize(
    ("digits", "value"),
    [
        ("00", 0),
        ("17", 23),
        ("1818", 24),
        ("190003", 3),
        ("1903e8", 1000),
        ("1a000f4240", 1_000_000),
        ("1bffffffffffffffff", 2**64 - 1),
        ("20", -1),
        ("c249010000000000000000", 2**64),
        ("c349010000000000000000", -(2**64) - 1),
        ("c240", 0),
        ("c2420100", 256),
        ("3bffffffffffffffff", -(2**64)),
        ("f90000", 0.0),
        ("f93e00", 1.5),
        ("f97bff", 65504.0),
        ("fa47c35000", 100000.0),
        ("fb3ff199999999999a", 1.1),
        ("f4", False),
        ("f5", True),
        ("f6", None),
        ("40", b""),
        ("4401020304", b"\1\2\3\4"),
        ("60", ""),
        ("62c3bc", None),
        ("80", []),
        ("8301820203820405", [1, [2, 3], [4, 5]]),
        ("a0", {}),
        ("a26161016162820203", {"a": 1, "b": [2, 3]}),
        ("81" * 64 + "00", None),
        ("81" * 63 + "80", None),
    ],
)
def test_cbor_is_read(digits: str, value: Any) -> None:
    read = decode_cbor(bytes.fromhex(digits), LIMITS)
    if value is not None:
        assert (read, type(read)) == (value, type(value))


@pytest.mark.parametrize(
    ("digits", "reason"),
    [
        ("", "too early"),
        ("18", "left"),
        ("81", "left"),
        ("8201", "left"),
        ("a1", "left"),
        ("a16161", "too early"),
        ("fb3ff1", "left"),
        ("0000", "behind"),
        ("c074323031332d30332d32315432303a30343a30305a", "tag 0"),
        ("c4820100", "tag 4"),
        ("c201", "byte string"),
        ("c2", "too early"),
        ("c2d9010041", "byte string"),
        ("c2590800" + "ff" * 2048, "digits"),
        ("c3590800" + "ff" * 2048, "digits"),
        ("d81c80", "tag 28"),
        ("d9d9f700", "tag 55799"),
        ("f7", "simple"),
        ("f0", "simple"),
        ("f818", "simple"),
        ("ff", "simple"),
        ("f97c00", "finite"),
        ("f97e00", "finite"),
        ("fa7f800000", "finite"),
        ("fb7ff8000000000000", "finite"),
        ("a10102", "not text"),
        ("a1410102", "not text"),
        ("a1f600", "not text"),
        ("a2616101616102", "twice"),
        ("a26161016161f6", "twice"),
        ("9fff", "indefinite"),
        ("bfff", "indefinite"),
        ("5f4101ff", "indefinite"),
        ("7f6161ff", "indefinite"),
        ("a17f6161ff01", "indefinite"),
        ("1c", "reserved"),
        ("9e", "reserved"),
        ("61ff", "UTF-8"),
        ("63eda080", "UTF-8"),
        ("a161ff00", "UTF-8"),
        ("81" * 65 + "00", "deep"),
        ("81" * 64 + "80", "deep"),
        ("a16161" * 65 + "00", "deep"),
        ("5b7fffffffffffffff", "announced"),
        ("7bffffffffffffffff", "announced"),
        ("9b1000000000000000", "announced"),
        ("bb1000000000000000", "announced"),
        ("ba0fffffff6161", "announced"),
    ],
)
def test_anything_else_is_refused_with_reason_and_pointer(digits: str, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason) as caught:
        decode_cbor(bytes.fromhex(digits), LIMITS, "/data")
    assert caught.value.pointer == "/data"


@pytest.mark.parametrize(("longest", "sign"), [(GREATEST_INTEGER, 1), (LEAST_INTEGER, -1)])
def test_the_longest_integer_of_json_is_read_and_no_longer_one(longest: int, sign: int) -> None:
    assert (
        decode_cbor(cbor2.dumps(longest), LIMITS)
        == longest
        == msgspec.json.decode(msgspec.json.encode(longest))
    )
    with pytest.raises(InvalidRequest, match="digits"):
        decode_cbor(cbor2.dumps(longest + sign), LIMITS)


def test_a_depth_beyond_what_python_nests_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="deep"):
        decode_cbor(b"\x81" * 100_000, Limits(depth=1_000_000))


def test_more_containers_than_memory_is_meant_for_are_refused() -> None:
    size = MAX_CONTAINERS + 1
    with pytest.raises(InvalidRequest, match="more than"):
        decode_cbor(b"\x9a" + struct.pack(">I", size) + b"\xa0" * size, LIMITS)
