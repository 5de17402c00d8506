"""Lives of Raft clusters from seeds. SHOAL_SIM_SEEDS=n tries more of them, SHOAL_SIM_SEED=k tells one, step by step."""

from __future__ import annotations

import os

import pytest
from raft_faults import live

SEEDS = int(os.environ.get("SHOAL_SIM_SEEDS", "200"))
ONE = os.environ.get("SHOAL_SIM_SEED")
BATCH = 25


@pytest.mark.parametrize("first", [] if ONE else range(0, SEEDS, BATCH))
def test_the_laws_of_raft_hold_whatever_happens(first: int) -> None:
    """Paper, figure 3; thesis 6.4; and liveness once everything is mended."""
    acknowledged = reads = 0
    for seed in range(first, first + BATCH):
        try:
            laws = live(seed).laws
        except AssertionError as error:
            error.add_note(f"SHOAL_SIM_SEED={seed} tells how it came to that")
            raise
        acknowledged += laws.acknowledgements
        reads += laws.reads
    assert acknowledged > 500, "the lives are too bad to prove anything"
    assert reads > 50


if ONE:

    def test_one_life_told() -> None:
        live(int(ONE or 0), print)


def test_a_seed_is_one_life() -> None:
    told: list[list[str]] = [[], []]
    for lines in told:
        live(1, lines.append)
    assert told[0] == told[1]
    assert len(told[0]) > 500
