"""Every error a user of shoal can meet, as one tree.

    ShoalError
    ├── InvalidRequest            invalid-request        the caller's mistake, with a pointer to the field
    │   ├── BodyTooLarge          body-too-large
    │   ├── UnsupportedMediaType  unsupported-media-type
    │   └── NotAcceptable         not-acceptable
    ├── WrongExpectedVersion      wrong-expected-version
    ├── ConditionFailed           condition-failed
    ├── EventIdReused             event-id-reused
    ├── StreamNotFound            stream-not-found
    ├── StreamTombstoned          stream-tombstoned
    ├── Ambiguous                 ambiguous
    ├── NotFound                  not-found
    ├── AlreadyExists             already-exists
    ├── LeaseExpired              lease-expired
    ├── Unauthorized              unauthorized
    ├── Forbidden                 forbidden
    ├── EnrolmentRefused          enrolment-refused      a board asked for a certificate and gets none
    ├── Unavailable               (the store's state, not the request; retryable)
    │   ├── TooBusy               too-busy
    │   ├── DiskFull              disk-full
    │   ├── NoLeader              no-leader
    │   ├── NoQuorum              no-quorum
    │   ├── ShuttingDown          shutting-down
    │   ├── Timeout               timeout
    │   │   └── OutcomeUnknown    outcome-unknown        (client side: stored or not, nobody said)
    │   └── Unreachable           unreachable            (client side: no board answered)
    ├── StorageError              storage-error          the files are not what they must be
    │   ├── JournalCorrupt        journal-corrupt
    │   ├── DatabaseCorrupt       database-corrupt
    │   ├── StateDiverged         state-diverged         the databases are not what the leader's are
    │   ├── TransferRefused       transfer-refused       a part of a raft_snapshot is not what must come
    │   └── DataDirLocked         data-dir-locked
    ├── ConfigError               config-error
    └── InternalError             internal-error

`code` never changes once released: programs match on it. `facts` are the fields that a problem
document carries beside `code`, `title` and `detail`.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Final, Literal

Outcome = Literal["not-applied", "applied", "unknown"]


class ShoalError(Exception):
    """Base of all errors raised by shoal. `str(error)` is one sentence for a person."""

    code: ClassVar[str] = "internal-error"
    title: ClassVar[str] = "Something went wrong"
    retryable: ClassVar[bool] = False

    def __init__(self, detail: str = "", *, outcome: Outcome = "not-applied", **facts: Any) -> None:
        super().__init__(detail or self.title)
        self.detail = detail or self.title
        self.outcome: Outcome = outcome
        self.facts = facts


class InvalidRequest(ShoalError):
    """The request is malformed. `pointer` names the field (JSON pointer or parameter name)."""

    code = "invalid-request"
    title = "The request is not valid"

    def __init__(self, detail: str, *, pointer: str = "", **facts: Any) -> None:
        super().__init__(detail, pointer=pointer, **facts)
        self.pointer = pointer


class BodyTooLarge(InvalidRequest):
    """A body, event or batch is over its limit."""

    code = "body-too-large"
    title = "The body is too large"


class UnsupportedMediaType(InvalidRequest):
    """The request's Content-Type is not one this resource reads."""

    code = "unsupported-media-type"
    title = "The media type is not supported"


class NotAcceptable(InvalidRequest):
    """Nothing in Accept is something this resource can answer with."""

    code = "not-acceptable"
    title = "No acceptable media type"


class WrongExpectedVersion(ShoalError):
    """The stream is not at the version the caller expected; nothing was stored."""

    code = "wrong-expected-version"
    title = "The stream is not at the expected version"

    def __init__(self, stream_id: str, expected: int, actual: int) -> None:
        super().__init__(
            f"stream {stream_id!r} is at version {actual}, expected {expected}",
            stream_id=stream_id,
            expected_version=expected,
            actual_version=actual,
        )
        self.stream_id = stream_id
        self.expected = expected
        self.actual = actual


class ConditionFailed(ShoalError):
    """An event matching the append's condition exists after the given position."""

    code = "condition-failed"
    title = "The append's condition does not hold"

    def __init__(self, position: int) -> None:
        super().__init__(f"an event at position {position} matches the condition", position=position)
        self.position = position


class EventIdReused(ShoalError):
    """An event id is already in the stream with other content, or only part of the batch is."""

    code = "event-id-reused"
    title = "The event id is already used"

    def __init__(self, stream_id: str, event_id: str) -> None:
        super().__init__(
            f"event id {event_id!r} is already in stream {stream_id!r} with other content or order",
            stream_id=stream_id,
            event_id=event_id,
        )
        self.stream_id = stream_id
        self.event_id = event_id


class StreamNotFound(ShoalError):
    """The stream has no events, or is deleted."""

    code = "stream-not-found"
    title = "The stream does not exist"

    def __init__(self, stream_id: str) -> None:
        super().__init__(f"stream {stream_id!r} does not exist", stream_id=stream_id)
        self.stream_id = stream_id


class StreamTombstoned(ShoalError):
    """The stream was deleted for ever."""

    code = "stream-tombstoned"
    title = "The stream was deleted for ever"

    def __init__(self, stream_id: str) -> None:
        super().__init__(f"stream {stream_id!r} was deleted for ever", stream_id=stream_id)
        self.stream_id = stream_id


class Ambiguous(ShoalError):
    """Several streams hold the event id; `candidates` lists them."""

    code = "ambiguous"
    title = "More than one event answers to this id"


class NotFound(ShoalError):
    """The named thing (store, snapshot, event, route) does not exist."""

    code = "not-found"
    title = "Not found"


class AlreadyExists(ShoalError):
    """A thing of that name exists with another definition."""

    code = "already-exists"
    title = "It exists already"


class LeaseExpired(ShoalError):
    """The lease is not held any more, or never was: nothing of the call was settled. `leases` names those."""

    code = "lease-expired"
    title = "The lease is not held any more"


class Unauthorized(ShoalError):
    """No token, or an unknown one."""

    code = "unauthorized"
    title = "A valid token is needed"


class Forbidden(ShoalError):
    """The token does not grant this."""

    code = "forbidden"
    title = "The token does not allow this"


class EnrolmentRefused(ShoalError):
    """A board that asks for its certificate gets none; `reason` is a word for programs."""

    code = "enrolment-refused"
    title = "The board was not enrolled"

    def __init__(self, detail: str = "", *, reason: str = "refused", **facts: Any) -> None:
        super().__init__(detail, reason=reason, **facts)
        self.reason = reason


class Unavailable(ShoalError):
    """The store cannot do it now; the request itself was fine."""

    code = "unavailable"
    title = "Not possible right now"
    retryable = True


class TooBusy(Unavailable):
    """A queue is at its limit; try again after `retry_after_ms`."""

    code = "too-busy"
    title = "Too many requests are waiting"


class DiskFull(Unavailable):
    """No room for another journal segment; reads and deletes still work."""

    code = "disk-full"
    title = "The disk is full"


class NoLeader(Unavailable):
    """No leader is known."""

    code = "no-leader"
    title = "No leader is known"


class NoQuorum(Unavailable):
    """Too few members are alive to commit."""

    code = "no-quorum"
    title = "There is no quorum"


class ShuttingDown(Unavailable):
    """The node is leaving and takes no new work."""

    code = "shutting-down"
    title = "The node is shutting down"


class Timeout(Unavailable):
    """No answer within the store's timeout; `outcome` says whether it may have been applied."""

    code = "timeout"
    title = "No answer in time"


class OutcomeUnknown(Timeout):
    """A write was sent, and no answer says whether it was applied: it was, it was not, or it still will be.

    `outcome` is always `unknown`; `__cause__` is the last failure. Of an append `facts["event_ids"]` names the events:
    look for them, or append them again with these ids, which never stores anything twice.
    """

    code = "outcome-unknown"
    title = "It is not known whether it was applied"

    def __init__(self, detail: str = "", **facts: Any) -> None:
        super().__init__(detail, **{**facts, "outcome": "unknown"})


class Unreachable(Unavailable):
    """No board answered (client side)."""

    code = "unreachable"
    title = "No board answered"


class StorageError(ShoalError):
    """The data directory cannot be used as it is."""

    code = "storage-error"
    title = "The storage cannot be used"


class JournalCorrupt(StorageError):
    """A journal record that was durable is damaged."""

    code = "journal-corrupt"
    title = "The journal is damaged"


class DatabaseCorrupt(StorageError):
    """The SQLite file is damaged."""

    code = "database-corrupt"
    title = "The database is damaged"


class StateDiverged(StorageError):
    """From the same entries this node has made another state than the leader: what it holds is not to be served."""

    code = "state-diverged"
    title = "The state differs from the leader's"


class TransferRefused(StorageError):
    """A part of a raft_snapshot is not what must come; what is here is as it was."""

    code = "transfer-refused"
    title = "The raft_snapshot was refused"
    retryable = True


class DataDirLocked(StorageError):
    """Another process uses the data directory."""

    code = "data-dir-locked"
    title = "The data directory is in use"


class ConfigError(ShoalError):
    """A configuration value cannot be used; `key` names it."""

    code = "config-error"
    title = "The configuration is not valid"

    def __init__(self, key: str, detail: str) -> None:
        super().__init__(f"{key}: {detail}", key=key)
        self.key = key


class InternalError(ShoalError):
    """A defect in shoal, or an answer a client could not understand."""

    code = "internal-error"
    title = "Internal error"


def _tree(root: type[ShoalError]) -> Iterator[type[ShoalError]]:
    for child in root.__subclasses__():
        if child.__module__ == root.__module__:
            yield child
            yield from _tree(child)


CLASSES: Final[Mapping[str, type[ShoalError]]] = {cls.code: cls for cls in _tree(ShoalError)}
"""Every error class by its code."""

_FACT_OF_ARGUMENT: Final = {"expected": "expected_version", "actual": "actual_version"}


def rebuild(code: str, detail: str, facts: Mapping[str, Any]) -> ShoalError:
    """The error that another process raised, from what it told of it; never raises.

    An InternalError if the code is not known or facts are missing.
    """
    cls = CLASSES.get(code, InternalError)
    left = dict(facts)
    arguments: dict[str, Any] = {}
    for name, parameter in inspect.signature(cls).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            arguments |= left
        elif name == "detail":
            arguments[name] = detail
        else:
            fact = left.pop(_FACT_OF_ARGUMENT.get(name, name), parameter.default)
            if fact is not parameter.empty:
                arguments[name] = fact
    try:
        error = cls(**arguments)
    except TypeError:
        return InternalError(f"the board's answer {code!r} lacks facts: {detail}")
    if detail:
        error.detail = detail
        error.args = (detail,)
    return error
