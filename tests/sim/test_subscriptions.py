"""Many seeds of subscriptions under lossy links, crashing consumers and power cuts: nothing is lost or passed over."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from subscription_sim import simulate_block

SEEDS = 160
BLOCKS = 4
STEPS = 150


def test_nothing_is_lost(tmp_path: Path) -> None:
    each = SEEDS // BLOCKS
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        blocks = [
            pool.submit(simulate_block, str(tmp_path), range(start, start + each), STEPS)
            for start in range(0, SEEDS, each)
        ]
        reports = [block.result() for block in blocks]
    for report in reports:
        assert min(report.did.values()) >= 5, report.did  # every kind of step was taken
        assert len(report.did) == 10
        assert report.lost_answers > 30
        assert report.delivered > 1_000
