"""The receiver's side of a raft_snapshot on a witness, which takes no databases: only where its journal is to begin.

Entries that it lacks then are lost to it and to nobody else; see DESIGN.md, "A witness".
"""

from __future__ import annotations

from shoal.errors import DiskFull, TransferRefused
from shoal.raft.state import Own
from shoal.storage.journal import DISK_FULL, Journal
from shoal.storage.transfer import ChunkReader, Manifest


class ManifestOnly:
    """What stands for an Importer that is complete."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest

    def finish(self, journal: Journal) -> tuple[int, int]:
        """Begin the journal after the manifest's entry; its index and term.

        Raises TransferRefused where the journal holds that entry: then it lacks nothing, DiskFull (nothing changed),
        OSError (the node must end).
        """
        told = self._manifest
        if told.index < journal.first_index or journal.term_at(told.index) == told.term:
            raise TransferRefused(f"entry {told.index} has come meanwhile: the journal stays as it is")
        if not journal.has_room_to_reset():
            raise DiskFull(DISK_FULL)
        journal.reset_to(told.index, told.term, told.configuration, told.configuration_index)
        return told.index, told.term

    def close(self) -> None:
        """Nothing is open."""


def for_a_witness(chunk: bytes, cluster_id: str | None, own: Own) -> ManifestOnly | None:
    """What a transfer's first chunk is to a node that its configuration calls a witness; None to any other.

    Raises TransferRefused for a chunk that is none, or of another cluster.
    """
    manifest = ChunkReader().read(chunk)
    if not isinstance(manifest, Manifest) or manifest.cluster_id != cluster_id:
        raise TransferRefused(
            "a copy does not begin with a manifest of this cluster: correct the addresses of the peers"
        )
    members = manifest.configuration.members
    mine = next((m for m in members if (m.node_id, m.incarnation) == (own.node_id, own.incarnation)), None)
    return ManifestOnly(manifest) if mine is not None and mine.witness else None
