"""A node without a network face: journal, databases, sequencer and stores of one data directory.

The composition of storage, consensus and use cases; `shoal.open` (embedded.py) and `shoald` (server.py) are
both built on it.
"""

from __future__ import annotations

import asyncio
import logging
import platform
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from random import Random
from typing import Any, Self

from shoal import telemetry
from shoal.clock import Clock
from shoal.cluster.driver import RaftDriver
from shoal.cluster.log_start import found_group, read_start, require_alone
from shoal.config import Config
from shoal.errors import DiskFull, ShuttingDown, StateDiverged, TransferRefused
from shoal.ids import EventIds
from shoal.journal_only import JournalOnly
from shoal.leadership import Leadership
from shoal.model.event_time import EventTime
from shoal.raft.log import Member
from shoal.raft.node import RaftNode
from shoal.raft.state import Own
from shoal.retention import Retention
from shoal.storage.database import require_safe_sqlite
from shoal.storage.engine import Report, Settings, is_disk_full
from shoal.storage.exporter import Exporter
from shoal.storage.generation import places_of
from shoal.storage.importer import Importer
from shoal.storage.manifest_only import ManifestOnly
from shoal.storage.means import Means
from shoal.storage.readers import ReadSetFetcher, StoreReaders
from shoal.storage.recovery import Lock, Opened, explained, mark_diverged, mark_suspect, open_storage
from shoal.storage.reserve import Reserve
from shoal.storage.room import Room
from shoal.storage.segment import Identity
from shoal.storage.store_db import is_corrupt
from shoal.storage.verify import Verification, verify_file
from shoal.storage.workers import run_job
from shoal.storage.writer import Writer
from shoal.store.forwarding import Forwarding
from shoal.store.local import LocalStore
from shoal.store.memory import StoreMemory
from shoal.store.sequencer import Sequencer
from shoal.stores import Stores

__all__ = ["Means", "Node"]

_log = logging.getLogger("shoal.node")


def _nothing() -> None:
    """A job that only waits its turn."""


class Node:
    """A running node. `failed` gets an exception when the storage can no longer be trusted: end the process."""

    def __init__(self, config: Config, means: Means) -> None:
        self.config = config
        self.means = means
        self._places = places_of(config)
        self._started_at = time.monotonic()
        self._readers: dict[str, StoreReaders] = {}
        self._closed = False
        self._locks: list[Lock] = []
        self._opened: Opened | None = None
        self._loop = asyncio.get_running_loop()
        self._verifying = asyncio.Lock()
        self.failed: asyncio.Future[None] = self._loop.create_future()
        self.notes: list[str] = []
        self.install: Importer | ManifestOnly | None = None
        """A whole copy of another node's databases, which takes the place of these when this node closes."""

    # -- opening ---------------------------------------------------------------------------------

    @classmethod
    async def open(cls, config: Config, *, means: Means | None = None, clock: Clock | None = None) -> Node:
        """Lock and recover the data directory, and make the configured stores.

        Raises DataDirLocked, JournalCorrupt, DatabaseCorrupt, StorageError, each saying what to do.
        """
        require_safe_sqlite()
        node = cls(config, means or Means(clock=clock))
        node._make_workers()
        try:
            await run_job(node._writer_worker, node._take_locks)
            await node._open()
        except BaseException:
            node._closed = True
            await node._stop_workers(node._abandon)
            raise
        return node

    def _make_workers(self) -> None:
        make = self.means.workers
        stores = self.config.stores
        self._journal_worker = make("journal", 1)
        self._writer_worker = make("writer", 1)
        self._reader_worker = make("reader", max(self.config.store(s.name).reader_pool_size for s in stores))
        self.helper = make("helper", 1)
        self._fetch_worker, self._conditions_worker = make("fetch", 1), make("conditions", 1)

    async def _open(self) -> None:
        config = self.config
        self._reserve = Reserve(self.means.files, config.data_dir, config.storage.reserve_bytes)
        self._room = Room(
            self._reserve,
            config.data_dir,
            self.helper,
            wanted_bytes=config.storage.reserve_bytes,
            refuse=self._refuse_appends,
            failed=self.fail,
        )
        opened: Opened = await run_job(self._writer_worker, self._recover)
        self._opened = opened
        self.notes = opened.notes
        self._journal, self._engine = opened.journal, opened.engine
        self.driver = await self._make_driver(opened)
        self._make_pipeline()
        self._make_stores()
        for name, store in self._engine.stores.items():
            self.sequencer.stores[name] = StoreMemory(store.state, subscriptions=store.subscriptions())
            self._stores.serve(name, self._engine.path_of(name))
        self.driver.start()
        if self.driver.core.is_alone:
            await asyncio.wait({self.leadership.made, self.failed}, return_when=asyncio.FIRST_COMPLETED)
            for future in (self.failed, self.leadership.made):
                if future.done():
                    future.result()
        self._retention.prepare()
        self._room.keep()

    async def _make_driver(self, opened: Opened) -> RaftDriver:
        """The consensus of what the journal holds; a board alone begins its group."""
        journal, config = self._journal, self.config
        own = Own(journal.identity.node_id, journal.identity.incarnation)
        if journal.last_index == 0 and (config.mode == "single" or config.begins_with == 1):
            alone = [Member(own.node_id, own.incarnation)]
            await run_job(self._journal_worker, partial(found_group, journal, alone))
        start = await run_job(self._journal_worker, partial(read_start, journal, opened.applied))
        self.random = Random(int.from_bytes(self.means.entropy(8)))  # noqa: S311 - spreads elections
        clock = self.means.clock
        core = RaftNode(own, start, journal.hard_state, random=self.random, now_ms=clock.monotonic_ms())
        if config.mode == "single":
            require_alone(own.node_id, core.configuration, config.data_dir)
        core.hollow = opened.hollow
        return RaftDriver(
            core,
            journal,
            self._journal_worker,
            clock,
            own=own,
            give_reserve=self._room.give,
            failed=self.fail,
        )

    def _take_locks(self) -> None:
        """Of the data directory, and of those that stores have of their own."""
        for directory in (self.config.data_dir, *(other.parent for other in self._places.other_directories)):
            self._locks.append(Lock(directory))

    def _recover(self) -> Opened:
        """Recover the data directory, with the reserve's room if a full disk does not allow it without."""
        storage = self.config.storage
        recover = partial(
            open_storage,
            self.means.files,
            self.config.data_dir,
            Settings(
                storage.commit_rows,
                storage.commit_bytes,
                storage.cache_bytes,
                storage.wal_limit_bytes,
                self.means.vfs,
            ),
            self._new_identity,
            segment_bytes=storage.segment_bytes,
            floor_bytes=storage.reserve_bytes // 2,
            store_directory=self._places.store_directory,
            other_directories=self._places.other_directories,
        )
        try:
            try:
                return recover()
            except Exception as error:
                if not is_disk_full(error) or not self._reserve.held:
                    raise
                self._reserve.release()
                return recover()
        except Exception as error:
            if not is_disk_full(error):
                raise
            free = self.means.files.free_bytes(self.config.data_dir)
            raise DiskFull(
                f"{self.config.data_dir}: {free:,} bytes are free, too few to start; free some space, then start again"
            ) from error

    def _make_pipeline(self) -> None:
        storage = self.config.storage
        self._ids = EventIds(self.means.entropy, now_ms=self.means.clock.epoch_ms)
        self._writer = Writer(
            self._engine,
            self._journal,
            self._writer_worker,
            commit_interval_ms=storage.commit_interval_ms,
            committed=self._on_committed,
            resumed=lambda: self.sequencer.resume(),  # noqa: PLW0108 - it is made below
            failed=self.fail,
            full=self._room.none,
            release_reserve=self._reserve.release,
        )
        self._retention = Retention(
            self._journal,
            self._writer,
            self.driver,
            journal_worker=self._journal_worker,
            helper=self.helper,
            failed=self.fail,
        )
        self.sequencer = Sequencer(
            consensus=self.driver,
            applier=self._writer,
            fetcher=ReadSetFetcher(
                self._readers,
                pool=self._fetch_worker,
                conditions=self._conditions_worker,
                writer=self._writer,
                engine=self._engine,
            ),
            clock=self.means.clock,
            event_time=EventTime(),
            forwarding=Forwarding(
                self.driver.own.node_id,
                int.from_bytes(self.means.entropy(6)) << 14,
                self.driver.send_bulk,
            ),
            failed=self.fail,
        )
        self.sequencer.begin_after(self._engine.applied_index, self._engine.applied_term)
        self.journal_only = JournalOnly(self.driver, self._journal, self._retention, storage, self.sequencer)

    def _make_stores(self) -> None:
        wanted = [store.name for store in self.config.stores]
        self.leadership = Leadership(self.driver, self.sequencer, wanted, self.means.clock.monotonic_ms)
        self.driver.changed = self.sequencer.term_began = self.leadership.changed
        self._stores = Stores(
            self.config,
            engine=self._engine,
            sequencer=self.sequencer,
            writer=self._writer,
            readers=self._readers,
            reader_worker=self._reader_worker,
            ids=self._ids,
            clock=self.means.clock,
            leadership=self.leadership,
            vfs=self.means.vfs,
            failed=self.fail,
        )
        self.leadership.begin(self._stores)
        self.leadership.on_change.append(self._shed_if_full)

    def _new_identity(self) -> Identity:
        draw = self.means.entropy
        return Identity(
            self.config.cluster_id or draw(8).hex(),
            self.config.node_id or f"{platform.node() or 'node'}-{draw(3).hex()}",
            draw(16),
        )

    # -- stores ----------------------------------------------------------------------------------

    @property
    def stores(self) -> Mapping[str, LocalStore]:
        """The stores by name; none where there are no databases."""
        return {} if self.driver.core.stateless else self._stores.by_name

    def store(self, name: str) -> LocalStore:
        """A store. Raises NotFound, Unavailable where there are no databases."""
        self.journal_only.require_stores()
        return self._stores.store(name)

    async def look_for(self, name: str) -> None:
        """See Stores.look_for. Raises Unavailable where there are no databases."""
        self.journal_only.require_stores()
        await self._stores.look_for(name)

    async def create_store(self, name: str) -> LocalStore:
        """Create a store; fine when it is there. Raises as Stores.create, and as `store`."""
        self.journal_only.require_stores()
        return await self._stores.create(name)

    async def drop_store(self, name: str) -> None:
        """Drop a store and its events for ever; fine when another call does so meanwhile. Raises as `store`."""
        self.journal_only.require_stores()
        await self._stores.drop(name)

    # -- housekeeping ----------------------------------------------------------------------------

    def _on_committed(self, report: Report) -> None:
        if not self._closed:
            self.sequencer.committed(report.index, report.positions)
            self._retention.committed(report)

    def _refuse_appends(self, full: DiskFull | None) -> None:
        self.sequencer.disk_full = full
        self._shed_if_full()

    def _shed_if_full(self) -> None:
        if self.sequencer.disk_full is not None:
            self.driver.shed()

    def fail(self, error: BaseException) -> None:
        """The node can no longer go on."""
        if isinstance(error, StateDiverged):
            self.helper.submit(partial(mark_diverged, self.means.files, self._engine.directory))
        elif is_corrupt(error):
            self.helper.submit(partial(mark_suspect, self._engine.directory))
        error = explained(error, self._engine.directory)
        self.sequencer.give_up(error)
        if not self.failed.done():
            self.failed.set_exception(error)
            self.failed.exception()  # whoever awaits it still gets it; nobody has to

    # -- copies for far-behind nodes (storage.md 9) ----------------------------------------------

    def make_exporter(self) -> Exporter:
        """For one copy to another node."""
        return Exporter(self._engine)

    def make_importer(self) -> Importer:
        """For a copy of another node; goes on with what has come of one. Blocks. Raises OSError, StorageError."""
        return Importer(self.means.files, self._places, self._journal.identity, vfs=self.means.vfs)

    async def hold(self, job: Callable[[], None]) -> None:
        """Run the job on the writer's thread, when all that is applied is committed."""
        self.sequencer.hand_over()
        await self._writer.commit_and(job)

    def _install(self, importer: Importer | ManifestOnly) -> None:
        self._engine.close()
        try:
            importer.finish(self._journal)
        except (TransferRefused, DiskFull) as error:
            importer.close()
            _log.warning("the copy cannot be used now, the next start tries again: %s", error)

    @property
    def leads(self) -> bool:
        """Whether this node leads, and answers what only the leader can."""
        return self.leadership.serves

    # -- about -----------------------------------------------------------------------------------

    def info(self) -> dict[str, Any]:
        """Who this node is and where it stands."""
        identity = self._journal.identity
        return {
            "node_id": identity.node_id,
            "cluster_id": identity.cluster_id,
            "incarnation": identity.incarnation.hex(),
            "mode": self.config.mode,
            "role": self.driver.role,
            "term": self.driver.term,
            "commit_index": self.driver.commit_index,
            "applied_index": self.journal_only.applied_index,
            "data_dir": str(self.config.data_dir),
            "disk_full": self.sequencer.disk_full is not None or self.journal_only.full,
            "uptime_s": round(time.monotonic() - self._started_at, 3),
        }

    def stats(self) -> dict[str, float]:
        """Plain counters for metrics."""
        counters, journal = self.sequencer.counters, self._journal.stats
        memories = self.sequencer.stores.values()
        return {
            "entries_total": counters.entries,
            "commands_total": counters.commands,
            "events_appended_total": sum(memory.events_appended for memory in memories),
            "event_bytes_total": sum(memory.bytes_appended for memory in memories),
            "conflicts_total": counters.conflicts,
            "refused_total": counters.refused,
            "appends_waiting": self.sequencer.waiting,
            "writer_backlog_rows": self._writer.backlog,
            "journal_bytes_total": journal.bytes_appended,
            "journal_syncs_total": journal.batches,
            "journal_sync_seconds_total": journal.sync_seconds,
            "journal_segments": self._journal.segment_count,
            "database_commits_total": self._engine.commits,
            "reads_total": sum(readers.reads for readers in self._readers.values()),
            "stores": len(self.stores),
            **{f"head_position:{name}": store.head for name, store in self.stores.items()},
            **dict(numbers for store in self.stores.values() for numbers in store.subscriptions.metrics()),
        }

    async def verify(self) -> Verification:
        """Verify what every store has: each byte a reader could be given. Takes a while; appends go on.

        Raises ShuttingDown when the node closes meanwhile.
        """
        async with self._verifying:
            self.sequencer.hand_over()
            self._writer.commit()
            await run_job(self._writer_worker, _nothing)
            found = Verification()
            worker = self.means.workers("verify", 1)
            try:
                for name in list(self.stores):
                    created_index = self._engine.created.get(name, 0)
                    part, path = Verification(), self._engine.file_of(name, created_index)
                    look = partial(verify_file, progress=self._go_on, vfs=self.means.vfs, running=True)
                    await run_job(worker, partial(look, path, name, part))
                    if self._engine.created.get(name) == created_index:  # else it was dropped meanwhile
                        found.take_in(part)
            finally:
                await asyncio.to_thread(worker.close)
        return found

    def _go_on(self, _what: str, _count: int) -> None:
        if self._closed:
            raise ShuttingDown("the node is closing")

    # -- closing ---------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """The node itself."""
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Close."""
        await self.close()

    async def close(self) -> None:
        """Answer what was taken, commit, and give the directory up. Safe to call twice."""
        if self._closed:
            return
        self._closed = self._retention.closed = True
        self._room.close()
        await self._stores.close_subscriptions()
        if not self.failed.done():
            await self.sequencer.close()
        broken = self.failed.done()
        self.driver.stop()
        self._stores.close()
        self._writer.stop()
        await self._stop_workers(partial(self._finish, commit=not broken))
        for name in self.stores:
            telemetry.emit(
                telemetry.STORE_STOPPED,
                {
                    "system_time": telemetry.system_time(),
                    "uptime_ms": round((time.monotonic() - self._started_at) * 1_000),
                },
                {"store_id": name, "reason": "failed" if broken else "closed"},
            )

    async def _stop_workers(self, last: Callable[[], object] = _nothing) -> None:
        """Let every thread finish its queue and end; `last` runs when only the writer's is left."""
        fetching = (self._reader_worker, self._fetch_worker, self._conditions_worker)
        for worker in (*fetching, self.helper, self._journal_worker):
            await run_job(self._writer_worker, worker.close)
        await run_job(self._writer_worker, last)
        await asyncio.to_thread(self._writer_worker.close)

    def _finish(self, *, commit: bool) -> None:
        try:
            if commit and self.install is not None:
                self._install(self.install)
            elif commit:
                self._engine.commit()
        except Exception as error:
            if not is_disk_full(error):
                raise
            self.notes.append("the disk was full at the end; the next start applies what the journal holds")
        finally:
            self._abandon()

    def _abandon(self) -> None:
        """Close everything that is open, the rest too where one cannot be closed."""
        with ExitStack() as stack:
            stack.callback(self._release)
            if self._opened is not None:
                stack.callback(self._opened.journal.close)
                stack.callback(self._opened.engine.close)
            for readers in self._readers.values():
                stack.callback(readers.close)

    def _release(self) -> None:
        for lock in self._locks:
            lock.close()
        self._locks.clear()
