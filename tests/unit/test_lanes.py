"""Lanes: a busy one starves no other, what waits is bounded, and everything that leaves is accounted for."""

from __future__ import annotations

import asyncio

import pytest

from shoal.errors import NotFound, ShuttingDown, Timeout, TooBusy
from shoal.model.commands import Append, CreateStore, DeleteStream, DropStore
from shoal.store import lanes as module
from shoal.store.lanes import Checked, Lanes, Pending
from shoal.types import Condition, Query, QueryItem


@pytest.fixture
async def lanes():
    return Lanes()


def waiting(command=None, *, lane=0, size=10, deadline_ms=100, checked=None):
    future = asyncio.get_running_loop().create_future()
    return Pending(command or Append("main", []), size, deadline_ms, future, lane, checked)


def put(lanes, command=None, *, limit=1_000, **more):
    pending = waiting(command, **more)
    lanes.put(pending, limit)
    return pending


def hold(lanes, *, limit=1_000, **more):
    pending = waiting(**more)
    lanes.hold(pending, limit)
    return pending


def take(lanes):
    return lanes.take(lambda _: True)


async def test_every_lane_gets_its_turn(lanes, monkeypatch):
    """A busy lane does not keep a quiet one waiting for a second entry."""
    monkeypatch.setattr(module, "ENTRY_COMMANDS", 10)
    busy = [put(lanes, lane=0) for _ in range(100)]
    quiet = put(lanes, lane=1)
    taken = take(lanes)
    assert len(taken) == 10
    assert quiet in taken
    assert [each for each in taken if each is not quiet] == busy[:9]
    assert lanes.waiting == 91


async def test_an_entry_is_bounded_in_bytes_and_a_larger_command_is_one_of_its_own(lanes):
    for _ in range(3):
        put(lanes, size=module.ENTRY_BYTES // 2)
    large = put(lanes, size=module.ENTRY_BYTES * 9)
    last = put(lanes)
    assert [len(take(lanes)) for _ in range(3)] == [2, 2, 1]
    assert take(lanes) == []
    assert (large.future.done(), last.future.done()) == (False, False)


async def test_a_full_lane_is_too_busy_and_others_are_not(lanes):
    for _ in range(3):
        put(lanes, limit=3)
    with pytest.raises(TooBusy) as caught:
        put(lanes, limit=3)
    assert caught.value.facts["retry_after_ms"] == 1_000
    put(lanes, lane=1, limit=3)
    take(lanes)
    put(lanes, limit=3)


async def test_what_waits_is_bounded_in_bytes(lanes, monkeypatch):
    monkeypatch.setattr(module, "QUEUED_BYTES", 1_000)
    put(lanes, size=5_000)  # alone it may be larger
    with pytest.raises(TooBusy):
        put(lanes, size=1)
    take(lanes)
    put(lanes, size=900).future.cancel()
    assert take(lanes) == []
    put(lanes, size=900, deadline_ms=5)
    lanes.expire(5, Timeout)
    put(lanes, size=900)
    lanes.leave_store("main")
    put(lanes, size=1_000)
    lanes.fail_all(ShuttingDown("closing"))
    put(lanes, size=1_000)


async def test_what_waited_too_long_was_not_applied(lanes):
    early, late = put(lanes, deadline_ms=5), put(lanes, deadline_ms=6)
    lanes.expire(5, Timeout)
    error = early.future.exception()
    assert isinstance(error, Timeout)
    assert error.outcome == "not-applied"
    assert take(lanes) == [late]


async def test_a_condition_waits_behind_a_delete_of_its_store_only(lanes):
    condition = Condition(Query((QueryItem(("e",)),)))
    delete = put(lanes, DeleteStream("main", "s", -2, hard=False))
    waits = put(lanes, Append("main", [], condition))
    behind = put(lanes)
    other = put(lanes, Append("other", [], condition))
    assert take(lanes) == [delete, other]
    assert take(lanes) == [waits, behind]


@pytest.mark.parametrize("remade", [CreateStore("main"), DropStore("main")])
async def test_what_follows_the_making_or_dropping_of_its_store_is_in_another_entry(lanes, remade):
    """What is fetched for an entry is of the store that was there before it."""
    before, change = put(lanes), put(lanes, remade)
    after, elsewhere = put(lanes), put(lanes, Append("other", []))
    other_lane = put(lanes, lane=1)
    first = take(lanes)
    assert after not in first
    assert {id(pending) for pending in (before, change, elsewhere)} <= {id(pending) for pending in first}
    assert {id(pending) for pending in take(lanes) + first} >= {id(after), id(other_lane)}


async def test_a_dropped_store_takes_its_commands_along_but_not_those_that_make_it_again(lanes):
    appended, made, dropped = put(lanes), put(lanes, CreateStore("main")), put(lanes, DropStore("main"))
    other = put(lanes, Append("other", []))
    lanes.leave_store("main")
    assert isinstance(appended.future.exception(), NotFound)
    assert sorted(map(id, take(lanes))) == sorted(map(id, [made, other]))
    assert take(lanes) == [dropped]


async def test_failing_answers_everything_once(lanes):
    first, gone = put(lanes), put(lanes, lane=1)
    gone.future.cancel()
    lanes.fail_all(ShuttingDown("closing"))
    assert isinstance(first.future.exception(), ShuttingDown)
    assert lanes.waiting == 0


# --------------------------------------------------------------------------------- what is held


async def test_what_is_held_is_passed_by_others_until_it_is_released(lanes):
    held, other = hold(lanes), put(lanes)
    assert take(lanes) == [other]
    assert lanes.waiting == 1
    lanes.release(held)
    assert take(lanes) == [held]
    lanes.release(held)
    assert not lanes.drop(held)
    assert (take(lanes), lanes.waiting) == ([], 0)


async def test_what_may_not_go_is_held_again(lanes):
    checked = Checked(None, 0, 0, 0)
    stays, goes, unconditional = (
        put(lanes, checked=each) for each in (checked, Checked(None, 1, 0, 0), None)
    )
    assert lanes.take(lambda pending: pending is goes) == [goes, unconditional]
    assert take(lanes) == []
    lanes.release(stays)
    assert take(lanes) == [stays]


async def test_what_is_held_counts_for_the_bounds_of_its_lane(lanes, monkeypatch):
    first, _ = hold(lanes, limit=3), hold(lanes, limit=3)
    put(lanes, limit=3)
    for way in (put, hold):
        with pytest.raises(TooBusy):
            way(lanes, limit=3)
    lanes.drop(first)
    hold(lanes, limit=3)
    lanes.fail_all(ShuttingDown("closing"))
    monkeypatch.setattr(module, "QUEUED_BYTES", 1_000)
    for end in (
        lanes.drop,
        lambda _: lanes.expire(5, Timeout),
        lambda _: lanes.leave_store("main"),
        lambda _: lanes.fail_all(ShuttingDown("closing")),
        lambda held: (lanes.release(held), take(lanes)),
    ):
        held = hold(lanes, size=1_000, deadline_ms=5)
        with pytest.raises(TooBusy):
            put(lanes, size=1)
        end(held)
        assert lanes.waiting == 0
        put(lanes, size=1_000)
        take(lanes)


async def test_what_is_held_is_answered_as_what_is_queued(lanes):
    late, dropped, closing = hold(lanes, deadline_ms=5), hold(lanes, lane=1), None
    lanes.expire(5, Timeout)
    assert isinstance(late.future.exception(), Timeout)
    assert late.future.exception().outcome == "not-applied"
    lanes.leave_store("main")
    assert isinstance(dropped.future.exception(), NotFound)
    closing = hold(lanes)
    lanes.fail_all(ShuttingDown("closing"))
    assert isinstance(closing.future.exception(), ShuttingDown)


async def test_what_was_held_is_in_time_also_behind_what_came_later(lanes):
    early = hold(lanes, deadline_ms=5)
    late = put(lanes, deadline_ms=6)
    lanes.release(early)
    lanes.expire(5, Timeout)
    assert isinstance(early.future.exception(), Timeout)
    assert take(lanes) == [late]


async def test_what_comes_back_in_parts_has_its_place_again(lanes):
    first, second, third = (put(lanes) for _ in range(3))
    assert take(lanes) == [first, second, third]
    last = put(lanes)
    for part in ([second], [first, third]):
        lanes.put_back(part)
    assert take(lanes) == [first, second, third, last]
