"""Boards of one cluster on this machine: where each is, and what its `shoald` is told."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shoal.address import join_address, split_address
from shoal.errors import ConfigError

_PEERS_ABOVE: Final = 100
_PORTS: Final = range(15_000, 31_000)


@dataclass(frozen=True, slots=True)
class Place:
    """A board of a cluster: its name, its addresses (HOST:PORT), its directories."""

    node_id: str
    listen: str
    peer_listen: str
    data_dir: Path
    tls_dir: Path | None = None

    @property
    def url(self) -> str:
        """Where clients reach it."""
        return f"http://{self.listen}"


def shoald_options(place: Place, places: Sequence[Place]) -> list[str]:
    """All that one board's `shoald` is told."""
    return ["--data-dir", str(place.data_dir), "--listen", place.listen, *cluster_options(place, places)]


def cluster_options(place: Place, places: Sequence[Place]) -> list[str]:
    """What makes it one of these; one place alone is a single board."""
    options = ["--node-id", place.node_id]
    if len(places) == 1:
        return options
    options += ["--mode", "cluster", "--peer-listen", place.peer_listen]
    options += ["--bootstrap-expect", str(len(places)), "--discovery", "static"]
    for other in places:
        if other is not place:
            options += ["--seed", other.peer_listen]
    if place.tls_dir is not None:
        options += ["--tls-dir", str(place.tls_dir)]
    return options


def places_in(data_dir: Path, listen: str, count: int) -> list[Place]:
    """Boards n1 and up below one directory, on ports from that of `listen` on; peers a hundred ports above.

    The same each time, so that what a cluster remembers of its members stays true. Raises ConfigError.
    """
    host, port = split_address(listen)
    if port + _PEERS_ABOVE + count > 65_535:
        raise ConfigError(
            "--listen", f"with {count} boards write a port up to {65_535 - _PEERS_ABOVE - count}"
        )
    return [
        Place(
            f"n{number + 1}",
            join_address(host, port + number),
            join_address(host, port + _PEERS_ABOVE + number),
            data_dir / f"n{number + 1}",
            data_dir / "tls" / f"n{number + 1}",
        )
        for number in range(count)
    ]


def boards_in(data_dir: Path) -> int:
    """How many boards of a cluster were made below a directory."""
    return sum(1 for path in data_dir.glob("tls/n*") if path.is_dir())


def issue_identities(directory: Path, node_ids: Sequence[str]) -> dict[str, Path]:
    """A directory with key and certificate for each node, from an authority made for them alone; kept if all are there.

    The authority's key is forgotten at once. Raises ConfigError for a directory that holds only some of them.
    """
    from shoal.cluster.certificates import make_ca
    from shoal.cluster.identity import CERTIFICATE_FILE, issue

    places = {node_id: directory / node_id for node_id in node_ids}
    there = [node_id for node_id, place in places.items() if (place / CERTIFICATE_FILE).exists()]
    if there and len(there) < len(places):
        raise ConfigError("--nodes", f"{directory} has certificates for {len(there)} boards: start as many")
    if not there:
        authority = make_ca(f"local-{secrets.token_hex(4)}")
        for node_id, place in places.items():
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
            issue(authority, node_id, place)
    return places


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 on which nobody listens at the moment, all different.

    Below those that the kernel gives to outgoing connections: a board that is down for a while finds its port again.
    """
    found: list[int] = []
    while len(found) < count:
        port = _PORTS.start + secrets.randbelow(len(_PORTS))
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            if port not in found:
                found.append(port)
    return found
