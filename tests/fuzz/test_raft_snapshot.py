"""Chunks with any damage, in any order: refused with words that help, and the state in use stays."""

from __future__ import annotations

import shutil

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transfer_kit import RECEIVER, Board, chunks, feed, fill

from shoal.errors import TransferRefused
from shoal.model.commands import CreateStore
from shoal.storage.transfer import (
    ChunkReader,
    ChunkWriter,
    End,
    Events,
    Manifest,
    Rows,
    State,
    StoreAt,
    TableEnd,
    decode_cursor,
)

values = (
    st.none() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=5) | st.binary(max_size=5) | st.just([])
)
rows = st.lists(st.lists(values, max_size=15) | values, max_size=3)
names = st.sampled_from(["", "main", "own", "../x", "none"])
tables = st.sampled_from(
    ["event", "stream", "meta", "tagged", "store", "type", "parked", 'a"b', "sqlite_schema"]
)
places = st.builds(StoreAt, names, st.integers(-1, 3), st.integers(0, 40))


@pytest.fixture(scope="module")
def sent(tmp_path_factory):
    source = Board(tmp_path_factory.mktemp("source"), own=tmp_path_factory.mktemp("source-own"))
    fill(source)
    whole = list(chunks(source))
    source.close()
    return whole


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    board = Board(tmp_path_factory.mktemp("target"), RECEIVER, own=tmp_path_factory.mktemp("own"))
    board.apply(CreateStore("mine"))
    yield board
    board.close()


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_or_a_chunk(data):
    with pytest.raises(TransferRefused, match="ask for it again"):
        ChunkReader().read(data)


@given(st.binary(max_size=60))
def test_any_bytes_are_a_cursor_or_refused(data):
    try:
        assert isinstance(decode_cursor(data), dict)
    except TransferRefused as error:
        assert "cursor" in str(error)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_changed_transfer_is_refused_and_the_right_one_taken_then(target, sent, data):
    importer = target.importer()
    kind = data.draw(st.sampled_from(["flip", "cut", "leave out", "twice", "exchange"]))
    broken = list(sent)
    at = data.draw(st.integers(1, len(sent) - 2))
    match kind:
        case "flip":
            byte = data.draw(st.integers(0, len(sent[at]) - 1))
            changed = bytearray(sent[at])
            changed[byte] ^= data.draw(st.integers(1, 255))
            broken[at] = bytes(changed)
        case "cut":
            broken[at] = sent[at][: data.draw(st.integers(0, len(sent[at]) - 1))]
        case "leave out":
            del broken[at]
        case "twice":
            broken.insert(at, sent[at])
        case "exchange":
            broken[at], broken[at + 1] = broken[at + 1], broken[at]
    with pytest.raises(TransferRefused, match="what is here is as it was"):
        feed(importer, broken)
    with pytest.raises(TransferRefused):
        importer.finish(target.journal)
    with pytest.raises(TransferRefused):
        importer.feed(sent[-1])
    importer.abandon()
    feed(importer, sent)
    assert importer.complete
    importer.abandon()
    assert target.rows()[""]["store"] == [("mine", 1)]


bodies = st.one_of(
    st.builds(Events, names, st.integers(0, 3), st.integers(0, 40), rows),
    st.builds(State, st.integers(0, 40), st.integers(0, 3), stores=st.lists(places, max_size=3).map(tuple)),
    st.builds(Rows, names, tables, rows),
    st.builds(TableEnd, names, tables, st.binary(max_size=32)),
    st.builds(End, st.binary(max_size=32)),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(bodies, min_size=1, max_size=6), st.none() | st.lists(places, max_size=3))
def test_chunks_that_verify_and_say_anything_are_taken_or_refused(target, sent, said, stores):
    """A sender with a fault of its own: nothing but TransferRefused, nothing is ever complete by chance."""
    importer = target.importer()
    writer = ChunkWriter()
    manifest = ChunkReader().read(sent[0])
    assert isinstance(manifest, Manifest)
    if stores is not None:
        manifest = msgspec.structs.replace(manifest, stores=tuple(stores))
    with pytest.raises(TransferRefused):
        for body in (manifest, *said):
            importer.feed(writer.write(body))
        importer.finish(target.journal)
    importer.abandon()
    shutil.rmtree(target.places.root / "g2", ignore_errors=True)
    assert target.rows()[""]["store"] == [("mine", 1)]
