"""Replicating what consumers settle: everything of one turn in one command, one command under way at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from shoal.errors import NotFound, ShoalError
from shoal.model.commands import Settle
from shoal.model.delivery import Delivery
from shoal.model.settlement import Settlement
from shoal.store.context import StoreContext

COMMAND_BYTES = 64
POSITION_BYTES = 10


class Settling:
    """Of one subscription's delivery. `settled` is told after each try whether it was decided."""

    def __init__(
        self, context: StoreContext, name: str, delivery: Delivery, settled: Callable[[bool], None]
    ) -> None:
        self._context = context
        self._name = name
        self._delivery = delivery
        self._settled = settled
        self._loop = asyncio.get_running_loop()
        self._due: asyncio.Future[int] | None = None
        self._under_way: asyncio.Future[int] | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing is under way."""
        return self._due is None and self._under_way is None and self._timer is None

    def soon(self) -> asyncio.Future[int]:
        """Replicate what has changed, with all else of this turn; the result is the checkpoint then."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._due is None:
            self._due = self._loop.create_future()
            self._due.add_done_callback(_look_at)
            if self._under_way is None:
                self._loop.call_soon(self._propose)
        return self._due

    def later(self, delay_ms: int) -> None:
        """Replicate what has changed within `delay_ms`."""
        if self._timer is None and self._due is None:
            self._timer = self._loop.call_later(delay_ms / 1_000, self._ring)

    def _ring(self) -> None:
        self._timer = None
        self.soon()

    def _propose(self) -> None:
        due, self._due = self._due, None
        if due is None:
            return
        self._under_way = due
        settlement = self._delivery.take_settlement()
        command = Settle(
            self._context.name,
            self._name,
            self._delivery.life,
            settlement.checkpoint,
            settlement.settled,
            settlement.park,
            settlement.unpark,
            settlement.attempts,
        )
        try:
            decided = self._context.submit(command, self._name, _size(settlement))
        except ShoalError as error:
            self._over(error)
        else:
            decided.add_done_callback(self._on_decided)

    def _on_decided(self, decided: asyncio.Future[Any]) -> None:
        error = asyncio.CancelledError() if decided.cancelled() else decided.exception()
        self._over(error)

    def _over(self, error: BaseException | None) -> None:
        group, self._under_way = self._under_way, None
        if error is None:
            self._delivery.confirm()
        else:
            self._delivery.revert(self._context.now_ms())
        if group is not None and not group.done():
            if error is None:
                group.set_result(self._delivery.checkpoint)
            else:
                group.set_exception(_explained(error))
        if self._due is not None:
            self._loop.call_soon(self._propose)
        self._settled(error is None)

    async def flush(self) -> None:
        """Replicate what waits, if anything does. Raises as the command's answer."""
        if self._timer is not None or self._due is not None or self._delivery.unreplicated:
            await asyncio.shield(self.soon())
        elif self._under_way is not None:
            await asyncio.shield(self._under_way)

    def stop(self, error: ShoalError) -> None:
        """The delivery is over: nothing more is proposed, and who waits is told why."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due, self._due = self._due, None
        if due is not None and not due.done():
            due.set_exception(error)


def _size(settlement: Settlement) -> int:
    positions = len(settlement.settled) + len(settlement.unpark) + 2 * len(settlement.attempts)
    parked = sum(len(each.stream_id) + len(each.reason) + POSITION_BYTES for each in settlement.park)
    return COMMAND_BYTES + POSITION_BYTES * positions + parked


def _explained(error: BaseException) -> BaseException:
    """A life that is over is told as what it is to a consumer: the subscription was deleted, or began anew."""
    if isinstance(error, NotFound):
        return NotFound("the subscription was deleted or reset meanwhile", **error.facts)
    return error


def _look_at(group: asyncio.Future[int]) -> None:
    """Whoever waits gets the error; nobody has to."""
    if not group.cancelled():
        group.exception()
