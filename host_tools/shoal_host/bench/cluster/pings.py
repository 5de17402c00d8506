"""A peer's round trip: a ping and its pong over the connection on which Raft's own messages travel.

Framing, TLS, both event loops and the way through the transport are in it, the disk and Raft are not.
"""

from __future__ import annotations

import asyncio
import time
from itertools import count

from shoal.cluster.link import Link
from shoal.cluster_node import ClusterNode

_numbers = count(1 << 40)  # the transport's own pings are far below


class Peer:
    """Another member, as `member` reaches it."""

    def __init__(self, member: ClusterNode, node_id: str) -> None:
        self._dialler = member.transport._diallers[node_id]  # noqa: SLF001 - nothing else needs a ping timed so finely
        self._before = self._dialler.answered
        self._awaited: dict[int, asyncio.Future[None]] = {}
        self._dialler.answered = self._answered  # type: ignore[method-assign]  # to hear of the pong at once

    def _answered(self, link: Link, number: int) -> None:
        awaited = self._awaited.pop(number, None)
        if awaited is None:
            self._before(link, number)
        else:
            awaited.set_result(None)

    async def round_trip(self) -> float:
        """Seconds until the pong is here. Raises ConnectionError while there is no connection."""
        link = self._dialler.control
        if link is None or not link.ready:
            raise ConnectionError(f"there is no connection to {self._dialler.node_id}")
        number = next(_numbers)
        self._awaited[number] = asyncio.get_running_loop().create_future()
        awaited = self._awaited[number]
        began = time.perf_counter()
        link.ping(number)
        await awaited
        return time.perf_counter() - began
