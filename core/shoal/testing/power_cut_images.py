"""The directories that a power cut may leave behind, built from a `WriteLog`.

For a cut, everything synced before it is there; what was not synced meets the fate that the image's
seed decides. Files of the image before are overwritten in place, which is what makes thousands of
images a second possible.
"""

from __future__ import annotations

import os
import random
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from shoal.testing.disk_state import Change, DiskState, Tree, make
from shoal.testing.fates import FATES, Fate, surviving_bytes, surviving_changes
from shoal.testing.write_log import ROOT, Entry, Write, WriteLog


class Decision(NamedTuple):
    """What became of a file's or a directory's (size None) un-synced changes: `kept` of `total`."""

    path: str
    fate: Fate
    kept: int
    total: int
    size: int | None


@dataclass(frozen=True, slots=True)
class Image:
    """One directory as found after the power came back, lying at `path`; `marks` are those before the cut."""

    path: Path
    cut: int
    seed: int
    marks: Sequence[object]
    decisions: Sequence[Decision]
    last: Entry | None

    def describe(self) -> str:
        """How to build it again (`build_image`), and what was lost."""
        lines = [f"image seed {self.seed}, cut after {self.cut} entries, the last {_brief(self.last)}"]
        for path, fate, kept, total, size in self.decisions:
            what = "names" if size is None else f"writes, size {size}"
            lines.append(f"  {path or '.'}: {fate}, {kept} of {total} un-synced {what}")
        return "\n".join(lines)


def images(log: WriteLog, target: Path, count: int, seed: int) -> Iterator[Image]:
    """Build `count` images in `target`, one after another, at cuts spread over the whole log.

    Each lies there until the next is asked for; whoever opened it must have closed its files by then.
    """
    cuts = log.cuts()
    rng = random.Random(seed)  # noqa: S311 - must repeat
    state, done = DiskState(), 0
    for number in range(count):
        cut = cuts[int((number + rng.random()) * len(cuts) / count)]
        for entry in log.entries[done:cut]:
            state.advance(entry)
        done = cut
        yield _build(log, state, cut, seed * 1_000_000 + number, target)


def build_image(log: WriteLog, target: Path, cut: int, seed: int) -> Image:
    """The one image of that cut and image seed (`Image.seed`)."""
    state = DiskState()
    for entry in log.entries[:cut]:
        state.advance(entry)
    return _build(log, state, cut, seed, target)


def _build(log: WriteLog, state: DiskState, cut: int, seed: int, target: Path) -> Image:
    target.mkdir(parents=True, exist_ok=True)
    builder = _Builder(state, seed)
    builder.directory(str(target), ROOT)
    last = log.entries[cut - 1] if cut else None
    return Image(target, cut, seed, tuple(state.marks), builder.decisions, last)


class _Builder:
    """Makes one image of a state, noting what it decided."""

    def __init__(self, state: DiskState, seed: int) -> None:
        self._state = state
        self._rng = random.Random(seed)  # noqa: S311 - must repeat
        self.decisions: list[Decision] = []
        self._tree = self._names()

    def _names(self) -> Tree:
        state = self._state
        if not state.changes:
            return state.tree
        tree = {node: dict(names) for node, names in state.tree.items()}
        by_directory: dict[int, list[Change]] = {}
        for change in state.changes:
            by_directory.setdefault(change.parent, []).append(change)
        for node, changes in by_directory.items():
            fate = self._rng.choice(FATES)
            survives = surviving_changes(fate, len(changes), self._rng)
            for change, kept in zip(changes, survives, strict=True):
                if kept:
                    make(tree, change)
            self.decisions.append(Decision(state.place(node), fate, sum(survives), len(changes), None))
        return tree

    def directory(self, path: str, node: int) -> None:
        """Make the directory at `path` what it should be, whatever lies there."""
        names = self._tree[node]
        with os.scandir(path) as found:
            present = {entry.name: entry.is_dir() for entry in found}
        for name, is_directory in present.items():
            if name not in names or is_directory != (names[name] in self._tree):
                _remove(f"{path}/{name}", is_directory=is_directory)
        for name, child in names.items():
            place = f"{path}/{name}"
            if child not in self._tree:
                _write_file(place, self._content(child))
                continue
            Path(place).mkdir(exist_ok=True)
            self.directory(place, child)

    def _content(self, node: int) -> bytearray:
        durable, waiting = self._state.contents[node], self._state.unsynced[node]
        if not waiting:
            return durable
        fate = self._rng.choice(FATES)
        content, kept = surviving_bytes(durable, waiting, fate, self._rng)
        self.decisions.append(Decision(self._state.place(node), fate, kept, len(waiting), len(content)))
        return content


def _brief(entry: Entry | None) -> str:
    if isinstance(entry, Write):
        return f"Write(node={entry.node}, offset={entry.offset}, {len(entry.data)} bytes, size={entry.size})"
    return textwrap.shorten(repr(entry), 120)


def _remove(place: str, *, is_directory: bool) -> None:
    if is_directory:
        shutil.rmtree(place)
    else:
        Path(place).unlink()


def _write_file(place: str, content: bytearray) -> None:
    fd = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if content:
            os.pwrite(fd, content, 0)
        os.ftruncate(fd, len(content))
    finally:
        os.close(fd)
