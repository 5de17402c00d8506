"""The peer transport over real TLS on loopback: messages, breaks, and who is let in."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from peer_kit import Node, Note, Reef, reef, until

from shoal.cluster.frames import pack, unpack


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Reef]:
    async with reef(tmp_path) as made:
        yield made


async def test_messages_arrive_in_order_as_they_were(cluster: Reef) -> None:
    one, two = await cluster.pair()
    await until(lambda: one.transport.send("two", pack(Note("first", b"\x00\xff")), bulk=True))
    for number in range(100):
        assert one.transport.send("two", pack(Note(str(number), bytes(5000))))
    await until(lambda: len(two.received) == 101)
    notes = [unpack(value, Note) for node_id, value in two.received if node_id == "one"]
    assert Note("first", b"\x00\xff") in notes
    assert [note.text for note in notes if note.text != "first"] == [str(number) for number in range(100)]
    assert one.received == []
