"""One run: scenarios one after another, progress on stderr, the report on stdout, nothing left behind."""

from __future__ import annotations

import asyncio
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from shoal_host.bench import probe, report
from shoal_host.bench.bench import FULL, QUICK, Bench, Scenario
from shoal_host.bench.catalogue import SCENARIOS
from shoal_host.bench.memory import build_large
from shoal_host.bench.processes import JobFailed
from shoal_host.bench.rows import Row

EXIT_OK: Final = 0
EXIT_INCOMPLETE: Final = 1
EXIT_INTERRUPTED: Final = 130


def measure(*, as_json: bool, quick: bool, only: Sequence[str], data_dir: Path | None) -> int:
    """See shoal_host.bench.run."""
    scenarios = _chosen(only)
    with tempfile.TemporaryDirectory(
        prefix="shoal-bench-", dir=data_dir or Path.cwd(), ignore_cleanup_errors=True
    ) as place:
        directory = Path(place)
        machine = probe.machine(directory)
        began = time.monotonic()
        bench = Bench(directory, QUICK if quick else FULL, _say, build_large)
        try:
            rows = asyncio.run(_until_told(bench, scenarios))
        except (KeyboardInterrupt, asyncio.CancelledError):
            _say("interrupted: nothing is left in the data directory")
            return EXIT_INTERRUPTED
    document = report.document(rows, machine, quick=quick, seconds=time.monotonic() - began)
    sys.stdout.write(report.as_json(document) if as_json else report.as_text(rows, document))
    return EXIT_INCOMPLETE if any(row.problem for row in rows) else EXIT_OK


def _chosen(only: Sequence[str]) -> list[Scenario]:
    unknown = [name for name in only if name not in SCENARIOS]
    if unknown:
        raise ValueError(f"there is no scenario {unknown[0]!r}; there are {', '.join(SCENARIOS)}")
    return [scenario for name, scenario in SCENARIOS.items() if not only or name in only]


async def _until_told(bench: Bench, scenarios: list[Scenario]) -> list[Row]:
    """All rows. SIGTERM ends a run as Ctrl-C does: processes first, then files."""
    task = asyncio.current_task()
    if task is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    rows: list[Row] = []
    for number, scenario in enumerate(scenarios, start=1):
        _say(f"[{number}/{len(scenarios)}] {scenario.name}: {scenario.about}")
        found = await _rows(bench, scenario)
        for row in found:
            _say(f"    {report.one_line(row)}")
        rows += found
    return rows


async def _rows(bench: Bench, scenario: Scenario) -> list[Row]:
    """Of one scenario; one that cannot be measured does not end the others."""
    try:
        return await scenario.measure(bench)
    except (JobFailed, OSError) as error:
        return [Row(scenario.name, scenario.about, problem=str(error))]


def _say(text: str) -> None:
    with suppress(BrokenPipeError):
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()
