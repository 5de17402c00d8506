"""The writer's queue: decided entries go into SQLite behind the answers, commits happen when they are due."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from shoal import telemetry
from shoal.errors import StorageError
from shoal.storage.engine import Engine, Report, is_disk_full
from shoal.storage.journal import Journal
from shoal.storage.workers import Worker, run_job
from shoal.store.ports import ApplyEntry

BACKLOG_LOW = 2_000
ROW_BYTES = 1024
RECLAIM_PAUSE_S = 0.05


class Writer:
    """Owns the writer thread's queue. See shoal.store.ports.Applier.

    `committed` gets a report on the loop after each commit, `resumed` is called there when a large
    backlog has gone down, `failed` when the databases cannot go on, `full` when the disk filled up and the
    journal was replayed with the reserve's room.
    """

    def __init__(
        self,
        engine: Engine,
        journal: Journal,
        worker: Worker,
        *,
        commit_interval_ms: int,
        committed: Callable[[Report], None],
        resumed: Callable[[], None],
        failed: Callable[[BaseException], None],
        full: Callable[[], None],
        release_reserve: Callable[[], None],
    ) -> None:
        self._engine = engine
        self._journal = journal
        self._worker = worker
        self._loop = asyncio.get_running_loop()
        self._commit_interval_ms = commit_interval_ms
        self._committed = committed
        self._resumed = resumed
        self._failed = failed
        self._full = full
        self._release_reserve = release_reserve
        self._taken = 0
        self._last_index = 0
        self._done = 0
        self._timer: asyncio.TimerHandle | None = None
        self._broken: BaseException | None = None
        self._stopped = False

    @property
    def backlog(self) -> int:
        """Rows taken and not in the transaction yet; large ones count as several, since all are in memory."""
        return self._taken - self._done

    def apply(self, entries: Sequence[ApplyEntry]) -> None:
        """See shoal.store.ports.Applier."""
        rows = sum(map(_rows_of, entries))
        self._taken += rows
        self._last_index = entries[-1].index
        if self._timer is None:
            self._timer = self._loop.call_later(self._commit_interval_ms / 1_000, self.commit)
        self._worker.submit(partial(self._apply, entries, rows))

    def commit(self) -> None:
        """Commit soon, on the writer's thread."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._stopped:
            self._worker.submit(self._commit)

    def make_durable(self, done: Callable[[Report], None]) -> None:
        """Commit soon and bring everything into the files, so that the journal can be shortened."""
        self._worker.submit(partial(self._make_durable, done))

    async def commit_and(self, job: Callable[[], object]) -> None:
        """Commit, then run `job` on the writer's thread before anything else is applied; raises as the job."""
        await run_job(self._worker, partial(self._commit_and, job))

    def submit(self, job: Callable[[], object], done: Callable[[Any], None]) -> None:
        """Run a read on the writer's thread; its connection sees everything applied."""
        self._worker.submit(partial(self._read, job), done)

    def stop(self) -> None:
        """Take the timer down; nothing is committed from now on."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # -- on the writer's thread ------------------------------------------------------------------

    def _apply(self, entries: Sequence[ApplyEntry], rows: int) -> None:
        if self._broken is not None:
            return
        before = self.backlog
        self._guarded(lambda: self._engine.apply(entries), entries[-1].index)
        self._done += rows
        if before > BACKLOG_LOW >= self.backlog:
            self._call(self._resumed)
        if self._engine.commit_due:
            self._commit()

    def _commit(self) -> None:
        if self._broken is not None:
            return
        rows = self._engine.rows_pending
        started = time.perf_counter_ns()
        if not self._guarded(self._engine.commit, self._engine.applied_index):
            return
        telemetry.emit(
            telemetry.DATABASE_COMMITTED,
            {"duration": time.perf_counter_ns() - started, "row_count": rows},
            {"store_id": "*"},
        )
        self._call(partial(self._on_committed, self._engine.report()))
        if any(store.reclaiming for store in self._engine.stores.values()):
            self._call(self._go_on_reclaiming)

    def _make_durable(self, done: Callable[[Report], None]) -> None:
        if self._broken is None and self._guarded(self._engine.make_durable, self._engine.applied_index):
            self._call(partial(done, self._engine.report()))

    def _commit_and(self, job: Callable[[], object]) -> object:
        self._commit()
        return self._unless_broken(job)

    def _read(self, job: Callable[[], object]) -> object:
        """Rows kept back are written first: if the disk has no room for them, that is dealt with here."""
        if self._broken is None:
            self._guarded(self._engine.flush, self._engine.applied_index)
        return self._unless_broken(job)

    def _unless_broken(self, job: Callable[[], object]) -> object:
        if self._broken is not None:
            raise StorageError(f"the database failed, restart the node: {self._broken}")
        return job()

    def _guarded(self, job: Callable[[], object], index: int) -> bool:
        """Run a job of entry `index`; when the disk is full, again from the journal with the reserve's room.

        False when the databases cannot go on.
        """
        try:
            job()
        except Exception as error:  # noqa: BLE001 - told to the node, which ends
            if not is_disk_full(error):
                self._break(error)
                return False
            try:
                self._replay(index)
            except Exception as again:  # noqa: BLE001 - told to the node, which ends
                self._break(again)
                return False
        return True

    def _replay(self, index: int) -> None:
        self._release_reserve()
        self._call(self._full)
        self._engine.rollback()
        records = self._journal.read(self._engine.oldest_applied)
        self._engine.replay(record for record in records if record.index <= index)
        self._engine.commit()

    def _break(self, error: BaseException) -> None:
        self._broken = error
        self._call(partial(self._failed, error))

    def _call(self, callback: Callable[[], object]) -> None:
        self._loop.call_soon_threadsafe(callback)

    def _go_on_reclaiming(self) -> None:
        if not self._stopped:
            self._loop.call_later(RECLAIM_PAUSE_S, self.commit)

    # -- on the loop -----------------------------------------------------------------------------

    def _on_committed(self, report: Report) -> None:
        if self._timer is not None and report.index >= self._last_index:
            self._timer.cancel()
            self._timer = None
        self._committed(report)


def _rows_of(entry: ApplyEntry) -> int:
    """Rows of an entry, or how many small ones would take as much memory."""
    rows = sum(len(getattr(change, "rows", ())) for part in entry.stores for change in part.changes)
    return max(rows, entry.size // ROW_BYTES)
