"""What followers pass on to this leader: into its queue, once each; refusals go back. See `shoal.store.forwarding`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

from shoal.clock import Clock
from shoal.errors import ShoalError
from shoal.store.forwarding import REFUSALS, Forward, Refused, Taken, refusal
from shoal.store.lanes import PassedOn, Pending
from shoal.store.ports import Consensus


class FromFollowers:
    """`queue` takes a command, or raises ShoalError; `refuse` tells the follower."""

    def __init__(self, consensus: Consensus, clock: Clock, queue: Callable[[Pending], None]) -> None:
        self._consensus = consensus
        self._clock = clock
        self._queue = queue
        self._taken = Taken()
        self._loop = asyncio.get_running_loop()
        self.refuse: Callable[[str, Refused], object] = _nobody

    def take(self, sender: str, forward: Forward) -> None:
        """Commands of a follower. Raises ValueError for what is none."""
        if self._consensus.role != "leader" or forward.term != self._consensus.term:
            return  # the follower learns of the term that follows, and passes them on again
        now_ms = self._clock.monotonic_ms()
        for item in self._taken.fresh(sender, forward):
            future: asyncio.Future[Any] = self._loop.create_future()
            origin = PassedOn(sender, item.number, forward.term)
            future.add_done_callback(partial(self._answer, origin))
            pending = Pending(
                item.command, item.size, now_ms + item.timeout_ms, future, item.lane, None, origin
            )
            try:
                self._queue(pending)
            except ShoalError as error:
                pending.fail(error)

    def _answer(self, origin: PassedOn, future: asyncio.Future[Any]) -> None:
        error = None if future.cancelled() else future.exception()
        if isinstance(error, REFUSALS) and error.outcome == "not-applied":
            self.refuse(origin.node_id, refusal(origin.term, origin.number, error))


def _nobody(_node_id: str, _refused: Refused) -> None:
    """There are no followers."""
