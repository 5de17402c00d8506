"""Beacons: what one board says of itself on the LAN, signed; and what a board remembers of the others.

A datagram is `SHB1`, a 32-byte HMAC-SHA256 over magic and body, and the body as msgpack. The secret never
travels, and nothing is parsed before the signature holds. Order comes from the sender's boot counter and a
sequence number within the boot, not from clocks, which boards do not have. Pure: bytes and times are arguments.
"""

from __future__ import annotations

import hmac
from typing import Final

import msgspec

from shoal.cluster.addresses import ADDRESSES_MAX

MAGIC: Final = b"SHB1"
DATAGRAM_BYTES_MAX: Final = 1200
"""Fits into one packet on any LAN, IP and UDP headers included."""
NODES_MAX: Final = 256

_MAC_BYTES: Final = 32
TEXT_MAX: Final = 128


class Beacon(msgspec.Struct, frozen=True, array_like=True):
    """One board's word. `addresses` are `HOST:PORT`, where peers reach it; new fields go to the end."""

    cluster_id: str
    node_id: str
    addresses: tuple[str, ...]
    boot_counter: int
    sequence: int


class Peer(msgspec.Struct, frozen=True):
    """A board heard of: a hint where to try, never a proof of who is there."""

    cluster_id: str
    node_id: str
    addresses: tuple[str, ...]
    heard_ms: int
    method: str = "multicast"


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(Beacon)


def encode(beacon: Beacon, secret: bytes) -> bytes:
    """The datagram. Raises ValueError for a beacon that a receiver would refuse."""
    body = _encoder.encode(beacon)
    size = len(MAGIC) + _MAC_BYTES + len(body)
    if size > DATAGRAM_BYTES_MAX or not _sane(beacon):
        raise ValueError(f"beacon of {size} bytes or one of its fields is over its limit")
    return MAGIC + _mac(secret, body) + body


def decode(datagram: bytes, secret: bytes) -> Beacon | None:
    """The beacon, or None for anything that somebody with the secret did not make, or made too large."""
    body = datagram[len(MAGIC) + _MAC_BYTES :]
    if len(datagram) > DATAGRAM_BYTES_MAX or not body or not datagram.startswith(MAGIC):
        return None
    if not hmac.compare_digest(datagram[len(MAGIC) : len(MAGIC) + _MAC_BYTES], _mac(secret, body)):
        return None
    try:
        beacon = _decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return beacon if _sane(beacon) else None


def _mac(secret: bytes, body: bytes) -> bytes:
    return hmac.digest(secret, MAGIC + body, "sha256")


def _sane(beacon: Beacon) -> bool:
    names = (beacon.cluster_id, beacon.node_id, *beacon.addresses)
    return (
        len(beacon.addresses) <= ADDRESSES_MAX
        and beacon.node_id != ""
        and all(len(name) <= TEXT_MAX and name.isprintable() for name in names)
        and 0 <= beacon.boot_counter < 2**63
        and 0 <= beacon.sequence < 2**63
    )


class Peers:
    """Who was heard of lately.

    A beacon counts only if its (boot counter, sequence) is above the highest of its node, so a recorded
    datagram sent again changes nothing. That memory outlives the peer's expiry, until `NODES_MAX` nodes are
    known and room is needed; with that many alive, further ones are not heard: memory stays flat.
    """

    def __init__(self, own_node_id: str, expire_ms: int) -> None:
        self._own_node_id = own_node_id
        self._expire_ms = expire_ms
        self._heard: dict[str, tuple[Beacon, int]] = {}  # by node id, the one longest silent first
        self._least_boots: dict[str, int] = {}

    def expect_boots(self, boots: dict[str, int]) -> None:
        """Of these nodes, only beacons of that boot or a later one count: what an earlier start of ours has seen."""
        self._least_boots = dict(boots)

    def boot_of(self, node_id: str) -> int:
        """The highest boot counter seen of a node, 0 without one."""
        heard = self._heard.get(node_id)
        return max(0 if heard is None else heard[0].boot_counter, self._least_boots.get(node_id, 0))

    def hear(self, beacon: Beacon, now_ms: int) -> Peer | None:
        """Remember a beacon; the peer if it is new, came back, or says something else than before."""
        before = self._heard.get(beacon.node_id)
        if beacon.boot_counter < self._least_boots.get(beacon.node_id, 0):
            return None
        if beacon.node_id == self._own_node_id or (
            before is not None and _order(beacon) <= _order(before[0])
        ):
            return None
        if before is None and len(self._heard) >= NODES_MAX and not self._make_room(now_ms):
            return None
        self._heard.pop(beacon.node_id, None)
        self._heard[beacon.node_id] = (beacon, now_ms)
        known = before is not None and self._alive(before[1], now_ms) and _told(before[0]) == _told(beacon)
        return None if known else _peer(beacon, now_ms)

    def alive(self, now_ms: int) -> list[Peer]:
        """Those heard within the expiry time, by node id."""
        alive = [_peer(*heard) for heard in self._heard.values() if self._alive(heard[1], now_ms)]
        return sorted(alive, key=lambda peer: peer.node_id)

    def _alive(self, heard_ms: int, now_ms: int) -> bool:
        return now_ms - heard_ms <= self._expire_ms

    def _make_room(self, now_ms: int) -> bool:
        silent, (_, heard_ms) = next(iter(self._heard.items()))
        if self._alive(heard_ms, now_ms):
            return False
        del self._heard[silent]
        return True


def _peer(beacon: Beacon, heard_ms: int) -> Peer:
    return Peer(beacon.cluster_id, beacon.node_id, beacon.addresses, heard_ms)


def _order(beacon: Beacon) -> tuple[int, int]:
    return beacon.boot_counter, beacon.sequence


def _told(beacon: Beacon) -> tuple[str, tuple[str, ...]]:
    return beacon.cluster_id, beacon.addresses
