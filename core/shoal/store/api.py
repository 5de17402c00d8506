"""The one interface of a store, embedded or remote: what users, the HTTP layer and the command line call.

`shoal.open` gives the embedded maker, `shoal.connect` the remote one; both pass the same contract
tests. Versions: `NO_STREAM` -1, `ANY_VERSION` -2, `STREAM_EXISTS` -4, or an exact one >= 0.

`consistency` of a read: `local` is what the board asked has, `leader` what its leader had when it answered,
`linearizable` what a quorum vouches for. By default `leader` in a cluster; on one board all are the same.
"""

from __future__ import annotations

import builtins
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal, Protocol, Self

from shoal.types import (
    ANY_VERSION,
    AggregateResult,
    Appended,
    AppendedMany,
    Beginning,
    CaughtUp,
    Condition,
    Consistency,
    Delivered,
    Direction,
    Event,
    EventFilter,
    EventsPage,
    NackAction,
    NewEvent,
    ParkedEvent,
    ParkedPage,
    Query,
    Snapshot,
    StreamPage,
    StreamsPage,
    StreamWrite,
    Subscription,
    SubscriptionStats,
    SubscriptionType,
)


class Streams(Protocol):
    """Appending to and reading from streams."""

    async def append(self, stream_id: str, expected_version: int, events: Sequence[NewEvent]) -> Appended:
        """Append all of `events`, atomically and durably; the result is the new version (an int).

        Raises WrongExpectedVersion, EventIdReused, StreamTombstoned, InvalidRequest, TooBusy,
        DiskFull, Timeout (its `outcome` says whether the events may still appear).
        """

    async def append_many(
        self, writes: Sequence[StreamWrite], condition: Condition | None = None
    ) -> AppendedMany:
        """Append to several streams atomically, if no event matches `condition`. Raises ConditionFailed too."""

    async def read(
        self,
        stream_id: str,
        start: int | None = None,
        count: int = 100,
        direction: Direction = "forward",
        *,
        consistency: Consistency | None = None,
    ) -> list[Event]:
        """Events from version `start` on (default: the beginning, backward: the head). Raises StreamNotFound."""

    async def read_page(
        self,
        stream_id: str,
        start: int | None = None,
        count: int = 100,
        direction: Direction = "forward",
        *,
        consistency: Consistency | None = None,
    ) -> StreamPage:
        """As `read`, with the stream's head version and where to go on."""

    async def read_event(
        self, stream_id: str, version: int, *, consistency: Consistency | None = None
    ) -> Event:
        """One event. Raises StreamNotFound, NotFound."""

    async def read_all(
        self,
        after: int | None = None,
        count: int = 100,
        direction: Direction = "forward",
        *,
        consistency: Consistency | None = None,
    ) -> list[Event]:
        """Events of all streams in position order, `after` exclusive."""

    async def read_by_event_types(
        self,
        types: Sequence[str],
        count: int = 100,
        after: int | None = None,
        *,
        consistency: Consistency | None = None,
    ) -> list[Event]:
        """Events of any of `types`, in position order. An empty list is InvalidRequest."""

    async def read_by_tags(
        self,
        tags: Sequence[str],
        match: Literal["any", "all"] = "any",
        count: int = 100,
        after: int | None = None,
        *,
        consistency: Consistency | None = None,
    ) -> list[Event]:
        """Events with any or all of `tags`, in position order. An empty list is InvalidRequest."""

    async def query(
        self,
        query: Query,
        after: int | None = None,
        count: int = 100,
        *,
        consistency: Consistency | None = None,
    ) -> EventsPage:
        """Events that match `query`, in position order."""

    async def read_events(
        self,
        selection: EventFilter,
        after: int | None = None,
        count: int = 100,
        direction: Direction = "forward",
        *,
        consistency: Consistency | None = None,
    ) -> EventsPage:
        """The general read over all streams, of which the others are cases."""

    def tail(
        self, selection: EventFilter, after: int | None = None, stream_id: str | None = None
    ) -> AsyncIterator[Event | CaughtUp]:
        """Catch-up after position `after` (None: from now on), then live, for ever; no gap, no duplicate.

        With `stream_id` only that stream, until it is deleted for ever: raises StreamTombstoned then. Yields
        `CaughtUp` once. A slow consumer reads from disk.
        """

    async def find_event(
        self, event_id: str, stream_id: str | None = None, *, consistency: Consistency | None = None
    ) -> Event:
        """The event of that id. Raises NotFound, Ambiguous (with `candidates`)."""

    async def get_version(self, stream_id: str, *, consistency: Consistency | None = None) -> int:
        """The head version, -1 when the stream is missing or deleted."""

    async def exists(self, stream_id: str, *, consistency: Consistency | None = None) -> bool:
        """Whether the stream has events that can be read."""

    async def list_streams(
        self,
        prefix: str = "",
        pattern: str | None = None,
        after: str | None = None,
        count: int = 10_000,
        *,
        system: bool = False,
        consistency: Consistency | None = None,
    ) -> list[str]:
        """Stream ids, sorted bytewise; `$` streams only with `system` (or a prefix that asks for them)."""

    async def list_page(
        self,
        prefix: str = "",
        pattern: str | None = None,
        after: str | None = None,
        count: int = 100,
        *,
        system: bool = False,
        consistency: Consistency | None = None,
    ) -> StreamsPage:
        """As `list_streams`, with versions and where to go on."""

    async def delete(
        self, stream_id: str, *, hard: bool = False, expected_version: int = ANY_VERSION
    ) -> None:
        """Soft delete (numbering goes on when appended to again), or a tombstone for ever. Fine when missing."""


class Snapshots(Protocol):
    """An aggregate's saved states."""

    async def save(
        self,
        stream_id: str,
        version: int,
        data: Any,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Save the state at `version`; the same version is replaced.

        A stream or version that does not exist yet is fine, but no aggregate folds on from such a state. Raises
        StreamNotFound for a deleted stream, StreamTombstoned, and InvalidRequest for a version that was deleted.
        """

    async def load(self, stream_id: str, *, consistency: Consistency | None = None) -> Snapshot:
        """The one with the highest version. Raises NotFound."""

    async def load_at(
        self, stream_id: str, version: int, *, consistency: Consistency | None = None
    ) -> Snapshot:
        """The one of exactly that version. Raises NotFound."""

    async def list(self, stream_id: str, *, consistency: Consistency | None = None) -> list[Snapshot]:
        """All usable ones, ascending by version."""

    async def delete(self, stream_id: str) -> None:
        """Delete all; fine when there are none."""

    async def delete_at(self, stream_id: str, version: int) -> None:
        """Delete one; fine when missing."""

    async def exists(self, stream_id: str, *, consistency: Consistency | None = None) -> bool:
        """Whether the stream has a usable snapshot."""

    async def exists_at(
        self, stream_id: str, version: int, *, consistency: Consistency | None = None
    ) -> bool:
        """Whether it has one of exactly that version."""


class Consumer(Protocol):
    """What `subscribe` gives: one consumer of a subscription.

    `async with` makes the subscription if need be, and gives up what is leased at the end; `async for` yields events,
    for ever. At least once: what is not acked comes again, to this consumer or another.
    """

    async def __aenter__(self) -> Self:
        """Make the subscription unless it is there. Raises AlreadyExists for another definition, InvalidRequest."""

    async def __aexit__(self, *exc: object) -> None:
        """Send the acks that wait, and give back what is leased: others get it at once."""

    def __aiter__(self) -> Self: ...

    async def __anext__(self) -> Delivered: ...

    async def ack(self, event: Delivered) -> None:
        """Settle an event. Raises LeaseExpired.

        Acks travel together: they are durable after that of the last event that was fetched, after `flush`, and
        at the end.
        """

    async def nack(
        self, event: Delivered, action: NackAction = "retry", delay_ms: int | None = None, reason: str = ""
    ) -> None:
        """Have an event come again (after `delay_ms`, None: as `backoff_ms` says), park it, or skip it."""

    async def flush(self) -> None:
        """Make all acks durable now."""

    async def run(self, handler: Callable[[Delivered], Awaitable[None]]) -> None:
        """Call `handler` for each event, with `pool_size` workers; the events of a stream go to one worker, in order.

        An event is acked when its handler returns; when it raises, the event is retried, with the error as reason.
        """


SubscriptionCheck = Callable[[Subscription], None]
"""Raises when the subscription may not be used by whoever asks."""


class Subscriptions(Protocol):
    """Persistent subscriptions. `key` is a name, or a type and a name; names are unique in a store."""

    def subscribe(
        self,
        type: SubscriptionType,  # noqa: A002 - its name in the contract
        selector: Any,
        name: str,
        *,
        consumer: str | None = None,
        start_from: Beginning | int | None = None,
        **options: Any,
    ) -> Consumer:
        """A consumer of the subscription, which is made on entering unless it is there.

        `consumer` names it (default: a name of its own), `options` are those of SubscriptionOptions.
        """

    async def create(
        self,
        type: SubscriptionType,  # noqa: A002 - its name in the contract
        selector: Any,
        name: str,
        *,
        start_from: Beginning | int | None = None,
        **options: Any,
    ) -> Subscription:
        """Make a subscription, or find the same one. It starts after position `start_from` (default: beginning).

        Raises AlreadyExists for another definition; what is not given may differ. InvalidRequest.
        """

    async def update(self, name: str, **options: Any) -> Subscription:
        """Change options. Raises NotFound, InvalidRequest."""

    async def unsubscribe(self, *key: str) -> None:
        """Delete a subscription with what it has parked; its consumers end. Raises NotFound."""

    async def get(self, *key: str) -> Subscription:
        """The subscription. Raises NotFound."""

    async def exists(self, *key: str) -> bool:
        """Whether it exists."""

    async def list(self) -> builtins.list[Subscription]:
        """All, by name."""

    async def pull(
        self, name: str, count: int = 100, wait_ms: int = 0, consumer: str = "default"
    ) -> builtins.list[Delivered]:
        """Lease up to `count` events: at once what there is, or the first that come within `wait_ms`.

        Under strategy single only the first consumer gets events until it is gone. Raises NotFound, InvalidRequest,
        AlreadyExists when the consumer of that name pulls or is connected already.
        """

    async def ack(self, stream_id: str, name: str, event_number: int) -> int:
        """Settle the event of that version, as the reference has it; the result is the checkpoint.

        Durable, unless the subscription is lazy. Raises LeaseExpired, NotFound.
        """

    async def ack_leases(self, name: str, leases: Sequence[str]) -> int:
        """Settle leased events, all or none. Raises LeaseExpired when one is not held any more."""

    async def ack_through(self, name: str, position: int) -> int:
        """Settle every event delivered up to a position. Raises InvalidRequest beyond what was delivered."""

    async def ack_events(self, name: str, events: Sequence[tuple[str, int]]) -> int:
        """Settle events by (stream id, version), all or none."""

    async def nack(
        self,
        name: str,
        leases: Sequence[str],
        action: NackAction = "retry",
        delay_ms: int | None = None,
        reason: str = "",
    ) -> int:
        """Have leased events come again after `delay_ms`, park them, or skip them (settled unprocessed)."""

    async def leave(self, name: str, consumer: str) -> None:
        """Say that a consumer is gone: what it has leased comes again at once. Fine when it is not known."""

    async def parked(self, name: str, after: int = 0, count: int = 100) -> builtins.list[ParkedEvent]:
        """Parked events in position order, `after` exclusive."""

    async def parked_page(self, name: str, after: int = 0, count: int = 100) -> ParkedPage:
        """As `parked`, with where to go on."""

    async def replay_parked(self, name: str, limit: int | None = None) -> int:
        """Deliver parked events again, the first `limit` or all; how many. The checkpoint does not move."""

    async def reset(self, name: str, to: Beginning | int) -> Subscription:
        """Begin again after position `to`: every lease ends, and what is parked after it is forgotten."""

    async def stats(self, name: str) -> SubscriptionStats:
        """Where the subscription stands."""


class Store(Protocol):
    """One store. Use as `async with`; closing waits for what was acknowledged, and takes no new work."""

    @property
    def name(self) -> str:
        """The store's name."""

    @property
    def streams(self) -> Streams:
        """Appending to and reading from streams."""

    @property
    def snapshots(self) -> Snapshots:
        """An aggregate's saved states."""

    @property
    def subscriptions(self) -> Subscriptions:
        """Persistent subscriptions."""

    async def aggregate(
        self,
        stream_id: str,
        *,
        finalize: bool = True,
        fold: Literal["left", "right"] = "left",
        at: int | None = None,
        consistency: Consistency | None = None,
    ) -> AggregateResult:
        """Fold the stream (up to version `at`) from its latest usable snapshot.

        Raises StreamNotFound, StreamTombstoned.
        """

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *exc: object) -> None: ...
