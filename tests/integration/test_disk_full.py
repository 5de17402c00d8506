"""A full disk: appends are refused, reads and deletes go on, and all is well again once there is room."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os

import apsw
import pytest
from node_kit import (
    SEGMENT,
    FailingFiles,
    commit,
    events,
    everything,
    hold_reserve,
    image,
    opened,
    settle,
    small,
)

from shoal.errors import DiskFull, ShoalError, ShuttingDown, StreamNotFound, Timeout
from shoal.node import Means, Node
from shoal.testing.clock import FakeClock
from shoal.types import ANY_VERSION, NO_STREAM


def means(files: FailingFiles) -> Means:
    return Means(clock=FakeClock(), files=files)


async def append_until_full(store) -> int:
    """Appends of 4 KB until one is refused; returns how many went in."""
    for number in range(10_000):
        try:
            await store.streams.append("s", ANY_VERSION, events(1, size=4_000))
        except DiskFull as error:
            assert error.outcome == "not-applied"
            assert error.retryable
            return number
    raise AssertionError("the disk never filled up")


async def test_appends_are_refused_reads_go_on_and_recovery_needs_nobody(tmp_path):
    files = FailingFiles()
    async with opened(small(tmp_path), means(files)) as node:
        store = node.store("main")
        files.free = 0
        stored = await append_until_full(store)
        assert stored > 5
        assert len(await store.streams.read("s", count=1_000)) == stored
        with pytest.raises(DiskFull):
            await store.streams.append("t", NO_STREAM, events(1, size=9_000))
        with pytest.raises(DiskFull):
            await store.snapshots.save("s", 1, {"pad": "x" * 9_000})
        files.free = None
        assert await store.streams.append("s", stored - 1, events(1, size=9_000)) == stored
        assert not node.failed.done()
    async with opened(small(tmp_path)) as node:
        assert len(await node.store("main").streams.read("s", count=1_000)) == stored + 1


async def test_a_delete_gets_the_reserve_even_if_nothing_at_all_is_free(tmp_path):
    """The journal needs another segment for the delete; the reserve's blocks make room for it."""

    class Bounded(FailingFiles):
        def allocate(self, fd, size):
            held = (tmp_path / "reserve").exists()
            if self.free == 0 and held and size == SEGMENT:
                raise OSError(errno.ENOSPC, "no room")
            self._files.allocate(fd, size)

    files = Bounded()
    async with opened(small(tmp_path, reserve_bytes=4 * SEGMENT), means(files)) as node:
        store = node.store("main")
        assert await hold_reserve(node)
        spare = tmp_path / "journal" / "spare"
        files.free = 0
        stored = await append_until_full(store)
        if spare.exists():
            spare.unlink()
        for _ in range(20):  # until the last of the current segment is used up by deletes
            await asyncio.gather(*(store.streams.delete(f"gone-{n}" * 20) for n in range(100)))
            if not (tmp_path / "reserve").exists():
                break
        assert not (tmp_path / "reserve").exists()
        await store.streams.delete("s", hard=False)
        with pytest.raises(StreamNotFound):
            await store.streams.read("s")
        assert stored
        assert not node.failed.done()
        with pytest.raises(DiskFull):
            await store.streams.append("t", ANY_VERSION, events(1))
        files.free = None
        node._room._on_reserve(await hold_reserve(node))
        await store.streams.append("t", ANY_VERSION, events(1))
    async with opened(small(tmp_path)) as node:
        assert await node.store("main").streams.list_streams() == ["t"]


@pytest.mark.parametrize("name", ["write", "sync_data"])
async def test_a_failed_write_or_sync_ends_the_node_and_is_never_retried(tmp_path, name):
    files = FailingFiles(code=errno.EIO, only=name)
    node = await Node.open(small(tmp_path), means=means(files))
    store = node.store("main")
    await store.streams.append("s", NO_STREAM, events(1))
    files.at = len(files.calls) + 1
    with pytest.raises(Timeout) as caught:
        await store.streams.append("s", ANY_VERSION, events(1))
    assert caught.value.outcome == "unknown"
    assert isinstance(node.failed.exception(), OSError)
    with pytest.raises(ShuttingDown):
        await store.streams.append("s", ANY_VERSION, events(1))
    assert files.calls[files.at :] == []
    await node.close()
    async with opened(small(tmp_path)) as again:
        assert await again.store("main").streams.get_version("s") in {0, 1}


async def test_closing_while_the_disk_fails_does_not_hang(tmp_path):
    files = FailingFiles(code=errno.EIO, only="sync_data")
    node = await Node.open(small(tmp_path), means=means(files))
    files.at = len(files.calls) + 1
    waiting = asyncio.ensure_future(node.store("main").streams.append("s", NO_STREAM, events(1)))
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await node.close()
    with pytest.raises(ShoalError):
        await waiting
    assert node.failed.done()


# ------------------------------------------------------------------------------- SQLite's side of it


class FullVFS(apsw.VFS):
    """SQLite's files on a disk without room while `full`; `allowed` writes pass first."""

    def __init__(self) -> None:
        self.full = False
        self.name = f"full-{id(self)}"
        super().__init__(self.name, base="")

    def xOpen(self, name, flags):  # noqa: N802 - SQLite's name
        return FullFile(self, name, flags)


class FullFile(apsw.VFSFile):
    """Fails only where commits are written: what SQLite does at its close it does not report."""

    def __init__(self, vfs, name, flags):
        self._vfs = vfs
        self._wal = bool(flags[0] & apsw.SQLITE_OPEN_WAL)
        super().__init__("", name, flags)

    def xWrite(self, data, offset):  # noqa: N802 - SQLite's name
        if self._vfs.full and self._wal:
            raise apsw.FullError("no room")
        super().xWrite(data, offset)


@pytest.fixture
def full():
    vfs = FullVFS()
    yield vfs
    vfs.unregister()


async def test_a_commit_without_room_is_rolled_back_and_made_again_from_the_journal(tmp_path, full):
    """Nothing acknowledged is lost though SQLite dropped the transaction, and `applied_index` does not run ahead."""
    files = FailingFiles()
    config = small(tmp_path, reserve_bytes=SEGMENT)
    async with opened(config, Means(clock=FakeClock(), files=files, vfs=full.name)) as node:
        store = node.store("main")
        assert await hold_reserve(node)
        node._reserve.release = _also(node._reserve.release, lambda: setattr(full, "full", False))
        node._writer._release_reserve = node._reserve.release
        await store.streams.append("a", NO_STREAM, events(3))
        await commit(node)
        committed = node._engine.catalog.applied_index
        await store.streams.append("a", 2, events(3))
        await store.streams.append("b", NO_STREAM, events(2))
        await store.streams.delete("a")
        await settle(node)
        full.full = True
        await commit(node)
        assert not node.failed.done()
        assert not full.full  # the reserve was given up
        assert node._engine.catalog.applied_index > committed
        with pytest.raises(DiskFull):
            await store.streams.append("c", NO_STREAM, events(1))
        await store.streams.delete("b")
        node._room._on_reserve(await hold_reserve(node))
        await store.streams.append("c", NO_STREAM, events(1))
        await commit(node)
        live = await everything(node)
        assert live["main"]["head"] == 9
        assert (await node.verify()).problems == []
        killed = await asyncio.to_thread(image, tmp_path, tmp_path.with_name("killed"))
    for directory in (tmp_path, killed):
        async with opened(small(directory)) as again:
            assert await everything(again) == live
            assert (await again.verify()).problems == []


def _also(first, second):
    def both():
        first()
        second()

    return both


async def test_nothing_is_appended_while_the_reserve_cannot_be_held(tmp_path, caplog):
    """Else SQLite could meet the full disk, and nothing would be left to give it."""
    files = FailingFiles()
    files.free = 5 * SEGMENT
    caplog.set_level("INFO")
    async with opened(small(tmp_path, reserve_bytes=4 * SEGMENT), means(files)) as node:
        store = node.store("main")
        await hold_reserve(node)
        await settle(node)
        await asyncio.sleep(0)
        with pytest.raises(DiskFull, match=f"{6 * SEGMENT:,} bytes are free"):
            await store.streams.append("s", NO_STREAM, events(1))
        assert node.info()["disk_full"]
        await store.streams.delete("s")
        files.free = None
        node._room._on_reserve(await hold_reserve(node))
        assert await store.streams.append("s", NO_STREAM, events(1)) == 0
    assert [record.levelname for record in caplog.records if record.name == "shoal.storage.room"] == [
        "WARNING",
        "INFO",
    ]


async def test_a_start_without_room_says_so_in_a_line(tmp_path):
    class Full(FailingFiles):
        def allocate(self, fd, size):
            raise OSError(errno.ENOSPC, "no room")

    with pytest.raises(DiskFull, match="too few to start; free some space, then start again"):
        async with opened(small(tmp_path), means(Full())):
            pass


async def test_if_even_the_reserve_is_not_enough_the_node_ends_and_nothing_is_lost(tmp_path, full):
    node = await Node.open(small(tmp_path), means=Means(clock=FakeClock(), vfs=full.name))
    store = node.store("main")
    await store.streams.append("a", NO_STREAM, events(3))
    await settle(node)
    full.full = True
    await commit(node)
    assert isinstance(node.failed.exception(), DiskFull)
    assert "start again" in str(node.failed.exception())
    await node.close()
    async with opened(small(tmp_path)) as again:
        assert await again.store("main").streams.get_version("a") == 2


async def test_a_store_made_since_the_last_commit_survives_the_rollback(tmp_path, full):
    """Its file is opened anew; reads on the writer's connection must find the new one."""
    async with opened(small(tmp_path), Means(clock=FakeClock(), vfs=full.name)) as node:
        await commit(node)
        other = await node.create_store("other")
        await other.streams.append("s", NO_STREAM, events(2))
        await settle(node)
        node._writer._release_reserve = lambda: setattr(full, "full", False)
        full.full = True
        await commit(node)
        assert not node.failed.done()
        assert await other.streams.list_streams() == ["s"]
        assert len(await other.streams.read("s")) == 2


async def test_a_store_dropped_and_made_again_since_the_last_commit_survives_the_rollback(tmp_path):
    """The older file is in use again, until the replay has dropped it once more."""
    async with opened(small(tmp_path, commit_rows=2)) as node:
        old = await node.create_store("other")
        await old.streams.append("old", NO_STREAM, events(5))
        await commit(node)
        node._writer.commit, writer_commit = (lambda: None), node._writer.commit
        await node.drop_store("other")
        new = await node.create_store("other")
        await settle(node)
        catalog_commit = node._engine.catalog.commit
        refused = []

        def once(index, term):
            if not refused:
                refused.append(index)
                raise apsw.FullError("no room")
            catalog_commit(index, term)

        node._engine.catalog.commit = once
        await new.streams.append("new", NO_STREAM, events(3))
        await settle(node)
        assert refused
        node._writer.commit = writer_commit
        assert await new.streams.list_streams() == ["new"]
        assert (await new.streams.read_all())[-1].position == 3
        assert not node.failed.done()
        await commit(node)
        assert (await node.verify()).problems == []
    async with opened(small(tmp_path)) as again:
        assert await again.store("other").streams.list_streams() == ["new"]


async def test_closing_on_a_full_disk_closes(tmp_path, full):
    node = await Node.open(small(tmp_path), means=Means(clock=FakeClock(), vfs=full.name))
    await node.store("main").streams.append("a", NO_STREAM, events(3))
    full.full = True
    await node.close()
    full.full = False
    async with opened(small(tmp_path)) as again:
        assert await again.store("main").streams.get_version("a") == 2


# ------------------------------------------------------------------------------- a real full disk


@pytest.fixture
def tiny_disk(tmp_path):
    """A tmpfs of 3 MiB, where mounting is allowed; else a fake of one, so that the test always runs."""
    target = tmp_path / "disk"
    target.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    mounted = libc.mount(b"tmpfs", str(target).encode(), b"tmpfs", 0, b"size=3m") == 0
    yield target, mounted
    if mounted:
        libc.umount2(str(target).encode(), 2)


async def test_a_disk_that_others_fill_up(tiny_disk):
    """Filled to the last block by somebody else: refused, not lost; freed again: goes on by itself."""
    directory, mounted = tiny_disk
    files = FailingFiles()
    config = small(directory / "data", reserve_bytes=4 * SEGMENT)
    async with opened(config, means(files)) as node:
        store = node.store("main")
        await store.streams.append("before", NO_STREAM, events(3))
        await asyncio.to_thread(_fill, directory, files, mounted)
        stored = await append_until_full(store)
        assert len(await store.streams.read_all(count=1_000)) == stored + 3
        await store.streams.delete("before")
        assert not node.failed.done()
        (directory / "filler").unlink(missing_ok=True)
        files.free = None
        if node.sequencer.disk_full is not None:
            node._room._on_reserve(await hold_reserve(node))
        await store.streams.append("after", NO_STREAM, events(3, size=8_000))
        live = await everything(node)
    async with opened(config) as again:
        assert await everything(again) == live
        assert (await again.verify()).problems == []


def _fill(directory, files, mounted):
    if not mounted:
        files.free = 0
        return
    fd = os.open(directory / "filler", os.O_CREAT | os.O_WRONLY)
    try:
        while True:
            os.write(fd, bytes(4096))
    except OSError as error:
        assert error.errno == errno.ENOSPC
    finally:
        os.close(fd)


async def test_a_node_starts_on_a_full_disk(tiny_disk):
    """With the reserve's room; reads work, appends are refused."""
    directory, mounted = tiny_disk
    files = FailingFiles()
    config = small(directory / "data", reserve_bytes=8 * SEGMENT)
    async with opened(config, means(files)) as node:
        await node.store("main").streams.append("s", NO_STREAM, events(3))
        assert await hold_reserve(node)
    (directory / "data" / "journal" / "spare").unlink(missing_ok=True)
    await asyncio.to_thread(_fill, directory, files, mounted)
    async with opened(config, means(files)) as node:
        assert len(await node.store("main").streams.read("s")) == 3
        assert not node.failed.done()
