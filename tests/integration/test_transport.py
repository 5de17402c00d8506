"""The peer transport over real TLS on loopback: messages, breaks, and who is let in."""

from __future__ import annotations

import asyncio
import errno
import logging
import random
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from peer_kit import Node, Note, Reef, reef, until

from shoal.cluster import acceptor
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


async def test_what_one_turn_sends_leaves_in_one_write(
    cluster: Reef, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = await cluster.pair()
    control = one.transport._diallers["two"].control
    assert control is not None
    assert control._transport is not None
    writes: list[bytes] = []
    monkeypatch.setattr(control._transport, "write", writes.append)
    for number in range(5):
        one.transport.send("two", number)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert len(writes) == 1


async def test_what_would_wait_too_long_is_dropped(cluster: Reef) -> None:
    one, two = await cluster.pair()
    sent = [one.transport.send("two", random_bytes(1024 * 1024)) for _ in range(20)]
    assert sent == [True] * 8 + [False] * 12
    await until(lambda: len(two.received) == 8)
    assert one.transport.send("two", "again")
    await until(lambda: two.received[-1] == ("one", "again"))


async def test_a_large_message_arrives(cluster: Reef) -> None:
    one, two = await cluster.pair()
    large = random_bytes(20 * 1024 * 1024)
    assert one.transport.send("two", large)
    await until(lambda: two.received == [("one", large)])


async def test_nothing_is_sent_to_whom_there_is_no_connection(cluster: Reef) -> None:
    one = await cluster.node("one")
    assert not one.transport.send("two", "hello")
    assert not one.transport.connected("two")
    assert one.transport.rtt_ms("two") is None


async def test_round_trips_are_measured(cluster: Reef) -> None:
    one, _ = await cluster.pair()
    await one.tick()
    await until(lambda: one.transport._diallers["two"]._round_trips._sent_ms is not None)
    one.clock.advance(7)
    await until(lambda: one.transport.rtt_ms("two") is not None)
    assert one.transport.rtt_ms("two") == 7


async def test_a_break_that_mends_loses_nobody(cluster: Reef) -> None:
    one, two = await cluster.pair()
    await one.tick()
    first = one.transport._diallers["two"].control
    assert first is not None
    for link in list(two.transport._links):
        link.end()
    await until(lambda: not first.ready)
    await until(lambda: one.transport.connected("two"))
    assert one.lost == []
    assert "two" in one.broken  # what was on its way may be lost


async def test_a_process_that_is_gone_is_told_at_once(cluster: Reef) -> None:
    one, two = await cluster.pair()
    await one.tick()
    await two.transport.close()
    await until(lambda: one.lost == ["two"])
    assert not one.transport.connected("two")
    for _ in range(3):
        await until(lambda: len(one.sleeps.waiting) == 3)
        one.retry()
    await until(lambda: len(one.sleeps.waiting) == 3)
    assert one.lost == ["two"]


async def test_pauses_between_tries_grow_and_vary(cluster: Reef) -> None:
    one, two = await cluster.pair()
    await two.transport.close()
    pauses = []
    for _ in range(8):
        await until(lambda: len(one.sleeps.waiting) == 3)
        pauses.append(one.retry()[0])
    assert 0.025 <= pauses[0] <= 0.05
    assert all(1 <= pause <= 2 for pause in pauses[-2:])
    assert pauses[-1] != pauses[-2]


async def test_a_silent_peer_is_dropped_and_dialled_again(cluster: Reef) -> None:
    one, two = await cluster.pair()
    control = one.transport._diallers["two"].control
    assert control is not None
    for link in two.transport._links:
        assert link._transport is not None
        link._transport.pause_reading()  # as a process that is stopped
    await one.tick(6)
    await until(control.ended.done)
    await until(lambda: one.transport.connected("two"))
    assert one.lost == []


async def test_a_caller_that_goes_silent_is_dropped(cluster: Reef) -> None:
    _, two = await cluster.pair()
    await until(lambda: len([link for link in two.transport._links if link.ready]) == 2)
    links = list(two.transport._links)
    await two.tick(6)
    await until(lambda: all(link.ended.done() for link in links))


async def test_connections_that_are_used_live_on(cluster: Reef) -> None:
    one, two = await cluster.pair()
    control = one.transport._diallers["two"].control
    assert control is not None
    for _ in range(12):
        before = one.transport.rtt_ms("two"), len(one.transport._diallers["two"]._round_trips._samples_ms)
        await one.tick()
        await until(
            lambda before=before: len(one.transport._diallers["two"]._round_trips._samples_ms) > before[1]
        )
        await two.tick()
    assert control.ready


async def test_who_is_not_dialled_any_more_is_closed(cluster: Reef) -> None:
    one, two = await cluster.pair()
    one.transport.dial({})
    await until(lambda: not two.transport._links)
    assert not one.transport.connected("two")


async def test_a_node_that_moved_is_found_at_its_new_address(cluster: Reef) -> None:
    one, two = await cluster.pair()
    await one.tick()
    await two.transport.close()
    await until(lambda: one.lost == ["two"])
    moved = await cluster.node("two", two.identity)
    moved.admit(one)
    one.dial(moved)
    await one.until_connected("two")


async def test_a_probe_finds_who_is_there_and_leaves(cluster: Reef) -> None:
    one, two = await cluster.node("one"), await cluster.node("two")
    one.transport.probe([two.address, two.address, one.address])
    await until(lambda: one.seen and two.seen)
    assert [(peer.hello.node_id, peer.address) for peer in one.seen] == [("two", two.address)]
    assert [peer.key_hash for peer in two.seen] == [one.identity.key_hash]
    await until(lambda: not one.transport._links | two.transport._links and not one.transport._probing)
    one.transport.probe([two.address])
    assert not one.transport._probing
    one.clock.advance(1000)
    one.transport.probe([two.address])
    await until(lambda: len(one.seen) == 2)


async def test_of_many_addresses_eight_are_tried_at_a_time(cluster: Reef) -> None:
    one = await cluster.node("one")
    one.transport.probe([f"127.0.0.1:{port}" for port in range(1, 2000)])
    assert len(one.transport._probing) == 8


async def test_addresses_that_nobody_answers_at_keep_no_other_from_its_turn(cluster: Reef) -> None:
    """Of a LAN's addresses most are nobody's, and the one that counts may be told last."""
    one, two = await cluster.node("one"), await cluster.node("two")
    told = [f"127.0.0.1:{port}" for port in range(1, 20)] + [two.address]
    for _ in range(3):
        one.transport.probe(told)
        await until(lambda: not one.transport._probing or one.seen)
        one.clock.advance(1000)
    await until(lambda: [peer.address for peer in one.seen] == [two.address])


async def test_another_node_at_the_address_is_not_talked_to(
    cluster: Reef, caplog: pytest.LogCaptureFixture
) -> None:
    one, two = await cluster.node("one"), await cluster.node("two")
    one.admit(two)
    two.admit(one)
    with caplog.at_level(logging.WARNING, "shoal.transport"):
        one.transport.dial({"three": (two.address,)})
        await until(lambda: "three was expected" in caplog.text)
    assert not one.transport.connected("three")


async def test_a_clone_of_this_node_is_noticed(cluster: Reef, caplog: pytest.LogCaptureFixture) -> None:
    one = await cluster.node("one")
    other = await cluster.node("one", one.identity)
    other.said = one.said.__class__(1, "reef", "one", b"another", (), "", False, 1)
    with caplog.at_level(logging.WARNING, "shoal.transport"):
        one.transport.probe([other.address])
        await until(lambda: "another node id" in caplog.text)
    assert one.seen == []


async def test_a_new_key_is_used_for_new_connections_and_drops_no_old_ones(cluster: Reef) -> None:
    one, two = await cluster.pair()
    control = one.transport._diallers["two"].control
    assert control is not None
    renewed = await asyncio.to_thread(cluster.identity, "one", "one-renewed")
    assert renewed.key_hash != one.identity.key_hash
    one.transport.reload(renewed)
    assert one.transport.send("two", "still the old connection")
    await until(lambda: len(two.received) == 1)
    assert control.ready
    two.key_hashes["one"] = {renewed.key_hash}  # the configuration change is applied
    two.transport.recheck()
    await until(control.ended.done)
    await one.until_connected("two")
    assert two.seen[-1].key_hash == renewed.key_hash


async def test_a_connection_for_http_is_handed_to_it(cluster: Reef) -> None:
    two = await cluster.node("two", http=Echo)
    one = await cluster.node("one")
    assert await http_answer(one, two) == b""  # nobody said hello before
    await cluster.join(one, two)
    assert await http_answer(one, two) == b"GET /"
    two.members.clear()
    assert await http_answer(one, two) == b""


async def test_http_of_a_removed_node_is_closed(cluster: Reef) -> None:
    one, two = await cluster.pair(http=Echo)
    reader, writer = await open_http(one, two)
    writer.write(b"GET /")
    assert await reader.read(5) == b"GET /"
    two.members.clear()
    two.transport.recheck()
    assert await reader.read() == b""
    writer.close()
    await two.tick()
    await until(lambda: all(not link.handed_over for link in two.transport._links))


async def test_http_that_closes_its_connection_twice_stops_nothing(cluster: Reef) -> None:
    """As aiohttp does. asyncio forgets TLS at the second time, and then has no answer to anything."""
    one, two = await cluster.pair(http=Impatient)
    reader, writer = await open_http(one, two)
    writer.write(b"GET /")
    await until(lambda: any(link.handed_over and link._transport._closed for link in two.transport._links))
    two.transport.recheck()
    await two.tick()
    await until(lambda: all(not link.handed_over for link in two.transport._links))
    writer.transport.abort()
    del reader


class Impatient(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.close()
        self.transport.close()


class Echo(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)
        if data == b"GET /":
            return
        self.transport.close()


async def open_http(one: Node, two: Node) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = two.address.split(":")
    tls = one.transport.http_context()
    return await asyncio.open_connection(host, int(port), ssl=tls, server_hostname="")


async def http_answer(one: Node, two: Node) -> bytes:
    reader, writer = await open_http(one, two)
    try:
        writer.write(b"GET /")
        return await reader.read(5)
    except ConnectionError:
        return b""
    finally:
        writer.close()


def random_bytes(count: int) -> bytes:
    """Such that LZ4 finds nothing in them."""
    return random.Random(1).randbytes(count)


async def test_a_door_that_could_not_open_is_tried_again(
    cluster: Reef, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    one, two = await cluster.node("one"), await cluster.node("two")

    def no_file(_: socket.socket) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING, "shoal.transport"):
        patch.setattr(socket.socket, "accept", no_file)
        one.transport.probe([two.address])
        await until(lambda: any(seconds == acceptor.PAUSE_S for seconds, _ in two.sleeps.waiting))
    assert "Too many open files" in caplog.text
    assert two.seen == []
    two.retry()
    await until(lambda: two.seen and one.seen)
