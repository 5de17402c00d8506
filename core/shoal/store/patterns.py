"""Which patterns a stream's id matches, looked at once for each stream and then remembered."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Final

from shoal.wildcard import compile_wildcard

REMEMBERED: Final = 8_192
"""Stream ids and matches of theirs that are remembered; then it begins anew."""
SPARE: Final = 64
"""Patterns nobody waits by that stay known, beyond as many as are waited by: a consumer comes back soon."""


class Patterns:
    """Known patterns. `wanted` are those that somebody waits by, as they are at any time."""

    def __init__(self, wanted: Collection[str]) -> None:
        self._wanted = wanted
        self._known: dict[str, Callable[[str], bool]] = {}
        self._found: dict[str, Sequence[str]] = {}
        self._size = 0

    def want(self, pattern: str) -> None:
        """The pattern is known from now on, as long as it is wanted."""
        if pattern in self._known:
            return
        if len(self._known) >= 2 * len(self._wanted) + SPARE:
            self._known = {each: self._known[each] for each in self._wanted if each in self._known}
        self._known[pattern] = compile_wildcard(pattern)
        self._forget()

    def of(self, stream_id: str) -> Sequence[str]:
        """The known patterns that match; also some that are not wanted any more."""
        found = self._found.get(stream_id)
        if found is None:
            found = [pattern for pattern, matches in self._known.items() if matches(stream_id)]
            if self._size > REMEMBERED:
                self._forget()
            self._found[stream_id] = found
            self._size += 1 + len(found)
        return found

    def _forget(self) -> None:
        self._found.clear()
        self._size = 0
