"""The tail: what is not committed yet, its heads and deletes, and what is forgotten when SQLite has it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.model.machine import Head, RowsAppended, StoreState, StreamDeleted
from shoal.store import memory as module
from shoal.store.memory import StoreMemory
from shoal.types import EventFilter, Query, QueryItem


def row(stream, version, position, event_id=None, kind="e", tags=None):
    return (stream, version, position, event_id or f"id-{position}", kind, 1, b"123", None, None, None, tags)


def appended(*rows):
    heads = [(r[0], Head(r[1])) for r in rows]
    return RowsAppended(list(rows), [False] * len(rows), heads, 1)


@pytest.fixture
def memory():
    """Positions 1 to 6: a0 b0 a1 a2 b1 a3, each of an entry of its own."""
    made = StoreMemory(StoreState())
    for index, (stream, version) in enumerate(
        [("a", 0), ("b", 0), ("a", 1), ("a", 2), ("b", 1), ("a", 3)], start=1
    ):
        made.state.position = index
        made.apply(index, appended(row(stream, version, index)))
    return made


def positions(rows):
    return [r[2] for r in rows]


def versions(rows):
    return [r[1] for r in rows]


def test_rows_by_position(memory):
    assert positions(memory.rows(0, 99, backward=False)) == [1, 2, 3, 4, 5, 6]
    assert positions(memory.rows(2, 4, backward=True)) == [4, 3, 2]
    assert positions(memory.rows(7, 9, backward=False)) == []
    assert positions(memory.rows(1, -1, backward=True)) == []


@given(st.integers(0, 6), st.integers(-1, 8), st.integers(-1, 8), st.integers(1, 5), st.booleans())
def test_any_range_of_a_stream_after_any_commit(committed, low, high, count, backward):
    memory = StoreMemory(StoreState())
    for n in range(6):
        memory.apply(n + 1, appended(row("a", n, n + 1)))
    memory.forget(committed, committed)
    expected = [n for n in range(committed, 6) if low <= n <= high]
    expected = expected[::-1] if backward else expected
    assert versions(memory.stream_rows("a", low, high, count, backward=backward)) == expected[:count]
    ranged = memory.rows(low + 1, high + 1, backward=backward)
    assert versions(ranged) == expected


def test_what_sqlite_has_is_forgotten_and_base_moves(memory):
    memory.forget(3, 3)
    assert memory.base == 3
    assert memory.bytes == 9
    assert (memory.first_version("a"), memory.first_version("b")) == (2, 1)
    memory.forget(6, 6)
    assert memory.first_version("a") is None
    assert not memory.writes_to("a")
    assert memory.bytes == 0
    memory.forget(2, 2)
    assert memory.base == 6  # it never goes back


def test_ids_are_found_in_the_tail_alone(memory):
    assert memory.stored_id("a", "id-3").version == 1
    assert memory.stored_id("b", "id-3") is None
    assert memory.stored_id("missing", "id-3") is None
    memory.apply(7, appended(row("a", 4, 7, "later")))
    assert memory.stored_id("a", "later").position == 7
    memory.forget(3, 3)
    assert memory.stored_id("a", "id-3") is None
    assert memory.stored_id("a", "later").version == 4


def test_a_delete_hides_rows_until_sqlite_has_it(memory):
    memory.apply(7, StreamDeleted("a", Head(3, 4)))
    assert positions(memory.matching(EventFilter(), 1, 6, 10, backward=False)) == [2, 5]
    assert memory.hides(row("a", 3, 6))
    assert not memory.hides(row("a", 4, 8))
    readable = memory.readable_now()
    memory.forget(6, 6)
    assert memory.hidden()
    memory.forget(7, 6)
    assert not memory.hidden()
    assert not memory.hides(row("a", 3, 6))
    assert readable([row("a", 3, 6), row("b", 1, 5), row("a", 4, 9)]) == [row("b", 1, 5), row("a", 4, 9)]


def test_a_stream_deleted_twice_stays_hidden_until_the_second_is_committed(memory):
    memory.apply(7, StreamDeleted("a", Head(3, 4)))
    memory.apply(8, appended(row("a", 4, 7)))
    memory.apply(9, StreamDeleted("a", Head(4, 5, tombstoned=True)))
    memory.forget(7, 6)
    assert memory.hidden()
    assert memory.hides(row("a", 4, 7))
    memory.forget(9, 7)
    assert not memory.hidden()


def test_matching_selects_counts_and_turns_round():
    memory = StoreMemory(StoreState(4))
    memory.base = 0
    first = row("a", 0, 1, kind="x", tags=b'["t"]')
    rows = [first, row("$s", 0, 2, kind="x"), row("b", 0, 3), row("a", 1, 4, kind="x")]
    memory.apply(1, appended(*rows))
    assert positions(memory.matching(EventFilter(types=("x",)), 1, 4, 9, backward=False)) == [1, 4]
    assert positions(memory.matching(EventFilter(types=("x",), system=True), 1, 4, 2, backward=True)) == [
        4,
        2,
    ]
    assert positions(memory.matching(EventFilter(tags=("t",)), 1, 4, 9, backward=False)) == [1]
    assert memory.first_match(Query((QueryItem(("x",)),)), 1) == 2  # conditions see system streams too
    assert memory.first_match(Query((QueryItem(("x",)),)), 4) is None


def test_heads_that_must_stay_stay(memory, monkeypatch):
    monkeypatch.setattr(module, "HEADS_CACHED", 1)
    memory.learn("cold", Head(9))
    memory.learn("a", Head(0))
    assert memory.head("a") == Head(3)  # what is known is newer than what was fetched
    memory.apply(7, StreamDeleted("deleted", Head(-1, 0, tombstoned=True)))
    memory.forget(4, 4)
    memory.trim()
    assert [memory.knows(name) for name in ("a", "b", "cold", "deleted")] == [True, True, False, True]
    memory.forget(7, 6)
    memory.trim()
    assert not any(memory.knows(name) for name in ("a", "b", "deleted"))


def test_a_head_that_a_read_fetched_is_kept_only_where_nothing_was_forgotten_since(memory, monkeypatch):
    before = memory.times_trimmed
    memory.learn_from_read("read", Head(3), before)
    memory.learn_from_read("missing", None, before)
    memory.learn_from_read("a", Head(0), before)
    assert (memory.head("read"), memory.head("missing"), memory.head("a")) == (Head(3), None, Head(3))
    monkeypatch.setattr(module, "HEADS_CACHED", 3)
    memory.learn_from_read("no room", Head(1), before)
    memory.forget(7, 6)
    memory.trim()  # "read" may have grown and been forgotten while a read was under way
    assert memory.times_trimmed > before
    memory.learn_from_read("read", Head(3), before)
    assert not any(memory.knows(name) for name in ("no room", "read"))
    memory.learn_from_read("read", Head(4), memory.times_trimmed)
    assert memory.head("read") == Head(4)


def test_what_is_hidden_is_told_with_the_first_version_that_is_not(memory):
    assert memory.hidden() == {}
    memory.apply(7, StreamDeleted("a", Head(3, 4)))
    assert memory.hidden() == {"a": 4}
    memory.apply(8, StreamDeleted("a", Head(3, 4, tombstoned=True)))
    assert memory.hidden()["a"] > 2**53


def test_an_event_is_shown_until_a_delete_may_have_hidden_it(memory):
    assert memory.shows("a", 3, 0)
    assert memory.shows("elsewhere", 3, 0)
    memory.apply(7, StreamDeleted("a", Head(3, 4)))
    assert memory.deletes == 1
    assert not memory.shows("a", 3, 0)
    assert memory.shows("b", 1, 0)  # another stream, whose head is known
    assert not memory.shows("elsewhere", 3, 0)  # nobody knows
    assert memory.shows("elsewhere", 3, 1)
