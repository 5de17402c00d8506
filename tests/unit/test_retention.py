"""Which segments of the journal go, and that nothing is asked for twice."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from node_kit import journal_in

from shoal.raft.log import Kind
from shoal.retention import SEGMENTS_KEPT, Retention
from shoal.storage.engine import Report


class Later:
    """A thread whose jobs are done when the test says so."""

    def __init__(self):
        self.jobs = []

    def submit(self, job, done=None):
        self.jobs.append((job, done))

    def work(self):
        jobs, self.jobs = self.jobs, []
        for job, done in jobs:
            done(job())


class Made:
    def __init__(self, journal):
        self.journal = journal
        self.core = SimpleNamespace(is_witness=False, everywhere=0, log=SimpleNamespace(commit=0, durable=0))
        self.dropped = []
        self.journal_worker, self.helper = Later(), Later()
        self.retention = Retention(
            journal,
            SimpleNamespace(make_durable=lambda done: None),
            SimpleNamespace(core=self.core, dropped=self.dropped.append),
            journal_worker=self.journal_worker,
            helper=self.helper,
            failed=pytest.fail,
        )

    def fill(self, segments):
        while self.journal.segment_count < segments:
            index = self.journal.last_index + 1
            self.journal.append_records([(Kind.NORMAL, index, 1, b"x" * 1_000)])

    def committed(self, index):
        self.retention.committed(Report(index, {}, index))
        self.journal_worker.work()


@pytest.fixture
def made(tmp_path):
    journal = journal_in(tmp_path / "j")
    yield Made(journal)
    journal.close()


def test_what_every_member_holds_goes(made):
    made.fill(4)
    made.core.everywhere = made.journal.last_index
    made.committed(made.journal.last_index)
    assert made.journal.segment_count == 1
    assert made.dropped == [made.journal.first_index]


def test_what_the_databases_lack_stays(made):
    made.fill(4)
    made.core.everywhere = made.journal.last_index
    made.committed(0)
    assert made.journal.segment_count == 4


def test_for_who_lags_so_many_segments_are_kept_and_no_more(made):
    """Else one segment too many would cost a copy of the databases who lacks but the last of them."""
    made.fill(SEGMENTS_KEPT + 3)
    made.committed(made.journal.last_index)
    assert made.journal.segment_count == SEGMENTS_KEPT


def test_a_witness_keeps_all_that_somebody_lacks(made):
    made.fill(SEGMENTS_KEPT + 3)
    made.core.is_witness = True
    made.core.log.commit = made.core.log.durable = made.journal.last_index
    made.retention.shorten()
    made.journal_worker.work()
    assert made.journal.segment_count == SEGMENTS_KEPT + 3


def test_what_is_under_way_is_not_asked_for_again(made):
    """A witness looks with each message."""
    made.fill(3)
    while not made.journal.needs_spare():
        made.journal.append_records([(Kind.NORMAL, made.journal.last_index + 1, 1, b"x" * 1_000)])
    made.core.is_witness = True
    made.core.log.commit = made.core.log.durable = made.core.everywhere = made.journal.last_index
    for _ in range(100):
        made.retention.shorten()
    assert (len(made.journal_worker.jobs), len(made.helper.jobs)) == (1, 1)
    made.journal_worker.work()
    made.helper.work()
    made.retention.shorten()
    assert (len(made.journal_worker.jobs), len(made.helper.jobs)) == (0, 1)
