"""`shoal cluster add --adopt`: the events of a board that was alone become those of a cluster.

The directory is locked while it is read, so that nothing is added meanwhile. Events keep their ids, so that whatever is
repeated after a failure is not stored twice; every event is read back from the cluster and compared by digest before
the directory moves.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import msgspec

from shoal.client.exchange import Outgoing
from shoal.config import Config, StoreConfig
from shoal.errors import AlreadyExists, InvalidRequest, StreamNotFound, StreamTombstoned
from shoal.node import Node
from shoal.store.api import Store
from shoal.types import Consistency, Event, NewEvent
from shoal_host.cluster_boards import boards_of, views
from shoal_host.data_dir import require_board
from shoal_host.diagnosis import best_view
from shoal_host.exits import DAMAGED, Failure
from shoal_host.options import Target, environment
from shoal_host.output import note
from shoal_host.progress import LongWork

PAGE: Final = 500
TAKEN_SHOWN: Final = 10


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

    Nothing is written before all streams are looked at. Raises NotFound, DataDirLocked, AlreadyExists for streams that
    the cluster has with other events, InvalidRequest, Failure.
    """
    await asyncio.to_thread(require_board, data_dir)
    # As of a cluster: one that was a member is read as it is, and leads nobody.
    config = Config(data_dir=data_dir, mode="cluster", telemetry_handlers=(), stores=(StoreConfig("main"),))
    counted = [0, 0, 0]
    digest = hashlib.sha256()
    async with AsyncExitStack() as stack:
        node = await stack.enter_async_context(await Node.open(config))
        await _require_no_member(node, target)
        _tell_unconfirmed(node)
        moving: list[_Moving] = []
        work = stack.enter_context(LongWork("events given to the cluster"))
        for name in sorted(name for name, store in node.stores.items() if store.head > 0):
            await _make_store(target, name)
            remote = await stack.enter_async_context(environment().connect(replace(target, store=name)))
            moving.append(_Moving(name, node.store(name), remote, work))
        _require_free([taken for each in moving for taken in await each.look()])
        for each in moving:
            for count, more in enumerate(await each.run(digest)):
                counted[count] += more
    moved_to = await asyncio.to_thread(_move_aside, data_dir)
    streams, events, snapshots = counted
    return Adopted(len(moving), streams, events, snapshots, digest.hexdigest(), str(moved_to))


async def _require_no_member(node: Node, target: Target) -> None:
    """The data of a member that is down is its own: it starts with it. Raises InvalidRequest."""
    info = node.info()
    async with boards_of(target) as boards:
        view = best_view(views(await boards.ask_all()))
    name = info["node_id"]
    down = [member["id"] for member in view["members"] if not member["alive"]]
    if view["cluster_id"] == info["cluster_id"] and name in down:
        raise InvalidRequest(
            f"this is the data of {name}, a member of {view['cluster_id']} that is down: start it with it. If that is "
            f"over: shoal cluster remove {name}, then adopt",
            pointer="--adopt",
        )


def _tell_unconfirmed(node: Node) -> None:
    """What a leader has not confirmed to it may never have been."""
    unconfirmed = node.driver.core.log.last_index - node.sequencer.applied_index
    if unconfirmed > 0 and not node.driver.core.is_alone:
        note(
            f"its journal ends with {unconfirmed} entries that no leader has confirmed to it: they are not given"
        )


def _require_free(taken: Sequence[str]) -> None:
    """Raises AlreadyExists, with all that is in the way."""
    if taken:
        named = ", ".join(taken[:TAKEN_SHOWN]) + (", ..." if len(taken) > TAKEN_SHOWN else "")
        raise AlreadyExists(
            f"the cluster has {len(taken)} streams with other events than these here: {named}. Nothing was written. "
            "Delete these streams on one of the two sides, or leave the directory as it is and look into it with "
            "`shoal db`",
            streams=list(taken),
        )


class _Moving:
    """One store on its way."""

    def __init__(self, name: str, local: Store, remote: Store, work: LongWork) -> None:
        self._name = name
        self._local = local
        self._remote = remote
        self._work = work

    async def look(self) -> list[str]:
        """Streams, as STORE/STREAM, that the cluster has with other events. Raises InvalidRequest."""
        taken = []
        async for stream in _streams(self._local):
            first = await self._local.streams.read(stream, 0, 1, consistency="local")
            if not first or first[0].version != 0:
                raise InvalidRequest(
                    f"stream {stream!r} of store {self._name!r} does not begin at version 0, so its numbering cannot "
                    "be kept: delete it for ever, or copy it by hand first",
                    pointer="--adopt",
                )
            if not await self._goes_on(stream):
                taken.append(f"{self._name}/{stream}")
        return taken

    async def _goes_on(self, stream: str) -> bool:
        """Whether one of the two streams is how the other begins: they are the same where the shorter one ends."""
        theirs = await self._remote.streams.get_version(stream)
        last = max(0, min(theirs, await self._local.streams.get_version(stream, consistency="local")))
        try:
            there = await self._remote.streams.read(stream, last, 1)
        except StreamNotFound:
            return True
        except StreamTombstoned:
            return False
        here = await self._local.streams.read(stream, last, 1, consistency="local")
        return [(each.version, each.event_id) for each in here] == [
            (each.version, each.event_id) for each in there
        ]

    async def run(self, digest: Any) -> tuple[int, int, int]:
        """Streams, events and snapshots that are there now. `digest` is carried on."""
        streams = events = snapshots = 0
        async for stream in _streams(self._local):
            count = await self._copy(stream)
            snapshots += await self._copy_snapshots(stream)
            ours = await self._digest(self._local, stream, count, "local")
            theirs = await self._digest(self._remote, stream, count, "leader")
            if ours != theirs:
                raise Failure(
                    f"stream {stream!r} of store {self._name!r} is not the same in the cluster: the data directory "
                    "stays as it is. Run it again; if it stays so, report it",
                    DAMAGED,
                )
            digest.update(ours)
            streams += 1
            events += count
        return streams, events, snapshots

    async def _copy(self, stream: str) -> int:
        """Add what is missing there; how many events there are here."""
        there = await self._remote.streams.get_version(stream)
        last = await self._local.streams.get_version(stream, consistency="local")
        if there < last:
            async for page in _pages(self._local, stream, "local", there + 1):
                await self._remote.streams.append(
                    stream, page[0].version - 1, [_new(event) for event in page]
                )
                self._work.advance(len(page))
        return last + 1

    async def _copy_snapshots(self, stream: str) -> int:
        """Those that the cluster lacks: what it has made of the same events since is newer."""
        found = await self._local.snapshots.list(stream, consistency="local")
        there = {snapshot.version for snapshot in await self._remote.snapshots.list(stream)}
        missing = [snapshot for snapshot in found if snapshot.version not in there]
        for snapshot in missing:
            await self._remote.snapshots.save(stream, snapshot.version, snapshot.data, snapshot.metadata)
        return len(missing)

    @staticmethod
    async def _digest(store: Store, stream: str, count: int, consistency: Consistency) -> bytes:
        """Over all that was to be kept, of the first `count` events."""
        digest = hashlib.sha256(stream.encode())
        async for page in _pages(store, stream, consistency):
            for event in page:
                if event.version >= count:
                    return digest.digest()
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


async def _pages(
    store: Store, stream: str, consistency: Consistency, start: int = 0
) -> AsyncIterator[Sequence[Event]]:
    after: int | None = start
    while after is not None:
        page = await store.streams.read_page(stream, after, PAGE, consistency=consistency)
        if page.events:
            yield page.events
        after = page.next


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
