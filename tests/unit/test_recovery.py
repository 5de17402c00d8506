"""Opening a data directory: what fits together is opened, what does not is refused with what to do."""

from __future__ import annotations

import shutil

import pytest
from node_kit import (
    FailingFiles,
    commit,
    entry,
    events,
    everything,
    image,
    inline_means,
    journal_in,
    opened,
    segments,
    small,
)

from shoal.errors import ConfigError, DataDirLocked, StorageError
from shoal.node import Node
from shoal.storage.recovery import Lock
from shoal.types import ANY_VERSION, NO_STREAM


@pytest.fixture(autouse=True)
def blocking_is_fine(nothing_blocks_the_loop):
    """Nodes in one thread."""
    nothing_blocks_the_loop.deactivate()
    yield
    nothing_blocks_the_loop.activate()


async def filled(directory, count=3):
    async with opened(small(directory), inline_means()) as node:
        for n in range(count):
            await node.store("main").streams.append(f"s{n}", NO_STREAM, events(3))
        return await everything(node)


async def refused(directory, match):
    with pytest.raises(StorageError, match=match):
        await Node.open(small(directory), means=inline_means())


async def test_a_missing_journal_is_refused(tmp_path):
    await filled(tmp_path)
    shutil.rmtree(tmp_path / "journal")
    await refused(tmp_path, "journal is missing")


async def test_a_database_ahead_of_its_journal_is_refused(tmp_path):
    await filled(tmp_path / "a", 1)
    image(tmp_path / "a", tmp_path / "b")
    async with opened(small(tmp_path / "b"), inline_means()) as node:
        await node.store("main").streams.append("more", NO_STREAM, events(3))
    shutil.rmtree(tmp_path / "b" / "journal")
    shutil.copytree(tmp_path / "a" / "journal", tmp_path / "b" / "journal")
    await refused(tmp_path / "b", "the journal ends at")


async def test_a_database_behind_its_journals_beginning_is_refused(tmp_path):
    await filled(tmp_path / "a", 1)
    image(tmp_path / "a", tmp_path / "b")
    async with opened(small(tmp_path / "b"), inline_means()) as node:
        for _ in range(60):
            await node.store("main").streams.append("more", ANY_VERSION, events(1, size=4_000))
        for _ in range(3):
            await commit(node)
    assert segments(tmp_path / "b" / "journal")[0].name > "0000000000000001.seg"
    shutil.rmtree(tmp_path / "b" / "db")
    shutil.copytree(tmp_path / "a" / "db", tmp_path / "b" / "db")
    await refused(tmp_path / "b", "the journal begins at entry")


async def test_the_database_of_another_journal_is_refused(tmp_path):
    await filled(tmp_path / "a")
    await filled(tmp_path / "b")
    shutil.rmtree(tmp_path / "b" / "db")
    shutil.copytree(tmp_path / "a" / "db", tmp_path / "b" / "db")
    await refused(tmp_path / "b", "another journal")


async def test_the_store_file_of_another_journal_is_refused(tmp_path):
    await filled(tmp_path / "a")
    await filled(tmp_path / "b")
    (theirs,), (ours,) = ((tmp_path / n / "db" / "g1").glob("main-*.db") for n in "ab")
    shutil.copy(theirs, ours)
    await refused(tmp_path / "b", "another journal")


@pytest.mark.parametrize("content", ["", "../../etc", "a/b"])
async def test_a_damaged_pointer_is_refused(tmp_path, content):
    await filled(tmp_path)
    (tmp_path / "db" / "CURRENT").write_text(content)
    await refused(tmp_path, "does not name a generation")


async def test_a_file_of_a_later_release_is_refused(tmp_path):
    import apsw

    await filled(tmp_path)
    (path,) = (tmp_path / "db" / "g1").glob("main-*.db")
    connection = apsw.Connection(str(path))
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    await refused(tmp_path, "later release")


async def test_what_was_not_committed_comes_from_the_journal(tmp_path):
    async with opened(small(tmp_path / "live"), inline_means()) as node:
        store = node.store("main")
        await store.streams.append("a", NO_STREAM, events(3))
        await commit(node)
        await store.streams.append("b", NO_STREAM, events(3))
        await node.create_store("late")
        await node.store("late").streams.append("c", NO_STREAM, events(1))
        await node.create_store("dropped")
        await node.drop_store("dropped")
        live = await everything(node)
        killed = image(tmp_path / "live", tmp_path / "killed")
    for _ in range(2):
        async with opened(small(killed), inline_means()) as again:
            assert await everything(again) == live
        assert not list((killed / "db").rglob("dropped-*"))


async def test_a_torn_tail_is_reported(tmp_path):
    await filled(tmp_path)
    (path,) = segments(tmp_path / "journal")
    journal = journal_in(tmp_path / "journal")
    end = journal._segments[-1].end
    journal.close()
    with path.open("r+b") as file:
        file.seek(end)
        file.write(b"SREC of a batch that was never finished")
    async with opened(small(tmp_path), inline_means()) as node:
        assert "power cut" in node.notes[0]
    async with opened(small(tmp_path), inline_means()) as node:
        assert node.notes == []


async def test_an_entry_no_release_can_read_is_refused_not_skipped(tmp_path):
    await filled(tmp_path)
    journal = journal_in(tmp_path / "journal")
    journal.append_records([entry(journal.last_index + 1, b"\xff of a later release")])
    journal.close()
    await refused(tmp_path, "codec version 255.*Install the release")


@pytest.mark.parametrize("steps", range(1, 60, 3))
async def test_a_start_that_fails_at_any_file_call_can_be_made_again(tmp_path, steps):
    """First start and second: whatever call fails, nothing is lost and nothing stays locked."""
    files = FailingFiles(at=steps, code=5)
    try:
        async with opened(small(tmp_path), inline_means(files)) as node:
            await node.store("main").streams.append("s", NO_STREAM, events(1))
    except Exception as error:  # noqa: BLE001 - whichever it is, the next start must work
        assert "Input/output" in str(error)
    async with opened(small(tmp_path), inline_means()) as node:
        assert await node.store("main").streams.get_version("s") in {-1, 0}
        await node.store("main").streams.append("t", NO_STREAM, events(1))


def test_a_lock_is_exclusive_until_closed(tmp_path):
    lock = Lock(tmp_path / "new" / "dir")
    with pytest.raises(DataDirLocked):
        Lock(tmp_path / "new" / "dir")
    lock.close()
    Lock(tmp_path / "new" / "dir").close()


def test_a_directory_that_cannot_be_used_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="choose another"):
        Lock(tmp_path / "file" / "below")
