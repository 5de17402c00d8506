"""Entries of the journal: any bytes decode or are refused, and what is encoded comes back."""

from __future__ import annotations

import contextlib
from typing import get_args

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from shoal.errors import InvalidRequest
from shoal.model.commands import (
    Append,
    ChangeSubscription,
    CodecError,
    CreateStore,
    CreateSubscription,
    Definition,
    DeleteSnapshots,
    DeleteStream,
    DeleteSubscription,
    DropStore,
    Parked,
    Proposal,
    ProposedEvent,
    ReplayParked,
    ResetSubscription,
    SaveSnapshot,
    Settle,
    Write,
    decode,
    encode,
)
from shoal.model.lease import Lease, read_lease
from shoal.types import Condition, Query, QueryItem, SubscriptionOptions, SubscriptionType

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
kinds = st.sampled_from(get_args(SubscriptionType))
beginnings = st.sampled_from(["beginning", "end"]) | u53
positions = st.lists(u53, max_size=3)
options = st.builds(
    SubscriptionOptions,
    ack_timeout_ms=u53,
    backoff_ms=st.lists(u53, max_size=3).map(tuple),
    strategy=st.sampled_from(["single", "round_robin", "by_stream"]),
    ordered=st.booleans(),
    retention_hold_max_ms=st.none() | u53,
)
parked = st.builds(Parked, u53, texts, texts, u53, st.booleans())
pairs = st.lists(st.tuples(u53, u53), max_size=3)
on_subscriptions = st.one_of(
    st.builds(
        CreateSubscription,
        *(
            texts,
            texts,
            st.builds(Definition, kinds, blobs, beginnings),
            options,
            st.lists(texts, max_size=2),
        ),
    ),
    st.builds(ChangeSubscription, texts, texts, options, st.lists(texts, max_size=2)),
    st.builds(DeleteSubscription, texts, texts, st.none() | kinds),
    st.builds(Settle, texts, texts, u53, u53, positions, st.lists(parked, max_size=3), positions, pairs),
    st.builds(ReplayParked, texts, texts, u53, positions),
    st.builds(ResetSubscription, texts, texts, beginnings),
)
commands = on_subscriptions | st.one_of(
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
about_subscriptions = st.builds(Proposal, u53, u53, st.lists(on_subscriptions, min_size=1, max_size=2))
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | texts | blobs | st.floats(),
    lambda inner: st.lists(inner, max_size=9) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=12,
)


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


@given(about_subscriptions, st.integers(0, 10**6), st.integers(1, 255))
def test_a_changed_byte_of_a_subscriptions_command_decodes_or_is_refused(proposal, at, change):
    data = bytearray(encode(proposal))
    data[at % len(data)] ^= change
    with contextlib.suppress(CodecError):
        assert isinstance(decode(bytes(data)), Proposal)


@given(st.integers(7, 12), st.lists(plain, max_size=9))
def test_fields_of_any_kind_decode_or_are_refused(tag, fields):
    data = b"\1" + msgspec.msgpack.encode([1, 1, [[tag, *fields]]])
    with contextlib.suppress(CodecError):
        assert isinstance(decode(data), Proposal)


@given(st.builds(Lease, u53, u53, u53, u53))
def test_a_lease_comes_back(lease):
    assert read_lease(lease.token) == lease


@given(st.text() | st.text("0123456789abcdef-\n", max_size=70) | plain)
def test_any_value_is_a_lease_or_refused(value):
    with contextlib.suppress(InvalidRequest):
        assert isinstance(read_lease(value), Lease)


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
