"""A short run of `shoal lab` on three real boards: every fault once, and every promise kept."""

from __future__ import annotations

import json
from pathlib import Path

import psutil
from cli_kit import run

from shoal_host.lab.schedule import KINDS


def test_three_boards_under_every_fault_keep_their_promises(tmp_path: Path) -> None:
    """What CI has time for: `shoal lab --minutes 10` is the real one."""
    place = tmp_path / "lab"
    result = run(
        *("lab", "--minutes", "0.4", "--seed", "4", "--network", "proxies", "--clients", "6"),
        *("--data-dir", str(place), "--json"),
    )
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["violations"] == []
    assert {row["fault"] for row in report["faults"]} == {"none", *KINDS}
    assert all(row["operations"] and row["acked"] for row in report["faults"])
    assert report["outcomes"]["pull: applied"] > 10
    assert report["outcomes"]["ack: applied"] > 10
    assert report["acked"] > 100
    assert not [child for child in psutil.Process().children() if "shoal_host.lab.node" in child.cmdline()]
