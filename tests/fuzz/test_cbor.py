"""Any bytes whatever into the CBOR reader: refused as InvalidRequest, or read as cbor2 reads them."""

from __future__ import annotations

from typing import Any

import cbor2
from hypothesis import example, given
from hypothesis import strategies as st

from shoal.errors import InvalidRequest
from shoal.model.cbor import decode_cbor
from shoal.types import Limits

LIMITS = Limits(depth=8)

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**200), 2**200)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=4)
    | st.binary(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
HEADS = st.sampled_from(
    [
        b"\x80",
        b"\x81",
        b"\x82",
        b"\xa1",
        b"\xa2",
        b"\x61a",
        b"\x41a",
        b"\xc1",
        b"\xf9\x7c\x00",
        b"\x9f",
        b"\xff",
        b"\xf7",
    ]
)
DOCUMENTS = st.binary(max_size=24) | st.lists(HEADS | st.binary(max_size=2), max_size=10).map(b"".join)


def read(raw: bytes) -> tuple[bool, Any]:
    try:
        return True, decode_cbor(raw, LIMITS)
    except InvalidRequest:
        return False, None


@given(DOCUMENTS)
@example(b"\xa2\x61a\x00\x61a\x01")
@example(b"\x9b\xff\xff\xff\xff\xff\xff\xff\xff")
def test_what_is_read_is_what_cbor2_reads(raw: bytes) -> None:
    taken, value = read(raw)
    if taken:
        assert value == cbor2.loads(raw)
        assert read(cbor2.dumps(value)) == (True, value)


@given(VALUES)
def test_what_cbor2_writes_of_the_subset_is_read(value: Any) -> None:
    assert decode_cbor(cbor2.dumps(value), Limits()) == value
    assert decode_cbor(cbor2.dumps(value, canonical=True), Limits()) == value


@given(VALUES, st.data())
def test_cut_or_changed_documents_do_no_harm(value: Any, data: st.DataObject) -> None:
    raw = bytearray(cbor2.dumps(value))
    place = data.draw(st.integers(0, len(raw) - 1))
    assert not read(bytes(raw[:place]))[0]
    raw[place] = data.draw(st.integers(0, 255))
    read(bytes(raw))
