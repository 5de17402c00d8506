"""Discovery over real sockets: nodes on one host find each other, and nothing from outside troubles them."""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from shoal.cluster.beacon import Beacon, Peer, encode
from shoal.cluster.discovery import Discovery, read_secret
from shoal.config import Config, DiscoveryConfig
from shoal.errors import ConfigError
from shoal.testing.clock import FakeClock

SECRET = b"correct horse battery"
GROUP = "239.255.77.1"


def loopback() -> list[tuple[int, str]]:
    return [(index, name) for index, name in socket.if_nameindex() if name == "lo"]


def networks() -> list[tuple[int, str]]:
    return [(index, name) for index, name in socket.if_nameindex() if name != "lo"]


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="module", autouse=True)
def _multicast_on_loopback() -> None:
    """Some containers have none; there is nothing to test with then."""
    ((index, _),) = loopback()
    request = socket.inet_aton(GROUP) + bytes(4) + struct.pack("@i", index)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.settimeout(2)
        try:
            probe.bind((GROUP, 0))
            probe.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)
            probe.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, request)
            probe.sendto(b"anybody", (GROUP, probe.getsockname()[1]))
            probe.recv(100)
        except OSError as error:
            pytest.skip(f"no multicast on loopback here: {error}")


def cluster_config(port: int, seeds: tuple[str, ...] = ()) -> Config:
    discovery = DiscoveryConfig(port=port, multicast_addr=GROUP, interval_ms=100)
    return Config(mode="cluster", seeds=seeds, discovery=discovery)


class Board:
    """One node's discovery, with a clock and sleeps in the test's hand."""

    def __init__(self, config: Config, node_id: str, secret: bytes = SECRET) -> None:
        self.clock = FakeClock()
        self.told: asyncio.Queue[Peer] = asyncio.Queue()
        self.turns: asyncio.Queue[None] = asyncio.Queue()
        self.rounds: asyncio.Queue[float] = asyncio.Queue()
        own = Beacon("reef", node_id, (f"{node_id}:4590",), 1, 0)
        self.discovery = Discovery(
            config,
            own,
            secret,
            self.clock,
            on_peer=self.told.put_nowait,
            interfaces=loopback,
            sleep=self._sleep,
        )

    async def _sleep(self, seconds: float) -> None:
        self.rounds.put_nowait(seconds)
        await self.turns.get()
        self.clock.advance(seconds * 1000)

    async def next_round(self) -> None:
        self.turns.put_nowait(None)
        await self.rounds.get()


@asynccontextmanager
async def running(*boards: Board) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(board.discovery.run()) for board in boards]
    try:
        async with asyncio.timeout(10):
            for board in boards:
                assert await board.rounds.get() == 0.1
            yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def send(port: int, *datagrams: bytes) -> None:
    """From a stranger on the same host."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
        for datagram in datagrams:
            stranger.sendto(datagram, (GROUP, port))


async def test_two_boards_on_one_host_find_each_other() -> None:
    config = cluster_config(free_port())
    one, two = Board(config, "one"), Board(config, "two")
    async with running(one, two):
        await one.next_round()
        await two.next_round()
        assert (await one.told.get()).node_id == "two"
        assert (await two.told.get()).addresses == ("one:4590",)
        assert [peer.node_id for peer in one.discovery.peers()] == ["two"]


async def test_two_boards_on_one_host_find_each_other_through_the_network_too() -> None:
    """A datagram sent to the network also comes back to the sender's host."""
    config = cluster_config(free_port())
    one, two = Board(config, "one"), Board(config, "two")
    one.discovery._interfaces = two.discovery._interfaces = networks
    async with running(one, two):
        if one.discovery._trouble:
            pytest.skip(f"no multicast on a network here: {one.discovery._trouble}")
        await one.next_round()
        assert (await two.told.get()).node_id == "one"


async def test_a_board_that_falls_silent_is_forgotten() -> None:
    config = cluster_config(free_port())
    one, two = Board(config, "one"), Board(config, "two")
    async with running(one, two):
        await two.next_round()
        await one.told.get()
        one.clock.advance(351)
        assert one.discovery.peers() == []


async def test_strangers_garbage_and_replays_are_passed_over() -> None:
    port = free_port()
    board = Board(cluster_config(port), "one")
    old, new = (
        Beacon("reef", "two", (f"{name}:1",), 5, sequence) for name, sequence in (("old", 1), ("new", 2))
    )
    async with running(board):
        stranger = encode(Beacon("reef", "stranger", (), 1, 1), b"another secret of us")
        send(port, b"", b"x", stranger, bytes(60_000), encode(new, SECRET), encode(old, SECRET))
        send(port, encode(Beacon("reef", "last", (), 1, 1), SECRET))
        assert (await board.told.get()).addresses == ("new:1",)
        assert (await board.told.get()).node_id == "last"
        assert [peer.node_id for peer in board.discovery.peers()] == ["last", "two"]


async def test_addresses_are_the_seeds_and_then_what_peers_say() -> None:
    port = free_port()
    board = Board(cluster_config(port, seeds=("seed:1",)), "one")
    async with running(board):
        send(port, encode(Beacon("reef", "two", ("seed:1", "two:1"), 1, 1), SECRET))
        await board.told.get()
        assert board.discovery.addresses() == ["seed:1", "two:1"]


async def test_in_single_mode_no_socket_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "socket", None)
    board = Board(Config(), "one")
    task = asyncio.create_task(board.discovery.run())
    await asyncio.sleep(0)
    assert not task.done()
    assert (board.discovery.active, board.discovery.peers(), board.rounds.qsize()) == (False, [], 0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_port_that_cannot_be_opened_is_a_warning_once_and_tried_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "shoal.discovery")
    port = free_port()
    board = Board(cluster_config(port), "one")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as occupied:
        occupied.bind((GROUP, port))
        async with running(board):
            await board.next_round()
            warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
            assert len(warnings) == 1
            assert f"UDP port {port} cannot be opened" in caplog.text
            occupied.close()
            await board.next_round()
            send(port, encode(Beacon("reef", "two", (), 1, 1), SECRET))
            assert (await board.told.get()).node_id == "two"
    assert "boards can find this one now" in caplog.text


async def test_a_host_without_networks_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    board = Board(cluster_config(free_port()), "one")
    board.discovery._interfaces = list
    async with running(board):
        await board.next_round()
    assert caplog.text.count("there is no network interface") == 1


async def test_a_network_that_appears_later_is_used(caplog: pytest.LogCaptureFixture) -> None:
    config = cluster_config(free_port())
    one, two = Board(config, "one"), Board(config, "two")
    one.discovery._interfaces = lambda: [(9999, "gone")]
    async with running(one, two):
        assert "gone: " in caplog.text
        one.discovery._interfaces = loopback
        await one.next_round()
        assert (await two.told.get()).node_id == "one"


async def test_stopping_closes_the_socket() -> None:
    config = cluster_config(free_port())
    for _ in range(2):
        board = Board(config, "one")
        async with running(board):
            pass
        assert board.discovery._transport is None


class TestSecret:
    """Where the secret comes from."""

    def test_from_the_configuration(self) -> None:
        assert read_secret(DiscoveryConfig(secret=SECRET.decode())) == SECRET

    def test_from_a_file_without_its_line_end(self, tmp_path: Path) -> None:
        (tmp_path / "secret").write_bytes(SECRET + b"\n")
        assert read_secret(DiscoveryConfig(secret_file=tmp_path / "secret")) == SECRET

    def test_a_missing_or_short_file_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="secret_file: cannot be read"):
            read_secret(DiscoveryConfig(secret_file=tmp_path / "missing"))
        (tmp_path / "short").write_bytes(b"short")
        with pytest.raises(ConfigError, match="at least 16"):
            read_secret(DiscoveryConfig(secret_file=tmp_path / "short"))
