"""The power-cut disk: what was synced is found again, anything else may be lost, torn or out of order."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shoal.testing import PowerCutDisk, build_image, fates, images, scratch_root
from shoal.testing.power_cut_images import Image
from shoal.testing.write_log import SECTOR

A, B = b"a" * SECTOR, b"b" * SECTOR


@pytest.fixture
def scratch() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(dir=scratch_root()))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def disk(scratch: Path) -> Iterator[PowerCutDisk]:
    disk = PowerCutDisk(scratch / "live")
    yield disk
    assert disk.unrecorded() == []
    disk.close()


def final_images(disk: PowerCutDisk, count: int = 60) -> Iterator[Image]:
    """Images of a cut after everything in the log."""
    end = len(disk.log.entries)
    for seed in range(count):
        yield build_image(disk.log, disk.root.parent / "image", end, seed)


def contents(disk: PowerCutDisk, name: str, count: int = 60) -> set[bytes | None]:
    """What a file holds in the images of the log's end; None where it is missing."""
    found = set()
    for image in final_images(disk, count):
        path = image.path / name
        found.add(path.read_bytes() if path.exists() else None)
    return found


def names(disk: PowerCutDisk) -> set[tuple[str, ...]]:
    """Which files there are in the images of the log's end."""
    return {
        tuple(sorted(str(path.relative_to(image.path)) for path in image.path.rglob("*") if path.is_file()))
        for image in final_images(disk)
    }


def settled_file(disk: PowerCutDisk, name: str, data: bytes) -> int:
    """A file of which everything is durable."""
    fd = disk.files.create(disk.root / name)
    disk.files.write(fd, data, 0)
    disk.files.sync_data(fd)
    disk.files.sync_dir(disk.root)
    return fd


# ---------------------------------------------------------------------------------------------- bytes


def test_synced_bytes_are_in_every_image(disk: PowerCutDisk) -> None:
    settled_file(disk, "f", A + B)
    assert contents(disk, "f") == {A + B}


def test_an_unsynced_write_is_lost_kept_or_torn_between_sectors(disk: PowerCutDisk) -> None:
    fd = settled_file(disk, "f", A * 2)
    disk.files.write(fd, B * 2, 0)
    assert contents(disk, "f", 300) == {A + A, A + B, B + A, B + B}


def test_sync_makes_durable_exactly_the_writes_before_it(disk: PowerCutDisk) -> None:
    fd = settled_file(disk, "f", A * 2)
    disk.files.write(fd, B, 0)
    disk.files.sync_data(fd)
    disk.files.write(fd, B, SECTOR)
    assert contents(disk, "f") == {B + A, B + B}


def test_a_sync_of_one_file_does_nothing_for_another(disk: PowerCutDisk) -> None:
    first, second = settled_file(disk, "f", A), settled_file(disk, "g", A)
    disk.files.write(first, B, 0)
    disk.files.sync_data(second)
    assert contents(disk, "f") == {A, B}


def test_writes_survive_out_of_order(disk: PowerCutDisk) -> None:
    fd = settled_file(disk, "f", A * 2)
    disk.files.write(fd, B, 0)
    disk.files.write(fd, B, SECTOR)
    assert A + B in contents(disk, "f")


def test_a_sector_never_holds_a_later_write_without_an_earlier_one(disk: PowerCutDisk) -> None:
    fd = settled_file(disk, "f", A)
    disk.files.write(fd, b"1", 0)
    disk.files.write(fd, b"2", 1)
    assert contents(disk, "f") == {A, b"1" + A[1:], b"12" + A[2:]}


def test_an_extension_may_be_lost_or_come_without_its_data(disk: PowerCutDisk) -> None:
    fd = settled_file(disk, "f", A)
    disk.files.write(fd, B, SECTOR)
    assert contents(disk, "f") == {A, A + B, A + bytes(SECTOR)}


def test_an_allocation_and_a_truncation_may_be_lost(disk: PowerCutDisk) -> None:
    fd = settled_file(disk, "f", A)
    disk.files.allocate(fd, 2 * SECTOR)
    assert contents(disk, "f") == {A, A + bytes(SECTOR)}
    disk.files.sync_data(fd)
    disk.files.truncate(fd, 7)
    assert contents(disk, "f") == {A + bytes(SECTOR), A[:7]}
    disk.files.sync_data(fd)
    assert contents(disk, "f") == {A[:7]}


def test_allocating_less_than_there_is_changes_nothing(disk: PowerCutDisk) -> None:
    fd = settled_file(disk, "f", A)
    disk.files.allocate(fd, 1)
    assert contents(disk, "f") == {A}


def test_bytes_cut_off_do_not_come_back_with_a_later_extension(disk: PowerCutDisk) -> None:
    fd = settled_file(disk, "f", A * 2)
    disk.files.truncate(fd, SECTOR)
    disk.files.allocate(fd, 2 * SECTOR)
    assert contents(disk, "f") == {A + A, A, A + bytes(SECTOR)}


def test_bytes_written_after_a_truncation_that_was_lost_are_lost_too(disk: PowerCutDisk) -> None:
    fd = settled_file(disk, "f", A * 3)
    disk.files.truncate(fd, 0)
    disk.files.write(fd, B, 0)
    assert contents(disk, "f") == {A * 3, b"", bytes(SECTOR), B}


# ---------------------------------------------------------------------------------------------- names


def test_a_new_name_is_durable_only_after_its_directory_is_synced(disk: PowerCutDisk) -> None:
    fd = disk.files.create(disk.root / "f")
    disk.files.write(fd, A, 0)
    disk.files.sync_data(fd)
    assert contents(disk, "f") == {None, A}
    disk.files.sync_dir(disk.root)
    assert contents(disk, "f") == {A}


def test_a_removed_name_may_be_found_again(disk: PowerCutDisk) -> None:
    settled_file(disk, "f", A)
    disk.files.unlink(disk.root / "f")
    assert contents(disk, "f") == {None, A}
    disk.files.sync_dir(disk.root)
    assert contents(disk, "f") == {None}


def test_a_rename_is_all_or_nothing(disk: PowerCutDisk) -> None:
    settled_file(disk, "old", A)
    settled_file(disk, "new", B)
    disk.files.replace(disk.root / "new", disk.root / "old")
    seen = {
        tuple(sorted((path.name, path.read_bytes()) for path in image.path.iterdir()))
        for image in final_images(disk)
    }
    assert seen == {(("new", B), ("old", A)), (("old", B),)}
    disk.files.sync_dir(disk.root)
    assert contents(disk, "old") == {B}
    assert contents(disk, "new") == {None}


def test_a_rename_can_come_before_the_bytes(disk: PowerCutDisk) -> None:
    """The fault of replacing a file without syncing the new one first."""
    settled_file(disk, "f", A)
    fd = disk.files.create(disk.root / "tmp")
    disk.files.write(fd, B, 0)
    disk.files.replace(disk.root / "tmp", disk.root / "f")
    disk.files.sync_dir(disk.root)
    assert contents(disk, "f") == {b"", bytes(SECTOR), B}


def test_names_survive_out_of_order(disk: PowerCutDisk) -> None:
    for name in "fg":
        disk.files.close(disk.files.create(disk.root / name))
    assert names(disk) == {(), ("f",), ("g",), ("f", "g")}


def test_a_directory_that_was_not_synced_takes_its_files_with_it(disk: PowerCutDisk) -> None:
    disk.files.mkdir(disk.root / "a" / "b")
    fd = disk.files.create(disk.root / "a" / "b" / "f")
    disk.files.write(fd, A, 0)
    disk.files.sync_data(fd)
    disk.files.sync_dir(disk.root / "a" / "b")
    assert contents(disk, "a/b/f") == {None, A}
    disk.files.sync_dir(disk.root / "a")
    disk.files.sync_dir(disk.root)
    assert contents(disk, "a/b/f") == {A}


@pytest.mark.parametrize("synced", ["source", "target"])
def test_a_move_between_directories_is_one_change(disk: PowerCutDisk, synced: str) -> None:
    for name in ("source", "target"):
        disk.files.mkdir(disk.root / name)
    disk.files.sync_dir(disk.root)
    disk.files.close(disk.files.create(disk.root / "source" / "f"))
    disk.files.sync_dir(disk.root / "source")
    disk.files.replace(disk.root / "source" / "f", disk.root / "target" / "f")
    assert names(disk) == {("source/f",), ("target/f",)}
    disk.files.sync_dir(disk.root / synced)
    assert names(disk) == {("target/f",)}


def test_a_failed_operation_is_not_recorded(disk: PowerCutDisk) -> None:
    settled_file(disk, "f", A)
    before = list(disk.log.entries)
    with pytest.raises(FileExistsError):
        disk.files.create(disk.root / "f")
    with pytest.raises(FileNotFoundError):
        disk.files.unlink(disk.root / "g")
    with pytest.raises(FileNotFoundError):
        disk.files.replace(disk.root / "g", disk.root / "f")
    assert disk.log.entries == before


# ---------------------------------------------------------------------------------------------- images


def test_an_image_can_be_built_again_from_its_cut_and_seed(disk: PowerCutDisk) -> None:
    fd = settled_file(disk, "f", A)
    for number in range(40):
        disk.files.write(fd, bytes([number]) * 700, number * 300)
        disk.mark(number)
    again = disk.root.parent / "again"
    for image in images(disk.log, disk.root.parent / "image", 50, seed=3):
        rebuilt = build_image(disk.log, again, image.cut, image.seed)
        assert rebuilt.describe() == image.describe()
        assert rebuilt.marks == image.marks
        assert {p.name: p.read_bytes() for p in again.iterdir()} == {
            p.name: p.read_bytes() for p in image.path.iterdir()
        }


def test_cuts_are_spread_over_the_log_and_see_every_mark_before_them(disk: PowerCutDisk) -> None:
    fd = settled_file(disk, "f", A)
    for number in range(100):
        disk.files.write(fd, A, 0)
        disk.mark(number)
    seen = [(image.cut, image.marks) for image in images(disk.log, disk.root.parent / "image", 400, 1)]
    assert {cut for cut, _ in seen} >= set(disk.log.cuts()[1:-1])
    assert sorted(cut for cut, _ in seen) == [cut for cut, _ in seen]
    for _, marks in seen:
        assert list(marks) == list(range(len(marks)))
    assert len(seen[-1][1]) == 100


def test_describe_names_what_was_lost(disk: PowerCutDisk) -> None:
    fd = settled_file(disk, "f", A)
    disk.files.write(fd, B, 0)
    text = next(final_images(disk)).describe()
    assert text.startswith("image seed 0, cut after 6 entries, the last Write(")
    assert "  f: " in text


def test_leftovers_of_the_image_before_are_removed(disk: PowerCutDisk) -> None:
    settled_file(disk, "f", A)
    disk.files.mkdir(disk.root / "d")
    disk.files.sync_dir(disk.root)
    for image in final_images(disk, 3):
        assert not (image.path / "d" / "left").exists()
        assert not (image.path / "left").exists()
        (image.path / "left").mkdir()
        (image.path / "left" / "over").touch()
        (image.path / "d" / "left").touch()


def test_a_file_where_a_directory_was_is_replaced(disk: PowerCutDisk) -> None:
    settled_file(disk, "f", A)
    disk.files.mkdir(disk.root / "d")
    disk.files.sync_dir(disk.root)
    for image in final_images(disk, 3):
        assert (image.path / "d").is_dir()
        assert (image.path / "f").read_bytes() == A
        (image.path / "d").rmdir()
        (image.path / "d").touch()
        (image.path / "f").unlink()
        (image.path / "f").mkdir()


def test_what_lies_in_the_directory_at_first_counts_as_durable(scratch: Path) -> None:
    (scratch / "live" / "d").mkdir(parents=True)
    (scratch / "live" / "d" / "f").write_bytes(A)
    disk = PowerCutDisk(scratch / "live")
    fd = disk.files.open(disk.root / "d" / "f")
    disk.files.write(fd, B, 0)
    for image in images(disk.log, scratch / "image", 30, seed=1):
        assert (image.path / "d" / "f").read_bytes() in {A, B}
    assert contents(disk, "d/f") == {A, B}


def test_a_write_past_the_log_is_seen(disk: PowerCutDisk) -> None:
    settled_file(disk, "f", A)
    (disk.root / "f").write_bytes(B)
    (disk.root / "g").touch()
    assert disk.unrecorded() == ["f", "g"]
    (disk.root / "f").write_bytes(A)
    (disk.root / "g").unlink()


def test_threads_share_one_log(disk: PowerCutDisk) -> None:
    def work(name: str) -> None:
        fd = settled_file(disk, name, A)
        for number in range(200):
            disk.files.write(fd, name.encode() * 100, number * 100)

    threads = [threading.Thread(target=work, args=(name,)) for name in "fgh"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert disk.unrecorded() == []


OPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, 2600), st.integers(1, 1500)),
        st.tuples(st.just("truncate"), st.integers(0, 3000), st.just(0)),
        st.tuples(st.just("allocate"), st.integers(1, 3000), st.just(0)),
        st.tuples(st.just("sync"), st.just(0), st.just(0)),
    ),
    max_size=12,
)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ops=OPS)
def test_every_sector_found_is_one_that_was_there_since_the_last_sync(
    ops: list[tuple[str, int, int]], scratch: Path
) -> None:
    """Against a model that knows nothing of masks: whole contents since the last sync."""
    shutil.rmtree(scratch / "live", ignore_errors=True)
    disk = PowerCutDisk(scratch / "live")
    fd = settled_file(disk, "f", b"")
    history, shrunk = [b""], False
    for number, (name, at, length) in enumerate(ops, 1):
        now = bytearray(history[-1])
        match name:
            case "write":
                data = bytes([number]) * length
                disk.files.write(fd, data, at)
                now.extend(bytes(max(0, at - len(now))))
                now[at : at + length] = data
            case "truncate":
                disk.files.truncate(fd, at)
                shrunk |= at < len(now)
                del now[at:]
                now.extend(bytes(at - len(now)))
            case "allocate":
                disk.files.allocate(fd, at)
                now.extend(bytes(max(0, at - len(now))))
            case "sync":
                disk.files.sync_data(fd)
                history, shrunk = [], False
        history.append(bytes(now))
    disk.files.close(fd)
    assert disk.unrecorded() == []
    disk.close()
    for image in final_images(disk, 8):
        check_against(history, (image.path / "f").read_bytes(), bytewise=shrunk)


def check_against(history: list[bytes], found: bytes, *, bytewise: bool) -> None:
    """Sizes and sectors (bytes, where a truncation mixes them) are some of those that were there."""
    assert len(found) in {len(past) for past in history}
    step = 1 if bytewise else SECTOR
    padded = [past.ljust(len(found), b"\0") for past in history]
    for start in range(0, len(found), step):
        piece = found[start : min(start + step, len(found))]
        assert piece in {past[start : start + len(piece)] for past in padded} | {bytes(len(piece))}


@pytest.mark.parametrize("fate", fates.FATES)
def test_no_single_fate_shows_every_fault(
    fate: fates.Fate, monkeypatch: pytest.MonkeyPatch, disk: PowerCutDisk
) -> None:
    """Each is there for a reason: alone, it does not give all that may be found of two sectors."""
    monkeypatch.setattr("shoal.testing.power_cut_images.FATES", (fate,))
    fd = settled_file(disk, "f", A * 2)
    disk.files.write(fd, B * 2, 0)
    disk.files.write(fd, A + B, 2 * SECTOR)
    found = contents(disk, "f")
    assert (found == {A * 2}) == (fate == "lost")
    assert (found == {B * 2 + A + B}) == (fate == "kept")
    assert (A + B in {content[: 2 * SECTOR] for content in found if content}) == (
        fate in {"prefix", "sectors"}
    )


# ---------------------------------------------------------------------------------------------- SQLite


def test_only_the_first_sync_of_a_wal_makes_names_durable(disk: PowerCutDisk) -> None:
    database = apsw.Connection(str(disk.root / "test.db"), vfs=disk.vfs_name)
    for statement in ("pragma journal_mode=wal", "pragma synchronous=full", "create table t(x)"):
        database.execute(statement).fetchall()
    assert contents(disk, "test.db-wal", 20).isdisjoint({None})
    disk.files.close(disk.files.create(disk.root / "f"))
    database.execute("insert into t values(1)")
    assert None in contents(disk, "f")
    database.close()


def test_sqlite_may_ask_for_a_durable_deletion(disk: PowerCutDisk) -> None:
    settled_file(disk, "f", A)
    settled_file(disk, "g", A)
    disk._vfs.xDelete(str(disk.root / "f"), False)
    assert contents(disk, "f") == {None, A}
    disk._vfs.xDelete(str(disk.root / "g"), True)
    assert names(disk) == {()}
