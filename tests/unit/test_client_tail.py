"""Following a store over HTTP: resumed where it broke off, with no gap and nothing twice."""

from __future__ import annotations

import json
from contextlib import aclosing

import pytest
from scripted_board import Pauses, ScriptedBoard, answer, event_stream, hang_up, problem

from shoal.client import RemoteStore, RetryPolicy, connect
from shoal.errors import InvalidRequest, ShoalError, StreamTombstoned, Unauthorized, Unreachable
from shoal.testing.clock import FakeClock
from shoal.types import CaughtUp, Event, EventFilter, Query, QueryItem

CAUGHT_UP = b'event: caught-up\nid: 2\ndata: {"position":2}\n\n'
EVERYTHING = EventFilter()


def event(position: int, event_type: str = "e") -> bytes:
    fields = {"stream_id": "s", "version": 0, "position": position, "event_id": "x", "epoch_us": 1, "data": 1}
    return b"id: %d\ndata: %b\n\n" % (position, json.dumps(fields | {"event_type": event_type}).encode())


def client(*boards: ScriptedBoard, **options: object) -> tuple[RemoteStore, Pauses]:
    clock = FakeClock()
    pauses = Pauses(clock)
    given = {"clock": clock, "sleep": pauses, "random": lambda: 1.0} | options
    return connect(*(board.url for board in boards), **given), pauses


async def take(store: RemoteStore, count: int, *args: object, **options: object) -> list[int | str]:
    """The first `count` items: positions, and "caught up"."""
    found: list[int | str] = []
    async with aclosing(store.streams.tail(*args, **options)) as tail:
        async for item in tail:
            found.append("caught up" if isinstance(item, CaughtUp) else item.position)
            if len(found) == count:
                break
    return found


async def test_catch_up_then_live_in_order():
    async with ScriptedBoard(event_stream(event(1) + event(2), CAUGHT_UP, event(3), hang=True)) as board:
        store, _ = client(board)
        async with store:
            assert await take(store, 4, EVERYTHING, 0) == [1, 2, "caught up", 3]
        assert board.seen[0].path == "/v1/stores/main/events"
        assert board.seen[0].headers["Last-Event-ID"] == "0"
        assert board.seen[0].headers["Accept"] == "text/event-stream"


async def test_a_broken_stream_is_resumed_after_the_last_event_and_overlap_is_dropped():
    first = event_stream(event(1), CAUGHT_UP, event(3))
    again = event_stream(event(3) + event(4), CAUGHT_UP.replace(b"2", b"4"), event(5), hang=True)
    async with ScriptedBoard(first, hang_up, again) as board:
        store, pauses = client(board)
        async with store:
            assert await take(store, 5, EVERYTHING, 0) == [1, "caught up", 3, 4, 5]
        assert [seen.headers["Last-Event-ID"] for seen in board.seen] == ["0", "3", "3"]
    assert pauses.ms == [100, 200]


async def test_half_a_message_is_not_delivered():
    async with ScriptedBoard(event_stream(event(1)[:-1]), event_stream(event(1), hang=True)) as board:
        store, _ = client(board)
        async with store:
            assert await take(store, 1, EVERYTHING, 0) == [1]
        assert board.seen[1].headers["Last-Event-ID"] == "0"


async def test_caught_up_moves_the_place_to_resume():
    async with ScriptedBoard(event_stream(CAUGHT_UP), event_stream(event(3), hang=True)) as board:
        store, _ = client(board)
        async with store:
            assert await take(store, 2, EVERYTHING, 0) == ["caught up", 3]
        assert board.seen[1].headers["Last-Event-ID"] == "2"


async def test_silence_beyond_the_heartbeat_timeout_connects_anew():
    async with ScriptedBoard(event_stream(event(1), hang=True), event_stream(event(2), hang=True)) as board:
        store, _ = client(board, heartbeat_timeout_ms=30)
        async with store:
            assert await take(store, 2, EVERYTHING, 0) == [1, 2]
        assert board.seen[1].headers["Last-Event-ID"] == "1"


async def test_another_board_takes_over_at_once():
    async with (
        ScriptedBoard(event_stream(event(1))) as one,
        ScriptedBoard(event_stream(event(2), hang=True)) as two,
    ):
        store, pauses = client(one, two)
        async with store:
            assert await take(store, 2, EVERYTHING, 0) == [1, 2]
    assert pauses.ms == []


async def test_from_now_on_asks_for_the_head_first():
    page = answer({"events": [], "head": 7, "next": 7})
    async with ScriptedBoard(page, event_stream(event(8), hang=True)) as board:
        store, _ = client(board)
        async with store:
            assert await take(store, 1, EVERYTHING) == [8]
        assert board.seen[1].headers["Last-Event-ID"] == "7"


async def test_what_parameters_cannot_say_is_selected_by_the_client():
    events = event(1, "x,y") + event(2, "other") + event(3, "x,y")
    query = EventFilter(query=Query((QueryItem(("x,y",)),)))
    for selection in (query, EventFilter(types=("x,y",))):
        async with ScriptedBoard(event_stream(events, hang=True)) as board:
            store, _ = client(board)
            async with store:
                assert await take(store, 2, selection, 0) == [1, 3]
            assert not board.seen[0].query


async def test_one_stream_is_followed_by_its_own_path():
    async with ScriptedBoard(event_stream(event(1) + event(2, "x"), hang=True)) as board:
        store, _ = client(board)
        async with store:
            assert await take(store, 1, EventFilter(types=("x",)), 0, stream_id="a/b") == [2]
        assert board.seen[0].path == "/v1/stores/main/streams/a%2Fb"


async def test_data_is_decoded_when_looked_at():
    async with ScriptedBoard(event_stream(event(1), hang=True)) as board:
        store, _ = client(board)
        async with store, aclosing(store.streams.tail(EVERYTHING, 0)) as tail:
            first = await anext(tail)
    assert isinstance(first, Event)
    assert (first.data_raw, first.data) == (b"1", 1)


async def test_a_refusal_ends_the_tail_even_later():
    gone = problem(410, "stream-tombstoned", stream_id="s")
    async with ScriptedBoard(event_stream(event(1)), gone) as board:
        store, _ = client(board)
        async with store:
            with pytest.raises(StreamTombstoned):
                await take(store, 2, EVERYTHING, 0, stream_id="s")


async def test_a_refusal_at_the_beginning_is_raised():
    async with ScriptedBoard(problem(401, "unauthorized")) as board:
        store, _ = client(board)
        async with store:
            with pytest.raises(Unauthorized):
                await take(store, 1, EVERYTHING, 0)


async def test_a_board_that_was_never_there_is_given_up():
    async with ScriptedBoard(hang_up) as board:
        store, pauses = client(board, retry=RetryPolicy(attempts=3, base_ms=10))
        async with store:
            with pytest.raises(Unreachable):
                await take(store, 1, EVERYTHING, 0)
        assert len(board.seen) == 3
    assert pauses.ms == [10, 20]


async def test_a_board_that_is_lost_and_found_is_told_once_each():
    told: list[ShoalError | None] = []
    again = event_stream(event(2), hang=True)
    async with ScriptedBoard(event_stream(event(1)), hang_up, hang_up, again) as board:
        store, _ = client(board, on_tail=told.append)
        async with store:
            assert await take(store, 2, EVERYTHING, 0) == [1, 2]
    lost, found = told
    assert isinstance(lost, Unreachable)
    assert found is None


@pytest.mark.parametrize("stream_id", [None, "s"])
async def test_what_is_no_filter_is_refused_before_anything_is_sent(stream_id: str | None):
    store = connect("http://127.0.0.1:1")
    async with store:
        for ask in (
            store.streams.read_events,
            lambda given: anext(store.streams.tail(given, None, stream_id)),
        ):
            with pytest.raises(InvalidRequest, match="selection must be an EventFilter, not str") as caught:
                await ask("z")
            assert caught.value.pointer == "selection"
