"""Lanes: where commands wait for their entry. A busy lane starves no other, and what waits is bounded."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from shoal.errors import NotFound, ShoalError, Timeout, TooBusy
from shoal.model.commands import Append, Command, CreateStore, DeleteStream, DropStore
from shoal.store.ports import Hit

ENTRY_COMMANDS = 4_096
ENTRY_BYTES = 256 * 1024
"""An entry is closed when it has reached this size: what waits behind it waits for its sync, and all of it is in
memory several times. A single larger append is an entry of its own."""
QUEUED_BYTES = 64 * 1024 * 1024


class Checked(msgspec.Struct, frozen=True, gc=False):
    """What the database says of a condition: its first match, if it has one, as of so many deletes.

    Nothing up to position `after` matches, in the store that entry `since` made.
    """

    hit: Hit | None
    deletes: int
    after: int
    since: int


class PassedOn(msgspec.Struct, frozen=True, gc=False):
    """Where a command that a follower passed on came from, and in which term it was taken."""

    node_id: str
    number: int
    term: int


class Pending(msgspec.Struct, gc=False, eq=False):
    """A command waiting for its decision; `deadline_ms` is monotonic, `checked` there for conditions only.

    `place` is where it stands among those that were queued here.
    """

    command: Command
    size: int
    deadline_ms: int
    future: asyncio.Future[Any]
    lane: int = 0
    checked: Checked | None = None
    origin: PassedOn | None = None
    place: int = 0

    def fail(self, error: ShoalError) -> None:
        """Answer with an error, unless whoever asked has gone."""
        if not self.future.done():
            self.future.set_exception(error)

    @property
    def key(self) -> tuple[str, int]:
        """Names its lane."""
        return (self.command.store, self.lane)


class Lanes:
    """The queues of all stores; a lane is named by its store and a number.

    What is *held* waits in its lane too, but is not taken, and others pass it.
    """

    def __init__(self) -> None:
        self._queues: dict[tuple[str, int], deque[Pending]] = {}
        self._held: dict[tuple[str, int], dict[Pending, None]] = {}
        self._bytes = 0
        self._placed = 0

    @property
    def waiting(self) -> int:
        """Commands queued or held."""
        return sum(map(len, self._queues.values())) + sum(map(len, self._held.values()))

    def put(self, pending: Pending, limit: int) -> None:
        """Queue a command behind the others of its lane. Raises TooBusy."""
        key = (pending.command.store, pending.lane)
        queue = self._queues.get(key)
        if queue is None:
            queue = self._queues[key] = deque()
        waiting = len(queue)
        if self._held:
            waiting += len(self._held.get(key, ()))
        if waiting >= limit or (self._bytes and self._bytes + pending.size > QUEUED_BYTES):
            raise TooBusy(
                f"{waiting} appends wait in this writer partition; try again later", retry_after_ms=1_000
            )
        self._bytes += pending.size
        self._append(queue, pending)

    def _append(self, queue: deque[Pending], pending: Pending) -> None:
        self._placed += 1
        pending.place = self._placed
        queue.append(pending)

    def hold(self, pending: Pending, limit: int) -> None:
        """Take a command in, and keep it until it is released or dropped. Raises TooBusy."""
        self.put(pending, limit)
        self._queues[pending.key].pop()
        self._hold(pending)

    def _hold(self, pending: Pending) -> None:
        self._held.setdefault(pending.key, {})[pending] = None

    def release(self, pending: Pending) -> None:
        """Queue a command that was held."""
        if self.drop(pending):
            self._bytes += pending.size
            self._append(self._queues.setdefault(pending.key, deque()), pending)

    def drop(self, pending: Pending) -> bool:
        """Forget a command that was held; false when it is not there any more."""
        held = self._held.get(pending.key, {})
        if pending not in held:
            return False
        del held[pending]
        if not held:
            del self._held[pending.key]
        self._bytes -= pending.size
        return True

    def take(self, may_go: Callable[[Pending], bool] | None) -> list[Pending]:
        """Commands for the next entry, from every lane in turn; a condition that may not go yet is held again.

        `may_go` None: all may.
        """
        batch: list[Pending] = []
        size = 0
        deleting: set[str] = set()
        remade: set[str] = set()
        queues = [queue for queue in self._queues.values() if queue]
        while queues and len(batch) < ENTRY_COMMANDS and size < ENTRY_BYTES:
            share = max(1, (ENTRY_COMMANDS - len(batch)) // len(queues))
            for queue in queues:
                for _ in range(min(share, len(queue))):
                    if (deleting or remade) and _must_wait(queue[0].command, deleting, remade):
                        break
                    pending = queue.popleft()
                    self._bytes -= pending.size
                    if pending.future.done():
                        continue
                    if may_go is not None and pending.checked is not None and not may_go(pending):
                        self._bytes += pending.size
                        self._hold(pending)
                        continue
                    if isinstance(pending.command, DeleteStream):
                        deleting.add(pending.command.store)
                    elif isinstance(pending.command, CreateStore | DropStore):
                        remade.add(pending.command.store)
                    batch.append(pending)
                    size += pending.size
                    if size >= ENTRY_BYTES:
                        break
                if size >= ENTRY_BYTES:
                    break
            queues = [
                queue for queue in queues if queue and not _must_wait(queue[0].command, deleting, remade)
            ]
        return batch

    def put_back(self, batch: Sequence[Pending]) -> None:
        """Queue commands again, in the order that they had in their lanes."""
        mixed: set[tuple[str, int]] = set()
        for pending in reversed(batch):
            queue = self._queues.setdefault(pending.key, deque())
            if queue and queue[0].place < pending.place:  # one that was before it came back earlier
                mixed.add(pending.key)
            queue.appendleft(pending)
            self._bytes += pending.size
        for key in mixed:
            self._queues[key] = deque(sorted(self._queues[key], key=lambda pending: pending.place))

    def expire(self, now_ms: int, late: Callable[[], ShoalError]) -> None:
        """Answer what has waited too long with `late`: it was not applied."""
        for key, queue in self._queues.items():
            overdue = [pending for pending in queue if pending.deadline_ms <= now_ms]
            if overdue:
                self._queues[key] = deque(pending for pending in queue if pending.deadline_ms > now_ms)
            for pending in overdue:  # what was held is not in the order of deadlines
                self._bytes -= pending.size
                pending.fail(late())
        for pending in [each for held in self._held.values() for each in held]:
            if pending.deadline_ms <= now_ms:
                self.drop(pending)
                pending.fail(Timeout("looking up the condition took too long; name rarer types or tags"))

    def leave_store(self, store: str) -> None:
        """Answer what waits for a dropped store: nothing of it may reach another one of the same name."""
        gone = NotFound(f"store {store!r} does not exist", store=store)
        for key in [key for key in self._queues if key[0] == store]:
            queue = self._queues.pop(key)
            kept = deque(pending for pending in queue if isinstance(pending.command, CreateStore | DropStore))
            if kept:
                self._queues[key] = kept
            for pending in queue:
                if pending not in kept:
                    self._bytes -= pending.size
                    pending.fail(gone)
        for pending in [each for key, held in self._held.items() if key[0] == store for each in held]:
            self.drop(pending)
            pending.fail(gone)

    def fail_all(self, error: ShoalError) -> None:
        """Answer everything that waits."""
        for queue in self._queues.values():
            for pending in queue:
                pending.fail(error)
            queue.clear()
        for held in self._held.values():
            for pending in held:
                pending.fail(error)
        self._held.clear()
        self._bytes = 0


def _must_wait(command: Command, deleting: set[str], remade: set[str]) -> bool:
    """Whether a command may not be in one entry with what was taken before it; the next is early enough.

    A condition would be checked against events that this very entry deletes: its first match was found before the
    entry is decided, and could be hidden by then. And what is fetched for a store is what the one of that name held
    before the entry, not one that is made or dropped in it. Replay, which decides from the database, must come to the
    same.
    """
    if command.store in remade:
        return True
    return isinstance(command, Append) and command.condition is not None and command.store in deleting
