"""A raft_snapshot from one board to another: what is copied is what was there, nothing else and nothing less."""

from __future__ import annotations

import asyncio

import apsw
import pytest
from msgspec import structs
from node_kit import FailingFiles, commit, events, opened, settle, small
from transfer_kit import (
    MEMBERS,
    RECEIVER,
    SMALL,
    Board,
    append,
    chunks,
    copy,
    feed,
    fill,
    proposal,
)

from shoal.errors import DiskFull, StorageError, TooBusy, TransferRefused
from shoal.model.commands import CreateStore, DeleteStream, DropStore
from shoal.raft.log import Configuration, HardState
from shoal.storage import importer as importer_module
from shoal.storage.building import Building
from shoal.storage.engine import CATALOG
from shoal.storage.exporter import Exporter
from shoal.storage.files import RealFiles
from shoal.storage.incoming import IncomingStore
from shoal.storage.recovery import mark_diverged
from shoal.storage.segment import Identity
from shoal.storage.transfer import decode_cursor
from shoal.storage.verify import verify, verify_file
from shoal.types import ANY_VERSION, NO_STREAM


@pytest.fixture
def source(tmp_path):
    board = Board(tmp_path / "source", own=tmp_path / "source-own")
    fill(board)
    yield board
    board.close()


@pytest.fixture
def make_target(tmp_path):
    made = []

    def make(**more):
        more = {"own": tmp_path / "target-own" / "db", **more}
        made.append(Board(tmp_path / "target", RECEIVER, **more))
        return made[-1]

    (tmp_path / "target-own").mkdir()
    yield make
    for board in made:
        board.close()


def found_in(board):
    """What verification says of the directory and of the store that lies elsewhere."""
    board.engine.commit()
    path = board.engine.path_of("own")
    board.close()
    whole = verify(board.places.data_dir)
    whole.problems = [problem for problem in whole.problems if "data_dir of its own" not in problem.what]
    verify_file(path, "own", whole)
    return whole


def test_the_copy_is_what_was_there_and_goes_on_as_it_does(source, make_target, tmp_path):
    target = make_target()
    target.vote(7, "me")
    assert copy(source, target) == (source.engine.applied_index, 1)
    target.journal.close()
    again = make_target()
    assert again.rows() == source.rows()
    assert again.engine.stores["main"].subscriptions() == source.engine.stores["main"].subscriptions()
    assert again.engine.stores["main"].parked_counts == {"mail": 1}
    assert (again.journal.first_index, again.journal.last_index) == (
        source.journal.last_index + 1,
        source.journal.last_index,
    )
    assert again.journal.hard_state == HardState(7, "me")
    assert (again.journal.configuration, again.journal.configuration_index) == (MEMBERS, 2)
    assert again.engine.catalog.meta["incarnation"] == RECEIVER.incarnation.hex()
    assert again.engine.path_of("own").parent == tmp_path / "target-own" / "db" / "g2"
    more = [
        append("main", "s0", 2, own=True),
        append("own", "new"),
        DeleteStream("main", "s4", ANY_VERSION, hard=True),
    ]
    source.apply(*more)
    again.apply(*more)
    assert again.rows() == source.rows()
    verification = found_in(again)
    assert verification.problems == []
    assert (verification.stores, verification.streams) == (3, 9)


def test_what_was_there_before_is_gone(source, make_target, tmp_path):
    """Old generation, old journal, and the old file of the store with a directory of its own."""
    target = make_target()
    target.apply(CreateStore("gone"), CreateStore("own"))
    target.apply(append("gone", "s", 3))
    target.apply(append("own", "s", 3))
    copy(source, target)
    names = {str(path.relative_to(tmp_path)) for path in tmp_path.glob("target*/**/*") if path.is_file()}
    kept = {name for name in names if "g2" not in name}
    assert kept == {"target/db/CURRENT", "target/journal/0000000000000002.seg"}
    assert not (tmp_path / "target" / "db" / "g1").exists()


@pytest.mark.parametrize("times", [1, 2, 3])
def test_a_second_copy_replaces_the_first(source, make_target, times):
    target = make_target()
    for n in range(times):
        source.apply(append("main", "s0", n + 1))
        copy(source, target)
        target.journal.close()
        target = make_target()
    assert target.engine.directory.name == f"g{times + 1}"
    assert target.rows() == source.rows()
    assert found_in(target).problems == []


def test_what_happens_between_the_parts_is_in_the_copy(source, make_target):
    """Events, a new store, a dropped one, one made again, a stream deleted for ever after its events were sent."""

    def between():
        source.apply(DropStore("other"), CreateStore("late"))
        source.apply(append("main", "s0", 3), append("late", "x", 2))
        source.apply(DeleteStream("main", "s5", ANY_VERSION, hard=True))
        source.apply(DropStore("own"))
        source.apply(CreateStore("own"))
        source.apply(append("own", "anew"))

    target = make_target()
    importer = target.importer()
    feed(importer, chunks(source, between=between))
    target.close_databases()
    importer.finish(target.journal)
    target.journal.close()
    again = make_target()
    assert sorted(again.engine.stores) == ["late", "main", "own"]
    assert again.rows() == source.rows()
    assert found_in(again).problems == []


def test_the_writer_goes_on_while_the_rest_is_read(source, make_target):
    """What is committed after `hold` is not in the copy, in no store."""
    exporter = Exporter(source.engine)
    target = make_target()
    importer = target.importer()
    exporter.begin(None)
    feed(importer, exporter.events())
    source.engine.commit()
    exporter.hold()
    wanted = source.rows()["main"]["event"]
    index = source.engine.applied_index
    for chunk in exporter.rest():
        source.apply(append("main", "s0"), append("own", "mine"))
        source.engine.commit()
        importer.feed(chunk)
    target.close_databases()
    assert importer.finish(target.journal) == (index, 1)
    target.journal.close()
    again = make_target()
    gone = {number for number, _, _, _, tombstoned, *_ in source.rows()["main"]["stream"] if tombstoned}
    assert again.rows()["main"]["event"] == [row for row in wanted if row[1] not in gone]
    assert {store.db.applied_index for store in again.engine.stores.values()} == {index}


def test_a_wal_that_grows_too_long_ends_the_transfer(tmp_path, make_target):
    settings = structs.replace(SMALL, wal_limit_bytes=200_000)
    source = Board(tmp_path / "small", settings=settings, own=tmp_path / "small-own")
    fill(source)
    exporter = Exporter(source.engine)
    exporter.begin(None)
    list(exporter.events())
    source.engine.commit()
    exporter.hold()
    rest = exporter.rest()
    next(rest)
    source.apply(append("main", "s0", 1, size=300_000))
    source.engine.commit()
    with pytest.raises(TooBusy, match="goes on from its cursor"):
        list(rest)
    source.close()


# -- going on ------------------------------------------------------------------------------------


def sent_events(sent):
    return sum(len(chunk) for chunk in sent)


@pytest.mark.parametrize("crash", [False, True])
def test_a_transfer_goes_on_where_it_was(source, make_target, crash):
    for _ in range(20):
        source.apply(append("main", "s0", 30, size=300))
    source.engine.commit()
    target = make_target()
    importer = target.importer()
    whole = list(chunks(source))
    feed(importer, whole[:4])
    cursor = importer.cursor
    if crash:
        importer.close()
        importer = target.importer()
    assert importer.cursor == cursor
    again = list(chunks(source, cursor))
    assert sent_events(again) < sent_events(whole) - 150_000
    feed(importer, again)
    target.close_databases()
    importer.finish(target.journal)
    target.journal.close()
    assert make_target().rows() == source.rows()


def test_a_store_that_was_dropped_meanwhile_is_not_missed_after_a_crash(source, make_target):
    target = make_target()
    importer = target.importer()
    feed(importer, list(chunks(source))[:1])
    stores = importer._building.stores
    importer._building.remove_store(next(iter(stores)))
    kept, _ = set(stores), importer.close()
    assert set(target.importer()._building.stores) == kept != set()


def test_another_sender_goes_on_if_it_has_the_same_events(source, make_target, tmp_path):
    target = make_target()
    importer = target.importer()
    sent = list(chunks(source))
    feed(importer, sent)
    cursor = importer.cursor
    other = Board(tmp_path / "stranger", own=tmp_path / "stranger-own")
    other.apply(CreateStore("main"), CreateStore("own"), CreateStore("other"))
    for n in range(9):
        other.apply(append("main", f"o{n}", 7))
    other.engine.commit()
    exporter = Exporter(other.engine)
    assert [store.after for store in exporter.begin(cursor).stores] == [
        0,
        0,
        12,
    ]  # the last store has no events there
    exporter.close()
    exporter = Exporter(source.engine)
    assert {store.after for store in exporter.begin(cursor).stores} > {0}
    exporter.close()
    feed(importer, chunks(other, cursor))
    target.close_databases()
    importer.finish(target.journal)
    target.journal.close()
    assert make_target().rows() == other.rows()
    other.close()


def test_what_is_not_wanted_any_more_can_be_removed(source, make_target):
    target = make_target()
    importer = target.importer()
    feed(importer, chunks(source))
    importer.abandon()
    assert not any((target.places.root / "g2").iterdir())
    assert decode_cursor(target.importer().cursor) == {}
    assert target.rows()[""]["store"] == []


# -- the journal ---------------------------------------------------------------------------------


def shared(source, target, *, term=1):
    """The target has the source's log up to where its own goes on."""
    for record in source.journal.read(0):
        target.add(record.payload, record.kind, term)


def test_entries_that_follow_the_snapshot_stay(source, make_target):
    """Fig. 13, rule 6: the journal has its entry with the same term."""
    target = make_target()
    shared(source, target)
    target.add(proposal(99, append("main", "kept")), term=2)
    index, _ = copy(source, target)
    assert target.journal.last_index == index + 1
    target.journal.close()
    again = make_target()
    assert again.journal.last_term == 2
    assert again.engine.applied_index == index  # what follows waits for the leader's word
    assert [record.index for record in again.journal.read(index)] == [index + 1]


def test_entries_of_another_term_go(source, make_target):
    target = make_target()
    shared(source, target, term=2)
    target.add(proposal(99, append("main", "junk")), term=2)
    target.vote(4, "x")
    index, _ = copy(source, target)
    target.journal.close()
    again = make_target()
    assert (again.journal.first_index, again.journal.last_index, again.journal.last_term) == (
        index + 1,
        index,
        1,
    )
    assert list(again.journal.read(0)) == []
    assert again.journal.hard_state == HardState(4, "x")
    assert again.rows() == source.rows()


def test_one_older_than_the_journals_beginning_is_refused(source, make_target):
    target = make_target()
    importer = target.importer()
    feed(importer, chunks(source))
    target.journal.reset_to(source.engine.applied_index + 5, 1, Configuration(), 0)
    with pytest.raises(TransferRefused, match="the journal begins at"):
        importer.finish(target.journal)


# -- refusals ------------------------------------------------------------------------------------


def test_too_little_room_is_told_at_the_beginning(source, make_target):
    files = FailingFiles()
    target = make_target(files=files)
    files.free = 1_000_000
    importer = target.importer()
    first = next(iter(chunks(source)))
    with pytest.raises(DiskFull, match=r"bytes are needed at .*free some space"):
        importer.feed(first)
    manifest = Exporter(source.engine).begin(None)
    assert manifest.catalog_bytes + sum(store.size_bytes for store in manifest.stores) > 200_000
    files.free = None
    feed(importer, chunks(source, importer.cursor))
    assert importer.complete


def test_a_disk_that_is_full_in_the_middle_is_told_though_sqlite_has_undone_all_by_itself(
    source, make_target, monkeypatch
):
    """Then undoing it once more is the error, and the full disk what came before it."""
    importer = make_target().importer()

    def full(*_):
        try:
            raise apsw.FullError("database or disk is full")
        except apsw.FullError:
            raise apsw.SQLError("You have done transaction control")  # noqa: B904 - as apsw does

    with monkeypatch.context() as patch:
        patch.setattr(IncomingStore, "append", full)
        with pytest.raises(DiskFull, match="free some space"):
            feed(importer, chunks(source))
        patch.setattr(Building, "cursor", full)
        with pytest.raises(DiskFull, match="free some space"):
            assert importer.cursor
    feed(importer, chunks(source, importer.cursor))
    assert importer.complete


def test_another_cluster_is_refused(source, tmp_path):
    target = Board(tmp_path / "t", Identity("elsewhere", "receiver", b"r" * 16))
    with pytest.raises(TransferRefused, match="is of cluster cluster, this one of elsewhere"):
        feed(target.importer(), chunks(source))
    target.close()


def test_a_wrong_cursor_is_refused(source):
    exporter = Exporter(source.engine)
    with pytest.raises(TransferRefused, match="cursor"):
        exporter.begin(b"\xff")
    exporter.close()


def test_a_changed_event_is_found_and_the_copy_removed(source, make_target):
    """The leader's own file is damaged: the chain says so, and what is here stays."""
    target = make_target()
    target.apply(CreateStore("mine"))
    before = target.rows()
    source.engine.commit()
    source.engine.stores["main"].db.connection.execute("UPDATE event SET data = x'31' WHERE position = 2")
    importer = target.importer()
    feed(importer, chunks(source))
    with pytest.raises(TransferRefused, match="the event is not what was stored"):
        importer.finish(target.journal)
    assert decode_cursor(importer.cursor) == {}
    assert target.rows() == before


def test_a_full_disk_in_the_end_leaves_what_was(source, make_target):
    files = FailingFiles()
    target = make_target(files=files)
    importer = target.importer()
    feed(importer, chunks(source))
    before = target.rows()
    files.free = 1_000
    with pytest.raises(DiskFull):
        importer.finish(target.journal)
    assert target.rows() == before
    files.free = None
    target.close_databases()
    importer.finish(target.journal)
    target.journal.close()
    assert make_target(files=RealFiles()).rows() == source.rows()


def test_no_file_of_the_generation_in_use_is_touched_before_the_end(source, make_target):
    target = make_target()
    target.apply(CreateStore("mine"))
    target.engine.make_durable()
    paths = [target.engine.directory / CATALOG, target.engine.path_of("mine")]
    before = [path.read_bytes() for path in paths]
    feed(target.importer(), chunks(source))
    assert [path.read_bytes() for path in paths] == before
    assert (target.places.root / "CURRENT").read_text() == "g1"


async def test_a_running_node_sends_it_and_goes_on(tmp_path, make_target):
    """Threads as on a board: the event loop and the writer are not held up, and nothing answered before is missing."""
    async with opened(small(tmp_path / "node")) as node:
        main = node.store("main")
        await main.streams.append("s", NO_STREAM, events(50))
        exporter = Exporter(node._engine)
        sent = await asyncio.to_thread(lambda: (exporter.begin(None), list(exporter.events()))[1])
        await main.streams.append("t", NO_STREAM, events(3))
        await settle(node)
        await node._writer.commit_and(exporter.hold)
        await main.streams.append("u", NO_STREAM, events(3))
        await commit(node)
        sent += await asyncio.to_thread(lambda: list(exporter.rest()))
        cluster = node._engine.identity.cluster_id

    def take():
        target = Board(tmp_path / "taker", Identity(cluster, "taker", b"t" * 16))
        importer = target.importer()
        feed(importer, sent)
        target.close_databases()
        importer.finish(target.journal)
        target.journal.close()
        again = Board(tmp_path / "taker", Identity(cluster, "taker", b"t" * 16))
        again.close_databases()
        again.journal.close()
        return verify(tmp_path / "taker")

    found = await asyncio.to_thread(take)
    assert (found.problems, found.events, found.streams) == ([], 53, 2)


def test_a_state_that_is_not_committed_is_not_held(source):
    exporter = Exporter(source.engine)
    exporter.begin(None)
    source.apply(append("main", "s0"))
    with pytest.raises(StorageError, match="commit first"):
        exporter.hold()
    exporter.close()


def test_verification_of_an_install_that_was_cut_says_so(source, make_target, monkeypatch):
    target = make_target()
    monkeypatch.setattr(importer_module, "complete", lambda *_: None)
    copy(source, target)
    target.journal.close()
    found = verify(target.places.data_dir)
    assert any("the next start finishes that" in note for note in found.notes)
    assert [problem for problem in found.problems if "data_dir of its own" not in problem.what] == []
    again = make_target()
    assert again.notes == [
        f"a raft_snapshot up to entry {source.engine.applied_index} was being installed; that is done now"
    ]
    assert again.rows() == source.rows()


def test_a_hollow_board_is_whole_when_a_copy_that_was_cut_is_installed(source, make_target, monkeypatch):
    target = make_target()
    mark_diverged(target.files, target.engine.directory)
    target.close()
    target = make_target()
    assert target.hollow
    monkeypatch.setattr(importer_module, "complete", lambda *_: None)
    copy(source, target)
    target.journal.close()
    again = make_target()
    assert not again.hollow
    assert again.rows() == source.rows()


def test_a_damaged_word_of_an_install_is_refused(make_target):
    target = make_target()
    target.close()
    (target.places.root / "INSTALL").write_bytes(b"\xc1")
    with pytest.raises(StorageError, match=r"is damaged .*restore the data directory"):
        make_target()
    (target.places.root / "INSTALL").unlink()
