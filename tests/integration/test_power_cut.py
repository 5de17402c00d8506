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
from pathlib import Path
from typing import get_args

import pytest
from power_cut_check import SEGMENT_BYTES
from power_cut_jobs import IMAGES_AFTER, Job, Outcome, log_shape, replay, run
from power_cut_mutants import MUTANTS

from shoal.model.commands import SubscriptionCommand
from shoal.raft.log import Kind
from shoal.storage.files import Files, RealFiles
from shoal.storage.journal import Journal, open_journal
from shoal.storage.segment import HEADER_BYTES, Identity, record_bytes
from shoal.testing import PowerCutDisk, build_image

IMAGES = int(os.environ.get("SHOAL_POWER_CUT_IMAGES", "20000"))
SEEDS = range(1, 9)
SECOND_LIVES = 0.25
"""Share of the images that come from boards cut a second time, during recovery or soon after."""


@pytest.fixture(scope="module")
def pool() -> Iterator[ProcessPoolExecutor]:
    """Processes of their own: lives run in one thread, which blocks its loop as no node may.

    The store spreads streams over its writer partitions by `hash`: fixed, so that a seed is a log.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONHASHSEED", "0")
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
    for command in get_args(SubscriptionCommand):
        assert facts[command.__name__] > 10, f"{command.__name__}: {facts}"


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_broken_rule_is_found(pool: ProcessPoolExecutor, mutant: str) -> None:
    """Proof that the images can fail: each rule of storage.md broken on purpose shows."""
    outcome = pool.submit(run, Job(seed=1, count=800, mutant=mutant)).result()
    assert outcome.failed, f"{outcome.images} images, and nobody noticed: {mutant}"


def test_a_replay_of_the_whole_journal_decides_as_the_life_did(pool: ProcessPoolExecutor) -> None:
    """All databases lost, the journal kept: every event, stream and snapshot comes back, and no other."""
    problems = [problem for problem in pool.map(replay, range(100, 116)) if problem is not None]
    assert not problems, "\n".join(problems)


def test_the_same_seed_writes_the_same_log(pool: ProcessPoolExecutor) -> None:
    """Else a failing image could not be built again from what its description says."""
    first, second = pool.map(log_shape, (1, 1))
    assert len(first) > 1000
    assert first == second


def test_bytes_left_by_a_torn_batch_do_no_harm_later(tmp_path: Path) -> None:
    """A batch may lose its first sector and keep others far behind; the segment goes on and is left behind."""
    disk = PowerCutDisk(tmp_path / "live")
    journal = open_at(disk.files, disk.root)
    journal.append_records([(Kind.NORMAL, 1, 1, b"a" * 400)])
    room = SEGMENT_BYTES - HEADER_BYTES - record_bytes(400) - record_bytes(0)
    journal.append_records([(Kind.NORMAL, 2, 1, b"b" * room)])
    journal.close()
    disk.close()
    before_sync = len(disk.log.entries) - 1
    for seed in range(60):
        image = build_image(disk.log, tmp_path / "image", before_sync, seed)
        journal = open_at(RealFiles(), image.path)
        while journal.segment_count == 1:
            journal.append_records([(Kind.NORMAL, journal.last_index + 1, 2, b"c" * 1100)])
        last = journal.last_index
        journal.close()
        journal = open_at(RealFiles(), image.path)
        assert [record.index for record in journal.read(0)] == list(range(1, last + 1)), image.describe()
        journal.close()


def open_at(files: Files, directory: Path) -> Journal:
    return open_journal(
        files,
        directory / "journal",
        lambda: Identity("cluster", "node", bytes(16)),
        segment_bytes=SEGMENT_BYTES,
        floor_bytes=0,
        may_create=True,
    )
