"""The core's view of the log: terms of all entries, the last ones themselves, and what is durable and committed.

The journal holds the entries; here are those that members still lack or that are not durable yet, within
`CACHE_BYTES`, and the term of every other one as runs of equal terms.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence

import msgspec

from shoal.raft.errors import ProtocolViolation
from shoal.raft.log import Configuration
from shoal.raft.messages import CONFIGURATION, Entry

CACHE_BYTES = 8 * 1024 * 1024
MESSAGE_BYTES = 1024 * 1024
"""Entries in one message, unless the first alone is larger."""

NO_CONFIGURATION = Configuration()
_decode_configuration = msgspec.msgpack.Decoder(Configuration).decode
encode_configuration = msgspec.msgpack.encode
"""The data of a configuration entry."""


class LogStart(msgspec.Struct):
    """What the journal tells of itself at start.

    `terms` are (first index, term) of each run of equal terms from `first_index` on, `configurations` (index,
    configuration) from the one in force at `applied` on. `entries` are the last ones, without a gap; `applied` is what
    the databases hold: it is committed. Without a state machine it is what the journal no longer holds, and entries
    need not follow it.
    """

    first_index: int = 1
    previous_term: int = 0
    terms: Sequence[tuple[int, int]] = ()
    last_index: int = 0
    entries: Sequence[Entry] = ()
    configurations: Sequence[tuple[int, Configuration]] = ()
    applied: int = 0


class LogView:
    """`durable` is synced in the own journal, `commit` agreed upon, `handed` given out to be applied."""

    def __init__(self, start: LogStart) -> None:
        self.first_index = start.first_index
        self._starts = [start.first_index - 1, *(index for index, _ in start.terms)]
        self._terms = [start.previous_term, *(term for _, term in start.terms)]
        self.last_index = start.last_index
        self._entries = list(start.entries)
        self._bytes = sum(len(entry.data) for entry in self._entries)
        self._configurations = list(start.configurations)
        self.durable = start.last_index
        self.commit = start.applied
        self.handed = max(start.applied, start.last_index - len(self._entries))
        self._to_disk = start.last_index

    # -- what is where ---------------------------------------------------------------------------

    @property
    def last_term(self) -> int:
        """Term of the last entry."""
        return self._terms[-1]

    def term_at(self, index: int) -> int | None:
        """Term of an entry, None for one that is not there any more, or not yet."""
        if not self.first_index - 1 <= index <= self.last_index:
            return None
        return self._terms[bisect_right(self._starts, index) - 1]

    def last_of_term_at_most(self, index: int, term: int) -> int:
        """The last entry at or below `index` whose term is at most `term`: where a conflict can begin."""
        index = min(index, self.last_index)
        while index >= self.first_index:
            run = bisect_right(self._starts, index) - 1
            if self._terms[run] <= term:
                break
            index = self._starts[run] - 1
        return index

    def is_behind(self, last_index: int, last_term: int) -> bool:
        """Whether another log is at least as up to date as this one (paper, 5.4.1)."""
        return (last_term, last_index) >= (self.last_term, self.last_index)

    @property
    def configuration(self) -> Configuration:
        """The last one in the log, committed or not (thesis 4.1)."""
        return self._configurations[-1][1] if self._configurations else NO_CONFIGURATION

    @property
    def configuration_index(self) -> int:
        """The entry that holds it."""
        return self._configurations[-1][0] if self._configurations else 0

    @property
    def committed_configuration(self) -> Configuration:
        """The last one that is committed: who is leaving is in it until the end."""
        committed = (found for index, found in reversed(self._configurations) if index <= self.commit)
        return next(committed, Configuration())

    @property
    def cached_from(self) -> int:
        """The first entry that is in memory."""
        return self.last_index - len(self._entries) + 1

    def from_index(self, index: int, max_bytes: int = MESSAGE_BYTES) -> list[Entry] | None:
        """Entries from `index` on, at most so many bytes but one at least; None: the journal has to be asked."""
        skipped = index - self.cached_from
        if skipped < 0:
            return None
        found: list[Entry] = []
        size = 0
        for place in range(skipped, len(self._entries)):
            entry = self._entries[place]
            size += len(entry.data)
            if found and size > max_bytes:
                break
            found.append(entry)
        return found

    # -- changing --------------------------------------------------------------------------------

    def append(self, entries: Iterable[Entry]) -> None:
        """Add entries behind the last one."""
        for entry in entries:
            if entry.term != self._terms[-1]:
                self._starts.append(entry.index)
                self._terms.append(entry.term)
            self._entries.append(entry)
            self._bytes += len(entry.data)
            self.last_index = entry.index
            if entry.kind == CONFIGURATION:
                self._configurations.append((entry.index, _decode_configuration(entry.data)))

    def merge(self, prev_index: int, entries: Sequence[Entry]) -> None:
        """Take in a leader's entries behind `prev_index`, where the logs agree.

        What is there already stays: only an entry of another term replaces the log from there on, for what follows may
        have been acknowledged (paper, figure 2, AppendEntries 3). Raises ProtocolViolation below the commit index.
        """
        for offset, entry in enumerate(entries):
            if entry.index != prev_index + 1 + offset:
                raise ProtocolViolation(f"entry {entry.index} came where {prev_index + 1 + offset} belongs")
        for offset, entry in enumerate(entries):
            if entry.index > self.last_index:
                self.append(entries[offset:])
                return
            if self.term_at(entry.index) not in (entry.term, None):
                self._truncate(entry.index)
                self.append(entries[offset:])
                return

    def _truncate(self, index: int) -> None:
        if index <= self.commit:
            raise ProtocolViolation(f"entry {index} is to be replaced, and {self.commit} are committed")
        kept = max(0, index - self.cached_from)  # all of them may be later ones where nothing is applied
        self._bytes -= sum(len(entry.data) for entry in self._entries[kept:])
        del self._entries[kept:]
        self.handed = min(self.handed, index - 1)
        self.last_index = index - 1
        while self._starts[-1] >= index:
            self._starts.pop()
            self._terms.pop()
        while self._configurations and self._configurations[-1][0] >= index:
            self._configurations.pop()
        self.durable = min(self.durable, index - 1)
        self._to_disk = min(self._to_disk, index - 1)

    # -- disk ------------------------------------------------------------------------------------

    def take_unsaved(self) -> list[Entry]:
        """What has not been given out to be made durable."""
        if self._to_disk == self.last_index:
            return []
        unsaved = self._entries[self._to_disk + 1 - self.cached_from :]
        self._to_disk = self.last_index
        return unsaved

    def saved(self, entries: Sequence[Entry]) -> None:
        """What was given out is durable; what has been replaced meanwhile does not count."""
        for entry in reversed(entries):
            if self.term_at(entry.index) == entry.term:
                self.durable = max(self.durable, entry.index)
                return

    def take_committed(self, everywhere: int) -> list[Entry]:
        """What is committed and durable here, and was not given out yet.

        Every member holds what is up to `everywhere`: nobody will ask for that again.
        """
        through = min(self.commit, self.durable)
        if through <= self.handed:
            return []
        offset = self.handed + 1 - self.cached_from
        entries = self._entries[offset : offset + through - self.handed]
        self.handed = through
        self._trim(everywhere)
        return entries

    def _trim(self, everywhere: int) -> None:
        """Leave to the journal what is applied and durable, and either every member's or too much for memory."""
        through = min(self.handed, self.durable, self._to_disk)
        most = CACHE_BYTES // 2 if self._bytes > CACHE_BYTES else self._bytes
        dropped, index = 0, self.cached_from
        while index + dropped <= through and (index + dropped <= everywhere or self._bytes > most):
            self._bytes -= len(self._entries[dropped].data)
            dropped += 1
        if dropped:
            del self._entries[:dropped]

    def dropped(self, first_index: int) -> None:
        """The journal begins at `first_index` now."""
        previous_term = self.term_at(first_index - 1)
        if previous_term is None or first_index <= self.first_index:
            return
        run = bisect_right(self._starts, first_index - 1) - 1
        self._starts[: run + 1] = [first_index - 1]
        self._terms[: run + 1] = [previous_term]
        self.first_index = first_index
        while len(self._configurations) > 1 and self._configurations[1][0] < first_index:
            self._configurations.pop(0)
