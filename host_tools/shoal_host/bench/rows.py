"""What a benchmark says: rows with a measured value, what it is held against, and whether a target is met."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from typing import Any, Self

import msgspec


class Spread(msgspec.Struct, frozen=True):
    """The median of several phases, and how far they were apart."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Self:
        """Of at least one value."""
        ordered = sorted(values)
        return cls(statistics.median(ordered), ordered[0], ordered[-1])


class Target(msgspec.Struct, frozen=True):
    """A figure that must be reached, and what was measured for it."""

    text: str
    measured: float
    limit: float
    met: bool


def at_least(text: str, measured: float, limit: float) -> Target:
    """Met from `limit` up."""
    return Target(text, measured, limit, measured >= limit)


def at_most(text: str, measured: float, limit: float) -> Target:
    """Met up to `limit`."""
    return Target(text, measured, limit, measured <= limit)


class Ratio(msgspec.Struct, frozen=True):
    """The measured value against something measured in the same run."""

    value: float
    to: str
    reference: float


class Row(msgspec.Struct, frozen=True):
    """One line of the table; without targets it is there to compare with, with `problem` nothing was measured."""

    name: str
    what: str
    unit: str = ""
    value: Spread | None = None
    ratio: Ratio | None = None
    targets: tuple[Target, ...] = ()
    details: dict[str, Any] = {}
    problem: str | None = None

    @property
    def met(self) -> bool | None:
        """Whether all targets are met; None when there is none, or nothing was measured."""
        if self.problem is not None or not self.targets:
            return None
        return all(target.met for target in self.targets)


def percentile(values: list[float], percent: float) -> float:
    """Of values that need not be sorted; at least one."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]
