"""Bodies: events and snapshots as they travel, to and from `shoal.types`.

Payloads stay bytes: what is sent was encoded and checked by the same code as in the store, and what
is received is decoded by `Event.data` when somebody looks. Bytes travel as base64 in JSON; only
metadata that holds bytes turns the whole body into CBOR.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import msgspec
from msgspec import Raw

from shoal.client.selections import BOUNDLESS
from shoal.errors import InternalError, InvalidRequest
from shoal.ids import unpack
from shoal.model.commands import ProposedEvent, Write
from shoal.model.payload import encode_value
from shoal.types import (
    CBOR,
    JSON,
    Beginning,
    Condition,
    Delivered,
    Event,
    ParkedEvent,
    Query,
    Snapshot,
    StreamInfo,
    Subscription,
    SubscriptionOptions,
    SubscriptionType,
    decode_payload,
)

T = TypeVar("T")
E = TypeVar("E", bound=Event)

_encode = msgspec.json.Encoder().encode
_NO_TAGS = Raw(b"[]")
_NO_METADATA = Raw(b"{}")
_EPOCH = datetime.fromtimestamp(0, UTC)


class Body(msgspec.Struct, frozen=True):
    """An encoded request body and its media type."""

    raw: bytes
    content_type: str


class ReadPayload(msgspec.Struct, kw_only=True):
    """Data and metadata of one event or snapshot in an answer."""

    data: Raw = Raw(b"")
    data_base64: bytes | None = None
    data_content_type: str = JSON
    metadata: Raw = _NO_METADATA
    metadata_base64: bytes | None = None
    metadata_content_type: str = JSON

    def raw(self) -> tuple[bytes, str | None, bytes | None, str | None]:
        """The payload as `Event` and `Snapshot` hold it."""
        data = bytes(self.data) if self.data_base64 is None else self.data_base64
        metadata = bytes(self.metadata) if self.metadata_base64 is None else self.metadata_base64
        return (
            data,
            _stored(self.data_content_type),
            metadata if metadata != b"{}" else None,
            (_stored(self.metadata_content_type)),
        )


class ReadEvent(ReadPayload):
    """An event in an answer."""

    stream_id: str
    version: int
    position: int
    event_id: str
    event_type: str
    epoch_us: int
    tags: Raw = _NO_TAGS

    def event(self) -> Event:
        """The event, its data still bytes."""
        return self._as(Event)

    def _as(self, kind: type[E], **more: Any) -> E:
        """An event of that kind, with what it has `more`."""
        data, content_type, metadata, metadata_type = self.raw()
        tags = bytes(self.tags)
        return kind(
            stream_id=self.stream_id,
            version=self.version,
            position=self.position,
            id_raw=self.event_id,
            event_type=self.event_type,
            epoch_us=self.epoch_us,
            data_raw=data,
            content_type=content_type,
            metadata_raw=metadata,
            metadata_type=metadata_type,
            tags_raw=None if tags == b"[]" else tags,
            **more,
        )


class ReadDelivered(ReadEvent, kw_only=True):
    """An event that a subscription delivers."""

    lease: str
    attempt: int

    def event(self) -> Delivered:
        """The event, its data still bytes."""
        return self._as(Delivered, lease=self.lease, attempt=self.attempt)


class ReadParked(ReadEvent, kw_only=True):
    """An event that a subscription has put aside."""

    reason: str
    attempts: int
    replaying: bool = False

    def event(self) -> ParkedEvent:
        """The event, its data still bytes."""
        return self._as(ParkedEvent, reason=self.reason, attempts=self.attempts, replaying=self.replaying)


class ReadSnapshot(ReadPayload):
    """A snapshot in an answer."""

    stream_id: str
    version: int
    epoch_us: int

    def snapshot(self) -> Snapshot:
        """The snapshot, its data still bytes."""
        return Snapshot(self.stream_id, self.version, self.epoch_us, *self.raw())


class StreamEvents(msgspec.Struct):
    """A page of one stream."""

    stream_id: str
    version: int
    events: list[ReadEvent]
    next: int | None


class AllEvents(msgspec.Struct):
    """A page over all streams."""

    events: list[ReadEvent]
    head: int
    next: int


class StreamNames(msgspec.Struct):
    """A page of streams."""

    streams: list[StreamInfo]
    next: str | None


class Snapshots(msgspec.Struct):
    """All snapshots of a stream."""

    snapshots: list[ReadSnapshot]


class AppendedAnswer(msgspec.Struct):
    """One stream's part of an append; the whole append's when it was to one stream."""

    stream_id: str
    first_version: int
    version: int
    position: int = 0
    duplicate: bool = False


class AppendedManyAnswer(msgspec.Struct):
    """An append to several streams."""

    position: int
    results: list[AppendedAnswer]
    duplicate: bool = False


class ReadSubscription(SubscriptionOptions, frozen=True, kw_only=True):
    """A subscription in an answer, its options beside the rest."""

    name: str
    type: SubscriptionType
    selector: Any
    start_from: Beginning | int
    checkpoint: int
    created: datetime

    def subscription(self) -> Subscription:
        """The subscription."""
        options = SubscriptionOptions(
            **{name: getattr(self, name) for name in SubscriptionOptions.__struct_fields__}
        )
        created_us = (self.created - _EPOCH) // timedelta(microseconds=1)
        return Subscription(
            self.name, self.type, self.selector, self.start_from, options, self.checkpoint, created_us
        )


class AllSubscriptions(msgspec.Struct):
    """All subscriptions."""

    subscriptions: list[ReadSubscription]


class Pulled(msgspec.Struct):
    """Leased events."""

    events: list[ReadDelivered]


class ParkedEvents(msgspec.Struct):
    """A page of parked events."""

    events: list[ReadParked]
    next: int | None


class CheckpointAnswer(msgspec.Struct):
    """Where a subscription is after some of its events were settled."""

    checkpoint: int


class ReplayedAnswer(msgspec.Struct):
    """How many parked events are delivered again."""

    replayed: int


class FoldedAnswer(msgspec.Struct):
    """A folded stream."""

    version: int
    state: dict[str, Any]


class CaughtUpAnswer(msgspec.Struct):
    """What an event stream says when it has delivered all there was."""

    position: int


def decode(raw: bytes, shape: type[T]) -> T:
    """An answer as `shape`. Raises InternalError for what this release does not understand."""
    try:
        return msgspec.json.decode(raw, type=shape)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InternalError(
            f"the board's answer is not understood ({error}); do client and board have the same release?",
            outcome="unknown",
        ) from error


def append_body(events: Sequence[ProposedEvent], expected_version: int) -> Body:
    """The body of an append to one stream."""
    cbor = _has_binary_metadata(events)
    return _body({"expected_version": expected_version, "events": _events(events, cbor=cbor)}, cbor=cbor)


def append_many_body(writes: Sequence[Write], condition: Condition | None) -> Body:
    """The body of an append to several streams."""
    cbor = any(_has_binary_metadata(write.events) for write in writes)
    body: dict[str, Any] = {
        "writes": [
            {
                "stream_id": write.stream_id,
                "expected_version": write.expected_version,
                "events": _events(write.events, cbor=cbor),
            }
            for write in writes
        ]
    }
    if condition is not None:
        body["condition"] = {"query": query_fields(condition.query), "after": condition.after}
    return _body(body, cbor=cbor)


def query_fields(query: Query) -> dict[str, Any]:
    """A query as it travels."""
    return {"items": [{"types": list(item.types), "tags": list(item.tags)} for item in query.items]}


def query_body(query: Query, after: int | None, count: int) -> Body:
    """The body of a query for events."""
    return _body(
        query_fields(query) | {"limit": count} | ({} if after is None else {"after": after}), cbor=False
    )


def snapshot_body(
    data: bytes, content_type: str | None, metadata: bytes | None, metadata_type: str | None
) -> Body:
    """The body that saves a snapshot."""
    cbor = content_type is not None or metadata_type is not None
    fields = {"data": _value(data, content_type, cbor=cbor)}
    if metadata is not None:
        fields["metadata"] = _value(metadata, metadata_type, cbor=cbor)
    return _body(fields, cbor=cbor)


def plain_body(fields: dict[str, Any]) -> Body:
    """A body of plain values, such as a subscription's definition. Raises InvalidRequest for what JSON cannot say."""
    for name, value in fields.items():
        _, content_type = encode_value(value, BOUNDLESS, f"/{name}")
        if content_type is not None:
            raise InvalidRequest(f"/{name} must not hold bytes", pointer=f"/{name}")
    return _body(fields, cbor=False)


def _has_binary_metadata(events: Sequence[ProposedEvent]) -> bool:
    return any(event.metadata_type is not None for event in events)


def _body(value: Any, *, cbor: bool) -> Body:
    if not cbor:
        return Body(_encode(value), JSON)
    import cbor2

    return Body(cbor2.dumps(value), CBOR)


def _events(events: Sequence[ProposedEvent], *, cbor: bool) -> list[dict[str, Any]]:
    return [_event(event, cbor=cbor) for event in events]


def _event(event: ProposedEvent, *, cbor: bool) -> dict[str, Any]:
    fields: dict[str, Any] = {"event_id": unpack(event.event_id), "event_type": event.event_type}
    if event.content_type is None:
        fields["data"] = _value(event.data, None, cbor=cbor)
    else:
        fields["data" if cbor else "data_base64"] = event.data
        fields["data_content_type"] = event.content_type
    if event.metadata is not None:
        fields["metadata"] = _value(event.metadata, event.metadata_type, cbor=cbor)
    if event.tags is not None:
        fields["tags"] = event.tags
    return fields


def _value(raw: bytes, content_type: str | None, *, cbor: bool) -> Any:
    return decode_payload(raw, content_type) if cbor else Raw(raw)


def _stored(content_type: str) -> str | None:
    return None if content_type == JSON else content_type
