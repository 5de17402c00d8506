"""The reserve: held when there is room, given up once, never half held."""

from __future__ import annotations

import errno
import threading

import pytest
from node_kit import FailingFiles

from shoal.storage.reserve import Reserve

SIZE = 64 * 1024


def test_it_takes_real_blocks_and_gives_them_back(tmp_path):
    reserve = Reserve(FailingFiles(), tmp_path, SIZE)
    assert not reserve.held
    assert reserve.hold()
    assert reserve.hold()
    assert (tmp_path / "reserve").stat().st_blocks * 512 >= SIZE
    reserve.release()
    reserve.release()
    assert not (tmp_path / "reserve").exists()


def test_it_is_not_held_where_that_would_fill_the_disk(tmp_path):
    files = FailingFiles()
    files.free = SIZE + SIZE // 2 - 1
    assert not Reserve(files, tmp_path, SIZE).hold()
    files.free += 1
    assert Reserve(files, tmp_path, SIZE).hold()


def test_a_reserve_of_nothing_is_never_held(tmp_path):
    reserve = Reserve(FailingFiles(), tmp_path, 0)
    assert not reserve.hold()
    reserve.release()


def test_a_disk_that_fills_up_meanwhile_leaves_no_half(tmp_path):
    reserve = Reserve(FailingFiles(at=1, only="allocate"), tmp_path, SIZE)
    assert not reserve.hold()
    assert not (tmp_path / "reserve").exists()
    assert reserve.hold()


def test_other_errors_are_told(tmp_path):
    with pytest.raises(OSError, match="Input/output"):
        Reserve(FailingFiles(at=1, only="allocate", code=errno.EIO), tmp_path, SIZE).hold()


def test_two_threads_that_need_it_at_once_both_have_it(tmp_path):
    """The writer and the journal meet the full disk at the same moment."""
    reserve, together, failures = Reserve(FailingFiles(), tmp_path, SIZE), threading.Barrier(2), []

    def release():
        for _ in range(200):
            together.wait()
            try:
                reserve.release()
            except OSError as error:
                failures.append(error)
            together.wait()
            reserve.hold()

    threads = [threading.Thread(target=release) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
