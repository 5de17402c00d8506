"""The engine: several databases, each with its own last applied entry, brought together by replay."""

from __future__ import annotations

import errno

import apsw
import pytest
from msgspec import structs
from node_kit import IDENTITY

from shoal.errors import DiskFull, StorageError
from shoal.model.commands import (
    Append,
    CreateStore,
    CreateSubscription,
    Definition,
    DropStore,
    Parked,
    Proposal,
    ProposedEvent,
    Settle,
    Write,
    encode,
)
from shoal.model.machine import Head, RowsAppended, StoreState
from shoal.model.subscriptions import SubscriptionChanged, SubscriptionDeleted
from shoal.raft.log import Kind
from shoal.storage import queries
from shoal.storage.engine import Engine, Report, Settings, is_disk_full
from shoal.storage.files import RealFiles
from shoal.storage.segment import Identity, Record
from shoal.store.ports import ApplyEntry, StoreChanges
from shoal.types import ANY_VERSION, SubscriptionOptions

SETTINGS = Settings(commit_rows=1_000, commit_bytes=1 << 20, cache_bytes=1 << 20, wal_limit_bytes=1 << 24)


def engine(directory, settings=SETTINGS, identity=IDENTITY):
    directory.mkdir(exist_ok=True)
    return Engine(directory, settings, identity, lambda _name: directory, RealFiles())


def record(index, *commands):
    payload = encode(Proposal(index * 10, index * 10, list(commands)))
    return Record(Kind.NORMAL, index, 1, payload, 0, 0, 0, 0)


def append(store, stream, count=1):
    events = [ProposedEvent(f"{store}-{stream}-{n}", False, "e", b"1", tags=["t"]) for n in range(count)]
    return Append(store, [Write(stream, ANY_VERSION, events)])


def subscribe(store):
    definition = Definition("all", b"{}", "beginning")
    return CreateSubscription(store, "mail", definition, SubscriptionOptions(), [])


LIFE = 21
"""Of the subscription that entry 2 makes: the event time after that of the append before it."""

LOG = [
    record(1, CreateStore("a"), CreateStore("b")),
    record(2, append("a", "s", 3), append("b", "s"), subscribe("a")),
    record(3, append("missing", "s")),
    record(4, DropStore("b")),
    record(
        5, append("b", "s"), append("a", "t"), Settle("a", "mail", LIFE, 2, [4], [Parked(3, "s", "why", 2)])
    ),
    record(6, CreateStore("b")),
    record(7, append("b", "u")),
]


def told(made):
    return {
        name: [
            (info.stream_id, info.version)
            for info in queries.streams(store.connection, "", None, None, 99, True)
        ]
        for name, store in made.stores.items()
    }


WHOLE = {"a": [("s", 2), ("t", 0)], "b": [("u", 0)]}


def subscribed(made):
    return {
        (store, name, state.checkpoint, state.settled, queries.parked_count(file.connection, name))
        for store, file in made.stores.items()
        for name, state in file.subscriptions().items()
    }


SUBSCRIBED = {("a", "mail", 2, (4,), 1)}


def test_a_log_replays_to_its_end(tmp_path):
    made = engine(tmp_path / "db")
    assert made.replay(LOG) == 7
    assert told(made) == WHOLE
    report = made.commit()
    assert (report.index, report.positions, report.durable_index) == (7, {"a": 4, "b": 1}, 0)
    assert made.make_durable().durable_index == 7
    assert [path.name for path in (tmp_path / "db").glob("b-*.db")] == ["b-6.db"]
    assert made.remove_strays() == []
    made.close()
    again = engine(tmp_path / "db")
    assert (again.oldest_applied, again.newest_applied) == (7, 7)
    assert told(again) == WHOLE
    again.close()


@pytest.mark.parametrize("first", range(len(LOG) + 1))
@pytest.mark.parametrize("which", ["all", "stores", "catalog", "a"])
def test_replay_brings_databases_together_that_were_committed_apart(tmp_path, first, which):
    """A power cut between two commits leaves them at different entries; none is applied twice, none is left out."""
    made = engine(tmp_path / "db")
    made.replay(LOG[:first])
    if which in {"all", "stores"}:
        for store in made.stores.values():
            store.commit(made.applied_index, 1)
    if which in {"all", "catalog"}:
        made.catalog.commit(made.applied_index, 1)
    if which == "a" and "a" in made.stores:
        made.stores["a"].commit(made.applied_index, 1)
    made.close()
    again = engine(tmp_path / "db")
    again.replay(each for each in LOG if each.index > again.oldest_applied)
    again.commit()
    assert told(again) == WHOLE
    assert subscribed(again) == SUBSCRIBED
    again.close()


def decided(name, stream, version, position):
    row = (stream, version, position, f"{name}-{position}", "e", position, b"1", None, None, None, None)
    change = RowsAppended([row], [False], [(stream, Head(version))], position)
    return StoreChanges(name, [change], StoreState(position, position))


def test_entries_applied_together_are_as_if_each_came_alone(tmp_path):
    """Also where a store is made, dropped and made again between them."""
    entries = [
        ApplyEntry(1, 1, [], [CreateStore("a"), CreateStore("b")], 1),
        ApplyEntry(2, 1, [decided("a", "s", 0, 1), decided("b", "s", 0, 1)], [], 1),
        ApplyEntry(3, 1, [decided("a", "s", 1, 2)], [], 1),
        ApplyEntry(4, 1, [decided("b", "gone", 0, 2)], [DropStore("b")], 1),
        ApplyEntry(5, 1, [decided("a", "t", 0, 3)], [CreateStore("b")], 1),
        ApplyEntry(6, 1, [decided("b", "u", 0, 1)], [], 1),
    ]
    together, alone = engine(tmp_path / "together"), engine(tmp_path / "alone")
    together.apply(entries)
    for entry in entries:
        alone.apply([entry])
    assert told(together) == told(alone) == {"a": [("s", 1), ("t", 0)], "b": [("u", 0)]}
    assert together.commit() == alone.commit() == Report(6, {"a": 3, "b": 1}, 0)
    together.close()
    alone.close()


@pytest.mark.parametrize("committed", range(len(LOG) + 1))
@pytest.mark.parametrize("commit_rows", [1, 1_000])
def test_a_rollback_and_replay_come_to_the_same_state(tmp_path, committed, commit_rows):
    """As when the disk was full: stores made, dropped and made again since the last commit included."""
    made = engine(tmp_path / "db")
    made.replay(LOG[:committed])
    made.commit()
    made.replay(LOG[committed:])
    made.rollback()
    made._settings = structs.replace(SETTINGS, commit_rows=commit_rows)
    assert made.oldest_applied == made.applied_index
    made.replay(each for each in LOG if each.index > made.oldest_applied)
    assert told(made) == WHOLE
    assert subscribed(made) == SUBSCRIBED
    made.commit()
    made.close()


def test_commits_are_due_by_rows_or_bytes(tmp_path):
    settings = Settings(commit_rows=3, commit_bytes=1 << 20, cache_bytes=1 << 20, wal_limit_bytes=1 << 24)
    made = engine(tmp_path / "db", settings)
    made.replay([record(1, CreateStore("a"))])
    assert not made.commit_due
    made.replay([record(2, append("a", "s", 3))])
    assert made.oldest_applied == 2  # replay commits by itself
    made.replay([record(3, subscribe("a"))])
    state = made.stores["a"].state
    known = made.stores["a"].subscription("mail")
    made._apply_changes(made.stores["a"], [SubscriptionChanged(known)], state)
    assert not made.commit_due
    made._apply_changes(made.stores["a"], [SubscriptionDeleted("mail")], state)
    assert made.commit_due  # each counts as a row, whatever it writes
    made.close()


def test_another_identity_is_refused(tmp_path):
    made = engine(tmp_path / "db")
    made.replay(LOG)
    made.commit()
    made.close()
    with pytest.raises(StorageError, match="another journal"):
        engine(tmp_path / "db", identity=Identity("cluster", "node", b"j" * 16))


def test_a_wal_that_grew_is_moved_into_the_file_and_cut(tmp_path):
    settings = Settings(commit_rows=10**6, commit_bytes=1 << 30, cache_bytes=1 << 20, wal_limit_bytes=1 << 16)
    made = engine(tmp_path / "db", settings)
    made.replay([record(1, CreateStore("a")), record(2, append("a", "s", 2_000))])
    made.commit()
    assert made.stores["a"].db.wal_bytes() == 0
    assert made.stores["a"].db.durable_index == 2
    made.close()


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (apsw.FullError("x"), True),
        (OSError(errno.ENOSPC, "x"), True),
        (DiskFull("x"), True),
        (OSError(errno.EIO, "x"), False),
        (apsw.IOError("x"), False),
        (apsw.CorruptError("x"), False),
    ],
)
def test_what_counts_as_a_full_disk(error, full):
    assert is_disk_full(error) is full


def test_a_dropped_store_keeps_its_file_until_the_drop_is_durable(tmp_path):
    """A power cut before would bring the store back, and the journal may no longer hold what was in it."""
    made = engine(tmp_path / "db")
    made.replay(LOG[:3])
    assert made.make_durable().durable_index == 3
    pin = apsw.Connection(str(tmp_path / "db" / "catalog.db"), flags=apsw.SQLITE_OPEN_READONLY)
    pin.execute("BEGIN")
    list(pin.execute("SELECT * FROM store"))
    made.replay(LOG[3:5])
    assert made.make_durable().durable_index == 3, "so far the journal may be shortened"
    assert (tmp_path / "db" / "b-1.db").exists()
    pin.execute("ROLLBACK")
    pin.close()
    assert made.make_durable().durable_index == 5
    assert made.catalog.durable_index == 5
    assert not list((tmp_path / "db").glob("b-1.db*"))
    made.close()


def test_a_dropped_store_that_somebody_still_reads_loses_its_files(tmp_path, monkeypatch):
    """The reader's end takes away what is beside the file, at any moment."""
    made = engine(tmp_path / "db")
    made.replay(LOG[:3])
    made.commit()
    reader = apsw.Connection(str(tmp_path / "db" / "b-1.db"), flags=apsw.SQLITE_OPEN_READONLY)
    reader.execute("SELECT count(*) FROM event").fetchall()
    made.replay(LOG[3:4])
    unlink = made._files.unlink

    def ends_first(path):
        reader.close()
        if path.name.endswith(("-wal", "-shm")):
            path.unlink(missing_ok=True)
        unlink(path)

    monkeypatch.setattr(made._files, "unlink", ends_first)
    made.make_durable()
    assert not list((tmp_path / "db").glob("b-1.db*"))
    made.close()


def test_a_drop_that_is_rolled_back_removes_nothing(tmp_path):
    made = engine(tmp_path / "db")
    made.replay(LOG[:3])
    made.commit()
    made.replay(LOG[3:4])
    made.rollback()
    made.commit()
    assert told(made) == {"a": [("s", 2)], "b": [("s", 0)]}
    assert (tmp_path / "db" / "b-1.db").exists()
    made.close()


def test_a_store_that_was_made_anew_and_is_rolled_back_is_the_one_before(tmp_path):
    made = engine(tmp_path / "db")
    made.replay(LOG[:3])
    made.commit()
    made.replay([record(4, DropStore("b")), record(5, CreateStore("b")), record(6, append("b", "u"))])
    made.rollback()
    assert told(made) == {"a": [("s", 2)], "b": [("s", 0)]}
    assert made.stores["b"].db.path == made.path_of("b")
    made.replay(LOG[3:])
    assert told(made) == WHOLE
    made.close()


def test_entries_are_not_passed_over(tmp_path):
    made = engine(tmp_path / "db")
    with pytest.raises(StorageError, match="lacks entry 3"):
        made.replay([*LOG[:2], *LOG[3:]])
    made.close()
