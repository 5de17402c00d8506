"""A journal's files with any damage: opened as they were, cut at a torn tail, or refused; never anything else."""

from __future__ import annotations

import contextlib

from hypothesis import given, settings
from hypothesis import strategies as st
from node_kit import IDENTITY, SEGMENT, entries, journal_in, segments

from shoal.errors import JournalCorrupt
from shoal.raft.log import Configuration, HardState, Kind
from shoal.storage.segment import HEADER_BYTES, SegmentError, SegmentHead, encode_head, scan

SMALL = 8 * 1024
BLOCK, _ = encode_head(SegmentHead(IDENTITY, 1, SEGMENT, 1, 0, 0, HardState(), Configuration(), 0))

batches = st.lists(st.lists(st.binary(max_size=400), min_size=1, max_size=3), min_size=1, max_size=14)


@settings(max_examples=150)
@given(st.data(), batches)
def test_damage_is_never_taken_for_something_else(tmp_path_factory, data, batches):
    """What is found is a beginning of what was written, and lacks at most the last batch."""
    directory = tmp_path_factory.mktemp("journal") / "j"
    journal = journal_in(directory, segment_bytes=SMALL)
    written: list[tuple[int, bytes]] = []
    for batch in batches:
        records = [(Kind.NORMAL, len(written) + n, 1, payload) for n, payload in enumerate(batch, start=1)]
        journal.append_records(records)
        written += [(index, payload) for _, index, _, payload in records]
    durable = len(written) - len(batches[-1])
    journal.close()
    path = data.draw(st.sampled_from(segments(directory)))
    content = bytearray(path.read_bytes())
    kind = data.draw(st.sampled_from(["flip", "zero", "cut", "garbage"]))
    used = len(bytes(content).rstrip(b"\0"))
    at = data.draw(st.integers(0, used))
    match kind:
        case "flip":
            content[min(at, len(content) - 1)] ^= data.draw(st.integers(1, 255))
        case "zero":
            length = data.draw(st.integers(1, 64))
            content[at : at + length] = bytes(len(content[at : at + length]))
        case "cut":
            del content[at:]
        case "garbage":
            junk = data.draw(st.binary(min_size=1, max_size=64))
            content[at : at + len(junk)] = junk
    path.write_bytes(content)
    try:
        again = journal_in(directory, segment_bytes=SMALL)
    except JournalCorrupt:
        return
    found = entries(again)
    again.close()
    if path == segments(directory)[-1] and kind in {"cut", "zero", "garbage"} and at < used - 1:
        assert (
            found == written[: len(found)]
        )  # damage may reach over several batches to the end: no proof is left
    else:
        assert found == written[: len(found)]
        assert len(found) >= durable


@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_behind_a_header_are_scanned_or_refused(tail, last):
    found = scan((BLOCK + tail).ljust(SEGMENT, b"\0"), last=last)
    assert found.end >= HEADER_BYTES


@given(st.binary(max_size=5_000))
def test_any_bytes_are_a_segment_or_refused(data):
    with contextlib.suppress(SegmentError):
        scan(data, last=True)
        raise AssertionError("nobody makes a header by chance")
