"""What is appended in every measurement: events of about 200 bytes of JSON, made afresh each time."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Final

import msgspec

from shoal.types import NO_STREAM, NewEvent

if TYPE_CHECKING:
    from shoal.store.local import LocalStore

COMMON_TYPE: Final = "reading-taken"
RARE_TYPE: Final = "alarm-raised"
_NOTE: Final = "taken by the sampler in the north corridor, second shelf, beside the window, shut"
_encode = msgspec.json.Encoder().encode


def payload(number: int) -> dict[str, Any]:
    """A reading: about 200 bytes as JSON."""
    return {
        "sensor": "board-7/temperature-3",
        "sequence": 1_000_000 + number,
        "celsius": 20.25 + number % 64 / 8,
        "humidity_percent": 40 + number % 20,
        "quality": "good",
        "note": _NOTE,
    }


def payload_json(number: int) -> bytes:
    """The same, encoded: for stores that take bytes."""
    return _encode(payload(number))


def new_events(start: int, count: int, event_type: str = COMMON_TYPE) -> list[NewEvent]:
    """Events as a client makes them."""
    return [NewEvent(event_type, payload(number)) for number in range(start, start + count)]


class Appends(msgspec.Struct):
    """What a phase of appending came to."""

    events: int
    seconds: float
    took_s: list[float]


async def append_for(store: LocalStore, seconds: float, *, writers: int, batch: int, prefix: str) -> Appends:
    """Let `writers` append to a stream each, every append answered before the writer's next."""
    took: list[float] = []
    began = time.perf_counter()
    end = began + seconds

    async def write(stream_id: str) -> int:
        version, appended = NO_STREAM, 0
        while (at := time.perf_counter()) < end:
            version = await store.streams.append(stream_id, int(version), new_events(appended, batch))
            took.append(time.perf_counter() - at)
            appended += batch
        return appended

    counts = await asyncio.gather(*(write(f"{prefix}-{number}") for number in range(writers)))
    return Appends(sum(counts), time.perf_counter() - began, took)


async def fill(store: LocalStore, stream_id: str, events: int, *, batch: int = 1_000) -> None:
    """Give a new stream this many events."""
    version = NO_STREAM
    for start in range(0, events, batch):
        version = await store.streams.append(
            stream_id, int(version), new_events(start, min(batch, events - start))
        )
