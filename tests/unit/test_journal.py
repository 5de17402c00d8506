"""The journal: rotation, spare, dropping, torn tails, and every call of the file system that can fail."""

from __future__ import annotations

import errno

import msgspec
import pytest
from node_kit import SEGMENT, FailingFiles, entries, entry, journal_in, segments

from shoal.errors import DiskFull, JournalCorrupt, StorageError
from shoal.raft.log import Configuration, HardState, Kind, Member
from shoal.storage.segment import HEADER_BYTES, encode_record, record_bytes

KIB = b"k" * 1024
NEARLY_FULL = 55
"""Entries of a KiB that leave a segment no room for one of 8 KB."""


def fill(journal, count: int, payload: bytes = KIB, start: int | None = None) -> None:
    first = journal.last_index + 1 if start is None else start
    for index in range(first, first + count):
        journal.append_records([entry(index, payload)])


def test_entries_are_there_again(tmp_path):
    journal = journal_in(tmp_path / "j")
    journal.append_records([entry(1, b"one"), entry(2, b"two")])
    journal.append_records([(Kind.NO_OP, 3, 2, b"")])
    journal.close()
    again = journal_in(tmp_path / "j")
    assert entries(again) == [(1, b"one"), (2, b"two"), (3, b"")]
    assert (again.first_index, again.last_index, again.last_term) == (1, 3, 2)
    assert entries(again, after=2) == [(3, b"")]
    again.close()


def test_an_append_returns_only_when_it_is_synced(tmp_path):
    files = FailingFiles()
    journal = journal_in(tmp_path / "j", files)
    files.calls.clear()
    journal.append_records([entry(1)])
    assert files.calls == ["write", "sync_data"]
    journal.close()


def test_it_rotates_and_each_segment_is_enough_to_start_from(tmp_path):
    journal = journal_in(tmp_path / "j")
    configuration = Configuration((Member("node", b"i" * 16),))
    state = HardState(7, "node")
    journal.append_records(
        [
            (Kind.CONFIGURATION, 1, 7, msgspec.msgpack.encode(configuration)),
            (Kind.HARD_STATE, 0, 7, msgspec.msgpack.encode(state)),
        ]
    )
    fill(journal, 150)
    assert journal.segment_count == 3
    assert journal.drop_through(journal.last_index) == 2
    journal.close()
    assert len(segments(tmp_path / "j")) == 1
    again = journal_in(tmp_path / "j")
    assert (again.hard_state, again.configuration, again.configuration_index) == (state, configuration, 1)
    assert (again.last_index, again.first_index > 100) == (151, True)
    assert [index for index, _ in entries(again)] == list(range(again.first_index, 152))
    again.close()


def test_an_entry_larger_than_a_segment_gets_one_of_its_own(tmp_path):
    journal = journal_in(tmp_path / "j")
    fill(journal, 1)
    journal.append_records([entry(2, b"x" * 3 * SEGMENT)])
    fill(journal, 2)
    journal.close()
    again = journal_in(tmp_path / "j")
    assert [(index, len(payload)) for index, payload in entries(again)] == [
        (1, 1024), (2, 3 * SEGMENT), (3, 1024), (4, 1024),
    ]  # fmt: skip
    again.close()


@pytest.mark.parametrize("rotated", [False, True])
def test_a_record_that_is_not_later_replaces_the_tail(tmp_path, rotated):
    journal = journal_in(tmp_path / "j")
    fill(journal, 70 if rotated else 5)
    journal.append_records([entry(3, b"new", term=2)])
    journal.append_records([entry(4, b"newer", term=2)])
    expected = [(1, KIB), (2, KIB), (3, b"new"), (4, b"newer")]
    assert entries(journal) == expected
    journal.close()
    again = journal_in(tmp_path / "j")
    assert entries(again) == expected
    assert (again.last_index, again.last_term) == (4, 2)
    again.append_records([entry(5, b"on")])
    assert entries(again, 4) == [(5, b"on")]
    again.close()


def test_a_segment_with_replaced_entries_is_kept_until_they_are_covered(tmp_path):
    journal = journal_in(tmp_path / "j")
    fill(journal, 70)
    journal.append_records([entry(10, b"new")])
    assert not journal.droppable(11)
    assert journal.drop_through(11) == 0
    journal.close()


def test_the_current_segment_is_never_dropped(tmp_path):
    journal = journal_in(tmp_path / "j")
    fill(journal, 5)
    assert not journal.droppable(10**9)
    assert journal.drop_through(10**9) == 0
    journal.close()


def test_segments_are_dropped_one_durable_step_after_the_other(tmp_path):
    """Two unlinks that a power cut may reorder would leave a gap, and a gap is refused."""
    files = FailingFiles()
    journal = journal_in(tmp_path / "j", files)
    fill(journal, 200)
    files.calls.clear()
    assert journal.drop_through(journal.last_index) == 3
    assert files.calls == ["unlink", "sync_dir"] * 3
    journal.close()


def test_the_spare_is_used(tmp_path):
    files = FailingFiles()
    journal = journal_in(tmp_path / "j", files)
    journal.prepare_spare()
    assert (tmp_path / "j" / "spare").stat().st_size == SEGMENT
    files.calls.clear()
    journal.prepare_spare()
    assert "create" not in files.calls
    fill(journal, 100)
    assert journal.segment_count == 2
    assert files.calls.count("create") == 0
    assert not (tmp_path / "j" / "spare").exists()
    assert entries(journal)[-1] == (100, KIB)
    journal.close()


def test_a_spare_left_half_made_is_used_all_the_same(tmp_path):
    journal = journal_in(tmp_path / "j")
    (tmp_path / "j" / "spare").write_bytes(b"junk")
    fill(journal, 100)
    journal.close()
    again = journal_in(tmp_path / "j")
    assert len(entries(again)) == 100
    again.close()


def test_a_torn_batch_is_cut_and_reported(tmp_path):
    """Whatever part of the last batch is missing, the batches before are there, and appending goes on."""
    journal = journal_in(tmp_path / "j")
    journal.append_records([entry(1, b"kept")])
    end = HEADER_BYTES + journal.stats.bytes_appended
    journal.append_records([entry(2, b"torn" * 10), entry(3, b"torn")])
    total = HEADER_BYTES + journal.stats.bytes_appended
    journal.close()
    (path,) = segments(tmp_path / "j")
    whole = path.read_bytes()
    for length in range(end, total):
        path.write_bytes(whole[:length].ljust(SEGMENT, b"\0"))
        again = journal_in(tmp_path / "j")
        found = entries(again)
        assert found[0] == (1, b"kept")
        whole_until = (end, end + record_bytes(40), total)[len(found) - 1]
        assert bool(again.notes) == bool(whole[whole_until:length].strip(b"\0"))
        again.append_records([entry(again.last_index + 1, b"next")])
        again.close()
        third = journal_in(tmp_path / "j")
        assert entries(third) == [*found, (len(found) + 1, b"next")]
        assert third.notes == []
        third.close()


def test_damage_to_durable_records_is_refused_and_named(tmp_path):
    journal = journal_in(tmp_path / "j")
    fill(journal, 3, b"abc")
    journal.close()
    (path,) = segments(tmp_path / "j")
    data = bytearray(path.read_bytes())
    data[HEADER_BYTES + 57] ^= 1
    path.write_bytes(data)
    with pytest.raises(JournalCorrupt, match=f"byte {HEADER_BYTES}.*backup") as caught:
        journal_in(tmp_path / "j")
    assert caught.value.facts == {"path": str(path), "offset": HEADER_BYTES}


def test_a_missing_segment_is_refused(tmp_path):
    journal = journal_in(tmp_path / "j")
    fill(journal, 150)
    journal.close()
    segments(tmp_path / "j")[1].unlink()
    with pytest.raises(JournalCorrupt, match="a segment is missing"):
        journal_in(tmp_path / "j")


def test_a_damaged_header_is_refused(tmp_path):
    journal = journal_in(tmp_path / "j")
    fill(journal, 70)
    journal.close()
    for path in segments(tmp_path / "j"):
        whole = path.read_bytes()
        path.write_bytes(whole[:30] + b"\xff" + whole[31:])
        with pytest.raises(JournalCorrupt, match="header is damaged"):
            journal_in(tmp_path / "j")
        path.write_bytes(whole)
    journal_in(tmp_path / "j").close()


def test_a_cut_end_of_an_older_segment_is_refused(tmp_path):
    journal = journal_in(tmp_path / "j")
    fill(journal, 70)
    journal.close()
    first = segments(tmp_path / "j")[0]
    data = first.read_bytes()
    first.write_bytes(data[: 30 * 1024])
    with pytest.raises(JournalCorrupt):
        journal_in(tmp_path / "j")


def test_no_journal_is_made_beside_a_database(tmp_path):
    with pytest.raises(StorageError, match="journal is missing"):
        journal_in(tmp_path / "j", may_create=False)


def test_a_read_beside_appends_and_drops_misses_nothing(tmp_path):
    """The writer's thread replays while the journal's appends and drops: it reads what there was when it began."""
    journal = journal_in(tmp_path / "j")
    fill(journal, 200)
    real = journal._files.read
    dropped = []

    def read(path):
        if not dropped:
            dropped.append(path)
            journal.drop_through(60)
        return real(path)

    journal._files.read = read
    found = [index for index, _ in entries(journal, after=60)]
    assert found == list(range(61, 201))
    # The next two batches, read while they were written: of the first only zeros, the second whole.
    end, size = journal._segments[-1].end, record_bytes(8)
    later, _ = encode_record(Kind.NORMAL, 202, 1, b"2" * 8, synced_to=end + size, chain=0, salt=journal._salt)
    with segments(tmp_path / "j")[-1].open("r+b") as file:
        file.seek(end + size)
        file.write(later)
    assert entries(journal, after=199) == [(200, KIB)]
    journal.close()


# ---------------------------------------------------------------------------------------- a full disk


def test_without_room_for_another_segment_appends_are_refused_until_there_is(tmp_path):
    files = FailingFiles()
    journal = journal_in(tmp_path / "j", files, floor=1000)
    fill(journal, NEARLY_FULL)
    files.free = SEGMENT + 999
    with pytest.raises(DiskFull, match="free some space"):
        fill(journal, 5)
    assert not (tmp_path / "j" / "spare").exists()
    last = journal.last_index
    files.free = SEGMENT + 1000
    fill(journal, 5)
    assert [index for index, _ in entries(journal)] == list(range(1, last + 6))
    journal.close()


def test_what_frees_space_may_use_what_is_left(tmp_path):
    files = FailingFiles()
    journal = journal_in(tmp_path / "j", files, floor=1000)
    fill(journal, NEARLY_FULL)
    files.free = 10
    with pytest.raises(DiskFull):
        journal.append_records([entry(journal.last_index + 1, b"x" * 8000)])
    journal.append_records([entry(journal.last_index + 1, b"x" * 8000)], use_reserve=True)
    assert journal.segment_count == 2
    journal.close()


def test_a_full_disk_makes_no_spare(tmp_path):
    files = FailingFiles(only="allocate")
    journal = journal_in(tmp_path / "j", files)
    files.at = len(files.calls) + 1
    journal.prepare_spare()
    assert not (tmp_path / "j" / "spare").exists()
    files.free = 0
    journal.prepare_spare()
    assert not (tmp_path / "j" / "spare").exists()
    journal.close()


def calls_of_a_rotation(tmp_path, *, spare: bool) -> list[str]:
    files = FailingFiles()
    journal = journal_in(tmp_path / "probe", files)
    if spare:
        journal.prepare_spare()
    fill(journal, NEARLY_FULL)
    files.calls.clear()
    journal.append_records([entry(NEARLY_FULL + 1, b"x" * 8000)])
    calls = list(files.calls)
    journal.close()
    return calls


@pytest.mark.parametrize("spare", [False, True])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_every_file_call_of_a_rotation_may_fail(tmp_path, spare, code):
    """No room is DiskFull with nothing half done, or an OSError that ends the node; what was durable stays so."""
    calls = calls_of_a_rotation(tmp_path, spare=spare)
    assert {"write", "sync_data", "replace", "sync_dir"} <= set(calls)
    for number, name in enumerate(calls, start=1):
        directory = tmp_path / f"j{number}"
        files = FailingFiles(code=code)
        journal = journal_in(directory, files)
        if spare:
            journal.prepare_spare()
        fill(journal, NEARLY_FULL)
        files.calls.clear()
        files.at = number
        with pytest.raises((DiskFull, OSError)) as caught:
            journal.append_records([entry(NEARLY_FULL + 1, b"x" * 8000)])
        may_be_full = name in {"create", "open", "allocate"} or (
            name == "write" and "write" in calls[number:]
        )
        assert isinstance(caught.value, DiskFull) == (code == errno.ENOSPC and may_be_full), name
        if isinstance(caught.value, DiskFull):
            journal.append_records([entry(NEARLY_FULL + 1, b"after all")])
            assert entries(journal)[-1] == (NEARLY_FULL + 1, b"after all")
            fill(journal, 10)
        full = isinstance(caught.value, DiskFull)
        expected = entries(journal) if full else [(n, KIB) for n in range(1, NEARLY_FULL + 1)]
        journal.close()
        again = journal_in(directory)
        assert entries(again)[: len(expected)] == expected, name
        assert len(entries(again)) <= len(expected) + 1
        again.close()


def test_a_failed_sync_is_never_tried_again(tmp_path):
    files = FailingFiles(code=errno.EIO, only="sync_data")
    journal = journal_in(tmp_path / "j", files)
    files.at = len(files.calls) + 1
    with pytest.raises(OSError, match="Input/output"):
        journal.append_records([entry(1)])
    assert files.calls[files.at - 1 :] == ["sync_data"]
    assert journal.last_index == 0
    journal.close()


def test_the_names_of_journal_and_segments_are_durable(tmp_path):
    synced = []

    class Watching(FailingFiles):
        def sync_dir(self, path):
            synced.append(path)

    journal = journal_in(tmp_path / "j", Watching())
    journal.close()
    assert tmp_path in synced
    assert tmp_path / "j" in synced


def test_whoever_wants_few_entries_does_not_read_all_segments(tmp_path):
    files = FailingFiles(only="read")
    journal = journal_in(tmp_path, files)
    for index in range(1, 9):
        journal.append_records([entry(index, bytes(30_000))])
    assert journal.segment_count >= 3
    assert next(journal.read(1)).index == 2
    assert len(files.calls) == 1


def test_an_entry_that_a_later_segment_replaces_is_read_once(tmp_path):
    journal = journal_in(tmp_path)
    for index in range(1, 5):
        journal.append_records([entry(index, bytes(30_000))])
    journal.append_records([entry(2, b"2" * 50_000, 2)])
    journal.append_records([entry(3, b"3", 2)])
    assert journal.segment_count >= 3
    found = [(record.index, record.term) for record in journal.read(0)]
    assert found == [(1, 1), (2, 2), (3, 2)]
    journal.close()
    assert [(record.index, record.term) for record in journal_in(tmp_path).read(0)] == found
