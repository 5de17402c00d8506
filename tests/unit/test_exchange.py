"""Whom a new row concerns: by stream, type, tag, beginning of the stream's id, or everybody."""

from __future__ import annotations

import pytest

from shoal.store import patterns as patterns_module
from shoal.store.exchange import Exchange
from shoal.wildcard import compile_wildcard


class Ear:
    """A listener that writes down what it hears."""

    def __init__(self):
        self.heard = []

    def hear(self, row):
        self.heard.append(row[2])


def row(position, stream="s", kind="t", tags=None):
    return (stream, 0, position, b"i" * 16, kind, 1, b"{}", None, None, None, tags)


ROWS = [
    row(1, "a-1", "opened"),
    row(2, "a-2", "closed", b'["red","blue"]'),
    row(3, "b-1", "opened", b'["blue"]'),
]


@pytest.mark.parametrize(
    ("routes", "heard"),
    [
        ([("stream", "a-1")], [1]),
        ([("stream", "a")], []),
        ([("type", "opened")], [1, 3]),
        ([("type", "opened"), ("type", "closed")], [1, 2, 3]),
        ([("tag", "blue")], [2, 3]),
        ([("tag", "red"), ("tag", "blue")], [2, 2, 3]),
        ([("prefix", "a-")], [1, 2]),
        ([("prefix", "a-1")], [1]),
        ([("prefix", "")], [1, 2, 3]),
        ([("pattern", "*-1")], [1, 3]),
        ([("pattern", "?-2"), ("type", "opened")], [1, 2, 3]),
        ([("any", "")], [1, 2, 3]),
    ],
)
def test_a_row_reaches_who_waits_for_it_and_nobody_else(routes, heard):
    exchange, ear, other = Exchange(), Ear(), Ear()
    exchange.join(routes, ear)
    exchange.join([("stream", "elsewhere")], other)
    exchange.appended(ROWS)
    assert ear.heard == heard
    assert other.heard == []


def test_who_has_left_hears_nothing_and_nothing_is_kept_of_it():
    exchange, ears = Exchange(), [Ear() for _ in range(3)]
    routes = [
        [("prefix", "a-"), ("type", "t")],
        [("prefix", "b-"), ("tag", "x")],
        [("any", ""), ("pattern", "*-3"), ("stream", "s")],
    ]
    for each, ear in zip(routes, ears, strict=True):
        exchange.join(each, ear)
    exchange.leave(routes[0], ears[0])
    exchange.appended([row(1, "a-1"), row(2, "b-1")])
    assert [ear.heard for ear in ears] == [[], [2], [1, 2]]
    for each, ear in zip(routes[1:], ears[1:], strict=True):
        exchange.leave(each, ear)
    assert not any(listeners for listeners in exchange._listeners.values())
    assert not exchange._lengths
    assert not exchange._count


def test_patterns_are_looked_at_once_for_each_stream_whoever_comes_and_goes(monkeypatch):
    looked = []

    def compiled(pattern):
        matches = compile_wildcard(pattern)
        return lambda stream_id: looked.append((pattern, stream_id)) or matches(stream_id)

    monkeypatch.setattr(patterns_module, "compile_wildcard", compiled)
    exchange, one, two = Exchange(), Ear(), Ear()
    exchange.join([("pattern", "*-1")], one)
    for position in range(1, 4):
        exchange.appended([row(position, "a-1"), row(position + 10, "a-2")])
        exchange.leave([("pattern", "*-1")], one)
        exchange.join([("pattern", "*-1")], one)
    assert looked == [("*-1", "a-1"), ("*-1", "a-2")]
    exchange.join([("pattern", "*-2")], two)
    exchange.leave([("pattern", "*-1")], one)
    exchange.appended([row(4, "a-1"), row(5, "a-2")])
    assert (one.heard, two.heard) == ([1, 2, 3], [5])


def test_what_is_remembered_of_patterns_is_bounded(monkeypatch):
    monkeypatch.setattr(patterns_module, "REMEMBERED", 20)
    exchange = Exchange()
    always = Ear()
    exchange.join([("pattern", "?-*")], always)
    for number in range(500):
        ear, routes = Ear(), [("pattern", f"*-{number}")]
        exchange.join(routes, ear)
        exchange.appended([row(position, f"s-{number + position}") for position in range(30)])
        exchange.leave(routes, ear)
        assert ear.heard == [0]
        patterns = exchange._patterns
        assert sum(1 + len(found) for found in patterns._found.values()) <= 20 + 3
        assert len(patterns._known) <= 2 * 2 + patterns_module.SPARE
    assert len(always.heard) == 500 * 30


def test_two_prefixes_of_one_length_are_told_apart():
    exchange, left, right = Exchange(), Ear(), Ear()
    exchange.join([("prefix", "a-")], left)
    exchange.join([("prefix", "b-")], right)
    exchange.leave([("prefix", "a-")], left)
    exchange.appended(ROWS)
    assert (left.heard, right.heard) == ([], [3])
