"""Streams of a local store: appends and deletes go through the sequencer; the reads are in two modules beside."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Sequence

from shoal import telemetry
from shoal.errors import BodyTooLarge, InvalidRequest, ShoalError
from shoal.model import payload
from shoal.model.commands import Append, DeleteStream, Write
from shoal.model.query import check_condition, check_filter
from shoal.store.checks import check_each, check_expected_version, check_range, plain_version
from shoal.store.context import StoreContext
from shoal.store.store_reads import StoreReads
from shoal.store.stream_reads import StreamReads
from shoal.types import (
    ANY_VERSION,
    MAX_VERSION,
    Appended,
    AppendedMany,
    CaughtUp,
    Condition,
    Event,
    EventFilter,
    NewEvent,
    StreamWrite,
)

EVENT_OVERHEAD = 128


class LocalStreams(StreamReads, StoreReads):
    """See shoal.store.api.Streams."""

    def __init__(self, context: StoreContext) -> None:
        self._context = context

    async def append(self, stream_id: str, expected_version: int, events: Sequence[NewEvent]) -> Appended:
        """See shoal.store.api.Streams."""
        proposed = payload.prepare_all(events, self._context.limits, self._context.ids)
        answer = await self.append_proposed([Write(stream_id, plain_version(expected_version), proposed)])
        return answer.results[0]

    async def append_many(
        self, writes: Sequence[StreamWrite], condition: Condition | None = None
    ) -> AppendedMany:
        """See shoal.store.api.Streams."""
        context = self._context
        check_each(writes, StreamWrite, "/writes")
        prepared = [
            Write(
                write.stream_id,
                plain_version(write.expected_version),
                payload.prepare_all(write.events, context.limits, context.ids, f"/writes/{number}/events"),
            )
            for number, write in enumerate(writes)
        ]
        return await self.append_proposed(prepared, condition)

    def append_proposed(
        self, writes: list[Write], condition: Condition | None = None
    ) -> Awaitable[AppendedMany]:
        """Append events whose payloads are checked and encoded already (`shoal.model.payload`)."""
        context = self._context
        size = self._check_writes(writes)
        if condition is not None:
            condition = check_condition(condition, context.limits)
        command = Append(context.name, writes, condition)
        if telemetry.enabled_any(telemetry.STREAM_WRITE):
            return self._append_observed(command, size)
        return context.submit(command, writes[0].stream_id, size)

    async def _append_observed(self, command: Append, size: int) -> AppendedMany:
        """With telemetry for each write; by hand, because a Span for every append would cost more than its handlers."""
        store_id, writes = command.store, command.writes
        if telemetry.enabled(telemetry.STREAM_WRITE_START):
            _tell_started(command)
        started = time.monotonic_ns()
        try:
            answer: AppendedMany = await self._context.submit(command, writes[0].stream_id, size)
        except ShoalError as error:
            _tell_failed(command, started, error.code)
            raise
        except asyncio.CancelledError:
            _tell_failed(command, started, "cancelled")
            raise
        duration = time.monotonic_ns() - started
        for write, result in zip(writes, answer.results, strict=True):
            telemetry.emit(
                telemetry.STREAM_WRITE_STOP,
                {"duration": duration, "event_count": len(write.events)},
                {"store_id": store_id, "stream_id": write.stream_id, "new_version": result.version},
            )
        return answer

    def _check_several(self, writes: list[Write]) -> None:
        limits = self._context.limits
        if not writes:
            raise InvalidRequest("an append needs at least one write", pointer="/writes")
        if len(writes) > limits.writes_per_append:
            raise BodyTooLarge(f"at most {limits.writes_per_append} writes per append", pointer="/writes")
        if len({write.stream_id for write in writes}) < len(writes):
            raise InvalidRequest("a stream may be written once per append", pointer="/writes")

    def _check_writes(self, writes: list[Write]) -> int:
        """Refuse what no store would take; returns the payload size in bytes."""
        limits = self._context.limits
        memory = self._context.memory
        if len(writes) != 1:
            self._check_several(writes)
        count = size = 0
        for write in writes:
            if type(write.stream_id) is not str or not memory.writes_to(write.stream_id):
                payload.check_writable_stream_id(write.stream_id, limits)
            if type(write.expected_version) is not int or not 0 <= write.expected_version <= MAX_VERSION:
                check_expected_version(write.expected_version)
            count += len(write.events)
            for event in write.events:
                size += len(event.data) + EVENT_OVERHEAD
        if count > limits.events_per_append:
            raise BodyTooLarge(
                f"{count} events in one append, at most {limits.events_per_append}", pointer="/events"
            )
        if size > limits.body_bytes + EVENT_OVERHEAD * count:
            raise BodyTooLarge(f"an append holds at most {limits.body_bytes} bytes", pointer="/events")
        return size

    async def delete(
        self, stream_id: str, *, hard: bool = False, expected_version: int = ANY_VERSION
    ) -> None:
        """See shoal.store.api.Streams."""
        payload.check_writable_stream_id(stream_id, self._context.limits)
        expected_version = plain_version(expected_version)
        check_expected_version(expected_version)
        command = DeleteStream(self._context.name, stream_id, expected_version, hard)
        await self._context.submit(command, stream_id, EVENT_OVERHEAD)

    async def tail(
        self, selection: EventFilter, after: int | None = None, stream_id: str | None = None
    ) -> AsyncIterator[Event | CaughtUp]:
        """See shoal.store.api.Streams."""
        context = self._context
        selection = check_filter(selection, context.limits)
        if after is not None:
            check_range("after", after, 0, MAX_VERSION)
        at = context.memory.state.position if after is None else after
        source = self._tail_all(selection, at)
        if stream_id is not None:
            payload.check_stream_id(stream_id, context.limits)
            source = self._tail_stream(stream_id, at)
        caught_up = False
        deletes = context.memory.deletes
        async for page, head in source:
            for event in page:
                yield event
            if head is not None:
                if not caught_up:
                    caught_up = True
                    yield CaughtUp(head)
                await context.wait_beyond(head, deletes)
                deletes = context.memory.deletes


def _tell_started(command: Append) -> None:
    now = telemetry.system_time()
    for write in command.writes:
        telemetry.emit(
            telemetry.STREAM_WRITE_START,
            {"system_time": now},
            {
                "store_id": command.store,
                "stream_id": write.stream_id,
                "event_count": len(write.events),
                "expected_version": write.expected_version,
            },
        )


def _tell_failed(command: Append, started_ns: int, reason: str) -> None:
    duration = time.monotonic_ns() - started_ns
    for write in command.writes:
        telemetry.emit(
            telemetry.STREAM_WRITE_ERROR,
            {"duration": duration},
            {"store_id": command.store, "stream_id": write.stream_id, "reason": reason},
        )
