"""`python -m shoal_device.agent`: this machine's readings, once a second, into the stream `board-<node>`.

Its own process beside `shoald`, which it knows only as a client: either can restart without the other.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import sys
from collections.abc import Sequence
from random import Random

import shoal
from shoal.clock import SystemClock
from shoal.errors import ConfigError, ShoalError
from shoal.ids import EventIds, unpack
from shoal_device.monitor import Monitor, Settings, Surroundings
from shoal_device.readings import PsutilBoard

DEFAULT_URL = "http://127.0.0.1:4589"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m shoal_device.agent",
        description="Append this machine's readings (cpu, load, memory, disks, network, temperatures, "
        "processes) to the stream board-NODE.",
        epilog="Example: python -m shoal_device.agent --node kitchen --interval 5. "
        "A token is taken from SHOAL_TOKEN. Exit codes: 0 stopped, 1 the store refused, 2 usage.",
    )
    parser.add_argument(
        "--url",
        default=os.environ.get("SHOAL_URL", DEFAULT_URL),
        help="addresses of the store, spaces between",
    )
    parser.add_argument("--store", default=os.environ.get("SHOAL_STORE", "main"), help="name of the store")
    parser.add_argument(
        "--node", default=socket.gethostname(), help="name of this board (default: host name)"
    )
    parser.add_argument(
        "--interval", type=_interval, default=1.0, help="seconds between readings, 0.1 to 86400"
    )
    return parser


def _interval(text: str) -> float:
    value = float(text)
    if not 0.1 <= value <= 86_400:
        raise argparse.ArgumentTypeError(f"{text} is not between 0.1 and 86400 seconds")
    return value


def _report(line: str) -> None:
    sys.stderr.write(f"board agent: {line}\n")
    sys.stderr.flush()


async def _run(arguments: argparse.Namespace) -> None:
    clock = SystemClock()
    ids = EventIds(now_ms=lambda: clock.wall().epoch_us // 1000)
    surroundings = Surroundings(
        board=PsutilBoard(),
        clock=clock,
        sleep=asyncio.sleep,
        new_id=lambda: unpack(ids.take(1)[0]),
        random=Random(),  # noqa: S311 - for jitter, not for secrets
        report=_report,
    )
    settings = Settings(node=arguments.node, interval_s=arguments.interval)
    token = os.environ.get("SHOAL_TOKEN")
    async with shoal.connect(*arguments.url.split(), store=arguments.store, token=token) as store:
        monitor = Monitor(store.streams, settings, surroundings)
        loop = asyncio.get_running_loop()
        for signal_number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signal_number, monitor.stop)
        await monitor.run()


def main(argv: Sequence[str] | None = None) -> int:
    """Run until SIGTERM or Ctrl-C; the result is the exit code."""
    arguments = _parser().parse_args(argv)
    try:
        asyncio.run(_run(arguments))
    except ShoalError as error:
        _report(f"{error.code}: {error}")
        return 2 if isinstance(error, ConfigError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
