"""Entries of the journal: any bytes decode or are refused, and what is encoded comes back."""

from __future__ import annotations

import contextlib

from hypothesis import given
from hypothesis import strategies as st

from shoal.model.commands import (
    Append,
    CodecError,
    CreateStore,
    DeleteSnapshots,
    DeleteStream,
    DropStore,
    Proposal,
    ProposedEvent,
    SaveSnapshot,
    Write,
    decode,
    encode,
)
from shoal.types import Condition, Query, QueryItem

texts = st.text(max_size=12)
optional = st.none() | texts
u53 = st.integers(0, 2**53 - 1)
blobs = st.binary(max_size=30)
events = st.builds(
    ProposedEvent,
    event_id=st.binary(min_size=16, max_size=16) | texts,
    own_id=st.booleans(),
    event_type=texts,
    data=blobs,
    content_type=optional,
    metadata=st.none() | blobs,
    metadata_type=optional,
    tags=st.none() | st.lists(texts, max_size=3),
)
names = st.lists(texts, max_size=3).map(tuple)
queries = st.builds(Query, st.lists(st.builds(QueryItem, names, names), max_size=3).map(tuple))
commands = st.one_of(
    st.builds(
        Append,
        texts,
        st.lists(st.builds(Write, texts, st.integers(-4, 2**53), st.lists(events, max_size=3)), max_size=3),
        st.none() | st.builds(Condition, queries, u53),
    ),
    st.builds(DeleteStream, texts, texts, st.integers(-4, 2**53), st.booleans()),
    st.builds(SaveSnapshot, texts, texts, u53, blobs, optional, st.none() | blobs, optional),
    st.builds(DeleteSnapshots, texts, texts, st.none() | u53),
    st.builds(CreateStore, texts),
    st.builds(DropStore, texts),
)
proposals = st.builds(Proposal, u53, u53, st.lists(commands, max_size=4))


@given(proposals)
def test_what_is_encoded_comes_back(proposal):
    assert decode(encode(proposal)) == proposal
    assert decode(memoryview(encode(proposal))) == proposal


@given(st.binary(max_size=200) | st.binary(max_size=200).map(lambda data: b"\1" + data))
def test_any_bytes_decode_or_are_refused(data):
    with contextlib.suppress(CodecError):
        assert isinstance(decode(data), Proposal)


@given(proposals, st.integers(0, 10**6), st.integers(1, 255))
def test_a_changed_byte_decodes_or_is_refused(proposal, at, change):
    data = bytearray(encode(proposal))
    data[at % len(data)] ^= change
    with contextlib.suppress(CodecError):
        assert isinstance(decode(bytes(data)), Proposal)


def test_nesting_without_end_is_refused():
    for opening in (b"\x91", b"\x81\x00", b"\xdc\xff\xff"):
        with contextlib.suppress(CodecError):
            decode(b"\1" + opening * 100_000)
            raise AssertionError("that is no proposal")


@given(proposals)
def test_an_entry_of_a_later_release_is_named(proposal):
    data = b"\2" + encode(proposal)[1:]
    with contextlib.suppress(CodecError):
        decode(data)
        raise AssertionError("that is another codec")
