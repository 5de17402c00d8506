"""What the driver needs of the journal, of its thread, and of the way to the other members."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from shoal.raft.log import Configuration, HardState, Kind

Records = Sequence[tuple[Kind, int, int, bytes]]


class LoggedEntry(Protocol):
    """An entry as the journal reads it back."""

    @property
    def kind(self) -> Kind: ...
    @property
    def index(self) -> int: ...
    @property
    def term(self) -> int: ...
    @property
    def payload(self) -> bytes: ...


class Log(Protocol):
    """The journal. Calls that write or read run on its thread; the attributes are those of the last call."""

    first_index: int
    previous_term: int
    last_index: int
    last_term: int
    hard_state: HardState
    terms: list[tuple[int, int]]
    configurations: list[tuple[int, Configuration]]

    def append_records(self, records: Records, *, use_reserve: bool = False) -> int:
        """Append (kind, index, term, payload) records durably, as one batch. Returns the sync's nanoseconds."""

    def fits(self, payload_bytes: int, records: int = 1) -> bool:
        """Whether so much needs no further segment."""

    def make_room(self, payload_bytes: int, *, use_reserve: bool = False) -> None:
        """Begin the next segment if need be. Raises DiskFull."""

    def read(self, after: int) -> Iterable[LoggedEntry]:
        """Entries behind an index."""


class LogWorker(Protocol):
    """The journal's thread."""

    def submit(self, job: Callable[[], object], done: Callable[[Any], None] | None = None) -> None:
        """Run `job` there, `done` with its result or exception on the loop."""


class Peers(Protocol):
    """The way to the other members."""

    def send(self, node_id: str, value: Any, *, bulk: bool = False) -> bool:
        """Send, or drop and return False; never waits."""


class Nobody:
    """The peers of a board alone."""

    def send(self, node_id: str, value: Any, *, bulk: bool = False) -> bool:  # noqa: ARG002 - a port
        """There is nobody to send to."""
        return False
