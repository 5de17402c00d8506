"""Calls over HTTP: what is sent, what is tried again, and what a caller learns when nothing helps."""

from __future__ import annotations

import asyncio
import json
import socket

import aiohttp
import cbor2
import pytest
from client_kit import Clients
from peer_kit import until
from scripted_board import ScriptedBoard, Step, answer, hang_up, problem, say_nothing

from shoal.client import RetryPolicy, connect
from shoal.errors import (
    ConfigError,
    InternalError,
    InvalidRequest,
    NotFound,
    OutcomeUnknown,
    ShoalError,
    ShuttingDown,
    Timeout,
    TooBusy,
    Unreachable,
    WrongExpectedVersion,
)
from shoal.types import ANY_VERSION, Condition, EventFilter, NewEvent, Query, QueryItem, StreamWrite

STORED = answer({"stream_id": "s", "first_version": 0, "version": 0, "position": 1, "duplicate": False}, 201)
DUPLICATE = answer({"stream_id": "s", "first_version": 0, "version": 0, "position": 1, "duplicate": True})
EMPTY_PAGE = answer({"events": [], "head": 0, "next": 0})
CONFLICT = problem(409, "wrong-expected-version", stream_id="s", expected_version=3, actual_version=4)
EVENT = NewEvent("happened", {"n": 1})


@pytest.fixture
async def clients():
    made = Clients()
    yield made
    await made.close()


@pytest.fixture
def dead_url() -> str:
    """Where nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


# -- what is sent ------------------------------------------------------------------------------------


async def test_an_append_carries_ids_made_by_the_client(clients):
    async with ScriptedBoard(STORED) as board:
        version = await clients.connect(board, token="t-1").streams.append("a/b c?%#é", 3, [EVENT, EVENT])
        sent = json.loads(board.seen[0].body)
    assert (version, version.position, version.duplicate) == (0, 1, False)
    assert board.seen[0].path == "/v1/stores/main/streams/a%2Fb%20c%3F%25%23%C3%A9"
    assert board.seen[0].headers["Authorization"] == "Bearer t-1"
    assert sent["expected_version"] == 3
    first, second = (event.pop("event_id") for event in sent["events"])
    assert first < second
    assert first[14] == "7"
    assert sent["events"] == [{"event_type": "happened", "data": {"n": 1}}] * 2


async def test_bytes_go_as_base64_and_binary_metadata_makes_the_body_cbor(clients):
    async with ScriptedBoard(STORED) as board:
        store = clients.connect(board)
        await store.streams.append(
            "s", ANY_VERSION, [NewEvent("e", b"\0\xff", data_content_type="image/png")]
        )
        await store.streams.append(
            "s", ANY_VERSION, [NewEvent("e", b"\0", {"raw": b"\1"}, ["t"], "id-1"), EVENT]
        )
        plain, binary = board.seen
    (event,) = json.loads(plain.body)["events"]
    assert (event["data_base64"], event["data_content_type"]) == ("AP8=", "image/png")
    assert binary.headers["Content-Type"] == "application/cbor"
    first, second = cbor2.loads(binary.body)["events"]
    assert first == {
        "event_type": "e",
        "data": b"\0",
        "data_content_type": "application/octet-stream",
        "metadata": {"raw": b"\1"},
        "tags": ["t"],
        "event_id": "id-1",
    }
    assert second["data"] == {"n": 1}


async def test_several_streams_and_a_condition(clients):
    parts = [
        {"stream_id": "a", "first_version": 0, "version": 1},
        {"stream_id": "b", "first_version": 5, "version": 5},
    ]
    done = answer({"position": 9, "results": parts})
    async with ScriptedBoard(done) as board:
        result = await clients.connect(board).streams.append_many(
            [StreamWrite("a", -1, [EVENT, EVENT]), StreamWrite("b", -2, [EVENT])],
            Condition(Query((QueryItem(("x",), ("t",)),)), 4),
        )
        sent = json.loads(board.seen[0].body)
    assert [(part.stream_id, part.version, part.position) for part in result.results] == [
        ("a", 1, 8),
        ("b", 5, 9),
    ]
    assert sent["condition"] == {"query": {"items": [{"types": ["x"], "tags": ["t"]}]}, "after": 4}


@pytest.mark.parametrize(
    "event",
    [
        NewEvent("", {}),
        NewEvent("e", float("nan")),
        NewEvent("e", {1: 2}),
        NewEvent("e", object()),
        "not an event",
    ],
)
async def test_what_cannot_be_stored_is_refused_before_anything_is_sent(clients, event):
    async with ScriptedBoard(STORED) as board:
        with pytest.raises(InvalidRequest) as caught:
            await clients.connect(board).streams.append("s", -2, [EVENT, event])
        assert caught.value.pointer.startswith("/events/1")
        assert board.seen == []


@pytest.mark.parametrize("stream_id", ["", ".", "..", "a\0b", "\ud800", 7])
async def test_ids_that_a_url_cannot_carry_are_refused(clients, stream_id, dead_url):
    streams = clients.connect(dead_url).streams
    calls = (streams.append(stream_id, -2, []), streams.read(stream_id), streams.get_version(stream_id))
    for call in (*calls, streams.delete(stream_id)):
        with pytest.raises(InvalidRequest):
            await call


async def test_a_type_with_a_comma_goes_as_a_query(clients):
    async with ScriptedBoard(EMPTY_PAGE) as board:
        streams = clients.connect(board).streams
        await streams.read_by_event_types(["a", "b"], 5, 2)
        await streams.read_by_event_types(["a,b"], 5, 2)
        await streams.read_by_tags(["x,y", "z"], "any")
        listed, typed, tagged = board.seen
    assert dict(listed.query) == {"types": "a,b", "limit": "5", "after": "2", "direction": "forward"}
    assert json.loads(typed.body) == {"items": [{"types": ["a,b"], "tags": []}], "limit": 5, "after": 2}
    assert json.loads(tagged.body)["items"] == [{"types": [], "tags": ["x,y"]}, {"types": [], "tags": ["z"]}]


# -- what is tried again -----------------------------------------------------------------------------


async def test_an_append_whose_answer_was_lost_is_sent_again_unchanged(clients):
    async with ScriptedBoard(hang_up, DUPLICATE) as board:
        version = await clients.connect(board).streams.append("s", -1, [EVENT])
        first, second = board.seen
    assert version == 0
    assert version.duplicate
    assert first.body == second.body


@pytest.mark.parametrize("code", ["too-busy", "disk-full", "no-leader", "shutting-down"])
async def test_a_board_that_cannot_now_is_asked_again_with_growing_pauses(clients, code):
    async with ScriptedBoard(problem(503, code), problem(503, code), STORED) as board:
        await clients.connect(board).streams.append("s", -1, [EVENT])
        assert len(board.seen) == 3
    assert clients.pauses.ms == [100, 200]


async def test_a_busy_board_says_how_long_to_wait(clients):
    busy = answer({"code": "too-busy", "detail": "d", "outcome": "not-applied"}, 429, Retry_After="2")
    async with ScriptedBoard(busy, STORED) as board:
        await clients.connect(board).streams.append("s", -1, [EVENT])
    assert clients.pauses.ms == [2_000]


@pytest.mark.parametrize(
    ("step", "error"),
    [
        (CONFLICT, WrongExpectedVersion),
        (problem(404, "not-found"), NotFound),
        (problem(400, "invalid-request", pointer="/x"), InvalidRequest),
        (problem(500, "internal-error", outcome="unknown"), InternalError),
    ],
)
async def test_what_another_try_cannot_mend_is_raised_at_once(clients, step: Step, error: type[ShoalError]):
    async with ScriptedBoard(step) as board:
        with pytest.raises(error):
            await clients.connect(board).streams.append("s", 3, [EVENT])
        assert len(board.seen) == 1
    assert clients.pauses.ms == []


async def test_a_conflict_comes_with_its_facts(clients):
    async with ScriptedBoard(CONFLICT) as board:
        with pytest.raises(WrongExpectedVersion) as caught:
            await clients.connect(board).streams.append("s", 3, [EVENT])
    assert (caught.value.stream_id, caught.value.expected, caught.value.actual) == ("s", 3, 4)
    assert caught.value.outcome == "not-applied"


async def test_tries_end_and_the_outcome_tells_of_all_of_them(clients):
    async with ScriptedBoard(hang_up, problem(429, "too-busy")) as board:
        store = clients.connect(board, retry=RetryPolicy(attempts=3, base_ms=10))
        with pytest.raises(OutcomeUnknown, match="too-busy") as caught:
            await store.streams.append("s", -1, [EVENT])
        assert len(board.seen) == 3
        sent = json.loads(board.seen[0].body)["events"]
    assert caught.value.facts["event_ids"] == [event["event_id"] for event in sent]
    assert isinstance(caught.value.__cause__, TooBusy)
    assert caught.value.outcome == "unknown"


async def test_time_ends_too(clients):
    async with ScriptedBoard(problem(503, "no-leader")) as board:
        store = clients.connect(board, timeout_ms=1_000, retry=RetryPolicy(attempts=100, base_ms=400))
        with pytest.raises(ShoalError, match="no-leader"):
            await store.streams.append("s", -1, [EVENT])
    assert clients.pauses.ms == [400]


@pytest.mark.parametrize("call", ["delete", "save", "delete_at"])
async def test_a_write_without_ids_is_not_repeated_when_its_answer_is_lost(clients, call):
    async with ScriptedBoard(hang_up) as board:
        store = clients.connect(board)
        with pytest.raises(OutcomeUnknown) as caught:
            match call:
                case "delete":
                    await store.streams.delete("s")
                case "save":
                    await store.snapshots.save("s", 1, {})
                case _:
                    await store.snapshots.delete_at("s", 1)
        assert len(board.seen) == 1
    assert caught.value.outcome == "unknown"


async def test_a_write_without_ids_is_repeated_when_it_was_not_applied(clients):
    async with ScriptedBoard(problem(429, "too-busy"), answer(None, 204)) as board:
        await clients.connect(board).streams.delete("s")
        assert len(board.seen) == 2


async def test_a_tombstone_may_be_set_twice(clients):
    async with ScriptedBoard(hang_up, answer(None, 204)) as board:
        await clients.connect(board).streams.delete("s", hard=True)
        assert dict(board.seen[1].query) == {"hard": "true"}


async def test_silence_is_an_unknown_outcome(clients):
    async with ScriptedBoard(say_nothing) as board:
        with pytest.raises(OutcomeUnknown) as caught:
            await clients.connect(board, timeout_ms=30, retry=RetryPolicy(attempts=1)).streams.append(
                "s", -1, [EVENT]
            )
    assert caught.value.outcome == "unknown"
    assert isinstance(caught.value, Timeout)


async def test_where_nothing_listens_nothing_was_applied(clients, dead_url):
    with pytest.raises(Unreachable, match="is shoald running there") as caught:
        await clients.connect(dead_url, retry=RetryPolicy(attempts=2)).streams.append("s", -1, [EVENT])
    assert caught.value.outcome == "not-applied"
    assert clients.pauses.ms == [100]


async def test_an_answer_that_makes_no_sense_is_an_error(clients):
    async with ScriptedBoard(answer({"hello": "world"})) as board:
        with pytest.raises(InternalError, match="not understood"):
            await clients.connect(board).streams.append("s", -1, [EVENT])


# -- several boards ----------------------------------------------------------------------------------


async def test_boards_take_turns_and_a_dead_one_is_left_out(clients, dead_url):
    async with ScriptedBoard(EMPTY_PAGE) as one, ScriptedBoard(EMPTY_PAGE) as two:
        store = clients.connect(one, dead_url, two)
        for _ in range(6):
            await store.streams.read_all()
        assert len(one.seen) + len(two.seen) == 6
        assert min(len(one.seen), len(two.seen)) >= 2
    assert clients.pauses.ms == []


async def test_a_hanging_board_gets_its_share_of_the_time_only(clients):
    async with ScriptedBoard(say_nothing) as stuck, ScriptedBoard(DUPLICATE) as sound:
        version = await clients.connect(stuck, sound, timeout_ms=2_000).streams.append("s", -1, [EVENT])
        assert version.duplicate
        assert stuck.seen[0].body == sound.seen[0].body


async def test_reads_wait_for_what_was_seen_only_where_a_board_may_lag(clients):
    async with ScriptedBoard(STORED, EMPTY_PAGE) as one, ScriptedBoard(EMPTY_PAGE) as two:
        several = clients.connect(one, two)
        await several.streams.append("s", -1, [EVENT])
        await several.streams.read_all()
        assert two.seen[0].query["wait_for"] == "1"
        alone = clients.connect(one)
        await alone.streams.read_all(after=0)
        await alone.streams.read_all(after=0)
        assert not any("wait_for" in seen.query for seen in one.seen)


# -- asking for versions -----------------------------------------------------------------------------


async def test_a_missing_store_is_not_taken_for_a_missing_stream(clients):
    async with ScriptedBoard(problem(404, "not-found")) as board:
        store = clients.connect(board)
        for call in (store.streams.get_version("s"), store.streams.exists("s"), store.snapshots.exists("s")):
            with pytest.raises(NotFound):
                await call


async def test_the_version_of_a_missing_stream_is_minus_one(clients):
    async with ScriptedBoard(problem(404, "stream-not-found", stream_id="s")) as board:
        assert await clients.connect(board).streams.get_version("s") == -1
        assert not await clients.connect(board).streams.exists("s")


async def test_the_version_comes_as_etag(clients):
    async with ScriptedBoard(answer(None, ETag='"41"')) as board:
        assert await clients.connect(board).streams.get_version("s") == 41
        assert [seen.method for seen in board.seen] == ["HEAD"]


# -- making and closing ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url", ["", "board-1:4589", "ftp://board", "http://", "http://b:99999", "http://u:p@b", "http://b/?x=1"]
)
def test_a_bad_url_is_refused_at_once(url):
    with pytest.raises(ConfigError, match="urls"):
        connect(url)


def test_at_least_one_url_is_needed():
    with pytest.raises(ConfigError, match="urls"):
        connect()


async def test_a_closed_store_says_so(clients, dead_url):
    store = clients.connect(dead_url)
    await store.close()
    await store.close()
    with pytest.raises(ShuttingDown):
        await store.streams.read_all()
    assert clients.pauses.ms == []


async def test_closing_ends_the_calls_under_way(clients):
    async with ScriptedBoard(say_nothing) as board:
        store = clients.connect(board)
        calls = [
            asyncio.create_task(store.streams.read_all()),
            asyncio.create_task(store.streams.append("s", -2, [EVENT])),
        ]
        await until(lambda: len(board.seen) == 2)
        await store.close()
        read, appended = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(read, ShoalError)
    assert isinstance(appended, OutcomeUnknown)
    assert clients.pauses.ms == []


async def test_a_call_takes_no_longer_than_it_may(clients, monkeypatch):
    """The library rounds five seconds and more up to whole ones, unless it is told not to."""
    given = []
    request = aiohttp.ClientSession.request

    def note(self, *arguments, **options):
        given.append(options["timeout"])
        return request(self, *arguments, **options)

    monkeypatch.setattr(aiohttp.ClientSession, "request", note)
    async with ScriptedBoard(EMPTY_PAGE) as board:
        await clients.connect(board, timeout_ms=6_500).streams.read_all()
    for timeout in given:
        assert timeout.ceil_threshold > timeout.total


async def test_connections_are_used_again(clients):
    ports = set()

    async def note(request):
        ports.add(request.transport.get_extra_info("peername"))
        return await EMPTY_PAGE(request)

    async with ScriptedBoard(note) as board:
        store = clients.connect(board)
        await store.streams.read_events(EventFilter())
        await store._transport.members.settled()
        ports.clear()
        for _ in range(5):
            await store.streams.read_events(EventFilter())
    assert len(ports) <= 2  # the calls' own, and that of the question for members
