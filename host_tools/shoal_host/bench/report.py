"""The report: a table for people, one JSON document for programs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, Final

import msgspec

import shoal
from shoal_host.bench.rows import Row

_COLUMNS: Final = ("what", "measured", "min .. max", "against", "target", "")
_BUSY_PERCENT: Final = 15
_MARKS: Final = {True: "met", False: "NOT MET", None: ""}


def document(rows: Sequence[Row], machine: dict[str, Any], *, quick: bool, seconds: float) -> dict[str, Any]:
    """Everything that was measured, and where."""
    judged = [row.met for row in rows if row.met is not None]
    return {
        "shoal": shoal.__version__,
        "quick": quick,
        "seconds": round(seconds, 1),
        "machine": machine,
        "met": sum(judged),
        "judged": len(judged),
        "rows": [{**msgspec.to_builtins(row), "met": row.met} for row in rows],
    }


def as_json(found: dict[str, Any]) -> str:
    """The document, indented; numbers as measured."""
    return msgspec.json.format(msgspec.json.encode(found), indent=2).decode() + "\n"


def as_text(rows: Sequence[Row], found: dict[str, Any]) -> str:
    """Machine, table and verdict."""
    machine = found["machine"]
    title = (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_bytes'] / 2**30:.1f} GiB, "
        f"{machine['kernel']}, {machine['file_system']} on {machine['device']}\n"
        f"shoal {found['shoal']}, Python {machine['python']}, SQLite {machine['sqlite']}, "
        f"{machine['date']}, {'quick, ' if found['quick'] else ''}{found['seconds']:.0f} s\n"
        f"{_busy(machine['busy_percent'])}\n"
    )
    verdict = f"\n{found['met']} of {found['judged']} rows with a target meet it.\n"
    lines = [line for row in rows for line in _lines(row)]
    return title + (_rich(lines) if sys.stdout.isatty() and find_spec("rich") else _plain(lines)) + verdict


def _busy(percent: float) -> str:
    """Said where others disturbed the run: a blocked thread then waits for its turn, not for the disk."""
    if percent < _BUSY_PERCENT:
        return ""
    return f"The machine was {percent:.0f} % busy with other things: rates are low and ratios mean little.\n"


def one_line(row: Row) -> str:
    """A row, for progress."""
    return "  ".join(cell for cell in _lines(row)[0] if cell)


def _lines(row: Row) -> list[tuple[str, ...]]:
    """A line for each target; the first one carries the values."""
    if row.problem is not None or row.value is None:
        return [(row.what, "not measured", "", row.problem or "", "", "")]
    value = row.value
    spread = "" if value.low == value.high else f"{number(value.low)} .. {number(value.high)}"
    ratio = row.ratio
    against = "" if ratio is None else f"{ratio.value:.2f}x {ratio.to} ({number(ratio.reference)})"
    first = (row.what, f"{number(value.median)} {row.unit}".strip(), spread, against)
    targets = [(target.text, _MARKS[target.met]) for target in row.targets] or [("", "")]
    return [(*first, *targets[0]), *(("", "", "", "", *target) for target in targets[1:])]


def number(value: float) -> str:
    """Three digits that mean something."""
    if abs(value) >= 1_000:
        return f"{value:,.0f}"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}"


def _plain(lines: list[tuple[str, ...]]) -> str:
    table = [_COLUMNS, *lines]
    widths = [max(len(line[column]) for line in table) for column in range(len(_COLUMNS))]
    shown = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in table]
    return "".join(f"{line.rstrip()}\n" for line in shown)


def _rich(lines: list[tuple[str, ...]]) -> str:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in _COLUMNS:
        table.add_column(column, overflow="fold")
    styles = {"met": "green", "NOT MET": "bold red"}
    for line in lines:
        table.add_row(*(Text(cell, style=styles.get(cell, "")) for cell in line))
    console = Console()
    with console.capture() as captured:
        console.print(table)
    return captured.get()
