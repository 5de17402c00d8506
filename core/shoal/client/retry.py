"""When to try again: exponential backoff with jitter, and what each kind of call allows."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

import msgspec

from shoal.errors import (
    ConditionFailed,
    EventIdReused,
    ShoalError,
    StreamTombstoned,
    WrongExpectedVersion,
)

_DECIDED = (WrongExpectedVersion, ConditionFailed, EventIdReused, StreamTombstoned)
"""What the store only answers after it looked up the event ids: an earlier try was not applied."""


class Effect(Enum):
    """What happens when a call runs twice."""

    NONE = "none"
    """A read: may be repeated at will."""
    KEYED = "keyed"
    """A write that changes nothing more when repeated: by its event ids, its leases, or what it asks for."""
    ONCE = "once"
    """A write that must not run twice: repeated only when it was certainly not applied."""


class RetryPolicy(msgspec.Struct, frozen=True):
    """Up to `attempts` tries; before try n + 1 a random pause of up to `base_ms * 2**n`, at most `max_ms`."""

    attempts: int = 5
    base_ms: int = 100
    max_ms: int = 5_000

    def pause_ms(self, failures: int, random: Callable[[], float]) -> int:
        """The pause after `failures` failed tries (from 1); `random` gives [0, 1)."""
        ceiling = min(self.max_ms, self.base_ms << min(failures - 1, 32))
        return int(ceiling / 2 + random() * ceiling / 2)


def may_repeat(error: ShoalError, effect: Effect) -> bool:
    """Whether the call that failed with `error` may be sent again."""
    if not error.retryable or error.outcome == "applied":
        return False
    return effect is not Effect.ONCE or error.outcome == "not-applied"


def settle(error: ShoalError, effect: Effect, *, unknown_before: bool) -> ShoalError:
    """The error to raise when no further try is made, its `outcome` covering all tries."""
    if effect is Effect.NONE:
        error.outcome = "not-applied"
    elif unknown_before and not isinstance(error, _DECIDED):
        error.outcome = "unknown"
    return error
