"""`shoal discover` beside boards on loopback."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path
from typing import Any

import pytest
from cli_kit import run
from click.testing import Result

from shoal.cluster.beacon import Beacon
from shoal.cluster.discovery import Discovery
from shoal.config import load
from shoal.testing.clock import FakeClock

SECRET = "correct horse battery"
ADDRESS = "239.255.77.3"


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> int:
    """A free one; the environment says where to listen."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        found: int = probe.getsockname()[1]
    for name, value in (("PORT", str(found)), ("MULTICAST_ADDR", ADDRESS), ("INTERVAL_MS", "100")):
        monkeypatch.setenv(f"SHOAL_DISCOVERY_{name}", value)
    return found


async def discover(*arguments: str, boards: tuple[Beacon, ...], port: int) -> Result:
    """What the command says on another thread, while the boards speak."""
    values: dict[str, Any] = {"mode": "cluster", "discovery.secret": SECRET, "data_dir": "no-such-directory"}
    values |= {"discovery.port": port, "discovery.multicast_addr": ADDRESS, "discovery.interval_ms": 100}
    speaking = [
        asyncio.create_task(Discovery(load(values, {}, None), own, SECRET.encode(), FakeClock()).run())
        for own in boards
    ]
    try:
        return await asyncio.to_thread(run, "discover", *arguments)
    finally:
        for task in speaking:
            task.cancel()
        await asyncio.gather(*speaking, return_exceptions=True)


BOARDS = (
    Beacon("reef", "b", ("10.0.0.2:4590",), 1, 0),
    Beacon("reef", "a", ("10.0.0.1:4590",), 1, 0),
    Beacon("", "new", ("10.0.0.3:4590",), 1, 0),
)


async def test_boards_are_shown_by_cluster(port: int, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(SECRET)
    secret = ("--secret-file", str(tmp_path / "secret"))
    result = await discover(*secret, "--for", "1", "--json", boards=BOARDS, port=port)
    assert (result.exit_code, result.stderr) == (0, "")
    assert json.loads(result.stdout) == {
        "clusters": [
            {
                "cluster_id": "",
                "boards": [{"node_id": "new", "addresses": ["10.0.0.3:4590"], "method": "multicast"}],
            },
            {
                "cluster_id": "reef",
                "boards": [
                    {"node_id": "a", "addresses": ["10.0.0.1:4590"], "method": "multicast"},
                    {"node_id": "b", "addresses": ["10.0.0.2:4590"], "method": "multicast"},
                ],
            },
        ],
        "addresses": [],
    }
    result = await discover(*secret, "--for", "1", boards=BOARDS, port=port)
    assert result.stdout.splitlines() == [
        "cluster\tboard\taddresses\tmethod",
        "none yet\tnew\t10.0.0.3:4590\tmulticast",
        "reef\ta\t10.0.0.1:4590\tmulticast",
        "reef\tb\t10.0.0.2:4590\tmulticast",
    ]


async def test_the_dns_gives_addresses_without_names(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_DISCOVERY_K8S_SERVICE", "localhost")
    monkeypatch.setenv("SHOAL_PEER_LISTEN", "0.0.0.0:4590")
    result = await discover("--discovery", "k8s", "--for", "0.5", "--json", boards=(), port=port)
    document = json.loads(result.stdout)
    assert document["clusters"] == []
    assert "127.0.0.1:4590" in document["addresses"]


async def test_nobody_is_a_note(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_DISCOVERY_SECRET", "another secret of us")
    result = await discover("--for", "0.3", boards=BOARDS, port=port)
    assert (result.exit_code, result.stdout) == (0, "")
    assert "nobody was heard in 0.3 s by multicast" in result.stderr


def test_without_a_secret_it_says_what_to_give() -> None:
    result = run("discover")
    assert result.exit_code == 2
    assert "discovery.secret" in result.stderr
