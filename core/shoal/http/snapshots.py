"""Routes of snapshots: an aggregate's states, saved by clients."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from aiohttp import web

from shoal.errors import BodyTooLarge, NotFound, StreamTombstoned
from shoal.http import answers, bodies
from shoal.http.context import Call
from shoal.http.params import NoQuery, ReadQuery
from shoal.http.routing import Answer, Body, Route


class SentSnapshot(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A state and what is said about it."""

    data: Any
    metadata: dict[str, Any] | None = None


async def save(call: Call, query: NoQuery) -> web.StreamResponse:
    """Save the state at a version; one that is there is replaced."""
    limits = bodies.deeper(call.context.limits, 1)
    sent = bodies.decode(await call.body(), call.request.headers.get("Content-Type"), SentSnapshot, limits)
    await call.store.snapshots.save(call.stream_id, call.version, sent.data, sent.metadata)
    return web.Response(status=204)


async def listing(call: Call, query: ReadQuery) -> web.StreamResponse:
    """All usable snapshots, ascending by version."""
    saved = await call.store.snapshots.list(call.stream_id)
    return call.answer_read(answers.SnapshotList([answers.snapshot(each, call.media) for each in saved]))


async def latest(call: Call, query: ReadQuery) -> web.StreamResponse:
    """The one with the highest version."""
    saved = await call.store.snapshots.load(call.stream_id)
    return call.answer_read(answers.snapshot(saved, call.media))


async def load(call: Call, query: ReadQuery) -> web.StreamResponse:
    """The one of exactly this version."""
    saved = await call.store.snapshots.load_at(call.stream_id, call.version)
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
        {200: Answer("The snapshots", answers.SnapshotList)},
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
