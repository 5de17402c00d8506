"""Pages are bounded in bytes too: ten thousand events of 4 MiB would not fit a board's memory."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from shoal.model.machine import Row


def take(rows: Iterable[Any], max_bytes: int) -> list[Row]:
    """Rows until their payloads exceed `max_bytes` together; at least one."""
    taken: list[Row] = []
    size = 0
    for row in rows:
        taken.append(row)
        size += len(row[6])
        if size > max_bytes:
            break
    return taken
