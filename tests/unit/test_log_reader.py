"""Entries from the journal for who lacks many: each part once, and the log as it is."""

from __future__ import annotations

import pytest
from node_kit import journal_in

from shoal.cluster import log_reader
from shoal.cluster.log_reader import RESTS_MAX, LogReader
from shoal.raft.log import Kind


class Log:
    """A journal that counts how often it is read from the beginning."""

    def __init__(self, journal):
        self.journal = journal
        self.reads = 0

    def read(self, after):
        self.reads += 1
        return self.journal.read(after)


@pytest.fixture
def log(tmp_path, monkeypatch):
    monkeypatch.setattr(log_reader, "FETCH_BYTES", 100)
    journal = journal_in(tmp_path / "j")
    journal.append_records([(Kind.NORMAL, index, 1, b"%30d" % index) for index in range(1, 31)])
    yield Log(journal)
    journal.close()


def indexes(entries):
    return [entry.index for entry in entries]


def test_parts_that_follow_each_other_are_one_reading(log):
    reader = LogReader(log)
    found = []
    while part := reader.read(len(found) + 1):
        assert len(part) <= 3
        found += part
    assert indexes(found) == list(range(1, 31))
    assert log.reads == 2  # and the last one looked whether more has come


def test_another_part_is_read_from_where_it_begins(log):
    reader = LogReader(log)
    assert indexes(reader.read(1)) == [1, 2, 3]
    assert indexes(reader.read(20)) == [20, 21, 22]
    assert indexes(reader.read(1)) == [1, 2, 3]
    assert indexes(reader.read(1)) == [1, 2, 3]


def test_what_came_after_the_reading_began_is_there(log):
    reader = LogReader(log)
    assert indexes(reader.read(28)) == [28, 29, 30]
    log.journal.append_records([(Kind.NORMAL, 31, 1, b"x")])
    assert indexes(reader.read(31)) == [31]


def test_what_is_gone_is_not_there(log):
    assert LogReader(log).read(31) == []


def test_an_entry_larger_than_a_part_comes_alone(log):
    log.journal.append_records([(Kind.NORMAL, index, 1, b"x" * 500) for index in (31, 32)])
    reader = LogReader(log)
    assert [indexes(reader.read(index)) for index in (31, 32)] == [[31], [32]]


def test_what_nobody_asks_for_any_more_is_let_go(log):
    reader = LogReader(log)
    reader.read(1)
    for _ in range(RESTS_MAX):
        reader.rest()
    assert indexes(reader.read(4)) == [4, 5, 6]
    assert log.reads == 1
    for _ in range(RESTS_MAX + 1):
        reader.rest()
    assert reader._records is None
    assert indexes(reader.read(7)) == [7, 8, 9]
    assert log.reads == 2
