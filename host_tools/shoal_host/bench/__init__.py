"""`shoal bench`: measures this machine's disk, the store on it, and others beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def run(
    *, json: bool = False, quick: bool = False, only: Sequence[str] = (), data_dir: Path | None = None
) -> int:
    """Measure and print; 0 when every row could be measured, 1 when one could not, 130 after Ctrl-C.

    `only` names scenarios. Everything is written under `data_dir` (default: the current directory), so that
    the disk measured is the one meant, and removed at the end. Raises ValueError for a name that is not known.
    """
    # Imported here: the jobs a run starts go through this package too, and must start fast.
    from shoal_host.bench.runner import measure

    return measure(as_json=json, quick=quick, only=only, data_dir=data_dir)
