"""What the parts of one store share: how commands are submitted, and how the head is waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol, TypeVar, get_args

from shoal.accel.hash import partition_hash
from shoal.errors import InvalidRequest, NoLeader, NotFound, ShoalError, ShuttingDown, Timeout
from shoal.ids import EventIds
from shoal.model.commands import Command
from shoal.store.memory import StoreMemory
from shoal.store.ports import Queries, Reader
from shoal.store.sequencer import Sequencer
from shoal.types import Consistency, Limits

T = TypeVar("T")
ASK_AGAIN_S = 0.02


class Leadership(Protocol):
    """What a store must know of the group that replicates it."""

    @property
    def term(self) -> int:
        """The current term."""

    @property
    def serves(self) -> bool:
        """Whether this node leads, and takes commands."""

    @property
    def has_decided_all(self) -> bool:
        """Whether this node serves, and lags behind nothing that it knows to be committed."""

    @property
    def leader(self) -> str | None:
        """Who leads, as far as is known."""

    def require_leader(self) -> None:
        """Raises NoLeader, NoQuorum or Unavailable when there has been no leader for a while."""

    async def read_index(self, *, confirmed: bool) -> int:
        """Up to which entry a read must have applied. Raises NoLeader."""


_CONSISTENCIES: tuple[str, ...] = get_args(Consistency)


class StoreContext:
    """One store's means. `writer_partitions` queues hold its waiting appends, hashed by stream id."""

    def __init__(
        self,
        name: str,
        *,
        sequencer: Sequencer,
        reader: Reader,
        queries: Queries,
        ids: EventIds,
        limits: Limits,
        timeout_ms: int,
        writer_partitions: int,
        queue_limit: int,
        now_ms: Callable[[], int],
        leadership: Leadership,
        parked: Callable[[], Mapping[str, int]],
    ) -> None:
        self.name = name
        self.sequencer = sequencer
        self.reader = reader
        self.queries = queries
        self.ids = ids
        self.limits = limits
        self.now_ms = now_ms
        """Monotonic, in milliseconds."""
        self.leadership = leadership
        self.parked = parked
        """Parked events by subscription, as far as the database has them."""
        self._timeout_ms = timeout_ms
        self._partitions = writer_partitions
        self._queue_limit = queue_limit
        self._closed = self._dropped = False
        self._keeps_up = True
        """Whether the last read found everything applied that it had to see."""
        self._moved = asyncio.Event()
        sequencer.listeners[name] = self._wake

    @property
    def memory(self) -> StoreMemory:
        """Heads and tail. Raises ShuttingDown when the store is closed, NotFound when it was dropped."""
        memory = self.sequencer.stores.get(self.name)
        if memory is None or self._closed:
            raise self.over()
        return memory

    def _require_open(self) -> None:
        if self._closed:
            raise self.over()

    def over(self) -> ShoalError:
        """Why nothing is to be had from the store any more, where that is so: it was dropped, or it closes."""
        if self._dropped or self.name not in self.sequencer.stores:
            return NotFound(f"store {self.name!r} does not exist", store=self.name)
        return ShuttingDown(f"store {self.name!r} is closed")

    def submit(self, command: Command, stream_id: str, size: int) -> asyncio.Future[Any]:
        """Queue a command in its stream's partition. Raises as Sequencer.submit, and as `require_leader`."""
        self._require_open()
        self.leadership.require_leader()
        lane = partition_hash(stream_id.encode(), self._partitions)
        return self.sequencer.submit(
            command, size, lane=lane, lane_limit=self._queue_limit, timeout_ms=self._timeout_ms
        )

    async def read_applied(self, query: Callable[..., T], *arguments: Any) -> T:
        """A query on the writer's connection, which sees everything decided until now. Raises as `memory`."""
        self._require_open()
        self.sequencer.hand_over()
        return await self.reader.run_on_writer(query, *arguments)

    async def settle_reads(self, consistency: Consistency | None) -> None:
        """Until what a read of this consistency must see is applied here. Raises NoLeader, Timeout, InvalidRequest.

        `local` is whatever is here; `leader` everything that the leader knows to be committed; `linearizable` the
        same of one that a quorum has confirmed meanwhile. None is `leader`.
        """
        if self._is_settled(consistency):
            return
        deadline_ms = self.now_ms() + self._timeout_ms
        had = self.sequencer.applied_index
        index = await self._read_index(consistency, deadline_ms)
        self._keeps_up = index <= had
        await self.sequencer.wait_applied(index, max(1, deadline_ms - self.now_ms()))

    async def read_settled(
        self, consistency: Consistency | None, read: Callable[[], Awaitable[T]], *, in_memory: bool = False
    ) -> T:
        """What `read` finds once `settle_reads` is over. Raises as both.

        While the leader and its quorum are asked, the read is made: what it found counts if nothing more had to be
        applied for it. A node that lately lacked something does one after the other, so as not to read twice; so does
        a read from memory, which takes no time.
        """
        if self._is_settled(consistency):
            return await read()
        if in_memory or not self._keeps_up:
            await self.settle_reads(consistency)
            return await read()
        had = self.sequencer.applied_index
        deadline_ms = self.now_ms() + self._timeout_ms
        asking = asyncio.ensure_future(self._read_index(consistency, deadline_ms))
        try:
            found = await _outcome(read())
            index = await asking
        finally:
            asking.cancel()
        self._keeps_up = index <= had
        if not self._keeps_up:
            await self.sequencer.wait_applied(index, max(1, deadline_ms - self.now_ms()))
            return await read()
        if isinstance(found, Exception):
            raise found
        return found

    def _is_settled(self, consistency: Consistency | None) -> bool:
        """Whether a read may begin at once. Raises InvalidRequest, and as `over` where nothing can be read any more."""
        self._require_open()
        if consistency is not None and consistency not in _CONSISTENCIES:
            raise InvalidRequest(
                f"consistency is {', '.join(_CONSISTENCIES[:-1])} or {_CONSISTENCIES[-1]}",
                pointer="consistency",
            )
        return consistency == "local" or (consistency != "linearizable" and self.leadership.has_decided_all)

    async def _read_index(self, consistency: Consistency | None, deadline_ms: int) -> int:
        """Asked again while nobody leads. Raises NoLeader, and as `require_leader`."""
        while True:
            self.leadership.require_leader()
            try:
                return await self.leadership.read_index(confirmed=consistency == "linearizable")
            except NoLeader:
                if self._closed or self.now_ms() >= deadline_ms:
                    raise
                await asyncio.sleep(ASK_AGAIN_S)

    def _wake(self) -> None:
        self._moved.set()

    async def wait_beyond(self, position: int, deletes: int | None = None) -> None:
        """Wait until the head is past `position`, or there were more than `deletes` deletes (None: whatever happens).

        Raises as `memory` when the store closes or is dropped.
        """
        while self.memory.state.position <= position and deletes in (None, self.memory.deletes):
            self._moved.clear()
            await self._moved.wait()

    async def wait_for(self, position: int, timeout_ms: int) -> None:
        """Wait until the head is at `position` or past it. Raises Timeout."""
        try:
            async with asyncio.timeout(timeout_ms / 1_000):
                await self.wait_beyond(position - 1)
        except TimeoutError as error:
            raise Timeout(f"position {position} was not reached in {timeout_ms} ms") from error

    def close(self, *, dropped: bool = False) -> None:
        """End waits and refuse new work. `dropped`: for ever, whatever is made under the store's name."""
        self._closed, self._dropped = True, dropped
        self._moved.set()


async def _outcome(work: Awaitable[T]) -> T | Exception:
    """What came of it, an error too."""
    try:
        return await work
    except Exception as error:  # noqa: BLE001 - raised by the caller, if it counts
        return error
