"""Lease tokens: what names one delivery of one event.

A token carries the leader's term, the subscription's life, the position and the attempt, as hexadecimal numbers. It
is no secret: it names a delivery, and whoever may use the subscription may settle its events.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from shoal.errors import InvalidRequest

_TOKEN = re.compile(r"([0-9a-f]{1,14})-([0-9a-f]{1,14})-([0-9a-f]{1,14})-([0-9a-f]{1,14})", re.ASCII)


class Lease(NamedTuple):
    """One delivery of one event."""

    term: int
    life: int
    position: int
    attempt: int

    @property
    def token(self) -> str:
        """As it travels."""
        return f"{self.term:x}-{self.life:x}-{self.position:x}-{self.attempt:x}"


def read_lease(token: object, pointer: str = "leases") -> Lease:
    """Inverse of `Lease.token`. Raises InvalidRequest."""
    found = _TOKEN.fullmatch(token) if isinstance(token, str) else None
    if found is None:
        raise InvalidRequest(f"{token!r:.100} is not a lease: send it as it was delivered", pointer=pointer)
    term, life, position, attempt = found.groups()
    return Lease(int(term, 16), int(life, 16), int(position, 16), int(attempt, 16))
