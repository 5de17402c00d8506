"""The bytes of a segment: what was written is read, and a damaged one is judged torn or corrupt."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from node_kit import IDENTITY

from shoal.raft.log import Configuration, HardState, Kind, Member
from shoal.storage.segment import (
    HEADER_BYTES,
    RECORD_MAGIC,
    RECORD_OVERHEAD,
    SegmentError,
    SegmentHead,
    decode_head,
    encode_head,
    encode_record,
    record_bytes,
    scan,
)

SIZE = 16 * 1024
u64 = st.integers(0, 2**64 - 1)
kinds = st.sampled_from(Kind)
payloads = st.binary(max_size=200) | st.binary(max_size=40).map(lambda data: data + bytes(100))
batches = st.lists(st.lists(st.tuples(kinds, u64, u64, payloads), min_size=1, max_size=3), max_size=5)


def head(**changes: object) -> SegmentHead:
    fields = {
        "identity": IDENTITY,
        "sequence": 1,
        "size": SIZE,
        "first_index": 1,
        "last_term": 0,
        "chain": 0,
        "hard_state": HardState(),
        "configuration": Configuration(),
        "configuration_index": 0,
    }
    return SegmentHead(**{**fields, **changes})


def segment(batches: list[list[tuple[Kind, int, int, bytes]]]) -> tuple[bytes, list[int]]:
    """A segment of these batches, and where each begins (and the last ends)."""
    data, salt = encode_head(head())
    chain, starts = salt, [len(data)]
    for batch in batches:
        synced_to = len(data)
        for kind, index, term, payload in batch:
            record, chain = encode_record(
                kind, index, term, payload, synced_to=synced_to, chain=chain, salt=salt
            )
            data += record
        starts.append(len(data))
    return data, starts


BATCHES = [
    [(Kind.HARD_STATE, 0, 1, b"vote"), (Kind.NO_OP, 1, 1, b"")],
    [(Kind.NORMAL, 2, 1, b"second" * 5)],
    [(Kind.NORMAL, 3, 1, b"third"), (Kind.NORMAL, 4, 1, b"fourth of them")],
]


@given(batches, st.booleans())
def test_what_was_written_is_read(batches, allocated):
    data, starts = segment(batches)
    found = scan(data.ljust(SIZE, b"\0") if allocated else data, last=True)
    assert [[r.kind, r.index, r.term, r.payload] for r in found.records] == [
        list(r) for b in batches for r in b
    ]
    assert (found.end, found.torn, found.corrupt_at) == (starts[-1], False, None)
    assert found.head == head()


@given(batches)
def test_zeros_at_the_end_may_be_left_out(batches):
    """File systems that keep no zeros give them back as a hole."""
    data, _ = segment(batches)
    stripped = data.rstrip(b"\0").ljust(HEADER_BYTES, b"\0")
    assert scan(stripped, last=True) == scan(data.ljust(SIZE, b"\0"), last=True)


@given(
    st.lists(st.tuples(st.text(max_size=8), st.binary(max_size=16), st.booleans()), max_size=20),
    u64,
    u64,
    st.text(max_size=20),
)
def test_a_header_comes_back(members, first, term, vote):
    configuration = Configuration(tuple(Member(*member) for member in members))
    made = head(first_index=first, hard_state=HardState(term, vote), configuration=configuration)
    block, checksum = encode_head(made)
    assert len(block) == HEADER_BYTES
    assert decode_head(block) == (made, checksum)


def test_every_damaged_byte_of_a_header_is_refused():
    block, _ = encode_head(head())
    used = len(block.rstrip(b"\0"))
    for at in range(used):
        damaged = bytearray(block)
        damaged[at] ^= 0x10
        if 10 <= at < 12:
            continue  # two bytes kept for later
        with pytest.raises(SegmentError):
            decode_head(bytes(damaged))


@pytest.mark.parametrize("data", [b"", b"SHOALSEG", bytes(HEADER_BYTES), b"\xff" * HEADER_BYTES])
def test_what_is_no_header_is_refused(data):
    with pytest.raises(SegmentError):
        decode_head(data)


def test_a_header_of_a_later_format_is_named():
    block = bytearray(encode_head(head())[0])
    block[8] = 9
    with pytest.raises(SegmentError, match="format 9"):
        decode_head(bytes(block))


def test_a_configuration_that_does_not_fit_is_refused():
    members = tuple(Member("n" * 100, b"i" * 16) for _ in range(60))
    with pytest.raises(SegmentError, match="does not fit"):
        encode_head(head(configuration=Configuration(members)))


def test_every_truncation_is_cut_at_a_record():
    """Bytes of the last batch are missing: it is torn, never corrupt; whole records before them stay."""
    data, starts = segment(BATCHES)
    for length in range(starts[-2], starts[-1]):
        found = scan(data[:length].ljust(SIZE, b"\0"), last=True)
        assert found.corrupt_at is None
        assert starts[-2] <= found.end < length + 8
        assert 3 <= len(found.records) <= 5


@given(st.binary(min_size=1, max_size=300), st.integers(0, 60))
def test_garbage_behind_the_last_batch_is_torn(garbage, gap):
    data, starts = segment(BATCHES)
    tail = bytes(gap // 8 * 8) + garbage
    found = scan((data + tail).ljust(SIZE, b"\0"), last=True)
    assert (found.corrupt_at, found.end, len(found.records)) == (None, starts[-1], 5)
    assert found.torn == (tail.strip(b"\0") != b"")


def test_a_flipped_byte_is_corruption_below_synced_to_and_torn_above():
    """Every byte: damage to what a later batch says was durable is never skipped."""
    data, starts = segment(BATCHES)
    padding = {at for batch, start in zip(BATCHES, starts, strict=False) for at in _padding(batch, start)}
    for at in range(HEADER_BYTES, len(data)):
        damaged = bytearray(data)
        damaged[at] ^= 0x01
        found = scan(bytes(damaged).ljust(SIZE, b"\0"), last=True)
        if at in padding:
            assert (len(found.records), found.corrupt_at) == (5, None)
        elif at < starts[-2]:
            assert found.corrupt_at is not None
            assert found.corrupt_at <= at
        else:
            assert found.torn
            assert found.corrupt_at is None
            assert found.end <= at


def _padding(batch: list[tuple[Kind, int, int, bytes]], start: int) -> list[int]:
    found: list[int] = []
    for _, _, _, payload in batch:
        end = start + record_bytes(len(payload))
        found += range(start + RECORD_OVERHEAD + len(payload), end)
        start = end
    return found


def test_in_a_segment_that_another_follows_any_damage_is_corruption():
    data, starts = segment(BATCHES)
    for at in (starts[0] + 3, starts[1] + 60, starts[2] + 9, len(data) - 12):
        damaged = bytearray(data)
        damaged[at] ^= 0x80
        found = scan(bytes(damaged).ljust(SIZE, b"\0"), last=False)
        assert found.corrupt_at is not None


def test_a_record_out_of_its_order_is_no_record():
    """The chain: a whole, valid record in another's place is not accepted."""
    data, starts = segment([BATCHES[1], BATCHES[1], BATCHES[2]])
    moved = data[: starts[0]] + data[starts[1] : starts[2]] + data[starts[0] : starts[1]] + data[starts[2] :]
    found = scan(moved.ljust(SIZE, b"\0"), last=True)
    assert found.records == []
    assert found.corrupt_at == starts[0]


def test_a_payload_that_looks_like_a_record_proves_nothing():
    """Whoever can only append events cannot make a torn tail look corrupt: the salt is not known to them."""
    forged, _ = encode_record(Kind.NORMAL, 9, 1, b"forged", synced_to=2**40, chain=0, salt=0)
    data, starts = segment([BATCHES[0], [(Kind.NORMAL, 2, 1, forged * 3)]])
    assert forged.startswith(RECORD_MAGIC)
    torn = bytearray(data)
    torn[starts[1] + 8] ^= 1
    found = scan(bytes(torn).ljust(SIZE, b"\0"), last=True)
    assert found.torn
    assert found.corrupt_at is None
