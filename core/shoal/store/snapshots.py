"""Snapshots of a local store: replicated commands to write, the writer's connection to read."""

from __future__ import annotations

import builtins
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

from shoal import telemetry
from shoal.errors import NotFound
from shoal.model import payload
from shoal.model.commands import DeleteSnapshots, SaveSnapshot
from shoal.store.checks import check_range
from shoal.store.context import StoreContext
from shoal.types import MAX_VERSION, Consistency, Snapshot


class LocalSnapshots:
    """See shoal.store.api.Snapshots."""

    def __init__(self, context: StoreContext) -> None:
        self._context = context

    async def save(
        self, stream_id: str, version: int, data: Any, metadata: Mapping[str, Any] | None = None
    ) -> None:
        """See shoal.store.api.Snapshots."""
        context = self._context
        payload.check_writable_stream_id(stream_id, context.limits)
        check_range("version", version, 0, MAX_VERSION)
        raw, content_type = payload.encode_value(data, context.limits, "/data")
        meta, meta_type = payload.encode_metadata(metadata, context.limits, "/metadata")
        await self.save_encoded(
            SaveSnapshot(context.name, stream_id, version, raw, content_type, meta, meta_type)
        )

    async def save_encoded(self, command: SaveSnapshot) -> None:
        """Save a snapshot whose payload is checked and encoded already."""
        started = time.perf_counter_ns()
        size = len(command.data) + len(command.metadata or b"")
        await self._context.submit(command, command.stream_id, size)
        self._observe(telemetry.SNAPSHOT_CREATED, command.stream_id, command.version, size, started)

    async def load(self, stream_id: str, *, consistency: Consistency | None = None) -> Snapshot:
        """See shoal.store.api.Snapshots."""
        started = time.perf_counter_ns()
        found = await self._find(stream_id, None, consistency, latest=True)
        if not found:
            raise NotFound(f"stream {stream_id!r} has no snapshot", stream_id=stream_id)
        snapshot = found[0]
        size = len(snapshot.data_raw) + len(snapshot.metadata_raw or b"")
        self._observe(telemetry.SNAPSHOT_READ, stream_id, snapshot.version, size, started)
        return snapshot

    async def load_at(
        self, stream_id: str, version: int, *, consistency: Consistency | None = None
    ) -> Snapshot:
        """See shoal.store.api.Snapshots."""
        check_range("version", version, 0, MAX_VERSION)
        found = await self._find(stream_id, version, consistency, latest=False)
        if not found:
            raise NotFound(
                f"stream {stream_id!r} has no snapshot of version {version}",
                stream_id=stream_id,
                version=version,
            )
        return found[0]

    async def latest_up_to(self, stream_id: str, version: int) -> Snapshot | None:
        """The latest of at most `version` to fold on from: it covers the events up to its own version."""
        context = self._context
        return await context.read_applied(context.queries.covering_snapshot, stream_id, version)

    async def list(self, stream_id: str, *, consistency: Consistency | None = None) -> list[Snapshot]:
        """See shoal.store.api.Snapshots."""
        return await self._find(stream_id, None, consistency, latest=False)

    async def delete(self, stream_id: str) -> None:
        """See shoal.store.api.Snapshots."""
        await self._delete(stream_id, None)

    async def delete_at(self, stream_id: str, version: int) -> None:
        """See shoal.store.api.Snapshots."""
        check_range("version", version, 0, MAX_VERSION)
        await self._delete(stream_id, version)

    async def exists(self, stream_id: str, *, consistency: Consistency | None = None) -> bool:
        """See shoal.store.api.Snapshots."""
        return bool(await self._find(stream_id, None, consistency, latest=True))

    async def exists_at(
        self, stream_id: str, version: int, *, consistency: Consistency | None = None
    ) -> bool:
        """See shoal.store.api.Snapshots."""
        check_range("version", version, 0, MAX_VERSION)
        return bool(await self._find(stream_id, version, consistency, latest=False))

    async def _delete(self, stream_id: str, version: int | None) -> None:
        context = self._context
        payload.check_writable_stream_id(stream_id, context.limits)
        await context.submit(DeleteSnapshots(context.name, stream_id, version), stream_id, 0)

    async def _find(
        self, stream_id: str, version: int | None, consistency: Consistency | None, *, latest: bool
    ) -> builtins.list[Snapshot]:
        context = self._context
        payload.check_stream_id(stream_id, context.limits)
        find = partial(context.read_applied, context.queries.snapshots, stream_id, version, latest)
        return await context.read_settled(consistency, find)

    def _observe(
        self, event: telemetry.EventName, stream_id: str, version: int, size: int, started: int
    ) -> None:
        if telemetry.enabled(event):
            telemetry.emit(
                event,
                {"duration": time.perf_counter_ns() - started, "size_bytes": size},
                {"store_id": self._context.name, "stream_id": stream_id, "version": version},
            )
