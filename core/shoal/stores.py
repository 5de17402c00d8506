"""The stores of a node: served as entries make and drop them, made and dropped by whoever asks."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType

from shoal import telemetry
from shoal.clock import Clock
from shoal.config import Config, valid_store_name
from shoal.errors import InvalidRequest, NoLeader, NotFound
from shoal.ids import EventIds
from shoal.model.commands import CreateStore, DropStore
from shoal.storage import queries
from shoal.storage.engine import Engine
from shoal.storage.readers import StoreReaders
from shoal.storage.workers import Worker, run_job
from shoal.storage.writer import Writer
from shoal.store.context import Leadership, StoreContext
from shoal.store.local import LocalStore
from shoal.store.memory import StoreMemory
from shoal.store.sequencer import Sequencer


class Stores:
    """What is open of each store. `readers` is shared with whoever fetches for decisions."""

    def __init__(
        self,
        config: Config,
        *,
        engine: Engine,
        sequencer: Sequencer,
        writer: Writer,
        readers: dict[str, StoreReaders],
        reader_worker: Worker,
        ids: EventIds,
        clock: Clock,
        leadership: Leadership,
        vfs: str | None,
        failed: Callable[[BaseException], None],
    ) -> None:
        self._config = config
        self._engine = engine
        self._sequencer = sequencer
        self._writer = writer
        self._readers = readers
        self._reader_worker = reader_worker
        self._ids = ids
        self._clock = clock
        self._leadership = leadership
        self._vfs = vfs
        self._failed = failed
        self._open: dict[str, LocalStore] = {}
        self._contexts: dict[str, StoreContext] = {}
        self._making: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._served = asyncio.Event()
        self._closed = False
        sequencer.catalog_changed = self._on_catalog

    @property
    def by_name(self) -> Mapping[str, LocalStore]:
        """The stores."""
        return MappingProxyType(self._open)

    def store(self, name: str) -> LocalStore:
        """A store. Raises NotFound; NoLeader for one of the configuration, which comes with what the leader sends."""
        found = self._open.get(name)
        if found is None and not self._leadership.serves and self._is_configured(name):
            raise NoLeader(
                f"store {name!r} is not here yet: this board has not caught up; try again", store=name
            )
        if found is None:
            raise NotFound(f"store {name!r} does not exist", store=name)
        return found

    def _is_configured(self, name: str) -> bool:
        return any(store.name == name for store in self._config.stores)

    # -- making and dropping ---------------------------------------------------------------------

    async def create(self, name: str) -> LocalStore:
        """Create a store; fine when it is there. Raises InvalidRequest for a bad name or one too many.

        NotFound when it was dropped again meanwhile.
        """
        if not valid_store_name(name):
            raise InvalidRequest(
                "a store's name is letters, digits, '_', '.' or '-', up to 64", pointer="store"
            )
        if name not in self._open:
            most = self._config.http.max_stores
            if len({*self._open, *self._making}) >= most:
                raise InvalidRequest(f"at most {most} stores", pointer="store")
            self._making[name] += 1  # else those that come while this one is made would not count it
            try:
                await self.make(name)
            finally:
                self._making -= Counter([name])
        return self.store(name)

    async def make(self, name: str) -> None:
        """Have a store made, and wait until it is served here, or dropped again."""
        await self._sequencer.submit(CreateStore(name), 0, timeout_ms=self._config.timeout_ms)
        await self._until_served(name)

    async def look_for(self, name: str) -> None:
        """A store that is not here may be at the leader: wait for all that this one has. Raises NoLeader, Timeout."""
        if name in self._open or self._leadership.serves:
            return
        index = await self._leadership.read_index(confirmed=False)
        await self._sequencer.wait_applied(index, self._config.timeout_ms)
        await self._until_served(name)

    async def _until_served(self, name: str) -> None:
        while name not in self._open and name in self._sequencer.stores and not self._closed:
            self._served.clear()
            await self._served.wait()

    async def drop(self, name: str) -> None:
        """Drop a store and its events for ever; fine when another call does so meanwhile. Raises NotFound."""
        self.store(name)
        await self._sequencer.submit(DropStore(name), 0, timeout_ms=self._config.timeout_ms)
        for task in list(self._tasks):
            await task

    # -- what entries say ------------------------------------------------------------------------

    def _on_catalog(self, command: CreateStore | DropStore) -> None:
        name = command.store
        if isinstance(command, CreateStore):
            if name not in self._open:
                self._run(self._begin(name, self._sequencer.stores[name]))
        elif name in self._open:
            # At once: the next entry may make one of this name, for which nothing may be read from this one's file.
            context, readers = self._contexts.pop(name), self._readers.pop(name)
            context.close(dropped=True)
            self._run(self._end(self._open.pop(name), readers))

    def _run(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._on_done)

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._served.set()
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._failed(error)

    async def _begin(self, name: str, made: StoreMemory) -> None:
        self._sequencer.hand_over()
        await run_job(self._writer, _nothing)  # behind the entry: the file is there now
        if self._sequencer.stores.get(name) is not made:  # dropped meanwhile, and perhaps made anew
            await self._remove_files()
        elif name not in self._open:
            self.serve(name, self._engine.file_of(name, made.since))

    async def _end(self, store: LocalStore, readers: StoreReaders) -> None:
        await store.subscriptions.close()
        await run_job(self._reader_worker, _nothing)
        readers.close()
        await self._remove_files()

    async def _remove_files(self) -> None:
        self._sequencer.hand_over()
        self._writer.commit()
        await run_job(self._writer, _nothing)

    def serve(self, name: str, path: Path) -> None:
        """Open a store that the database has, in the file at `path`."""
        settings = self._config.store(name)
        readers = StoreReaders(
            path,
            pool=self._reader_worker,
            pool_size=settings.reader_pool_size,
            writer=self._writer,
            store=partial(self._engine.stores.get, name),
            timeout_ms=settings.timeout_ms,
            failed=self._failed,
            vfs=self._vfs,
        )
        context = StoreContext(
            name,
            sequencer=self._sequencer,
            reader=readers,
            queries=queries,
            ids=self._ids,
            limits=self._config.limits,
            timeout_ms=settings.timeout_ms,
            writer_partitions=settings.writer_pool_size,
            queue_limit=self._config.storage.writer_queue_limit,
            now_ms=self._clock.monotonic_ms,
            leadership=self._leadership,
            parked=partial(self._parked, name),
        )
        self._readers[name], self._contexts[name] = readers, context
        self._open[name] = LocalStore(context)
        self._served.set()
        telemetry.emit(
            telemetry.STORE_STARTED,
            {"system_time": telemetry.system_time()},
            {"store_id": name, "mode": self._config.mode, "data_dir": str(settings.data_dir)},
        )

    def _parked(self, name: str) -> dict[str, int]:
        """Parked events by subscription; none once the writer's thread has dropped the store."""
        store = self._engine.stores.get(name)
        return {} if store is None else store.parked_counts

    # -- leading ---------------------------------------------------------------------------------

    def lead(self, *, leading: bool) -> None:
        """This node leads from now on, or no longer: deliveries begin anew, or end."""
        for store in self._open.values():
            store.subscriptions.lead(leading=leading)

    # -- closing ---------------------------------------------------------------------------------

    async def close_subscriptions(self) -> None:
        """Store what consumers have settled."""
        self._closed = True
        for store in self._open.values():
            await store.subscriptions.close()

    def close(self) -> None:
        """End what waits."""
        self._served.set()
        for context in self._contexts.values():
            context.close()


def _nothing() -> None:
    """A job that only waits its turn."""
