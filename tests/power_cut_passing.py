"""A store that is made, filled and dropped again and again: each step is durable once it is answered."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from power_cut_check import Problem, bounds, read
from power_cut_workload import Answered, Asked

from shoal.node import Node
from shoal.storage.recovery import Opened
from shoal.types import ANY_VERSION, NewEvent

PASSING: Final = "passing"
EVENTS: Final = 3


class Passing:
    """`states` is what the store holds after each step: None while it is not there, else its events' data."""

    def __init__(self, mark: Callable[[object], None]) -> None:
        self.states: list[tuple[int, ...] | None] = [None]
        self._mark = mark

    async def take_up(self, node: Node) -> None:
        """Begin with what a power cut has left."""
        if PASSING in node.stores:
            found = await node.store(PASSING).streams.read_all(None, 10_000)
            self.states = [tuple(event.data for event in found)]

    async def step(self, node: Node) -> None:
        """Make it, fill it or drop it."""
        now, number = self.states[-1], len(self.states)
        self._mark(Asked(PASSING, number, ()))
        if now is None:
            await node.create_store(PASSING)
            self.states.append(())
        elif not now:
            events = [NewEvent("passed", number) for _ in range(EVENTS)]
            await node.store(PASSING).streams.append("s", ANY_VERSION, events)
            self.states.append((number,) * EVENTS)
        else:
            await node.drop_store(PASSING)
            self.states.append(None)
        self._mark(Answered(PASSING, number, number))


class Passed:
    """Its history, made ready for comparing images with it."""

    def __init__(self, passing: Passing, marks: Iterable[object]) -> None:
        self._states = passing.states
        self._bounds = list(bounds(PASSING, 0, marks))

    def check(self, opened: Opened, marks: Sequence[object]) -> None:
        """The image has it as of one step: not before the last answer, not after the last question. Raises Problem."""
        least, most = self._bounds[len(marks)]
        found = None
        if PASSING in opened.engine.stores:
            found = tuple(int(row[6]) for row in read(opened, PASSING).rows)
        if found not in self._states[least : most + 1]:
            raise Problem(
                f"store {PASSING} holds {found}, steps {least} to {most}: {self._states[least : most + 1]}"
            )

    def check_end(self, opened: Opened) -> None:
        """It is as its life left it. Raises Problem."""
        everything = len(self._bounds) - 1
        self.check(opened, [None] * everything)
