"""The snapshots of a remote store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shoal.client import wire
from shoal.client.exchange import Reply
from shoal.client.retry import Effect
from shoal.client.selections import BOUNDLESS, stream_path, whole
from shoal.client.transport import Request, Transport
from shoal.errors import NotFound
from shoal.model.payload import check_stream_id, encode_metadata, encode_value
from shoal.types import Consistency, Snapshot


class RemoteSnapshots:
    """`shoal.store.api.Snapshots` over HTTP."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def save(
        self,
        stream_id: str,
        version: int,
        data: Any,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        path = _path(stream_id, version)
        body = wire.snapshot_body(
            *encode_value(data, BOUNDLESS, "/data"), *encode_metadata(metadata, BOUNDLESS, "/metadata")
        )
        await self._transport.call(
            Request("PUT", path, Effect.ONCE, body=body.raw, content_type=body.content_type)
        )

    async def load(self, stream_id: str, *, consistency: Consistency | None = None) -> Snapshot:
        return _snapshot(await self._get(f"{_path(stream_id)}/latest", consistency))

    async def load_at(
        self, stream_id: str, version: int, *, consistency: Consistency | None = None
    ) -> Snapshot:
        return _snapshot(await self._get(_path(stream_id, version), consistency))

    async def list(self, stream_id: str, *, consistency: Consistency | None = None) -> list[Snapshot]:
        reply = await self._get(_path(stream_id), consistency)
        return [found.snapshot() for found in wire.decode(reply.body, wire.Snapshots).snapshots]

    async def delete(self, stream_id: str) -> None:
        await self._transport.call(Request("DELETE", _path(stream_id), Effect.ONCE))

    async def delete_at(self, stream_id: str, version: int) -> None:
        await self._transport.call(Request("DELETE", _path(stream_id, version), Effect.ONCE))

    async def exists(self, stream_id: str, *, consistency: Consistency | None = None) -> bool:
        try:
            await self.load(stream_id, consistency=consistency)
        except NotFound:
            # The whole store may be missing, which is another thing: then this raises.
            return bool(await self.list(stream_id, consistency=consistency))
        return True

    async def exists_at(
        self, stream_id: str, version: int, *, consistency: Consistency | None = None
    ) -> bool:
        try:
            await self.load_at(stream_id, version, consistency=consistency)
        except NotFound:
            return any(
                found.version == version for found in await self.list(stream_id, consistency=consistency)
            )
        return True

    async def _get(self, path: str, consistency: Consistency | None) -> Reply:
        return await self._transport.call(Request("GET", path, consistency=consistency))


def _path(stream_id: str, version: int | None = None) -> str:
    check_stream_id(stream_id, BOUNDLESS)
    path = f"{stream_path(stream_id)}/snapshots"
    return path if version is None else f"{path}/{whole(version, 'version')}"


def _snapshot(reply: Reply) -> Snapshot:
    return wire.decode(reply.body, wire.ReadSnapshot).snapshot()
