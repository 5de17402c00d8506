"""What every test runs under: no blocking call on the event loop, and the same Hypothesis examples each time."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from blockbuster import BlockBuster, BlockBusterFunction, blockbuster_ctx
from hypothesis import settings

OURS = ["shoal", "shoal_device"]

# What a journal calls and BlockBuster does not know by itself.
DISK_CALLS = ["fsync", "fdatasync", "pread", "pwrite", "ftruncate", "posix_fallocate"]

# A shell starts what runs in the background with SIGINT ignored, and so would be every process that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("ci", deadline=None, derandomize=True)
settings.register_profile("deep", deadline=None, max_examples=2_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture(scope="session", autouse=True)
def nothing_blocks_the_loop() -> Iterator[BlockBuster]:
    """A file, lock or socket call that can wait, made by our code on a running loop, raises BlockingError."""
    with blockbuster_ctx(scanned_modules=OURS) as blockbuster:
        for name in DISK_CALLS:
            call = BlockBusterFunction(None, f"os.{name}", scanned_modules=OURS)
            blockbuster.functions[f"os.{name}"] = call.activate()
        for name in ("apsw.Connection.execute", "apsw.Cursor.execute", "apsw.Cursor.executemany"):
            call = BlockBusterFunction(None, name, scanned_modules=OURS)
            call.can_block_in("shoal/testing/inline_worker.py", {"submit"})
            blockbuster.functions[name] = call.activate()
        # What the kernel answers from memory.
        blockbuster.functions["io.TextIOWrapper.read"].can_block_in("shoal/metrics.py", {"bytes_written"})
        # coverage counts lines in the midst of ours, under a lock of its own.
        for name in ("threading.Lock.acquire", "threading.Lock.acquire_lock"):
            blockbuster.functions[name].can_block_in("coverage/collector.py", {"lock_data"})
        yield blockbuster
