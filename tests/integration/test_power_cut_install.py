"""Power loss at any write, sync, rename or unlink of an install: the old state or the new one, never a mixture."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from power_cut_install import FED, Installed, judge, open_target, record, verified

from shoal.raft.log import HardState
from shoal.storage import importer, install
from shoal.storage.building import Building
from shoal.storage.journal import Journal
from shoal.testing import Image, PowerCutDisk, WriteLog, build_image, images
from shoal.testing.power_cut import scratch_root
from shoal.testing.write_log import Mark

IMAGES = int(os.environ.get("SHOAL_POWER_CUT_INSTALL_IMAGES", "300"))
LIVES = {"another log": (False, False), "a log that goes on": (True, False), "the second time": (False, True)}


@pytest.fixture
def path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where files are in memory, if the machine has that."""
    made = Path(tempfile.mkdtemp(prefix="shoal-install-", dir=scratch_root()))
    yield made
    shutil.rmtree(made)


def last_part(log: WriteLog) -> list[int]:
    """Every cut from when everything has come."""
    fed = next(n for n, entry in enumerate(log.entries) if isinstance(entry, Mark) and entry.value == FED)
    return [cut for cut in log.cuts() if cut >= fed]


def every_image(installed: Installed, target: Path) -> Iterator[Image]:
    """Cuts spread over all of it, then each of its last part; the fates are drawn anew each time."""
    yield from images(installed.log, target, IMAGES // 3, seed=1)
    cuts = last_part(installed.log)
    for number in range(max(len(cuts), IMAGES * 2 // 3)):
        yield build_image(installed.log, target, cuts[number % len(cuts)], seed=number)


def cut_everywhere(installed: Installed, target: Path) -> Counter[str]:
    """Judge every image; how many were old and new."""
    seen: Counter[str] = Counter()
    for number, image in enumerate(every_image(installed, target)):
        try:
            seen[judge(installed, image)] += 1
            if number % 10 == 0:
                verified(image)
        except Exception as error:
            raise AssertionError(image.describe()) from error
    return seen


@pytest.mark.parametrize("life", LIVES)
def test_an_install_that_is_cut_is_the_old_state_or_the_new(path: Path, life: str) -> None:
    follows, again = LIVES[life]
    installed = record(path, follows=follows, again=again)
    assert installed.kept == follows
    seen = cut_everywhere(installed, path / "image")
    assert min(seen["old"], seen["new"]) > 20, seen


def test_a_start_that_finishes_an_install_may_be_cut_too(path: Path) -> None:
    installed = record(path, follows=False)
    rng = random.Random(1)
    begun = 0
    for number, cut in enumerate(last_part(installed.log)):
        image = build_image(installed.log, path / "image", cut, seed=number)
        if not (image.path / "data" / "db" / install.INSTALL).exists():
            continue
        begun += 1
        disk = PowerCutDisk(image.path)
        open_target(image.path, disk).close()
        disk.close()
        for again in images(disk.log, path / "again", 8, seed=rng.randrange(1 << 20)):
            second = Image(again.path, again.cut, again.seed, image.marks, again.decisions, again.last)
            try:
                assert judge(installed, second) == "new"
            except Exception as error:
                raise AssertionError(f"{image.describe()}, then {again.describe()}") from error
    assert begun > 5


def _names_not_synced(self: Building) -> None:
    for database in self.databases():
        database.settle()
    self.close()


def _journal_first(files: Any, places: Any, journal: Journal, done: install.Install) -> None:
    journal.reset_to(done.index, done.term, done.configuration, done.configuration_index)
    install.leave_word(files, places, done)
    install.complete(files, places, journal, done)


def _no_vote(self: Journal, *arguments: Any) -> None:
    self.hard_state = HardState()
    _replace(self, *arguments)


_replace = Journal._replace


@pytest.mark.parametrize("mutant", ["names not synced", "the journal before the word", "the vote forgotten"])
def test_a_broken_rule_is_found(path: Path, monkeypatch: pytest.MonkeyPatch, mutant: str) -> None:
    """Proof that the images can fail."""
    with monkeypatch.context() as patch:
        match mutant:
            case "names not synced":
                patch.setattr(Building, "make_durable", _names_not_synced)
            case "the journal before the word":
                patch.setattr(importer, "leave_word", lambda *_: None)
                patch.setattr(importer, "complete", _journal_first)
            case "the vote forgotten":
                patch.setattr(Journal, "_replace", _no_vote)
        installed = record(path, follows=False)._replace(voted=HardState(5, "somebody"))
    with pytest.raises(AssertionError, match="cut after"):
        cut_everywhere(installed, path / "image")
