"""Telemetry: named events with measurements and metadata, and handlers that can be attached and detached.

Names are tuples as in the reference, beginning with `shoal`. `EVENTS` declares for each what it carries;
durations are nanoseconds, `system_time` is milliseconds since 1970. A handler is called where the event
happens, also on the storage's threads, so it must be quick; one that raises is detached and reported,
whatever it raises. KeyboardInterrupt and SystemExit alone go on: they are for the process, not about the handler.

    telemetry.attach("my-handler", [telemetry.STREAM_WRITE_STOP], handle, config=None)

An event without handlers costs one dictionary look-up; ask `enabled` before building what is costly.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

from shoal.errors import AlreadyExists, InvalidRequest, NotFound

EventName = tuple[str, ...]
Values = Mapping[str, Any]
Handler = Callable[[EventName, Values, Values, Any], None]
"""Gets the event, its measurements, its metadata, and the config it was attached with."""

STREAM_WRITE_START: Final = ("shoal", "stream", "write", "start")
STREAM_WRITE_STOP: Final = ("shoal", "stream", "write", "stop")
STREAM_WRITE_ERROR: Final = ("shoal", "stream", "write", "error")
STREAM_READ_START: Final = ("shoal", "stream", "read", "start")
STREAM_READ_STOP: Final = ("shoal", "stream", "read", "stop")
SUBSCRIPTION_CREATED: Final = ("shoal", "subscription", "created")
SUBSCRIPTION_DELETED: Final = ("shoal", "subscription", "deleted")
SUBSCRIPTION_EVENT_DELIVERED: Final = ("shoal", "subscription", "event_delivered")
SNAPSHOT_CREATED: Final = ("shoal", "snapshot", "created")
SNAPSHOT_READ: Final = ("shoal", "snapshot", "read")
CLUSTER_NODE_UP: Final = ("shoal", "cluster", "node", "up")
CLUSTER_NODE_DOWN: Final = ("shoal", "cluster", "node", "down")
CLUSTER_LEADER_ELECTED: Final = ("shoal", "cluster", "leader", "elected")
CLUSTER_QUORUM_LOST: Final = ("shoal", "cluster", "quorum", "lost")
CLUSTER_QUORUM_RESTORED: Final = ("shoal", "cluster", "quorum", "restored")
CLUSTER_SPLIT_BRAIN_DETECTED: Final = ("shoal", "cluster", "split_brain", "detected")
STORE_STARTED: Final = ("shoal", "store", "started")
STORE_STOPPED: Final = ("shoal", "store", "stopped")
EMITTER_BROADCAST: Final = ("shoal", "emitter", "broadcast")
EMITTER_POOL_CREATED: Final = ("shoal", "emitter", "pool", "created")
JOURNAL_SYNCED: Final = ("shoal", "journal", "synced")
DATABASE_COMMITTED: Final = ("shoal", "database", "committed")
TASK_RESTARTED: Final = ("shoal", "task", "restarted")
TASK_FAILED: Final = ("shoal", "task", "failed")
HANDLER_FAILED: Final = ("shoal", "telemetry", "handler", "failed")


STREAM_WRITE: Final = frozenset({STREAM_WRITE_START, STREAM_WRITE_STOP, STREAM_WRITE_ERROR})
STREAM_READ: Final = frozenset({STREAM_READ_START, STREAM_READ_STOP})


class Declared(NamedTuple):
    """What an event carries, always all of it, and the level at which the default handler logs it."""

    measurements: tuple[str, ...]
    metadata: tuple[str, ...]
    level: int


_TIME: Final = ("system_time",)
_STREAM: Final = ("store_id", "stream_id")
_SNAPSHOT: Final = ("store_id", "stream_id", "version")
_SUBSCRIPTION: Final = ("store_id", "subscription_id")

EVENTS: Final[Mapping[EventName, Declared]] = {
    STREAM_WRITE_START: Declared(_TIME, (*_STREAM, "event_count", "expected_version"), logging.DEBUG),
    STREAM_WRITE_STOP: Declared(("duration", "event_count"), (*_STREAM, "new_version"), logging.DEBUG),
    STREAM_WRITE_ERROR: Declared(("duration",), (*_STREAM, "reason"), logging.DEBUG),
    STREAM_READ_START: Declared(_TIME, (*_STREAM, "start_version", "count", "direction"), logging.DEBUG),
    STREAM_READ_STOP: Declared(("duration", "event_count"), _STREAM, logging.DEBUG),
    SUBSCRIPTION_CREATED: Declared(
        _TIME, (*_SUBSCRIPTION, "type", "selector", "subscription_name"), logging.INFO
    ),
    SUBSCRIPTION_DELETED: Declared(_TIME, _SUBSCRIPTION, logging.INFO),
    SUBSCRIPTION_EVENT_DELIVERED: Declared(("count",), (*_SUBSCRIPTION, "topic"), logging.DEBUG),
    SNAPSHOT_CREATED: Declared(("duration", "size_bytes"), _SNAPSHOT, logging.DEBUG),
    SNAPSHOT_READ: Declared(("duration", "size_bytes"), _SNAPSHOT, logging.DEBUG),
    CLUSTER_NODE_UP: Declared(_TIME, ("store_id", "node", "member_count"), logging.INFO),
    CLUSTER_NODE_DOWN: Declared(_TIME, ("store_id", "node", "reason", "member_count"), logging.WARNING),
    CLUSTER_LEADER_ELECTED: Declared(_TIME, ("store_id", "leader", "previous_leader"), logging.INFO),
    CLUSTER_QUORUM_LOST: Declared(_TIME, ("store_id", "alive", "required"), logging.ERROR),
    CLUSTER_QUORUM_RESTORED: Declared(_TIME, ("store_id", "alive", "required"), logging.INFO),
    CLUSTER_SPLIT_BRAIN_DETECTED: Declared(_TIME, ("store_id", "nodes"), logging.ERROR),
    STORE_STARTED: Declared(_TIME, ("store_id", "mode", "data_dir"), logging.INFO),
    STORE_STOPPED: Declared(("system_time", "uptime_ms"), ("store_id", "reason"), logging.INFO),
    EMITTER_BROADCAST: Declared(("duration",), _SUBSCRIPTION, logging.DEBUG),
    EMITTER_POOL_CREATED: Declared(_TIME, (*_SUBSCRIPTION, "pool_size"), logging.INFO),
    JOURNAL_SYNCED: Declared(("duration", "size_bytes"), (), logging.DEBUG),
    DATABASE_COMMITTED: Declared(("duration", "row_count"), ("store_id",), logging.DEBUG),
    TASK_RESTARTED: Declared(("delay_ms", "attempt"), ("task", "reason"), logging.WARNING),
    TASK_FAILED: Declared(("attempt",), ("task", "reason"), logging.ERROR),
    HANDLER_FAILED: Declared(("count",), ("handler_id", "event", "reason"), logging.ERROR),
}

DEFAULT_HANDLER: Final = "shoal-default-handler"
_log: Final = logging.getLogger("shoal.telemetry")


class _Attached(NamedTuple):
    handler_id: str
    handle: Handler
    config: Any


_lock = threading.Lock()
_attached: dict[EventName, tuple[_Attached, ...]] = {}
"""By event; tuples are replaced, never changed, so that `emit` needs no lock."""


def attach(handler_id: str, events: Iterable[EventName] | None, fn: Handler, config: Any = None) -> None:
    """Call `fn` at each of `events` (None: all). Raises AlreadyExists; InvalidRequest for an unknown event."""
    names = tuple(EVENTS) if events is None else tuple(dict.fromkeys(map(tuple, events)))
    unknown = [name for name in names if name not in EVENTS]
    if unknown:
        raise InvalidRequest(f"no telemetry event is called {unknown[0]}", pointer="events")
    with _lock:
        if handler_id in _ids():
            raise AlreadyExists(f"telemetry handler {handler_id!r} is attached, detach it first")
        for name in names:
            _attached[name] = (*_attached.get(name, ()), _Attached(handler_id, fn, config))


def detach(handler_id: str) -> None:
    """Call the handler no more. Raises NotFound."""
    if not _detach(handler_id):
        raise NotFound(f"no telemetry handler {handler_id!r} is attached")


def _ids() -> set[str]:
    return {each.handler_id for handlers in _attached.values() for each in handlers}


def _detach(handler_id: str) -> bool:
    with _lock:
        found = handler_id in _ids()
        for name, handlers in list(_attached.items()):
            left = tuple(each for each in handlers if each.handler_id != handler_id)
            if left:
                _attached[name] = left
            else:
                del _attached[name]
    return found


def enabled(event: EventName) -> bool:
    """Whether anybody listens to `event`."""
    return event in _attached


def emit(event: EventName, measurements: Values, metadata: Values) -> None:
    """Tell the event's handlers. Never raises for a handler's fault: that one is detached and reported.

    What ends the process, KeyboardInterrupt and SystemExit, passes through.
    """
    handlers = _attached.get(event)
    if handlers is None:
        return
    for each in handlers:
        try:
            each.handle(event, measurements, metadata, each.config)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # noqa: BLE001 - whatever it is, it may not break a write
            _report(each.handler_id, event, error)


def _report(handler_id: str, event: EventName, error: BaseException) -> None:
    if not _detach(handler_id):
        return  # it failed on another thread at the same time, and is reported there
    name = ".".join(event)
    _log.error("telemetry handler %r failed at %s and is detached", handler_id, name, exc_info=error)
    emit(HANDLER_FAILED, {"count": 1}, {"handler_id": handler_id, "event": name, "reason": repr(error)})


def system_time() -> int:
    """Milliseconds since 1970, for the measurement of that name."""
    return time.time_ns() // 1_000_000


def enabled_any(events: frozenset[EventName]) -> bool:
    """Whether anybody listens to one of `events`."""
    return not events.isdisjoint(_attached)


class Span:
    """Emits `start` on entering, then `stop` with the duration, or `error` with the reason (None: nothing).

    `metadata` goes with all three, `starting` with the first; the body adds to `measurements` and `result`
    what `stop` carries besides.
    """

    def __init__(
        self,
        start: EventName,
        stop: EventName,
        error: EventName | None,
        metadata: Values,
        starting: Values,
    ) -> None:
        self._start, self._stop, self._error = start, stop, error
        self._metadata, self._starting = metadata, starting
        self.measurements: dict[str, Any] = {}
        self.result: dict[str, Any] = {}

    def __enter__(self) -> Self:
        if enabled(self._start):
            emit(self._start, {"system_time": system_time()}, {**self._metadata, **self._starting})
        self._begin_ns = time.monotonic_ns()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        duration = time.monotonic_ns() - self._begin_ns
        if error is None:
            if enabled(self._stop):
                measurements = {"duration": duration, **self.measurements}
                emit(self._stop, measurements, {**self._metadata, **self.result})
        elif self._error is not None:
            reason = getattr(error, "code", None) or type(error).__name__
            emit(self._error, {"duration": duration}, {**self._metadata, "reason": reason})


def span(
    start: EventName, stop: EventName, error: EventName | None, metadata: Values, **starting: Any
) -> Span:
    """A context manager around one operation; see Span."""
    return Span(start, stop, error, metadata, starting)


def attach_default_handler(logger: logging.Logger | None = None) -> None:
    """Log events, each at its own level; those that `logger` drops now cost nothing. Raises AlreadyExists."""
    target = _log if logger is None else logger
    wanted = [name for name, declared in EVENTS.items() if target.isEnabledFor(declared.level)]
    attach(DEFAULT_HANDLER, wanted, _log_event, target)


def detach_default_handler() -> None:
    """Stop logging events. Raises NotFound."""
    detach(DEFAULT_HANDLER)


def _log_event(event: EventName, measurements: Values, metadata: Values, target: logging.Logger) -> None:
    pairs = {**metadata, **measurements}
    text = " ".join(f"{name}={_shown(value)}" for name, value in pairs.items())
    target.log(EVENTS[event].level, "%s %s", ".".join(event[1:]), text, extra={"telemetry": pairs})


def _shown(value: Any) -> str:
    text = str(value)
    return text if text.isprintable() and " " not in text else repr(text)
