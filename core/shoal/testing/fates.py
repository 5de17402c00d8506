"""What becomes of changes that were not synced when the power went: drawn from a seeded generator. Pure.

A fate is drawn for each file and each directory by itself, because the faults worth finding are those
where one file survived wholly and another not at all.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise
from typing import Final, Literal

from shoal.testing.disk_state import put, resize
from shoal.testing.write_log import SECTOR, Resize, Write

Fate = Literal["lost", "kept", "prefix", "writes", "sectors"]
"""What survives: nothing, all, what came first (the next write torn), each write or sector by itself."""

FATES: Final[tuple[Fate, ...]] = ("lost", "kept", "prefix", "writes", "sectors")
_WHOLE: Final = -1
"""A mask with every bit set: all sectors of a write."""


def surviving_changes(fate: Fate, count: int, rng: random.Random) -> list[bool]:
    """Which of a directory's un-synced changes are found later; each is atomic."""
    match fate:
        case "lost":
            return [False] * count
        case "kept":
            return [True] * count
        case "prefix":
            length = rng.randrange(count + 1)
            return [number < length for number in range(count)]
        case "writes" | "sectors":
            return [rng.random() < 0.5 for _ in range(count)]


def surviving_bytes(
    durable: bytearray, waiting: Sequence[Write | Resize], fate: Fate, rng: random.Random
) -> tuple[bytearray, int]:
    """A file's bytes after the cut, and how many of its un-synced operations left a trace."""
    if fate == "lost":
        return durable, 0
    masks, sizes_kept = _choose(durable, waiting, fate, rng)
    return _rebuild(durable, waiting, masks, sizes_kept), sum(mask != 0 for mask in masks)


def _choose(
    durable: bytearray, waiting: Sequence[Write | Resize], fate: Fate, rng: random.Random
) -> tuple[list[int], int]:
    """Which sectors of each write reached the disk (a mask), and how many changes of the size did.

    Sizes are metadata, which a file system journals: they survive in order, but not with the data.
    """
    count = len(waiting)
    if fate == "kept":
        return [_WHOLE] * count, count
    if fate == "prefix":
        length = rng.randrange(count)
        masks = [_WHOLE] * length + [_sectors(waiting[length], rng)] + [0] * (count - length - 1)
        return masks, _size_changes(durable, waiting[: length + rng.randrange(2)])
    if fate == "writes":
        likely = rng.choice((0.1, 0.5, 0.9))
        masks = [_WHOLE if rng.random() < likely else 0 for _ in waiting]
    else:
        masks = [_sectors(op, rng) for op in waiting]
    changes = _size_changes(durable, waiting)
    return masks, changes if rng.random() < 0.5 else rng.randrange(changes + 1)


def _sectors(op: Write | Resize, rng: random.Random) -> int:
    """Some of the sectors of a write: a half, a quarter or three quarters of them, by and large."""
    if isinstance(op, Resize):
        return _WHOLE
    count = len(op.data) // SECTOR
    some, others = rng.getrandbits(count), rng.getrandbits(count)
    return rng.choice((some, some & others, some | others))


def _size_changes(durable: bytearray, waiting: Sequence[Write | Resize]) -> int:
    sizes = [len(durable), *(op.size for op in waiting)]
    return sum(a != b for a, b in pairwise(sizes))


def _rebuild(
    durable: bytearray, waiting: Sequence[Write | Resize], masks: Sequence[int], sizes_kept: int
) -> bytearray:
    """Apply what survived. Data beyond the surviving size is gone; a size without its data reads as zeros."""
    content = bytearray(durable)
    cached = size = len(durable)
    ceiling: int | None = None
    changes = 0
    for op, mask in zip(waiting, masks, strict=True):
        changes += op.size != cached
        if changes <= sizes_kept:
            size = op.size
        if isinstance(op, Write):
            _put_sectors(content, op, mask, ceiling)
        elif op.size < cached and changes <= sizes_kept:
            del content[op.size :]
        elif op.size < cached:
            # The truncation was lost: what was written to blocks taken after it belongs to no file.
            ceiling = op.size if ceiling is None else min(ceiling, op.size)
        cached = op.size
    resize(content, size)
    return content


def _put_sectors(content: bytearray, write: Write, mask: int, ceiling: int | None) -> None:
    if mask == _WHOLE and ceiling is None:
        put(content, write.offset, write.data)
        return
    for start in range(0, len(write.data), SECTOR):
        beyond = ceiling is not None and write.offset + start >= ceiling
        if mask >> (start // SECTOR) & 1 and not beyond:
            put(content, write.offset + start, write.data[start : start + SECTOR])
