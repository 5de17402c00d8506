"""A store's file: rows, tags, counts, chains and digests go in together, are rolled back together, and agree."""

from __future__ import annotations

import pytest

from shoal.errors import DatabaseCorrupt
from shoal.model.commands import SaveSnapshot
from shoal.model.machine import Head, RowsAppended, SnapshotSaved, SnapshotsDeleted, StoreState, StreamDeleted
from shoal.storage import queries
from shoal.storage.store_db import StoreDb
from shoal.storage.verify_store import StoreVerifier, Verification


def appended(
    stream: str,
    first: int,
    position: int,
    count: int,
    tags: bytes | None = b'["t","u","t"]',
    kind: str = "e",
    reading_us: int = 900,
):
    rows = [
        (
            stream,
            first + n,
            position + n,
            f"{stream}-{first + n}",
            kind,
            1_000,
            b"data",
            None,
            None,
            None,
            tags,
        )
        for n in range(count)
    ]
    return RowsAppended(rows, [False] * count, [(stream, Head(first + count - 1))], reading_us)


@pytest.fixture
def store(tmp_path):
    made = StoreDb(tmp_path / "main-1.db", cache_bytes=1 << 20)
    yield made
    made.close()


def problems(store) -> list[str]:
    found = Verification()
    StoreVerifier(store.db.connection, "store main", found, lambda: None).verify(structure=True)
    return [problem.what for problem in found.problems]


def counts(store) -> dict[str, int]:
    return dict(
        store.connection.execute("SELECT name, events FROM type UNION ALL SELECT name, events FROM tag")
    )


@pytest.mark.parametrize("count", [1, 31, 32, 33, 256, 600])
def test_batches_of_every_size_go_in_whole(store, count):
    store.apply([appended("s", 0, 1, count)], StoreState(count, 1_000))
    store.commit(5, 1)
    assert queries.head(store.connection, "s") == Head(count - 1)
    assert counts(store) == {"e": count, "t": count, "u": count}
    assert problems(store) == []
    assert (store.db.applied_index, store.state) == (5, StoreState(count, 1_000))


def test_neighbouring_appends_are_one_and_order_is_kept(store):
    changes = [
        appended("a", 0, 1, 2), appended("b", 0, 3, 1), appended("a", 2, 4, 1),
        StreamDeleted("a", Head(2, 3)),
        appended("a", 3, 5, 2),
    ]  # fmt: skip
    changes[4].heads[0] = ("a", Head(4, 3))
    store.apply(changes, StoreState(6, 1_000))
    store.commit(1, 1)
    assert queries.head(store.connection, "a") == Head(4, 3)
    assert problems(store) == []


def test_appends_of_several_entries_go_in_together_each_with_its_own_clock_reading(store):
    changes = [
        appended("a", 0, 1, 2),
        appended("a", 2, 3, 1, reading_us=1_000),
        appended("b", 0, 4, 1, reading_us=77),
    ]
    store.apply(changes, StoreState(4, 1_000))
    store.commit(3, 1)
    readings = store.connection.execute("SELECT reading_us FROM event ORDER BY position").fetchall()
    assert readings == [(900,), (900,), (None,), (77,)]  # None: the clock's reading is the event's time
    assert problems(store) == []


def test_a_head_kept_back_is_written_for_whoever_reads_here(store):
    store.apply([appended("s", 0, 1, 3)], StoreState(3, 1_000))
    assert queries.head(store.connection, "s") == Head(2)
    store.apply([appended("s", 3, 4, 3)], StoreState(6, 1_000))
    assert queries.head(store.connection, "s") == Head(5)


def test_a_rollback_takes_back_rows_names_counts_and_the_applied_index(store):
    store.apply([appended("s", 0, 1, 3)], StoreState(3, 1_000))
    store.commit(7, 1)
    store.apply([appended("s", 3, 4, 3), appended("new", 0, 7, 1, b'["w"]', "f")], StoreState(7, 1_001))
    store.flush()
    store.db.applied_index = 99  # a COMMIT that failed had set it already
    store.rollback()
    assert store.db.applied_index == 7
    assert store.state == StoreState(3, 1_000)
    assert queries.head(store.connection, "new") is None
    assert counts(store) == {"e": 3, "t": 3, "u": 3}
    store.apply([appended("s", 3, 4, 2), appended("new", 0, 6, 1, b'["w"]', "f")], StoreState(6, 1_001))
    store.commit(8, 1)
    assert counts(store) == {"e": 5, "t": 5, "u": 5, "f": 1, "w": 1}
    assert problems(store) == []


def test_a_transaction_that_sqlite_ended_itself_can_be_rolled_back_and_closed(tmp_path):
    store = StoreDb(tmp_path / "main-1.db", cache_bytes=1 << 20)
    store.apply([appended("s", 0, 1, 3)], StoreState(3, 1_000))
    store.db.connection.execute("ROLLBACK")
    store.rollback()
    assert queries.head(store.connection, "s") is None
    store.apply([appended("s", 0, 1, 3)], StoreState(3, 1_000))
    store.db.connection.execute("ROLLBACK")
    store.close()


def test_snapshots_are_replaced_and_go_with_their_stream(store):
    def saved(version, data):
        return SnapshotSaved(SaveSnapshot("main", "s", version, data), 5)

    store.apply(
        [appended("s", 0, 1, 3), saved(1, b"1"), saved(2, b"2"), saved(1, b"3")], StoreState(3, 1_000)
    )
    assert [(s.version, s.data_raw) for s in queries.snapshots(store.connection, "s", None, latest=False)] == [
        (1, b"3"), (2, b"2"),
    ]  # fmt: skip
    store.apply([SnapshotsDeleted("s", 2)], StoreState(3, 1_000))
    assert [s.version for s in queries.snapshots(store.connection, "s", None, latest=False)] == [1]
    again = appended("s", 3, 4, 1)
    again.heads[0] = ("s", Head(3, 3))
    store.apply([StreamDeleted("s", Head(2, 3)), again], StoreState(4, 1_000))
    assert queries.snapshots(store.connection, "s", None, latest=False) == []
    store.commit(1, 1)
    assert problems(store) == []


def test_rows_of_a_tombstone_are_removed_at_leisure_with_their_counts(store, monkeypatch):
    monkeypatch.setattr("shoal.storage.store_db.RECLAIM_ROWS", 2)
    store.apply([appended("gone", 0, 1, 5), appended("kept", 0, 6, 1)], StoreState(6, 1_000))
    store.apply([StreamDeleted("gone", Head(4, 5, tombstoned=True))], StoreState(6, 1_000))
    rounds = 0
    while store.reclaiming:
        store.reclaim()
        store.commit(rounds, 1)
        assert problems(store) == []
        rounds += 1
    assert rounds == 5  # three of rows, one that finds none, one that finds nothing to do
    assert counts(store) == {"e": 1, "t": 1, "u": 1}
    assert store.connection.execute("SELECT count(*) FROM event").fetchone() == (1,)


def test_it_goes_on_reclaiming_after_a_restart(tmp_path):
    store = StoreDb(tmp_path / "main-1.db", cache_bytes=1 << 20)
    store.apply(
        [appended("gone", 0, 1, 5), StreamDeleted("gone", Head(4, 5, tombstoned=True))], StoreState(5, 1_000)
    )
    store.commit(1, 1)
    store.close()
    again = StoreDb(tmp_path / "main-1.db", cache_bytes=1 << 20)
    assert again.reclaiming
    again.close()


def test_the_caches_of_names_are_bounded_and_right(store, monkeypatch):
    monkeypatch.setattr("shoal.storage.store_db._CACHED_NAMES", 3)
    position = 1
    for turn in range(3):
        changes = []
        for n in range(8):
            changes.append(appended(f"s{n}", turn, position, 1, f'["t{n}"]'.encode(), f"e{n}"))
            position += 1
        store.apply(changes, StoreState(position - 1, 1_000))
    store.commit(1, 1)
    assert problems(store) == []
    assert set(counts(store).values()) == {3}


def test_a_changed_table_of_what_was_applied_is_not_believed(tmp_path):
    store = StoreDb(tmp_path / "main-1.db", cache_bytes=1 << 20)
    store.apply([appended("s", 0, 1, 3)], StoreState(3, 1_000))
    store.commit(7, 1)
    store.db.connection.execute("UPDATE meta SET value = 6 WHERE key = 'applied_index'")
    store.close()
    with pytest.raises(DatabaseCorrupt, match="what was applied"):
        StoreDb(tmp_path / "main-1.db", cache_bytes=1 << 20)
