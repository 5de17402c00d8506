"""A peer may be authenticated and still send anything."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
from bootstrap_kit import candidate
from hypothesis import given
from hypothesis import strategies as st

from shoal.cluster.bootstrap import Bootstrap
from shoal.cluster.promise import BOOTSTRAP_FILE, decode, encode, load_promise
from shoal.errors import StorageError

leaves = (
    st.none() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=8) | st.binary(max_size=8) | st.booleans()
)
trees = st.recursive(leaves, lambda inner: st.lists(inner, max_size=8), max_leaves=30)
members = st.lists(st.tuples(st.sampled_from(["a", "b", "c", ""]), st.binary(max_size=3)), max_size=4)
nearly = st.tuples(st.sampled_from(["ask", "begin", "grant", "refuse"]), members | trees)


@given(st.binary(max_size=300) | (trees | nearly).map(msgspec.msgpack.encode))
def test_any_bytes_are_a_message_that_can_be_handled_or_nothing(body: bytes) -> None:
    message = decode(body)
    if message is None:
        return
    assert decode(encode(message)) == message
    machine = Bootstrap(candidate("b"), 2)
    machine.hear(candidate("a"), 0)
    machine.step("a", message, 0)
    machine.handle_deadline(10_000)
    machine.ready()
    assert machine.status().isprintable()


@given(st.binary(max_size=300))
def test_any_file_is_refused(content: bytes) -> None:
    with TemporaryDirectory() as folder:
        (Path(folder) / BOOTSTRAP_FILE).write_bytes(content)
        try:
            load_promise(Path(folder))
        except StorageError:
            return
        raise AssertionError("noise was taken for a promise")
