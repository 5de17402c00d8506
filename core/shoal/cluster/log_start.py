"""What a journal tells the core at start."""

from __future__ import annotations

from shoal.cluster.ports import Log, LoggedEntry
from shoal.raft.entries import LogStart
from shoal.raft.messages import Entry


def read_start(log: Log, applied: int | None) -> LogStart:
    """Of a log whose entries up to `applied` are in the databases; None where there are no databases. Blocks.

    Without databases nothing is handed out, so the entries stay where they are: what of them is committed the leader
    tells, and what somebody lacks is fetched from the journal.
    """
    first = log.first_index
    entries = [] if applied is None else [_entry(record) for record in log.read(applied)]
    known = first - 1 if applied is None else applied
    return LogStart(first, log.previous_term, log.terms, log.last_index, entries, log.configurations, known)


def _entry(record: LoggedEntry) -> Entry:
    return Entry(record.index, record.term, int(record.kind), record.payload)
