"""Beacons: what is signed, what is refused, who is remembered and for how long."""

from __future__ import annotations

import hashlib
import hmac

import msgspec
import pytest

from shoal.cluster import beacon as beacons
from shoal.cluster.beacon import (
    ADDRESSES_MAX,
    DATAGRAM_BYTES_MAX,
    MAGIC,
    NODES_MAX,
    Beacon,
    Peer,
    Peers,
    decode,
    encode,
)

SECRET = b"correct horse battery"
ONE = Beacon("reef", "board-1", ("192.0.2.1:4590", "[2001:db8::1]:4590"), 3, 7)


def signed(body: bytes, secret: bytes = SECRET, magic: bytes = MAGIC) -> bytes:
    return magic + hmac.digest(secret, magic + body, "sha256") + body


def spoken(node_id: str = "other", boot: int = 1, sequence: int = 1, address: str = "a:1") -> Beacon:
    return Beacon("reef", node_id, (address,), boot, sequence)


class TestCodec:
    """One datagram."""

    def test_a_beacon_comes_back(self) -> None:
        assert decode(encode(ONE, SECRET), SECRET) == ONE

    def test_the_format_is_the_one_written_down(self) -> None:
        body = msgspec.msgpack.encode(["reef", "board-1", ["192.0.2.1:4590", "[2001:db8::1]:4590"], 3, 7])
        mac = hmac.new(SECRET, b"SHB1" + body, hashlib.sha256).digest()
        assert encode(ONE, SECRET) == b"SHB1" + mac + body

    def test_the_secret_is_not_in_it(self) -> None:
        assert SECRET not in encode(ONE, SECRET)

    def test_another_secret_is_refused(self) -> None:
        assert decode(encode(ONE, SECRET), b"another secret of us") is None

    def test_any_changed_bit_is_refused(self) -> None:
        datagram = encode(ONE, SECRET)
        for bit in range(len(datagram) * 8):
            changed = bytearray(datagram)
            changed[bit // 8] ^= 1 << bit % 8
            assert decode(bytes(changed), SECRET) is None

    def test_any_shortened_datagram_is_refused(self) -> None:
        datagram = encode(ONE, SECRET)
        assert all(decode(datagram[:size], SECRET) is None for size in range(len(datagram)))

    def test_nothing_is_parsed_before_the_signature_holds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        parsed = []

        class Spy:
            def decode(self, body: bytes) -> Beacon:
                parsed.append(body)
                return ONE

        monkeypatch.setattr(beacons, "_decoder", Spy())
        decode(encode(ONE, b"another secret of us"), SECRET)
        assert parsed == []
        decode(encode(ONE, SECRET), SECRET)
        assert len(parsed) == 1

    @pytest.mark.parametrize(
        "body",
        [
            b"\xc0",
            b"\x93\x01\x02\x03",
            b"\x91" * 1000,
            msgspec.msgpack.encode(["reef", "n", [], -1, 0]),
            msgspec.msgpack.encode(["reef", "n", [], 2**63, 0]),
            msgspec.msgpack.encode(["reef", "", [], 1, 1]),
            msgspec.msgpack.encode(["reef", "n\n", [], 1, 1]),
            msgspec.msgpack.encode(["reef", "n" * 129, [], 1, 1]),
            msgspec.msgpack.encode(["reef", "n", ["a:1"] * (ADDRESSES_MAX + 1), 1, 1]),
            b"\x95\xa1\xff\xa1n\x90\x01\x01",
        ],
    )
    def test_what_a_holder_of_the_secret_should_not_say_is_refused_too(self, body: bytes) -> None:
        assert decode(signed(body), SECRET) is None

    def test_too_large_is_refused_even_if_signed(self) -> None:
        body = msgspec.msgpack.encode([*msgspec.structs.astuple(ONE), b"x" * DATAGRAM_BYTES_MAX])
        assert decode(signed(body), SECRET) is None

    def test_fields_of_a_later_release_are_passed_over(self) -> None:
        body = msgspec.msgpack.encode([*msgspec.structs.astuple(ONE), "new"])
        assert decode(signed(body), SECRET) == ONE

    def test_another_format_is_refused(self) -> None:
        assert decode(signed(msgspec.msgpack.encode(ONE), magic=b"SHB2"), SECRET) is None

    def test_the_sender_refuses_what_no_receiver_takes(self) -> None:
        with pytest.raises(ValueError, match="over its limit"):
            encode(msgspec.structs.replace(ONE, addresses=("x" * 120,) * 9), SECRET)
        with pytest.raises(ValueError, match="over its limit"):
            encode(msgspec.structs.replace(ONE, node_id=""), SECRET)


class TestPeers:
    """Who was heard of."""

    def test_a_new_one_is_told_once(self) -> None:
        peers = Peers("me", 1000)
        expected = Peer("reef", "other", ("a:1",), 5)
        assert peers.hear(spoken(), 5) == expected
        assert peers.hear(spoken(sequence=2), 6) is None
        assert peers.alive(6) == [msgspec.structs.replace(expected, heard_ms=6)]

    def test_oneself_is_not_a_peer(self) -> None:
        peers = Peers("me", 1000)
        assert peers.hear(spoken("me"), 0) is None
        assert peers.alive(0) == []

    def test_a_replay_changes_nothing(self) -> None:
        peers = Peers("me", 1000)
        peers.hear(spoken(boot=2, sequence=9, address="new:1"), 0)
        for boot, sequence in ((2, 9), (2, 8), (1, 100)):
            assert peers.hear(spoken(boot=boot, sequence=sequence, address="old:1"), 500) is None
        assert [(peer.addresses, peer.heard_ms) for peer in peers.alive(500)] == [(("new:1",), 0)]

    def test_a_replay_does_not_bring_a_dead_one_back(self) -> None:
        peers = Peers("me", 1000)
        peers.hear(spoken(), 0)
        assert peers.alive(1001) == []
        assert peers.hear(spoken(), 1001) is None
        assert peers.alive(1001) == []

    def test_a_restart_counts_from_its_new_boot(self) -> None:
        peers = Peers("me", 1000)
        peers.hear(spoken(boot=1, sequence=100), 0)
        assert peers.hear(spoken(boot=2, sequence=1, address="b:1"), 1) is not None

    def test_one_that_comes_back_is_told_again(self) -> None:
        peers = Peers("me", 1000)
        peers.hear(spoken(sequence=1), 0)
        assert peers.hear(spoken(sequence=2), 5000) is not None

    def test_they_expire_one_by_one(self) -> None:
        peers = Peers("me", 1000)
        peers.hear(spoken("b"), 0)
        peers.hear(spoken("a"), 600)
        assert [peer.node_id for peer in peers.alive(1000)] == ["a", "b"]
        assert [peer.node_id for peer in peers.alive(1001)] == ["a"]

    def test_memory_stays_flat_and_the_silent_make_room(self) -> None:
        peers = Peers("me", 1000)
        for number in range(NODES_MAX + 50):
            peers.hear(spoken(f"n{number}"), 0)
        assert len(peers.alive(0)) == NODES_MAX
        peers.hear(spoken("n0", sequence=2), 900)
        assert peers.hear(spoken("late"), 1500) is not None
        assert {"n0", "late"} <= {peer.node_id for peer in peers.alive(1500)}
        assert len(peers._heard) == NODES_MAX
