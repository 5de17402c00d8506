"""Tokens made and taken away while a board runs, as `shoal tokens` does it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from shoal.tokens import Role, TokenFile, find


async def add(data_dir: Path, role: Role, streams: Sequence[str] = ()) -> str:
    """What `shoal tokens create` does, from another thread: our code may not block the loop."""
    return await asyncio.to_thread(partial(TokenFile(data_dir).add, role, streams=streams))


async def revoke(data_dir: Path, text: str) -> None:
    """Take one token away."""

    def change() -> None:
        file = TokenFile(data_dir)
        token = find(file.tokens(), text)
        assert token is not None
        file.remove(token.id)

    await asyncio.to_thread(change)


def bearer(text: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {text}"}
