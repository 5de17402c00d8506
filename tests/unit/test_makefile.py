"""What the Makefile hands to others, in a directory whose path has a space."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A checkout, as far as make looks at it, in an awkward place."""
    place = tmp_path / "my boards"
    place.mkdir()
    for name in ("Makefile", "constraints.txt", "pyproject.toml"):
        (place / name).symlink_to(ROOT / name)
    return place


def make(place: Path, *arguments: str) -> str:
    done = subprocess.run(["make", "-C", place, *arguments], capture_output=True, text=True, check=True)
    return done.stdout


def test_pip_finds_the_constraints_although_it_splits_their_path_at_spaces(place: Path) -> None:
    (given,) = re.findall(r"^PIP_CONSTRAINT := (.*)$", make(place, "-pn", "help"), re.MULTILINE)
    (constraints,) = given.split()
    assert (place / constraints).is_file()


def test_a_board_knows_that_make_started_it_and_gets_its_arguments(place: Path) -> None:
    commands = make(place, "-n", "run", "ARGS=--listen 127.0.0.1:4600")
    assert re.search(r"shoal up --from-make .*--listen 127\.0\.0\.1:4600$", commands, re.MULTILINE)


def test_several_boards_have_a_directory_of_their_own(place: Path) -> None:
    assert "--nodes 1 --data-dir ./shoal-data " in make(place, "-n", "run")
    assert "--nodes 1 --data-dir ./shoal-data " in make(place, "-n", "run", "NODES=1")
    assert "--nodes 3 --data-dir ./shoal-data-3 " in make(place, "-n", "run", "NODES=3")
