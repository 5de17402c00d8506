"""Entries from the journal for members that lack more than memory holds, a message's worth at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from shoal.cluster.ports import Log, LoggedEntry
from shoal.raft.messages import Entry

FETCH_BYTES: Final = 1024 * 1024
RESTS_MAX: Final = 16


class LogReader:
    """`read` runs on the journal's thread, `rest` on the loop.

    Who lacks much asks for one part after the other, and each would mean scanning a whole segment again beside the
    syncs of that thread: so the reading goes on where it stopped. What it gives may be of a log that was replaced
    meanwhile; the core compares terms before anything is sent, and asks again for the same part, which is read anew.
    """

    def __init__(self, log: Log) -> None:
        self._log = log
        self._next = 0
        self._records: Iterator[LoggedEntry] | None = None
        self._peeked: LoggedEntry | None = None
        self._rested = 0

    def read(self, index: int) -> list[Entry]:
        """Entries from `index` on, one at least; none where they are gone."""
        if self._records is None or self._next != index:
            self._records, self._peeked = iter(self._log.read(index - 1)), None
        self._rested = 0
        found: list[Entry] = []
        size = 0
        while (record := self._peeked or next(self._records, None)) is not None:
            size += len(record.payload)
            self._peeked = record
            if found and size > FETCH_BYTES:
                break
            self._peeked = None
            found.append(Entry(record.index, record.term, int(record.kind), record.payload))
        if record is None:
            self._records = None  # what comes later is read from the log as it is then
        self._next = index + len(found)
        return found if found and found[0].index == index else []

    def rest(self) -> None:
        """Time has passed: what nobody asked for since is not kept in memory."""
        self._rested += 1
        if self._rested > RESTS_MAX:
            self._records = self._peeked = None
