"""The journal begins anew after a raft_snapshot, or keeps what follows its entry; it knows the terms of entries."""

from __future__ import annotations

import errno

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from node_kit import FailingFiles, entries, entry, journal_in, segments

from shoal.errors import DiskFull
from shoal.raft.log import Configuration, HardState, Kind, Member

OTHERS = Configuration((Member("a", b"1" * 16), Member("b", b"2" * 16)))
SMALL = 8 * 1024


def filled(directory, terms=(1, 1, 2, 2, 5), **more):
    """Entries of those terms, several segments of them, and a vote."""
    journal = journal_in(directory, segment_bytes=SMALL, **more)
    vote = msgspec.msgpack.encode(HardState(7, "me"))
    journal.append_records([(Kind.HARD_STATE, 0, 7, vote)])
    for index, term in enumerate(terms, 1):
        journal.append_records([entry(index, b"x" * 3_000, term)])
    return journal


def told(journal):
    return {index: journal.term_at(index) for index in range(-1, journal.last_index + 2)}


def test_the_terms_are_known_of_what_is_here_and_of_the_entry_before(tmp_path):
    journal = filled(tmp_path / "j")
    wanted = {-1: None, 0: 0, 1: 1, 2: 1, 3: 2, 4: 2, 5: 5, 6: None}
    assert told(journal) == wanted
    journal.close()
    journal = journal_in(tmp_path / "j", segment_bytes=SMALL)
    assert told(journal) == wanted
    journal.append_records([entry(4, term=6)])
    assert told(journal) == {-1: None, 0: 0, 1: 1, 2: 1, 3: 2, 4: 6, 5: None}
    assert journal.drop_through(2)
    first = journal.first_index
    assert first > 1
    assert journal.term_at(first - 1) == 1
    assert journal.term_at(first - 2) is None
    journal.close()


@given(st.lists(st.tuples(st.integers(1, 12), st.integers(0, 2)), max_size=20))
@settings(max_examples=60)
def test_the_terms_are_those_of_the_entries_read(tmp_path_factory, changes):
    """After appends, replaced tails and a start."""
    directory = tmp_path_factory.mktemp("journal") / "j"
    journal = journal_in(directory)
    term = 1
    for at, more in changes:
        term += more
        journal.append_records([entry(min(at, journal.last_index + 1), term=term)])
    for _ in range(2):
        terms = {record.index: record.term for record in journal.read(0)}
        assert {index: journal.term_at(index) for index in range(1, journal.last_index + 1)} == terms
        journal.close()
        journal = journal_in(directory)
    journal.close()


@pytest.mark.parametrize(("index", "term"), [(9, 3), (5, 4), (3, 1), (6, 5)])
def test_it_begins_after_an_entry_that_it_does_not_have(tmp_path, index, term):
    journal = filled(tmp_path / "j")
    number = segments(tmp_path / "j")[-1].name
    journal.reset_to(index, term, OTHERS, 2)
    for _ in range(2):
        assert (journal.first_index, journal.last_index, journal.last_term) == (index + 1, index, term)
        assert (journal.hard_state, journal.configuration) == (HardState(7, "me"), OTHERS)
        assert journal.configuration_index == 2
        assert told(journal) == {**dict.fromkeys(range(-1, index)), index: term, index + 1: None}
        assert entries(journal) == []
        journal.close()
        journal = journal_in(tmp_path / "j", segment_bytes=SMALL)
    (only,) = segments(tmp_path / "j")
    assert only.name > number
    journal.append_records([entry(index + 1, b"next", 8)])
    assert entries(journal) == [(index + 1, b"next")]
    journal.close()


def test_entries_after_one_of_the_same_term_stay(tmp_path):
    journal = filled(tmp_path / "j")
    journal.reset_to(3, 2, OTHERS, 2)
    for _ in range(2):
        assert [index for index, _ in entries(journal, 3)] == [4, 5]
        assert 1 < journal.first_index <= 4
        assert (journal.hard_state, journal.last_term, journal.term_at(4)) == (HardState(7, "me"), 5, 2)
        journal.close()
        journal = journal_in(tmp_path / "j", segment_bytes=SMALL)
    journal.close()


def test_doing_it_again_changes_nothing(tmp_path):
    journal = filled(tmp_path / "j")
    for _ in range(3):
        journal.reset_to(9, 3, OTHERS, 2)
        assert (journal.first_index, journal.last_index, journal.segment_count) == (10, 9, 1)
    journal.append_records([entry(10, term=4)])
    journal.reset_to(9, 3, OTHERS, 2)
    assert [index for index, _ in entries(journal)] == [10]
    journal.close()


def test_every_file_call_may_fail_and_the_next_start_goes_on(tmp_path):
    """Whatever fails, a start finds the log as it was or begun anew, and the vote."""
    wanted = {((1, 5), 5): 0, ((10, 9), 3): 0}
    for at in range(1, 40):
        directory = tmp_path / f"j{at}"
        files = FailingFiles()
        journal = filled(directory, files=files)
        files.calls.clear()
        files.at, files.code = at, errno.EIO
        try:
            journal.reset_to(9, 3, OTHERS, 2)
            done = True
        except OSError:
            done = False
        files.at = 0
        journal.close()
        journal = journal_in(directory, segment_bytes=SMALL)
        wanted[(journal.first_index, journal.last_index), journal.last_term] += 1
        assert journal.hard_state == HardState(7, "me")
        journal.reset_to(9, 3, OTHERS, 2)
        assert (journal.first_index, journal.last_index, journal.segment_count) == (10, 9, 1)
        journal.close()
        if done:
            break
    assert done
    assert all(wanted.values()), wanted


def test_without_room_nothing_is_changed(tmp_path):
    files = FailingFiles()
    journal = filled(tmp_path / "j", files=files)
    files.free = 0
    assert not journal.has_room_to_reset()
    files.at, files.only = 1, "allocate"
    files.calls.clear()
    with pytest.raises(DiskFull):
        journal.reset_to(9, 3, OTHERS, 2)
    assert (journal.first_index, journal.last_index, journal.term_at(5)) == (1, 5, 5)
    files.free, files.at = None, 0
    assert journal.has_room_to_reset()
    journal.reset_to(9, 3, OTHERS, 2)
    assert journal.first_index == 10
    journal.close()
