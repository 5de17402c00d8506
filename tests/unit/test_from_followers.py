"""What a follower has passed on: what the leader refuses, what it decides, and how a node ends meanwhile."""

from __future__ import annotations

import asyncio

from sequencer_board import Board

from shoal.errors import Timeout, TooBusy, WrongExpectedVersion
from shoal.model.commands import Append, ProposedEvent, Write
from shoal.store.forwarding import Forward, Forwarding, Refused, refusal
from shoal.store.from_followers import FromFollowers
from shoal.store.lanes import Pending
from shoal.testing.clock import FakeClock
from shoal.types import ANY_VERSION


class Leader:
    """Consensus of one that leads in term 3, and keeps what it is given."""

    def __init__(self) -> None:
        self.term = 3
        self.serves, self.role = True, "leader"
        self.leader = "me"
        self.queued: list[Pending] = []
        self.refused: list[Refused] = []
        self.followers = FromFollowers(self, FakeClock(), self.queued.append)
        self.followers.refuse = lambda _node_id, refused: self.refused.append(refused)


def passed_on() -> tuple[Forwarding, list[Forward]]:
    sent: list[Forward] = []
    forwarding = Forwarding("n1", 7, lambda _leader, forward: sent.append(forward) or True)
    return forwarding, sent


def an_append(timeout_ms: int = 5_000) -> Pending:
    command = Append("main", [Write("s", ANY_VERSION, [ProposedEvent("id", False, "e", b"1")])])
    return Pending(command, 10, timeout_ms, asyncio.get_running_loop().create_future(), 0)


async def turns() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


def test_what_an_entry_decides_is_no_refusal() -> None:
    async def main() -> None:
        leader = Leader()
        forwarding, sent = passed_on()
        assert forwarding.pass_on([an_append(), an_append()], "n2", 3, 0)
        leader.followers.take("n1", sent[0])
        decided, refused = leader.queued
        decided.future.set_exception(WrongExpectedVersion("s", 1, 2))
        refused.future.set_exception(TooBusy("later"))
        await turns()
        assert [(each.number, each.code) for each in leader.refused] == [(8, "too-busy")]

    asyncio.run(main())


def test_a_refusal_of_any_code_answers() -> None:
    async def main() -> None:
        forwarding, _ = passed_on()
        pending = an_append()
        forwarding.pass_on([pending], "n2", 3, 0)
        forwarding.refused(refusal(3, 7, WrongExpectedVersion("s", 1, 2)))
        assert pending.future.done()
        assert "version 2" in str(pending.future.exception())

    asyncio.run(main())


async def test_who_closes_waits_for_what_it_has_passed_on_and_does_not_spin() -> None:
    board = Board()
    board.role, board.serves, board.leader = "follower", False, "n2"
    board.sequencer._forwarding._send = lambda _leader, _forward: True
    taken = 0
    turn = board.sequencer._turn

    def counted() -> None:
        nonlocal taken
        taken += 1
        turn()

    board.sequencer._turn = counted
    future = board.append(timeout_ms=100)
    closing = asyncio.ensure_future(board.sequencer.close())
    for _ in range(100):
        await asyncio.sleep(0)
    assert not closing.done()
    assert taken < 10
    board.clock.advance(100)
    await asyncio.wait_for(closing, 5)
    assert isinstance(future.exception(), Timeout)


async def test_who_closes_does_not_wait_for_an_entry_whose_callers_are_answered() -> None:
    board = Board()
    future = board.append(timeout_ms=100)
    await board.turn()
    closing = asyncio.ensure_future(board.sequencer.close())
    await board.turn()
    assert not closing.done()
    board.clock.advance(100)
    await asyncio.wait_for(closing, 5)
    assert future.exception().outcome == "unknown"
