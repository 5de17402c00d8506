"""A client of three boards: the leader changes, stands still or keeps its answer to itself, and nothing is done twice.

Another board is asked after `attempt_ms` of real time, a fifth of a second here; all else is by hand.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from client_kit import Clients
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from scripted_board import (
    ScriptedBoard,
    Step,
    answer,
    event_stream,
    hang_up,
    problem,
    say_nothing,
)

from shoal.client import RetryPolicy
from shoal.errors import (
    NoLeader,
    OutcomeUnknown,
    ShoalError,
    StreamTombstoned,
    TooBusy,
    Unreachable,
    WrongExpectedVersion,
)
from shoal.types import ANY_VERSION, NO_STREAM, CaughtUp, EventFilter, NewEvent

DONE = {"stream_id": "s", "first_version": 0, "version": 0, "position": 1, "duplicate": False}
STORED, DUPLICATE = answer(DONE, 201), answer(DONE | {"duplicate": True})
PAGE = {"events": [], "head": 0, "next": 0}
EVENT = NewEvent("happened", {"n": 1})
SOON_MS = 200
"""How long a board may say nothing before another one is asked."""
DELIVERED = {
    "stream_id": "s",
    "version": 3,
    "position": 9,
    "event_id": "id-1",
    "event_type": "e",
    "data": {"n": 1},
    "epoch_us": 7,
    "lease": "l-1",
    "attempt": 1,
}
SUBSCRIPTION = {
    "name": "sub",
    "type": "all",
    "selector": None,
    "start_from": 0,
    "checkpoint": 0,
    "created": "2027-01-01T00:00:00Z",
    "ack_timeout_ms": 30_000,
    "max_in_flight": 10,
    "max_retries": 3,
    "backoff_ms": [1],
    "strategy": "single",
    "ordered": False,
    "ack_durability": "durable",
    "checkpoint_interval_ms": 7,
    "consumer_timeout_ms": 30_000,
    "pool_size": 1,
    "retention_hold_max_ms": 9,
}


def by(node_id: str, role: str, document: Any, status: int = 200) -> Step:
    """An answer of a node, as its headers say."""
    return answer(document, status, Shoal_Node=node_id, Shoal_Role=role)


def no_leader(leader: str | None = None) -> Step:
    return problem(503, "no-leader", leader=leader)


@pytest.fixture
async def clients():
    made = Clients()
    yield made
    await made.close()


# -- the leader --------------------------------------------------------------------------------------


async def test_writes_and_reads_of_the_leader_go_to_it_other_reads_take_turns(clients):
    follower, leader = by("A", "follower", PAGE), by("B", "leader", PAGE)
    async with ScriptedBoard(follower) as one, ScriptedBoard(leader) as two:
        streams = clients.connect(one, two).streams
        await streams.read_all()
        await streams.read_all()
        for consistency in ("leader", "linearizable"):
            for _ in range(2):
                await streams.read_all(consistency=consistency)
        assert (len(one.seen), len(two.seen)) == (1, 5)
        two.script = [by("B", "leader", DONE, 201)]
        for _ in range(2):
            await streams.append("s", ANY_VERSION, [EVENT])
        assert (len(one.seen), len(two.seen)) == (1, 7)
        two.script = [leader]
        for _ in range(4):
            await streams.read_all(consistency="local")
        assert (len(one.seen), len(two.seen)) == (3, 9)


@pytest.mark.parametrize("consistency", ["local", "leader", "linearizable", None])
@pytest.mark.parametrize(
    ("call", "document"),
    [
        (lambda store, c: store.streams.read_all(consistency=c), PAGE),
        (lambda store, c: store.streams.read_by_event_types(["a,b"], consistency=c), PAGE),
        (lambda store, c: store.streams.read("s", consistency=c), {**PAGE, "stream_id": "s", "version": 0}),
        (lambda store, c: store.streams.get_version("s", consistency=c), None),
        (lambda store, c: store.streams.list_streams(consistency=c), {"streams": [], "next": None}),
        (lambda store, c: store.snapshots.list("s", consistency=c), {"snapshots": []}),
        (lambda store, c: store.aggregate("s", consistency=c), {"version": 0, "state": {}}),
    ],
)
async def test_a_board_is_told_how_new_its_answer_must_be(clients, call, document, consistency):
    async with ScriptedBoard(answer(document, ETag='"0"')) as board:
        await call(clients.connect(board), consistency)
        assert board.seen[0].query.get("consistency") == consistency


@pytest.mark.parametrize("dead_first", [False, True])
async def test_what_a_living_board_says_is_told_rather_than_that_others_are_gone(clients, dead_first):
    async with ScriptedBoard(no_leader()) as alive:
        async with ScriptedBoard() as gone:
            dead = gone.url
        store = clients.connect(*([dead, alive] if dead_first else [alive, dead]), timeout_ms=3_000)
        with pytest.raises(NoLeader) as caught:
            await store.streams.append("s", ANY_VERSION, [EVENT])
        assert caught.value.outcome == "not-applied"


async def test_a_leader_that_changes_in_midst_of_a_call_is_followed(clients):
    async with (
        ScriptedBoard(by("A", "leader", PAGE), no_leader("C")) as one,
        ScriptedBoard(by("B", "follower", PAGE)) as two,
        ScriptedBoard(by("C", "follower", PAGE), STORED) as three,
    ):
        streams = clients.connect(one, two, three).streams
        for _ in range(3):
            await streams.read_all()
        await streams.append("s", NO_STREAM, [EVENT])
        assert [len(board.seen) for board in (one, two, three)] == [2, 1, 2]
        assert one.seen[1].body == three.seen[1].body
    assert clients.pauses.ms == []


async def test_a_read_that_finds_no_leader_follows_as_well(clients):
    async with (
        ScriptedBoard(by("A", "leader", PAGE), no_leader("C")) as one,
        ScriptedBoard(by("B", "follower", PAGE)) as two,
        ScriptedBoard(by("C", "follower", PAGE)) as three,
    ):
        streams = clients.connect(one, two, three).streams
        for _ in range(4):
            await streams.read_all()
        assert [len(board.seen) for board in (one, two, three)] == [2, 1, 2]


async def test_an_election_is_waited_for_with_short_pauses_until_time_is_up(clients):
    elections = [no_leader()] * 8
    async with ScriptedBoard(*elections, STORED) as one, ScriptedBoard(*elections, STORED) as two:
        store = clients.connect(one, two, timeout_ms=60_000, retry=RetryPolicy(attempts=2))
        await store.streams.append("s", NO_STREAM, [EVENT])
    assert len(clients.pauses.ms) > 10
    assert max(clients.pauses.ms) == 200
    async with ScriptedBoard(no_leader()) as one, ScriptedBoard(no_leader()) as two:
        began_ms = clients.clock.monotonic_ms()
        with pytest.raises(NoLeader) as caught:
            await clients.connect(one, two, timeout_ms=3_000).streams.append("s", NO_STREAM, [EVENT])
        assert caught.value.outcome == "not-applied"
        assert 2_500 < clients.clock.monotonic_ms() - began_ms <= 3_000


async def test_a_board_without_a_leader_may_say_how_long_to_wait(clients):
    waiting = answer({"code": "no-leader", "detail": "d", "outcome": "not-applied"}, 503, Retry_After="1")
    async with ScriptedBoard(waiting, STORED) as board:
        await clients.connect(board).streams.append("s", NO_STREAM, [EVENT])
    assert clients.pauses.ms == [1_000]


# -- boards that stand still -------------------------------------------------------------------------


async def test_a_paused_leader_holds_a_write_up_for_one_moment_only(clients):
    async with ScriptedBoard(say_nothing) as paused, ScriptedBoard(DUPLICATE) as sound:
        store = clients.connect(paused, sound, attempt_ms=SOON_MS, timeout_ms=600_000)
        async with asyncio.timeout(5):
            assert (await store.streams.append("s", NO_STREAM, [EVENT])).duplicate
            assert paused.seen[0].body == sound.seen[0].body
            for _ in range(3):  # later calls leave it alone
                await store.streams.append("s", ANY_VERSION, [EVENT])
        assert (len(paused.seen), len(sound.seen)) == (1, 4)


async def test_a_paused_board_holds_a_read_up_for_one_moment_only(clients):
    async with ScriptedBoard(say_nothing) as paused, ScriptedBoard(answer(PAGE)) as sound:
        store = clients.connect(paused, sound, attempt_ms=SOON_MS, timeout_ms=600_000)
        async with asyncio.timeout(5):
            assert await store.streams.read_all() == []
        assert (len(paused.seen), len(sound.seen)) == (1, 1)


async def test_the_first_answer_counts_whoever_gives_it(clients):
    asked_another = asyncio.Event()

    async def late(request):
        await asked_another.wait()
        return await STORED(request)

    async def busy(request):
        asked_another.set()
        return await problem(429, "too-busy")(request)

    async with ScriptedBoard(late) as slow, ScriptedBoard(busy) as other:
        store = clients.connect(slow, other, attempt_ms=SOON_MS, timeout_ms=600_000)
        async with asyncio.timeout(5):
            assert not (await store.streams.append("s", NO_STREAM, [EVENT])).duplicate
        assert len(slow.seen) == 1


async def test_what_must_not_run_twice_waits_for_its_board_and_for_no_other(clients):
    async with ScriptedBoard(say_nothing) as paused, ScriptedBoard(answer(None, 204)) as sound:
        store = clients.connect(paused, sound, attempt_ms=5, timeout_ms=60)
        with pytest.raises(OutcomeUnknown, match="did not answer within 30 ms"):
            await store.streams.delete("s")
        assert (len(paused.seen), len(sound.seen)) == (1, 0)


async def test_a_call_that_is_cancelled_leaves_nothing_behind(clients):
    reached = asyncio.Event()

    async def hang(request):
        reached.set()
        return await say_nothing(request)

    async with ScriptedBoard(hang) as one, ScriptedBoard(hang) as two:
        store = clients.connect(one, two, attempt_ms=5)
        before = asyncio.all_tasks()
        call = asyncio.create_task(store.streams.append("s", NO_STREAM, [EVENT]))
        await reached.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        left = {task for task in asyncio.all_tasks() - before if "send" in repr(task.get_coro())}
        assert left == set()


# -- what is not known -------------------------------------------------------------------------------


async def test_every_try_on_every_board_carries_the_same_ids(clients):
    async with (
        ScriptedBoard(hang_up) as one,
        ScriptedBoard(say_nothing) as two,
        ScriptedBoard(DUPLICATE) as three,
    ):
        store = clients.connect(one, two, three, attempt_ms=SOON_MS, timeout_ms=600_000)
        async with asyncio.timeout(5):
            await store.streams.append("s", NO_STREAM, [EVENT, EVENT])
        bodies = {board.seen[0].body for board in (one, two, three)}
        assert len(bodies) == 1
        assert len({event["event_id"] for event in json.loads(bodies.pop())["events"]}) == 2


async def test_boards_that_all_keep_silent_leave_the_outcome_unknown_and_tell_the_ids(clients):
    async with ScriptedBoard(say_nothing) as one, ScriptedBoard(say_nothing) as two:
        store = clients.connect(one, two, attempt_ms=5, timeout_ms=60)
        with pytest.raises(OutcomeUnknown) as caught:
            await store.streams.append("s", NO_STREAM, [EVENT])
        sent = json.loads(one.seen[0].body)["events"]
        assert one.seen[0].body == two.seen[0].body
    assert caught.value.outcome == "unknown"
    assert caught.value.facts["event_ids"] == [event["event_id"] for event in sent]


@pytest.mark.parametrize("first", [hang_up, problem(503, "timeout", "unknown"), say_nothing])
@pytest.mark.parametrize(
    ("then", "error", "outcome"),
    [
        (problem(429, "too-busy"), OutcomeUnknown, "unknown"),
        (no_leader(), OutcomeUnknown, "unknown"),
        (problem(403, "forbidden"), ShoalError, "unknown"),
        # -1 may be met again, when somebody deletes the stream, and the first try still be on its way.
        (
            problem(409, "wrong-expected-version", stream_id="s", expected_version=-1, actual_version=4),
            WrongExpectedVersion,
            "unknown",
        ),
        (
            problem(409, "wrong-expected-version", stream_id="s", expected_version=3, actual_version=4),
            WrongExpectedVersion,
            "not-applied",
        ),
        (problem(410, "stream-tombstoned", stream_id="s"), StreamTombstoned, "not-applied"),
    ],
)
async def test_the_outcome_covers_what_the_first_board_may_have_done(clients, first, then, error, outcome):
    async with ScriptedBoard(first) as one, ScriptedBoard(then) as two:
        store = clients.connect(one, two, attempt_ms=SOON_MS, timeout_ms=500, retry=RetryPolicy(attempts=2))
        with pytest.raises(error) as caught:
            await store.streams.append("s", NO_STREAM, [EVENT])
        assert len({seen.body for board in (one, two) for seen in board.seen}) == 1
    assert caught.value.outcome == outcome


@pytest.mark.parametrize("first", [no_leader(), problem(429, "too-busy"), problem(503, "shutting-down")])
async def test_what_was_certainly_not_applied_is_told_as_it_is(clients, first):
    async with ScriptedBoard(first) as one, ScriptedBoard(problem(429, "too-busy")) as two:
        store = clients.connect(one, two, timeout_ms=500, retry=RetryPolicy(attempts=1))
        with pytest.raises(TooBusy) as caught:
            await store.streams.append("s", NO_STREAM, [EVENT])
    assert caught.value.outcome == "not-applied"


# -- what lasts --------------------------------------------------------------------------------------


def delivering(events: list[dict[str, Any]]) -> Step:
    """A board that delivers what is left of `events`, one at a time."""

    async def step(request):
        if request.path.endswith("/pull"):
            return await answer({"events": [events.pop(0)]})(request)
        if request.path.endswith("/ack"):
            return await answer({"checkpoint": 9})(request)
        return await answer(SUBSCRIPTION)(request)

    return step


async def test_a_consumer_goes_on_at_another_board_when_its_own_stands_still(clients, monkeypatch):
    monkeypatch.setattr("shoal.client.subscriptions.PULL_SLICE_MS", 1)
    events = [DELIVERED | {"position": n, "lease": f"l-{n}"} for n in range(1, 7)]
    async with ScriptedBoard(delivering(events)) as one, ScriptedBoard(delivering(events)) as two:
        store = clients.connect(one, two, attempt_ms=SOON_MS, timeout_ms=600_000)
        positions = []
        async with asyncio.timeout(10), store.subscriptions.subscribe("all", None, "sub") as consumer:
            async for event in consumer:
                positions.append(event.position)
                await consumer.ack(event)
                if len(positions) == 3:
                    one.script = [say_nothing]
                    asked = len(one.seen)
                if not events:
                    break
        assert positions == [1, 2, 3, 4, 5, 6]
        assert len(one.seen) == asked + 1
        settled = [seen for seen in (*one.seen, *two.seen) if seen.path.endswith("/ack")]
        assert {lease for seen in settled for lease in json.loads(seen.body)["leases"]} == {
            f"l-{n}" for n in positions
        }


async def test_a_tail_leaves_a_board_that_stands_still_and_one_that_is_only_quiet_not(clients):
    fields = {"stream_id": "s", "version": 0, "event_id": "x", "event_type": "e", "epoch_us": 1, "data": 1}

    def event(position: int) -> bytes:
        return b"id: %d\ndata: %b\n\n" % (position, json.dumps(fields | {"position": position}).encode())

    first, second = event_stream(event(1), hang=True), event_stream(event(1) + event(2), hang=True)
    async with ScriptedBoard(first) as paused, ScriptedBoard(second) as sound:
        store = clients.connect(paused, sound, attempt_ms=SOON_MS)
        tail = store.streams.tail(EventFilter(), 0)
        positions = []
        async with asyncio.timeout(10):
            positions.append(_position(await anext(tail)))
            following = asyncio.ensure_future(anext(tail))
            await asyncio.wait([following], timeout=3 * SOON_MS / 1000)
            assert not following.done()
            assert sound.seen == []
            paused.alive = say_nothing
            positions.append(_position(await following))
        await tail.aclose()
        assert positions == [1, 2]
        assert sound.seen[0].headers["Last-Event-ID"] == "1"


async def test_a_board_alone_is_not_asked_whether_it_lives(clients):
    asked = asyncio.Event()

    async def alive(request):
        asked.set()
        return await say_nothing(request)

    caught_up = b'event: caught-up\nid: 2\ndata: {"position":2}\n\n'
    async with ScriptedBoard(event_stream(caught_up, hang=True)) as board:
        board.alive = alive
        tail = clients.connect(board, attempt_ms=5).streams.tail(EventFilter(), 0)
        assert await anext(tail) == CaughtUp(2)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asked.wait(), 0.3)
        await tail.aclose()


def _position(item: Any) -> int:
    assert not isinstance(item, CaughtUp)
    return int(item.position)


# -- TLS ---------------------------------------------------------------------------------------------


def certificate(directory: Path) -> tuple[ssl.SSLContext, str]:
    """What a board at 127.0.0.1 shows, and what it is checked by."""
    key = ec.generate_private_key(ec.SECP256R1())
    name, now = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "board")]), datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = made.public_bytes(serialization.Encoding.PEM)
    form, secret = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (directory / "board.pem").write_bytes(pem + key.private_bytes(serialization.Encoding.PEM, form, secret))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(directory / "board.pem")
    return context, pem.decode()


async def test_tls_is_checked_by_what_was_given(clients, tmp_path):
    shown, pem = certificate(tmp_path)
    async with ScriptedBoard(STORED, tls=shown) as board:
        trusting = clients.connect(board, tls=ssl.create_default_context(cadata=pem))
        assert await trusting.streams.append("s", NO_STREAM, [EVENT]) == 0
        other = clients.connect(board, retry=RetryPolicy(attempts=1))
        with pytest.raises(Unreachable, match="certificate"):
            await other.streams.append("s", NO_STREAM, [EVENT])
        assert len(board.seen) == 1
