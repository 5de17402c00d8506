"""`shoal cluster add --adopt`: the events of a board that was alone become those of a cluster.

The directory is locked while it is read, so that nothing is added meanwhile. Events keep their ids, so that whatever is
repeated after a failure is not stored twice; every event is read back from the cluster and compared by digest before
the directory moves.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import msgspec

from shoal.client.exchange import Outgoing
from shoal.config import Config, StoreConfig
from shoal.errors import AlreadyExists, InvalidRequest, StreamNotFound
from shoal.node import Node
from shoal.store.api import Store
from shoal.types import Consistency, Event, NewEvent
from shoal_host.cluster_boards import boards_of
from shoal_host.data_dir import require_board
from shoal_host.exits import DAMAGED, Failure
from shoal_host.options import Target, environment
from shoal_host.progress import LongWork

PAGE: Final = 500


@dataclass(frozen=True, slots=True)
class Adopted:
    """What was given to the cluster, and where the directory is now."""

    stores: int
    streams: int
    events: int
    snapshots: int
    digest: str
    moved_to: str

    def fields(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)


async def adopt(data_dir: Path, target: Target) -> Adopted:
    """Give all stores of a stopped board to the cluster, verify, and move the directory aside.

    Raises NotFound, DataDirLocked, AlreadyExists for a stream that the cluster has with other events, Failure.
    """
    await asyncio.to_thread(require_board, data_dir)
    config = Config(data_dir=data_dir, telemetry_handlers=(), stores=(StoreConfig("main"),))
    connect = environment().connect
    counted = [0, 0, 0]
    digest = hashlib.sha256()
    async with await Node.open(config) as node:
        names = sorted(name for name, store in node.stores.items() if store.head > 0)
        with LongWork("events given to the cluster") as work:
            for name in names:
                await _make_store(target, name)
                async with connect(replace(target, store=name)) as remote:
                    moving = _Moving(node.store(name), remote, work)
                    for count, more in enumerate(await moving.run(digest, name)):
                        counted[count] += more
    moved_to = await asyncio.to_thread(_move_aside, data_dir)
    streams, events, snapshots = counted
    return Adopted(len(names), streams, events, snapshots, digest.hexdigest(), str(moved_to))


class _Moving:
    """One store on its way."""

    def __init__(self, local: Store, remote: Store, work: LongWork) -> None:
        self._local = local
        self._remote = remote
        self._work = work

    async def run(self, digest: Any, name: str) -> tuple[int, int, int]:
        """Streams, events and snapshots that are there now. `digest` is carried on."""
        streams = [stream async for stream in _streams(self._local)]
        for stream in streams:
            await self._require_free(stream)
        events = snapshots = 0
        for stream in streams:
            events += await self._copy(stream)
            snapshots += await self._copy_snapshots(stream)
            ours = await self._digest(self._local, stream, "local")
            theirs = await self._digest(self._remote, stream, "leader")
            if ours != theirs:
                raise Failure(
                    f"stream {stream!r} of store {name!r} is not the same in the cluster: the data directory stays as "
                    "it is. Run it again; if it stays so, report it",
                    DAMAGED,
                )
            digest.update(ours)
        return len(streams), events, snapshots

    async def _require_free(self, stream: str) -> None:
        """The cluster has no such stream, or the beginning of this one. Nothing is written before all are looked at."""
        first = await self._local.streams.read(stream, 0, 1, consistency="local")
        if not first or first[0].version != 0:
            raise InvalidRequest(
                f"stream {stream!r} does not begin at version 0, so its numbering cannot be kept: delete it for ever, "
                "or copy it by hand first",
                pointer="--adopt",
            )
        try:
            there = await self._remote.streams.read(stream, 0, 1)
        except StreamNotFound:
            return
        if there and there[0].event_id != first[0].event_id:
            raise AlreadyExists(
                f"the cluster has a stream {stream!r} with other events: nothing was written",
                stream_id=stream,
            )

    async def _copy(self, stream: str) -> int:
        count = 0
        async for page in _pages(self._local, stream, "local"):
            await self._remote.streams.append(stream, count - 1, [_new(event) for event in page])
            count += len(page)
            self._work.advance(len(page))
        return count

    async def _copy_snapshots(self, stream: str) -> int:
        found = await self._local.snapshots.list(stream, consistency="local")
        for snapshot in found:
            await self._remote.snapshots.save(stream, snapshot.version, snapshot.data, snapshot.metadata)
        return len(found)

    @staticmethod
    async def _digest(store: Store, stream: str, consistency: Consistency) -> bytes:
        """Over all that was to be kept."""
        digest = hashlib.sha256(stream.encode())
        async for page in _pages(store, stream, consistency):
            for event in page:
                digest.update(msgspec.msgpack.encode(_kept(event)))
        return digest.digest()


async def _streams(store: Store) -> AsyncIterator[str]:
    """All but the store's own."""
    after: str | None = None
    while True:
        page = await store.streams.list_page(count=PAGE, after=after, consistency="local")
        for stream in page.streams:
            yield stream.stream_id
        if page.next is None:
            return
        after = page.next


async def _pages(store: Store, stream: str, consistency: Consistency) -> AsyncIterator[Sequence[Event]]:
    start: int | None = 0
    while start is not None:
        page = await store.streams.read_page(stream, start, PAGE, consistency=consistency)
        if page.events:
            yield page.events
        start = page.next


def _kept(event: Event) -> tuple[Any, ...]:
    metadata = msgspec.json.encode(event.metadata, order="deterministic")
    return (
        event.version,
        event.event_id,
        event.event_type,
        event.data_content_type,
        event.data_raw,
        metadata,
        event.tags,
    )


def _new(event: Event) -> NewEvent:
    """The same event to append: its payload as the bytes that it is."""
    return NewEvent(
        event.event_type,
        event.data_raw,
        event.metadata or None,
        event.tags or None,
        event.event_id,
        event.data_content_type,
    )


async def _make_store(target: Target, name: str) -> None:
    async with boards_of(target) as boards:
        await boards.by_leader(Outgoing("PUT", f"/v1/stores/{name}"))


def _move_aside(data_dir: Path) -> Path:
    number = 1
    while (aside := data_dir.with_name(f"{data_dir.name}.adopted-{number}")).exists():
        number += 1
    return data_dir.rename(aside)
