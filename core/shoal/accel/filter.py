"""Filters over many texts: wildcards, prefixes, suffixes, regular expressions. Case counts, order is kept.

A wildcard's time is bounded (see `shoal.wildcard`). A regular expression's is not: never take one from
a stranger.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

from shoal.wildcard import compile_wildcard, wildcard_to_regex

__all__ = [
    "compile_wildcard",
    "count_matches",
    "filter_by_prefix",
    "filter_by_regex",
    "filter_by_suffix",
    "filter_by_wildcard",
    "has_prefix",
    "has_suffix",
    "implementation",
    "is_native",
    "is_valid_regex",
    "match_indices",
    "regex_match",
    "wildcard_match",
    "wildcard_to_regex",
]


def is_native() -> bool:
    """Never so far: the matching itself is the C code of `re` and `str` already."""
    return False


def implementation() -> Literal["native", "python"]:
    """Which one it is."""
    return "native" if is_native() else "python"


def wildcard_match(text: str, pattern: str) -> bool:
    """Whether the whole text matches the wildcard; for many texts compile it once."""
    return compile_wildcard(pattern)(text)


def regex_match(text: str, pattern: str) -> bool:
    """Whether the regular expression is found in the text; an invalid one matches nothing."""
    compiled = _compiled(pattern)
    return compiled is not None and compiled.search(text) is not None


def is_valid_regex(pattern: str) -> bool:
    """Whether `re` takes the regular expression."""
    return _compiled(pattern) is not None


def has_prefix(text: str, prefix: str) -> bool:
    """Whether the text begins so."""
    return text.startswith(prefix)


def has_suffix(text: str, suffix: str) -> bool:
    """Whether the text ends so."""
    return text.endswith(suffix)


def filter_by_wildcard(texts: Iterable[str], pattern: str) -> list[str]:
    """The texts that match the wildcard."""
    return list(filter(compile_wildcard(pattern), texts))


def filter_by_regex(texts: Iterable[str], pattern: str) -> list[str]:
    """The texts the regular expression is found in; none if it is invalid."""
    compiled = _compiled(pattern)
    return [] if compiled is None else list(filter(compiled.search, texts))


def filter_by_prefix(texts: Iterable[str], prefix: str) -> list[str]:
    """The texts that begin so."""
    return [text for text in texts if text.startswith(prefix)]


def filter_by_suffix(texts: Iterable[str], suffix: str) -> list[str]:
    """The texts that end so."""
    return [text for text in texts if text.endswith(suffix)]


def match_indices(texts: Iterable[str], pattern: str) -> list[int]:
    """Where the texts are that match the wildcard, from 0."""
    matches = compile_wildcard(pattern)
    return [index for index, text in enumerate(texts) if matches(text)]


def count_matches(texts: Iterable[str], pattern: str) -> int:
    """How many texts match the wildcard."""
    return sum(map(compile_wildcard(pattern), texts))


def _compiled(pattern: str) -> re.Pattern[str] | None:
    try:
        return re.compile(pattern)
    except (re.error, OverflowError, RecursionError):
        return None
