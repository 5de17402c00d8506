"""Conditions: looked up before the proposal, never in the way of others, and decided as replay will decide them."""

from __future__ import annotations

import asyncio

import pytest
from sequencer_board import Board

from shoal.errors import ConditionFailed, InternalError, NotFound, ShuttingDown, Timeout, TooBusy
from shoal.model.commands import Append, DeleteStream, DropStore
from shoal.model.machine import Head, StoreState
from shoal.store.lanes import Pending
from shoal.store.memory import StoreMemory
from shoal.store.ports import Hit
from shoal.types import ANY_VERSION, Condition, Query, QueryItem

QUERY = Query((QueryItem(("hit",)),))
CONDITION = Condition(QUERY)


@pytest.fixture
async def board():
    """A board with ten positions in its database."""
    board = Board()
    board.memory.state.position = board.memory.base = 10
    return board


def conditions(board, entry=-1):
    """The conditions of an entry, as they went into the journal."""
    return [command.condition for command in board.proposed[entry][0].commands]


async def appended(board, stream_id="s", count=1):
    for _ in range(count):
        board.append(stream_id)
        await board.through()


def commit(board):
    """The database has committed all that was decided."""
    board.sequencer.hand_over()
    board.sequencer.committed(board.index, {"main": board.memory.state.position})


async def test_what_the_search_finds_refuses_the_append(board):
    board.found = [Hit(7, "s", 3)]
    refused = board.append(condition=CONDITION)
    await board.through()
    assert isinstance(refused.exception(), ConditionFailed)
    assert refused.exception().position == 7
    ((search,), (condition,)) = board.searches, conditions(board)
    assert (search.store, search.query, search.low, search.high) == ("main", QUERY, 1, 10)
    assert condition == Condition(QUERY, 6)  # replay need not look any further back


async def test_the_condition_that_is_proposed_begins_where_the_search_ended(board):
    board.found = [None]
    accepted = board.append(condition=CONDITION)
    await board.through()
    assert accepted.result().position == 11
    assert conditions(board) == [Condition(QUERY, 10)]


async def test_what_came_since_is_decided_from_memory(board):
    board.found = [None]
    board.append("hits", kind="hit")
    refused = board.append(condition=CONDITION)
    await board.through()
    assert refused.exception().position == 11


async def test_a_condition_about_events_in_memory_is_not_searched_for(board):
    await appended(board)
    future = board.append(condition=Condition(QUERY, 10))
    await board.through()
    assert (board.searches, future.result().position) == ([], 12)


async def test_others_are_not_held_while_a_search_goes_on(board):
    search = asyncio.get_running_loop().create_future()
    board.found = [search]
    slow, other = board.append("s", condition=CONDITION), board.append("s")
    await board.through()
    assert (other.done(), slow.done()) == (True, False)
    search.set_result(None)
    await board.through()
    assert slow.result().results[0] == 1


async def test_a_search_goes_on_where_it_ended_if_the_tail_was_committed_meanwhile(board):
    search = asyncio.get_running_loop().create_future()
    board.found = [search, None]
    future = board.append("t", condition=CONDITION)
    await appended(board, count=2)
    commit(board)
    search.set_result(None)
    await board.through()
    assert [(each.low, each.high) for each in board.searches] == [(1, 10), (11, 12)]
    assert conditions(board) == [Condition(QUERY, 12)]
    assert future.result().position == 13


async def test_what_was_found_counts_only_if_no_delete_has_hidden_it_since(board):
    board.heads["s"] = Head(3)
    search = asyncio.get_running_loop().create_future()
    board.found = [search, Hit(9, "u", 0)]
    refused = board.append("t", condition=CONDITION)
    board.sequencer.submit(DeleteStream("main", "s", ANY_VERSION, hard=False), 1)
    await board.through()
    search.set_result(Hit(7, "s", 3))
    await board.through()
    assert refused.exception().position == 9
    assert [(each.low, dict(each.hidden)) for each in board.searches] == [(1, {}), (7, {"s": 4})]


async def test_a_delete_in_the_same_turn_is_decided_before(board):
    """Both are ready at once: the append is left to the next entry, where the delete hides what was found."""
    board.heads["s"] = Head(3)
    board.found = [Hit(7, "s", 3), None]
    board.append("under way")
    await board.turn()
    board.sequencer.submit(DeleteStream("main", "s", ANY_VERSION, hard=False), 1)
    conditional, other = board.append("t", condition=CONDITION), board.append("u", lane=1)
    await board.through()
    assert conditional.exception() is None
    assert other.exception() is None
    assert [len(proposal.commands) for proposal, _ in board.proposed] == [1, 2, 1]


async def test_a_delete_of_another_stream_leaves_what_was_found(board):
    board.heads |= {"s": Head(3), "other": Head(0)}
    await appended(board, "s")
    search = asyncio.get_running_loop().create_future()
    board.found = [search]
    refused = board.append("t", condition=CONDITION)
    board.sequencer.submit(DeleteStream("main", "other", ANY_VERSION, hard=False), 1)
    await board.through()
    search.set_result(Hit(7, "s", 3))
    await board.through()
    assert refused.exception().position == 7
    assert len(board.searches) == 1


# --------------------------------------------------------------------------------- what goes wrong


async def test_a_search_that_fails_fails_its_append_and_no_other(board, caplog):
    board.found = [TypeError("unhashable"), NotFound("gone")]
    defect, refused = board.append(condition=CONDITION), board.append(condition=CONDITION)
    other = board.append()
    await board.through()
    assert isinstance(defect.exception(), InternalError)
    assert defect.exception().outcome == "not-applied"
    assert isinstance(refused.exception(), NotFound)
    assert other.result().position == 11
    assert (board.failures, board.sequencer.waiting) == ([], 0)
    assert "cannot be looked up" in caplog.text


async def test_a_search_that_takes_too_long_is_ended_and_nothing_was_applied(board):
    search = asyncio.get_running_loop().create_future()
    board.found = [search]
    future = board.append(condition=CONDITION, timeout_ms=100)
    await board.turn()
    board.clock.advance(101)
    board.sequencer._sweep()
    assert isinstance(future.exception(), Timeout)
    assert future.exception().outcome == "not-applied"
    await board.turn()
    assert search.cancelled()
    assert (board.proposed, board.sequencer.waiting) == ([], 0)


@pytest.mark.parametrize("turns", [0, 1])
async def test_a_search_that_nobody_waits_for_is_ended(board, turns):
    search = asyncio.get_running_loop().create_future()
    board.found = [search]
    future = board.append(condition=CONDITION)
    for _ in range(turns):
        await board.turn()
    future.cancel()
    await board.turn()
    assert search.cancelled() or not board.searches
    assert (board.proposed, board.sequencer.waiting) == ([], 0)


async def test_what_is_looked_up_counts_for_its_lane(board):
    board.found = [asyncio.get_running_loop().create_future()]
    future = board.append(condition=CONDITION, lane_limit=1)
    with pytest.raises(TooBusy):
        board.append(lane_limit=1)
    future.cancel()


async def test_what_is_looked_up_in_a_dropped_store_is_told_so(board):
    search = asyncio.get_running_loop().create_future()
    board.found = [search]
    future = board.append(condition=CONDITION)
    board.sequencer.submit(DropStore("main"), 0)
    await board.through()
    assert isinstance(future.exception(), NotFound)
    assert search.cancelled()


@pytest.mark.parametrize("ends", ["found", "late", "cancelled"])
async def test_closing_waits_for_what_is_looked_up(board, ends):
    search = asyncio.get_running_loop().create_future()
    board.found = [search]
    future = board.append(condition=CONDITION, timeout_ms=100)
    closing = asyncio.ensure_future(board.sequencer.close())
    await board.turn()
    assert not closing.done()
    match ends:
        case "found":
            search.set_result(None)
            await board.through()
            assert future.result().position == 11
        case "late":
            board.clock.advance(101)
            board.sequencer._sweep()
            assert isinstance(future.exception(), Timeout)
        case "cancelled":
            future.cancel()
    async with asyncio.timeout(1):
        await closing


async def test_a_failure_of_the_storage_ends_searches(board):
    search = asyncio.get_running_loop().create_future()
    board.found = [search]
    future = board.append(condition=CONDITION)
    board.append()
    await board.turn()
    board.answer_fetch()
    board.sync(OSError("EIO"))
    await board.turn()
    assert isinstance(future.exception(), ShuttingDown)
    assert search.cancelled()


async def test_what_was_found_in_a_store_says_nothing_of_the_next_one_of_its_name(board):
    """As when a leader that is deposed leaves its appends here, and a follower has made the store anew meanwhile."""
    board.found = [None, None]
    accepted = board.append(condition=CONDITION)
    board.serves, board.leader, board.role = False, None, "follower"
    await board.turn()
    anew = StoreMemory(StoreState(position=4), since=9)
    anew.base = 4
    board.sequencer.stores["main"] = anew
    board.serves, board.role = True, "leader"
    board.sequencer.resume()
    await board.turn()
    await board.through()
    assert [(search.low, search.high) for search in board.searches] == [(1, 10), (1, 4)]
    assert conditions(board) == [Condition(QUERY, 4)]
    assert accepted.result().position == 5


async def test_a_condition_about_a_store_that_came_since_is_looked_up_in_it(board):
    """A follower may have applied the entry that makes a store before its leader has."""
    memory = board.sequencer.stores.pop("main")
    pending = Pending(Append("main", [], CONDITION), 10, 10_000, asyncio.get_running_loop().create_future())
    board.serves = False
    board.sequencer._queue_passed_on(pending)
    board.sequencer.stores["main"] = memory
    board.found = [None]
    board.serves = True
    await board.through()
    assert len(board.searches) == 1
    assert conditions(board) == [Condition(QUERY, 10)]
