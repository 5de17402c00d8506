"""Consensus of a group of one voter: what the own journal has synced is committed.

It keeps Raft's order and records (term, vote, no-op at election), so that the real protocol can take its
place on the same files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import msgspec

from shoal import telemetry
from shoal.errors import DiskFull
from shoal.raft.log import Configuration, HardState, Kind, Member
from shoal.store.ports import Proposed


class Log(Protocol):
    """The journal, as the local driver needs it. Calls run on the journal's thread."""

    last_index: int
    last_term: int
    hard_state: HardState
    configuration: Configuration

    def append_records(
        self, records: Sequence[tuple[Kind, int, int, bytes]], *, use_reserve: bool = False
    ) -> int:
        """Append (kind, index, term, payload) records durably, as one batch. Returns the sync's nanoseconds."""


class LogWorker(Protocol):
    """The journal's thread."""

    def submit(self, job: Callable[[], object], done: Callable[[object], None] | None = None) -> None:
        """Run `job` there, `done` with its result or exception on the loop."""


def found_group(log: Log, node_id: str, incarnation: bytes) -> None:
    """Make the log's first records: configuration {self}. On an empty log only."""
    configuration = Configuration((Member(node_id, incarnation),))
    log.append_records([(Kind.CONFIGURATION, 1, 0, msgspec.msgpack.encode(configuration))])


def elect_self(log: Log, node_id: str) -> int:
    """Win the election of one voter: a new term, the own vote, a no-op entry. Returns the term."""
    term = log.hard_state.term + 1
    state = HardState(term, node_id)
    log.append_records(
        [
            (Kind.HARD_STATE, 0, term, msgspec.msgpack.encode(state)),
            (Kind.NO_OP, log.last_index + 1, term, b""),
        ],
        use_reserve=True,
    )
    return term


class LocalConsensus:
    """Proposes by writing to the own journal. One proposal at a time.

    `give_reserve` is called on the journal's thread when a proposal that may use the reserve needs its room.
    """

    role = "leader"

    def __init__(self, log: Log, worker: LogWorker, term: int, give_reserve: Callable[[], None]) -> None:
        self._log = log
        self._worker = worker
        self._give_reserve = give_reserve
        self.term = term
        self.commit_index = log.last_index

    def propose(
        self, payload: bytes, done: Callable[[Proposed | BaseException], None], *, use_reserve: bool = False
    ) -> None:
        """See shoal.store.ports.Consensus."""
        index = self.commit_index + 1
        record = (Kind.NORMAL, index, self.term, payload)

        def finish(outcome: object) -> None:
            if isinstance(outcome, BaseException):
                done(outcome)
            else:
                self.commit_index = index
                telemetry.emit(
                    telemetry.JOURNAL_SYNCED,
                    {"duration": outcome, "size_bytes": len(payload)},
                    {},
                )
                done(Proposed(index, self.term))

        self._worker.submit(partial(self._append, record, use_reserve=use_reserve), finish)

    def _append(self, record: tuple[Kind, int, int, bytes], *, use_reserve: bool) -> int:
        try:
            return self._log.append_records((record,), use_reserve=use_reserve)
        except DiskFull:
            if not use_reserve:
                raise
            self._give_reserve()
            return self._log.append_records((record,), use_reserve=True)
