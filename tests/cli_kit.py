"""The command line in this process, on a store that writes down what it is given."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any

from click.testing import CliRunner, Result

from shoal.types import Appended, NewEvent
from shoal_host.group import main
from shoal_host.options import Environment, Target


class Recorder:
    """A store that only takes appends; after `good` ones `failure` is raised instead, when there is one."""

    name = "main"

    def __init__(self, failure: BaseException | None = None, *, good: int = 0) -> None:
        self.failure = failure
        self.good = good
        self.targets: list[Target] = []
        self.appends: list[tuple[str, int, list[NewEvent]]] = []
        self.streams = self

    def connect(self, target: Target) -> Any:
        self.targets.append(target)
        return self

    async def __aenter__(self) -> Recorder:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    async def append(self, stream_id: str, expected: int, events: Sequence[NewEvent]) -> Appended:
        if self.failure is not None and len(self.appends) >= self.good:
            raise self.failure
        self.appends.append((stream_id, expected, list(events)))
        stored = sum(len(events) for _, _, events in self.appends)
        return Appended(stream_id, stored - len(events), stored - 1, stored, duplicate=False)


def run(*arguments: str, store: Recorder | None = None, stdin: str | bytes | None = None) -> Result:
    """Call `shoal` with `arguments`."""
    environment = Environment(connect=(store or Recorder()).connect)
    return CliRunner().invoke(main, arguments, obj=environment, input=stdin, catch_exceptions=False)
