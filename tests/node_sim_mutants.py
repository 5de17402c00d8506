"""Rules of a group of nodes broken on purpose. The simulation must find each."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from shoal.cluster.driver import RaftDriver
from shoal.errors import ShoalError
from shoal.raft import replication
from shoal.raft.messages import Ready
from shoal.store.forwarding import Forwarding
from shoal.store.sequencer import Sequencer
from shoal.testing.power_cut import RecordingFiles


def _one_is_a_quorum(_configuration: Any, matched: Any) -> int:
    return max(matched.values(), default=0)


def _sent_before_it_is_durable(carry_out: Callable[[RaftDriver, Ready], None]) -> Callable[..., None]:
    def mutant(self: RaftDriver, ready: Ready) -> None:
        ready.messages.extend(ready.after)
        ready.after.clear()
        carry_out(self, ready)

    return mutant


def _late_is_not_applied(expire: Callable[..., None]) -> Callable[..., None]:
    def mutant(self: Forwarding, now_ms: int, error: Callable[[], ShoalError]) -> None:
        def wrong() -> ShoalError:
            told = error()
            told.outcome = "not-applied"
            return told

        expire(self, now_ms, wrong)

    return mutant


def _unconfirmed(read_index: Callable[..., Awaitable[int]]) -> Callable[..., Awaitable[int]]:
    async def mutant(self: RaftDriver, *, confirmed: bool) -> int:
        return await read_index(self, confirmed=False)

    return mutant


async def _at_once(_self: Sequencer, _index: int, _timeout_ms: int) -> None:
    """Whatever is applied by now."""


MUTANTS = (
    "no sync of the journal",
    "one is a quorum",
    "late is not applied",
    "reads do not wait",
)
"""Those that few seeds find."""
RARE = ("answered before it is durable", "one cut off leads on and asks nobody")
"""Those that need many: for whoever changes the simulation."""


@contextmanager
def applied(name: str | None) -> Iterator[None]:
    """Break the rule while simulations run."""
    with pytest.MonkeyPatch.context() as patch:
        match name:
            case None:
                pass
            case "no sync of the journal":
                patch.setattr(RecordingFiles, "sync_data", lambda _self, _fd: None)
            case "one is a quorum":
                patch.setattr(replication, "matched_by_quorum", _one_is_a_quorum)
            case "answered before it is durable":
                patch.setattr(RaftDriver, "_carry_out", _sent_before_it_is_durable(RaftDriver._carry_out))
            case "late is not applied":
                patch.setattr(Forwarding, "expire", _late_is_not_applied(Forwarding.expire))
            case "one cut off leads on and asks nobody":
                patch.setattr(replication.Replication, "has_quorum", lambda _self: True)
                patch.setattr(RaftDriver, "read_index", _unconfirmed(RaftDriver.read_index))
            case "reads do not wait":
                patch.setattr(Sequencer, "wait_applied", _at_once)
            case _:
                raise ValueError(name)
        yield
