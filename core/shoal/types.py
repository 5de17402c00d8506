"""The values users meet: events to append, recorded events, pages, results.

All are plain data. Payloads travel as bytes; `Event.data` decodes on first access, so that a reader
that only forwards events never pays for decoding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Literal
from uuid import UUID

import msgspec

NO_STREAM: Final = -1
ANY_VERSION: Final = -2
STREAM_EXISTS: Final = -4
MAX_VERSION: Final = 2**53 - 1
"""Versions and positions stay exact in every JSON reader."""

JSON: Final = "application/json"
CBOR: Final = "application/cbor"
BINARY: Final = "application/octet-stream"

Direction = Literal["forward", "backward"]
Consistency = Literal["local", "leader", "linearizable"]
"""How new a read must be: as this board has it, as the leader has it, or proven by a quorum to be the latest."""

_decode_json = msgspec.json.decode


def decode_payload(raw: bytes, content_type: str | None) -> Any:
    """The value of a stored payload: JSON and CBOR are decoded, anything else is the bytes."""
    if content_type is None or content_type == JSON:
        return _decode_json(raw)
    if content_type == CBOR:
        import cbor2

        return cbor2.loads(raw)
    return raw


class NewEvent(msgspec.Struct, frozen=True, gc=False):
    """An event to append.

    `data` is any JSON value, or `bytes` (stored as they are, `data_content_type` then says what they
    are, default application/octet-stream). Without `event_id` the store makes a UUIDv7.
    """

    event_type: str
    data: Any
    metadata: Mapping[str, Any] | None = None
    tags: Sequence[str] | None = None
    event_id: str | None = None
    data_content_type: str | None = None


class Event(msgspec.Struct):
    """A recorded event.

    `version` is its place in the stream (from 0), `position` its place in the store (from 1),
    `epoch_us` microseconds since 1970 that never decrease with `position`. The raw fields are what
    the store holds: `id_raw` is 16 bytes for a UUID, else the text; `data_raw` the payload's bytes;
    a content type of None means application/json.
    """

    stream_id: str
    version: int
    position: int
    id_raw: bytes | str
    event_type: str
    epoch_us: int
    data_raw: bytes
    content_type: str | None = None
    metadata_raw: bytes | None = None
    metadata_type: str | None = None
    tags_raw: bytes | None = None
    _data: Any = msgspec.UNSET

    @property
    def event_id(self) -> str:
        """The id as text."""
        raw = self.id_raw
        return raw if isinstance(raw, str) else str(UUID(bytes=raw))

    @property
    def data(self) -> Any:
        """The decoded payload; decoded once, then kept."""
        if self._data is msgspec.UNSET:
            self._data = decode_payload(self.data_raw, self.content_type)
        return self._data

    @property
    def metadata(self) -> dict[str, Any]:
        """The decoded metadata; an empty dict when there is none."""
        if self.metadata_raw is None:
            return {}
        value: dict[str, Any] = decode_payload(self.metadata_raw, self.metadata_type)
        return value

    @property
    def tags(self) -> list[str]:
        """The tags as sent, in order."""
        return [] if self.tags_raw is None else _decode_json(self.tags_raw, type=list[str])

    @property
    def data_content_type(self) -> str:
        """Media type of the payload."""
        return self.content_type or JSON

    @property
    def metadata_content_type(self) -> str:
        """Media type of the metadata."""
        return self.metadata_type or JSON

    @property
    def timestamp(self) -> str:
        """`epoch_us` as RFC 3339 in UTC, with microseconds."""
        return timestamp(self.epoch_us)


def timestamp(epoch_us: int) -> str:
    """RFC 3339 in UTC, with microseconds."""
    seconds, micros = divmod(epoch_us, 1_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{micros:06d}Z"


class Appended(int):
    """The stream's version after an append, with what else is known of it.

    It is an `int`, so `version = await store.streams.append(...)` reads as in the reference.
    `position` is that of the last event of the append; `duplicate` says that every event was already
    there. An empty batch has `first_version == version + 1`.
    """

    stream_id: str
    first_version: int
    position: int
    duplicate: bool

    def __new__(
        cls, stream_id: str, first_version: int, version: int, position: int, duplicate: bool
    ) -> Appended:
        self = int.__new__(cls, version)
        self.stream_id = stream_id
        self.first_version = first_version
        self.position = position
        self.duplicate = duplicate
        return self

    @property
    def version(self) -> int:
        """The stream's version, as a plain int."""
        return int(self)


class AppendedMany(msgspec.Struct, frozen=True):
    """Result of an append to several streams; `position` is that of the last event."""

    position: int
    results: list[Appended]
    duplicate: bool = False


class StreamWrite(msgspec.Struct, frozen=True):
    """One stream's part of an append to several."""

    stream_id: str
    expected_version: int
    events: Sequence[NewEvent]


class QueryItem(msgspec.Struct, frozen=True, array_like=True):
    """Matches events of any of `types` (empty: all) that carry all of `tags`."""

    types: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()


class Query(msgspec.Struct, frozen=True, array_like=True):
    """Matches what any of its items matches."""

    items: tuple[QueryItem, ...]


class Condition(msgspec.Struct, frozen=True, array_like=True):
    """Dynamic consistency boundary: the append fails if `query` matches an event after `after`."""

    query: Query
    after: int = 0


class EventFilter(msgspec.Struct, frozen=True):
    """What a read over all streams selects; empty fields select everything.

    `types` are alternatives; `tags` alternatives or, with `tags_match="all"`, all needed;
    `stream_pattern` is a wildcard on the stream id (`*` any run, `?` one character);
    `system` includes streams whose id begins with `$`.
    """

    types: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    tags_match: Literal["any", "all"] = "any"
    stream_pattern: str | None = None
    query: Query | None = None
    system: bool = False


class StreamPage(msgspec.Struct, frozen=True):
    """A page of one stream; `next` is the version to read on from, None at the end."""

    stream_id: str
    version: int
    events: list[Event]
    next: int | None


class EventsPage(msgspec.Struct, frozen=True):
    """A page over all streams; `head` is the last position assigned, `next` the `after` to go on."""

    events: list[Event]
    head: int
    next: int


class StreamInfo(msgspec.Struct, frozen=True):
    """A stream and its head version."""

    stream_id: str
    version: int


class StreamsPage(msgspec.Struct, frozen=True):
    """Streams sorted by id (bytewise); `next` is the `after` to go on, None at the end."""

    streams: list[StreamInfo]
    next: str | None


class Snapshot(msgspec.Struct, frozen=True):
    """An aggregate's state at a version, saved by a client."""

    stream_id: str
    version: int
    epoch_us: int
    data_raw: bytes
    content_type: str | None = None
    metadata_raw: bytes | None = None
    metadata_type: str | None = None

    @property
    def data(self) -> Any:
        """The decoded state."""
        return decode_payload(self.data_raw, self.content_type)

    @property
    def metadata(self) -> dict[str, Any]:
        """The decoded metadata; an empty dict when there is none."""
        if self.metadata_raw is None:
            return {}
        value: dict[str, Any] = decode_payload(self.metadata_raw, self.metadata_type)
        return value


class AggregateResult(msgspec.Struct, frozen=True):
    """A folded stream: the version folded up to, and the state."""

    version: int
    state: dict[str, Any]


class CaughtUp(msgspec.Struct, frozen=True):
    """Yielded once by a tail when it has delivered everything there was; `position` is the head."""

    position: int


SubscriptionType = Literal["stream", "all", "event_type", "event_pattern", "event_payload", "tags"]
Strategy = Literal["single", "round_robin", "by_stream"]
AckDurability = Literal["durable", "lazy"]
NackAction = Literal["retry", "park", "skip"]
Beginning = Literal["beginning", "end"]


class SubscriptionOptions(msgspec.Struct, frozen=True):
    """How a subscription delivers; every option can be changed later.

    `max_in_flight` events at most are delivered and not settled; a lease ends after `ack_timeout_ms`; an event is
    parked when it failed `max_retries` times after the first; the n-th retry waits the n-th of `backoff_ms` (the
    last one for all further ones; none: no pause). A consumer is gone after `consumer_timeout_ms` without a call.
    `ack_durability` lazy answers acks from memory and stores them every `checkpoint_interval_ms`. Events are kept
    from scavenging until they are settled, for `retention_hold_max_ms` at most where one is given.
    """

    ack_timeout_ms: int = 30_000
    max_in_flight: int = 1_000
    max_retries: int = 10
    backoff_ms: tuple[int, ...] = (100, 1_000, 5_000, 30_000)
    strategy: Strategy = "single"
    ordered: bool = False
    ack_durability: AckDurability = "durable"
    checkpoint_interval_ms: int = 5_000
    consumer_timeout_ms: int = 30_000
    pool_size: int = 1
    retention_hold_max_ms: int | None = None


class Subscription(msgspec.Struct, frozen=True):
    """A subscription as stored. Every event up to position `checkpoint` that `selector` matches is settled."""

    name: str
    type: SubscriptionType
    selector: Any
    start_from: Beginning | int
    options: SubscriptionOptions
    checkpoint: int
    created_us: int


class SubscriptionStats(msgspec.Struct, frozen=True):
    """Where a subscription stands.

    `lag` counts the store's positions after that up to which nothing is known to be left; where nobody consumes, each
    call looks a little further. `in_flight` events are delivered and not settled, `waiting` ones wait for their next
    delivery; `delivered` and `redeliveries` count since the node began. `holds_after` is the position after which the
    subscription keeps events from scavenging, None when it keeps none.
    """

    name: str
    checkpoint: int
    head: int
    lag: int
    in_flight: int
    waiting: int
    parked: int
    delivered: int
    redeliveries: int
    consumers: list[str]
    holds_after: int | None


class Delivered(Event):
    """An event as delivered by a subscription: settle it by its `lease`; `attempt` counts deliveries from 1."""

    lease: str = ""
    attempt: int = 1


class ParkedEvent(Event):
    """An event that a subscription has put aside, and why; `replaying` says that it is delivered again."""

    reason: str = ""
    attempts: int = 0
    replaying: bool = False


class ParkedPage(msgspec.Struct, frozen=True):
    """Parked events in position order; `next` is the `after` to go on, None at the end."""

    events: list[ParkedEvent]
    next: int | None


class Limits(msgspec.Struct, frozen=True):
    """What a request may hold. Bytes are UTF-8 bytes."""

    body_bytes: int = 16 * 1024 * 1024
    event_bytes: int = 4 * 1024 * 1024
    events_per_append: int = 10_000
    page_events: int = 10_000
    page_bytes: int = 16 * 1024 * 1024
    stream_id_bytes: int = 512
    event_type_bytes: int = 256
    event_id_bytes: int = 128
    tags_per_event: int = 64
    tag_bytes: int = 128
    depth: int = 64
    query_items: int = 64
    writes_per_append: int = 256
    subscriptions: int = 10_000
    selector_bytes: int = 16 * 1024
    subscription_name_bytes: int = 128
