"""The benchmark of subscriptions: its scenarios give rows with targets, and its clients count what came."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from shoal_host.bench import acks, idle, push, sse_load, subscriptions
from shoal_host.bench.bench import QUICK, Bench, Large
from shoal_host.bench.rows import Row

SMALL = msgspec.structs.replace(
    QUICK,
    probe_s=0.02,
    latency_events=20,
    catch_up_events=2_000,
    push_s=0.4,
    idle_pairs=4,
    ack_s=0.02,
)


async def no_large(bench: Bench) -> Large:
    raise AssertionError("no scenario of subscriptions needs the large store")


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path, SMALL, lambda text: None, no_large)


def check(rows: list[Row], place: Path, targets: dict[str, int]) -> None:
    """These rows, with so many targets each, all measured; and nothing is left."""
    assert {row.name: len(row.targets) for row in rows} == targets
    for row in rows:
        assert row.problem is None
        assert row.value is not None
        assert row.value.low <= row.value.median <= row.value.high
        assert row.ratio is None or row.ratio.reference > 0
    assert list(place.iterdir()) == []


async def test_latency(bench: Bench, tmp_path: Path) -> None:
    (row,) = rows = await subscriptions.latency(bench)
    check(rows, tmp_path, {"subscription-latency": 2})
    assert row.value is not None
    assert 0 < row.value.median <= row.details["p99_ms"].median


async def test_catching_up(bench: Bench, tmp_path: Path) -> None:
    name = "subscription-catch-up"
    check(await subscriptions.catch_up(bench), tmp_path, {name: 1, f"{name}-type": 1, f"{name}-50": 0})


async def test_push(bench: Bench, tmp_path: Path) -> None:
    (row,) = rows = await push.live(bench)
    check(rows, tmp_path, {"subscription-live-sse": 1})
    assert row.value is not None
    assert row.value.low > 0
    assert row.details["acks"].high > 0


async def test_idle_subscriptions(bench: Bench, tmp_path: Path) -> None:
    rows = await idle.idle(bench)
    check(rows, tmp_path, {"subscription-idle": 1, "subscription-idle-memory": 1})
    assert rows[0].details["error_percent"] >= 0


async def test_acks(bench: Bench, tmp_path: Path) -> None:
    rows = await acks.acks(bench)
    check(rows, tmp_path, dict.fromkeys((name for name, _ in acks.WAYS.values()), 0))
    costs = {row.name: row.details["journal_bytes_per_ack"].median for row in rows}
    assert costs["subscription-acks"] > costs["subscription-acks-100"] > 0
    assert costs["subscription-acks"] > costs["subscription-acks-lazy"] > 0


def test_a_thousand_wait_and_no_two_for_the_same() -> None:
    made = idle.selections()
    kinds = Counter(kind for kind, _ in made)
    assert kinds == {"stream": 500, "event_type": 300, "tags": 100, "event_pattern": 100}
    assert len({repr(selection) for selection in made}) == idle.IDLE


def test_every_second_event_is_of_the_common_type() -> None:
    types = Counter(map(subscriptions.type_at, range(2_000)))
    assert types.pop(subscriptions.COMMON_TYPE) == 1_000
    assert set(types.values()) == {10}


# --- the reader of a push


def event(position: int) -> bytes:
    return b'id: %d\ndata: {"note":"a\\nid: 7"}\n\n' % position


def chunk(*events: bytes) -> bytes:
    block = b"".join(events)
    return b"%x\r\n%b\r\n" % (len(block), block)


HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
STREAM = HEAD + chunk(event(1), event(2)) + chunk(b": still here\n\n") + chunk(event(30)) + chunk(event(31))


@pytest.mark.parametrize("size", [1, 2, 7, 33, len(STREAM)])
async def test_the_reader_takes_events_in_pieces(size: int) -> None:
    reader = sse_load.Pushed()
    for start in range(0, len(STREAM), size):
        reader.data_received(STREAM[start : start + size])
    assert (reader.events, reader.position) == (4, 31)
    assert await reader.reached(4, 1)
    assert not await reader.reached(5, 0.01)


async def test_the_reader_counts_whole_events_only() -> None:
    reader = sse_load.Pushed()
    reader.data_received(HEAD + chunk(event(1), event(2))[:-8])
    assert (reader.events, reader.position) == (1, 1)


@asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[int]:
    """The port of a server that gives every request of its one client this answer."""
    served = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(10_000):
            writer.write(answer)
        writer.close()
        await writer.wait_closed()
        served.set()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]
        await served.wait()


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
        HEAD + chunk(b'event: end\ndata: {"code":"x"}\n\n'),
    ],
)
async def test_the_reader_ends_with_what_the_server_says(answer: bytes) -> None:
    async with answering(answer) as port:
        _, reader = await asyncio.get_running_loop().create_connection(sse_load.Pushed, "127.0.0.1", port)
        reader.send(b"GET / HTTP/1.1\r\n\r\n")
        with pytest.raises(RuntimeError, match=r"404|event: end"):
            await reader.reached(1, 5)
        reader.close()


async def test_a_request_that_is_refused_ends_the_clients() -> None:
    async with answering(b"HTTP/1.1 409 Conflict\r\nContent-Length: 2\r\n\r\n{}") as port:
        wire = await sse_load.Wire.open(port)
        with pytest.raises(RuntimeError, match="409"):
            await wire.ask(b"GET / HTTP/1.1\r\n\r\n")
        await wire.close()
