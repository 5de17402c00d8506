"""What nodes say to each other: each message comes back as it was, and nothing else is taken for one."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.catch_up import AskCopy, CopyChunk, CopyEnded, CopyTaken
from shoal.cluster.frames import FrameError
from shoal.peer_words import AnyMessage, decode_message, encode_message
from shoal.raft.messages import Append, AskVote, Entry
from shoal.store.forwarding import Forward, Refused

MESSAGES = [
    Append(3, 4, 2, [Entry(5, 3, 1, b"data"), Entry(6, 3, 2, b"")], 4, 7, 1_000, 4),
    Forward(3, 0, b"items"),
    Refused(3, 9, "too-busy", "wait", {"retry_after_ms": 5}),
    AskCopy(1, b"cursor"),
    CopyChunk(1, 2, b"piece"),
    CopyTaken(1, 3),
    CopyEnded(1, "why"),
]


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_comes_back_as_it_was(message):
    assert decode_message(encode_message(message)) == message


def test_no_two_kinds_have_one_tag():
    kinds = AnyMessage.__args__
    assert len({msgspec.inspect.type_info(kind).tag for kind in kinds}) == len(kinds)


@given(
    st.one_of(st.binary(max_size=300), st.none(), st.integers(), st.lists(st.binary(max_size=9), max_size=3))
)
def test_anything_else_is_refused(value):
    try:
        message = decode_message(value)
    except FrameError:
        return
    assert isinstance(message, AnyMessage)


@given(st.sampled_from(MESSAGES), st.data())
def test_what_was_changed_on_the_way_is_a_message_or_refused(message, data):
    raw = bytearray(encode_message(message))
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        assert isinstance(decode_message(bytes(raw[: data.draw(st.integers(0, len(raw)))])), AnyMessage)
    except FrameError as error:
        assert "not a message of this protocol" in str(error)


def test_deep_facts_are_refused():
    deep = b"\x95\x15\x01\x02\xa1c\xa1d" + b"\x81\xa1k" * 100_000 + b"\xc0"
    with pytest.raises(FrameError):
        decode_message(deep)


def test_a_vote_is_no_append():
    assert not isinstance(decode_message(encode_message(AskVote(1, 2, 1, b"i" * 16))), Append)
