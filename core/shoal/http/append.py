"""Routes that append: to one stream, and to several at once.

The hot path: the body is checked once as a whole (`check_json`), decoded once with payloads left as the
bytes they came in, and those bytes are what the journal gets.
"""

from __future__ import annotations

import binascii
import re
from base64 import b64decode
from collections.abc import Sequence
from typing import Annotated, Any, Final, Generic, NoReturn, TypeVar

import msgspec
from aiohttp import web
from msgspec import UNSET, Meta, Raw, UnsetType

from shoal.errors import (
    BodyTooLarge,
    ConditionFailed,
    EventIdReused,
    InvalidRequest,
    StreamTombstoned,
    WrongExpectedVersion,
)
from shoal.http import answers, bodies, negotiation, params, problems
from shoal.http.auth import Access
from shoal.http.bodies import LARGE_BYTES
from shoal.http.context import Call
from shoal.http.events import QueryItems
from shoal.http.params import ExpectedVersion, NoQuery, Position, Text
from shoal.http.replies import Reply
from shoal.http.routing import Answer, Body, Route
from shoal.ids import EventIds
from shoal.model.commands import ProposedEvent, Write
from shoal.model.payload import (
    check_json,
    check_writable_stream_id,
    decode_cbor,
    prepare,
    propose,
    refuse_repeated_ids,
)
from shoal.types import (
    ANY_VERSION,
    CBOR,
    JSON,
    MAX_VERSION,
    NO_STREAM,
    STREAM_EXISTS,
    Condition,
    Limits,
    NewEvent,
)

E = TypeVar("E")
"""An event as sent, in JSON or in CBOR."""

_ETAG: Final = re.compile(r'"(0|[1-9][0-9]{0,15})"')
_NULL: Final = b"null"
_ARRAY_DEPTH: Final = 2
"""Levels around a payload in `[event]`; one more in `{"events": [event]}`, three in `/append`."""

_CONFLICTS: Final = (
    WrongExpectedVersion,
    EventIdReused,
    StreamTombstoned,
    BodyTooLarge,
)

_Payload = Annotated[Raw, Meta(description="Any JSON value; either this or `data_base64`.")]
_Object = Annotated[Raw, Meta(extra_json_schema={"type": ["object", "null"]})]
_Tags = Annotated[list[Text], Meta(description="Kept as sent, in order.")]


class SentEvent(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """An event as sent in JSON. Without `event_id` the store makes a UUIDv7."""

    event_type: Text
    data: _Payload | UnsetType = UNSET
    metadata: _Object | UnsetType = UNSET
    tags: _Tags | None = None
    event_id: Text | None = None
    data_base64: str | None = None
    data_content_type: Text | None = None


class SentValue(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """An event as sent in CBOR, where `data` may hold byte strings."""

    event_type: Text
    data: Any = UNSET
    metadata: dict[str, Any] | None = None
    tags: _Tags | None = None
    event_id: Text | None = None
    data_base64: str | None = None
    data_content_type: Text | None = None


class SentEvents(msgspec.Struct, Generic[E], frozen=True, forbid_unknown_fields=True):
    """Events, and the version their stream must be at."""

    events: list[E]
    expected_version: ExpectedVersion | UnsetType = UNSET


class SentCondition(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Refuse the append if an event after position `after` matches the query."""

    query: QueryItems
    after: Position = 0


class SentWrite(msgspec.Struct, Generic[E], frozen=True, forbid_unknown_fields=True):
    """One stream's part of an append to several."""

    stream_id: Text
    events: list[E]
    expected_version: ExpectedVersion = ANY_VERSION


class SentWrites(msgspec.Struct, Generic[E], frozen=True, forbid_unknown_fields=True):
    """An append to several streams, all or nothing."""

    writes: Annotated[list[SentWrite[E]], Meta(min_length=1)]
    condition: SentCondition | None = None


class AppendQuery(msgspec.Struct, frozen=True):
    """Where the stream must be; the body or a header may say so instead, but only one of them."""

    expected_version: ExpectedVersion | None = None


_decode_list = msgspec.json.Decoder(list[SentEvent]).decode
_decode_object = msgspec.json.Decoder(SentEvents[SentEvent]).decode
_encode = msgspec.json.Encoder().encode
_Sent = Sequence[SentEvent | SentValue]
_Writes = SentWrites[SentEvent] | SentWrites[SentValue]


async def append(call: Call, query: AppendQuery) -> web.StreamResponse:
    """Append all events of the body, or none."""
    context, stream_id = call.context, call.stream_id
    raw = await call.body()
    content_type = call.request.headers.get("Content-Type")
    if len(raw) <= LARGE_BYTES:
        events, in_body = _events(raw, content_type, context.limits, context.ids)
    else:
        ids = context.ids_for_a_thread()
        events, in_body = await context.bodies.beside(_events, raw, content_type, context.limits, ids)
    in_header = _header_condition(call)
    write = Write(stream_id, _one_expectation(query.expected_version, in_body, in_header), events)
    del raw, events  # a large body is not kept while its append waits
    try:
        many = await call.store.streams.append_proposed([write])
    except WrongExpectedVersion as error:
        return problems.respond(error, 412 if in_header is not None else None)
    appended = many.results[0]
    version = int(appended)
    headers = {"ETag": f'"{version}"', "Content-Type": JSON}
    new = bool(write.events) and not appended.duplicate
    if new:
        headers["Location"] = f"{call.request.raw_path.partition('?')[0]}/{appended.first_version}"
    answer = answers.Appended(
        stream_id, appended.first_version, version, appended.position, appended.duplicate
    )
    if call.media != JSON:
        return call.answer(answer, status=201 if new else 200, headers=headers | {"Content-Type": call.media})
    return Reply(201 if new else 200, _encode(answer), headers)


async def append_many(call: Call, query: NoQuery) -> web.StreamResponse:
    """Append to several streams, all or nothing, if the condition holds."""
    context, access = call.context, call.access
    raw, content_type = await call.body(), call.request.headers.get("Content-Type")
    if len(raw) <= LARGE_BYTES:
        writes, condition = _writes(raw, content_type, context.limits, context.ids, access)
    else:
        ids = context.ids_for_a_thread()
        writes, condition = await context.bodies.beside(
            _writes, raw, content_type, context.limits, ids, access
        )
    del raw
    many = await call.store.streams.append_proposed(writes, condition)
    results = [
        answers.AppendedToStream(each.stream_id, each.first_version, int(each)) for each in many.results
    ]
    new = not many.duplicate and any(write.events for write in writes)
    return call.answer(
        answers.AppendedToMany(many.position, results, many.duplicate), status=201 if new else 200
    )


def _events(
    raw: bytes, content_type: str | None, limits: Limits, ids: EventIds
) -> tuple[list[ProposedEvent], int | UnsetType]:
    """The events of a body, checked, and the version it expects."""
    sent, in_body, pointer = _read_events(raw, content_type, limits)
    return _propose_all(sent, limits, ids, pointer), in_body


def _writes(
    raw: bytes, content_type: str | None, limits: Limits, ids: EventIds, access: Access
) -> tuple[list[Write], Condition | None]:
    """The writes of a body and their condition, checked. Raises Forbidden too."""
    sent = _read_writes(raw, content_type, limits)
    _check_writes(sent, limits, access)
    writes = [_write(write, limits, ids, f"/writes/{index}") for index, write in enumerate(_parts(sent))]
    if sent.condition is None:
        return writes, None
    access.check_unlimited("a condition")
    query = sent.condition.query.as_query(limits, "/condition/query")
    return writes, Condition(query, sent.condition.after)


def _read_events(raw: bytes, content_type: str | None, limits: Limits) -> tuple[_Sent, int | UnsetType, str]:
    """The events of a body, the version it expects, and where in it they are."""
    if negotiation.body_type(content_type) == CBOR:
        value = decode_cbor(raw, bodies.deeper(limits, _ARRAY_DEPTH + 1))
        if isinstance(value, list):
            return bodies.convert(value, list[SentValue]), UNSET, ""
        values = bodies.convert(value, SentEvents[SentValue])
        return values.events, values.expected_version, "/events"
    is_list = raw.lstrip(b" \t\r\n")[:1] == b"["
    if len(raw) > limits.event_bytes:
        _refuse_oversized(raw, list[SentEvent] if is_list else SentEvents[SentEvent], limits)
    check_json(raw, bodies.deeper(limits, _ARRAY_DEPTH if is_list else _ARRAY_DEPTH + 1))
    try:
        if is_list:
            return _decode_list(raw), UNSET, ""
        body = _decode_object(raw)
    except msgspec.ValidationError as error:
        raise params.invalid(error) from error
    return body.events, body.expected_version, "/events"


def _read_writes(raw: bytes, content_type: str | None, limits: Limits) -> _Writes:
    deeper = bodies.deeper(limits, _ARRAY_DEPTH + 3)
    if negotiation.body_type(content_type) == CBOR:
        return bodies.convert(decode_cbor(raw, deeper), SentWrites[SentValue])
    if len(raw) > limits.event_bytes:
        _refuse_oversized(raw, SentWrites[SentEvent], limits)
    check_json(raw, deeper)
    return bodies.decode_checked(raw, SentWrites[SentEvent])


def _refuse_oversized(raw: bytes, shape: Any, limits: Limits) -> None:
    """Refuse an event over its limit before the body is checked as a whole, which takes ten times as long."""
    try:
        sent = msgspec.json.decode(raw, type=shape)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return  # the whole check says what is wrong with it
    if isinstance(sent, SentWrites):
        parts = [(f"/writes/{index}/events", write.events) for index, write in enumerate(sent.writes)]
    else:
        parts = [("", sent)] if isinstance(sent, list) else [("/events", sent.events)]
    for pointer, events in parts:
        for index, event in enumerate(events):
            size = sum(len(each) for each in (event.data, event.metadata) if each is not UNSET)
            if size > limits.event_bytes:
                raise BodyTooLarge(
                    f"data and metadata have {size} bytes, {limits.event_bytes} are allowed",
                    pointer=f"{pointer}/{index}/data",
                )


def _parts(sent: _Writes) -> Sequence[SentWrite[SentEvent] | SentWrite[SentValue]]:
    return sent.writes


def _write(
    sent: SentWrite[SentEvent] | SentWrite[SentValue], limits: Limits, ids: EventIds, pointer: str
) -> Write:
    expected = _known_version(sent.expected_version, f"{pointer}/expected_version")
    return Write(sent.stream_id, expected, _propose_all(sent.events, limits, ids, f"{pointer}/events"))


def _check_writes(sent: _Writes, limits: Limits, access: Access) -> None:
    if len(sent.writes) > limits.writes_per_append:
        raise BodyTooLarge(
            f"{len(sent.writes)} writes in one append, {limits.writes_per_append} are allowed",
            pointer="/writes",
        )
    total = sum(len(write.events) for write in _parts(sent))
    if total > limits.events_per_append:
        raise BodyTooLarge(
            f"{total} events in one append, {limits.events_per_append} are allowed", pointer="/writes"
        )
    seen: set[str] = set()
    for index, write in enumerate(_parts(sent)):
        pointer = f"/writes/{index}/stream_id"
        check_writable_stream_id(write.stream_id, limits, pointer)
        access.check(write.stream_id)
        if write.stream_id in seen:
            raise InvalidRequest(
                f"the stream {write.stream_id!r} is there twice, make it one write", pointer=pointer
            )
        seen.add(write.stream_id)


def _propose_all(sent: _Sent, limits: Limits, ids: EventIds, pointer: str) -> list[ProposedEvent]:
    """The events, checked. Pointers of refusals begin with `pointer` and the event's index."""
    if len(sent) > limits.events_per_append:
        raise BodyTooLarge(
            f"{len(sent)} events in one append, {limits.events_per_append} are allowed", pointer=pointer
        )
    proposed: list[ProposedEvent] = []
    try:
        for event, new_id in zip(sent, ids.take(len(sent)), strict=True):
            proposed.append(_propose(event, new_id, limits))
    except InvalidRequest as error:
        raise type(error)(error.detail, pointer=f"{pointer}/{len(proposed)}{error.pointer}") from error
    if len(proposed) > 1:
        refuse_repeated_ids(proposed, pointer)
    return proposed


def _propose(sent: SentEvent | SentValue, new_id: bytes, limits: Limits) -> ProposedEvent:
    if isinstance(sent, SentValue) or sent.data_base64 is not None or sent.data_content_type is not None:
        return prepare(_new_event(sent), limits, new_id)
    if sent.data is UNSET:
        _refuse_data("an event needs data, or data_base64")
    metadata = None if sent.metadata is UNSET else _metadata(sent.metadata)
    return propose(
        sent.event_type, bytes(sent.data), None, metadata, None, sent.tags, sent.event_id, new_id, limits
    )


def _metadata(sent: Raw) -> bytes | None:
    """What is stored for metadata: nothing for null and for an empty object."""
    raw = bytes(sent)
    if raw == _NULL:
        return None
    if not raw.startswith(b"{"):
        raise InvalidRequest("metadata must be an object", pointer="/metadata")
    return raw if raw[1:-1].strip() else None


def _new_event(sent: SentEvent | SentValue) -> NewEvent:
    """The slow way: binary payloads and CBOR."""
    data, metadata = _values(sent)
    declared = sent.data_content_type
    if sent.data_base64 is not None:
        if data is not UNSET:
            _refuse_data("an event has data or data_base64, not both")
        data = _from_base64(sent.data_base64)
    elif data is UNSET:
        _refuse_data("an event needs data, or data_base64")
    elif declared == JSON and not isinstance(data, bytes):
        declared = None
    return NewEvent(sent.event_type, data, metadata, sent.tags, sent.event_id, declared)


def _values(sent: SentEvent | SentValue) -> tuple[Any, dict[str, Any] | None]:
    """Data (or UNSET) and metadata as Python values."""
    if isinstance(sent, SentValue):
        return sent.data, sent.metadata
    metadata = None if sent.metadata is UNSET else _metadata(sent.metadata)
    return (
        UNSET if sent.data is UNSET else msgspec.json.decode(sent.data),
        None if metadata is None else msgspec.json.decode(metadata),
    )


def _refuse_data(detail: str) -> NoReturn:
    raise InvalidRequest(detail, pointer="/data")


def _from_base64(text: str) -> bytes:
    try:
        return b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest(f"data_base64 is not base64: {error}", pointer="/data_base64") from error


def _header_condition(call: Call) -> int | None:
    """The version that `If-Match` or `If-None-Match` asks for."""
    headers = call.request.headers
    if "If-Match" not in headers and "If-None-Match" not in headers:
        return None
    match, none_match = call.header("If-Match"), call.header("If-None-Match")
    if match is not None and none_match is not None:
        raise InvalidRequest("If-Match and If-None-Match exclude each other", pointer="If-Match")
    if none_match is not None:
        if none_match != "*":
            raise InvalidRequest(
                "If-None-Match must be *, for a stream that must not exist", pointer="If-None-Match"
            )
        return NO_STREAM
    if match == "*":
        return STREAM_EXISTS
    etag = _ETAG.fullmatch(match or "")
    if etag is None or int(etag[1]) > MAX_VERSION:
        raise InvalidRequest('If-Match must be * or one version in quotes, such as "3"', pointer="If-Match")
    return int(etag[1])


def _one_expectation(in_query: int | None, in_body: int | UnsetType, in_header: int | None) -> int:
    given = [
        version for version in (in_query, in_body, in_header) if version is not None and version is not UNSET
    ]
    if len(given) > 1:
        raise InvalidRequest(
            "the expected version is given more than once: in the query, the body or a header",
            pointer="expected_version",
        )
    return _known_version(given[0], "expected_version") if given else ANY_VERSION


def _known_version(version: int, pointer: str) -> int:
    if version == params.NO_EXACT_VERSION:
        raise InvalidRequest("the expected version -3 means nothing, see -1, -2 and -4", pointer=pointer)
    return version


ROUTES: Final[tuple[Route[Any], ...]] = (
    Route(
        "POST",
        "/streams/{stream_id}",
        append,
        AppendQuery,
        "append",
        "Append events to a stream, all or none",
        {
            201: Answer("The events are durable", answers.Appended, headers=("ETag", "Location")),
            200: Answer("They were there already, or there were none", answers.Appended, headers=("ETag",)),
        },
        Body(list[SentEvent] | SentEvents[SentEvent]),
        _CONFLICTS,
        ("If-Match", "If-None-Match"),
    ),
    Route(
        "POST",
        "/append",
        append_many,
        NoQuery,
        "append",
        "Append to several streams, all or nothing",
        {
            201: Answer("The events are durable", answers.AppendedToMany),
            200: Answer("They were there already, or there were none", answers.AppendedToMany),
        },
        Body(SentWrites[SentEvent]),
        (*_CONFLICTS, ConditionFailed),
    ),
)
