"""The history of a run, kept in memory and in a file of one JSON document a line, for `shoal lab --check`."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import msgspec

from shoal.errors import ConfigError
from shoal.testing.history import Operation, Placed


class Began(msgspec.Struct, frozen=True, tag_field="line", tag="run"):
    """What was run."""

    seed: int
    nodes: int
    seconds: float
    faults: tuple[str, ...]
    network: str


class Did(msgspec.Struct, frozen=True, tag_field="line", tag="operation"):
    """What a client did."""

    operation: Operation


class Stayed(msgspec.Struct, frozen=True, tag_field="line", tag="fault"):
    """A fault: from `begin_us` to `end_us`, its traces gone by `over_us`."""

    fault: str
    node: str
    kinds: tuple[str, ...]
    begin_us: int
    end_us: int
    over_us: int


class Kept(msgspec.Struct, frozen=True, tag_field="line", tag="final"):
    """An event that the store held at the end."""

    event: Placed


class Found(msgspec.Struct, frozen=True, tag_field="line", tag="found"):
    """Something wrong that no checker can see again in the file, such as a node that died.

    `fatal`: the run could not go on, and what the store held at the end is not known.
    """

    what: str
    fatal: bool = False


Line = Began | Did | Stayed | Kept | Found


class Recorder:
    """Takes lines as they come. Use as `with`; time starts with it."""

    def __init__(self, path: Path, *, monotonic_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._path = path
        self._monotonic_ns = monotonic_ns
        self._origin_ns = monotonic_ns()
        self._numbers = count(1)
        self.lines: list[Line] = []
        self._file = path.open("wb")

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()

    def now_us(self) -> int:
        """Microseconds since the run began."""
        return (self._monotonic_ns() - self._origin_ns) // 1_000

    def number(self) -> int:
        """The next operation's."""
        return next(self._numbers)

    def add(self, line: Line) -> None:
        """Keep a line."""
        self.lines.append(line)
        self._file.write(msgspec.json.encode(line) + b"\n")


def read_lines(path: Path) -> list[Line]:
    """The lines of a file. Raises ConfigError for one that is no history."""
    lines: list[Line] = []
    decode = msgspec.json.Decoder[Any](Line).decode
    with path.open("rb") as file:
        for number, text in enumerate(file, 1):
            try:
                lines.append(decode(text))
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                raise ConfigError(
                    "--check", f"{path}, line {number} is no line of a history: {error}"
                ) from error
    return lines
