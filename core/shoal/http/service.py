"""From a request to its answer: find the route, let the caller in, check ids and parameters, call the handler."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from itertools import chain
from typing import Any, Final

import msgspec
from aiohttp import web

from shoal.address import is_loopback, split_address
from shoal.config import Config, valid_store_name
from shoal.errors import ConfigError, InvalidRequest, ShoalError
from shoal.http import (
    append,
    cluster,
    events,
    negotiation,
    openapi,
    ops,
    params,
    problems,
    snapshots,
    stores,
    streams,
    subscriptions,
)
from shoal.http.alone import Alone
from shoal.http.auth import ACCESS, EVERYTHING, Door, Tokens, decode_access
from shoal.http.context import Call, Context, ServedCluster, ServedNode, ServedStore
from shoal.http.pacing import Paced
from shoal.http.params import ReadQuery
from shoal.http.routing import DEFAULT_PATH, STORE_PATH, Route, Router, request_target
from shoal.model.definitions import check_subscription_name
from shoal.model.payload import check_stream_id
from shoal.types import MAX_VERSION

ROUTES: Final[tuple[Route[Any], ...]] = tuple(
    chain(
        streams.ROUTES,
        append.ROUTES,
        events.ROUTES,
        snapshots.ROUTES,
        subscriptions.ROUTES,
        stores.ROUTES,
        cluster.ROUTES,
        ops.ROUTES,
    )
)

_NOT_BUILT: Final = ("/streams/{stream_id}/version_at", "/streams/{stream_id}/scavenge")
"""Paths of later releases that would otherwise read as versions."""

_KEY: Final = "Idempotency-Key"
"""Refused rather than ignored: whoever sends it counts on being safe to repeat."""

_log = logging.getLogger(__name__)


class Service:
    """One node's HTTP, without the connections. Without a `cluster` the node is a board alone."""

    def __init__(
        self,
        node: ServedNode,
        config: Config,
        tokens: Tokens,
        *,
        now_ms: Callable[[], int],
        cluster: ServedCluster | None = None,
    ) -> None:
        host, _ = split_address(config.listen)
        door = Door(tokens, needs_tokens=not is_loopback(host))
        self.context = Context(node, cluster or Alone(node), config, door, now_ms)
        self.context.openapi = openapi.document(ROUTES, config.limits)
        reserved = [base + path for base in (DEFAULT_PATH, STORE_PATH) for path in _NOT_BUILT]
        self._router = Router(ROUTES, reserved)
        self._defaults: dict[type[msgspec.Struct], msgspec.Struct] = {}
        self._limits = config.limits

    async def handle_passed(self, request: web.BaseRequest) -> web.StreamResponse:
        """The answer to what another member has passed on."""
        return await self.handle(request, passed=True)

    async def handle(self, request: web.BaseRequest, *, passed: bool = False) -> web.StreamResponse:
        """The answer to any request; errors become problem documents."""
        path = ""
        try:
            path, _, query = request_target(request.raw_path).partition("?")
            route, raw_ids = self._router.find(request.method, path)
            response = await self._call(request, route, raw_ids, query, passed=passed)
        except ShoalError as error:
            if problems.status_of(error) == 500 and not isinstance(error, ConfigError):  # the door has told
                _log.error("%s %s failed", request.method, path, exc_info=error)
            elif request.writer.output_size > 0:
                _log.warning("the answer to %s %s is cut short: %s", request.method, path, error)
            if request.writer.output_size > 0:
                raise ConnectionResetError("the answer is cut short") from error
            response = problems.respond(error)
        self.context.requests[response.status] += 1
        return response

    async def _call(
        self,
        request: web.BaseRequest,
        route: Route[Any],
        raw_ids: Mapping[str, str],
        raw_query: str,
        *,
        passed: bool,
    ) -> web.StreamResponse:
        context = self.context
        access = EVERYTHING
        if passed:
            access = decode_access(request.headers.get(ACCESS, ""))
        elif route.role is not None:
            access = await context.door.enter(route.role, request.headers.get("Authorization"))
        call = Call(context, request, self._ids(raw_ids), access)
        if _KEY in request.headers and request.method not in {"GET", "HEAD"}:
            raise InvalidRequest(
                f"{_KEY} is not supported by this release; give the events ids, then repeating is safe",
                pointer=_KEY,
            )
        if "stream_id" in raw_ids:
            access.check(call.stream_id)
        elif route.all_streams:
            access.check_unlimited("this")
        if route.by_leader and context.passing is not None and not (passed or context.node.leads):
            return await context.passing.pass_on(call)
        query = (
            params.parse(route.query, raw_query, context.maxima) if raw_query else self._default(route.query)
        )
        local = isinstance(query, ReadQuery) and query.consistency == "local"
        if (
            (route.of_store or "store" in raw_ids)
            and not local
            and call.store_name not in context.node.stores
        ):
            await context.node.look_for(call.store_name)
        if isinstance(query, ReadQuery):
            await _settle(call.store, query)
        if route.offers:
            call.media = negotiation.answer_type(request.headers.get("Accept"), route.offers)
        response = await route.handler(call, query)
        if isinstance(response, Paced):  # now that nobody holds any more what it was made from
            await response.send(request, context.room)
        return response

    def _default(self, struct: type[msgspec.Struct]) -> msgspec.Struct:
        """The parameters of a request without any."""
        found = self._defaults.get(struct)
        if found is None:
            found = self._defaults[struct] = struct()
        return found

    def _ids(self, raw_ids: Mapping[str, str]) -> dict[str, str]:
        """The ids of a path, decoded and checked. Raises InvalidRequest."""
        ids = {}
        for name, raw in raw_ids.items():
            value = ids[name] = params.unquote(raw, name)
            if name == "stream_id":
                check_stream_id(value, self._limits)
            elif name == "version":
                _check_version(value)
            elif name == "name":
                check_subscription_name(value, self._limits)
            elif name == "store" and not valid_store_name(value):
                raise InvalidRequest(
                    "a store's name is 1 to 64 letters, digits, '_', '.' or '-', not beginning with '.' or '-'",
                    pointer="store",
                )
        return ids


async def _settle(store: ServedStore, query: ReadQuery) -> None:
    """Until the store is as new here as the read must see it. Raises NoLeader, Timeout."""
    if query.wait_for is not None:
        await store.wait_for(query.wait_for, query.wait_ms)
    await store.settle_reads(query.consistency)


def _check_version(text: str) -> None:
    if not 0 <= params.whole("version", text) <= MAX_VERSION:
        raise InvalidRequest(f"version must be from 0 to {MAX_VERSION}", pointer="version")
