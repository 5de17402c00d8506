"""mDNS on loopback: boards find each other, garbage is passed over, goodbyes are heard."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from subprocess import run

import pytest
from hypothesis import given
from hypothesis import strategies as st
from zeroconf.asyncio import AsyncServiceInfo

from shoal.cluster.beacon import NODES_MAX, Beacon, Peer
from shoal.cluster.mdns import SERVICE, Mdns, peer_of, service_info
from shoal.testing.clock import FakeClock

OWN = Beacon("reef", "one", ("127.0.0.1:4590",), 1, 0)


class Board:
    """One board's mDNS, which sees loopback only."""

    def __init__(self, own: Beacon | None) -> None:
        self.own = own
        self.told: asyncio.Queue[Peer] = asyncio.Queue()
        self.mdns = Mdns(lambda: self.own, FakeClock(), self.told.put_nowait, lambda: ["127.0.0.1"])


@asynccontextmanager
async def opened(*boards: Board) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(20):
            try:
                await asyncio.gather(*(board.mdns.turn() for board in boards))
            except OSError as error:
                pytest.skip(f"no mDNS on loopback here: {error}")
            yield
    finally:
        await asyncio.gather(*(board.mdns.close() for board in boards))


async def test_boards_find_each_other_and_a_listener_both() -> None:
    one, two, listener = Board(OWN), Board(Beacon("", "two", ("127.0.0.1:4591",), 1, 0)), Board(None)
    async with opened(one, two, listener):
        assert await one.told.get() == Peer("", "two", ("127.0.0.1:4591",), 0, "mdns")
        assert await two.told.get() == Peer("reef", "one", ("127.0.0.1:4590",), 0, "mdns")
        assert {(await listener.told.get()).node_id, (await listener.told.get()).node_id} == {"one", "two"}
        one.own = Beacon("pond", "one", ("127.0.0.1:4590",), 1, 7)
        await one.mdns.turn()
        assert (await two.told.get()).cluster_id == "pond"
        await one.mdns.close()
        while two.mdns.peers():  # noqa: ASYNC110 - the package tells nobody when a goodbye was heard
            await asyncio.sleep(0.01)


async def test_other_networks_open_it_anew_and_none_is_trouble() -> None:
    board = Board(None)
    async with opened(board):
        before = board.mdns._zeroconf
        await board.mdns.turn()
        assert board.mdns._zeroconf is before
        board.mdns.hosts = list
        assert await board.mdns.turn() == "there is no network interface"
        assert board.mdns._zeroconf is None
        board.mdns.hosts = lambda: ["127.0.0.1"]
        assert await board.mdns.turn() == ""


def test_zeroconf_is_not_loaded_where_the_method_is_off() -> None:
    code = "import sys, shoal.cluster.discovery; sys.exit('zeroconf' in sys.modules)"
    assert run([sys.executable, "-c", code], check=False).returncode == 0


def info_of(
    properties: dict[bytes, bytes | None], port: int = 1, hosts: tuple[str, ...] = ("10.0.0.1",)
) -> AsyncServiceInfo:
    return AsyncServiceInfo(
        SERVICE, f"x.{SERVICE}", port=port, properties=properties, parsed_addresses=list(hosts)
    )


def test_what_a_board_announces_is_read_as_that_board() -> None:
    assert peer_of(service_info(OWN, ["10.0.0.7"]), 5) == Peer("reef", "one", ("127.0.0.1:4590",), 5, "mdns")
    everywhere = Beacon("", "n" * 64, ("0.0.0.0:4590",), 1, 0)
    assert peer_of(service_info(everywhere, ["10.0.0.7"]), 5) == Peer(
        "", "n" * 64, ("10.0.0.7:4590",), 5, "mdns"
    )


@pytest.mark.parametrize(
    "info",
    [
        info_of({}),
        info_of({b"node": None}),
        info_of({b"node": b"\xff"}),
        info_of({b"node": b"a\n"}),
        info_of({b"node": b"a" * 129}),
        info_of({b"node": b"a", b"cluster": b"\x1b[2J"}),
        info_of({b"node": b"a"}, port=0),
        info_of({b"node": b"a"}, hosts=()),
    ],
)
def test_garbage_is_no_board(info: AsyncServiceInfo) -> None:
    assert peer_of(info, 0) is None


@given(st.binary(max_size=300))
def test_any_text_record_is_a_board_or_nothing(text: bytes) -> None:
    info = AsyncServiceInfo(SERVICE, f"x.{SERVICE}", port=1, properties=text, parsed_addresses=["10.0.0.1"])
    peer = peer_of(info, 0)
    assert peer is None or (peer.node_id.isprintable() and peer.cluster_id.isprintable())


async def test_memory_is_bounded_and_oneself_is_no_peer() -> None:
    board = Board(OWN)
    board.mdns._take("self", info_of({b"node": b"one"}))
    for number in range(NODES_MAX + 50):
        board.mdns._take(f"n{number}", info_of({b"node": f"n{number}".encode()}))
        board.mdns._take(f"n{number}", info_of({b"node": f"n{number}".encode()}))
    assert len(board.mdns.peers()) == board.told.qsize() == NODES_MAX
