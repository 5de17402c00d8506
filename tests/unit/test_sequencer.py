"""The sequencer: fair lanes, honest outcomes, one entry at a time, and nothing lost or told twice when things fail."""

from __future__ import annotations

import asyncio

import pytest
from sequencer_board import Board

from shoal.errors import (
    DiskFull,
    NotFound,
    ShuttingDown,
    Timeout,
    TooBusy,
    WrongExpectedVersion,
)
from shoal.model.commands import (
    Append,
    CreateStore,
    DeleteStream,
    DropStore,
    Proposal,
    ProposedEvent,
    SaveSnapshot,
    Write,
    encode,
)
from shoal.model.machine import Head
from shoal.raft.log import Kind
from shoal.raft.messages import Entry
from shoal.store import memory as memory_module
from shoal.store import sequencer
from shoal.types import ANY_VERSION, NO_STREAM


@pytest.fixture
async def board():
    return Board()


def commands(board, entry=-1):
    return board.proposed[entry][0].commands


# --------------------------------------------------------------------------------- entries and answers


async def test_what_is_asked_in_one_turn_is_one_entry_and_what_comes_meanwhile_the_next(board):
    first = [board.append() for _ in range(5)]
    await board.turn()
    later = [board.append() for _ in range(3)]
    await board.turn()
    assert [len(proposal.commands) for proposal, _ in board.proposed] == [5]
    await board.through()
    assert [len(proposal.commands) for proposal, _ in board.proposed] == [5, 3]
    assert [future.result().results[0] for future in first + later] == list(range(8))


async def test_nothing_is_answered_before_it_is_durable(board):
    future = board.append()
    await board.turn()
    board.answer_fetch()
    await board.turn()
    assert not future.done()
    board.sync()
    assert future.done()


async def test_nothing_is_answered_before_its_read_set_is_there(board):
    board.heads["s"] = Head(4)
    future = board.append(expected=4)
    await board.turn()
    board.sync()
    await board.turn()
    assert not future.done()
    board.answer_fetch()
    assert future.result().results[0].first_version == 5


async def test_a_conflict_takes_part_in_the_entry_and_the_others_go_on(board):
    good, bad, after = board.append("a", NO_STREAM), board.append("a", NO_STREAM), board.append("a", 0)
    await board.through()
    assert isinstance(bad.exception(), WrongExpectedVersion)
    assert (good.result().position, after.result().position) == (1, 2)
    assert board.sequencer.counters.conflicts == 1


async def test_what_was_decided_goes_to_the_writer_once_and_in_order(board):
    for _ in range(3):
        board.append()
        await board.through()
    board.sequencer.hand_over()
    assert [entry.index for entry in board.applied] == [1, 2, 3]
    assert [entry.stores[0].state.position for entry in board.applied] == [1, 2, 3]
    assert all(entry.size > 0 for entry in board.applied)


async def test_a_cancelled_command_is_not_proposed(board):
    kept, cancelled = board.append("kept"), board.append("cancelled")
    cancelled.cancel()
    await board.through()
    assert [command.writes[0].stream_id for command in commands(board)] == ["kept"]
    assert kept.done()


# --------------------------------------------------------------------------------- refusing


async def test_a_full_lane_is_too_busy_and_others_are_not(board):
    await board.turn()
    board.append(lane=0)
    await board.turn()  # under way: the lane is empty again
    for _ in range(3):
        board.append(lane=0, lane_limit=3)
    with pytest.raises(TooBusy) as caught:
        board.append(lane=0, lane_limit=3)
    assert caught.value.facts["retry_after_ms"] == 1_000
    other = board.append(lane=1, lane_limit=3)
    await board.through()
    assert other.done()
    assert board.append(lane=0, lane_limit=3)
    await board.through()
    assert board.sequencer.counters.refused == 1


async def test_a_writer_that_cannot_follow_holds_entries_back(board):
    board.backlog = sequencer.BACKLOG_HIGH + 1
    future = board.append()
    await board.turn()
    assert board.proposed == []
    board.backlog = 0
    board.sequencer.resume()
    await board.through()
    assert future.done()


async def test_an_unknown_store_is_refused_at_once(board):
    with pytest.raises(NotFound):
        board.sequencer.submit(SaveSnapshot("other", "s", 0, b"1"), 1)


# --------------------------------------------------------------------------------- time running out


async def test_a_queued_command_that_waited_too_long_was_not_applied(board):
    board.append("under way")
    await board.turn()
    waiting = board.append(timeout_ms=100)
    board.clock.advance(101)
    board.sequencer._sweep()
    assert isinstance(waiting.exception(), Timeout)
    assert waiting.exception().outcome == "not-applied"
    await board.through()
    assert len(board.proposed) == 1


async def test_a_proposed_one_may_still_be(board):
    future = board.append(timeout_ms=100)
    await board.turn()
    board.clock.advance(101)
    board.sequencer._sweep()
    assert future.exception().outcome == "unknown"
    await board.through()
    assert board.memory.state.position == 1  # it was, and nobody is told twice


# --------------------------------------------------------------------------------- the disk


async def test_a_full_disk_refuses_appends_and_proposes_deletes_with_the_reserve(board):
    append, delete = board.append(), board.sequencer.submit(DeleteStream("main", "s", ANY_VERSION, False), 1)
    await board.turn()
    board.answer_fetch()
    board.sync(DiskFull("full"))
    assert isinstance(append.exception(), DiskFull)
    assert append.exception().outcome == "not-applied"
    assert [(len(proposal.commands), reserve) for proposal, reserve in board.proposed] == [
        (2, False),
        (1, True),
    ]
    await board.through()
    assert delete.done()
    assert delete.exception() is None
    assert board.append("s").done() is False


async def test_a_delete_that_even_the_reserve_has_no_room_for_is_refused(board):
    delete = board.sequencer.submit(DeleteStream("main", "s", ANY_VERSION, False), 1)
    await board.turn()
    for _ in range(2):
        board.answer_fetch()
        board.sync(DiskFull("full"))
        await board.turn()
    assert isinstance(delete.exception(), DiskFull)
    assert board.done is None
    after = board.append()
    await board.through()
    assert after.done()


@pytest.mark.parametrize("command", [
    SaveSnapshot("main", "s", 0, b"1"), CreateStore("x"), Append("main", [Write("s", ANY_VERSION, [])]),
])  # fmt: skip
async def test_while_the_disk_is_full_what_needs_room_is_refused_at_once(board, command):
    board.sequencer.disk_full = DiskFull("full")
    with pytest.raises(DiskFull):
        board.sequencer.submit(command, 1)
    board.sequencer.submit(DeleteStream("main", "s", ANY_VERSION, True), 1)
    board.sequencer.disk_full = None
    await board.through()


@pytest.mark.parametrize("which", ["sync", "fetch"])
async def test_a_failure_ends_everything_once_and_says_what_is_known(board, which):
    proposed = board.append()
    await board.turn()
    queued = board.append()
    if which == "sync":
        board.answer_fetch()
        board.sync(OSError("EIO"))
    else:
        board.fetches.pop()[1](ValueError("damaged"))
        board.sync()
    assert proposed.exception().outcome == "unknown"
    assert isinstance(queued.exception(), ShuttingDown)
    assert queued.exception().outcome == "not-applied"
    assert len(board.failures) == 1
    with pytest.raises(ShuttingDown):
        board.append()
    async with asyncio.timeout(1):
        await board.sequencer.close()
    assert board.memory.state.position == 0


async def test_closing_answers_all_that_was_taken(board):
    futures = [board.append() for _ in range(3)]
    closing = asyncio.ensure_future(board.sequencer.close())
    await board.turn()
    with pytest.raises(ShuttingDown):
        board.append()
    assert not closing.done()
    await board.through()
    await closing
    assert all(future.done() for future in futures)
    assert len(board.applied) == 1


async def test_a_failure_while_closing_ends_the_waiting(board):
    future = board.append()
    closing = asyncio.ensure_future(board.sequencer.close())
    await board.turn()
    board.answer_fetch()
    board.sync(OSError("EIO"))
    async with asyncio.timeout(1):
        await closing
    assert future.exception().outcome == "unknown"


# --------------------------------------------------------------------------------- read sets


async def test_a_known_head_is_not_fetched_again(board):
    board.append("s")
    await board.through()
    board.append("s")
    await board.turn()
    assert board.fetches == []
    board.sync()


async def test_heads_forgotten_for_space_are_fetched_again_and_right(board, monkeypatch):
    """Only what SQLite can give again is forgotten: never the head of an uncommitted stream."""
    monkeypatch.setattr(memory_module, "HEADS_CACHED", 2)
    for n in range(6):
        board.append(f"s{n}", NO_STREAM)
        await board.through()
    assert all(board.memory.knows(f"s{n}") for n in range(6))
    board.sequencer.hand_over()
    board.sequencer.committed(3, {"main": 3})
    board.append("other", NO_STREAM)
    await board.through()
    assert [n for n in range(6) if board.memory.knows(f"s{n}")] == [3, 4, 5]
    wrong, right = board.append("s0", NO_STREAM), board.append("s0", 0)
    await board.through()
    assert isinstance(wrong.exception(), WrongExpectedVersion)
    assert right.result().results == [1]


async def test_the_tail_stays_while_an_entry_is_undecided(board):
    """Its read set may come from a snapshot of the file that is older than the commit."""
    board.append("a")
    await board.through()
    board.append("b")
    await board.turn()
    board.sequencer.committed(1, {"main": 1})
    assert board.memory.base == 0
    await board.through()
    assert board.memory.base == 1


async def test_a_report_of_a_dropped_store_does_not_touch_its_namesake(board):
    board.append("a")
    await board.through()
    for command in (DropStore("main"), CreateStore("main")):
        board.sequencer.submit(command, 0)
        await board.through()
    fresh = board.append("b")
    await board.through()
    board.sequencer.committed(1, {"main": 1})
    memory = board.sequencer.stores["main"]
    assert fresh.result().position == 1
    assert memory.base == 0
    assert memory.first_version("b") == 0


async def test_commands_for_a_dropped_store_never_reach_its_namesake(board):
    board.append("a")
    await board.turn()
    board.sequencer.submit(DropStore("main"), 0)
    create = board.sequencer.submit(CreateStore("main"), 0)
    await board.turn()
    board.answer_fetch()
    board.sync()
    await board.turn()
    late = board.append("a")
    await board.through()
    assert isinstance(late.exception(), NotFound)
    assert create.exception() is None
    assert board.sequencer.stores["main"].state.position == 0
    assert board.sequencer.waiting == 0


async def test_what_met_a_full_disk_waits_behind_what_another_leader_committed_meanwhile(board):
    """The lead was lost and won again while its read set was fetched from a slow card."""
    delete = board.sequencer.submit(DeleteStream("main", "s", ANY_VERSION, False), 10)
    await board.turn()
    board.sync(DiskFull("full"))
    board.term = 3
    other = Append("main", [Write("q", NO_STREAM, [ProposedEvent("x", False, "e", b"1")])])
    board.sequencer.take([Entry(1, 2, int(Kind.NORMAL), encode(Proposal(1, 1, [other])))])
    await board.turn()
    board.answer_fetch()
    await board.turn()
    assert len(board.proposed) == 1
    board.answer_fetch()
    await board.turn()
    assert board.sequencer.applied_index == 1
    board.index = 1
    await board.through()
    assert (delete.exception(), board.failures) == (None, [])
