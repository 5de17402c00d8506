"""What goes on for as long as somebody is there for it: live answers, and reads that wait."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from shoal.errors import ShuttingDown, Unauthorized
from shoal.http.connections import Connection
from shoal.http.context import Call

T = TypeVar("T")


@asynccontextmanager
async def endings(call: Call) -> AsyncIterator[set[asyncio.Task[None]]]:
    """Tasks, of which one is done when the client is gone, its token is revoked, or the server closes."""
    context = call.context
    watching = {asyncio.create_task(_closing(context.closing))}
    protocol = call.request.protocol
    if isinstance(protocol, Connection):
        watching.add(asyncio.create_task(protocol.lost()))
    if call.access.token_id is not None:
        watching.add(asyncio.create_task(context.door.revoked(call.access)))
    try:
        yield watching
    finally:
        await end(*watching)


async def _closing(event: asyncio.Event) -> None:
    await event.wait()


async def end(*tasks: asyncio.Task[Any]) -> None:
    """Cancel what still runs. A store that closes ends its work; any other failure is raised."""
    for task in tasks:
        task.cancel()
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(result, Exception) and not isinstance(result, ShuttingDown):
            raise result


async def attend(call: Call, work: Coroutine[Any, Any, T], otherwise: T) -> T:
    """The result of `work`, or `otherwise` when the server closes before.

    When nobody is there for it any more, it is cancelled: raises ConnectionResetError when the client left,
    Unauthorized when its token was revoked.
    """
    task = asyncio.create_task(work)
    async with endings(call) as ending:
        try:
            await asyncio.wait({task, *ending}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            task.cancel()
            await asyncio.wait({task})
    if (
        not task.cancelled()
    ):  # also when it had its result before it could be cancelled: somebody must see to that
        return task.result()
    if call.gone:
        raise ConnectionResetError("the client left before its answer")
    if call.context.closing.is_set():
        return otherwise
    raise Unauthorized("the token was revoked meanwhile")
