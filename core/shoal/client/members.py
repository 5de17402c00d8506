"""The boards that belong to the cluster, asked for while the client is used."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from urllib.parse import urlsplit

import msgspec

from shoal.client.boards import Board, Boards
from shoal.errors import NotFound, ShoalError

REFRESH_MS = 30_000
"""How old what is known may be before it is asked for again."""
AGAIN_MS = 1_000
"""The least time between two questions, however much fails."""


class _Member(msgspec.Struct):
    id: str
    url: str = ""
    role: str = ""
    alive: bool = True


class _Cluster(msgspec.Struct):
    """The part of `GET /v1/cluster` that a client needs."""

    members: list[_Member]
    node_id: str = ""
    leader: str | None = None
    removed: bool = False


class Members:
    """Keeps `boards` as the cluster says. A call may start a question beside itself; nothing runs on an idle client."""

    def __init__(
        self,
        boards: Boards,
        ask: Callable[[Board], Awaitable[bytes]],
        now_ms: Callable[[], int],
        *,
        tls: bool,
    ) -> None:
        self._boards = boards
        self._ask = ask
        self._now_ms = now_ms
        self._tls = tls
        self._due_ms = self._allowed_ms = now_ms()
        self._asking: asyncio.Task[None] | None = None
        self._closed = False

    def doubted(self) -> None:
        """A board failed: ask anew, soon."""
        self._due_ms = min(self._due_ms, self._allowed_ms)
        self.freshen()

    def freshen(self) -> None:
        """Ask, if what is known is old and nobody asks."""
        now_ms = self._now_ms()
        if self._closed or now_ms < self._due_ms or (self._asking is not None and not self._asking.done()):
            return
        self._due_ms, self._allowed_ms = now_ms + REFRESH_MS, now_ms + AGAIN_MS
        self._asking = asyncio.create_task(self._learn(), name="members")

    async def settled(self) -> None:
        """Wait until the present question is answered."""
        if self._asking is not None:
            await asyncio.wait([self._asking])

    async def close(self) -> None:
        """Ask no more."""
        self._closed = True
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait([self._asking])

    async def _learn(self) -> None:
        """Ask one board after the other. One that knows no cluster is one board; what fails is asked another time."""
        for board in self._boards.likeliest(self._now_ms()):
            try:
                if self._take(board, await self._ask(board)):
                    return
            except NotFound:
                return
            except (ShoalError, msgspec.MsgspecError, UnicodeDecodeError):
                continue

    def _take(self, board: Board, answer: bytes) -> bool:
        """Whether the board belongs to the cluster, so that it knows who else does."""
        cluster = msgspec.json.decode(answer, type=_Cluster)
        self._boards.answered(board)
        board.node_id = cluster.node_id or board.node_id
        if cluster.removed or all(member.id != board.node_id for member in cluster.members):
            return False
        # A witness holds no events, and a board that is known to be away can wait.
        urls = {member.id: member.url.rstrip("/") for member in cluster.members if _serves(member)}
        usable = {node_id: url for node_id, url in urls.items() if is_base(url) and self._as_safe(url)}
        self._boards.learn(usable, cluster.leader)
        return True

    def _as_safe(self, url: str) -> bool:
        """A token that was given for TLS is not sent in the clear because a board says so."""
        return not self._tls or url.startswith("https:")


def _serves(member: _Member) -> bool:
    return member.role != "witness" and member.alive


def is_base(url: str) -> bool:
    """Whether `url` is a board's address."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:
        return False
    return bool(good) and not parts.query and not parts.fragment and parts.username is None


def all_tls(urls: Sequence[str]) -> bool:
    """Whether every given url is TLS."""
    return all(urlsplit(url).scheme == "https" for url in urls)
