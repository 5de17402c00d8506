"""What outlives a restart: where members were reached last, how often they had started, and how often this board has.

A file that cannot be read or written is a warning: the other methods find the boards again.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from shoal.address import split_address
from shoal.cluster.addresses import ADDRESSES_MAX
from shoal.cluster.durable import write_durably

PEERS_FILE: Final = "peers.json"
BOOTS_FILE: Final = "boots"
PEERS_MAX: Final = 64
_FILE_BYTES_MAX: Final = 1_000_000
_TEXT_MAX: Final = 300
_FORMAT: Final = 1

_log: Final = logging.getLogger("shoal.discovery")


class KnownPeer(msgspec.Struct, frozen=True):
    """A member whose handshake was complete once."""

    node_id: str
    addresses: tuple[str, ...]
    boot_counter: int = 0


class _File(msgspec.Struct, frozen=True):
    format: int
    peers: tuple[KnownPeer, ...]


class KnownPeers:
    """Them, in memory and bounded."""

    def __init__(self) -> None:
        self._peers: dict[str, KnownPeer] = {}  # the one remembered longest ago first

    def all(self) -> tuple[KnownPeer, ...]:
        """By node id."""
        return tuple(self._peers[node_id] for node_id in sorted(self._peers))

    def restore(self, peers: Sequence[KnownPeer]) -> None:
        """What an earlier start knew; what is remembered since wins."""
        self._peers = {peer.node_id: peer for peer in peers[:PEERS_MAX]} | self._peers

    def remember(self, node_id: str, addresses: Sequence[str]) -> None:
        """A handshake with `node_id` is complete; one more than `PEERS_MAX` takes the place of the oldest."""
        before = self._peers.pop(node_id, KnownPeer(node_id, ()))
        usable = tuple(address for address in addresses if _is_address(address))[:ADDRESSES_MAX]
        self._peers[node_id] = msgspec.structs.replace(before, addresses=usable)
        if len(self._peers) > PEERS_MAX:
            del self._peers[next(iter(self._peers))]

    def count_boot(self, node_id: str, boot_counter: int) -> bool:
        """A boot counter was heard of a node; whether it is news to keep. Of strangers nothing is kept."""
        known = self._peers.get(node_id)
        if known is None or boot_counter <= known.boot_counter:
            return False
        self._peers[node_id] = msgspec.structs.replace(known, boot_counter=boot_counter)
        return True


def load_peers(data_dir: Path) -> tuple[KnownPeer, ...]:
    """What the file has; nothing where it is missing, or wrong, which is a warning. Blocks."""
    path = data_dir / PEERS_FILE
    try:
        if path.stat().st_size > _FILE_BYTES_MAX:
            raise ValueError("it is too large")
        file = msgspec.json.decode(path.read_bytes(), type=_File)
        if file.format != _FORMAT:
            raise ValueError(f"it has format {file.format}, this release reads {_FORMAT}")
    except FileNotFoundError:
        return ()
    except (OSError, ValueError, RecursionError) as error:
        _log.warning("%s is passed over and written anew: %s", path, error)
        return ()
    sane = [peer for peer in file.peers if _is_usable(peer.node_id) and all(map(_is_address, peer.addresses))]
    return tuple(sane[:PEERS_MAX])


def save_peers(data_dir: Path, peers: tuple[KnownPeer, ...]) -> None:
    """Write the file durably. Blocks. Raises OSError."""
    content = msgspec.json.format(msgspec.json.encode(_File(_FORMAT, peers)))
    write_durably(data_dir / PEERS_FILE, content + b"\n")


def _is_usable(text: str) -> bool:
    return 0 < len(text) <= _TEXT_MAX and text.isprintable()


def _is_address(text: str) -> bool:
    try:
        split_address(text)
    except ValueError:
        return False
    return _is_usable(text)


def next_boot(data_dir: Path) -> int:
    """How often a node has started on this directory, this time included. Blocks. Raises OSError."""
    path = data_dir / BOOTS_FILE
    try:
        before = int(path.read_bytes()[:20])
    except FileNotFoundError:
        before = 0
    except ValueError:
        _log.warning("%s holds no number: boards that know this one hear its beacons late or never", path)
        before = 0
    boots = before + 1 if 0 <= before < 2**62 else 1
    write_durably(path, b"%d\n" % boots)
    return boots
