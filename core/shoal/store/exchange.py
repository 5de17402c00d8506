"""Which sources a new row concerns: those that wait at the head, found by what they select.

An append costs a look-up for its stream and its type, however many subscriptions wait for others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from shoal.model.machine import Row, decode_tags
from shoal.store.patterns import Patterns

Routes = Sequence[tuple[str, str]]
"""Kind and key: ("stream", id), ("type", name), ("tag", name), ("prefix", beginning of a stream id),
("pattern", what the stream's id is to match), ("any", "")."""


class Listener(Protocol):
    """A source that waits."""

    def hear(self, row: Row) -> None:
        """A row that may match, perhaps more than once."""


class Exchange:
    """Listeners by route. Nobody may join or leave while a row is heard."""

    def __init__(self) -> None:
        self._listeners: dict[str, dict[str, dict[Listener, None]]] = {
            kind: {} for kind in ("stream", "type", "tag", "prefix", "pattern", "any")
        }
        self._patterns = Patterns(self._listeners["pattern"])
        self._lengths: dict[int, int] = {}
        self._count = 0

    def join(self, routes: Routes, listener: Listener) -> None:
        """Tell the listener of every row along these routes."""
        self._count += 1
        for kind, key in routes:
            listeners = self._listeners[kind].setdefault(key, {})
            if kind == "prefix" and not listeners:
                self._lengths[len(key)] = self._lengths.get(len(key), 0) + 1
            elif kind == "pattern":
                self._patterns.want(key)
            listeners[listener] = None

    def leave(self, routes: Routes, listener: Listener) -> None:
        """Tell it no more."""
        self._count -= 1
        for kind, key in routes:
            listeners = self._listeners[kind][key]
            del listeners[listener]
            if listeners:
                continue
            del self._listeners[kind][key]
            if kind == "prefix":
                self._lengths[len(key)] -= 1
                if not self._lengths[len(key)]:
                    del self._lengths[len(key)]

    def appended(self, rows: Sequence[Row]) -> None:
        """Rows were appended: whoever waits for one of them hears of it."""
        if not self._count:
            return
        of_stream, of_type, of_tag = (self._listeners[kind] for kind in ("stream", "type", "tag"))
        of_prefix, of_pattern = self._listeners["prefix"], self._listeners["pattern"]
        everything = self._listeners["any"].get("", ())
        for row in rows:
            stream_id = row[0]
            if stream_id in of_stream:
                _tell(of_stream[stream_id], row)
            if row[4] in of_type:
                _tell(of_type[row[4]], row)
            if of_tag and row[10] is not None:
                for tag in decode_tags(row[10]):
                    if tag in of_tag:
                        _tell(of_tag[tag], row)
            for length in self._lengths:
                if stream_id[:length] in of_prefix:
                    _tell(of_prefix[stream_id[:length]], row)
            for pattern in self._patterns.of(stream_id) if of_pattern else ():
                if pattern in of_pattern:
                    _tell(of_pattern[pattern], row)
            for listener in everything:
                listener.hear(row)


def _tell(listeners: dict[Listener, None], row: Row) -> None:
    for listener in listeners:
        listener.hear(row)
