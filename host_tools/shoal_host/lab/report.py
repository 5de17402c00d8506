"""From a run's lines to what is told of it: what each fault met, how long nothing went, and what is wrong. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, Final

import msgspec

from shoal.testing.history import History, Operation
from shoal.testing.history_checks import check
from shoal_host.lab.recorder import Began, Did, Found, Kept, Line, Stayed
from shoal_host.lab.schedule import NONE

QUORUM_FROM: Final = 3
"""Nodes from which a store goes on while one node is at fault."""
ELECTED_MS: Final = 10_000
"""After which another leads for sure: the longest election timeout twice. Shorter faults may end before."""


class FaultRow(msgspec.Struct, frozen=True):
    """What happened under one kind of fault.

    Operations that began, and appends acknowledged, from its coming until its traces were gone; `acked_during` while it
    stayed, `stayed_ms` in all; `longest_gap_ms` without an acknowledgement while no second node was at fault.
    """

    fault: str
    times: int
    operations: int
    acked: int
    acked_during: int
    stayed_ms: int
    longest_gap_ms: int


class Report(msgspec.Struct, frozen=True):
    """A run in numbers; `violations` empty means that nothing was found."""

    seed: int
    nodes: int
    seconds: float
    network: str
    operations: int
    acked: int
    events: int
    outcomes: dict[str, int]
    faults: list[FaultRow]
    violations: list[str]
    elections: int | None = None
    history: str = ""


def judge(lines: Sequence[Line], *, elections: int | None = None, history: str = "") -> Report:
    """Count, and let the checkers look."""
    began = next((line for line in lines if isinstance(line, Began)), Began(0, 0, 0, (), ""))
    operations = [line.operation for line in lines if isinstance(line, Did)]
    final = [line.event for line in lines if isinstance(line, Kept)]
    rows = fault_rows(operations, [line for line in lines if isinstance(line, Stayed)], began)
    found = [line.what for line in lines if isinstance(line, Found)]
    if not any(isinstance(line, Found) and line.fatal for line in lines):
        found += [*idle(rows, began.nodes), *check(History(operations, final))]
    return Report(
        seed=began.seed,
        nodes=began.nodes,
        seconds=began.seconds,
        network=began.network,
        operations=len(operations),
        acked=sum(map(_acked, operations)),
        events=len(final),
        outcomes=dict(Counter(map(_outcome, operations)).most_common()),
        faults=rows,
        violations=found,
        elections=elections,
        history=history,
    )


def fault_rows(operations: Sequence[Operation], faults: Sequence[Stayed], began: Began) -> list[FaultRow]:
    """One row for each kind of fault there should have been, and one for the time before the first."""
    acks_us = sorted(operation.completed_us or 0 for operation in operations if _acked(operation))
    begun_us = sorted(operation.invoked_us for operation in operations)
    rows = []
    for kind in (NONE, *began.faults):
        stays = [stay for stay in faults if kind in stay.kinds]
        rows.append(
            FaultRow(
                kind,
                len(stays),
                sum(_count(begun_us, stay.begin_us, stay.over_us) for stay in stays),
                sum(_count(acks_us, stay.begin_us, stay.over_us) for stay in stays),
                sum(_count(acks_us, stay.begin_us, stay.end_us) for stay in stays),
                sum(stay.end_us - stay.begin_us for stay in stays) // 1_000,
                max((_longest_gap_us(acks_us, stay) for stay in stays if len(stay.kinds) == 1), default=0)
                // 1_000,
            )
        )
    return rows


def _count(sorted_us: Sequence[int], begin_us: int, end_us: int) -> int:
    return bisect_left(sorted_us, end_us) - bisect_left(sorted_us, begin_us)


def idle(rows: Iterable[FaultRow], nodes: int) -> list[str]:
    """A fault under which nothing was tried or nothing succeeded proves nothing: that is a failure of the run."""
    found = []
    for row in rows:
        if row.times == 0:
            found.append(f"the fault {row.fault} did not come")
        elif row.operations == 0 or row.acked == 0:
            found.append(
                f"under {row.fault} there were {row.operations} operations and {row.acked} acknowledgements"
            )
        elif row.acked_during == 0 and nodes >= QUORUM_FROM and row.stayed_ms > ELECTED_MS:
            found.append(f"while {row.fault} stayed, nothing was acknowledged, though most nodes were well")
    return found


def _longest_gap_us(acks_us: Sequence[int], stay: Stayed) -> int:
    """The longest time without an acknowledgement that begins or ends within the stay."""
    first, last = bisect_left(acks_us, stay.begin_us), bisect_left(acks_us, stay.over_us)
    after = acks_us[last] if last < len(acks_us) else stay.over_us
    marks = [stay.begin_us, *acks_us[first:last], after]
    return max(later - earlier for earlier, later in pairwise(marks))


def _acked(operation: Operation) -> bool:
    return operation.kind == "append" and operation.applied


def _outcome(operation: Operation) -> str:
    what = operation.kind.replace("_", " ")
    return f"{what}: {operation.outcome}" + (f", {operation.error}" if operation.error else "")


def fields(report: Report) -> dict[str, Any]:
    """For JSON."""
    value: dict[str, Any] = msgspec.to_builtins(report)
    return {"ok": not report.violations} | value
