"""Rules for stream ids, event types, tags and event ids."""

from __future__ import annotations

from typing import Any

import pytest

from shoal.errors import InvalidRequest
from shoal.model.names import (
    check_event_id,
    check_event_type,
    check_stream_id,
    check_tags,
    check_writable_stream_id,
)
from shoal.types import Limits

LIMITS = Limits()


@pytest.mark.parametrize(
    "name", ["a", "...", "a/b c", "$x", "käse", "x" * 512, "é" * 256, "\n", "\U0001f41f" * 128]
)
def test_a_stream_id_may_be_any_text_of_up_to_512_bytes(name: str) -> None:
    check_stream_id(name, LIMITS)


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "a\0b",
        "x" * 513,
        "é" * 257,
        "\ud800",
        "a\udfff",
        "x" * 10_000_000,
        None,
        5,
        b"a",
        ["a"],
    ],
    ids=lambda name: repr(name)[:20],
)
def test_other_stream_ids_are_refused_with_a_pointer(name: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_stream_id(name, LIMITS, "writes/0/stream_id")
    assert caught.value.pointer == "writes/0/stream_id"
    assert len(str(caught.value)) < 200


def test_only_the_store_writes_to_streams_that_begin_with_a_dollar() -> None:
    check_writable_stream_id("a$", LIMITS)
    with pytest.raises(InvalidRequest, match="only the store"):
        check_writable_stream_id("$link:x", LIMITS)


def test_event_types_and_ids_have_limits_of_their_own() -> None:
    check_event_type("t" * 256, LIMITS)
    check_event_id("i" * 128, LIMITS)
    check_event_type(".", LIMITS)
    with pytest.raises(InvalidRequest):
        check_event_type("t" * 257, LIMITS)
    with pytest.raises(InvalidRequest):
        check_event_id("i" * 129, LIMITS)


def test_tags_may_be_64_of_128_bytes_and_come_twice() -> None:
    check_tags([], LIMITS)
    check_tags(("a", "a"), LIMITS)
    check_tags(["t" * 128] * 64, LIMITS)


@pytest.mark.parametrize(
    ("tags", "pointer"),
    [
        ("ab", "tags"),
        ({"a": 1}, "tags"),
        (["a"] * 65, "tags"),
        (["a", ""], "tags/1"),
        (["a", "b", 3], "tags/2"),
        (["t" * 129], "tags/0"),
        (["a\0"], "tags/0"),
        (["\udc00"], "tags/0"),
    ],
)
def test_bad_tags_are_refused_where_they_are(tags: Any, pointer: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_tags(tags, LIMITS)
    assert caught.value.pointer == pointer


def test_a_limit_is_named_to_whom_it_matters() -> None:
    """Nothing is below every limit, also below those of who asks without knowing the board's."""
    with pytest.raises(InvalidRequest, match=r"^stream_id must not be empty$"):
        check_stream_id("", LIMITS)
    with pytest.raises(InvalidRequest, match=r"^stream_id has 513 bytes, 512 are allowed$"):
        check_stream_id("x" * 513, LIMITS)
