"""A node with a journal and no databases: a witness, and a board whose databases are being copied anew.

A witness keeps every entry that a full member may lack and nothing else: what is committed goes nowhere, segments of
the journal go when every full member holds their entries, and at `storage.witness_bytes` it hears no further entries
rather than forget any. It votes on: those that it holds may be all that is left of what was acknowledged.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from shoal.cluster.driver import RaftDriver
from shoal.config import StorageConfig
from shoal.errors import Unavailable
from shoal.raft.messages import NORMAL, Append, Entry, Message
from shoal.retention import Retention
from shoal.storage.journal import Journal
from shoal.store.sequencer import Sequencer

SEGMENTS_MIN = 2
"""One is being written, so the other can go."""

_log = logging.getLogger("shoal.cluster")


class JournalOnly:
    """Stands between the driver and the sequencer, whose `take` gets entries only where there are databases."""

    def __init__(
        self,
        driver: RaftDriver,
        journal: Journal,
        retention: Retention,
        storage: StorageConfig,
        sequencer: Sequencer,
    ) -> None:
        self._driver = driver
        self._journal = journal
        self._retention = retention
        self._segment_bytes = storage.segment_bytes
        self._segments_max = max(storage.witness_bytes // storage.segment_bytes, SEGMENTS_MIN)
        self._sequencer = sequencer
        self.full = False
        """A witness acknowledges no more entries until its journal gets shorter."""
        driver.take = self._take
        driver.accepts = self._accepts

    @property
    def status(self) -> str:
        """What is wrong, in words that say what to do; empty if nothing is."""
        if self._driver.core.hollow:
            return (
                "this board's databases were not what they must be and were set aside; they are copied anew from the "
                "leader, which takes a while"
            )
        if not self.full:
            return ""
        return (
            f"this witness holds {self._segments_max * self._segment_bytes:,} bytes of journal that a board still "
            "lacks, and acknowledges no more: start the board that is down, or remove it (shoal cluster remove), or "
            "raise storage.witness_bytes here"
        )

    def require_stores(self) -> None:
        """Raises Unavailable where there are no databases, saying whom to ask."""
        core = self._driver.core
        if not core.stateless:
            return
        others = [
            m for m in core.configuration.members if not m.witness and m.node_id != self._driver.own.node_id
        ]
        ask = ", ".join(f"{m.node_id} ({m.url})" if m.url else m.node_id for m in others) or "another board"
        what = "this board is a witness: it keeps the journal for the others, and no stores"
        raise Unavailable(f"{what if core.is_witness else self.status}. Ask {ask}")

    @property
    def applied_index(self) -> int:
        """Up to where entries are decided; on a witness, where they are committed and held."""
        log = self._driver.core.log
        return min(log.commit, log.durable) if self._driver.core.is_witness else self._sequencer.applied_index

    def _take(self, entries: Sequence[Entry]) -> None:
        if not self._driver.core.stateless:
            self._sequencer.take(entries)

    def _accepts(self, message: Message) -> bool:
        """Whether there is room for what a leader sends.

        Not heard rather than not written: a write that waits for room would keep the vote waiting that follows it.
        """
        if not isinstance(message, Append) or not self._driver.core.is_witness:
            return True
        self._retention.shorten()  # what every full member holds grows without an entry, too
        size = sum(len(entry.data) for entry in message.entries)
        last = self._journal.segment_count >= self._segments_max
        full = last and (self.full or not self._journal.fits(size, len(message.entries)))
        if full != self.full:
            self.full = full
            _log.log(
                logging.ERROR if full else logging.INFO, "%s", self.status or "the witness has room again"
            )
        # What a new leader adds by itself is little, and without it there would be none.
        return not (full and any(entry.kind == NORMAL for entry in message.entries))
