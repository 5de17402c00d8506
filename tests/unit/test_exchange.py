"""Whom a new row concerns: by stream, type, tag, beginning of the stream's id, or everybody."""

from __future__ import annotations

import pytest

from shoal.store.exchange import Exchange


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
        [("any", ""), ("stream", "s")],
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


def test_two_prefixes_of_one_length_are_told_apart():
    exchange, left, right = Exchange(), Ear(), Ear()
    exchange.join([("prefix", "a-")], left)
    exchange.join([("prefix", "b-")], right)
    exchange.leave([("prefix", "a-")], left)
    exchange.appended(ROWS)
    assert (left.heard, right.heard) == ([], [3])
