"""The reference's gateway client by its names, over `shoal.connect`: for programs that are moved here.

    from shoal.gateway import Gateway

    async with Gateway("http://board-1:4589", "http://board-2:4589") as gateway:
        version = await gateway.append_events("main", "user-1", -1, [NewEvent("user_created", {})])

Every function takes the store's id first, and is one call of a `shoal.connect` store, named in its first line. What
differs from the reference, because it lost or doubled events there:

- errors are raised (`shoal.errors`), never returned; none is lost: what was fire-and-forget there waits here;
- an expected version means what it says: -1 no stream, -2 any, -4 the stream exists, N exactly N. There, 0 matched a
  missing stream too, and -2 and -4 were refused;
- retries end with the call's time, and a conflict is never retried.

Schemas, links, scavenging, causation, reads by time and channels have no name here, as this release has no such calls.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, Self

from shoal.client import RemoteStore, connect
from shoal.errors import InvalidRequest, NotFound
from shoal.types import (
    ANY_VERSION,
    NO_STREAM,
    STREAM_EXISTS,
    Appended,
    Beginning,
    Direction,
    Event,
    Snapshot,
    Subscription,
    SubscriptionType,
)

_WORDS: Final = {"any": ANY_VERSION, "no_stream": NO_STREAM, "stream_exists": STREAM_EXISTS}
BATCH: Final = 1_000
"""How many events a read by types or tags gives, as in the reference."""


class Gateway:
    """Connections to the boards at `urls`, one for each store that is used; `options` are those of `shoal.connect`."""

    def __init__(self, *urls: str, **options: Any) -> None:
        self._urls = urls
        self._options = options
        self._stores: dict[str, RemoteStore] = {}

    def store(self, store_id: str) -> RemoteStore:
        """The `shoal.connect` store below, for what has no name here, such as `subscriptions.subscribe`."""
        if store_id not in self._stores:
            self._stores[store_id] = connect(*self._urls, store=store_id, **self._options)
        return self._stores[store_id]

    async def close(self) -> None:
        """Close all connections."""
        while self._stores:
            await self._stores.popitem()[1].close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    # -- streams ---------------------------------------------------------------------------------

    async def append_events(self, store_id: str, stream_id: str, *expected_and_events: Any) -> Appended:
        """`streams.append`: of `events`, or `expected_version, events`; words as in the reference are fine too.

        The result is the stream's new version.
        """
        match expected_and_events:
            case (events,):
                expected: Any = ANY_VERSION
            case (expected, events):
                expected = _WORDS.get(expected, expected) if isinstance(expected, str) else expected
            case _:
                raise InvalidRequest("give events, or an expected version and events", pointer="events")
        return await self.store(store_id).streams.append(stream_id, expected, events)

    async def get_events(
        self, store_id: str, stream_id: str, start: int, count: int, direction: Direction = "forward"
    ) -> list[Event]:
        """`streams.read`: versions from `start` on. Raises StreamNotFound."""
        return await self.store(store_id).streams.read(stream_id, start, count, direction)

    async def stream_forward(self, store_id: str, stream_id: str, start: int, count: int) -> list[Event]:
        """`streams.read`, ascending. Raises StreamNotFound."""
        return await self.get_events(store_id, stream_id, start, count, "forward")

    async def stream_backward(self, store_id: str, stream_id: str, start: int, count: int) -> list[Event]:
        """`streams.read`, descending; a `start` beyond the head counts as the head. Raises StreamNotFound."""
        return await self.get_events(store_id, stream_id, start, count, "backward")

    async def get_version(self, store_id: str, stream_id: str) -> int:
        """`streams.get_version`: -1 when the stream is missing."""
        return await self.store(store_id).streams.get_version(stream_id)

    async def get_streams(self, store_id: str) -> list[str]:
        """`streams.list_page`, to its end: the ids of all streams."""
        found: list[str] = []
        after: str | None = None
        while True:
            page = await self.store(store_id).streams.list_page(after=after, count=BATCH)
            found += [stream.stream_id for stream in page.streams]
            after = page.next
            if after is None:
                return found

    async def delete_stream(self, store_id: str, stream_id: str) -> None:
        """`streams.delete`, softly."""
        await self.store(store_id).streams.delete(stream_id)

    async def read_by_event_types(
        self, store_id: str, event_types: Sequence[str], batch_size: int = BATCH
    ) -> list[Event]:
        """`streams.read_by_event_types`: the first ones, by position. No types are InvalidRequest, not all events."""
        return await self.store(store_id).streams.read_by_event_types(event_types, batch_size)

    async def read_by_tags(
        self,
        store_id: str,
        tags: Sequence[str],
        match: Literal["any", "all"] = "any",
        batch_size: int = BATCH,
    ) -> list[Event]:
        """`streams.read_by_tags`: the first ones, by position."""
        return await self.store(store_id).streams.read_by_tags(tags, match, batch_size)

    async def read_all_global(self, store_id: str, offset: int, limit: int) -> list[Event]:
        """`streams.read_all`: of all streams, after position `offset`."""
        return await self.store(store_id).streams.read_all(offset, limit)

    async def has_events(self, store_id: str) -> bool:
        """`streams.read_all`: whether there is one."""
        return bool(await self.read_all_global(store_id, 0, 1))

    # -- subscriptions ---------------------------------------------------------------------------

    async def get_subscriptions(self, store_id: str) -> list[Subscription]:
        """`subscriptions.list`."""
        return await self.store(store_id).subscriptions.list()

    async def get_subscription(self, store_id: str, subscription_name: str) -> Subscription:
        """`subscriptions.get`. Raises NotFound."""
        return await self.store(store_id).subscriptions.get(subscription_name)

    async def save_subscription(
        self,
        store_id: str,
        type: SubscriptionType,  # noqa: A002 - its name in the contract
        selector: Any,
        subscription_name: str,
        start_from: Beginning | int | None = None,
        **options: Any,
    ) -> Subscription:
        """`subscriptions.create`. Who wants its events calls `store(store_id).subscriptions.subscribe`.

        Raises AlreadyExists for another definition.
        """
        return await self.store(store_id).subscriptions.create(
            type, selector, subscription_name, start_from=start_from, **options
        )

    async def remove_subscription(
        self,
        store_id: str,
        type: SubscriptionType,  # noqa: A002 - its name in the contract
        selector: Any,  # noqa: ARG002 - the reference's argument; a name is unique here
        subscription_name: str,
    ) -> None:
        """`subscriptions.unsubscribe`; fine when there is none."""
        try:
            await self.store(store_id).subscriptions.unsubscribe(type, subscription_name)
        except NotFound as error:
            if "subscription" not in error.facts:
                raise

    async def ack_event(
        self, store_id: str, stream_id: str, subscription_name: str, event_number: int
    ) -> int:
        """`subscriptions.ack`: one event, durably; the result is the checkpoint. Raises LeaseExpired, NotFound."""
        return await self.store(store_id).subscriptions.ack(stream_id, subscription_name, event_number)

    # -- snapshots: `source_uuid` is accepted and ignored, as in the reference -----------------------

    async def record_snapshot(
        self,
        store_id: str,
        source_uuid: str,  # noqa: ARG002 - the reference's argument
        stream_id: str,
        version: int,
        data: Any,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """`snapshots.save`."""
        await self.store(store_id).snapshots.save(stream_id, version, data, metadata)

    async def read_snapshot(
        self,
        store_id: str,
        source_uuid: str,  # noqa: ARG002 - the reference's argument
        stream_id: str,
        version: int,
    ) -> Snapshot:
        """`snapshots.load_at`. Raises NotFound."""
        return await self.store(store_id).snapshots.load_at(stream_id, version)

    async def delete_snapshot(
        self,
        store_id: str,
        source_uuid: str,  # noqa: ARG002 - the reference's argument
        stream_id: str,
        version: int,
    ) -> None:
        """`snapshots.delete_at`; fine when there is none."""
        await self.store(store_id).snapshots.delete_at(stream_id, version)

    async def list_snapshots(
        self,
        store_id: str,
        source_uuid: str,  # noqa: ARG002 - the reference's argument
        stream_id: str,
    ) -> list[Snapshot]:
        """`snapshots.list`: ascending by version."""
        return await self.store(store_id).snapshots.list(stream_id)

    # -- the boards ------------------------------------------------------------------------------

    async def list_stores(self) -> list[str]:
        """`GET /v1/stores`: the names of the stores. Needs the role admin."""
        answer = await self._any().ask("GET", "/v1/stores")
        return [store["name"] for store in answer["stores"]]

    async def health(self) -> dict[str, Any]:
        """`GET /v1/health` of one board: its readings."""
        return await self._any().ask("GET", "/v1/health")

    async def quick_health_check(self) -> dict[str, Any]:
        """`GET /readyz` of one board. Raises Unavailable while it is not ready."""
        return await self._any().ask("GET", "/readyz")

    async def verify_cluster_consistency(self) -> dict[str, Any]:
        """`GET /v1/cluster`: its `quorum` says who is alive, its members how far each is. One board is one of one."""
        return await self._any().ask("GET", "/v1/cluster")

    async def verify_membership_consensus(self) -> list[dict[str, Any]]:
        """`GET /v1/cluster`: its members."""
        members: list[dict[str, Any]] = (await self.verify_cluster_consistency())["members"]
        return members

    async def check_raft_log_consistency(self) -> dict[str, Any]:
        """`POST /v1/verify` of one board: what it finds in its journal and database. Needs the role admin."""
        return await self._any().ask("POST", "/v1/verify")

    def _any(self) -> RemoteStore:
        """Any connection: what it is asked has nothing to do with its store."""
        return next(iter(self._stores.values()), None) or self.store("main")
