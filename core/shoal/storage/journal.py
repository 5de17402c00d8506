"""The journal: the Raft log in preallocated segments. What it has synced is what the store promised.

One thread at a time calls it (the journal's own). `append_records` returns only when the records are durable;
a failed sync is never retried, because the kernel may have dropped the pages: the node must end.
"""

from __future__ import annotations

import errno
import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from shoal.errors import DiskFull, JournalCorrupt, StorageError
from shoal.raft.log import Configuration, HardState, Kind
from shoal.storage.files import Files
from shoal.storage.segment import (
    ALIGNMENT,
    HEADER_BYTES,
    RECORD_OVERHEAD,
    Identity,
    Record,
    Scan,
    SegmentError,
    SegmentHead,
    encode_head,
    encode_record,
    record_bytes,
    scan,
    standing,
)

SUFFIX = ".seg"
SPARE = "spare"
NO_INDEX = 2**63
DISK_FULL = "the disk is full: free some space, then appends go on by themselves"

NewRecord = tuple[Kind, int, int, bytes]
"""(kind, index, term, payload); the index is 0 for kinds that are not entries."""


class _Segment(msgspec.Struct):
    path: Path
    sequence: int
    first_index: int
    last_index: int
    end: int
    lowest: int = NO_INDEX
    """Of its entries: where it begins to replace those of segments before it, if it does."""


class JournalStats(msgspec.Struct):
    """Counters since the journal was opened."""

    batches: int = 0
    bytes_appended: int = 0
    sync_seconds: float = 0.0
    segments_created: int = 0
    segments_dropped: int = 0


class Journal:
    """Open with `open_journal`; the attributes say what the log holds."""

    def __init__(
        self,
        files: Files,
        directory: Path,
        identity: Identity,
        segment_bytes: int,
        floor_bytes: int,
    ) -> None:
        self._files = files
        self._directory = directory
        self._segment_bytes = segment_bytes
        self._floor_bytes = floor_bytes
        self._segments: list[_Segment] = []
        self._stale: list[_Segment] = []
        self._spare_lock = threading.Lock()
        self._unread: list[Record] | None = None
        self._fd = -1
        self._salt = 0
        self._chain = 0
        self._capacity = 0
        self.identity = identity
        self.first_index = 1
        self.last_index = 0
        self.last_term = 0
        self.hard_state = HardState()
        self.configurations: list[tuple[int, Configuration]] = []
        """(index, configuration) of those in the log, the one before its first entry included."""
        self.terms: list[tuple[int, int]] = []
        """(first index, term) of each run of entries of one term."""
        self.previous_term = 0
        """Term of the entry before `first_index`."""
        self.stats = JournalStats()
        self.notes: list[str] = []
        """What opening found and mended, as sentences for the operator."""

    # -- reading ---------------------------------------------------------------------------------

    def read(self, after: int) -> Iterator[Record]:
        """Entries above `after`, in order, each index once, as the log stands now; read segment by segment."""
        unread, self._unread = self._unread, None
        segments = tuple(self._segments)  # at once: another thread may drop the first ones
        return self._read(after, [*map(msgspec.structs.replace, segments)], unread)

    def _read(
        self, after: int, segments: Sequence[_Segment], unread: Sequence[Record] | None
    ) -> Iterator[Record]:
        """Of segments as they were: what is behind their ends may be half written just now."""
        for place, segment in enumerate(segments):
            current = segment is segments[-1]
            if segment.last_index <= after and not current:
                continue
            records = unread if current else None
            if records is None:
                found = scan(self._files.read(segment.path)[: segment.end], last=current)
                if found.corrupt_at is not None:
                    raise _corrupt(segment.path, found.corrupt_at)
                records = found.records
            replaced_from = min((later.lowest for later in segments[place + 1 :]), default=NO_INDEX)
            yield from (r for r in standing(records) if after < r.index < replaced_from)

    def term_at(self, index: int) -> int | None:
        """Term of an entry that is here, or of the one just before the first; None for any other."""
        if not self.first_index - 1 <= index <= self.last_index:
            return None
        runs = bisect_right(self.terms, index, key=lambda run: run[0])
        return self.terms[runs - 1][1] if runs else self.previous_term

    @property
    def configuration(self) -> Configuration:
        """The last one in the log."""
        return self.configurations[-1][1] if self.configurations else Configuration()

    @property
    def configuration_index(self) -> int:
        """The entry that holds it."""
        return self.configurations[-1][0] if self.configurations else 0

    def fits(self, payload_bytes: int, records: int = 1) -> bool:
        """Whether records with payloads of so many bytes in all need no further segment. May be asked on any thread."""
        need = payload_bytes + records * (RECORD_OVERHEAD + ALIGNMENT)
        return self._segments[-1].end + need <= self._capacity

    @property
    def segment_count(self) -> int:
        """Segments on disk, the spare not counted."""
        return len(self._segments)

    # -- appending -------------------------------------------------------------------------------

    def append_records(self, records: Sequence[NewRecord], *, use_reserve: bool = False) -> int:
        """Append and make durable, as one batch; returns the nanoseconds the sync took.

        Raises DiskFull (nothing was written) or OSError (the node must end).

        A record of an entry whose index is not above the last one replaces the log from there on.
        """
        self._unread = None
        need = sum(record_bytes(len(payload)) for _, _, _, payload in records)
        if self._segments[-1].end + need > self._capacity:
            self._roll(need, use_reserve=use_reserve)
        segment = self._segments[-1]
        synced_to, chain = segment.end, self._chain
        parts: list[bytes] = []
        for kind, index, term, payload in records:
            data, chain = encode_record(
                kind, index, term, payload, synced_to=synced_to, chain=chain, salt=self._salt
            )
            parts.append(data)
        batch = parts[0] if len(parts) == 1 else b"".join(parts)
        self._files.write(self._fd, batch, segment.end)
        elapsed_ns = self._sync()
        segment.end += len(batch)
        self._chain = chain
        self.stats.batches += 1
        self.stats.bytes_appended += len(batch)
        for record in records:
            self._note(*record)
        return elapsed_ns

    def _sync(self) -> int:
        started = time.perf_counter_ns()
        self._files.sync_data(self._fd)
        elapsed_ns = time.perf_counter_ns() - started
        self.stats.sync_seconds += elapsed_ns / 1e9
        return elapsed_ns

    def make_room(self, payload_bytes: int, *, use_reserve: bool = False) -> None:
        """Begin the next segment if a record of so many bytes does not fit. Raises DiskFull (nothing was written)."""
        if not self.fits(payload_bytes):
            self._roll(record_bytes(payload_bytes), use_reserve=use_reserve)

    def _note(self, kind: Kind, index: int, term: int, payload: bytes) -> None:
        if kind.is_entry:
            if index <= self.last_index:
                self._forget_from(index)
            self.last_index = index
            segment = self._segments[-1]
            segment.last_index, segment.lowest = index, min(segment.lowest, index)
            if term != self.last_term or not self.terms:
                self.last_term = term
                self.terms.append((index, term))
        if kind is Kind.CONFIGURATION:
            self.configurations.append((index, msgspec.msgpack.decode(payload, type=Configuration)))
        elif kind is Kind.HARD_STATE:
            self.hard_state = msgspec.msgpack.decode(payload, type=HardState)

    def _forget_from(self, index: int) -> None:
        """The log is replaced from `index` on."""
        while self.terms and self.terms[-1][0] >= index:
            self.terms.pop()
        while self.configurations and self.configurations[-1][0] >= index:
            self.configurations.pop()
        self.last_term = self.terms[-1][1] if self.terms else self.previous_term

    # -- segments --------------------------------------------------------------------------------

    def prepare_spare(self) -> None:
        """Allocate the next segment ahead of need, if there is none and the disk has room.

        The one call that may run beside the others, on another thread.
        """
        with self._spare_lock:
            self._prepare_spare()

    def _prepare_spare(self) -> None:
        path = self._directory / SPARE
        if SPARE in self._files.names(self._directory) or not self._has_room(self._segment_bytes):
            return
        with suppress(DiskFull), _full_named():
            fd = self._files.create(path)
            try:
                self._files.allocate(fd, self._segment_bytes)
            except OSError:
                self._files.unlink(path)
                raise
            finally:
                self._files.close(fd)

    def needs_spare(self) -> bool:
        """Whether the current segment is half full: time to prepare the next."""
        return self._segments[-1].end * 2 > self._capacity

    def drop_through(self, index: int) -> int:
        """Remove segments whose entries all have an index of at most `index`. Returns how many went.

        The caller knows that the database holds those entries durably.
        """
        dropped = 0
        while len(self._segments) > 1 and self._segments[0].last_index <= index:
            self._remove(self._segments.pop(0))
            self.first_index = self._segments[0].first_index
            dropped += 1
        return dropped

    def _remove(self, segment: _Segment) -> None:
        self._files.unlink(segment.path)
        self._files.sync_dir(self._directory)  # each by itself: a gap must not survive a power cut
        self.stats.segments_dropped += 1

    def droppable(self, index: int) -> bool:
        """Whether `drop_through` would remove anything."""
        return len(self._segments) > 1 and self._segments[0].last_index <= index

    def overfull_through(self, segments: int) -> int:
        """The last entry of the segments that are more than so many; 0 when there are none."""
        return self._segments[-segments - 1].last_index if len(self._segments) > segments else 0

    # -- a raft_snapshot instead of entries ------------------------------------------------------

    def has_room_to_reset(self) -> bool:
        """Whether `reset_to` will find its segment; sets the spare aside for it."""
        self.prepare_spare()
        return SPARE in self._files.names(self._directory)

    def reset_to(self, index: int, term: int, configuration: Configuration, configuration_index: int) -> None:
        """Begin after an entry that the databases hold durably; entries that follow it stay (Raft, fig. 13, rule 6).

        The hard state stays too. May be repeated after a power cut at any place in it. Raises DiskFull (nothing
        changed) or OSError (the node must end).
        """
        if self.term_at(index) != term:
            self._replace(index, term, configuration, configuration_index)
        self._remove_stale()
        mark = msgspec.msgpack.encode((index, term))
        self.append_records([(Kind.RAFT_SNAPSHOT, 0, term, mark)], use_reserve=True)
        self.drop_through(index)

    def _replace(self, index: int, term: int, configuration: Configuration, configuration_index: int) -> None:
        """Start a segment whose head says that the log begins after `index`; those before it hold nothing now."""
        head = msgspec.structs.replace(
            self._next_head(self._segment_bytes),
            first_index=index + 1,
            last_term=term,
            configuration=configuration,
            configuration_index=configuration_index,
        )
        with self._spare_lock:
            self._start_segment(head, spare=SPARE in self._files.names(self._directory))
        self._unread = None
        started = self._segments.pop()
        self._begin_at(head)
        self._segments.append(started)

    def _remove_stale(self) -> None:
        """Remove the segments that a reset left behind, oldest first, so that what is left follows on."""
        while self._stale:
            self._remove(self._stale.pop(0))

    # -- rolling ---------------------------------------------------------------------------------

    def _has_room(self, size: int) -> bool:
        return self._files.free_bytes(self._directory) >= size + self._floor_bytes

    def _roll(self, need: int, *, use_reserve: bool) -> None:
        with self._spare_lock:
            self._roll_to_next(need, use_reserve=use_reserve)

    def _roll_to_next(self, need: int, *, use_reserve: bool) -> None:
        size = max(self._segment_bytes, HEADER_BYTES + need)
        spare = SPARE in self._files.names(self._directory) and size == self._segment_bytes
        if not spare and not use_reserve and not self._has_room(size):
            raise DiskFull(DISK_FULL)
        self._start_segment(self._next_head(size), spare=spare)

    def _next_head(self, size: int) -> SegmentHead:
        return SegmentHead(
            self.identity,
            self._segments[-1].sequence + 1 if self._segments else 1,
            size,
            self.last_index + 1,
            self.last_term,
            self._chain,
            self.hard_state,
            self.configuration,
            self.configuration_index,
        )

    def _start_segment(self, head: SegmentHead, *, spare: bool) -> None:
        size = head.size
        temporary = self._directory / SPARE
        if not spare and SPARE in self._files.names(self._directory):
            self._files.unlink(temporary)
        with _full_named():
            fd = self._files.open(temporary) if spare else self._files.create(temporary)
        block, salt = encode_head(head)
        path = self._directory / f"{head.sequence:016d}{SUFFIX}"
        try:
            with _full_named():
                self._files.allocate(fd, size)
                self._files.write(fd, block, 0)
        except DiskFull:
            self._files.close(fd)
            self._files.unlink(temporary)
            raise
        self._files.sync_data(fd)
        self._files.replace(temporary, path)
        self._files.sync_dir(self._directory)
        if self._fd >= 0:
            self._files.close(self._fd)
        self._fd, self._salt, self._chain, self._capacity = fd, salt, salt, size
        self._segments.append(
            _Segment(path, head.sequence, head.first_index, head.first_index - 1, HEADER_BYTES)
        )
        self.stats.segments_created += 1

    def close(self) -> None:
        """Close the file; everything appended is durable already."""
        if self._fd >= 0:
            self._files.close(self._fd)
            self._fd = -1

    # -- opening ---------------------------------------------------------------------------------

    def _adopt(self, path: Path, found: Scan, *, last: bool) -> None:
        head = found.head
        if not self._segments:
            self.identity = head.identity
            self._begin_at(head)
        elif head.chain != self._chain or head.sequence != self._segments[-1].sequence + 1:
            raise JournalCorrupt(
                f"{path}: this segment does not follow the one before; a segment is missing. "
                "Restore the data directory from a backup"
            )
        elif head_resets(head, self.last_index, self.last_term):
            self._begin_at(head)
        self._segments.append(
            _Segment(path, head.sequence, head.first_index, head.first_index - 1, found.end)
        )
        for record in found.records:
            self._note(record.kind, record.index, record.term, record.payload)
        self._chain = found.checksum
        if last:
            self._salt = encode_head(head)[1]
            self._capacity = head.size
            self._fd = self._files.open(path)
            self._unread = found.records
            missing = head.size - self._files.size(path)
            if missing > 0:
                self.notes.append(
                    f"{path} is {missing:,} bytes shorter than it was made, and a power cut does not shorten it: "
                    "acknowledged events may be missing, compare with a backup"
                )
            if found.torn:
                self.notes.append(
                    f"the last record of {path}, at byte {found.end}, was not written whole and was cut off; "
                    "after a power cut that is one whose sender had no answer yet"
                )
            if missing > 0 or found.torn:
                self._cut(found.end, head.size)

    def _begin_at(self, head: SegmentHead) -> None:
        """The log begins with this segment; those known before it are to be removed."""
        self._stale += self._segments
        self._segments.clear()
        self.first_index = head.first_index
        self.last_index = head.first_index - 1
        self.last_term = self.previous_term = head.last_term
        self.terms.clear()
        self.hard_state = head.hard_state
        self.configurations = [(head.configuration_index, head.configuration)]

    def _cut(self, end: int, size: int) -> None:
        self._files.truncate(self._fd, end)
        self._files.allocate(self._fd, size)
        self._files.sync_data(self._fd)


def head_resets(head: SegmentHead, last_index: int, last_term: int) -> bool:
    """Whether a segment begins elsewhere than the entries before it end: a raft_snapshot came between (`reset_to`)."""
    return (head.first_index - 1, head.last_term) != (last_index, last_term)


@contextmanager
def _full_named() -> Iterator[None]:
    """Raises DiskFull where the file system has no room; other errors of it pass."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise DiskFull(DISK_FULL) from error


def _corrupt(path: Path, offset: int) -> JournalCorrupt:
    return JournalCorrupt(
        f"{path}: the record at byte {offset} was durable and is damaged; acknowledged events would be lost. "
        "Restore the data directory from a backup",
        path=str(path),
        offset=offset,
    )


def open_journal(
    files: Files,
    directory: Path,
    new_identity: Callable[[], Identity],
    *,
    segment_bytes: int,
    floor_bytes: int,
    may_create: bool,
) -> Journal:
    """Open the journal, cutting a torn tail, or create an empty one (when `may_create`).

    Raises JournalCorrupt when a record that had been durable is damaged or missing, StorageError when
    there is no journal and none may be made (the database beside it holds data).
    """
    files.mkdir(directory)
    files.sync_dir(directory.parent)
    names = [name for name in files.names(directory) if name.endswith(SUFFIX)]
    journal = Journal(files, directory, Identity("", "", b""), segment_bytes, floor_bytes)
    if not names:
        if not may_create:
            raise StorageError(
                f"{directory}: the journal is missing though the database holds data. "
                "Restore the data directory from a backup"
            )
        journal.identity = new_identity()
        journal._start_segment(journal._next_head(segment_bytes), spare=False)  # noqa: SLF001 - the maker of the class
        return journal
    for name in names:
        path = directory / name
        last = name == names[-1]
        try:
            found = scan(files.read(path), last=last)
        except SegmentError as error:
            raise JournalCorrupt(f"{path}: {error}. Restore the data directory from a backup") from error
        if found.corrupt_at is not None:
            raise _corrupt(path, found.corrupt_at)
        journal._adopt(path, found, last=last)  # noqa: SLF001 - the maker of the class
    journal._remove_stale()  # noqa: SLF001 - the maker of the class
    return journal
