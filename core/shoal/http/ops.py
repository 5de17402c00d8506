"""Routes for operators: is it alive, is it ready, what is it, how is the board."""

from __future__ import annotations

import asyncio
import platform
import time
from typing import Annotated, Any, Final

import msgspec
from aiohttp import web
from msgspec import Meta

import shoal
from shoal.errors import InvalidRequest, NoLeader, NoQuorum, ShuttingDown, StorageError, Unavailable
from shoal.http import negotiation
from shoal.http.board import Health, read_health
from shoal.http.context import Call
from shoal.http.params import NoQuery
from shoal.http.routing import Answer, Route
from shoal.types import JSON, Limits


class Readiness(msgspec.Struct, frozen=True):
    """What else must hold for the node to count as ready."""

    leader: Annotated[bool, Meta(description="It must be the leader.")] = False
    lag_ms: (
        Annotated[int, Meta(ge=0, le=86_400_000, description="It may lag behind the leader by this.")] | None
    ) = None


class Alive(msgspec.Struct, frozen=True):
    """The process answers."""

    status: str


class Ready(msgspec.Struct, frozen=True):
    """The node takes requests. With `disk_full` it answers reads and deletes, and refuses appends."""

    status: str
    role: str
    lag_ms: int
    disk_full: bool


class Info(msgspec.Struct, frozen=True):
    """What this node is and what it takes. A token for some streams is not told the names of the stores."""

    version: str
    api: str
    python: str
    node: dict[str, Any]
    stores: list[str]
    limits: Limits
    peers: list[dict[str, Any]]


class Flaw(msgspec.Struct, frozen=True):
    """Something that is not as it was stored: where, and what."""

    where: str
    what: str


class Verification(msgspec.Struct, frozen=True):
    """What was looked at, and what was wrong (the first thousand)."""

    ok: bool
    stores: int
    streams: int
    events: int
    snapshots: int
    problems: list[Flaw]
    subscriptions: int


async def livez(call: Call, query: NoQuery) -> web.StreamResponse:
    """The process is alive."""
    return call.answer(Alive("alive"))


async def readyz(call: Call, query: Readiness) -> web.StreamResponse:
    """The node takes requests, and what was asked for holds."""
    context = call.context
    if context.closing.is_set():
        raise ShuttingDown("the node is leaving")
    if context.node.failed.done():
        raise StorageError("the storage failed, the node ends")
    if (obstacle := context.cluster.obstacle()) is not None:
        raise obstacle
    info = context.node.info()
    role, lag_ms = str(info["role"]), context.cluster.lag_ms
    if query.leader and role != "leader":
        raise NoLeader(f"this node is a {role}, not the leader", role=role)
    if query.lag_ms is not None and lag_ms > query.lag_ms:
        raise Unavailable(f"this node lags by {lag_ms} ms", lag_ms=lag_ms)
    return call.answer(Ready("ready", role, lag_ms, bool(info.get("disk_full"))))


async def metrics(call: Call, query: NoQuery) -> web.StreamResponse:
    """Metrics for Prometheus."""
    page, content_type = await asyncio.to_thread(call.context.metrics.render)
    return web.Response(body=page, headers={"Content-Type": content_type})


async def info(call: Call, query: NoQuery) -> web.StreamResponse:
    """Versions, identity, limits, stores, and the boards found on the network."""
    context = call.context
    return call.answer(
        Info(
            version=shoal.__version__,
            api="v1",
            python=platform.python_version(),
            node=context.node.info(),
            stores=[] if call.access.patterns else sorted(context.node.stores),
            limits=context.limits,
            peers=context.peers(),
        )
    )


async def health(call: Call, query: NoQuery) -> web.StreamResponse:
    """Memory, disk, load and temperatures of the board."""
    data_dir = call.context.config.data_dir
    return call.answer(await asyncio.to_thread(read_health, data_dir, time.time()))


async def verify(call: Call, query: NoQuery) -> web.StreamResponse:
    """Recompute every digest. Takes a while; reads and appends go on."""
    if await call.body():
        raise InvalidRequest("a verification takes no body", pointer="")
    found = await call.context.node.verify()
    flaws = [Flaw(problem.where, problem.what) for problem in found.problems]
    return call.answer(
        Verification(
            not flaws,
            found.stores,
            found.streams,
            found.events,
            found.snapshots,
            flaws,
            found.subscriptions,
        )
    )


async def openapi(call: Call, query: NoQuery) -> web.StreamResponse:
    """What this node answers to, for programs."""
    return web.Response(body=call.context.openapi, content_type=JSON)


def _route(path: str, handler: Any, summary: str, answer: Answer, **settings: Any) -> Route[Any]:
    query = settings.pop("query", NoQuery)
    role = settings.pop("role", None)
    return Route("GET", path, handler, query, role, summary, {200: answer}, of_store=False, **settings)


_JSON: Final = (JSON,)

ROUTES: Final[tuple[Route[Any], ...]] = (
    _route("/livez", livez, "Is the process alive", Answer("It is", Alive)),
    _route(
        "/readyz",
        readyz,
        "Does the node take requests",
        Answer("It does", Ready),
        query=Readiness,
        problems=(NoLeader, NoQuorum, ShuttingDown, StorageError),
    ),
    _route("/metrics", metrics, "Metrics", Answer("Metrics", str, (negotiation.TEXT,)), role="read"),
    _route("/openapi.json", openapi, "This document", Answer("OpenAPI 3.1", dict[str, Any], _JSON)),
    _route("/v1/info", info, "What this node is", Answer("Versions and identity", Info), role="read"),
    _route("/v1/health", health, "How the board is", Answer("Readings", Health), role="read"),
    Route(
        "POST",
        "/v1/verify",
        verify,
        NoQuery,
        "admin",
        "Is every byte as it was stored",
        {200: Answer("What was found", Verification)},
        of_store=False,
        all_streams=True,
    ),
)
