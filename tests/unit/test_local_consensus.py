"""A group of one voter: founded, elected and proposing with the records Raft will read."""

from __future__ import annotations

import errno

import msgspec
import pytest
from node_kit import FailingFiles, journal_in

from shoal.cluster.local import LocalConsensus, elect_self, found_group
from shoal.errors import DiskFull
from shoal.raft.log import Configuration, HardState, Kind, Member
from shoal.store.ports import Proposed


class Now:
    """A worker that does it now."""

    def submit(self, job, done=None):
        try:
            outcome = job()
        except BaseException as error:  # noqa: BLE001 - handed on, as a worker does
            outcome = error
        if done is not None:
            done(outcome)


@pytest.fixture
def journal(tmp_path):
    made = journal_in(tmp_path / "j")
    yield made
    made.close()


def consensus(journal, term=1):
    return LocalConsensus(journal, Now(), term, lambda: None)


def test_the_first_records_are_configuration_vote_and_no_op(journal):
    found_group(journal, "node", b"i" * 16)
    assert elect_self(journal, "node") == 1
    assert journal.configuration == Configuration((Member("node", b"i" * 16),))
    assert journal.configuration.quorum == 1
    assert journal.hard_state == HardState(1, "node")
    assert [(record.kind, record.index) for record in journal.read(0)] == [
        (Kind.CONFIGURATION, 1),
        (Kind.NO_OP, 2),
    ]


def test_each_start_is_a_new_term(tmp_path):
    for term in (1, 2, 3):
        journal = journal_in(tmp_path / "j")
        assert elect_self(journal, "node") == term
        assert journal.last_term == term
        journal.close()


def test_what_the_journal_has_synced_is_committed(journal):
    elect_self(journal, "node")
    local, told = consensus(journal), []
    local.propose(b"payload", told.append)
    assert told == [Proposed(2, 1)]
    assert local.commit_index == 2
    assert [record.payload for record in journal.read(1)] == [b"payload"]


def test_a_failure_commits_nothing(tmp_path):
    files = FailingFiles(code=errno.EIO, only="sync_data")
    journal = journal_in(tmp_path / "j", files)
    files.at = len(files.calls) + 1
    local, told = consensus(journal), []
    local.propose(b"payload", told.append)
    assert isinstance(told[0], OSError)
    assert local.commit_index == 0
    journal.close()


def test_only_a_proposal_that_may_gets_the_reserve(tmp_path):
    files, told, given = FailingFiles(), [], []
    journal = journal_in(tmp_path / "j", files)
    files.free = 0
    refuse = [True]

    class Full(FailingFiles):
        def allocate(self, fd, size):
            if refuse[0]:
                raise OSError(errno.ENOSPC, "no room")
            self._files.allocate(fd, size)

    journal._files = Full(files=files)

    def give() -> None:
        given.append(journal.last_index)
        refuse[0] = False

    local = LocalConsensus(journal, Now(), 1, give)
    local.propose(b"x" * 100_000, told.append)
    assert isinstance(told.pop(), DiskFull)
    assert given == []
    local.propose(b"x" * 100_000, told.append, use_reserve=True)
    assert told == [Proposed(1, 1)]
    assert given == [0]
    journal.close()


def test_a_configuration_decodes_as_it_was_written():
    made = Configuration(
        (Member("a", b"1"), Member("b", b"2", voter=False), Member("c", b"3"), Member("d", b"4"))
    )
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(made), type=Configuration) == made
    assert made.quorum == 2
