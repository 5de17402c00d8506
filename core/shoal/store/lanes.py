"""Lanes: where commands wait for their entry. A busy lane starves no other, and what waits is bounded."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

import msgspec

from shoal.errors import NotFound, ShoalError, Timeout, TooBusy
from shoal.model.commands import Append, Command, CreateStore, DeleteStream, DropStore

ENTRY_COMMANDS = 4_096
ENTRY_BYTES = 256 * 1024
"""An entry is closed when it has reached this size: what waits behind it waits for its sync, and all of it is in
memory several times. A single larger append is an entry of its own."""
QUEUED_BYTES = 64 * 1024 * 1024


class Pending(msgspec.Struct, gc=False, eq=False):
    """A command waiting for its decision; `deadline_ms` is monotonic."""

    command: Command
    size: int
    deadline_ms: int
    future: asyncio.Future[Any]

    def fail(self, error: ShoalError) -> None:
        """Answer with an error, unless whoever asked has gone."""
        if not self.future.done():
            self.future.set_exception(error)


class Lanes:
    """The queues of all stores; a lane is named by its store and a number."""

    def __init__(self) -> None:
        self._queues: dict[tuple[str, int], deque[Pending]] = {}
        self._bytes = 0

    @property
    def waiting(self) -> int:
        """Commands queued."""
        return sum(map(len, self._queues.values()))

    def put(self, pending: Pending, lane: int, limit: int) -> None:
        """Queue a command behind the others of its lane. Raises TooBusy."""
        key = (pending.command.store, lane)
        queue = self._queues.get(key)
        if queue is None:
            queue = self._queues[key] = deque()
        if len(queue) >= limit or (self._bytes and self._bytes + pending.size > QUEUED_BYTES):
            raise TooBusy(
                f"{len(queue)} appends wait in this writer partition; try again later", retry_after_ms=1_000
            )
        self._bytes += pending.size
        queue.append(pending)

    def take(self) -> list[Pending]:
        """Commands for the next entry, from every lane in turn."""
        batch: list[Pending] = []
        size = 0
        deleting: set[str] = set()
        queues = [queue for queue in self._queues.values() if queue]
        while queues and len(batch) < ENTRY_COMMANDS and size < ENTRY_BYTES:
            share = max(1, (ENTRY_COMMANDS - len(batch)) // len(queues))
            for queue in queues:
                for _ in range(min(share, len(queue))):
                    if deleting and _must_wait(queue[0].command, deleting):
                        break
                    pending = queue.popleft()
                    self._bytes -= pending.size
                    if pending.future.done():
                        continue
                    if isinstance(pending.command, DeleteStream):
                        deleting.add(pending.command.store)
                    batch.append(pending)
                    size += pending.size
                    if size >= ENTRY_BYTES:
                        break
                if size >= ENTRY_BYTES:
                    break
            queues = [queue for queue in queues if queue and not _must_wait(queue[0].command, deleting)]
        return batch

    def expire(self, now_ms: int) -> None:
        """Answer what has waited too long: it was not applied."""
        for queue in self._queues.values():
            while queue and queue[0].deadline_ms <= now_ms:
                pending = queue.popleft()
                self._bytes -= pending.size
                pending.fail(Timeout("the store was too busy to take the command in time"))

    def leave_store(self, store: str) -> None:
        """Answer what waits for a dropped store: nothing of it may reach another one of the same name."""
        for key in [key for key in self._queues if key[0] == store]:
            queue = self._queues.pop(key)
            kept = deque(pending for pending in queue if isinstance(pending.command, CreateStore | DropStore))
            if kept:
                self._queues[key] = kept
            for pending in queue:
                if pending not in kept:
                    self._bytes -= pending.size
                    pending.fail(NotFound(f"store {store!r} does not exist", store=store))

    def fail_all(self, error: ShoalError) -> None:
        """Answer everything that waits."""
        for queue in self._queues.values():
            for pending in queue:
                pending.fail(error)
            queue.clear()
        self._bytes = 0


def _must_wait(command: Command, deleting: set[str]) -> bool:
    """Whether a condition would be checked against events that this very entry deletes.

    Its first hit is fetched before the entry is decided, and could be hidden by then: the next entry is
    early enough. Replay, which decides from the database, must come to the same.
    """
    return isinstance(command, Append) and command.condition is not None and command.store in deleting
