"""Subscriptions over HTTP: what is sent, what an answer becomes, and what may be sent twice."""

from __future__ import annotations

import json
from typing import Any

import pytest
from client_kit import Clients
from scripted_board import ScriptedBoard, Step, answer, hang_up, problem, say_nothing

from shoal.client import RetryPolicy
from shoal.errors import (
    AlreadyExists,
    Forbidden,
    InvalidRequest,
    LeaseExpired,
    NotFound,
    OutcomeUnknown,
    ShoalError,
    Timeout,
    Unreachable,
)
from shoal.types import Subscription, SubscriptionOptions, SubscriptionStats

OPTIONS = {
    "ack_timeout_ms": 1_000,
    "max_in_flight": 10,
    "max_retries": 3,
    "backoff_ms": [1, 2],
    "strategy": "by_stream",
    "ordered": True,
    "ack_durability": "lazy",
    "checkpoint_interval_ms": 7,
    "consumer_timeout_ms": 8,
    "pool_size": 4,
    "retention_hold_max_ms": 9,
}
DOCUMENT = {
    "name": "sub",
    "type": "tags",
    "selector": {"all": ["a"]},
    "start_from": 5,
    "checkpoint": 6,
    "created": "2027-01-01T00:00:00.000001Z",
    **OPTIONS,
}
SUBSCRIPTION = Subscription(
    "sub",
    "tags",
    {"all": ["a"]},
    5,
    SubscriptionOptions(**(OPTIONS | {"backoff_ms": (1, 2)})),
    6,
    1_798_761_600_000_001,
)
FOUND = answer(DOCUMENT)
CHECKPOINT = answer({"checkpoint": 6})
MISSING = problem(404, "not-found", subscription="sub")
EVENT = {
    "stream_id": "s",
    "version": 3,
    "position": 9,
    "event_id": "id-1",
    "event_type": "e",
    "data": {"n": 1},
    "metadata": {"m": 1},
    "tags": ["t"],
    "epoch_us": 7,
    "timestamp": "1970-01-01T00:00:00.000007Z",
}
NOTHING = answer({"events": []})


class Subscribers(Clients):
    """Clients, of which the tests use the subscriptions."""

    def connect(self, *boards: ScriptedBoard | str, **options: Any) -> Any:
        return super().connect(*boards, **options).subscriptions


@pytest.fixture
async def clients():
    made = Subscribers()
    yield made
    await made.close()


def sent(board: ScriptedBoard) -> list[tuple[str, str, Any]]:
    """Method, path below the store, and body or parameters, of each request."""
    return [
        (
            seen.method,
            seen.path.removeprefix("/v1/stores/main/subscriptions"),
            json.loads(seen.body) if seen.body else dict(seen.query),
        )
        for seen in board.seen
    ]


# -- what is sent, and what comes back ---------------------------------------------------------------


async def test_definitions(clients):
    async with ScriptedBoard(FOUND) as board:
        subscriptions = clients.connect(board)
        made = await subscriptions.create(
            "tags", {"all": ["a"]}, "a/b é", start_from="end", backoff_ms=(1, 2)
        )
        assert made == SUBSCRIPTION
        assert await subscriptions.create("all", None, "sub") == SUBSCRIPTION
        assert await subscriptions.update("sub", ordered=True, backoff_ms=[]) == SUBSCRIPTION
        assert await subscriptions.get("sub") == SUBSCRIPTION
        assert await subscriptions.get("tags", "sub") == SUBSCRIPTION
        assert await subscriptions.reset("sub", 5) == SUBSCRIPTION
        assert sent(board) == [
            (
                "PUT",
                "/a%2Fb%20%C3%A9",
                {"type": "tags", "selector": {"all": ["a"]}, "start_from": "end", "backoff_ms": [1, 2]},
            ),
            ("PUT", "/sub", {"type": "all", "selector": None}),
            ("PATCH", "/sub", {"ordered": True, "backoff_ms": []}),
            ("GET", "/sub", {}),
            ("GET", "/sub", {}),
            ("POST", "/sub/reset", {"to": 5}),
        ]


async def test_listing_and_deleting(clients):
    async with ScriptedBoard(
        answer({"subscriptions": [DOCUMENT]}), answer(None, 204), FOUND, answer(None, 204)
    ) as board:
        subscriptions = clients.connect(board)
        assert await subscriptions.list() == [SUBSCRIPTION]
        await subscriptions.unsubscribe("sub")
        await subscriptions.unsubscribe("tags", "sub")
        assert sent(board) == [
            ("GET", "", {}),
            ("DELETE", "/sub", {}),
            ("GET", "/sub", {}),
            ("DELETE", "/sub", {}),
        ]


async def test_one_of_another_type_is_not_found_and_not_deleted(clients):
    async with ScriptedBoard(FOUND) as board:
        subscriptions = clients.connect(board)
        for call in (subscriptions.get("all", "sub"), subscriptions.unsubscribe("all", "sub")):
            with pytest.raises(NotFound, match="not of type 'all'"):
                await call
        assert not await subscriptions.exists("all", "sub")
        assert await subscriptions.exists("tags", "sub")
        assert {seen.method for seen in board.seen} == {"GET"}


async def test_delivery(clients):
    pulled = answer({"events": [EVENT | {"lease": "l-1", "attempt": 2}]})
    async with ScriptedBoard(pulled) as board:
        (event,) = await clients.connect(board).pull("sub", 5, 20, "me")
        assert sent(board) == [("POST", "/sub/pull", {"count": 5, "wait_ms": 20, "consumer": "me"})]
    assert (event.lease, event.attempt) == ("l-1", 2)
    assert (event.stream_id, event.version, event.position, event.epoch_us) == ("s", 3, 9, 7)
    assert (event.event_id, event.event_type, event.data) == ("id-1", "e", {"n": 1})
    assert (event.metadata, event.tags) == ({"m": 1}, ["t"])


async def test_settling(clients):
    async with ScriptedBoard(CHECKPOINT) as board:
        subscriptions = clients.connect(board)
        for call in (
            subscriptions.ack("s", "sub", 3),
            subscriptions.ack_leases("sub", ["l-1", "l-2"]),
            subscriptions.ack_through("sub", 9),
            subscriptions.ack_events("sub", [("s", 3), ("t", 0)]),
            subscriptions.nack("sub", ["l-1"]),
            subscriptions.nack("sub", ["l-1"], "park", 0, "why"),
        ):
            assert await call == 6
        assert sent(board) == [
            ("POST", "/sub/ack", {"events": [{"stream_id": "s", "version": 3}]}),
            ("POST", "/sub/ack", {"leases": ["l-1", "l-2"]}),
            ("POST", "/sub/ack", {"position": 9}),
            (
                "POST",
                "/sub/ack",
                {"events": [{"stream_id": "s", "version": 3}, {"stream_id": "t", "version": 0}]},
            ),
            ("POST", "/sub/nack", {"leases": ["l-1"], "action": "retry"}),
            ("POST", "/sub/nack", {"leases": ["l-1"], "action": "park", "delay_ms": 0, "reason": "why"}),
        ]


async def test_leaving_parking_and_standing(clients):
    stats = SubscriptionStats("sub", 1, 9, 8, 2, 3, 4, 5, 6, ["me"], None)
    fields = {name: getattr(stats, name) for name in stats.__struct_fields__}
    parked = {"reason": "why", "attempts": 4, "replaying": True}
    page = {"events": [EVENT | parked], "next": 9}
    script = [answer(None, 204), answer(page), answer(page), answer({"replayed": 2}), answer({"replayed": 0})]
    async with ScriptedBoard(*script, answer(fields)) as board:
        subscriptions = clients.connect(board)
        await subscriptions.leave("sub", "me")
        (event,) = await subscriptions.parked("sub")
        assert (await subscriptions.parked_page("sub", 3, 1)).next == 9
        assert await subscriptions.replay_parked("sub") == 2
        assert await subscriptions.replay_parked("sub", 7) == 0
        assert await subscriptions.stats("sub") == stats
        assert sent(board) == [
            ("POST", "/sub/leave", {"consumer": "me"}),
            ("GET", "/sub/parked", {"after": "0", "limit": "100"}),
            ("GET", "/sub/parked", {"after": "3", "limit": "1"}),
            ("POST", "/sub/parked/replay", {}),
            ("POST", "/sub/parked/replay", {"limit": "7"}),
            ("GET", "/sub/stats", {}),
        ]
    assert (event.position, event.reason, event.attempts, event.replaying) == (9, "why", 4, True)


async def test_a_consumer(clients):
    first = answer({"events": [EVENT | {"lease": "l-1", "attempt": 1}]})
    async with ScriptedBoard(FOUND, first, CHECKPOINT, CHECKPOINT, answer(None, 204)) as board:
        subscribe = clients.connect(board).subscribe
        async with subscribe("tags", "a", "sub", consumer="me", start_from=3, pool_size=4) as consumer:
            event = await anext(consumer)
            await consumer.ack(event)
            await consumer.nack(event)
        assert sent(board) == [
            ("PUT", "/sub", {"type": "tags", "selector": "a", "start_from": 3, "pool_size": 4}),
            ("POST", "/sub/pull", {"count": 10, "wait_ms": 10_000, "consumer": "me"}),
            ("POST", "/sub/ack", {"leases": ["l-1"]}),
            ("POST", "/sub/nack", {"leases": ["l-1"], "action": "retry"}),
            ("POST", "/sub/leave", {"consumer": "me"}),
        ]


async def test_consumers_without_a_name_have_different_ones(clients):
    async with ScriptedBoard(FOUND) as board:
        for _ in range(2):
            async with clients.connect(board).subscribe("tags", "a", "sub"):
                pass
        first, second = (body["consumer"] for _, path, body in sent(board) if path == "/sub/leave")
    assert first != second


# -- what is refused here ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", ".", "..", "a\0b", "\ud800", 7])
async def test_names_that_a_url_cannot_carry_are_refused(clients, name):
    async with ScriptedBoard(FOUND) as board:
        subscriptions = clients.connect(board)
        for call in (
            subscriptions.get(name),
            subscriptions.pull(name),
            subscriptions.create("all", None, name),
        ):
            with pytest.raises(InvalidRequest) as caught:
                await call
            assert caught.value.pointer == "name"
        assert board.seen == []


@pytest.mark.parametrize(
    "call",
    [
        lambda s: s.get(),
        lambda s: s.get("a", "b", "c"),
        lambda s: s.create("event_payload", {"n": b"\0"}, "sub"),
        lambda s: s.create("event_payload", {"n": float("nan")}, "sub"),
        lambda s: s.create("event_payload", object(), "sub"),
        lambda s: s.create("all", None, "sub", max_retries=object()),
        lambda s: s.pull("sub", "5"),
        lambda s: s.pull("sub", 5, 0.5),
        lambda s: s.ack_through("sub", None),
        lambda s: s.nack("sub", ["l"], delay_ms="1"),
        lambda s: s.nack("sub", ["l"], reason="\ud800"),
        lambda s: s.replay_parked("sub", "all"),
        lambda s: s.parked("sub", count=None),
    ],
)
async def test_what_cannot_be_sent_is_refused(clients, call):
    async with ScriptedBoard(FOUND) as board:
        with pytest.raises(InvalidRequest):
            await call(clients.connect(board))
        assert board.seen == []


# -- errors, and what may be sent twice --------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "error", "facts"),
    [
        (problem(409, "already-exists", differs=["type"]), AlreadyExists, {"differs": ["type"]}),
        (problem(409, "lease-expired", leases=["l-1"]), LeaseExpired, {"leases": ["l-1"]}),
        (MISSING, NotFound, {"subscription": "sub"}),
    ],
)
async def test_errors_come_back_with_their_facts(clients, step, error, facts):
    async with ScriptedBoard(step) as board:
        with pytest.raises(error) as caught:
            await clients.connect(board).ack_leases("sub", ["l-1"])
    assert caught.value.facts.items() >= facts.items()


async def test_a_missing_store_is_not_taken_for_a_missing_subscription(clients):
    async with ScriptedBoard(MISSING, problem(404, "not-found")) as board:
        subscriptions = clients.connect(board)
        assert not await subscriptions.exists("sub")
        with pytest.raises(NotFound):
            await subscriptions.exists("sub")


REPEATED = {
    "create": (lambda s: s.create("all", None, "sub"), FOUND),
    "get": (lambda s: s.get("sub"), FOUND),
    "pull": (lambda s: s.pull("sub"), NOTHING),
    "ack": (lambda s: s.ack("s", "sub", 1), CHECKPOINT),
    "ack_leases": (lambda s: s.ack_leases("sub", ["l"]), CHECKPOINT),
    "nack": (lambda s: s.nack("sub", ["l"]), CHECKPOINT),
    "leave": (lambda s: s.leave("sub", "me"), answer(None, 204)),
    "unsubscribe": (lambda s: s.unsubscribe("sub"), answer(None, 204)),
    "parked": (lambda s: s.parked("sub"), answer({"events": [], "next": None})),
}
ONCE = {
    "update": (lambda s: s.update("sub", ordered=True), FOUND),
    "replay_parked": (lambda s: s.replay_parked("sub"), answer({"replayed": 1})),
    "reset": (lambda s: s.reset("sub", "end"), FOUND),
}


@pytest.mark.parametrize(("call", "done"), REPEATED.values(), ids=REPEATED)
async def test_what_changes_nothing_more_is_sent_again_unchanged(clients, call, done: Step):
    async with ScriptedBoard(hang_up, done) as board:
        await call(clients.connect(board))
        assert board.seen[0].body == board.seen[1].body


@pytest.mark.parametrize(("call", "done"), ONCE.values(), ids=ONCE)
async def test_what_would_change_more_is_not_sent_again(clients, call, done: Step):
    async with ScriptedBoard(hang_up, done) as board:
        with pytest.raises(OutcomeUnknown) as caught:
            await call(clients.connect(board))
        assert len(board.seen) == 1
    assert caught.value.outcome == "unknown"


async def test_what_was_deleted_by_a_try_whose_answer_was_lost_is_deleted(clients):
    async with ScriptedBoard(hang_up, MISSING) as board:
        await clients.connect(board).unsubscribe("sub")
        assert len(board.seen) == 2


@pytest.mark.parametrize("before", [[], [problem(429, "too-busy")]])
async def test_what_was_not_there_to_delete_is_not_found(clients, before):
    async with ScriptedBoard(*before, MISSING) as board:
        with pytest.raises(NotFound):
            await clients.connect(board).unsubscribe("sub")


# -- long polls --------------------------------------------------------------------------------------


async def test_a_long_poll_lives_longer_than_a_call(clients):
    async with ScriptedBoard(say_nothing) as board:
        subscriptions = clients.connect(board, timeout_ms=30, retry=RetryPolicy(attempts=1))
        with pytest.raises(Timeout, match="did not answer within 80 ms"):
            await subscriptions.pull("sub", wait_ms=50)
        with pytest.raises(Timeout, match="did not answer within 30 ms"):
            await subscriptions.pull("sub")


async def test_after_a_board_that_hangs_another_may_wait_as_long(clients):
    async def hang(request):
        clients.clock.advance(1_000 + 2_500)  # what a real clock shows when this try is given up
        return await hang_up(request)

    async with ScriptedBoard(hang) as stuck, ScriptedBoard(NOTHING) as sound:
        subscriptions = clients.connect(stuck, sound, timeout_ms=5_000)
        assert await subscriptions.pull("sub", wait_ms=1_000) == []
        assert stuck.seen[0].body == sound.seen[0].body


async def test_waiting_too_long_ends_all_the_same(clients):
    async def hang(request):
        clients.clock.advance(10_000 + 5_000)
        return await hang_up(request)

    async with ScriptedBoard(hang) as board:
        with pytest.raises(ShoalError):
            await clients.connect(board).pull("sub", wait_ms=10_000)
        assert len(board.seen) == 1


async def test_a_consumer_waits_for_a_board_that_is_away_and_says_so_once(clients):
    told: list[ShoalError | None] = []
    came = answer({"events": [EVENT | {"lease": "l-1", "attempt": 1}]})
    script = [FOUND, hang_up, hang_up, problem(503, "shutting-down"), came, CHECKPOINT, answer(None, 204)]
    async with ScriptedBoard(*script) as board:
        subscriptions = clients.connect(board, retry=RetryPolicy(attempts=1), on_tail=told.append)
        async with subscriptions.subscribe("all", None, "sub") as consumer:
            await consumer.ack(await anext(consumer))
        assert [path for _, path, _ in sent(board)][1:5] == ["/sub/pull"] * 4
    assert [type(error) for error in told] == [Unreachable, type(None)]
    assert clients.pauses.ms == [100, 200, 400]


async def test_a_token_that_may_only_read_can_use_what_is_there(clients):
    refused = problem(403, "forbidden")
    came = answer({"events": [EVENT | {"lease": "l-1", "attempt": 1}]})
    async with ScriptedBoard(refused, FOUND, came, CHECKPOINT, answer(None, 204)) as board:
        subscriptions = clients.connect(board)
        async with subscriptions.subscribe("tags", {"all": ["a"]}, "sub", ordered=True) as consumer:
            await consumer.ack(await anext(consumer))
    for given, options in ((["a", "b"], {}), ({"all": ["a"]}, {"ordered": False})):
        async with ScriptedBoard(refused, FOUND) as board:
            with pytest.raises(AlreadyExists):
                async with clients.connect(board).subscribe("tags", given, "sub", **options):
                    pass
    async with ScriptedBoard(refused, MISSING) as board:
        with pytest.raises(Forbidden):
            async with clients.connect(board).subscribe("tags", {"all": ["a"]}, "sub"):
                pass
