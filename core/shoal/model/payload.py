"""Events from their callers to what is proposed: checked and encoded before anything is stored.

What is stored decodes for every reader: JSON is strict (`check_json`), CBOR is the subset of
`decode_cbor`, anything else is bytes with a media type. Every refusal is an InvalidRequest whose
pointer (RFC 6901) says where; this module is also the one door to what it is made of.
"""

from __future__ import annotations

import re
from binascii import b2a_base64
from collections.abc import Sequence
from typing import Any

from shoal.errors import BodyTooLarge, InvalidRequest
from shoal.ids import EventIds, pack
from shoal.model.canonical import content_digest
from shoal.model.cbor import decode_cbor
from shoal.model.commands import ProposedEvent
from shoal.model.names import (
    SYSTEM_PREFIX,
    check_event_id,
    check_event_type,
    check_stream_id,
    check_tags,
    check_writable_stream_id,
)
from shoal.model.strict_json import check_json
from shoal.model.values import BYTES, encode_flat, encode_metadata, encode_value
from shoal.types import CBOR, JSON, Limits, NewEvent

__all__ = [
    "SYSTEM_PREFIX",
    "check_event_id",
    "check_event_type",
    "check_json",
    "check_media_type",
    "check_stream_id",
    "check_tags",
    "check_writable_stream_id",
    "content_digest",
    "decode_cbor",
    "encode_metadata",
    "encode_value",
    "json_field",
    "prepare",
    "prepare_all",
    "propose",
    "refuse_repeated_ids",
]

_RESTRICTED_NAME = r"[A-Za-z0-9!#$&^_.+-]{1,127}"
_QUOTED = r'"[^"\\\x00-\x1f\x7f-\U0010ffff]*"'
_PARAMETER = rf"[ \t]*;[ \t]*{_RESTRICTED_NAME}=(?:{_RESTRICTED_NAME}|{_QUOTED})"
_MEDIA_TYPE = re.compile(rf"({_RESTRICTED_NAME}/{_RESTRICTED_NAME})(?:{_PARAMETER})*")
_MEDIA_TYPE_LENGTH = 255


def prepare(event: NewEvent, limits: Limits, event_id: bytes) -> ProposedEvent:
    """The event checked and encoded; `event_id` is the server's id for it, used if it has none of its own."""
    if not isinstance(event, NewEvent):
        raise InvalidRequest(f"an event must be a NewEvent, not {type(event).__name__}", pointer="")
    declared = event.data_content_type
    if declared is None:
        data, content_type = encode_value(event.data, limits, "/data")
    else:
        data, content_type = _encode_declared(event.data, declared, limits)
    metadata, metadata_type = None, None
    if event.metadata is not None:
        metadata, metadata_type = encode_metadata(event.metadata, limits)
    return propose(
        event.event_type,
        data,
        content_type,
        metadata,
        metadata_type,
        event.tags,
        event.event_id,
        event_id,
        limits,
    )


def prepare_all(
    events: Sequence[NewEvent], limits: Limits, ids: EventIds, pointer: str = "/events"
) -> list[ProposedEvent]:
    """All events of one stream's write; pointers of refusals begin with `pointer` and the event's index."""
    if not isinstance(events, (list, tuple)):
        raise InvalidRequest(f"events must be a list, not {type(events).__name__}", pointer=pointer)
    if len(events) > limits.events_per_append:
        raise BodyTooLarge(
            f"{len(events)} events in one append, {limits.events_per_append} are allowed", pointer=pointer
        )
    if len(events) > 1:
        alike = _prepare_alike(events, limits, ids)
        if alike is not None:
            return alike
    prepared: list[ProposedEvent] = []
    own_ids = False
    try:
        for event, event_id in zip(events, ids.take(len(events)), strict=True):
            prepared.append(prepare(event, limits, event_id))
            own_ids = own_ids or event.event_id is not None
    except InvalidRequest as error:
        where = f"{pointer}/{len(prepared)}{error.pointer}"
        raise type(error)(error.detail, pointer=where) from None
    if own_ids:
        refuse_repeated_ids(prepared, pointer)
    return prepared


def _prepare_alike(events: Sequence[NewEvent], limits: Limits, ids: EventIds) -> list[ProposedEvent] | None:
    """The usual events, flat dicts without anything beside them: each step once for all; None for any others."""
    for event in events:
        if (
            type(event) is not NewEvent
            or event.event_id is not None
            or event.metadata is not None
            or event.tags is not None
            or event.data_content_type is not None
        ):
            return None
    encoded = encode_flat([event.data for event in events])
    if encoded is None or max(map(len, encoded), default=0) > limits.event_bytes:
        return None
    checked_type: object = encoded  # nothing an event could have
    try:
        for event in events:
            if event.event_type is not checked_type:
                check_event_type(event.event_type, limits)
                checked_type = event.event_type
    except InvalidRequest:
        return None  # whoever looks at them one by one says which it is
    new_ids = ids.take(len(events))
    return [
        ProposedEvent(new_id, False, event.event_type, data)  # noqa: FBT003
        for new_id, event, data in zip(new_ids, events, encoded)  # noqa: B905 - made together, and `strict` costs
    ]


def propose(
    event_type: str,
    data: bytes,
    content_type: str | None,
    metadata: bytes | None,
    metadata_type: str | None,
    tags: Sequence[str] | None,
    own_id: str | None,
    new_id: bytes,
    limits: Limits,
) -> ProposedEvent:
    """The event of payloads that are checked and encoded already: checks the names and the size."""
    check_event_type(event_type, limits, "/event_type")
    size = len(data) if metadata is None else len(data) + len(metadata)
    if size > limits.event_bytes:
        raise BodyTooLarge(
            f"data and metadata have {size} bytes, {limits.event_bytes} are allowed", pointer="/data"
        )
    if tags is not None:
        check_tags(tags, limits, "/tags")
        tags = list(tags) or None
    if own_id is None:
        event_id: bytes | str = new_id
    else:
        check_event_id(own_id, limits, "/event_id")
        event_id = pack(own_id)
    return ProposedEvent(
        event_id, own_id is not None, event_type, data, content_type, metadata, metadata_type, tags
    )


def refuse_repeated_ids(events: Sequence[ProposedEvent], pointer: str = "/events") -> None:
    """InvalidRequest if two events have the same id of their callers'."""
    seen: set[bytes | str] = set()
    for index, event in enumerate(events):
        if event.own_id:
            if event.event_id in seen:
                raise InvalidRequest(
                    "the same event_id is twice in one request", pointer=f"{pointer}/{index}/event_id"
                )
            seen.add(event.event_id)


def _encode_declared(data: Any, declared: str, limits: Limits) -> tuple[bytes, str | None]:
    """Bytes whose caller says what they are; JSON and CBOR must be what they are said to be."""
    if not isinstance(data, BYTES):
        raise InvalidRequest(
            "data_content_type goes with bytes only; leave it out otherwise", pointer="/data_content_type"
        )
    content_type = check_media_type(declared)
    raw = bytes(data)
    if len(raw) > limits.event_bytes:
        raise BodyTooLarge(f"data has {len(raw)} bytes, {limits.event_bytes} are allowed", pointer="/data")
    if content_type is None:
        check_json(raw, limits, "/data")
    elif content_type == CBOR:
        decode_cbor(raw, limits, "/data")
    return raw, content_type


def check_media_type(declared: Any, pointer: str = "/data_content_type") -> str | None:
    """The media type as it is stored: None for JSON, CBOR by its plain name, others as they are."""
    match = None
    if type(declared) is str and len(declared) <= _MEDIA_TYPE_LENGTH:
        match = _MEDIA_TYPE.fullmatch(declared)
    if match is None:
        raise InvalidRequest(f"{declared!r:.80} is not a media type such as image/png", pointer=pointer)
    essence = match[1].lower()
    if essence == JSON:
        return None
    return CBOR if essence == CBOR else declared


def json_field(data_raw: bytes, content_type: str | None) -> tuple[str, bytes]:
    """How a stored payload stands in JSON: (`data`, the JSON) or (`data_base64`, a JSON string).

    The JSON has no line breaks, so that it fits in a line of NDJSON or SSE.
    """
    if content_type is None or content_type == JSON:
        if b"\n" in data_raw or b"\r" in data_raw:  # between tokens only: inside texts JSON escapes them
            data_raw = data_raw.replace(b"\n", b" ").replace(b"\r", b" ")
        return "data", data_raw
    return "data_base64", b'"' + b2a_base64(data_raw, newline=False) + b'"'
