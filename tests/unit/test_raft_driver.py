"""The driver carries out what the core says in the order that makes an acknowledgement a promise. One rule a test."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
from raft_kit import Journal, configuration, incarnation, log_of

from shoal.cluster.driver import RaftDriver
from shoal.errors import DiskFull, NoLeader
from shoal.raft.log import HardState, Kind
from shoal.raft.messages import NORMAL, Append, Appended, AskVote, Entry, TimeoutNow, Vote
from shoal.raft.node import RaftNode
from shoal.raft.state import Own
from shoal.store.ports import Proposed, Superseded
from shoal.testing.clock import FakeClock


class Board:
    """A driver whose disk is done when the test says so. `did` is what happened, in order."""

    def __init__(self, name: str = "A", voters: str = "ABC", terms: Iterable[int] = ()) -> None:
        journal = Journal(log_of(configuration(voters), terms), HardState(3))
        own = Own(name, incarnation(name))
        self.clock = FakeClock()
        core = RaftNode(own, journal.start(1), journal.hard_state, random=Random(1), now_ms=0)
        self.did: list[tuple[Any, ...]] = []
        self.jobs: list[tuple[Callable[[], object], Callable[[Any], None]]] = []
        self.error: BaseException | None = None
        self.failures: list[BaseException] = []
        self.driver = RaftDriver(
            core, self, self, self.clock, own=own, give_reserve=lambda: None, failed=self.failures.append
        )
        self.driver.peers = SimpleNamespace(send=self.send)
        self.driver.take = lambda entries: self.did.extend(("take", e.index) for e in entries)

    # -- the journal, its thread, the peers -------------------------------------------------------

    def fits(self, size: int) -> bool:
        return True

    def append_records(self, records: list[tuple[Kind, int, int, bytes]], *, use_reserve: bool) -> int:
        if self.error is not None:
            raise self.error
        self.did += [("write", Kind(kind).name, index) for kind, index, _, _ in records]
        return 1_000

    def submit(self, job: Callable[[], object], done: Callable[[Any], None]) -> None:
        self.jobs.append((job, done))

    def send(self, node_id: str, message: Any, *, bulk: bool = False) -> bool:
        self.did.append(("send", node_id, message))
        return True

    # -- what tests say ---------------------------------------------------------------------------

    def disk(self) -> None:
        """The jobs under way are done."""
        jobs, self.jobs = self.jobs, []
        for job, done in jobs:
            try:
                outcome = job()
            except (OSError, DiskFull) as error:
                outcome = error
            done(outcome)

    async def hear(self, sender: str, message: Any) -> None:
        self.driver.receive(sender, message)
        await asyncio.sleep(0)

    def sent(self, kind: type) -> list[Any]:
        return [what[2] for what in self.did if what[0] == "send" and isinstance(what[2], kind)]

    def propose(self, data: bytes = b"x") -> None:
        self.driver.propose(data, lambda outcome: self.did.append(("done", outcome)))

    async def lead(self) -> int:
        """Be elected by B, with everything durable; the no-op's index."""
        self.clock.advance(5_000)
        self.driver._on_time()
        await self.hear("B", Vote(self.driver.term + 1, granted=True, pre=True))
        self.disk()
        await self.hear("B", Vote(self.driver.term, granted=True))
        assert self.driver.core.role == "leader"
        self.disk()
        return self.driver.core.log.last_index

    async def hold(self, index: int, member: str = "B") -> None:
        """A member says that it holds everything up to `index`."""
        await self.hear(member, Appended(self.driver.term, index, 0, 1_000, incarnation=incarnation(member)))


def append(term: int, prev: tuple[int, int], *entries: tuple[int, int], commit: int = 1) -> Append:
    made = [Entry(index, of, NORMAL, b"x") for index, of in entries]
    return Append(term, *prev, made, commit, 0, 1_000)


async def test_what_promises_leaves_only_when_the_disk_is_done() -> None:
    """Ready, step 3: an acknowledgement and a vote after the write that they speak of (paper, figure 2)."""
    for message in (append(4, (1, 1), (2, 4)), AskVote(4, 9, 9, incarnation("B"))):
        board = Board("B")
        await board.hear("A", message)
        assert board.did == []
        assert len(board.jobs) == 1
        board.disk()
        *writes, promise = [what[0] for what in board.did]
        assert (set(writes), promise) == ({"write"}, "send")
        assert board.sent(Appended if isinstance(message, Append) else Vote)[-1].term == 4


async def test_term_and_vote_are_written_before_the_entries_with_them() -> None:
    """Paper, figure 2: both are on the disk, the hard state first, in one batch."""
    board = Board("B")
    await board.hear("A", append(4, (1, 1), (2, 4)))
    board.disk()
    assert [what[1:] for what in board.did if what[0] == "write"] == [("HARD_STATE", 0), ("NORMAL", 2)]


async def test_entries_leave_while_the_leaders_disk_writes() -> None:
    """Ready, step 1 (thesis 10.2.1): and nothing is committed by the leader's own copy before it is written."""
    board = Board()
    await board.hold(await board.lead())
    board.did.clear()
    board.propose()
    assert [e.index for m in board.sent(Append) for e in m.entries] == [3]
    assert "write" not in [what[0] for what in board.did]


async def test_a_proposal_is_done_when_it_is_committed_and_durable_here() -> None:
    """Consensus.propose: neither the own disk nor a follower alone is enough."""
    board = Board()
    await board.hold(await board.lead())
    board.did.clear()
    board.propose()
    board.disk()
    assert ("done", Proposed(3, 4)) not in board.did
    await board.hold(3)
    assert ("done", Proposed(3, 4)) in board.did
    board.did.clear()
    board.propose()
    await board.hold(4)
    await board.hold(4, "C")
    assert ("done", Proposed(4, 4)) not in board.did
    board.disk()
    assert ("done", Proposed(4, 4)) in board.did


async def test_what_is_committed_is_handed_out_in_the_order_of_the_log() -> None:
    """State-machine safety: own proposals and others' entries in one order."""
    board = Board(terms=[3, 3])
    assert await board.lead() == 4
    board.propose()
    board.propose()
    board.disk()
    board.disk()
    assert [what for what in board.did if what[0] in ("take", "done")] == []
    await board.hold(6)
    order = [what for what in board.did if what[0] in ("take", "done")]
    assert order == [
        ("take", 2),
        ("take", 3),
        ("take", 4),
        ("done", Proposed(5, 4)),
        ("done", Proposed(6, 4)),
    ]


async def test_nothing_is_taken_before_what_was_committed_earlier_is_handed_out() -> None:
    """A proposal in between would be decided ahead of it: found by `shoal lab` as boards that differ."""
    board = Board(terms=[3, 3])
    index = await board.lead()
    held = Appended(board.driver.term, index, 0, 1_000, incarnation=incarnation("B"))
    board.driver.receive("B", held)
    assert board.driver.commit_index == index
    assert not board.driver.serves
    await asyncio.sleep(0)
    assert ("take", index) in board.did
    assert board.driver.serves


async def test_a_proposal_whose_place_another_leader_took_is_superseded() -> None:
    """An index alone names no entry: with its term it does (paper 5.3)."""
    board = Board()
    await board.hold(await board.lead())
    board.propose()
    board.propose()
    board.disk()
    board.disk()
    board.did.clear()
    await board.hear("C", append(6, (2, 4), (3, 6), commit=3))
    board.disk()
    outcomes = [what[1] for what in board.did if what[0] == "done"]
    assert [(type(outcome), outcome.term) for outcome in outcomes] == [(Superseded, 6), (Superseded, 6)]
    assert ("take", 3) in board.did


async def test_a_disk_that_fails_ends_the_node_and_nothing_is_promised() -> None:
    """After a failed sync nobody knows what is durable."""
    board = Board("B")
    board.error = OSError("I/O error")
    await board.hear("A", append(4, (1, 1), (2, 4)))
    board.disk()
    assert board.did == []
    assert board.failures == [board.error]
    await board.hear("C", append(5, (1, 1)))
    assert (board.did, board.jobs) == ([], [])


async def test_a_full_disk_promises_nothing_and_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Consensus.md: the others go on; this one acknowledges as soon as it has room, and not before."""
    later: list[Callable[[], None]] = []
    board = Board("B")
    board.error = DiskFull("no room")
    await board.hear("A", append(4, (1, 1), (2, 4)))
    monkeypatch.setattr(board.driver._loop, "call_later", lambda _, call, *a: later.append(lambda: call(*a)))
    board.disk()
    assert (board.did, board.failures, board.driver.no_room) == ([], [], True)
    board.error = None
    monkeypatch.undo()
    later[-1]()
    board.disk()
    assert board.sent(Appended)[-1].matched == 2
    assert not board.driver.no_room


async def test_what_had_no_room_is_not_written_behind_the_beginning_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its indexes would stand in the log twice, the second time with entries of a term that is over."""
    later: list[Callable[[], None]] = []
    board = Board("B")
    board.error = DiskFull("no room")
    await board.hear("A", append(4, (1, 1), (2, 4)))
    monkeypatch.setattr(board.driver._loop, "call_later", lambda _, call, *a: later.append(lambda: call(*a)))
    board.disk()
    board.error = None
    again = later.pop()
    alone = asyncio.create_task(board.driver.go_on_alone(Random(2)))
    await asyncio.sleep(0)
    assert len(board.jobs) == 1
    again()
    assert (len(board.jobs), len(later)) == (1, 1)
    alone.cancel()
    board.driver._held = False
    later.pop()()
    assert len(board.jobs) == 2


async def test_two_leaders_in_a_term_end_the_node() -> None:
    """What the core asserts is not survived."""
    board = Board()
    await board.lead()
    await board.hear("B", append(4, (1, 1)))
    assert "both lead in term 4" in str(board.failures[0])
    board.did.clear()
    await board.hear("B", AskVote(9, 9, 9, incarnation("A"), transfer=True))
    assert board.did == []


async def test_reads_of_one_turn_share_a_question_and_fail_without_a_leader() -> None:
    """Thesis 6.4: one round for a batch."""
    board = Board()
    await board.hold(await board.lead())
    board.did.clear()
    reads = [asyncio.ensure_future(board.driver.read_index(confirmed=True)) for _ in range(3)]
    for _ in range(3):
        await asyncio.sleep(0)
    assert [m.read_round for m in board.sent(Append) if m.read_round] == [1, 1], (
        "the others tell of the commit"
    )
    assert not any(read.done() for read in reads)
    await board.hear("B", Appended(4, 2, 1, 1_000, incarnation=incarnation("B")))
    assert await asyncio.gather(*reads) == [2, 2, 2]
    read = asyncio.ensure_future(board.driver.read_index(confirmed=True))
    for _ in range(3):
        await asyncio.sleep(0)
    await board.hear("B", append(9, (2, 4)))
    with pytest.raises(NoLeader):
        await read


async def test_a_read_that_is_given_up_leaves_the_others_of_its_turn_alone() -> None:
    board = Board()
    await board.hold(await board.lead())
    given_up, read = (asyncio.ensure_future(board.driver.read_index(confirmed=True)) for _ in range(2))
    for _ in range(3):
        await asyncio.sleep(0)
    given_up.cancel()
    await board.hear("B", Appended(4, 2, 1, 1_000, incarnation=incarnation("B")))
    assert await read == 2
    assert given_up.cancelled()


async def test_no_read_waits_for_a_driver_that_has_stopped() -> None:
    """Neither those asked before, nor those of the same turn, nor later ones."""
    board = Board()
    await board.hold(await board.lead())
    reads = [asyncio.ensure_future(board.driver.read_index(confirmed=True))]
    for _ in range(3):
        await asyncio.sleep(0)
    reads.append(asyncio.ensure_future(board.driver.read_index(confirmed=True)))
    await asyncio.sleep(0)
    board.driver.stop()
    reads.append(asyncio.ensure_future(board.driver.read_index(confirmed=False)))
    async with asyncio.timeout(5):
        outcomes = await asyncio.gather(*reads, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [NoLeader] * 3


async def test_a_leader_without_room_hands_over_and_then_says_so() -> None:
    """Another may have room; where none has, whoever appends is told, and leadership does not go round."""
    board = Board()
    board.fits = lambda size: False

    def make_room(size: int, *, use_reserve: bool) -> None:
        raise DiskFull("full")

    board.make_room = make_room
    index = await board.lead()
    await board.hold(index)
    board.propose()
    board.disk()
    assert isinstance(board.did[-1][1], Superseded)
    assert board.sent(TimeoutNow)
    for _ in range(6):
        board.clock.advance(500)
        await board.hold(index)
        board.driver._on_time()
    assert board.driver.serves  # nobody took over
    board.propose()
    board.disk()
    assert isinstance(board.did[-1][1], DiskFull)
    assert len(board.sent(TimeoutNow)) == 1
