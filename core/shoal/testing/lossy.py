"""A link that loses things: a call may not arrive, may arrive twice, and its answer may be lost."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from shoal.errors import Timeout, Unreachable

T = TypeVar("T")


class LossyLink:
    """Between a client and a store; `loss` is how likely each of the three accidents is, drawn from `rng`."""

    def __init__(self, rng: random.Random, loss: float) -> None:
        self._rng = rng
        self.loss = loss
        self.lost_calls = 0
        self.lost_answers = 0
        self.repeated = 0

    async def call(self, function: Callable[[], Awaitable[T]], *, repeatable: bool = True) -> T:
        """Call across the link. Raises Unreachable when it did not arrive, Timeout when the answer was lost."""
        if self._rng.random() < self.loss:
            self.lost_calls += 1
            raise Unreachable("the call was lost")
        answer = await function()
        if repeatable and self._rng.random() < self.loss:
            self.repeated += 1
            answer = await function()
        if self._rng.random() < self.loss:
            self.lost_answers += 1
            raise Timeout("the answer was lost", outcome="unknown")
        return answer
