"""Routes of snapshots: an aggregate's states, saved by clients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from aiohttp import web

from shoal.errors import BodyTooLarge, InvalidRequest, NotFound, StreamTombstoned
from shoal.http import answers, bodies
from shoal.http.context import Call
from shoal.http.params import NoQuery, ReadQuery
from shoal.http.routing import Answer, Body, Route
from shoal.model.commands import SaveSnapshot
from shoal.model.payload import check_writable_stream_id, encode_metadata, encode_value
from shoal.types import Limits, Snapshot

_MOST_VERSIONS = 1000
_Payloads = tuple[bytes, str | None, bytes | None, str | None]


class SentSnapshot(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A state and what is said about it."""

    data: Any
    metadata: dict[str, Any] | None = None


async def save(call: Call, query: NoQuery) -> web.StreamResponse:
    """Save the state at a version; one that is there is replaced."""
    limits = call.context.limits
    check_writable_stream_id(call.stream_id, limits)
    raw, content_type = await call.body(), call.request.headers.get("Content-Type")
    if len(raw) <= bodies.LARGE_BYTES:
        payloads = _payloads(raw, content_type, limits)
    else:
        payloads = await call.context.bodies.beside(_payloads, raw, content_type, limits)
    store = call.store
    await store.snapshots.save_encoded(SaveSnapshot(store.name, call.stream_id, call.version, *payloads))
    return web.Response(status=204)


def _payloads(raw: bytes, content_type: str | None, limits: Limits) -> _Payloads:
    """What is stored of a body: the state and its content type, the metadata and its content type."""
    sent = bodies.decode(raw, content_type, SentSnapshot, bodies.deeper(limits, 1))
    data, data_type = encode_value(sent.data, limits, "/data")
    return data, data_type, *encode_metadata(sent.metadata, limits)


async def listing(call: Call, query: ReadQuery) -> web.StreamResponse:
    """All usable snapshots, ascending by version. Raises InvalidRequest where they are more than a page holds."""
    saved = await call.store.snapshots.list(call.stream_id, consistency="local")
    _refuse_more_than_a_page(saved, call.context.limits)
    return call.answer_read(answers.SnapshotList([answers.snapshot(each, call.media) for each in saved]))


def _refuse_more_than_a_page(saved: Sequence[Snapshot], limits: Limits) -> None:
    """A list without an end would be cut where nobody looks for it, so it is refused with what to do instead."""
    size = sum(len(each.data_raw) + len(each.metadata_raw or b"") for each in saved)
    if size > limits.page_bytes and len(saved) > 1:
        raise InvalidRequest(
            f"the snapshots have {size} bytes together, an answer holds {limits.page_bytes}: read them one by one, "
            "at /snapshots/{version}, or the latest",
            limit=limits.page_bytes,
            versions=[each.version for each in saved[:_MOST_VERSIONS]],
        )


async def latest(call: Call, query: ReadQuery) -> web.StreamResponse:
    """The one with the highest version."""
    saved = await call.store.snapshots.load(call.stream_id, consistency="local")
    return call.answer_read(answers.snapshot(saved, call.media))


async def load(call: Call, query: ReadQuery) -> web.StreamResponse:
    """The one of exactly this version."""
    saved = await call.store.snapshots.load_at(call.stream_id, call.version, consistency="local")
    return call.answer_read(answers.snapshot(saved, call.media))


async def delete_all(call: Call, query: NoQuery) -> web.StreamResponse:
    """Delete all; fine when there are none."""
    await call.store.snapshots.delete(call.stream_id)
    return web.Response(status=204)


async def delete(call: Call, query: NoQuery) -> web.StreamResponse:
    """Delete one; fine when it is missing."""
    await call.store.snapshots.delete_at(call.stream_id, call.version)
    return web.Response(status=204)


_ALL: Final = "/streams/{stream_id}/snapshots"
_ONE: Final = "/streams/{stream_id}/snapshots/{version}"
_SAVED: Final = Answer("The snapshot", answers.SavedSnapshot)

ROUTES: Final[tuple[Route[Any], ...]] = (
    Route(
        "PUT",
        _ONE,
        save,
        NoQuery,
        "append",
        "Save a snapshot",
        {204: Answer("It is saved")},
        Body(SentSnapshot),
        (BodyTooLarge, StreamTombstoned),
    ),
    Route(
        "GET",
        _ALL,
        listing,
        ReadQuery,
        "read",
        "List snapshots",
        {
            200: Answer(
                "All snapshots; 400 with `versions` where they have more than `limits.page_bytes`",
                answers.SnapshotList,
            )
        },
    ),
    Route(
        "GET",
        f"{_ALL}/latest",
        latest,
        ReadQuery,
        "read",
        "The latest snapshot",
        {200: _SAVED},
        problems=(NotFound,),
    ),
    Route("GET", _ONE, load, ReadQuery, "read", "One snapshot", {200: _SAVED}, problems=(NotFound,)),
    Route(
        "DELETE", _ALL, delete_all, NoQuery, "append", "Delete all snapshots", {204: Answer("They are gone")}
    ),
    Route("DELETE", _ONE, delete, NoQuery, "append", "Delete a snapshot", {204: Answer("It is gone")}),
)
