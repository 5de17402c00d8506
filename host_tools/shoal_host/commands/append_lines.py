"""Lines of standard input as events: read as they come, appended in batches, and named by number when they fail."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, Final, NamedTuple

import msgspec

from shoal.errors import BodyTooLarge, InvalidRequest, ShoalError
from shoal.store.api import Store
from shoal.types import ANY_VERSION, Appended, NewEvent
from shoal_host.exits import Interrupted, one_line
from shoal_host.json_text import read_json
from shoal_host.options import Target, environment
from shoal_host.progress import LongWork

MakeEvent = Callable[[bytes, int], NewEvent]
"""What makes an event of a line and its number."""

_READ_BYTES: Final = 256 * 1024


class Batch(NamedTuple):
    """The events of one append, with the numbers of their lines."""

    numbers: list[int]
    events: list[NewEvent]


class _WholeEvent(msgspec.Struct, forbid_unknown_fields=True):
    event_type: str
    data: Any
    metadata: dict[str, Any] | None = None
    tags: list[str] | None = None
    event_id: str | None = None


def whole_event(line: bytes, number: int) -> NewEvent:
    """The event that a line holds whole. Raises InvalidRequest."""
    try:
        whole = msgspec.convert(read_json(line, f"line {number}"), _WholeEvent)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"line {number} is not an event: {one_line(str(error))}") from error
    return NewEvent(whole.event_type, whole.data, whole.metadata, whole.tags, whole.event_id)


def batches(source: BinaryIO, event: MakeEvent, size: int) -> Iterator[Batch]:
    """Events of what is there to read at the moment, at most `size` at once. Raises InvalidRequest."""
    rest, before = b"", 0
    read = getattr(source, "read1", source.read)
    while chunk := read(_READ_BYTES):
        *lines, rest = (rest + chunk).split(b"\n")
        numbers = [before + at for at, line in enumerate(lines, 1) if line.strip()]
        events = [event(lines[number - before - 1], number) for number in numbers]
        before += len(lines)
        for at in range(0, len(events), size):
            yield Batch(numbers[at : at + size], events[at : at + size])
    if rest.strip():
        yield Batch([before + 1], [event(rest, before + 1)])


class LineAppends:
    """Appends of lines to one stream over one connection. It knows how far they came, however they end."""

    def __init__(self, target: Target, stream_id: str, expected_version: int) -> None:
        self.result: Appended | None = None
        self.count = 0
        self._target = target
        self._stream_id = stream_id
        self._expected_version = expected_version
        self._sending: list[int] = []

    def run(self, batches: Iterator[Batch]) -> None:
        """Append batch after batch; standard input is read in between, in this thread, where Ctrl-C works.

        Raises Interrupted, and ShoalError with what was appended before it.
        """
        connection = environment().connect(self._target)
        with asyncio.Runner() as runner, LongWork("appending") as work:
            store: Store = runner.run(_enter(connection))
            try:
                for batch in batches:
                    runner.run(self._append(store, batch))
                    work.advance(len(batch.events))
            except KeyboardInterrupt:
                ended = Interrupted(outcome="unknown" if self._sending else "not-applied")
                self._explain(ended)
                raise ended from None
            except ShoalError as error:
                self._explain(error)
                raise
            finally:
                runner.run(_leave(connection))

    async def _append(self, store: Store, batch: Batch) -> None:
        self._sending = batch.numbers
        self.result = await store.streams.append(self._stream_id, self._expected_version, batch.events)
        self._sending = []
        self.count += len(batch.events)
        if self._expected_version != ANY_VERSION:
            self._expected_version = int(self.result)

    def _explain(self, error: ShoalError) -> None:
        """Name the line, or the lines, and say how many events the store has of those before."""
        error.facts["appended"] = self.count
        if self._sending and isinstance(error, InvalidRequest):
            self._name_lines(error)
        error.add_note(
            self._before() if error.outcome != "unknown" else f"{self._before()}, {self._unknown()}"
        )

    def _name_lines(self, error: InvalidRequest) -> None:
        at = re.match(r"/events/(\d+)", error.pointer)
        error.detail = f"{_lines(self._sending[int(at[1])] if at else self._sending)}: {error.detail}"
        error.args = (error.detail,)
        if isinstance(error, BodyTooLarge) and not at:
            error.add_note("--batch sends fewer at once")

    def _before(self) -> str:
        what = {0: "nothing was", 1: "1 event was"}.get(self.count, f"{self.count} events were")
        return f"{what} appended before this"

    def _unknown(self) -> str:
        return (
            f"{_lines(self._sending)} may be stored or not: look before you send them again "
            "(whole events, TYPE -, with an event_id of their own are never stored twice)"
        )


def _lines(numbers: list[int] | int) -> str:
    if isinstance(numbers, int):
        return f"line {numbers}"
    first, last = numbers[0], numbers[-1]
    return f"line {first}" if first == last else f"lines {first} to {last}"


async def _enter(connection: Any) -> Store:
    store: Store = await connection.__aenter__()
    return store


async def _leave(connection: Any) -> None:
    await connection.__aexit__(None, None, None)
