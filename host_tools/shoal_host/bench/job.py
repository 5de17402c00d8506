"""Runs one function in this fresh process: `python -m shoal_host.bench.job MODULE FUNCTION ARGUMENTS`.

The arguments are a JSON array; the result goes to stdout as one line of JSON. Each phase gets such a
process, so that no measurement inherits the heap, the threads or the caches of the one before.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import sys

import msgspec


def main(arguments: list[str]) -> None:
    """Call the function, and await it if it is a coroutine function."""
    module, name, text = arguments
    function = getattr(importlib.import_module(module), name)
    result = function(*msgspec.json.decode(text))
    if inspect.iscoroutine(result):
        result = asyncio.run(result)
    sys.stdout.write(msgspec.json.encode(result).decode() + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
