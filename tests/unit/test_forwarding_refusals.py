"""Commands passed on to the leader, and its refusals: shoal.store.forwarding."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from shoal.errors import (
    ConditionFailed,
    DiskFull,
    EventIdReused,
    InternalError,
    NoLeader,
    ShoalError,
    ShuttingDown,
    StreamTombstoned,
    WrongExpectedVersion,
)
from shoal.model.commands import CreateStore, Origin
from shoal.store.forwarding import RESEND_MS, Forward, Forwarding, Refused, Taken, refusal
from shoal.store.lanes import Pending

TERM = 7


class Board:
    """A follower, and what it sent."""

    def __init__(self, *, sends: bool = True) -> None:
        self.sent: list[tuple[str, Forward]] = []
        self.sends = sends
        self.forwarding = Forwarding("n2", 100, self._send)

    def _send(self, node_id: str, value: Any) -> bool:
        self.sent.append((node_id, value))
        return self.sends

    def pass_on(self) -> Pending:
        pending = Pending(CreateStore("main"), 10, 5_000, asyncio.get_running_loop().create_future(), 0)
        self.left = self.forwarding.pass_on([pending], "n1", TERM, 1_000)
        return pending


REFUSALS = [
    WrongExpectedVersion("s", 3, 5),
    ConditionFailed(9),
    EventIdReused("s", "e"),
    StreamTombstoned("s"),
    DiskFull("the disk is full"),
]


@pytest.mark.parametrize("error", REFUSALS, ids=lambda error: error.code)
async def test_a_refusal_of_the_leader_is_the_same_error_here(error: ShoalError) -> None:
    board = Board()
    pending = board.pass_on()
    assert board.forwarding.refused(refusal(TERM, 100, error)) is None
    told = pending.future.exception()
    assert type(told) is type(error)
    assert (str(told), told.facts, told.__dict__) == (str(error), error.facts, error.__dict__)
    assert board.forwarding.waiting == 0


async def test_a_refusal_that_cannot_be_read_is_answered_all_the_same() -> None:
    board = Board()
    pending = board.pass_on()
    board.forwarding.refused(Refused(TERM, 100, "wrong-expected-version", "it is not", {}))
    assert isinstance(pending.future.exception(), InternalError)


@pytest.mark.parametrize("error", [NoLeader("none"), ShuttingDown("closing")], ids=lambda error: error.code)
async def test_what_says_nothing_of_the_command_gives_it_back(error: ShoalError) -> None:
    board = Board()
    pending = board.pass_on()
    assert board.forwarding.refused(refusal(TERM, 100, error)) is pending
    assert not pending.future.done()


async def test_a_refusal_of_another_term_is_not_heard() -> None:
    board = Board()
    pending = board.pass_on()
    assert board.forwarding.refused(refusal(TERM - 1, 100, DiskFull("full"))) is None
    assert not pending.future.done()
    assert board.forwarding.waiting == 1


async def test_only_an_entry_of_a_later_term_gives_commands_back() -> None:
    board = Board()
    pending = board.pass_on()
    assert board.forwarding.overtaken(TERM) == []
    assert board.forwarding.overtaken(TERM + 1) == [pending]
    assert board.forwarding.answered([Origin(0, "n2", 100)]) == {}


async def test_what_did_not_leave_does_not_wait() -> None:
    board = Board(sends=False)
    board.pass_on()
    assert not board.left
    assert board.forwarding.waiting == 0


async def test_what_is_sent_twice_is_taken_once_in_a_term() -> None:
    board, taken = Board(), Taken()
    board.pass_on()
    board.forwarding.resend("n1", TERM, 1_000 + RESEND_MS)
    (_, first), (_, second) = board.sent
    assert [item.number for item in taken.fresh("n2", first)] == [100]
    assert taken.fresh("n2", second) == []
