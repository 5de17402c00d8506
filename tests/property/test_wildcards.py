"""Wildcards: the compiled form agrees with the obvious one, for every pattern and text."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from shoal.accel.filter import count_matches, filter_by_wildcard, match_indices
from shoal.wildcard import compile_wildcard, wildcard_to_regex

PATTERNS = st.text("ab*?.[\\\n", max_size=10)
TEXTS = st.text("ab.[\\\n", max_size=12)


def matches(pattern: str, text: str) -> bool:
    """The definition, by dynamic programming: reach[n] says whether the pattern so far takes text[:n]."""
    reach = [True] + [False] * len(text)
    for sign in pattern:
        if sign == "*":
            first = reach.index(True) if True in reach else len(reach)
            reach = [place >= first for place in range(len(reach))]
        else:
            taken = [reach[at] and sign in ("?", character) for at, character in enumerate(text)]
            reach = [False, *taken]
    return reach[-1]


@given(PATTERNS, TEXTS)
def test_a_compiled_wildcard_matches_what_the_definition_does(pattern: str, text: str) -> None:
    expected = matches(pattern, text)
    assert compile_wildcard(pattern)(text) is expected
    assert (re.fullmatch(wildcard_to_regex(pattern), text, re.DOTALL) is not None) is expected


@given(st.text("abc*?.", max_size=12))
def test_a_pattern_matches_itself(pattern: str) -> None:
    assert compile_wildcard(pattern)(pattern)


@given(PATTERNS, st.lists(TEXTS, max_size=8))
def test_filters_agree_with_each_other(pattern: str, texts: list[str]) -> None:
    places = match_indices(texts, pattern)
    assert filter_by_wildcard(texts, pattern) == [texts[place] for place in places]
    assert count_matches(texts, pattern) == len(places)
