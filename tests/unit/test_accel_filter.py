"""Filters over texts: wildcards, prefixes, suffixes, regular expressions."""

from __future__ import annotations

from time import process_time

import pytest

from shoal.accel import filter as accel_filter
from shoal.accel.filter import (
    count_matches,
    filter_by_prefix,
    filter_by_regex,
    filter_by_suffix,
    filter_by_wildcard,
    has_prefix,
    has_suffix,
    is_valid_regex,
    match_indices,
    regex_match,
    wildcard_match,
    wildcard_to_regex,
)

IDS = ["order-1", "user-1", "order-22", "Order-3", "order-"]


@pytest.mark.parametrize(
    ("pattern", "text", "matches"),
    [
        ("order-*", "order-1", True),
        ("order-*", "order-", True),
        ("order-*", "Order-1", False),
        ("order-*", "my-order-1", False),
        ("user-?", "user-1", True),
        ("user-?", "user-12", False),
        ("user-?", "user-", False),
        ("*", "", True),
        ("**", "x", True),
        ("", "", True),
        ("", "x", False),
        ("?", "\U0001f41f", True),
        ("*-1", "a-1-1", True),
        ("*-1", "a-12", False),
        ("a*a", "a", False),
        ("a*a", "aa", True),
        ("a?*b", "ab", False),
        ("a?*b", "axb", True),
        ("*ab*ab", "abab", True),
        ("*ab*ab", "aab", False),
        ("a*?", "ab", True),
        ("*.*", "a.b", True),
        ("*.*", "ab", False),
        ("a.b", "axb", False),
        ("[a]", "[a]", True),
        ("[a]", "a", False),
        ("a\\*", "a\\x", True),
        ("*\n", "a\n", True),
        ("a", "a\n", False),
        ("a*b?c*d", "a1b2c3d", True),
        ("a*b?c*d", "a1bc3d", False),
    ],
)
def test_a_wildcard_matches_whole_texts(pattern: str, text: str, matches: bool) -> None:
    assert wildcard_match(text, pattern) is matches


@pytest.mark.parametrize(
    "pattern", ["*a" * 200 + "b", "*a*a*a*b", "*" + "a?" * 200 + "b", "*?" * 250 + "b", "*" * 500 + "b"]
)
def test_no_wildcard_is_slow(pattern: str) -> None:
    text = "a" * 512
    begin = process_time()
    assert not wildcard_match(text, pattern)
    assert process_time() - begin < 0.5


def test_many_texts_are_filtered_in_order() -> None:
    assert filter_by_wildcard(IDS, "order-*") == ["order-1", "order-22", "order-"]
    assert filter_by_prefix(IDS, "order-") == ["order-1", "order-22", "order-"]
    assert filter_by_suffix(IDS, "-1") == ["order-1", "user-1"]
    assert filter_by_regex(IDS, r"\d\d") == ["order-22"]
    assert match_indices(IDS, "*-1") == [0, 1]
    assert match_indices(IDS, "user-1") == [1]
    assert count_matches(IDS, "order-*") == 3
    assert count_matches([], "*") == 0


def test_prefixes_and_suffixes_count_case() -> None:
    assert has_prefix("order-1", "order")
    assert not has_prefix("order-1", "Order")
    assert has_suffix("order-1", "-1")
    assert not has_suffix("order-1", "-2")


def test_an_invalid_regex_matches_nothing() -> None:
    assert regex_match("order-1", "r-[0-9]$")
    assert not regex_match("order-1", "^1")
    assert is_valid_regex("a|b")
    for invalid in ("[", "(", "a{99999999999}", "(" * 5_000 + ")" * 5_000):
        assert not is_valid_regex(invalid)
        assert not regex_match(invalid, invalid)
        assert filter_by_regex([invalid], invalid) == []


def test_a_wildcard_without_stars_is_a_plain_expression() -> None:
    assert wildcard_to_regex("a.b?") == r"a\.b."
    assert wildcard_to_regex("orders-*") == r"orders\-.*"


def test_it_says_what_it_is() -> None:
    assert (accel_filter.is_native(), accel_filter.implementation()) == (False, "python")
