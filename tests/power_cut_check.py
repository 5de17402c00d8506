"""What the power-cut suite asks of a reopened image: the reference is the run that was never cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import apsw
from power_cut_workload import Answered, Asked, Model, State, StoredEvent, StreamState

from shoal.ids import unpack
from shoal.storage.chain import GENESIS, link
from shoal.storage.files import Files
from shoal.storage.recovery import Opened
from shoal.types import Event

STORE = "main"

_EVENTS = """
    SELECT stream.name, event.version, position, event_id, type.name, epoch_us, data, content_type,
           metadata, metadata_type, tags, own_id, coalesce(reading_us, epoch_us), event.chain
    FROM event JOIN stream ON stream.id = event.stream JOIN type ON type.id = event.type
    ORDER BY position
"""
_STREAMS = "SELECT name, version, visible_from, tombstoned, chain FROM stream"
_SNAPSHOTS = "SELECT stream, version, data FROM snapshot"


class Found(NamedTuple):
    """What a store's file holds."""

    rows: list[tuple[Any, ...]]
    streams: dict[str, StreamState]
    chains: dict[str, bytes]
    snapshots: frozenset[tuple[str, int, str]]

    @property
    def position(self) -> int:
        """The last position there is a row of."""
        return self.rows[-1][2] if self.rows else 0


def read(connection: apsw.Connection) -> Found:
    """Everything a reader could be given, and what integrity rests on."""
    streams: dict[str, StreamState] = {}
    chains: dict[str, bytes] = {}
    for name, version, visible_from, tombstoned, chain in connection.execute(_STREAMS):
        streams[name] = StreamState(version, visible_from, bool(tombstoned))
        chains[name] = chain
    snapshots = frozenset((name, version, _text(data)) for name, version, data in connection.execute(_SNAPSHOTS))
    return Found(list(connection.execute(_EVENTS)), streams, chains, snapshots)


def _text(data: bytes) -> str:
    return data.decode().strip('"')
