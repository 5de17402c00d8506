"""An install of a raft_snapshot on a recorded disk, cut anywhere: what is found is the old state or the new."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from transfer_kit import RECEIVER, Board, append, chunks, copy, feed, fill, proposal

from shoal.model.commands import CreateStore
from shoal.raft.log import HardState
from shoal.storage.verify import verify
from shoal.testing import Image, PowerCutDisk, WriteLog

SEGMENT_BYTES = 16 * 1024
FED, FINISHED = "everything has come", "finished"


class Installed(NamedTuple):
    """A life in which a raft_snapshot came: what was there before and after it, and what the log must keep."""

    log: WriteLog
    before: dict[str, Any]
    after: dict[str, Any]
    voted: HardState
    generation: str
    index: int
    kept: int
    """Entries that follow the snapshot's in the journal."""


def open_target(root: Path, disk: PowerCutDisk | None = None) -> Board:
    """The receiver."""
    files, vfs = (None, None) if disk is None else (disk.files, disk.vfs_name)
    return Board(
        root / "data", RECEIVER, files=files, vfs=vfs, own=root / "own" / "db", segment_bytes=SEGMENT_BYTES
    )


def record(path: Path, *, follows: bool, again: bool = False) -> Installed:
    """The receiver's life; `follows` gives it a log that goes on after the snapshot's entry, `again` installs twice."""
    source = Board(path / "source", own=path / "source-own")
    fill(source)
    disk = PowerCutDisk(path / "live")
    for directory in ("data", "own/db"):
        disk.files.mkdir(disk.root / directory)
    for directory in ("", "own"):
        disk.files.sync_dir(disk.root / directory)
    target = open_target(disk.root, disk)
    if follows:
        for entry in source.journal.read(0):
            target.add(entry.payload, entry.kind)
    else:
        target.apply(CreateStore("mine"), CreateStore("own"))
        for n in range(30):
            target.apply(append("mine", f"s{n}", 2, size=300), append("own", "s"), term=2)  # not the leader's
    target.vote(5, "somebody")
    if follows:
        target.add(proposal(99, append("main", "kept")))
        target.catch_up()
    before = target.rows()
    if again:
        copy(source, target)
        target.close()
        target = open_target(disk.root, disk)
        before = target.rows()
        source.apply(append("main", "s0", 5))
    target.engine.make_durable()
    disk.log.start = len(disk.log.entries)
    importer = target.importer()
    feed(importer, chunks(source))
    disk.mark(FED)
    target.close_databases()
    index, _ = importer.finish(target.journal)
    disk.mark(FINISHED)
    target.journal.close()
    target = open_target(disk.root, disk)
    after, voted, generation = target.rows(), target.journal.hard_state, target.engine.directory.name
    kept = target.journal.last_index - index
    target.close()
    source.close()
    disk.close()
    return Installed(disk.log, before, after, voted, generation, index, kept)


def judge(installed: Installed, image: Image) -> str:
    """Open an image; whether it is "old" or "new". Raises AssertionError, and what opening raises."""
    target = open_target(image.path)
    try:
        assert target.journal.hard_state == installed.voted, target.journal.hard_state
        assert not any("damaged" in note for note in target.notes), target.notes
        found = target.rows()
        new = target.engine.directory.name == installed.generation
        assert found == (installed.after if new else installed.before), "neither what was nor what came"
        assert new or FINISHED not in image.marks, "what was finished is gone"
        if new:
            assert FED in image.marks, "what has not come cannot be there"
            assert target.journal.last_index == installed.index + installed.kept
            assert sorted(path.name for path in (image.path / "data" / "db").iterdir()) == [
                "CURRENT",
                target.engine.directory.name,
            ]
            assert [path.name for path in (image.path / "own" / "db").iterdir()] == [installed.generation]
        target.apply(CreateStore("later"))
        target.apply(append("later", "s", 2))
        later = target.rows()["later"]["event"]
    finally:
        target.close()
    again = open_target(image.path)
    try:
        assert again.rows()["later"]["event"] == later
    finally:
        again.close()
    return "new" if new else "old"


def verified(image: Image) -> None:
    """Verification of a reopened image finds nothing; the store elsewhere is looked at by itself."""
    problems = [
        each for each in verify(image.path / "data").problems if "data_dir of its own" not in each.what
    ]
    assert problems == [], problems
