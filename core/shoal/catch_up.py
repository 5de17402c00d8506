"""A node that lacks what no journal holds any more gets a copy of the databases (a raft_snapshot, storage.md 9).

The receiver asks, saying what it has; the sender answers with chunks, a few ahead of what is acknowledged and no more
than `RATE_BYTES_S`, so that the copy disturbs nobody. A chunk that is lost ends the transfer, and the receiver asks
again: it goes on where it was, also after a restart. When all is there the receiver's node ends, the copy takes the
place of what it had (`shoal.storage.install`), and the node begins again with it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import Any, Final

import msgspec

from shoal.errors import DiskFull, ShoalError, TransferRefused
from shoal.node import Node
from shoal.storage.exporter import Exporter
from shoal.storage.importer import Importer
from shoal.storage.manifest_only import ManifestOnly, for_a_witness
from shoal.storage.workers import Worker, run_job

AHEAD_CHUNKS: Final = 16
RATE_BYTES_S: Final = 16 * 1024 * 1024
SILENCE_S: Final = 10.0
"""After which a transfer is given up."""
AGAIN_S: Final = 2.0
SENDING_MAX: Final = 2

_log = logging.getLogger("shoal.cluster")


class AskCopy(msgspec.Struct, frozen=True, array_like=True, tag=22, gc=False):
    """Send me a copy of the databases; `cursor` says what I have."""

    transfer: int
    cursor: bytes


class CopyChunk(msgspec.Struct, frozen=True, array_like=True, tag=23, gc=False):
    """A piece of it, in order from 0."""

    transfer: int
    number: int
    data: bytes


class CopyTaken(msgspec.Struct, frozen=True, array_like=True, tag=24, gc=False):
    """That many pieces have come."""

    transfer: int
    count: int


class CopyEnded(msgspec.Struct, frozen=True, array_like=True, tag=25, gc=False):
    """The sender cannot go on."""

    transfer: int
    why: str


CopyWord = AskCopy | CopyChunk | CopyTaken | CopyEnded

Send = Callable[[str, Any], bool]


class _Sending:
    """One transfer to one node."""

    def __init__(self, node_id: str, ask: AskCopy) -> None:
        self.node_id = node_id
        self.ask = ask
        self.sent = 0
        self.taken = 0
        self.moved = asyncio.Event()


class CatchUp:
    """Both sides of a node. `arrived` is called when a whole copy is here and waits to be installed."""

    def __init__(self, node: Node, send: Send, arrived: Callable[[], None]) -> None:
        self._node = node
        self._send = send
        self._arrived = arrived
        self._loop = asyncio.get_running_loop()
        self._sending: dict[str, tuple[_Sending, asyncio.Task[None]]] = {}
        self._receiving: asyncio.Task[None] | None = None
        self._chunks: asyncio.Queue[CopyChunk | CopyEnded] = asyncio.Queue()
        self._transfer = 0
        self._worker: Worker | None = None
        self._importer: Importer | None = None

    # -- receiving -------------------------------------------------------------------------------

    def fetch(self, source: str) -> None:
        """This node is behind what `source` still holds: have a copy, if none is under way."""
        if self._receiving is None:
            self._receiving = self._loop.create_task(self._receive(source))

    async def _receive(self, source: str) -> None:
        _log.warning("the journals of the others begin after this node's last entry: copying from %s", source)
        try:
            copy = await self._take_all(source)
        except (TransferRefused, DiskFull, TimeoutError, ConnectionError) as error:
            _log.warning("the copy from %s did not come whole, it goes on by itself: %s", source, error)
            await asyncio.sleep(AGAIN_S)
        except Exception as error:  # noqa: BLE001 - a node that lags and copies no more must not go on in silence
            self._node.fail(error)
        else:
            _log.warning("the copy from %s is here: this node begins again with it", source)
            self._node.install = copy
            self._arrived()
            return  # and stays as it is until the node has ended
        self._receiving = None

    async def _take_all(self, source: str) -> Importer | ManifestOnly:
        importer = self._importer
        if importer is None:
            importer = self._importer = await run_job(self._thread(), self._node.make_importer)
        self._transfer = transfer = self._node.random.getrandbits(48)
        self._chunks = asyncio.Queue()
        cursor = await run_job(self._thread(), lambda: importer.cursor)
        if not self._send(source, AskCopy(transfer, cursor)):
            raise ConnectionError("it cannot be reached")
        number = 0
        while not importer.complete:
            async with asyncio.timeout(SILENCE_S):
                word = await self._chunks.get()
            if isinstance(word, CopyEnded):
                raise TransferRefused(word.why)
            if word.number != number:
                raise ConnectionError("a piece was lost")
            if number == 0 and (beginning := self._for_a_witness(word.data)) is not None:
                return beginning
            await run_job(self._thread(), partial(importer.feed, word.data))
            number += 1
            self._send(source, CopyTaken(transfer, number))
        return importer

    def _for_a_witness(self, chunk: bytes) -> ManifestOnly | None:
        return for_a_witness(chunk, self._node.config.cluster_id, self._node.driver.own)

    # -- sending ---------------------------------------------------------------------------------

    def hear(self, sender: str, word: CopyWord) -> None:
        """A word of the other side."""
        if isinstance(word, AskCopy):
            self._begin_sending(sender, word)
        elif isinstance(word, CopyTaken):
            sending, _ = self._sending.get(sender, (None, None))
            if sending is not None and sending.ask.transfer == word.transfer:
                sending.taken = word.count
                sending.moved.set()
        elif word.transfer == self._transfer and self._receiving is not None:
            self._chunks.put_nowait(word)

    def _begin_sending(self, node_id: str, ask: AskCopy) -> None:
        _, before = self._sending.pop(node_id, (None, None))
        if before is not None:
            before.cancel()
        if len(self._sending) >= SENDING_MAX:
            self._send(node_id, CopyEnded(ask.transfer, "others are being copied to"))
            return
        sending = _Sending(node_id, ask)
        self._sending[node_id] = (sending, self._loop.create_task(self._run(sending)))

    async def _run(self, sending: _Sending) -> None:
        exporter = self._node.make_exporter()
        _log.info("copying the databases to %s", sending.node_id)
        try:
            self._node.journal_only.require_stores()
            await self._send_copy(sending, exporter)
        except (ShoalError, TimeoutError, ConnectionError) as error:
            _log.warning(
                "copying to %s is cut short: %s", sending.node_id, str(error) or "it does not answer"
            )
            self._send(sending.node_id, CopyEnded(sending.ask.transfer, str(error)))
        except Exception as error:  # noqa: BLE001 - told to the other side, which tries again
            _log.exception("copying to %s failed", sending.node_id)
            self._send(sending.node_id, CopyEnded(sending.ask.transfer, f"the sender failed: {error}"))
        finally:
            await run_job(self._thread(), exporter.close)
            if self._sending.get(sending.node_id, (None, None))[0] is sending:
                del self._sending[sending.node_id]

    async def _send_copy(self, sending: _Sending, exporter: Exporter) -> None:
        members = self._node.driver.core.configuration.members
        witness = any(m.witness and m.node_id == sending.node_id for m in members)
        if witness:
            await self._node.hold(_nothing)  # so that what is committed to SQLite knows of the witness
        await run_job(self._thread(), partial(exporter.begin, sending.ask.cursor or None))
        if witness:
            await self._send_all(sending, islice(exporter.events(), 1))
            self._send(sending.node_id, CopyEnded(sending.ask.transfer, "a witness gets no databases"))
            return
        await self._send_all(sending, exporter.events())
        await self._node.hold(exporter.hold)
        await self._send_all(sending, exporter.rest())

    async def _send_all(self, sending: _Sending, chunks: Iterator[bytes]) -> None:
        while (data := await run_job(self._thread(), partial(next, chunks, None))) is not None:
            while sending.sent - sending.taken >= AHEAD_CHUNKS:
                sending.moved.clear()
                async with asyncio.timeout(SILENCE_S):
                    await sending.moved.wait()
            if not self._send(sending.node_id, CopyChunk(sending.ask.transfer, sending.sent, data)):
                raise ConnectionError("the connection broke")
            sending.sent += 1
            await asyncio.sleep(len(data) / RATE_BYTES_S)

    # -- both ------------------------------------------------------------------------------------

    def _thread(self) -> Worker:
        if self._worker is None:
            self._worker = self._node.means.workers("copy", 1)
        return self._worker

    async def close(self) -> None:
        """End what is under way; what has come of a copy stays, to go on with."""
        tasks = [task for _, task in self._sending.values()]
        if self._receiving is not None:
            tasks.append(self._receiving)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._importer is not None and self._node.install is None:
            await run_job(self._thread(), self._importer.close)
        if self._worker is not None:
            await asyncio.to_thread(self._worker.close)


def _nothing() -> None:
    """Only what comes before it is wanted."""
