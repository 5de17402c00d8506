"""The wildcard grammar of stream patterns: `*` any run, `?` one character, all else literal, anchored.

Shared by `model.query` and `accel.filter`, which may not import each other.
"""

from __future__ import annotations

import re
from collections.abc import Callable


def compile_wildcard(pattern: str) -> Callable[[str], bool]:
    """A predicate for whole texts. Its time is at most len(pattern) * len(text), whatever the pattern."""
    stars = pattern.count("*")
    if "?" not in pattern:
        if stars == 0:
            return pattern.__eq__
        if stars == 1 and pattern.endswith("*"):
            prefix = pattern[:-1]
            return lambda text: text.startswith(prefix)
    matches = re.compile(wildcard_to_regex(pattern), re.DOTALL).fullmatch
    return lambda text: matches(text) is not None


def wildcard_to_regex(pattern: str) -> str:
    """A regular expression equal to `pattern`, for `re.fullmatch` with `re.DOTALL`.

    Each run between two stars is taken at its first place, in an atomic group: a later place can never
    match where the first does not, and so there is nothing to backtrack into. The run behind the last
    star is looked for at the end only.
    """
    first, *runs = re.split(r"\*+", pattern)
    if not runs:
        return _literal(first)
    *middle, last = runs
    found = "".join(f"(?>.*?{_literal(run)})" for run in middle)
    ending = f"(?=.{{{len(last)}}})(?>.*)(?<={_literal(last)})" if last else ".*"
    return _literal(first) + found + ending


def _literal(run: str) -> str:
    return ".".join(re.escape(part) for part in run.split("?"))
