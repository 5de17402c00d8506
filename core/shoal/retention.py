"""Which journal segments go: those whose entries the databases hold durably and no member is likely to ask for."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from shoal.cluster.driver import RaftDriver
from shoal.storage.engine import Report
from shoal.storage.journal import Journal
from shoal.storage.workers import Worker
from shoal.storage.writer import Writer

SEGMENTS_KEPT = 8
"""At most, for members who lag; who lacks more gets a copy of the databases."""


class Retention:
    """Told of what the databases hold; drops and prepares segments on other threads."""

    def __init__(
        self,
        journal: Journal,
        writer: Writer,
        driver: RaftDriver,
        *,
        journal_worker: Worker,
        helper: Worker,
        failed: Callable[[BaseException], None],
    ) -> None:
        self._journal = journal
        self._writer = writer
        self._driver = driver
        self._journal_worker = journal_worker
        self._helper = helper
        self._failed = failed
        self._preparing = self._dropping = False
        self.closed = False

    def committed(self, report: Report) -> None:
        """The databases have committed."""
        if self._journal.droppable(self._needless(report.durable_index)):
            self._drop(report)
        elif self._journal.droppable(self._needless(report.index)):
            self._writer.make_durable(self._drop)
        if self._journal.needs_spare():
            self.prepare()

    def prepare(self) -> None:
        """Have the next segment ready."""
        if not self._preparing:
            self._preparing = True
            self._helper.submit(self._journal.prepare_spare, self._prepared)

    def _needless(self, index: int) -> int:
        core = self._driver.core
        spared = 0 if core.is_witness else self._journal.overfull_through(SEGMENTS_KEPT)
        return min(index, max(core.everywhere, spared))

    def shorten(self) -> None:
        """On a witness, which has no databases: entries go when every full member holds them, never before."""
        log = self._driver.core.log
        self._drop_through(self._needless(min(log.commit, log.durable)))
        if self._journal.needs_spare():
            self.prepare()

    def _drop(self, report: Report) -> None:
        self._drop_through(self._needless(report.durable_index))

    def _drop_through(self, index: int) -> None:
        if self._journal.droppable(index) and not (self.closed or self._dropping):
            self._dropping = True
            self._journal_worker.submit(partial(self._journal.drop_through, index), self._dropped)

    def _prepared(self, outcome: object) -> None:
        self._preparing = False
        self._done(outcome)

    def _dropped(self, outcome: object) -> None:
        self._dropping = False
        self._done(outcome)
        self._driver.dropped(self._journal.first_index)

    def _done(self, outcome: object) -> None:
        if isinstance(outcome, BaseException):
            self._failed(outcome)
