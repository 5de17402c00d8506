"""Routes of stores: list, look, create, drop."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Final

from aiohttp import web

from shoal.errors import InvalidRequest, NotFound
from shoal.http import answers
from shoal.http.context import Call, ServedStore
from shoal.http.params import NoQuery
from shoal.http.routing import STORE_PATH, Answer, Route


async def listing(call: Call, query: NoQuery) -> web.StreamResponse:
    """The stores of this node."""
    stores = call.context.node.stores
    return call.answer(answers.StoreList([_shown(stores[name]) for name in sorted(stores)]))


async def show(call: Call, query: NoQuery) -> web.StreamResponse:
    """One store."""
    return call.answer(_shown(call.store))


async def create(call: Call, query: NoQuery) -> web.StreamResponse:
    """Create a store; fine when it is there."""
    context, name = call.context, call.store_name
    if await call.body():
        raise InvalidRequest("a store is created without a body", pointer="")
    new = name not in context.node.stores
    await context.node.create_store(name)
    return call.answer(_shown(call.store), status=201 if new else 200)


async def drop(call: Call, query: NoQuery) -> web.StreamResponse:
    """Drop a store with all its events; fine when there is none."""
    with suppress(NotFound):
        await call.context.node.drop_store(call.store_name)
    return web.Response(status=204)


def _shown(store: ServedStore) -> answers.StoreName:
    return answers.StoreName(store.name, store.head)


ROUTES: Final[tuple[Route[Any], ...]] = (
    Route(
        "GET",
        "/v1/stores",
        listing,
        NoQuery,
        "admin",
        "List the stores",
        {200: Answer("The stores", answers.StoreList)},
        of_store=False,
        all_streams=True,
    ),
    Route(
        "GET",
        STORE_PATH,
        show,
        NoQuery,
        "admin",
        "Look at a store",
        {200: Answer("The store", answers.StoreName)},
        problems=(NotFound,),
        of_store=False,
        all_streams=True,
    ),
    Route(
        "PUT",
        STORE_PATH,
        create,
        NoQuery,
        "admin",
        "Create a store",
        {201: Answer("It is new", answers.StoreName), 200: Answer("It was there", answers.StoreName)},
        of_store=False,
        all_streams=True,
    ),
    Route(
        "DELETE",
        STORE_PATH,
        drop,
        NoQuery,
        "admin",
        "Drop a store with all its events",
        {204: Answer("It is gone, or never was")},
        of_store=False,
        all_streams=True,
    ),
)
