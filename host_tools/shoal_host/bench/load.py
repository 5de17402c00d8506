"""An HTTP client that costs little: one request under way per keep-alive connection, as many as it takes.

It runs in a process of its own, so that it shares no interpreter lock with the server it measures.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final

import msgspec

from shoal_host.bench.loops import best_loop, run_on
from shoal_host.bench.rows import percentile
from shoal_host.bench.workload import COMMON_TYPE, RARE_TYPE, payload

_encode: Final = msgspec.json.Encoder().encode
_HEAD_END: Final = b"\r\n\r\n"
_CREATED: Final = b"HTTP/1.1 201"


class Load(msgspec.Struct, frozen=True):
    """What the client saw, and how busy it was itself (1.0: a whole core, it was the limit)."""

    requests: int
    rate: float
    p50_s: float
    p99_s: float
    client_cpu: float


class Connection(asyncio.Protocol):
    """Sends the next request when the last one is answered; `next_request` returns None at the end."""

    def __init__(self, next_request: Callable[[], bytes | None]) -> None:
        self._next_request = next_request
        self._buffer = b""
        self._sent_at = 0.0
        self._transport: Any = None
        self.took_s: list[float] = []
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._send()

    def _send(self) -> None:
        request = self._next_request()
        if request is None:
            self._transport.close()
            self.done.set_result(None)
            return
        self._sent_at = time.perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head_end = self._buffer.find(_HEAD_END)
        if head_end < 0:
            return
        end = head_end + len(_HEAD_END) + content_length(self._buffer[:head_end])
        if len(self._buffer) < end:
            return
        if not self._buffer.startswith(_CREATED):
            self._fail(RuntimeError(f"the server answered {self._buffer[:300]!r}"))
            return
        self.took_s.append(time.perf_counter() - self._sent_at)
        self._buffer = self._buffer[end:]
        self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(exc or ConnectionError("the server closed the connection"))

    def _fail(self, error: Exception) -> None:
        if not self.done.done():
            self.done.set_exception(error)
            self._transport.close()


def content_length(head: bytes) -> int:
    """Of an answer's head; 0 where it says nothing."""
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


def post(path: str, body: bytes) -> bytes:
    """A request's bytes."""
    return request("POST", path, body)


def request(method: str, path: str, body: bytes = b"", accept: str = "*/*") -> bytes:
    """The bytes of any request; a body is JSON."""
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nAccept: {accept}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def run_load(port: int, connections: int, seconds: float, prefix: str) -> Load:
    """Job: every connection appends one event after another to a stream of its own."""
    return run_load_on([port], connections, seconds, prefix)


def run_load_on(ports: list[int], connections: int, seconds: float, prefix: str) -> Load:
    """Job: the same, the connections spread over several boards."""
    return run_on(best_loop(), _load(ports, connections, seconds, prefix))


async def _load(ports: list[int], connections: int, seconds: float, prefix: str) -> Load:
    end = time.perf_counter() + seconds

    def appends(stream_id: str) -> Callable[[], bytes | None]:
        version = -1

        def next_request() -> bytes | None:
            nonlocal version
            if time.perf_counter() >= end:
                return None
            body = _encode([{"event_type": COMMON_TYPE, "data": payload(version)}])
            wanted = post(f"/v1/streams/{stream_id}?expected_version={version}", body)
            version += 1
            return wanted

        return next_request

    began, cpu = time.perf_counter(), time.process_time()
    took = await _converse(ports, [appends(f"{prefix}-{number}") for number in range(connections)])
    elapsed = time.perf_counter() - began
    busy = (time.process_time() - cpu) / elapsed
    return Load(len(took), len(took) / elapsed, percentile(took, 50), percentile(took, 99), busy)


async def _converse(ports: list[int], clients: list[Callable[[], bytes | None]]) -> list[float]:
    """Run all to their end; what each request took."""
    loop = asyncio.get_running_loop()
    protocols = []
    for number, next_request in enumerate(clients):
        _, protocol = await loop.create_connection(
            lambda made=next_request: Connection(made),  # type: ignore[misc]
            "127.0.0.1",
            ports[number % len(ports)],
        )
        protocols.append(protocol)
    await asyncio.gather(*(protocol.done for protocol in protocols))
    return [took for protocol in protocols for took in protocol.took_s]


def fill_by_http(port: int, events: int, rare: int, long_stream: str, long_events: int) -> float:
    """Job: append so many events, 1,000 at a time over 4 connections; seconds it took.

    The first `long_events` go to one stream, the others to a hundred; `rare` ones are spread evenly.
    """
    return run_on(best_loop(), _fill(port, events, rare, long_stream, long_events))


async def _fill(port: int, events: int, rare: int, long_stream: str, long_events: int) -> float:
    blocks = iter(range(0, events, 1_000))
    every = events // rare

    def next_request() -> bytes | None:
        start = next(blocks, None)
        if start is None:
            return None
        stream_id = long_stream if start < long_events else f"stream-{start // 1_000 % 100}"
        body = _encode(
            [
                {"event_type": RARE_TYPE if at % every == every - 1 else COMMON_TYPE, "data": payload(at)}
                for at in range(start, min(start + 1_000, events))
            ]
        )
        return post(f"/v1/streams/{stream_id}?expected_version=-2", body)

    began = time.perf_counter()
    await _converse([port], [next_request] * 4)
    return time.perf_counter() - began
