"""Power loss at any moment: everything acknowledged is there once, nothing is there in part.

Lives of a board are recorded and cut at every write, sync and rename (shoal.testing.DESIGN.md); each image is
recovered by the real code with SQLite's own VFS and held against the same life uncut. Images per run:
SHOAL_POWER_CUT_IMAGES, 20,000 unless told.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

import pytest
from power_cut_jobs import IMAGES_AFTER, Job, Outcome, log_shape, run
from power_cut_mutants import MUTANTS

IMAGES = int(os.environ.get("SHOAL_POWER_CUT_IMAGES", "20000"))
SEEDS = range(1, 9)
SECOND_LIVES = 0.25
"""Share of the images that come from boards cut a second time, during recovery or soon after."""


@pytest.fixture(scope="module")
def pool() -> Iterator[ProcessPoolExecutor]:
    """Processes of their own: lives run in one thread, which blocks its loop as no node may."""
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as executor:
        yield executor


def jobs() -> list[Job]:
    """Every seed the same share, rounded up."""
    share = -(-IMAGES // len(SEEDS))
    again = round(share * SECOND_LIVES / IMAGES_AFTER)
    return [Job(seed, max(1, share - again * IMAGES_AFTER), again) for seed in SEEDS]


@pytest.mark.timeout(120 + IMAGES // 40)
def test_no_power_cut_loses_doubles_or_splits_what_was_acknowledged(
    pool: ProcessPoolExecutor, capsys: pytest.CaptureFixture[str]
) -> None:
    started = time.perf_counter()
    outcomes = list(pool.map(run, jobs()))
    seconds = time.perf_counter() - started
    images = sum(outcome.images for outcome in outcomes)
    failed = sum(outcome.failed for outcome in outcomes)
    with capsys.disabled():
        rate = f"{images} images of power cuts in {seconds:.0f} s, {images / seconds:.0f}/s, {failed} bad"
        print(f"\n{rate}")  # noqa: T201 - for the eye of whoever waits for it
    assert not failed, "\n\n".join(text for outcome in outcomes for text in outcome.failures)
    assert images >= IMAGES
    assert_it_was_worth_cutting(outcomes)


def assert_it_was_worth_cutting(outcomes: list[Outcome]) -> None:
    """The lives did what the images are about."""
    facts: Counter[str] = Counter()
    for outcome in outcomes:
        facts.update(outcome.facts)
        assert outcome.facts["journal begins at"] > 1, "no segment was ever dropped"
    for answer in ("accepted", "duplicate", "wrong-expected-version", "condition-failed", "event-id-reused"):
        assert facts[answer] > 10, f"{answer}: {facts}"


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_broken_rule_is_found(pool: ProcessPoolExecutor, mutant: str) -> None:
    """Proof that the images can fail: each rule of storage.md broken on purpose shows."""
    outcome = pool.submit(run, Job(seed=1, count=800, mutant=mutant)).result()
    assert outcome.failed, f"{outcome.images} images, and nobody noticed: {mutant}"


def test_the_same_seed_writes_the_same_log(pool: ProcessPoolExecutor) -> None:
    """Else a failing image could not be built again from what its description says."""
    first, second = pool.map(log_shape, (1, 1))
    assert len(first) > 1000
    assert first == second
