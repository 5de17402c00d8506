"""Members compare what they have made of the log: a leader's entries carry the digest of its state now and then."""

from __future__ import annotations

import msgspec
import pytest
from sequencer_board import Board

from shoal.errors import StateDiverged
from shoal.model.commands import Proposal, StateDigest, decode, encode
from shoal.model.machine import StoreState
from shoal.raft.messages import CONFIGURATION, NORMAL, Entry
from shoal.store import proposing, state_digest
from shoal.store.memory import StoreMemory
from shoal.store.state_digest import check, digest_of


@pytest.fixture
async def board(monkeypatch: pytest.MonkeyPatch) -> Board:
    monkeypatch.setattr(proposing, "DIGEST_ENTRIES", 5)
    return Board()


async def digests(board: Board, entries: int) -> list[StateDigest | None]:
    for _ in range(entries):
        board.append()
        await board.through()
    return [proposal.digest for proposal, _ in board.proposed]


async def follower(board: Board, **state: int) -> Board:
    """Another member, which gets what `board` has proposed, from a state of its own."""
    other = Board("other")
    other.serves, other.role = False, "follower"
    other.sequencer.stores["main"].state = StoreState(**state)
    for index, (proposal, _) in enumerate(board.proposed, 1):
        other.sequencer.take([Entry(index, 1, NORMAL, encode(proposal))])
        for _ in range(3):
            await other.turn()
            while other.fetches:
                other.answer_fetch()
    return other


async def test_every_so_many_entries_one_carries_the_digest_of_the_state_before(board: Board) -> None:
    found = await digests(board, 14)
    assert [index for index, digest in enumerate(found, 1) if digest is not None] == [5, 10]
    assert [digest.index for digest in found if digest is not None] == [4, 9]


async def test_a_member_with_the_same_state_goes_on(board: Board) -> None:
    await digests(board, 12)
    other = await follower(board)
    assert other.failures == []
    assert other.sequencer.applied_index == 12


async def test_a_member_that_differs_ends_before_it_answers_with_it(board: Board) -> None:
    await digests(board, 6)
    other = await follower(board, position=7)
    assert [type(error) for error in other.failures] == [StateDiverged]
    assert other.sequencer.applied_index == 4
    said = str(other.failures[0])
    assert "after entry 4" in said
    assert "main at position 11" in said
    assert "copied anew" in said


async def test_a_digest_of_another_entry_says_nothing(board: Board) -> None:
    """A change of members came between: nobody compares, and the next entry carries one."""
    await digests(board, 4)
    board.append()
    await board.turn()
    while board.fetches:
        board.answer_fetch()
    board.sequencer.take([Entry(5, 1, CONFIGURATION, b"")])
    board.index = 5
    board.sync()
    await board.turn()
    assert board.sequencer.applied_index == 6
    assert [entry.index for entry in board.applied] == [1, 2, 3, 4, 5, 6], "each in its place"
    found = await digests(board, 1)
    assert [digest and digest.index for digest in found] == [None] * 4 + [4, 6]
    assert board.failures == []


async def test_what_is_the_same_has_the_same_digest_and_what_is_not_has_not() -> None:
    one = {"a": StoreMemory(StoreState(1, 2)), "b": StoreMemory(StoreState())}
    again = {"b": StoreMemory(StoreState()), "a": StoreMemory(StoreState(1, 2))}
    assert digest_of(one) == digest_of(again)
    others = [
        {"a": StoreMemory(StoreState(1, 3)), "b": StoreMemory(StoreState())},
        {"a": StoreMemory(StoreState(2, 2)), "b": StoreMemory(StoreState())},
        {"a": StoreMemory(StoreState(1, 2)), "c": StoreMemory(StoreState())},
        {"a": StoreMemory(StoreState(1, 2))},
    ]
    assert len({digest_of(one), *map(digest_of, others)}) == 5


def test_an_entry_of_an_older_release_has_none() -> None:
    old = b"\x01" + msgspec.msgpack.encode([1, 2, [], []])
    assert decode(old) == Proposal(1, 2, [])


async def test_who_proposes_a_digest_does_not_work_it_out_again(
    board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    worked = []
    for module in (proposing, state_digest):
        monkeypatch.setattr(module, "digest_of", lambda stores: worked.append(1) or digest_of(stores))
    found = await digests(board, 14)
    assert len(worked) == sum(digest is not None for digest in found) == 2


async def test_digests_of_another_form_are_not_compared(board: Board) -> None:
    """A release that digests something else runs beside this one while boards are updated."""
    check(StateDigest(0, 1, form=99), board.sequencer.stores)
    with pytest.raises(StateDiverged):
        check(StateDigest(0, 1), board.sequencer.stores)
