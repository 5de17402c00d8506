"""What `shoal cluster` and `shoal doctor` ask boards: each one for itself, and the leader for changes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from shoal.client.exchange import HttpExchange, Outgoing, Reply
from shoal.client.members import all_tls, is_base
from shoal.errors import ConfigError, InternalError, NoLeader, NotFound, ShoalError, Unavailable, Unreachable
from shoal.tokens import check_sendable
from shoal_host.options import Target

ANSWER_MS: Final = 3_000
CHANGE_MS: Final = 20_000
"""A change of members waits for a quorum, and an addition for the board to be met."""
CONNECT_MS: Final = 1_000
AGAIN_S: Final = 0.5
TRIES: Final = 20

View = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Asked:
    """A board, with what `GET /v1/cluster` says there, or why nothing does."""

    url: str
    view: View | None = None
    error: ShoalError | None = None


class Boards:
    """The boards of a target."""

    def __init__(self, target: Target, exchange: HttpExchange) -> None:
        self.urls = tuple(_base(url) for url in target.urls)
        self._exchange = exchange
        self._tls = all_tls(self.urls)

    async def get(self, url: str, path: str) -> Reply:
        """An answer of one board. Raises ShoalError."""
        return await self._exchange.send(url, Outgoing("GET", path), ANSWER_MS, CONNECT_MS)

    async def view(self, url: str) -> View:
        """The cluster as one board sees it. Raises ShoalError."""
        try:
            reply = await self.get(url, "/v1/cluster")
        except NotFound as error:
            raise NotFound(f"{url} knows no cluster: it is of an older release") from error
        try:
            return msgspec.json.decode(reply.body, type=dict[str, Any])
        except msgspec.MsgspecError as error:
            raise InternalError(
                f"{url} answers with something else than a cluster: is it a board?"
            ) from error

    async def ask_all(self) -> list[Asked]:
        """The boards named, then all others that these name as members."""
        asked = list(await asyncio.gather(*(self._ask(url) for url in self.urls)))
        known = {each.view["node_id"] for each in asked if each.view is not None}
        others: dict[str, str] = {}
        for each in asked:
            for member in [] if each.view is None else each.view["members"]:
                url = member["url"].rstrip("/")
                if member["id"] not in known and url not in self.urls and self._usable(url):
                    others.setdefault(url, member["id"])
        return asked + list(await asyncio.gather(*(self._ask(url) for url in others)))

    async def _ask(self, url: str) -> Asked:
        try:
            return Asked(url, await self.view(url))
        except ShoalError as error:
            return Asked(url, error=error)

    def _usable(self, url: str) -> bool:
        """A token that was given for TLS is not sent in the clear because a board says so."""
        return is_base(url) and (not self._tls or url.startswith("https:"))

    async def change(self, what: str, body: dict[str, Any], done: Callable[[View], bool]) -> View:
        """Have the leader change the cluster; where nobody says whether it did, `done` tells it from a view.

        That is usual for a leader that goes. Raises ShoalError.
        """
        outgoing = Outgoing("POST", f"/v1/cluster/{what}", body=msgspec.json.encode(body))
        try:
            return msgspec.json.decode(await self.by_leader(outgoing), type=dict[str, Any])
        except Unavailable as error:
            if error.outcome != "unknown":
                raise
            for _ in range(TRIES):
                found = [each.view for each in await self.ask_all() if each.view is not None]
                leading = [view for view in found if view["role"] == "leader" and done(view)]
                if leading:
                    return leading[0]
                await asyncio.sleep(AGAIN_S)
            raise

    async def by_leader(self, outgoing: Outgoing) -> bytes:
        """Send it to a board, which passes it on; what is only not possible yet is tried again. Raises ShoalError."""
        urls = list(self.urls)
        last: ShoalError | None = None
        for _ in range(TRIES):
            try:
                return (await self._exchange.send(urls[0], outgoing, CHANGE_MS, CONNECT_MS)).body
            except Unavailable as error:
                if not _may_try_again(error, alone=len(urls) == 1):
                    raise
                last = error
            urls = [*urls[1:], urls[0]]
            await asyncio.sleep(AGAIN_S)
        assert last is not None  # noqa: S101 - all tries have failed
        raise last

    async def post(self, url: str, what: str, body: dict[str, Any]) -> View:
        """A change at one board. Raises ShoalError."""
        outgoing = Outgoing("POST", f"/v1/cluster/{what}", body=msgspec.json.encode(body))
        reply = await self._exchange.send(url, outgoing, CHANGE_MS, CONNECT_MS)
        return msgspec.json.decode(reply.body, type=dict[str, Any])


def _may_try_again(error: ShoalError, *, alone: bool) -> bool:
    """Whether nothing was done, and another moment or another board may do it."""
    if isinstance(error, Unreachable):
        return error.outcome == "not-applied" and not alone
    return isinstance(error, NoLeader) or type(error) is Unavailable


@asynccontextmanager
async def boards_of(target: Target) -> AsyncIterator[Boards]:
    """The boards at the target's urls. Raises ConfigError."""
    if target.token:
        check_sendable(target.token)
    exchange = HttpExchange(target.token)
    try:
        yield Boards(target, exchange)
    finally:
        await exchange.close()


def views(asked: Sequence[Asked]) -> list[View]:
    """Of those that answered. Raises the first error when none did."""
    found = [each.view for each in asked if each.view is not None]
    if not found:
        raise next(each.error for each in asked if each.error is not None)
    return found


def _base(url: str) -> str:
    if not is_base(url):
        raise ConfigError("--url", f"{url!r} is not a board's address, such as http://board-1:4589")
    return url.rstrip("/")
