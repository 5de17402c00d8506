"""Clients of a live push that cost little: a producer that keeps a pace, and a reader that counts and acks.

Each runs in a process of its own, so that it shares no interpreter lock with the server it measures.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final, Self

import msgspec

from shoal_host.bench.load import content_length, request
from shoal_host.bench.loops import best_loop, run_on
from shoal_host.bench.workload import COMMON_TYPE, payload

CONSUMER: Final = "reader"
_encode: Final = msgspec.json.Encoder().encode
_EVENT: Final = b"\ndata: "
_ID: Final = b"\nid: "
_END: Final = b"\nevent: end\n"
_OK: Final = b"HTTP/1.1 200"
_HEAD_END: Final = b"\r\n\r\n"
_IN_FLIGHT: Final = 5_000
_FIRST_S: Final = 20.0
_LOOK_S: Final = 0.02


class Produced(msgspec.Struct, frozen=True):
    """What the producer appended, and how busy it was itself (1.0: a whole core)."""

    rate: float
    cpu: float


class Arrived(msgspec.Struct, frozen=True):
    """What came within the time, how many acks were answered, and how busy the reader was itself."""

    rate: float
    acks: int
    cpu: float


class Wire:
    """One request at a time on one keep-alive connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def open(cls, port: int) -> Self:
        """To a server on this machine."""
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def ask(self, request: bytes) -> bytes:
        """The body of the answer. Raises RuntimeError unless it is a success."""
        self._writer.write(request)
        head = await self._reader.readuntil(_HEAD_END)
        body = await self._reader.readexactly(content_length(head))
        if head[9:10] != b"2":
            raise RuntimeError(f"the server answered {head[:200]!r} {body[:300]!r}")
        return body

    async def close(self) -> None:
        """Done."""
        self._writer.close()
        await self._writer.wait_closed()


async def subscribe(port: int, name: str, pattern: str) -> None:
    """Make a subscription of streams by pattern. Several thousand may be on their way: acks take their time."""
    wire = await Wire.open(port)
    wanted = {"type": "event_pattern", "selector": pattern, "start_from": "end", "max_in_flight": _IN_FLIGHT}
    await wire.ask(request("PUT", f"/v1/subscriptions/{name}", _encode(wanted)))
    await wire.close()


# --- the producer


def produce(
    port: int, subscription: str, seconds: float, rate: int, batch: int, connections: int
) -> Produced:
    """Job: append batches at this rate, or as fast as it goes, once the subscription has its consumer."""
    return run_on(best_loop(), _produce(port, subscription, seconds, rate, batch, connections))


async def _produce(
    port: int, subscription: str, seconds: float, rate: int, batch: int, connections: int
) -> Produced:
    await _consumer_there(port, subscription)
    began, cpu = time.perf_counter(), time.process_time()
    counts = await asyncio.gather(
        *(
            _append(port, f"{subscription}-{number}", seconds, rate / connections, batch)
            for number in range(connections)
        )
    )
    elapsed = time.perf_counter() - began
    return Produced(sum(counts) / elapsed, (time.process_time() - cpu) / elapsed)


async def _consumer_there(port: int, subscription: str) -> None:
    wire = await Wire.open(port)
    look = request("GET", f"/v1/subscriptions/{subscription}/stats")
    async with asyncio.timeout(_FIRST_S):
        while CONSUMER not in msgspec.json.decode(await wire.ask(look))["consumers"]:  # noqa: ASYNC110 - another process
            await asyncio.sleep(_LOOK_S)
    await wire.close()


async def _append(port: int, stream_id: str, seconds: float, rate: float, batch: int) -> int:
    """Who is late catches up as fast as it goes."""
    wire = await Wire.open(port)
    began, appended = time.perf_counter(), 0
    while (now := time.perf_counter()) - began < seconds:
        if (early_s := began + appended / rate - now) > 0:
            await asyncio.sleep(early_s)
        body = _encode(
            [{"event_type": COMMON_TYPE, "data": payload(at)} for at in range(appended, appended + batch)]
        )
        await wire.ask(request("POST", f"/v1/streams/{stream_id}?expected_version={appended - 1}", body))
        appended += batch
    await wire.close()
    return appended


# --- the reader


def read(port: int, subscription: str, seconds: float, ack_every: int) -> Arrived:
    """Job: count what is pushed for so long from the first event on, acking by position on another connection."""
    return run_on(best_loop(), _read(port, subscription, seconds, ack_every))


async def _read(port: int, subscription: str, seconds: float, ack_every: int) -> Arrived:
    wire = await Wire.open(port)
    path = f"/v1/subscriptions/{subscription}"
    _, pushed = await asyncio.get_running_loop().create_connection(Pushed, "127.0.0.1", port)
    pushed.send(request("GET", f"{path}/events?consumer={CONSUMER}", accept="text/event-stream"))
    if not await pushed.reached(1, _FIRST_S):
        raise RuntimeError(f"no event came in {_FIRST_S:.0f} s")
    began, cpu = time.perf_counter(), time.process_time()
    first, acked, acks = pushed.events, 0, 0
    while (left_s := began + seconds - time.perf_counter()) > 0:
        if await pushed.reached(acked + ack_every, left_s):
            acked = pushed.events
            await wire.ask(request("POST", f"{path}/ack", b'{"position":%d}' % pushed.position))
            acks += 1
    elapsed = time.perf_counter() - began
    rate = (pushed.events - first) / elapsed
    busy = (time.process_time() - cpu) / elapsed
    pushed.close()
    await wire.close()
    return Arrived(rate, acks, busy)


class Pushed(asyncio.Protocol):
    """Counts the events of an answer; `position` is that of the last whole one. It looks at no more than it must."""

    def __init__(self) -> None:
        self.events = 0
        self.position = 0
        self._begun = False
        self._rest = b""
        self._wanted = 0
        self._reached: asyncio.Future[None] | None = None
        self._transport: Any = None
        self._lost: Exception | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def send(self, request: bytes) -> None:
        """Ask."""
        self._transport.write(request)

    def close(self) -> None:
        """Go."""
        self._transport.close()

    async def reached(self, events: int, seconds: float) -> bool:
        """Whether so many have come within this time. Raises what ended the connection."""
        if self._lost is not None:
            raise self._lost
        if self.events >= events:
            return True
        self._wanted, self._reached = events, asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(seconds):
                await self._reached
        except TimeoutError:
            return False
        finally:
            self._reached = None
        return True

    def data_received(self, data: bytes) -> None:
        """Of each event as sent, `id: N` and `data: ...` with a line each, only the beginnings of lines matter."""
        data = self._rest + data
        if not self._begun:
            data = self._begin(data)
        end = data.rfind(b"\n\n") + 2  # before it all events are whole
        if end < 2:
            self._rest = data
            return
        whole, self._rest = data[:end], data[end - 1 :]  # the next line, too, begins behind a line's end
        if _END in whole:
            self._fail(RuntimeError(f"the server ended it: {whole[-300:]!r}"))
            return
        self.events += whole.count(_EVENT)
        at = whole.rfind(_ID) + len(_ID)
        if at >= len(_ID):
            self.position = int(whole[at : whole.index(b"\n", at)])
        if self._reached is not None and self.events >= self._wanted and not self._reached.done():
            self._reached.set_result(None)

    def _begin(self, data: bytes) -> bytes:
        """What is left behind the head."""
        head_end = data.find(_HEAD_END)
        if head_end < 0:
            return data
        if not data.startswith(_OK):
            self._fail(RuntimeError(f"the server answered {data[:300]!r}"))
        self._begun = True
        return data[head_end + len(_HEAD_END) - 1 :]

    def connection_lost(self, exc: Exception | None) -> None:
        """A push has no end of its own."""
        self._fail(exc or ConnectionError("the server closed the connection"))

    def _fail(self, error: Exception) -> None:
        self._lost = self._lost or error
        if self._reached is not None and not self._reached.done():
            self._reached.set_exception(error)
