"""Answer bodies: events and what else is read, in JSON with payloads as stored, or in CBOR.

In JSON, a payload that is not JSON comes as base64 with its content type beside it. In CBOR, JSON and CBOR
payloads come decoded, and anything else as a byte string.
"""

from __future__ import annotations

from base64 import b64encode
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from shoal.errors import InvalidRequest
from shoal.model.cbor import GREATEST_INTEGER, LEAST_INTEGER, MAX_DIGITS
from shoal.tagged import Sum, read_tag
from shoal.types import CBOR, JSON, AggregateResult, Event, EventsPage, Snapshot, StreamPage, timestamp

_EMPTY_OBJECT = Raw(b"{}")
_EMPTY_LIST = Raw(b"[]")


class RecordedEvent(msgspec.Struct, frozen=True):
    """An event as read. `data_base64` and `metadata_base64` stand for payloads that are not JSON."""

    stream_id: str
    version: int
    position: int
    epoch_us: int
    timestamp: Annotated[str, Meta(extra_json_schema={"format": "date-time"})]
    event_id: str
    event_type: str
    data_content_type: str
    metadata_content_type: str
    tags: Annotated[Any, Meta(extra_json_schema={"type": "array", "items": {"type": "string"}})]
    data: Any = UNSET
    data_base64: str | UnsetType = UNSET
    metadata: Annotated[Any, Meta(extra_json_schema={"type": "object"})] = UNSET
    metadata_base64: str | UnsetType = UNSET


E = TypeVar("E", bound=RecordedEvent)


class StreamEvents(msgspec.Struct, frozen=True):
    """A page of a stream: its head, the events, and the version to read on from."""

    stream_id: str
    version: int
    events: list[RecordedEvent]
    next: int | None


class AllEvents(msgspec.Struct, frozen=True):
    """A page over all streams: the last position assigned, and the `after` to go on with."""

    events: list[RecordedEvent]
    head: int
    next: int


class SavedSnapshot(msgspec.Struct, frozen=True):
    """A snapshot as read."""

    stream_id: str
    version: int
    epoch_us: int
    timestamp: Annotated[str, Meta(extra_json_schema={"format": "date-time"})]
    data: Any = UNSET
    data_base64: str | UnsetType = UNSET
    data_content_type: str = JSON
    metadata: Annotated[Any, Meta(extra_json_schema={"type": "object"})] = UNSET
    metadata_base64: str | UnsetType = UNSET
    metadata_content_type: str = JSON


class SnapshotList(msgspec.Struct, frozen=True):
    """The snapshots of a stream, ascending by version."""

    snapshots: list[SavedSnapshot]


def event(recorded: Event, media: str) -> RecordedEvent:
    """An event for an answer in `media`."""
    return event_as(RecordedEvent, recorded, media)


def event_as(shape: type[E], recorded: Event, media: str, **more: Any) -> E:
    """An event for an answer in `media`, with what `shape` says of it beside."""
    data, data_base64 = _payload(recorded.data_raw, recorded.content_type, recorded, media)
    metadata, metadata_base64 = _metadata(recorded, media)
    tags: Any = recorded.tags
    if media != CBOR:
        tags = _EMPTY_LIST if recorded.tags_raw is None else Raw(recorded.tags_raw)
    return shape(
        stream_id=recorded.stream_id,
        version=recorded.version,
        position=recorded.position,
        epoch_us=recorded.epoch_us,
        timestamp=timestamp(recorded.epoch_us),
        event_id=recorded.event_id,
        event_type=recorded.event_type,
        data_content_type=recorded.data_content_type,
        metadata_content_type=recorded.metadata_content_type,
        tags=tags,
        data=data,
        data_base64=data_base64,
        metadata=metadata,
        metadata_base64=metadata_base64,
        **more,
    )


def stream_page(page: StreamPage, media: str) -> StreamEvents:
    """A page of a stream for an answer in `media`."""
    return StreamEvents(page.stream_id, page.version, [event(each, media) for each in page.events], page.next)


def all_page(page: EventsPage, media: str) -> AllEvents:
    """A page over all streams for an answer in `media`."""
    return AllEvents([event(each, media) for each in page.events], page.head, page.next)


def snapshot(saved: Snapshot, media: str) -> SavedSnapshot:
    """A snapshot for an answer in `media`."""
    data, data_base64 = _payload(saved.data_raw, saved.content_type, saved, media)
    metadata, metadata_base64 = _metadata(saved, media)
    return SavedSnapshot(
        stream_id=saved.stream_id,
        version=saved.version,
        epoch_us=saved.epoch_us,
        timestamp=timestamp(saved.epoch_us),
        data=data,
        data_base64=data_base64,
        data_content_type=saved.content_type or JSON,
        metadata=metadata,
        metadata_base64=metadata_base64,
        metadata_content_type=saved.metadata_type or JSON,
    )


def _payload(raw: bytes, content_type: str | None, holder: Event | Snapshot, media: str) -> tuple[Any, Any]:
    """`data` and `data_base64`, one of them unset."""
    if media == CBOR:
        return holder.data, UNSET
    if content_type is None or content_type == JSON:
        return Raw(raw), UNSET
    return UNSET, b64encode(raw).decode()


def _metadata(holder: Event | Snapshot, media: str) -> tuple[Any, Any]:
    """`metadata` and `metadata_base64`, one of them unset; an empty object when there is none."""
    if media == CBOR:
        return holder.metadata, UNSET
    if holder.metadata_raw is None:
        return _EMPTY_OBJECT, UNSET
    if holder.metadata_type is None or holder.metadata_type == JSON:
        return Raw(holder.metadata_raw), UNSET
    return UNSET, b64encode(holder.metadata_raw).decode()


class Appended(msgspec.Struct, frozen=True):
    """Where the events of an append are: versions of the first and the last, position of the last."""

    stream_id: str
    first_version: int
    version: int
    position: int
    duplicate: bool


class AppendedToStream(msgspec.Struct, frozen=True):
    """One stream's part of an append to several."""

    stream_id: str
    first_version: int
    version: int


class AppendedToMany(msgspec.Struct, frozen=True):
    """An append to several streams; `position` is that of the last event."""

    position: int
    results: list[AppendedToStream]
    duplicate: bool


class StreamHead(msgspec.Struct, frozen=True):
    """A stream and its version."""

    stream_id: str
    version: int


class StreamList(msgspec.Struct, frozen=True):
    """Streams sorted by id, and the `after` to go on with."""

    streams: list[StreamHead]
    next: str | None


class Folded(msgspec.Struct, frozen=True):
    """An aggregate's state, and the version it was folded up to."""

    version: int
    state: dict[str, Any]


def folded(result: AggregateResult) -> Folded:
    """An aggregate for an answer. Raises InvalidRequest where a sum has more digits than its readers take."""
    for name, value in result.state.items():
        tagged = read_tag(value)
        number = tagged.value if isinstance(tagged, Sum) else tagged
        if type(number) is int and not LEAST_INTEGER <= number <= GREATEST_INTEGER:
            raise InvalidRequest(
                f"the sum of the field {name[:80]!r} has more than {MAX_DIGITS} digits, which no reader of JSON or "
                "CBOR takes: fold fewer events, with at=",
                pointer="at",
            )
    return Folded(result.version, result.state)


class StoreName(msgspec.Struct, frozen=True):
    """A store."""

    name: str
    head: int


class StoreList(msgspec.Struct, frozen=True):
    """The stores of a node, sorted by name."""

    stores: list[StoreName]
