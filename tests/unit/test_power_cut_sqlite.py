"""SQLite on the power-cut disk: each durability setting loses what its documentation says, and no more."""

from __future__ import annotations

import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import pytest

from shoal.testing import PowerCutDisk, disk_state, images, power_cut_vfs, scratch_root
from shoal.testing.power_cut_images import Image


@pytest.fixture
def scratch() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(dir=scratch_root()))
    yield path
    shutil.rmtree(path)


def run_sqlite(root: Path, synchronous: str) -> PowerCutDisk:
    """Sixty transactions of two rows each, with checkpoints of all kinds; each is marked when it is done."""
    disk = PowerCutDisk(root)
    rng = random.Random(5)
    database = apsw.Connection(str(root / "test.db"), vfs=disk.vfs_name)
    for pragma in ("journal_mode=wal", f"synchronous={synchronous}", "wal_autocheckpoint=15"):
        database.execute(f"pragma {pragma}").fetchall()
    database.execute(
        "create table pair(id integer primary key, content blob); create index i on pair(content)"
    )
    for number in range(60):
        if number == 30:
            database.close()
            database = apsw.Connection(str(root / "test.db"), vfs=disk.vfs_name)
            database.execute(f"pragma synchronous={synchronous}")
        with database:
            for row in (2 * number, 2 * number + 1):
                database.execute("insert into pair values(?,?)", (row, rng.randbytes(500)))
        disk.mark(2 * number + 2)
        if number % 11 == 10:
            database.wal_checkpoint(
                mode=rng.choice((apsw.SQLITE_CHECKPOINT_PASSIVE, apsw.SQLITE_CHECKPOINT_TRUNCATE))
            )
            assert disk.unrecorded() == []
    database.close()
    assert disk.unrecorded() == []
    disk.close()
    return disk


def judge(image: Image) -> str:
    """Reopen with SQLite's own VFS: "ok", "lost", "partial" or "corrupt"."""
    acknowledged = max((mark for mark in image.marks if isinstance(mark, int)), default=0)
    database = apsw.Connection(str(image.path / "test.db"))
    try:
        database.execute("pragma mmap_size=0").fetchall()
        if database.execute("pragma integrity_check").get != "ok":
            return "corrupt"
        if not database.execute("select count(*) from sqlite_schema").get:
            return "lost" if acknowledged else "ok"
        rows, last = next(database.execute("select count(*), coalesce(max(id), -1) from pair"))
    except apsw.Error:
        return "corrupt"
    finally:
        database.close()
    if rows % 2 or last != rows - 1:
        return "partial"
    return "lost" if rows < acknowledged else "ok"


def judge_many(scratch: Path, synchronous: str, count: int = 500) -> Counter[str]:
    disk = run_sqlite(scratch / "live", synchronous)
    return Counter(judge(image) for image in images(disk.log, scratch / "image", count, seed=1))


def test_sqlite_in_wal_mode_with_full_synchronous_loses_nothing(scratch: Path) -> None:
    assert set(judge_many(scratch, "full", 1500)) == {"ok"}


def test_sqlite_with_normal_synchronous_loses_but_never_breaks(scratch: Path) -> None:
    found = judge_many(scratch, "normal")
    assert set(found) == {"ok", "lost"}
    assert found["lost"] > 50


def test_sqlite_that_never_syncs_is_caught_in_most_images(scratch: Path) -> None:
    found = judge_many(scratch, "off")
    assert found["corrupt"] > 50
    assert found["ok"] < 250


# ---------------------------------------------------------------------------------------------- mutants


def no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_state.DiskState, "_sync", lambda _self, _node: None)


def no_directory_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_state.DiskState, "_sync_dir", lambda _self, _node: None)


def no_directory_sync_by_sqlite(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(power_cut_vfs, "_DIRECTORY_SYNCED_WITH", 0)


@pytest.mark.parametrize("mutant", [no_sync, no_directory_sync, no_directory_sync_by_sqlite])
def test_a_disk_that_forgets_what_was_synced_breaks_even_full_synchronous(
    mutant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch, scratch: Path
) -> None:
    mutant(monkeypatch)
    assert set(judge_many(scratch, "full")) > {"ok"}
