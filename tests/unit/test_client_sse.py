"""The parser of server-sent events."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from shoal.client.sse import Message, Parser


def parse(text: bytes) -> list[Message]:
    return Parser().feed(text)


def test_a_message_ends_with_an_empty_line() -> None:
    assert parse(b"id: 7\ndata: {}\n") == []
    assert parse(b"id: 7\ndata: {}\n\n") == [Message("message", b"{}", "7")]


def test_names_ids_and_several_lines_of_data() -> None:
    assert parse(b"event: caught-up\nid:3\ndata: a\ndata:  b\n\n") == [Message("caught-up", b"a\n b", "3")]


def test_an_id_stays_in_force() -> None:
    assert [message.last_id for message in parse(b"id: 1\ndata: a\n\ndata: b\n\n")] == ["1", "1"]


def test_comments_unknown_fields_and_messages_without_data_are_nothing() -> None:
    assert parse(b": still here\n\nretry: 5\nid: 9\n\nevent: x\n\n") == []


def test_an_event_name_is_for_one_message_only() -> None:
    assert [message.event for message in parse(b"event: x\ndata: 1\n\ndata: 2\n\n")] == ["x", "message"]


def test_a_field_without_colon_is_a_name() -> None:
    assert parse(b"data\n\n") == [Message("message", b"", "")]


TEXT = b": hello\r\nid: 1\r\ndata: caf\xc3\xa9\r\n\r\nevent: e\rdata: x\rdata: y\r\rid: 2\ndata: z\n\n"


@given(st.lists(st.integers(0, len(TEXT)), max_size=12))
def test_where_the_bytes_are_cut_makes_no_difference(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(TEXT)]
    parser = Parser()
    found = [message for a, b in pairwise(edges) for message in parser.feed(TEXT[a:b])]
    assert found == [
        Message("message", "café".encode(), "1"),
        Message("e", b"x\ny", "1"),
        Message("message", b"z", "2"),
    ]


@given(st.binary(max_size=200))
def test_no_bytes_make_it_fail(junk: bytes) -> None:
    parser = Parser()
    parser.feed(junk)
    assert parser.feed(b"\n\ndata: end\n\n")[-1].data == b"end"
