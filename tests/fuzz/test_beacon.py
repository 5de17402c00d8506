"""Anybody on the LAN may send anything to the discovery port."""

from __future__ import annotations

import hmac

from hypothesis import given
from hypothesis import strategies as st

from shoal.cluster.beacon import ADDRESSES_MAX, MAGIC, Beacon, Peers, decode, encode

SECRET = b"correct horse battery"
names = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=20)
beacons = st.builds(
    Beacon,
    names,
    names,
    st.lists(names, max_size=ADDRESSES_MAX).map(tuple),
    st.integers(0, 2**63 - 1),
    st.integers(0, 2**63 - 1),
)


@given(st.binary(max_size=2000) | st.binary(max_size=2000).map(MAGIC.__add__))
def test_noise_is_never_a_beacon(datagram: bytes) -> None:
    assert decode(datagram, SECRET) is None


@given(st.binary(max_size=1100))
def test_signed_noise_is_a_beacon_that_can_be_sent_or_nothing(body: bytes) -> None:
    beacon = decode(MAGIC + hmac.digest(SECRET, MAGIC + body, "sha256") + body, SECRET)
    assert beacon is None or decode(encode(beacon, SECRET), SECRET) == beacon


@given(beacons)
def test_every_beacon_that_can_be_sent_comes_back(beacon: Beacon) -> None:
    try:
        datagram = encode(beacon, SECRET)
    except ValueError:
        return  # eight long addresses in many-byte characters do not fit
    assert decode(datagram, SECRET) == beacon


@given(st.lists(beacons, max_size=40), st.integers(0, 1000))
def test_hearing_everything_again_in_any_order_changes_nothing(heard: list[Beacon], later_ms: int) -> None:
    peers = Peers("me", 10_000)
    for beacon in heard:
        peers.hear(beacon, 0)
    before = peers.alive(later_ms)
    for beacon in reversed(heard):
        assert peers.hear(beacon, later_ms) is None
    assert peers.alive(later_ms) == before
