"""A node of the lab: `shoald` on a disk with faults, which may dial its peers through proxies or live in a namespace.

    python -m shoal_host.lab.node --faults FILE [--dial HOST:PORT=HOST:PORT ...] [--namespace NAME] -- SHOALD_OPTIONS

Unlike `shoald` it ends at once when the lab does: a node that is paused could not end by itself.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from shoal import server
from shoal.__main__ import parser, read_config
from shoal.address import split_address
from shoal.errors import ConfigError
from shoal.node import Means
from shoal.testing.faulty_files import FaultFile, FaultyFiles

_CLONE_NEWNET: Final = 0x40000000
_PR_SET_PDEATHSIG: Final = 1
NAMESPACES: Final = Path("/run/netns")

Address = tuple[str, int]


class DetouringLoop(asyncio.SelectorEventLoop):
    """Dials some addresses by others, and does not tell who asks."""

    def __init__(self, detours: Mapping[Address, Address]) -> None:
        super().__init__()
        self._detours = detours

    async def create_connection(
        self, protocol_factory: Any, host: Any = None, port: Any = None, **options: Any
    ) -> Any:
        """As asyncio's, by the detour where there is one."""
        if (host, port) in self._detours:
            if options.get("ssl") and options.get("server_hostname") is None:
                options["server_hostname"] = host
            host, port = self._detours[host, port]
        return await super().create_connection(protocol_factory, host, port, **options)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the node; the result is its exit code."""
    own = _parser().parse_args(arguments)
    _end_with_parent()
    if own.namespace:
        enter_namespace(own.namespace)
    try:
        config = read_config(vars(parser().parse_args(own.shoald)), os.environ)
    except ConfigError as error:
        sys.stderr.write(f"shoald: {error}\n")
        return server.EXIT_USAGE
    means = Means(files=FaultyFiles(FaultFile(own.faults)))
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    if own.dial:
        loop_factory = partial(DetouringLoop, dict(own.dial))
    return server.run(config, means=means, loop_factory=loop_factory)


def detour(text: str) -> tuple[Address, Address]:
    """From `HOST:PORT=HOST:PORT`. Raises ValueError."""
    asked, _, instead = text.partition("=")
    return split_address(asked), split_address(instead)


def enter_namespace(name: str) -> None:
    """Move this process, threads made from now on included, into a network namespace. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    with (NAMESPACES / name).open("rb") as file:
        if libc.setns(file.fileno(), _CLONE_NEWNET) != 0:
            number = ctypes.get_errno()
            raise OSError(number, f"{os.strerror(number)}: network namespace {name}")


def _end_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="shoal_host.lab.node", allow_abbrev=False)
    made.add_argument("--faults", type=Path, required=True)
    made.add_argument("--dial", type=detour, action="append", default=[])
    made.add_argument("--namespace")
    made.add_argument("shoald", nargs="*")
    return made


if __name__ == "__main__":
    sys.exit(main())
