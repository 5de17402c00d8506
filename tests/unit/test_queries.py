"""Queries: each is an index range, whatever the size of the store; nothing is scanned or sorted needlessly."""

from __future__ import annotations

import apsw
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.model.query import compile_query
from shoal.storage import queries
from shoal.storage.database import open_connection
from shoal.storage.schema import STORE_MIGRATIONS, migrate
from shoal.store.ports import Bounds, Hit
from shoal.types import EventFilter, Query, QueryItem
from shoal.wildcard import compile_wildcard

STREAMS = 20
EVENTS = 600


@pytest.fixture(scope="module")
def connection(tmp_path_factory):
    """Events of 20 streams, 3 types, 4 tags; without statistics, as on a board."""
    connection = open_connection(tmp_path_factory.mktemp("q") / "main-1.db", cache_bytes=1 << 20)
    migrate(connection, STORE_MIGRATIONS, "main")
    connection.execute("BEGIN")
    for n in range(STREAMS):
        connection.execute(
            "INSERT INTO stream (name, version, visible_from, tombstoned, chain, digest) VALUES (?,?,?,?,x'',x'')",
            (f"s{n}" if n else "$s0", EVENTS // STREAMS - 1, 0, 0),
        )
    for table, names in (("type", "xyz"), ("tag", "abcd")):
        for name in names:
            connection.execute(f"INSERT INTO {table} (name, events) VALUES (?, ?)", (name, EVENTS // 3))
    for position in range(1, EVENTS + 1):
        n = position - 1
        connection.execute(
            "INSERT INTO event VALUES (?,?,?,?,?,0,1,NULL,?,NULL,NULL,NULL,NULL,x'')",
            (position, n % STREAMS + 1, n // STREAMS, n % 3 + 1, position.to_bytes(16, "big"), b"x" * 50),
        )
        for tag in range(1, 5):
            if n % (tag + 1) == 0:
                connection.execute("INSERT INTO tagged VALUES (?,?)", (tag, position))
    connection.execute("COMMIT")
    yield connection
    connection.close()


class Explained:
    """A connection that explains what it is asked before it runs it."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self.plans: list[str] = []

    def execute(self, sql, arguments=()):
        for row in self._connection.execute(f"EXPLAIN QUERY PLAN {sql}", arguments):
            self.plans.append(row[3])
        return self._connection.execute(sql, arguments)


def bounds(direction="forward", limit=10, low=100, high=500):
    return Bounds(low, high, direction, limit, 1 << 20)


def selection(**fields):
    return EventFilter(**fields)


ASKED = {
    "head": lambda c, d: queries.head(c, "s1"),
    "stored_ids": lambda c, d: queries.stored_ids(c, "s1", [bytes(16), "x"]),
    "stream_rows": lambda c, d: queries.stream_rows(c, "s1", 3, 9, bounds(d)),
    "version_after": lambda c, d: queries.version_after(c, "s1", 300),
    "all": lambda c, d: queries.event_rows(c, selection(), bounds(d)),
    "system": lambda c, d: queries.event_rows(c, selection(system=True), bounds(d)),
    "pattern": lambda c, d: queries.event_rows(c, selection(stream_pattern="s1*"), bounds(d)),
    "type": lambda c, d: queries.event_rows(c, selection(types=("x",)), bounds(d)),
    "types": lambda c, d: queries.event_rows(c, selection(types=("x", "y")), bounds(d)),
    "tag": lambda c, d: queries.event_rows(c, selection(tags=("a",)), bounds(d)),
    "any tag": lambda c, d: queries.event_rows(c, selection(tags=("a", "b")), bounds(d)),
    "all tags": lambda c, d: queries.event_rows(
        c, selection(tags=("a", "b", "c"), tags_match="all"), bounds(d)
    ),
    "type and tag": lambda c, d: queries.event_rows(c, selection(types=("x",), tags=("a",)), bounds(d)),
    "query": lambda c, d: queries.event_rows(
        c, selection(query=Query((QueryItem(("x",), ("a",)), QueryItem((), ("b", "c"))))), bounds(d)
    ),
    "first_match": lambda c, d: queries.first_match(c, Query((QueryItem(("x",), ("d",)),)), 10, 600),
    "events_of_id": lambda c, d: queries.events_of_id(c, bytes(16), None),
    "event of id in stream": lambda c, d: queries.events_of_id(c, bytes(16), "s1"),
    "streams": lambda c, d: queries.streams(c, "", None, None, 10, False),
    "streams after": lambda c, d: queries.streams(c, "", None, "s1", 10, False),
    "streams of prefix": lambda c, d: queries.streams(c, "s1", None, "s1", 10, True),
    "streams like": lambda c, d: queries.streams(c, "", "s*", None, 10, True),
    "snapshots": lambda c, d: queries.snapshots(c, "s1", None, False),
    "snapshot at": lambda c, d: queries.snapshots(c, "s1", 4, False),
    "covering snapshot": lambda c, d: queries.covering_snapshot(c, "s1", 4),
    "latest snapshot": lambda c, d: queries.snapshots(c, "s1", 4, True),
}
WALKS_ITS_INDEX_IN_ORDER = {"streams", "streams like"}
"""They begin at the first name and stop at their limit: a walk along the index is what they are."""


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("name", ASKED)
def test_every_query_is_an_index_range(connection, name, direction):
    explained = Explained(connection)
    ASKED[name](explained, direction)
    assert explained.plans
    for step in explained.plans:
        assert "TEMP B-TREE" not in step or name in {"query", "types", "any tag"}, step
        if step.startswith("SCAN"):
            of_positions = "j VIRTUAL TABLE" in step or "CONSTANT ROW" in step
            assert of_positions or (name in WALKS_ITS_INDEX_IN_ORDER and "USING INDEX" in step), step


def test_the_events_of_a_union_are_fetched_by_position_without_sorting_rows(connection):
    """Only up to a page of numbers is ever sorted."""
    explained = Explained(connection)
    queries.event_rows(explained, selection(types=("x", "y")), bounds())
    assert [step for step in explained.plans if "TEMP B-TREE" in step] == [] or all(
        "ORDER BY" in step for step in explained.plans if "TEMP B-TREE" in step
    )


def rows_by_hand(chosen: EventFilter, at: Bounds) -> list[int]:
    found = []
    for position in range(at.low, at.high + 1):
        n = position - 1
        kind, tags = "xyz"[n % 3], {"abcd"[t - 1] for t in range(1, 5) if n % (t + 1) == 0}
        stream = f"s{n % STREAMS}" if n % STREAMS else "$s0"
        wanted = (
            (chosen.system or not stream.startswith("$"))
            and (not chosen.types or kind in chosen.types)
            and (
                not chosen.tags
                or (tags & set(chosen.tags) if chosen.tags_match == "any" else tags >= set(chosen.tags))
            )
            and (chosen.stream_pattern is None or compile_wildcard(chosen.stream_pattern)(stream))
            and (
                chosen.query is None
                or any((not i.types or kind in i.types) and tags >= set(i.tags) for i in chosen.query.items)
            )
        )
        if wanted:
            found.append(position)
    return (found if at.direction == "forward" else found[::-1])[: at.limit]


names = st.lists(st.sampled_from("xyzw"), max_size=2).map(tuple)
tags = st.lists(st.sampled_from("abcde"), max_size=3).map(tuple)
filters = st.builds(
    EventFilter,
    types=names,
    tags=tags,
    tags_match=st.sampled_from(["any", "all"]),
    stream_pattern=st.none() | st.sampled_from(["s1*", "*", "s?", "[s]*", "$*"]),
    query=st.none()
    | st.lists(st.builds(QueryItem, names, tags), min_size=1, max_size=3).map(lambda i: Query(tuple(i))),
    system=st.booleans(),
)


@given(
    filters,
    st.integers(1, 650),
    st.integers(0, 650),
    st.sampled_from(["forward", "backward"]),
    st.integers(1, 30),
)
def test_what_is_selected_is_what_the_filter_says(connection, chosen, low, width, direction, limit):
    at = Bounds(low, min(low + width, EVENTS), direction, limit, 1 << 20)
    rows, complete = queries.event_rows(connection, chosen, at)
    expected = rows_by_hand(chosen, at)
    assert [row[2] for row in rows] == expected
    assert complete == (len(expected) < limit)


def test_a_page_ends_at_its_bytes_and_says_where(connection):
    at = Bounds(1, EVENTS, "forward", 100, 120)
    rows, complete = queries.event_rows(connection, selection(system=True), at)
    assert ([row[2] for row in rows], complete) == ([1, 2, 3], False)
    assert queries.scanned_through(at, rows) == 3


def test_a_pattern_looks_at_a_bounded_number_of_rows(connection, monkeypatch):
    monkeypatch.setattr(queries, "SCAN_ROWS", 50)
    for direction, through in (("forward", 149), ("backward", 451)):
        at = bounds(direction)
        rows, complete = queries.event_rows(connection, selection(stream_pattern="nothing*"), at)
        assert (rows, complete) == ([], False)
        assert queries.scanned_through(at, rows) == through


def test_the_first_version_past_a_position_or_the_next_one(connection):
    """A tail of a long stream that begins now must not read all of it again."""
    last = EVENTS // STREAMS
    assert queries.version_after(connection, "s1", 0) == 0
    assert queries.version_after(connection, "s1", 2) == 1
    assert queries.version_after(connection, "s1", 100) == 5
    assert queries.version_after(connection, "s1", EVENTS) == last
    assert queries.version_after(connection, "missing", 0) is None


@given(st.text("ab*?[]^-!", max_size=6), st.text("ab*?[]^-!", max_size=6))
def test_globs_mean_what_our_wildcards_mean(connection, pattern, text):
    matched = connection.execute("SELECT ? GLOB ?", (text, queries.glob(pattern))).fetchone()[0]
    assert bool(matched) == compile_wildcard(pattern)(text)
    literal = connection.execute("SELECT ? GLOB ?", (text, queries.glob_literal(pattern))).fetchone()[0]
    assert bool(literal) == (pattern == text)


# ------------------------------------------------------------------------------- the first match


class Searched:
    """A connection that notes up to which position each statement looked."""

    def __init__(self, connection):
        self.connection = connection
        self.up_to = []

    def execute(self, sql, arguments=()):
        if sql.startswith("SELECT e.position"):
            self.up_to.append(arguments[-2])
        return self.connection.execute(sql, arguments)


def searched(connection, *items):
    noted = Searched(connection)
    queries.first_match(noted, Query(items), 1, EVENTS)
    return noted.up_to


ITEMS = st.lists(
    st.builds(
        QueryItem,
        st.lists(st.sampled_from("xyz?"), max_size=2).map(tuple),
        st.lists(st.sampled_from("abcd?"), max_size=4).map(tuple),
    ),
    min_size=1,
    max_size=3,
)
HIDDEN = st.dictionaries(
    st.sampled_from([f"s{n}" for n in range(1, STREAMS)]), st.sampled_from([0, 3, 2**60])
)


@given(ITEMS, st.integers(1, EVENTS), st.integers(1, 2 * EVENTS), HIDDEN, st.sampled_from([1, 7, 4_096]))
def test_the_first_match_is_the_first_of_all(connection, items, low, high, hidden, first_range):
    matches = compile_query(Query(tuple(items)))
    first = None
    for position in range(low, min(high, EVENTS) + 1):
        n = position - 1
        stream = f"s{n % STREAMS}" if n % STREAMS else "$s0"
        tags = [tag for index, tag in enumerate("abcd", start=1) if n % (index + 1) == 0]
        shown = n // STREAMS >= hidden.get(stream, 0)
        if first is None and shown and matches(stream, "xyz"[n % 3], tags):
            first = Hit(position, stream, n // STREAMS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(queries, "FIRST_RANGE", first_range)
        assert queries.first_match(connection, Query(tuple(items)), low, high, hidden) == first


def test_the_same_item_many_times_costs_what_it_costs_once(connection):
    items = (QueryItem(("x",), ("a", "b")), QueryItem((), ("d",)))
    assert searched(connection, *items * 32) == searched(connection, *items)


def test_a_match_at_once_spares_looking_for_those_of_other_items(connection, monkeypatch):
    monkeypatch.setattr(queries, "FIRST_RANGE", 8)
    at_2, at_1, at_3 = QueryItem(("y",)), QueryItem((), ("a", "b", "c", "d")), QueryItem(("z",))
    assert searched(connection, at_3, at_2, at_1, at_3) == [8, 2, 1]
    assert searched(connection, QueryItem(("x",), ("a", "b")))[0] == 8


def test_an_item_may_have_more_tags_than_sqlite_joins_tables(connection):
    connection.execute("BEGIN")
    try:
        tags = tuple(f"many-{n}" for n in range(64))
        for number, name in enumerate(tags, start=10):
            connection.execute("INSERT INTO tag VALUES (?, ?, 2)", (number, name))
            connection.executemany("INSERT INTO tagged VALUES (?, ?)", [(number, 7), (number, 9)])
        connection.execute("DELETE FROM tagged WHERE tag = 73 AND position = 7")
        for types in ((), ("z",)):
            query = Query((QueryItem(types, tags),))
            assert queries.first_match(connection, query, 1, EVENTS).position == 9
            rows, complete = queries.event_rows(connection, EventFilter(query=query), bounds(low=1))
            assert ([row[2] for row in rows], complete) == ([9], True)
        connection.execute("UPDATE type SET events = 1 WHERE name = 'z'")  # the type leads now
        assert queries.first_match(connection, query, 1, EVENTS).position == 9
    finally:
        connection.execute("ROLLBACK")
