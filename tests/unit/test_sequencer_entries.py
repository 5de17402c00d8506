"""The sequencer's entries: together to the writer while more come, and one bad command spoils no others."""

from __future__ import annotations

import msgspec
import pytest
from sequencer_board import Board

from shoal.errors import InternalError, Timeout
from shoal.model.commands import Append, SaveSnapshot, Write
from shoal.raft.log import Configuration, Kind
from shoal.raft.messages import Entry
from shoal.store import deciding, memory, sequencer
from shoal.types import ANY_VERSION


@pytest.fixture
async def board():
    return Board()


async def busily(board, entries):
    """Have entries decided one after the other, always with a next one waiting."""
    board.append()
    await board.through()
    board.hand_overs.clear()
    board.append()
    for _ in range(entries):
        await board.turn()
        board.append()
        board.sync()


async def test_small_entries_go_to_the_writer_together_while_more_come(board, monkeypatch):
    monkeypatch.setattr(deciding, "HELD_COMMANDS", 3)
    await busily(board, 7)
    assert board.hand_overs == [3, 3]
    board.sequencer.hand_over()
    assert board.hand_overs == [3, 3, 1]
    assert [entry.index for entry in board.applied] == list(range(1, 9))


async def test_large_entries_go_to_the_writer_at_once(board, monkeypatch):
    monkeypatch.setattr(deciding, "HELD_BYTES", 1)
    await busily(board, 4)
    assert board.hand_overs == [1, 1, 1]


async def test_a_command_that_cannot_be_encoded_is_told_so_and_the_others_go_on(board, caplog):
    good = board.append("good")
    bad = board.sequencer.submit(SaveSnapshot("main", "s", 0, object()), 1)
    await board.through()
    assert isinstance(bad.exception(), InternalError)
    assert bad.exception().outcome == "not-applied"
    assert good.result().position == 1
    bad = board.sequencer.submit(SaveSnapshot("main", "s", 0, object()), 1)  # and when it comes alone
    await board.through()
    assert isinstance(bad.exception(), InternalError)
    assert board.append().done() is False
    await board.through()
    assert board.failures == []
    assert "cannot be stored" in caplog.text


async def test_a_command_whose_read_set_cannot_be_named_is_told_so_and_the_others_go_on(board):
    good = board.append("good")
    bad = board.sequencer.submit(Append("main", [Write(["s"], ANY_VERSION, [])]), 1)
    await board.through()
    assert isinstance(bad.exception(), InternalError)
    assert bad.exception().outcome == "not-applied"
    assert good.result().position == 1
    assert board.failures == []


async def test_an_entry_that_cannot_be_encoded_though_its_commands_can_ends_the_node(board, monkeypatch):
    def encode(proposal):
        if proposal.clock_us:
            raise OverflowError
        return b""

    monkeypatch.setattr(sequencer, "encode", encode)
    future = board.append()
    await board.turn()
    assert isinstance(future.exception(), Timeout)
    assert len(board.failures) == 1


async def test_what_has_no_commands_and_was_proposed_beside_is_decided_in_its_place(board):
    done = board.append()
    await board.turn()
    board.sequencer.take([Entry(1, 1, int(Kind.CONFIGURATION), b"")])
    board.index = 1
    await board.through()
    assert done.result().position == 1
    board.sequencer.hand_over()
    assert [entry.index for entry in board.applied] == [1, 2]
    assert board.sequencer.applied_index == 2


async def test_what_an_entry_was_not_fetched_for_stays_in_memory_until_it_is_decided(board, monkeypatch):
    """A change of members that comes committed before it is no moment to forget heads that it needs."""
    monkeypatch.setattr(memory, "HEADS_CACHED", 10)
    for number in range(12):
        board.append(f"s{number}")
    await board.through()
    board.sequencer.hand_over()
    board.sequencer.committed(board.index, {"main": board.memory.state.position})
    future = board.append("s1")
    await board.turn()
    assert not board.fetches
    board.index += 1
    members = msgspec.msgpack.encode(Configuration())
    board.sequencer.take([Entry(board.index, 1, int(Kind.CONFIGURATION), members)])
    board.sync()
    await board.turn()
    assert (await future).results[0].version == 1
    assert board.failures == []
