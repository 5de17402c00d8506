"""When to try again: exponential backoff with jitter, and what each kind of call allows."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

import msgspec

from shoal.errors import (
    EventIdReused,
    NoLeader,
    NoQuorum,
    OutcomeUnknown,
    ShoalError,
    StreamTombstoned,
    Unavailable,
    WrongExpectedVersion,
)

_ELECTION_PAUSES = 2
"""How often the pause doubles while there is no leader: elections are short."""


class Effect(Enum):
    """What happens when a call runs twice."""

    NONE = "none"
    """A read: may be repeated at will."""
    KEYED = "keyed"
    """A write that changes nothing more when repeated: by its event ids, its leases, or what it asks for."""
    LEASED = "leased"
    """It leases events, and what a lost answer leased runs out: may be repeated, and nobody need know its outcome."""
    ONCE = "once"
    """A write that must not run twice: repeated only when it was certainly not applied."""


class RetryPolicy(msgspec.Struct, frozen=True):
    """Up to `attempts` tries of each board; before the n-th round a random pause of up to `base_ms * 2**n`.

    A pause is `max_ms` at most. Tries that find no leader do not count: an election is waited for until time is up.
    """

    attempts: int = 5
    base_ms: int = 100
    max_ms: int = 5_000

    def pause_ms(self, failures: int, random: Callable[[], float]) -> int:
        """The pause after `failures` failed tries (from 1); `random` gives [0, 1)."""
        ceiling = min(self.max_ms, self.base_ms << min(failures - 1, 32))
        return int(ceiling / 2 + random() * ceiling / 2)

    def pause_after(self, error: ShoalError, failures: int, random: Callable[[], float]) -> int:
        """The pause after a round that ended with `error`; a busy board's own wish counts."""
        if awaits_election(error):
            failures = min(failures, _ELECTION_PAUSES)
        return max(self.pause_ms(failures, random), int(error.facts.get("retry_after_ms", 0)))


def awaits_election(error: ShoalError) -> bool:
    """Whether a board answered that it is well and has no leader now."""
    return isinstance(error, (NoLeader, NoQuorum))


def may_repeat(error: ShoalError, effect: Effect) -> bool:
    """Whether the call that failed with `error` may be sent again."""
    if not error.retryable or error.outcome == "applied":
        return False
    return effect is not Effect.ONCE or error.outcome == "not-applied"


def settle(error: ShoalError, effect: Effect, *, unknown_before: bool) -> ShoalError:
    """The error to raise when no further try is made, its `outcome` covering all tries.

    OutcomeUnknown where the store might have said something, and did not.
    """
    if effect is Effect.NONE:
        error.outcome = "not-applied"
        return error
    if unknown_before and not _decided(error):
        error.outcome = "unknown"
    if error.outcome == "unknown" and effect is not Effect.LEASED and isinstance(error, Unavailable):
        return OutcomeUnknown(f"{error.detail}; whether it was applied is not known", last=error.code)
    return error


def _decided(error: ShoalError) -> bool:
    """Whether the store looked up the event ids, and what it found can never come to allow an earlier try.

    A stream's versions only grow, but -1, -4 and a version not reached yet may be met another time, and so may a
    condition, once what matched it is deleted.
    """
    if isinstance(error, WrongExpectedVersion):
        return 0 <= error.expected < error.actual
    return isinstance(error, (EventIdReused, StreamTombstoned))
