"""Damaged files: a database is rebuilt where the journal holds everything, anything else is refused and named."""

from __future__ import annotations

import asyncio

import apsw
import pytest
from node_kit import SEGMENT, commit, events, everything, inline_means, opened, segments, small, submit

from shoal.errors import DatabaseCorrupt, JournalCorrupt, StorageError
from shoal.model.commands import CreateSubscription, Definition, Parked, Settle
from shoal.node import Node
from shoal.storage import engine, recovery
from shoal.storage.verify import verify
from shoal.types import ANY_VERSION, NO_STREAM, SubscriptionOptions


@pytest.fixture(autouse=True)
def blocking_is_fine(nothing_blocks_the_loop):
    """Nodes in one thread."""
    nothing_blocks_the_loop.deactivate()
    yield
    nothing_blocks_the_loop.activate()


async def subscribe(store) -> None:
    """A subscription that has settled some and parked some."""
    definition = Definition("all", b"{}", "beginning")
    made = await submit(store, CreateSubscription("main", "mail", definition, SubscriptionOptions(), []))
    parked = [Parked(at, "s0", "no answer", 3) for at in (1, 2)]
    await submit(store, Settle("main", "mail", made.state.life, 9, [12], parked, [], [(11, 1)]))


async def filled(directory, *, drop_journal: bool = False) -> dict:
    """A closed node's files, and what it told."""
    async with opened(small(directory), inline_means()) as node:
        store = node.store("main")
        for turn in range(12):
            await store.streams.append(
                f"s{turn % 3}", ANY_VERSION, events(20, tags=["t", f"t{turn}"], size=200)
            )
        await store.snapshots.save("s0", 5, {"n": 1})
        await store.streams.delete("s1")
        await subscribe(store)
        if drop_journal:
            for _ in range(40):
                await store.streams.append("more", ANY_VERSION, events(1, size=8_000))
            await commit(node)
            for _ in range(5):
                await asyncio.sleep(0)
            await commit(node)
            for _ in range(5):
                await asyncio.sleep(0)
        return await everything(node)


def database(directory):
    (path,) = (directory / "db" / "g1").glob("main-*.db")
    return path


def first_page(path):
    data = bytearray(path.read_bytes())
    data[:100] = b"\xff" * 100
    path.write_bytes(data)


def middle_pages(path):
    data = bytearray(path.read_bytes())
    for page in range(2, len(data) // 4096, 2):
        data[page * 4096 : page * 4096 + 512] = b"\xa5" * 512
    path.write_bytes(data)


def pages_of_events(path):
    connection = apsw.Connection(str(path))
    pages = [
        page
        for (page,) in connection.execute("SELECT pageno FROM dbstat WHERE name='event' AND pagetype='leaf'")
    ]
    connection.close()
    data = bytearray(path.read_bytes())
    for page in pages:
        data[(page - 1) * 4096 : (page - 1) * 4096 + 64] = b"\xa5" * 64
    path.write_bytes(data)


def truncated(path):
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 8192 * 4096])


def odd_length(path):
    path.write_bytes(path.read_bytes()[:5_000])


def empty(path):
    path.write_bytes(b"")


def gone(path):
    path.unlink()


DAMAGES = [first_page, middle_pages, truncated, odd_length, empty, gone]


@pytest.mark.parametrize("damage", DAMAGES)
async def test_a_damaged_store_file_is_rebuilt_from_a_whole_journal(tmp_path, damage):
    live = await filled(tmp_path)
    damage(database(tmp_path))
    async with opened(small(tmp_path), inline_means()) as node:
        assert await everything(node) == live
        assert (await node.verify()).problems == []
        if damage not in {empty, gone}:
            assert "rebuilt from the journal" in node.notes[0]
            assert list((tmp_path / "db" / "quarantine-1").glob("main-*.db"))
    async with opened(small(tmp_path), inline_means()) as node:
        assert await everything(node) == live
        assert node.notes == []


@pytest.mark.parametrize("damage", DAMAGES)
async def test_a_damaged_catalogue_is_rebuilt_from_a_whole_journal(tmp_path, damage):
    live = await filled(tmp_path)
    damage(tmp_path / "db" / "g1" / "catalog.db")
    async with opened(small(tmp_path), inline_means()) as node:
        assert await everything(node) == live


@pytest.mark.parametrize("damage", DAMAGES)
async def test_if_the_journal_no_longer_holds_everything_the_start_is_refused(tmp_path, damage):
    await filled(tmp_path, drop_journal=True)
    assert segments(tmp_path / "journal")[0].name != "0000000000000001.seg"
    damage(database(tmp_path))
    before = {path.name: path.read_bytes() for path in (tmp_path / "db" / "g1").iterdir()}
    with pytest.raises((DatabaseCorrupt, StorageError), match="restore the data directory"):
        await Node.open(small(tmp_path), means=inline_means())
    if damage not in {empty, gone}:
        after = {path.name: path.read_bytes() for path in (tmp_path / "db" / "g1").iterdir()}
        assert after.keys() >= before.keys()
        assert not list((tmp_path / "db").glob("quarantine-*"))


async def test_a_large_file_is_checked_when_a_reader_found_it_damaged(tmp_path, monkeypatch):
    """The reader's find ends the node and leaves word, so that the next start looks at every page."""
    live = await filled(tmp_path)
    monkeypatch.setattr(engine, "CHECKED_BYTES", 0)
    pages_of_events(database(tmp_path))
    node = await Node.open(small(tmp_path), means=inline_means())
    with pytest.raises(DatabaseCorrupt, match="Restart the node"):
        await node.store("main").streams.read_all(count=1_000)
    assert isinstance(node.failed.exception(), DatabaseCorrupt)
    assert (tmp_path / "db" / "g1" / recovery.SUSPECT).exists()
    await node.close()
    async with opened(small(tmp_path), inline_means()) as again:
        assert await everything(again) == live
        assert not (tmp_path / "db" / "g1" / recovery.SUSPECT).exists()


async def test_damage_met_by_the_writer_ends_the_node_and_the_next_start_rebuilds(tmp_path, monkeypatch):
    live = await filled(tmp_path)
    monkeypatch.setattr(engine, "CHECKED_BYTES", 0)
    pages_of_events(database(tmp_path))
    node = await Node.open(small(tmp_path), means=inline_means())
    with pytest.raises((DatabaseCorrupt, apsw.CorruptError)):
        await node.store("main").streams.append("s0", ANY_VERSION, events(50))
        await commit(node)
        await asyncio.wait_for(asyncio.shield(node.failed), 1)
    await node.close()
    async with opened(small(tmp_path), inline_means()) as again:
        found = await everything(again)
        assert found["main"]["events"][: len(live["main"]["events"])] == live["main"]["events"]


async def test_a_damaged_journal_is_refused_and_left_alone(tmp_path):
    await filled(tmp_path)
    path = segments(tmp_path / "journal")[0]
    data = bytearray(path.read_bytes())
    data[6_000] ^= 1
    path.write_bytes(data)
    with pytest.raises(JournalCorrupt, match="backup"):
        await Node.open(small(tmp_path), means=inline_means())
    assert path.read_bytes() == data


async def test_verify_finds_a_flipped_byte_anywhere_in_what_is_stored(tmp_path):
    """Every value of every table, changed in place behind the store's back."""
    await filled(tmp_path)
    path = database(tmp_path)
    whole = path.read_bytes()
    changes = [
        "UPDATE event SET data = CAST(replace(CAST(data AS TEXT), '3', '4') AS BLOB) WHERE version = 3",
        "UPDATE event SET epoch_us = epoch_us + 1 WHERE position = 7",
        "UPDATE event SET type = type + 1 WHERE position = 7",
        "UPDATE event SET tags = NULL WHERE position = 9",
        "UPDATE event SET tags = x'ff' WHERE position = 9",
        "UPDATE event SET content_type = 'text/plain' WHERE position = 9",
        "UPDATE event SET metadata = x'7b7d' WHERE position = 9",
        "UPDATE event SET event_id = zeroblob(16) WHERE position = 9",
        "UPDATE event SET own_id = 1 WHERE position = 9",
        "UPDATE event SET reading_us = 5 WHERE position = 9",
        "UPDATE event SET chain = zeroblob(32) WHERE position = 9",
        "UPDATE event SET position = 100000 WHERE position = 9",
        "DELETE FROM event WHERE position = 9",
        "DELETE FROM event WHERE position = 240",
        "UPDATE stream SET name = 'other' WHERE name = 's0'",
        "UPDATE stream SET name = CAST(x'73ff' AS TEXT) WHERE name = 's0'",
        "UPDATE stream SET version = version - 1 WHERE name = 's0'",
        "UPDATE stream SET visible_from = 3 WHERE name = 's0'",
        "UPDATE stream SET tombstoned = 1 WHERE name = 's0'",
        "DELETE FROM stream WHERE name = 's0'",
        "UPDATE type SET name = 'other'",
        "UPDATE type SET events = events + 1",
        "UPDATE tag SET name = 'u' WHERE name = 't'",
        "UPDATE tag SET name = CAST(x'ff' AS TEXT) WHERE name = 't'",
        "UPDATE tag SET events = 1 WHERE name = 't'",
        "DELETE FROM tagged WHERE position = 9",
        "UPDATE snapshot SET data = x'31'",
        "UPDATE snapshot SET version = 6",
        "UPDATE subscription SET checkpoint = checkpoint + 1",
        "UPDATE parked SET replaying = 1 WHERE position = 2",
        "DELETE FROM subscription",
        "UPDATE meta SET value = 7 WHERE key = 'position'",
    ]
    for change in changes:
        path.write_bytes(whole)
        connection = apsw.Connection(str(path))
        connection.execute(change)
        connection.close()
        assert not verify(tmp_path).ok, change
    path.write_bytes(whole)
    assert verify(tmp_path).ok


async def test_verify_finds_a_changed_catalogue_and_a_start_mends_it(tmp_path):
    live = await filled(tmp_path)
    path = tmp_path / "db" / "g1" / "catalog.db"
    whole = path.read_bytes()
    for change in (
        "UPDATE store SET name = 'other'",
        "UPDATE store SET created_index = created_index + 1",
        "UPDATE store SET created_index = 'soon'",
        "UPDATE store SET name = CAST(x'73ff' AS TEXT)",
        "INSERT INTO store VALUES ('more', 3)",
        "DELETE FROM store",
        "UPDATE meta SET value = value + 1 WHERE key = 'applied_index'",
        "PRAGMA user_version = 99",
    ):
        path.write_bytes(whole)
        connection = apsw.Connection(str(path))
        connection.execute(change)
        connection.close()
        assert not verify(tmp_path).ok, change
    path.write_bytes(whole)
    assert verify(tmp_path).ok
    connection = apsw.Connection(str(path))
    connection.execute("DELETE FROM store")  # else its file would be a stray, and be removed
    connection.close()
    async with opened(small(tmp_path), inline_means()) as node:
        assert await everything(node) == live
        assert "rebuilt from the journal" in node.notes[0]


async def test_verify_finds_flipped_bits_of_the_file_itself(tmp_path):
    """Whatever SQLite makes of it, verification ends, and what it calls good is what was stored."""
    live = await filled(tmp_path)
    path = database(tmp_path)
    whole = path.read_bytes()
    missed = []
    for at in range(61, len(whole), 2_003):
        damaged = bytearray(whole)
        damaged[at] ^= 0x41
        path.write_bytes(damaged)
        if verify(tmp_path).ok:
            missed.append(at)
    for at in missed:
        damaged = bytearray(whole)
        damaged[at] ^= 0x41
        path.write_bytes(damaged)
        async with opened(small(tmp_path), inline_means()) as node:
            assert await everything(node) == live, at
        path.with_name(path.name + "-wal").unlink(missing_ok=True)
    assert SEGMENT


async def test_verify_names_a_damaged_journal(tmp_path):
    await filled(tmp_path)
    path = segments(tmp_path / "journal")[0]
    data = bytearray(path.read_bytes())
    data[6_000] ^= 1
    path.write_bytes(data)
    (problem,) = verify(tmp_path).problems
    assert str(path) in problem.where


async def test_a_database_set_aside_is_made_again_or_the_start_is_refused(tmp_path):
    """What `shoal verify` advises."""
    live = await filled(tmp_path)
    (tmp_path / "db").rename(tmp_path / "db.damaged")
    async with opened(small(tmp_path), inline_means()) as node:
        assert await everything(node) == live
        assert (await node.verify()).problems == []
    other = tmp_path / "other"
    await filled(other, drop_journal=True)
    (other / "db").rename(other / "db.damaged")
    with pytest.raises(StorageError, match="the journal begins at entry"):
        async with opened(small(other), inline_means()):
            pass


async def test_a_changed_subscription_is_rebuilt_from_a_whole_journal(tmp_path):
    """A checkpoint that is too high would lose events: it is not believed."""
    live = await filled(tmp_path)
    assert live["main"]["parked"]
    connection = apsw.Connection(str(database(tmp_path)))
    connection.execute("UPDATE subscription SET checkpoint = 100")
    connection.close()
    async with opened(small(tmp_path), inline_means()) as node:
        assert await everything(node) == live
        assert "subscription 'mail' is not what was stored" in node.notes[0]


async def test_verify_of_nothing_says_so(tmp_path):
    with pytest.raises(StorageError, match="holds no store"):
        verify(tmp_path)


async def test_a_tombstoned_streams_rows_may_be_half_removed(tmp_path, monkeypatch):
    async with opened(small(tmp_path), inline_means()) as node:
        store = node.store("main")
        await store.streams.append("gone", NO_STREAM, events(30))
        await store.streams.append("kept", NO_STREAM, events(3))
        await store.streams.delete("gone", hard=True)
        monkeypatch.setattr("shoal.storage.store_db.RECLAIM_ROWS", 10)
        await commit(node)
        assert (await node.verify()).problems == []
    assert verify(tmp_path).problems == []
