"""Futures whose result comes from elsewhere, when whoever waited may have gone."""

from __future__ import annotations

import asyncio
from typing import Any


def settle(future: asyncio.Future[Any], outcome: object) -> None:
    """Give a future its result, unless nobody waits for it any more."""
    if not future.done():
        future.set_result(outcome)
