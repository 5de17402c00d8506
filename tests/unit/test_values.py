"""Values that Python takes and a reader would not: refused before they are stored."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from shoal.errors import InvalidRequest
from shoal.model.values import encode_flat, encode_value
from shoal.types import Limits, decode_payload

LONGEST = 10**4299


@pytest.mark.parametrize("make", [lambda n: n, lambda n: n * 10 - 1, lambda n: 1 - n])
def test_the_longest_ints_can_be_read_again(make: Callable[[int], int]) -> None:
    number = make(LONGEST)
    for value in (number, {"n": number}, {"n": [number]}):
        raw, content_type = encode_value(value, Limits())
        assert decode_payload(raw, content_type) == value


@pytest.mark.parametrize("make", [lambda n: -n, lambda n: n * 10, lambda n: -n * 10])
def test_an_int_that_cannot_be_read_again_is_refused(make: Callable[[int], int]) -> None:
    number = make(LONGEST)
    for value in (number, {"n": number}, {"n": [number]}):
        with pytest.raises(InvalidRequest, match="more digits than can be read again"):
            encode_value(value, Limits(), "/data")
    lines = encode_flat([{"n": 1}, {"n": number}])
    assert lines is None


def test_digits_in_a_text_are_no_number() -> None:
    value = {"note": "-" + "1" * 5_000}
    assert decode_payload(*encode_value(value, Limits())) == value


def test_what_holds_itself_is_refused_at_once() -> None:
    lists: list[object] = []
    lists += [lists, lists]
    tuples: list[object] = []
    tuples += [(tuples,), (tuples, b"")]
    for value in (lists, tuples, {"a": lists}):
        with pytest.raises(InvalidRequest, match="in itself"):
            encode_value(value, Limits())
