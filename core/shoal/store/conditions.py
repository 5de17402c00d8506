"""Conditions are looked up in the database before their append is proposed, so that none of them holds an entry.

Where the search finds nothing up to a position, nothing readable will ever be there: positions are given once and
deletes only hide. So the condition that is proposed begins after it, and what came since is decided from memory;
replay has as little to look at. Where it finds a match, that one decides as long as no delete hides it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

from msgspec import structs

from shoal.errors import InternalError, NotFound, ShoalError, Timeout
from shoal.model.commands import Append, Command
from shoal.store.lanes import Checked, Lanes, Pending
from shoal.store.memory import StoreMemory
from shoal.store.ports import Consensus, Fetcher, Search
from shoal.types import Condition

AGAIN_S = 0.01
_NO_STORE = -1

_log = logging.getLogger(__name__)


class Conditions:
    """Searches for appends that `lanes` hold; `wake` is called when one is queued, or answered.

    Only where they are proposed: by then a follower's store may be another of the name.
    """

    def __init__(
        self,
        consensus: Consensus,
        stores: Mapping[str, StoreMemory],
        fetcher: Fetcher,
        lanes: Lanes,
        wake: Callable[[], None],
    ) -> None:
        self._consensus = consensus
        self._stores = stores
        self._fetcher = fetcher
        self._lanes = lanes
        self._wake = wake
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()

    def take_in(self, pending: Pending, limit: int) -> None:
        """Queue an append with a condition, once what the database holds is known. Raises TooBusy."""
        memory = self._stores.get(pending.command.store)
        after = _condition(pending).after
        if (
            memory is None or not self._consensus.serves
        ):  # it may be there, or this node lead, before this is proposed
            pending.checked = Checked(None, 0, after, _NO_STORE)
            self._lanes.put(pending, limit)
        elif after >= memory.base:  # it is about events in memory alone
            pending.checked = Checked(None, memory.deletes, after, memory.since)
            self._lanes.put(pending, limit)
        else:
            self._lanes.hold(pending, limit)
            self._search(pending)

    def may_go(self, pending: Pending) -> bool:
        """Whether what was found still holds, for an entry proposed now; if not, the search goes on."""
        memory = self._stores.get(pending.command.store)
        checked = pending.checked
        if memory is None or checked is None:
            return True
        if checked.since != memory.since:
            holds = False
        elif checked.hit is None:
            holds = checked.after >= memory.base
        else:
            holds = memory.shows(checked.hit.stream_id, checked.hit.version, checked.deletes)
        if not holds:
            self._search(pending)
        return holds

    def _search(self, pending: Pending) -> None:
        task = self._loop.create_task(self._look_up(pending))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

        def answered(_future: asyncio.Future[Any]) -> None:
            self._lanes.drop(pending)
            if task.cancel():  # nobody waits for it any more
                self._wake()

        pending.future.add_done_callback(answered)

    async def _look_up(self, pending: Pending) -> None:
        try:
            await self._check(pending)
        except ShoalError as error:
            pending.fail(error)
        except Exception as error:  # noqa: BLE001 - told to whoever sent it
            pending.fail(InternalError(f"the condition cannot be looked up: {error!r}"))
            _log.exception("a condition cannot be looked up")
        else:
            self._lanes.release(pending)
        finally:
            self._lanes.drop(pending)
            self._wake()

    async def _check(self, pending: Pending) -> None:
        command, condition = pending.command, _condition(pending)
        memory = self._stores.get(command.store)
        if memory is None:  # dropped, and the append answered
            return
        checked = pending.checked
        same = checked is not None and checked.since == memory.since
        after = checked.after if checked is not None and same else condition.after
        base, deletes = memory.base, memory.deletes
        hit = await self._fetcher.first_match(
            Search(command.store, condition.query, after + 1, base, memory.hidden())
        )
        pending.checked = Checked(hit, deletes, base if hit is None else hit.position - 1, memory.since)


def proposed_command(pending: Pending) -> Command:
    """The command as it is proposed: a condition begins after what was looked up."""
    command, checked = pending.command, pending.checked
    if checked is None or not isinstance(command, Append) or command.condition is None:
        return command
    return structs.replace(command, condition=Condition(command.condition.query, checked.after))


async def look_up(stores: Mapping[str, StoreMemory], fetcher: Fetcher, command: Append) -> Checked | None:
    """What the database holds of a committed append's condition. It must be known, however long that takes."""
    condition = command.condition
    while condition is not None and (memory := stores.get(command.store)) is not None:
        if condition.after >= memory.base:
            break
        search = Search(command.store, condition.query, condition.after + 1, memory.base, memory.hidden())
        try:
            hit = await fetcher.first_match(search)
            return Checked(hit, memory.deletes, condition.after, memory.since)
        except (Timeout, NotFound):  # a slow disk; or a store so new that its readers are still being made
            await asyncio.sleep(AGAIN_S)
    return None


def _condition(pending: Pending) -> Condition:
    command = pending.command
    if not isinstance(command, Append) or command.condition is None:
        raise TypeError(f"{type(command).__name__} without a condition")
    return command.condition
