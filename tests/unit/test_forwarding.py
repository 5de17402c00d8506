"""What a follower passes on is applied once, and answered where it was asked: over losses, repeats and new leaders."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sequencer_board import Board

from shoal.errors import NoLeader, Timeout, TooBusy, WrongExpectedVersion
from shoal.model.commands import Append, Write
from shoal.model.machine import StoreState
from shoal.raft.log import Kind
from shoal.raft.messages import Entry
from shoal.store import forwarding
from shoal.store.forwarding import Forward, Item, Refused, Taken
from shoal.store.memory import StoreMemory
from shoal.store.ports import Superseded
from shoal.types import ANY_VERSION, NO_STREAM, Condition, Query, QueryItem


class Pair:
    """A follower and its leader; what the follower sends waits in `wire`."""

    def __init__(self) -> None:
        self.wire: list[Forward] = []
        self.refusals: list[Refused] = []
        self.connected = True
        self.follower = Board("follower", self._send)
        self.leader = Board("leader")
        self.leader.sequencer.followers.refuse = lambda _node, refused: self.refusals.append(refused)
        self.lead(term=1)

    def _send(self, leader: str, value: Forward) -> bool:
        assert leader == "leader"
        if self.connected:
            self.wire.append(value)
        return self.connected

    def lead(self, term: int, *, serves: bool = True) -> None:
        self.leader.term = self.follower.term = term
        self.leader.serves = serves
        self.follower.role, self.follower.serves, self.follower.leader = "follower", False, "leader"

    async def carry(self) -> None:
        """What was sent arrives."""
        sent, self.wire = self.wire, []
        for forward in sent:
            self.leader.sequencer.followers.take("follower", forward)
        await self.leader.turn()

    async def commit(self) -> None:
        """The entry that the leader has proposed is committed, and applied on both."""
        payload = self.leader.payload
        while self.leader.fetches:
            self.leader.answer_fetch()
        self.leader.sync()
        await self.apply(payload)

    async def apply(self, payload: bytes, kind: Kind = Kind.NORMAL) -> None:
        """The follower applies an entry."""
        self.follower.index += 1
        self.follower.sequencer.take([Entry(self.follower.index, self.follower.term, int(kind), payload)])
        await self.follower.turn()
        while self.follower.fetches:
            self.follower.answer_fetch()
            await self.follower.turn()

    async def wait(self, ms: int) -> None:
        """Time passes on the follower, and it looks."""
        self.follower.clock.advance(ms)
        self.follower.sequencer._sweep()
        await self.follower.turn()


@pytest.fixture
async def pair():
    return Pair()


async def test_it_is_answered_where_it_was_asked_once_it_is_applied_there(pair):
    future = pair.follower.append(expected=NO_STREAM)
    await pair.follower.turn()
    await pair.carry()
    assert not future.done()
    await pair.commit()
    assert (await future).results[0].version == 0
    assert pair.follower.sequencer.waiting == 0
    assert pair.leader.memory.head("s") == pair.follower.memory.head("s")


async def test_a_conflict_comes_back_as_one(pair):
    first, second = pair.follower.append(expected=NO_STREAM), pair.follower.append(expected=NO_STREAM)
    await pair.follower.turn()
    await pair.carry()
    await pair.commit()
    assert (await first).results[0].version == 0
    with pytest.raises(WrongExpectedVersion):
        await second


async def test_what_comes_twice_is_taken_once(pair):
    pair.follower.append()
    await pair.follower.turn()
    pair.wire *= 2
    await pair.carry()
    assert [len(proposal.commands) for proposal, _ in pair.leader.proposed] == [1]
    assert pair.leader.sequencer.waiting == 0


async def test_what_was_lost_is_sent_again_and_no_earlier(pair):
    future = pair.follower.append()
    await pair.follower.turn()
    lost, pair.wire = pair.wire, []
    await pair.wait(forwarding.RESEND_MS - 1)
    assert pair.wire == []
    await pair.wait(1)
    assert len(lost) == len(pair.wire) == 1
    await pair.carry()
    await pair.commit()
    assert (await future).results[0].version == 0


async def test_what_a_broken_connection_may_have_lost_goes_before_what_comes_later(pair):
    """Else a caller that does not wait for one append before the next would see them change places."""
    first = pair.follower.append()
    await pair.follower.turn()
    pair.wire.clear()
    pair.follower.sequencer.connection_broke()
    second = pair.follower.append()
    await pair.follower.turn()
    await pair.carry()
    await pair.commit()
    assert [(await future).results[0].version for future in (first, second)] == [0, 1]


async def test_what_was_passed_on_in_an_earlier_term_goes_before_what_comes_in_the_next(pair):
    first = pair.follower.append()
    await pair.follower.turn()
    pair.wire.clear()
    pair.lead(term=2)
    second = pair.follower.append()
    await pair.follower.turn()
    assert pair.wire == []
    await pair.apply(b"", Kind.NO_OP)
    await pair.carry()
    await pair.commit()
    assert [(await future).results[0].version for future in (first, second)] == [0, 1]


async def test_what_is_in_the_way_and_expires_lets_the_others_go(pair):
    lost = pair.follower.append(timeout_ms=100)
    await pair.follower.turn()
    pair.wire.clear()
    pair.lead(term=2)
    kept = pair.follower.append()
    await pair.wait(100)
    with pytest.raises(Timeout):
        await lost
    await pair.carry()
    await pair.commit()
    assert (await kept).results[0].version == 0


async def test_what_a_leader_that_closes_refuses_one_by_one_keeps_its_order(pair):
    futures = [pair.follower.append() for _ in range(3)]
    await pair.follower.turn()
    pair.leader.sequencer._closing = True
    await pair.carry()
    assert len(pair.refusals) == 3
    for refused in pair.refusals:
        pair.follower.sequencer.hear_refusal(refused)
    pair.leader.sequencer._closing = False
    pair.lead(term=2)
    pair.follower.sequencer.resume()
    await pair.follower.turn()
    await pair.carry()
    await pair.commit()
    assert [(await future).results[0].version for future in futures] == [0, 1, 2]


async def test_a_condition_is_passed_on_as_it_came(pair):
    """The leader looks it up: by then the follower's store may be another of the name."""
    pair.follower.memory.state.position = pair.follower.memory.base = 10
    condition = Condition(Query((QueryItem(types=("e",)),)), after=3)
    pair.follower.append(condition=condition)
    await pair.follower.turn()
    (item,) = msgspec.msgpack.decode(pair.wire[0].items, type=list[Item])
    assert isinstance(item.command, Append)
    assert item.command.condition == condition
    assert pair.follower.searches == []


async def test_what_could_not_leave_leaves_later(pair):
    pair.connected = False
    future = pair.follower.append()
    await pair.follower.turn()
    assert pair.wire == []
    pair.connected = True
    pair.follower.sequencer.resume()
    await pair.follower.turn()
    await pair.carry()
    await pair.commit()
    assert (await future).results[0].version == 0


async def test_a_leader_that_does_not_serve_yet_keeps_what_comes(pair):
    """Its own first entry is not committed: it takes what comes for the time after, also what it was given itself."""
    pair.lead(term=2, serves=False)
    theirs, own = pair.follower.append(), pair.leader.append("own")
    await pair.follower.turn()
    await pair.carry()
    assert pair.leader.proposed == []
    pair.leader.serves = True
    pair.leader.sequencer.resume()
    await pair.leader.turn()
    await pair.commit()
    assert (await theirs).results[0].version == 0
    assert (await own).results[0].version == 0


async def test_what_a_leader_of_another_term_gets_it_leaves(pair):
    pair.follower.append()
    await pair.follower.turn()
    pair.leader.term = 2
    await pair.carry()
    assert pair.leader.proposed == []
    assert pair.leader.sequencer.waiting == 0


async def test_after_an_entry_of_a_later_term_it_goes_to_the_next_leader(pair):
    """Nothing that was proposed in an earlier term and is not before that entry will ever be applied."""
    future = pair.follower.append()
    await pair.follower.turn()
    pair.wire.clear()
    pair.lead(term=2)
    await pair.wait(forwarding.RESEND_MS)
    assert pair.wire == []  # it may still come: sent again now it could be applied twice
    await pair.apply(b"", Kind.NO_OP)
    assert [forward.term for forward in pair.wire] == [2]
    await pair.carry()
    await pair.commit()
    assert (await future).results[0].version == 0


async def test_what_an_earlier_leader_had_committed_is_not_sent_again(pair):
    future = pair.follower.append()
    await pair.follower.turn()
    await pair.carry()
    payload = pair.leader.payload
    pair.follower.index += 1
    late = Entry(pair.follower.index, 1, int(Kind.NORMAL), payload)
    pair.lead(term=2)
    pair.follower.index += 1
    pair.follower.sequencer.take([late, Entry(pair.follower.index, 2, int(Kind.NO_OP), b"")])
    await pair.follower.turn()
    while pair.follower.fetches:
        pair.follower.answer_fetch()
        await pair.follower.turn()
    assert (await future).results[0].version == 0
    assert pair.wire == []


async def test_without_an_answer_in_time_the_outcome_is_unknown(pair):
    future = pair.follower.append(timeout_ms=100)
    await pair.follower.turn()
    await pair.wait(100)
    with pytest.raises(Timeout) as caught:
        await future
    assert caught.value.outcome == "unknown"


async def test_without_a_leader_it_was_not_applied(pair):
    pair.follower.leader = None
    future = pair.follower.append(timeout_ms=100)
    await pair.follower.turn()
    await pair.wait(100)
    with pytest.raises(NoLeader) as caught:
        await future
    assert caught.value.outcome == "not-applied"


@pytest.mark.parametrize("outcome", ["late", "failed"])
async def test_who_waits_for_an_entry_that_cannot_be_decided_here_is_told(pair, outcome):
    """It left what was passed on when the entry came, and is in no batch of this node."""
    future = pair.follower.append(expected=NO_STREAM, timeout_ms=100)
    await pair.follower.turn()
    await pair.carry()
    pair.follower.index += 1
    pair.follower.sequencer.take([Entry(pair.follower.index, 1, int(Kind.NORMAL), pair.leader.payload)])
    await pair.follower.turn()
    if outcome == "failed":
        pair.follower.fetches[0][1](OSError("no disk"))
    else:
        await pair.wait(100)
    with pytest.raises(Timeout) as caught:
        await future
    assert caught.value.outcome == "unknown"


async def test_what_is_sent_again_goes_in_parts_that_fit_a_frame(pair):
    futures = [pair.follower.append(f"s{n}", size=700 * 1024) for n in range(5)]
    await pair.follower.turn()
    assert len(pair.wire) == 5, "one does not wait for the other's answer"
    pair.wire.clear()
    await pair.wait(forwarding.RESEND_MS)
    assert len(pair.wire) == 5
    await pair.carry()
    while pair.leader.done is not None:
        await pair.commit()
        await pair.leader.turn()
    assert [future.done() for future in futures] == [True] * 5


async def test_what_waits_for_the_leader_is_bounded_in_bytes_and_what_comes_then_waits_here(
    pair, monkeypatch
):
    monkeypatch.setattr(forwarding, "WAITING_BYTES", 1_000)
    first, second = pair.follower.append(size=1_000), None
    await pair.follower.turn()
    second = pair.follower.append("t", size=10)
    await pair.follower.turn()
    assert len(pair.wire) == 1
    await pair.carry()
    await pair.commit()
    assert (await first).results[0].version == 0
    await pair.follower.turn()
    await pair.carry()
    await pair.commit()
    assert (await second).results[0].version == 0


async def test_a_condition_about_a_store_that_the_leader_lacks_is_decided_and_its_neighbours_too(pair):
    pair.follower.sequencer.stores["gone"] = StoreMemory(StoreState())
    write = Write("s", ANY_VERSION, [])
    condition = Condition(Query((QueryItem(types=("e",)),)), after=0)
    command = Append("gone", [write], condition)
    lost = pair.follower.sequencer.submit(command, 10)
    kept = pair.follower.append()
    await pair.follower.turn()
    await pair.carry()
    proposed = [command.store for proposal, _ in pair.leader.proposed for command in proposal.commands]
    assert sorted(proposed) == ["gone", "main"]
    lost.cancel()
    kept.cancel()


async def test_a_refusal_of_the_leader_reaches_who_asked(pair, monkeypatch):
    future = pair.follower.append()
    await pair.follower.turn()

    def full(*_):
        raise TooBusy("too many wait")

    monkeypatch.setattr(pair.leader.sequencer._lanes, "put", full)
    await pair.carry()
    (refused,) = pair.refusals
    pair.follower.sequencer.hear_refusal(msgspec.structs.replace(refused, term=9))
    assert not future.done()  # of another term: it says nothing about this one
    pair.follower.sequencer.hear_refusal(refused)
    with pytest.raises(TooBusy, match="too many wait"):
        await future


async def test_what_a_deposed_leader_had_proposed_itself_goes_to_the_next(pair):
    own = pair.leader.append("own")
    await pair.leader.turn()
    pair.leader.role, pair.leader.serves, pair.leader.leader = "follower", False, None
    pair.leader.answer_fetch()
    pair.leader.sync(Superseded(2))
    await pair.leader.turn()
    assert not own.done()
    assert pair.leader.sequencer.waiting == 1


async def test_what_was_passed_on_to_a_deposed_leader_is_left_to_who_passed_it_on(pair):
    """Else it would be sent twice, by both."""
    pair.follower.append()
    await pair.follower.turn()
    await pair.carry()
    pair.leader.role, pair.leader.serves, pair.leader.leader = "follower", False, "follower"
    pair.leader.answer_fetch()
    pair.leader.sync(Superseded(2))
    await pair.leader.turn()
    assert pair.leader.sequencer.waiting == 0
    assert pair.leader.proposed[1:] == []


async def test_who_leads_again_in_a_later_term_leaves_what_was_passed_on_in_the_earlier(pair):
    pair.follower.append()
    await pair.follower.turn()
    await pair.carry()
    pair.leader.term = 3
    pair.leader.answer_fetch()
    pair.leader.sync(Superseded(2))
    await pair.leader.turn()
    assert pair.leader.proposed[1:] == []


def test_what_is_remembered_is_bounded_and_what_is_forgotten_is_not_taken_again(monkeypatch):
    monkeypatch.setattr(forwarding, "TAKEN_MAX", 3)
    taken = Taken()

    def fresh(*numbers, life=0):
        items = [(n, ("append", "main", []), 0, 1, 100) for n in numbers]
        monkeypatch.setattr(forwarding, "_items", _Items([forwarding.Item(*item) for item in items]))
        return [item.number for item in taken.fresh("a", Forward(1, life, b""))]

    assert fresh(1, 2, 3, 4, 5) == [1, 2, 3, 4, 5]
    assert fresh(1, 2, 3, 4, 5) == []
    assert fresh(6) == [6]
    assert fresh(1, life=7) == [1]  # a process that began anew, with numbers of its own
    assert fresh(1, life=7) == []
    monkeypatch.setattr(forwarding, "LIVES_MAX", 3)
    for life in range(100, 110):  # of one that is started again and again
        assert fresh(1, life=life) == [1]
        assert fresh(1, life=7) == []


class _Items:
    def __init__(self, items):
        self._found = items

    def decode(self, _):
        return self._found


@given(st.binary(max_size=200))
def test_what_is_no_command_is_refused(raw):
    try:
        items = Taken().fresh("a", Forward(1, 0, raw))
    except ValueError as error:
        assert "a passed on what is no command" in str(error)
    else:
        assert all(isinstance(item, forwarding.Item) for item in items)


async def test_closing_waits_for_what_was_passed_on(pair):
    future = pair.follower.append()
    await pair.follower.turn()
    closing = asyncio.create_task(pair.follower.sequencer.close())
    await pair.follower.turn()
    assert not closing.done()
    await pair.carry()
    await pair.commit()
    await closing
    assert (await future).results[0].version == 0
