"""Subscriptions in a store's file: written once per commit, parked events at once, both exactly as decided."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from pathlib import Path

import apsw
import pytest
from hypothesis import given
from hypothesis import strategies as st
from subscription_kit import appended, changed, drained, parked, problems, store_at, subscription, verified

from shoal.errors import DatabaseCorrupt
from shoal.model.machine import Head, StoreState, StreamDeleted
from shoal.model.subscriptions import SubscriptionDeleted
from shoal.storage import queries
from shoal.storage.chain import row_digest
from shoal.storage.database import open_connection
from shoal.storage.schema import STORE_MIGRATIONS, migrate
from shoal.storage.subscriptions_db import SUBSCRIPTION_COLUMNS, SubscriptionsDb, stored
from shoal.storage.verify import verify_file
from shoal.storage.verify_store import Verification
from shoal.types import SubscriptionOptions

STATE = StoreState(20, 1_000)


@pytest.fixture
def store(tmp_path):
    """Events 1 to 10 of stream s, 11 to 20 of t; subscriptions a and b."""
    made = store_at(tmp_path / "main-1.db")
    made.apply([appended("s", 1, 10), appended("t", 11, 10), changed("a"), changed("b")], STATE)
    yield made
    with suppress(apsw.ConnectionClosedError):  # some tests open it again
        made.close()


def rows(store, name="a"):
    return queries.parked_rows(store.connection, name, 0, 100, 1 << 20)


def positions(store, name="a"):
    return [row[2] for row, *_ in rows(store, name)]


def counted(store):
    """The counts kept, held against the table."""
    table = dict(store.connection.execute("SELECT subscription, count(*) FROM parked GROUP BY subscription"))
    assert store.parked_counts == table
    return store.parked_counts


def test_a_subscription_is_stored_whole_and_legibly(store, tmp_path):
    options = SubscriptionOptions(max_retries=3, retention_hold_max_ms=77)
    state = subscription("w", 4, settled=(6, 9), attempts=((5, 2),), options=options, start_from=4)
    store.apply([changed("w", state)], STATE)
    store.commit(5, 1)
    row = store.connection.execute(
        "SELECT life, type, selector, start_from, json_extract(options, '$.max_retries'), checkpoint "
        "FROM subscription WHERE name = 'w'"
    ).fetchone()
    assert row == (7, "all", "{}", 4, 3, 4)
    assert problems(store) == []
    store.close()
    again = store_at(tmp_path / "main-1.db")
    assert again.subscription("w") == state
    assert again.subscriptions() == {"a": subscription("a"), "b": subscription("b"), "w": state}
    again.close()


def test_a_busy_subscription_is_written_once_per_commit(store):
    store.commit(1, 1)
    before = store.db.connection.total_changes()
    for checkpoint in range(1, 20):
        store.apply([changed("a", subscription("a", checkpoint))], STATE)
    assert store.db.connection.total_changes() == before
    assert store.subscription("a").checkpoint == store.subscriptions()["a"].checkpoint == 19
    store.flush()
    assert store.db.connection.total_changes() == before + 1
    kept = "SELECT checkpoint FROM subscription WHERE name = 'a'"
    assert store.db.connection.execute(kept).fetchone() == (19,)
    store.flush()
    assert store.db.connection.total_changes() == before + 1


def test_a_rollback_takes_back_states_parked_rows_and_counts(store):
    store.apply([changed("a", park=[parked(3)])], STATE)
    store.commit(1, 1)
    store.apply(
        [
            changed("a", subscription("a", 9), park=[parked(4), parked(12, "t")]),
            SubscriptionDeleted("b"),
            changed("c"),
        ],
        STATE,
    )
    store.flush()
    store.apply([changed("a", subscription("a", 10))], STATE)
    store.rollback()
    assert store.subscriptions() == {"a": subscription("a"), "b": subscription("b")}
    assert counted(store) == {"a": 1}
    store.commit(2, 1)
    assert store.connection.execute("SELECT name, checkpoint FROM subscription").fetchall() == [
        ("a", 0), ("b", 0),
    ]  # fmt: skip
    assert problems(store) == []


def test_parked_events_are_written_at_once_replaced_and_taken_out(store):
    store.apply([changed("a", park=[parked(3), parked(5), parked(12, "t")])], STATE)
    (direct,) = store.db.connection.execute("SELECT count(*) FROM parked")
    assert direct == (3,)
    store.apply([changed("a", park=[parked(5, reason="again", attempts=9)], unpark=[12, 13])], STATE)
    assert [(row[2], why, attempts, replaying) for row, why, attempts, replaying in rows(store)] == [
        (3, "why", 2, False), (5, "again", 9, False),
    ]  # fmt: skip
    assert counted(store) == {"a": 2}
    store.apply([changed("b", park=[parked(5)]), changed("a", unpark=[3, 5])], STATE)
    assert counted(store) == {"b": 1}
    store.commit(1, 1)
    assert problems(store) == []


def test_what_a_change_forgets_takes_out_puts_in_and_replays_comes_in_this_order(store):
    store.apply([changed("a", park=[parked(n) for n in (2, 4, 6, 8)])], STATE)
    store.apply(
        [
            changed(
                "a", forget_after=4, unpark=[2, 7], park=[parked(7), parked(9), parked(7)], replay=[9, 4, 8]
            )
        ],
        STATE,
    )
    assert queries.parked_positions(store.connection, "a", 0, 9) == [7]
    assert queries.replaying(store.connection, "a", 0, 9) == [(4, "s", 2), (9, "s", 2)]
    assert counted(store) == {"a": 3}
    store.apply([changed("b", park=[parked(1)])], STATE)
    store.apply([changed("b", forget_after=0)], STATE)
    assert counted(store) == {"a": 3}
    store.apply([changed("a", park=[parked(7, replaying=True)], replay=[9, 3])], STATE)
    assert [position for position, *_ in queries.replaying(store.connection, "a", 0, 9)] == [4, 7, 9]
    store.commit(1, 1)
    assert problems(store) == []


def test_a_deleted_subscription_takes_what_it_parked_and_may_come_again(store):
    store.apply([changed("a", park=[parked(3)]), changed("b", park=[parked(3)])], STATE)
    store.commit(1, 1)
    store.apply([changed("a", subscription("a", 9)), SubscriptionDeleted("a")], STATE)
    assert (store.subscription("a"), counted(store)) == (None, {"b": 1})
    assert store.connection.execute("SELECT name FROM subscription").fetchall() == [("b",)]
    store.apply([changed("a", subscription("a", 2, life=8), park=[parked(4)])], STATE)
    store.commit(2, 1)
    assert store.connection.execute("SELECT life FROM subscription WHERE name='a'").fetchall() == [(8,)]
    assert (positions(store), problems(store)) == ([4], [])


@pytest.mark.parametrize("hard", [False, True])
def test_a_deleted_stream_leaves_nothing_parked_in_any_subscription(store, hard):
    store.apply(
        [changed("a", park=[parked(3), parked(4), parked(12, "t")]), changed("b", park=[parked(3)])], STATE
    )
    store.apply([StreamDeleted("s", Head(9, 10, tombstoned=hard))], STATE)
    assert (counted(store), positions(store)) == ({"a": 1}, [12])
    # Settled before the delete, decided after it: nobody could look at them, or replay them.
    store.apply([changed("b", park=[parked(5), parked(13, "t"), parked(14), parked(99)])], STATE)
    assert (counted(store), positions(store, "b")) == ({"a": 1, "b": 1}, [13])
    store.commit(1, 1)
    assert problems(store) == []


def test_counts_are_known_after_a_restart(store, tmp_path):
    store.apply([changed("a", park=[parked(3), parked(4)])], STATE)
    store.commit(1, 1)
    store.close()
    again = store_at(tmp_path / "main-1.db")
    assert counted(again) == {"a": 2}
    again.close()


@pytest.mark.parametrize(
    "change",
    [
        "checkpoint = 5", "settled = x'91'", "attempts = zeroblob(3)", "options = '{'", "selector = x'00'",
        "name = CAST(x'61ff' AS TEXT)", "options = 7", "digest = x''",
    ],
)  # fmt: skip
@pytest.mark.parametrize("told", [False, True])
def test_a_changed_subscription_is_not_believed(store, tmp_path, change, told):
    """Also where its digest is right: what does not decode is no subscription."""
    store.commit(1, 1)
    store.db.connection.execute(f"UPDATE subscription SET {change} WHERE name = 'a'")
    if told and not change.startswith(("digest", "checkpoint", "name")):
        redigest(store.db.connection)
    store.close()
    with pytest.raises(DatabaseCorrupt, match=r"subscription .*is not what was stored"):
        store_at(tmp_path / "main-1.db")


def redigest(connection):
    row = connection.execute(f"SELECT {SUBSCRIPTION_COLUMNS} FROM subscription WHERE name = 'a'").fetchone()
    connection.execute("UPDATE subscription SET digest = ? WHERE name = 'a'", (row_digest(row),))


# --- queries


@pytest.fixture
def full(store):
    """Of a: 2, 4, ... 20 parked, every second of them replayed."""
    even = [parked(n, "s" if n <= 10 else "t") for n in range(2, 21, 2)]
    store.apply([changed("a", park=even, replay=[4, 8, 12, 16, 20]), changed("b", park=[parked(3)])], STATE)
    return store.connection


def test_parked_rows_come_in_order_by_count_and_by_bytes(full):
    def found(after, count, max_bytes=1 << 20):
        return [row[2] for row, *_ in queries.parked_rows(full, "a", after, count, max_bytes)]

    assert found(0, 3) == [2, 4, 6]
    assert found(6, 3) == [8, 10, 12]
    assert found(18, 3) == [20]
    assert found(20, 3) == []
    assert found(0, 9, 7) == [2, 4]  # each has four bytes
    assert found(0, 9, 0) == [2]
    (second,) = queries.parked_rows(full, "a", 2, 1, 99)
    event, *rest = second
    assert (event, rest) == (
        ("s", 3, 4, "s-4", "e", 1_000, b"data", None, None, None, None),
        ["why", 2, True],
    )


def test_no_parked_row_is_given_whose_event_cannot_be_read(full, store):
    store.apply([StreamDeleted("t", Head(9, 10))], STATE)
    full.execute("INSERT INTO parked VALUES ('a', 13, 't', '', 1, 0, x'')")
    assert positions(store) == [2, 4, 6, 8, 10]


def test_parked_positions_those_replayed_and_counts(full):
    assert queries.parked_positions(full, "a", 2, 3) == [6, 10, 14]
    assert queries.replaying(full, "a", 4, 2) == [(8, "s", 2), (12, "t", 2)]
    assert (queries.parked_count(full, "a"), queries.parked_count(full, "none")) == (10, 0)
    assert queries.parked_streams(full, "a") == {"s": 5, "t": 5}


def test_events_at_positions_are_those_that_can_be_read_in_order(store):
    store.apply([StreamDeleted("s", Head(9, 10))], STATE)
    found, through = queries.events_at(store.connection, [19, 3, 12, 99], 100)
    assert ([row[2] for row in found], through) == ([12, 19], None)
    assert queries.events_at(store.connection, [], 100) == ([], None)
    (row,), through = queries.events_at(store.connection, [19, 12], 3)
    assert through == 12
    assert row == ("t", 1, 12, "t-12", "e", 1_000, b"data", None, None, None, None)


# --- any history


numbers = st.lists(st.integers(1, 20), max_size=3)
changes = st.one_of(
    st.builds(
        lambda name, checkpoint, park, unpark, replay, forget: changed(
            name,
            subscription(name, checkpoint),
            park=[parked(n, "s" if n <= 10 else "t", attempts=checkpoint) for n in park],
            unpark=unpark,
            replay=replay,
            forget_after=forget,
        ),
        st.sampled_from("ab"), st.integers(0, 5), numbers, numbers, numbers, st.none() | st.integers(0, 20),
    ),
    st.builds(SubscriptionDeleted, st.sampled_from("ab")),
    st.sampled_from([StreamDeleted("t", Head(9, 5)), StreamDeleted("s", Head(9, 10))]),
    st.sampled_from(["commit", "rollback", "flush"]),
)  # fmt: skip


@given(st.lists(changes, max_size=25))
def test_the_tables_are_what_plain_dicts_say(history):
    """Whatever is committed, rolled back and written in between; t's later half stays readable."""
    with tempfile.TemporaryDirectory() as directory:
        store = store_at(Path(directory) / "main-1.db")
        store.apply([appended("s", 1, 10), appended("t", 11, 10)], STATE)
        store.commit(1, 1)
        found = drained(store, history)
        assert store.subscriptions() == found.states
        assert counted(store) == {name: len(rows) for name, rows in found.parked.items() if rows}
        for name, wanted in found.parked.items():
            table = store.connection.execute(
                "SELECT position, attempts, replaying FROM parked WHERE subscription = ? ORDER BY 1", (name,)
            )
            assert [*table] == sorted((at, *rest) for at, rest in wanted.items())
        store.commit(2, 1)
        assert problems(store) == []
        store.close()


# --- verification


@pytest.mark.parametrize(
    ("state", "problem"),
    [
        (subscription("w", 21), "its checkpoint is 21, the head says 20"),
        (subscription("w", 5, settled=(6, 21)), "position 21 cannot be settled after 6"),
        (subscription("w", 5, settled=(5, 7)), "position 5 cannot be settled after 5"),
        (subscription("w", 5, settled=(9, 7)), "position 7 cannot be settled after 9"),
        (subscription("w", 20, settled=()), None),
        (subscription("w", 5, settled=(6, 9, 20)), None),
    ],
)
def test_verification_counts_subscriptions_and_names_what_no_settling_comes_to(store, state, problem):
    store.apply([changed("w", state)], STATE)
    store.commit(1, 1)
    assert verified(store).subscriptions == 3
    assert problems(store) == ([] if problem is None else [("store main, subscription 'w'", problem)])


@pytest.mark.parametrize(
    ("state", "problem"),
    [("c", "there is no such subscription"), ("a", "there is no such event: the head says 20")],
)
def test_verification_names_parked_events_of_nobody_and_of_no_event(store, state, problem):
    store.commit(1, 1)
    fields = (state, 3 if state == "c" else 21, "s", "why", 1, 0)
    store.db.connection.execute("INSERT INTO parked VALUES (?,?,?,?,?,?,?)", stored(fields))
    assert problems(store) == [(f"store main, subscription {state!r}, parked position {fields[1]}", problem)]


COLUMNS = {
    "subscription": {
        "name": ("'c'", "''"), "life": "life + 1", "type": "'stream'", "selector": "'{ }'", "start_from": "'end'",
        "options": "replace(options, '1', '2')", "checkpoint": "checkpoint + 1", "settled": "x'9108'",
        "attempts": "x'90'", "created_us": "0", "advanced_us": "0", "digest": "zeroblob(16)",
    },
    "parked": {
        "subscription": ("'b'", "''"), "position": ("4", "-3"), "stream": "'t'", "reason": "'Why'", "attempts": "0",
        "replaying": "1 - replaying", "digest": "zeroblob(16)",
    },
}  # fmt: skip
CHANGES = [
    (table, column, value)
    for table, columns in COLUMNS.items()
    for column, values in columns.items()
    for value in ([values] if isinstance(values, str) else values)
]


@pytest.mark.parametrize(("table", "column", "value"), CHANGES)
def test_verification_finds_a_change_in_every_column_and_says_where(store, table, column, value):
    state = subscription("a", 4, settled=(7,), attempts=((8, 1),))
    store.apply([changed("a", state, park=[parked(3)])], STATE)
    store.commit(1, 1)
    assert {row[1] for row in store.connection.execute(f"PRAGMA table_info({table})")} == set(COLUMNS[table])
    assert problems(store) == []
    name = "name" if table == "subscription" else "subscription"
    store.connection.execute(f"UPDATE {table} SET {column} = {value} WHERE {name} = 'a'")
    now = value.strip("'") if column == name else "a"
    found = problems(store)
    place = f"store main, subscription {now!r}"
    if table == "parked":
        place += f", parked position {value if column == 'position' else 3}"
    assert (place, "it is not what was stored") in found


def test_verification_of_a_file_that_no_node_has_migrated(tmp_path):
    connection = open_connection(tmp_path / "main-1.db", cache_bytes=1 << 20)
    migrate(connection, STORE_MIGRATIONS[:1], "main")
    connection.close()
    found = Verification()
    verify_file(tmp_path / "main-1.db", "main", found)
    assert (found.problems, found.subscriptions) == ([], 0)


def test_a_file_of_the_first_schema_is_migrated_with_all_that_is_in_it(tmp_path, monkeypatch):
    monkeypatch.setattr("shoal.storage.store_db.STORE_MIGRATIONS", STORE_MIGRATIONS[:1])
    monkeypatch.setattr(SubscriptionsDb, "load", lambda self: None)
    old = store_at(tmp_path / "main-1.db")
    old.apply([appended("s", 1, 10)], StoreState(10, 1_000))
    old.commit(4, 1)
    old.close()
    monkeypatch.undo()
    store = store_at(tmp_path / "main-1.db")
    assert (store.db.applied_index, store.state, store.subscriptions()) == (4, StoreState(10, 1_000), {})
    store.apply([changed("a", park=[parked(3)])], StoreState(10, 1_000))
    store.commit(5, 1)
    assert (positions(store), problems(store)) == ([3], [])
    store.close()


# --- plans


def test_every_subscription_query_is_an_index_range(full):
    plans = []

    class Explained:
        def execute(self, sql, arguments=()):
            plans.extend(row[3] for row in full.execute(f"EXPLAIN QUERY PLAN {sql}", arguments))
            return full.execute(sql, arguments)

    asked = Explained()
    queries.parked_rows(asked, "a", 3, 9, 99)
    queries.parked_positions(asked, "a", 3, 9)
    queries.replaying(asked, "a", 3, 9)
    assert any("parked_replaying" in step for step in plans)
    queries.parked_count(asked, "a")
    queries.parked_streams(asked, "a")
    queries.events_at(asked, [4, 2], 99)
    for step in plans:
        assert "TEMP B-TREE" not in step, step
        assert not step.startswith("SCAN") or "j VIRTUAL TABLE" in step, step


def test_the_plan_of_every_write_is_an_index_range(full, store):
    seen = []
    store.db.connection.trace_v2(apsw.SQLITE_TRACE_STMT, lambda event: seen.append(event["sql"]))
    store.apply(
        [
            changed("a", forget_after=18, unpark=[2], park=[parked(6)], replay=[6]),
            StreamDeleted("t", Head(9, 10)),
            SubscriptionDeleted("b"),
        ],
        STATE,
    )
    store.flush()
    store.db.connection.trace_v2(0, None)
    plans = [
        row[3]
        for sql in seen
        if "parked" in sql or "subscription" in sql
        for row in store.db.connection.execute(
            f"EXPLAIN QUERY PLAN {sql}", [1] * (7 if "?7" in sql else sql.count("?"))
        )
    ]
    assert len(plans) > 5
    assert [
        step
        for step in plans
        if step.startswith("SCAN") and "json_each" not in step and "CONSTANT" not in step
    ] == []
