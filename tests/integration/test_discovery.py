"""Discovery over real sockets: nodes on one host find each other, and nothing from outside troubles them."""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from shoal.cluster.beacon import Beacon, Peer, encode
from shoal.cluster.discovery import Discovery, read_secret
from shoal.cluster.known_peers import PEERS_FILE, KnownPeer, load_peers
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
    return Config(mode="cluster", seeds=seeds, discovery=discovery, data_dir=Path("no-such-directory"))


class Turns:
    """Who sleeps, first come, first woken: nobody takes the turn of one who has waited longer."""

    def __init__(self) -> None:
        self._sleeping: list[asyncio.Future[None]] = []
        self._spare = 0

    async def get(self) -> None:
        if self._spare:
            self._spare -= 1
            return
        self._sleeping.append(asyncio.get_running_loop().create_future())
        await self._sleeping[-1]

    def put_nowait(self, _: None) -> None:
        self._sleeping = [future for future in self._sleeping if not future.done()]
        if self._sleeping:
            self._sleeping.pop(0).set_result(None)
        else:
            self._spare += 1


class Board:
    """One node's discovery, with a clock and sleeps in the test's hand."""

    def __init__(self, config: Config, node_id: str, cluster_id: str = "reef") -> None:
        self.clock = FakeClock()
        self.told: asyncio.Queue[Peer] = asyncio.Queue()
        self.turns = Turns()
        self.rounds: asyncio.Queue[float] = asyncio.Queue()
        own = Beacon(cluster_id, node_id, (f"{node_id}:4590",), 1, 0) if node_id else None
        self.discovery = Discovery(
            config,
            own,
            SECRET,
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
    one.discovery.multicast.interfaces = two.discovery.multicast.interfaces = networks
    async with running(one, two):
        if one.discovery._trouble["multicast"]:
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
    assert "discovery by multicast works now" in caplog.text


async def test_a_host_without_networks_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    board = Board(cluster_config(free_port()), "one")
    board.discovery.multicast.interfaces = list
    async with running(board):
        await board.next_round()
    assert caplog.text.count("there is no network interface") == 1


async def test_a_network_that_appears_later_is_used(caplog: pytest.LogCaptureFixture) -> None:
    config = cluster_config(free_port())
    one, two = Board(config, "one"), Board(config, "two")
    one.discovery.multicast.interfaces = lambda: [(9999, "gone")]
    async with running(one, two):
        assert "gone: " in caplog.text
        one.discovery.multicast.interfaces = loopback
        await one.next_round()
        assert (await two.told.get()).node_id == "one"


async def test_stopping_closes_the_socket() -> None:
    config = cluster_config(free_port())
    for _ in range(2):
        board = Board(config, "one")
        async with running(board):
            pass
        assert board.discovery.multicast._transport is None


async def test_another_cluster_is_told_once_and_never_merged(caplog: pytest.LogCaptureFixture) -> None:
    port = free_port()
    board = Board(cluster_config(port), "one")
    async with running(board):
        for node_id, cluster_id in (("two", "pond"), ("three", "pond"), ("four", ""), ("five", "reef")):
            send(port, encode(Beacon(cluster_id, node_id, (f"{node_id}:1",), 1, 1), SECRET))
            await board.told.get()
        assert [peer.node_id for peer in board.discovery.strangers()] == ["three", "two"]
        assert board.discovery.addresses() == ["five:1", "four:1"]
    assert caplog.text.count("another cluster, pond, is on this network") == 1


async def test_an_address_for_all_networks_is_where_the_datagram_came_from() -> None:
    port = free_port()
    board = Board(cluster_config(port), "one")
    async with running(board):
        send(port, encode(Beacon("reef", "two", ("0.0.0.0:4590", "[::]:1", "10.0.0.9:1"), 1, 1), SECRET))
        assert (await board.told.get()).addresses == ("127.0.0.1:4590", "127.0.0.1:1", "10.0.0.9:1")


async def test_without_a_word_of_its_own_it_only_listens(tmp_path: Path) -> None:
    config = msgspec.structs.replace(cluster_config(free_port()), data_dir=tmp_path)
    ears, one, two = Board(config, ""), Board(config, "one"), Board(config, "two", "pond")
    async with running(ears, one, two):
        ears.discovery.remember("one", ("one:1",))
        for board in (ears, one, two):
            await board.next_round()
        assert {(await ears.told.get()).node_id, (await ears.told.get()).node_id} == {"one", "two"}
        assert ears.discovery.strangers() == []
        assert {peer.node_id for peer in one.discovery.peers()} == {"two"}
    assert not (tmp_path / PEERS_FILE).exists()


async def test_members_and_their_boots_outlive_a_restart(tmp_path: Path) -> None:
    port = free_port()
    config = msgspec.structs.replace(cluster_config(port), data_dir=tmp_path)
    first = Board(config, "one")
    async with running(first):
        first.discovery.remember("two", ("two:1",))
        await first.rounds.get()  # the file is written, and its pause begins
        send(port, encode(Beacon("reef", "two", ("two:1",), 7, 3), SECRET))
        await first.told.get()
        first.turns.put_nowait(None)
        first.turns.put_nowait(None)
        await first.rounds.get()
        await first.rounds.get()
    assert await asyncio.to_thread(load_peers, tmp_path) == (KnownPeer("two", ("two:1",), 7),)
    second = Board(config, "one")
    async with running(second):
        assert second.discovery.addresses() == ["two:1"]
        send(port, encode(Beacon("reef", "two", ("old:1",), 6, 99), SECRET))
        send(port, encode(Beacon("reef", "two", ("new:1",), 8, 1), SECRET))
        assert (await second.told.get()).addresses == ("new:1",)


async def test_a_disk_that_takes_no_file_is_a_warning_and_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = msgspec.structs.replace(cluster_config(free_port()), data_dir=tmp_path / "file" / "below")
    (tmp_path / "file").write_bytes(b"")
    board = Board(config, "one")
    async with running(board):
        board.discovery.remember("two", ("two:1",))
        await board.rounds.get()
        assert caplog.text.count("discovery by peers.json does not work now") == 1
        (tmp_path / "file").unlink()
        for _ in range(2):
            board.turns.put_nowait(None)
        for _ in range(2):
            await board.rounds.get()
    assert await asyncio.to_thread(load_peers, tmp_path / "file" / "below") == (KnownPeer("two", ("two:1",)),)


async def test_no_method_ends_the_others(caplog: pytest.LogCaptureFixture) -> None:
    port = free_port()
    board = Board(cluster_config(port), "one")

    class Broken:
        """A method with a defect."""

        name = "broken"

        async def turn(self) -> str:
            raise ZeroDivisionError

        async def close(self) -> None:
            """Nothing to do."""

    board.discovery._methods.append(Broken())
    async with running(board):
        await board.rounds.get()
        for _ in range(4):
            board.turns.put_nowait(None)
            await board.rounds.get()
        send(port, encode(Beacon("reef", "two", (), 1, 1), SECRET))
        assert (await board.told.get()).node_id == "two"
    assert caplog.text.count("discovery by broken does not work now") == 1


async def test_in_a_flood_the_loop_answers_and_memory_stays_flat() -> None:
    port = free_port()
    board = Board(cluster_config(port), "one")
    replay = encode(Beacon("reef", "two", ("two:1",), 5, 1), SECRET)
    strangers = [
        encode(Beacon("reef", f"n{number}", (), 1, 1), b"another secret of us") for number in range(50)
    ]
    noise = [b"SHB1" + bytes(65_000), b"SHB1" + bytes(1000), b"", replay, *strangers]
    async with running(board):
        send(port, replay)
        assert (await board.told.get()).node_id == "two"
        tracemalloc.start()
        try:
            flood = asyncio.create_task(asyncio.to_thread(send, port, *noise * 150))
            turns = 0
            while not flood.done():
                await asyncio.sleep(0)
                turns += 1
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert turns > 100
        assert peak < 4_000_000
        assert [peer.node_id for peer in board.discovery.peers()] == ["two"]
        sequence = 1
        while board.told.empty():  # the kernel drops what does not fit
            sequence += 1
            send(port, encode(Beacon("reef", "last", (), 1, sequence), SECRET))
            await asyncio.sleep(0)
        assert board.told.get_nowait().node_id == "last"


class TestSecret:
    """Where the secret comes from."""

    def test_from_the_configuration(self) -> None:
        assert read_secret(DiscoveryConfig(secret=SECRET.decode())) == SECRET

    def test_from_a_file_without_its_line_end(self, tmp_path: Path) -> None:
        (tmp_path / "secret").write_bytes(SECRET + b"\n")
        assert read_secret(DiscoveryConfig(secret_file=tmp_path / "secret")) == SECRET

    def test_a_missing_or_short_file_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="missing cannot be read: No such file"):
            read_secret(DiscoveryConfig(secret_file=tmp_path / "missing"))
        (tmp_path / "short").write_bytes(b"short")
        with pytest.raises(ConfigError, match="at least 16"):
            read_secret(DiscoveryConfig(secret_file=tmp_path / "short"))
