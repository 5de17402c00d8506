"""The least program that appends: opens the store named, appends one event, says so, closes."""

from __future__ import annotations

import asyncio
import sys

import shoal
from shoal import ANY_VERSION, NewEvent


async def main(data_dir: str) -> None:
    """Print a line as soon as the append is answered."""
    async with shoal.open(data_dir=data_dir) as store:
        await store.streams.append("start", ANY_VERSION, [NewEvent("started", {"by": "benchmark"})])
        sys.stdout.write("appended\n")
        sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
