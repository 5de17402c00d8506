"""Which event loop runs what: asyncio's own, or uvloop where it is installed, as shoald does."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from importlib.util import find_spec
from typing import Any, Literal, TypeVar

T = TypeVar("T")
Loop = Literal["asyncio", "uvloop"]


def best_loop() -> Loop:
    """The one that shoald takes."""
    return "uvloop" if find_spec("uvloop") else "asyncio"


def run_on(loop: Loop, main: Coroutine[Any, Any, T]) -> T:
    """Run `main` on a new loop of that kind."""
    if loop == "asyncio":
        return asyncio.run(main)
    import uvloop

    return uvloop.run(main)
