"""What the tests of storage and sequencing share: small nodes, files that fail on purpose, images of a killed node."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from shoal.config import Config, StorageConfig, StoreConfig
from shoal.node import Means, Node
from shoal.raft.log import Kind
from shoal.storage.files import Files, RealFiles
from shoal.storage.journal import Journal, NewRecord, open_journal
from shoal.storage.segment import Identity
from shoal.testing.clock import FakeClock
from shoal.testing.inline_worker import InlineWorker
from shoal.types import NewEvent

IDENTITY = Identity("cluster", "node", b"i" * 16)
SEGMENT = 64 * 1024


def small(data_dir: Path, *stores: str | StoreConfig, **storage: Any) -> Config:
    """A node with small segments; `storage` overrides single settings of it."""
    settings: dict[str, Any] = {
        "segment_bytes": SEGMENT,
        "reserve_bytes": 0,
        "commit_rows": 100_000,
        "commit_interval_ms": 3_600_000,
        **storage,
    }
    named = tuple(StoreConfig(store) if isinstance(store, str) else store for store in stores)
    return Config(
        data_dir=data_dir,
        telemetry_handlers=(),
        storage=StorageConfig(**settings),
        stores=named or (StoreConfig("main"),),
    )


def inline(_name: str, _threads: int) -> InlineWorker:
    """Workers that run everything in place: one thread, the same order each time."""
    return InlineWorker(asyncio.get_running_loop())


def inline_means(files: Files | None = None, clock: FakeClock | None = None) -> Means:
    """A node in one thread, with a clock that stands still."""
    return Means(clock=clock or FakeClock(), files=files, workers=inline)


@asynccontextmanager
async def opened(config: Config, means: Means | None = None) -> AsyncIterator[Node]:
    """A node, closed at the end."""
    node = await Node.open(config, means=means or Means(clock=FakeClock()))
    try:
        yield node
    finally:
        await node.close()


def image(data_dir: Path, target: Path) -> Path:
    """What a killed process leaves: the files as they are, nothing committed, nothing closed."""
    shutil.copytree(data_dir, target, ignore=shutil.ignore_patterns("*-shm", "LOCK"))
    return target


def events(count: int, kind: str = "e", size: int = 0, tags: list[str] | None = None) -> list[NewEvent]:
    """Events that tell each other apart."""
    return [NewEvent(kind, {"n": n, "pad": "x" * size}, tags=tags) for n in range(count)]


async def everything(node: Node) -> dict[str, Any]:
    """All that the API tells of every store, to compare two nodes."""
    found: dict[str, Any] = {}
    for name, store in sorted(node.stores.items()):
        listed = await store.streams.list_page(count=1_000, system=True)
        found[name] = {
            "head": store.head,
            "events": await store.streams.read_all(count=10_000),
            "streams": listed.streams,
            "snapshots": {
                stream.stream_id: await store.snapshots.list(stream.stream_id) for stream in listed.streams
            },
            **await subscriptions(node, store),
        }
    return found


async def subscriptions(node: Node, store: Any) -> dict[str, Any]:
    """What memory says of a store's subscriptions, which the writer must say too, and what they have parked."""
    context = store._context
    parked = await context.read_applied(
        lambda connection: connection.execute("SELECT * FROM parked ORDER BY 1, 2").fetchall()
    )
    states = dict(context.memory.subscriptions)
    applied = node._engine.stores[store.name]
    assert applied.subscriptions() == states
    assert applied.parked_counts == Counter(row[0] for row in parked)
    return {"subscriptions": states, "parked": parked}


def submit(store: Any, command: Any) -> asyncio.Future[Any]:
    """Have a command on a subscription decided."""
    future: asyncio.Future[Any] = store._context.submit(command, command.name, 100)
    return future


async def settle(node: Node) -> None:
    """Wait until the writer thread has applied what was answered."""
    node.sequencer.hand_over()
    done = asyncio.get_running_loop().create_future()
    node._writer_worker.submit(lambda: None, done.set_result)
    await done


async def hold_reserve(node: Node) -> bool:
    """Set the reserve aside now, on the thread that does so."""
    done = asyncio.get_running_loop().create_future()
    node.helper.submit(node._reserve.hold, done.set_result)
    return await done


async def commit(node: Node) -> None:
    """Commit what is open, and let the loop hear of it."""
    node.sequencer.hand_over()
    node._writer.commit()
    await settle(node)
    for _ in range(3):
        await asyncio.sleep(0)


def run(main: Coroutine[Any, Any, Any]) -> Any:
    """Run to the end on a loop of its own."""
    return asyncio.run(main)


class FailingFiles:
    """Files whose call number `at` (from 1, of all methods or of `only`) raises `code`; `calls` is the history."""

    def __init__(
        self, at: int = 0, code: int = errno.ENOSPC, only: str = "", files: Files | None = None
    ) -> None:
        self._files = files or RealFiles()
        self.at = at
        self.code = code
        self.only = only
        self.calls: list[str] = []
        self.free: int | None = None

    def __getattr__(self, name: str) -> Callable[..., Any]:
        call = getattr(self._files, name)

        def counted(*arguments: Any) -> Any:
            if not self.only or name == self.only:
                self.calls.append(name)
                if len(self.calls) == self.at:
                    raise OSError(self.code, os.strerror(self.code), name)
            return call(*arguments)

        return counted

    def free_bytes(self, path: Path) -> int:
        return self._files.free_bytes(path) if self.free is None else self.free


def journal_in(
    directory: Path,
    files: Files | None = None,
    segment_bytes: int = SEGMENT,
    *,
    may_create: bool = True,
    floor: int = 0,
) -> Journal:
    """A journal, opened or made."""
    return open_journal(
        files or RealFiles(),
        directory,
        lambda: IDENTITY,
        segment_bytes=segment_bytes,
        floor_bytes=floor,
        may_create=may_create,
    )


def entry(index: int, payload: bytes = b"payload", term: int = 1) -> NewRecord:
    """A normal entry, to append."""
    return (Kind.NORMAL, index, term, payload)


def entries(journal: Journal, after: int = 0) -> list[tuple[int, bytes]]:
    """What the journal holds."""
    return [(record.index, record.payload) for record in journal.read(after)]


def segments(directory: Path) -> list[Path]:
    """The journal's segments, oldest first."""
    return sorted(directory.glob("*.seg"))
