"""The faulty disk is the real one except for what it was told."""

from __future__ import annotations

import errno
from pathlib import Path

import msgspec
import pytest

from shoal.testing.faulty_files import CALLS, DiskFaults, FaultFile, FaultyFiles


class Disk:
    """A faulty disk whose faults and waiting are the test's."""

    def __init__(self, directory: Path) -> None:
        self.faults = DiskFaults()
        self.slept: list[float] = []
        self.files = FaultyFiles(lambda: self.faults, sleep=self.slept.append)
        self.path = directory / "file"
        self.fd = self.files.create(self.path)


@pytest.fixture
def disk(tmp_path):
    made = Disk(tmp_path)
    yield made
    made.files.close(made.fd)


def attempt(disk: Disk, call: str) -> None:
    files = disk.files
    {
        "create": lambda: files.create(disk.path.with_name("other")),
        "allocate": lambda: files.allocate(disk.fd, 100),
        "write": lambda: files.write(disk.fd, b"x", 0),
        "sync_data": lambda: files.sync_data(disk.fd),
        "sync_dir": lambda: files.sync_dir(disk.path.parent),
        "replace": lambda: files.replace(disk.path, disk.path.with_name("other")),
    }[call]()


@pytest.mark.parametrize("call", CALLS)
def test_without_faults_everything_works(disk, call) -> None:
    attempt(disk, call)
    assert disk.slept == []


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("error", ["ENOSPC", "EIO"])
def test_a_call_fails_as_told_and_does_nothing(disk, call, error) -> None:
    disk.faults = DiskFaults(fails={call: error})
    with pytest.raises(OSError) as caught:
        attempt(disk, call)
    assert caught.value.errno == getattr(errno, error)
    assert disk.files.names(disk.path.parent) == ["file"]
    assert disk.files.size(disk.path) == 0
    for other in set(CALLS) - {call, "create"}:
        attempt(disk, other)


def test_what_is_told_must_be_known() -> None:
    with pytest.raises(ValueError, match="'unlink' is none of create"):
        DiskFaults(fails={"unlink": "EIO"})
    with pytest.raises(ValueError, match="'EPERM' is none of"):
        DiskFaults(fails={"write": "EPERM"})


def test_each_sync_takes_longer(disk) -> None:
    disk.faults = DiskFaults(sync_delay_ms=30)
    attempt(disk, "sync_data")
    attempt(disk, "sync_dir")
    attempt(disk, "write")
    assert disk.slept == [0.03, 0.03]


def test_a_stall_comes_once(disk) -> None:
    disk.faults = DiskFaults(stall=1, stall_ms=3000)
    attempt(disk, "sync_data")
    attempt(disk, "sync_data")
    assert disk.slept == [3.0]
    disk.faults = DiskFaults(stall=2, stall_ms=1000)
    attempt(disk, "sync_data")
    assert disk.slept == [3.0, 1.0]


def test_a_full_disk_has_no_room_but_takes_what_was_allocated(disk) -> None:
    attempt(disk, "allocate")
    disk.faults = DiskFaults(full=True)
    attempt(disk, "allocate")
    attempt(disk, "write")
    attempt(disk, "sync_data")
    assert disk.files.free_bytes(disk.path) == 0
    for growing in (lambda: attempt(disk, "create"), lambda: disk.files.allocate(disk.fd, 101)):
        with pytest.raises(OSError) as caught:
            growing()
        assert caught.value.errno == errno.ENOSPC
    disk.faults = DiskFaults()
    assert disk.files.free_bytes(disk.path) > 0
    attempt(disk, "create")


def test_faults_come_from_a_file_that_is_looked_at_again(tmp_path) -> None:
    file = FaultFile(tmp_path / "faults.json")
    assert file() == DiskFaults()
    for faults in (DiskFaults(full=True), DiskFaults(fails={"write": "EIO"}, stall=3), DiskFaults()):
        FaultFile(tmp_path / "faults.json").tell(faults)
        assert file() == faults
        assert file() == faults
    (tmp_path / "faults.json").unlink()
    assert file() == DiskFaults()


def test_a_file_that_makes_no_sense_is_refused(tmp_path) -> None:
    path = tmp_path / "faults.json"
    path.write_text('{"slow": 1}')
    with pytest.raises(msgspec.ValidationError, match="slow"):
        FaultFile(path)()
