"""Whole nodes from many seeds: what clients are told stays true whatever happens to boards, disks and network."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import node_sim
import pytest
from node_sim_mutants import MUTANTS

SEEDS = 60
"""In every run, always the same ones; SHOAL_SIM_SEEDS runs more."""
PROCESSES = 2
MUTANT_SEEDS = 30
ENOUGH = 3
"""Failing seeds of a process, after which the others are not run."""


def _in_processes(count: int) -> list[node_sim.Outcome]:
    with ProcessPoolExecutor(PROCESSES, mp_context=multiprocessing.get_context("spawn")) as pool:
        parts = [
            pool.submit(node_sim.outcomes, range(first, count, PROCESSES), enough=ENOUGH)
            for first in range(PROCESSES)
        ]
        return [outcome for part in parts for outcome in part.result()]


@pytest.mark.timeout(0)
@pytest.mark.skipif("SHOAL_SIM_SEED" in os.environ, reason="one seed is asked for")
def test_what_was_told_stays_true() -> None:
    found = _in_processes(int(os.environ.get("SHOAL_SIM_SEEDS") or SEEDS))
    failed = [outcome.error for outcome in found if outcome.error]
    assert not failed, "\n\n".join(failed)
    did = sum((outcome.did for outcome in found), Counter[str]())
    if len(found) >= SEEDS:  # every kind of trouble came, and every kind of answer
        assert min(did[name] for name in node_sim.EXPECTED) >= 1, did
    assert did["append applied"] > 20 * len(found), did


if "SHOAL_SIM_SEED" in os.environ:

    @pytest.mark.timeout(0)
    def test_one_seed() -> None:
        subprocess.run([sys.executable, node_sim.__file__, os.environ["SHOAL_SIM_SEED"]], check=True)


@pytest.mark.timeout(0)
def test_a_seed_is_the_same_each_time() -> None:
    def digest(hash_seed: str) -> str:
        run = subprocess.run(
            [sys.executable, node_sim.__file__, "11"],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            cwd=Path(node_sim.__file__).parent,
        )
        return next(line for line in run.stdout.splitlines() if line.startswith("digest "))

    assert digest("1") == digest("2")


@pytest.mark.timeout(0)
@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_broken_rule_is_found(mutant: str) -> None:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        found = pool.submit(node_sim.outcomes, range(MUTANT_SEEDS), mutant, enough=1).result()
    assert found[-1].error, f"{mutant}: {len(found)} seeds have not noticed"
