"""Boards in Kubernetes: the addresses that the DNS has for a headless service, one for each pod."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any, Final

from shoal.address import join_address
from shoal.clock import Clock

ADDRESSES_MAX: Final = 64

Resolve = Callable[[str, int], Awaitable[list[tuple[Any, ...]]]]


async def resolve_by_loop(host: str, port: int) -> list[tuple[Any, ...]]:
    """The system's resolver, on a thread. Raises OSError."""
    loop = asyncio.get_running_loop()
    return list(await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM))


class K8s:
    """Asks each turn; an answer counts for `expire_ms`, so that a DNS that is away for a moment loses nobody."""

    name = "k8s"

    def __init__(
        self, service: str, port: int, clock: Clock, expire_ms: int, resolve: Resolve = resolve_by_loop
    ) -> None:
        self._service = service
        self._port = port
        self._clock = clock
        self._expire_ms = expire_ms
        self._resolve = resolve
        self._found: list[str] = []
        self._found_ms = 0

    def addresses(self) -> list[str]:
        """Where the pods are; this board's own is among them."""
        return list(self._found) if self._clock.monotonic_ms() - self._found_ms <= self._expire_ms else []

    async def turn(self) -> str:
        """Ask the DNS; what is wrong, or nothing."""
        try:
            answers = await self._resolve(self._service, self._port)
        except (OSError, UnicodeError) as error:
            return f"the DNS has no address of {self._service}: {error}"
        hosts = dict.fromkeys(str(answer[4][0]) for answer in answers)
        self._found = [join_address(host, self._port) for host in hosts][:ADDRESSES_MAX]
        self._found_ms = self._clock.monotonic_ms()
        return ""

    async def close(self) -> None:
        """Nothing is open between turns."""
