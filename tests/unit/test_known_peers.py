"""What discovery keeps in files: where members were, how often boards had started; and the DNS of Kubernetes."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import pytest

from shoal.cluster.beacon import Beacon, Peers
from shoal.cluster.k8s import ADDRESSES_MAX as PODS_MAX
from shoal.cluster.k8s import K8s
from shoal.cluster.known_peers import (
    BOOTS_FILE,
    PEERS_FILE,
    PEERS_MAX,
    KnownPeer,
    KnownPeers,
    load_peers,
    next_boot,
    save_peers,
)
from shoal.testing.clock import FakeClock

TWO = (KnownPeer("a", ("a:1",), 3), KnownPeer("b", ("b:1", "[::1]:2")))


class TestFile:
    """`peers.json`."""

    def test_it_comes_back(self, tmp_path: Path) -> None:
        assert load_peers(tmp_path) == ()
        save_peers(tmp_path, TWO)
        assert load_peers(tmp_path) == TWO
        assert [path.name for path in tmp_path.iterdir()] == [PEERS_FILE]

    @pytest.mark.parametrize(
        "content", [b"", b"\xff", b"[" * 5000, b"{}", b'{"format": 2, "peers": []}', b" " * 1_000_001]
    )
    def test_a_wrong_one_is_a_warning_and_written_over(
        self, content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        (tmp_path / PEERS_FILE).write_bytes(content)
        assert load_peers(tmp_path) == ()
        assert "passed over and written anew" in caplog.text
        save_peers(tmp_path, TWO)
        assert load_peers(tmp_path) == TWO

    def test_a_directory_in_its_place_is_a_warning(self, tmp_path: Path) -> None:
        (tmp_path / PEERS_FILE).mkdir()
        assert load_peers(tmp_path) == ()

    def test_what_is_no_address_is_passed_over(self, tmp_path: Path) -> None:
        save_peers(tmp_path, (KnownPeer("x", ("nowhere",)), KnownPeer("", ("a:1",)), *TWO))
        assert load_peers(tmp_path) == TWO


class TestMemory:
    """`KnownPeers`."""

    def test_it_is_bounded_and_the_oldest_goes_first(self) -> None:
        known = KnownPeers()
        for number in range(PEERS_MAX):
            known.remember(f"n{number:03}", ("a:1",))
        known.remember("n000", ("b:1",) * 20)
        known.remember("late", ("x:1", "no port", "y" * 400 + ":1"))
        found = {peer.node_id: peer for peer in known.all()}
        assert len(found) == PEERS_MAX
        assert "n001" not in found
        assert len(found["n000"].addresses) == 8
        assert found["late"].addresses == ("x:1",)

    def test_what_was_remembered_since_wins_over_the_file(self) -> None:
        known = KnownPeers()
        known.remember("a", ("new:1",))
        known.restore(TWO)
        assert known.all() == (KnownPeer("a", ("new:1",)), TWO[1])

    def test_boots_are_kept_of_members_and_only_grow(self) -> None:
        known = KnownPeers()
        assert not known.count_boot("a", 5)
        known.remember("a", ("a:1",))
        assert known.count_boot("a", 5)
        assert not known.count_boot("a", 4)
        known.remember("a", ("b:1",))
        assert known.all() == (KnownPeer("a", ("b:1",), 5),)

    def test_an_older_boot_is_not_heard_after_a_restart(self) -> None:
        peers = Peers("me", 1000)
        peers.expect_boots({"a": 5})
        assert peers.hear(Beacon("reef", "a", (), 4, 99), 0) is None
        assert peers.boot_of("a") == 5
        assert peers.hear(Beacon("reef", "a", (), 5, 1), 0) is not None
        assert peers.hear(Beacon("reef", "a", (), 6, 1), 0) is None  # heard, and no news
        assert (peers.boot_of("a"), peers.boot_of("b")) == (6, 0)


class TestBoots:
    """`next_boot`."""

    def test_every_start_is_one_more(self, tmp_path: Path) -> None:
        assert [next_boot(tmp_path / "new") for _ in range(3)] == [1, 2, 3]

    @pytest.mark.parametrize("content", [b"", b"many", b"-7", b"9" * 30])
    def test_a_damaged_counter_begins_anew(
        self, content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        (tmp_path / BOOTS_FILE).write_bytes(content)
        assert [next_boot(tmp_path), next_boot(tmp_path)] == [1, 2]

    def test_it_is_durable_before_it_is_used(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def torn(_descriptor: int) -> None:
            raise OSError("the card is gone")

        next_boot(tmp_path)
        monkeypatch.setattr(os, "fsync", torn)
        with pytest.raises(OSError, match="the card is gone"):
            next_boot(tmp_path)
        assert (tmp_path / BOOTS_FILE).read_bytes() == b"1\n"


class TestK8s:
    """The headless service's addresses."""

    def asked(self, answers: list[Any]) -> K8s:
        """A method whose DNS gives these answers, one after the other."""

        async def resolve(host: str, port: int) -> list[tuple[Any, ...]]:
            assert (host, port) == ("shoal.default.svc", 4590)
            answer = answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return [(2, 1, 6, "", (each, port)) for each in answer]

        self.clock = FakeClock()
        return K8s("shoal.default.svc", 4590, self.clock, 350, resolve)

    async def test_each_pod_once_v4_and_v6(self) -> None:
        k8s = self.asked([["10.0.0.1", "10.0.0.2", "10.0.0.1", "fd00::1"]])
        assert k8s.addresses() == []
        assert await k8s.turn() == ""
        assert k8s.addresses() == ["10.0.0.1:4590", "10.0.0.2:4590", "[fd00::1]:4590"]

    async def test_a_dns_that_is_away_loses_nobody_at_once(self) -> None:
        k8s = self.asked([["10.0.0.1"], OSError("no such name"), UnicodeError("too long"), ["10.0.0.9"]])
        await k8s.turn()
        self.clock.advance(350)
        assert "no address of shoal.default.svc: no such name" in await k8s.turn()
        assert k8s.addresses() == ["10.0.0.1:4590"]
        self.clock.advance(1)
        assert "too long" in await k8s.turn()
        assert k8s.addresses() == []
        assert await k8s.turn() == ""
        assert k8s.addresses() == ["10.0.0.9:4590"]

    async def test_a_dns_with_thousands_is_bounded(self) -> None:
        k8s = self.asked([[f"10.0.{number // 250}.{number % 250}" for number in range(5000)]])
        await k8s.turn()
        assert len(k8s.addresses()) == PODS_MAX

    async def test_the_systems_resolver_answers(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.WARNING)
        k8s = K8s("localhost", 4590, FakeClock(), 350)
        assert await k8s.turn() == ""
        assert "127.0.0.1:4590" in k8s.addresses()
