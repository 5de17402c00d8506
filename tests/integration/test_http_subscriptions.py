"""Subscriptions over HTTP: what each route asks of the store and answers, and what it refuses."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import cbor2
import msgspec
import pytest
import pytest_asyncio
from served_subscriptions import STATS, Served, delivered, stored, subscription_board

from shoal.errors import AlreadyExists, InvalidRequest, LeaseExpired, NotFound, ShoalError
from shoal.http.subscriptions import ROUTES

SHOWN = {
    "name": "s",
    "type": "stream",
    "selector": "orders",
    "start_from": "beginning",
    "ack_timeout_ms": 30_000,
    "max_in_flight": 7,
    "max_retries": 10,
    "backoff_ms": [100, 1_000, 5_000, 30_000],
    "strategy": "single",
    "ordered": False,
    "ack_durability": "durable",
    "checkpoint_interval_ms": 5_000,
    "consumer_timeout_ms": 30_000,
    "pool_size": 1,
    "retention_hold_max_ms": None,
    "checkpoint": 3,
    "created": "2023-11-14T22:13:20.000001Z",
}
EVENT = {
    "stream_id": "orders",
    "version": 7,
    "position": 8,
    "epoch_us": 1_700_000_000_000_000,
    "timestamp": "2023-11-14T22:13:20.000000Z",
    "event_id": "01010101-0101-0101-0101-010101010101",
    "event_type": "t",
    "data_content_type": "application/json",
    "metadata_content_type": "application/json",
    "tags": [],
    "data": 1,
    "metadata": {},
}
ONE = "/v1/subscriptions/s"
STREAM = {"type": "stream", "selector": "orders"}


@pytest_asyncio.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with subscription_board(tmp_path) as made:
        yield made


async def test_a_subscription_is_made_once_and_found_again(served: Served) -> None:
    """What was sent reaches the store by name, and nothing that was not sent."""
    sent = STREAM | {"start_from": 5, "backoff_ms": [1, 2], "ordered": True, "retention_hold_max_ms": None}
    made = await served.board.call("PUT", "/v1/subscriptions/new", sent)
    assert (made.status, made.json) == (201, SHOWN | {"name": "new"})
    assert made.headers["Location"] == "/v1/subscriptions/new"
    found = await served.board.call("PUT", "/v1/subscriptions/new", {"type": "all"})
    assert (found.status, "Location" in found.headers) == (200, False)
    assert served.subscriptions.calls == [
        ("create_or_find", "new", sent | {"backoff_ms": (1, 2)}),
        ("create_or_find", "new", {"type": "all"}),
    ]


async def test_subscriptions_are_shown_and_listed(served: Served) -> None:
    served.subscriptions.stored["b"] = stored("b", "tags", {"all": ["x"]})
    one = await served.board.call("GET", ONE)
    assert (one.status, one.json) == (200, SHOWN)
    assert one.headers["Shoal-Position"] == "0"
    assert (await served.board.call("GET", "/v1/stores/main/subscriptions/s")).json == SHOWN
    listed = await served.board.call("GET", "/v1/subscriptions")
    other = SHOWN | {"name": "b", "type": "tags", "selector": {"all": ["x"]}}
    assert (listed.status, listed.json) == (200, {"subscriptions": [SHOWN, other]})


@pytest.mark.parametrize(
    ("method", "below", "body", "asked", "status", "answer"),
    [
        ("PATCH", "", {"max_retries": 2}, ("change", "s", {"max_retries": 2}), 200, SHOWN),
        ("DELETE", "", None, ("unsubscribe", "s"), 204, None),
        ("POST", "/pull", {}, ("pull", "s", 100, 0, "default"), 200, {"events": []}),
        (
            "POST",
            "/pull",
            {"count": 10_000, "wait_ms": 1, "consumer": "ü"},
            ("pull", "s", 10_000, 1, "ü"),
            200,
            {"events": []},
        ),
        (
            "POST",
            "/ack",
            {"leases": ["a", "b"]},
            ("ack_leases", "s", ["a", "b"]),
            200,
            {"checkpoint": 4},
        ),
        ("POST", "/ack", {"position": 0}, ("ack_through", "s", 0), 200, {"checkpoint": 5}),
        (
            "POST",
            "/ack",
            {"events": [{"stream_id": "a", "version": 1}]},
            ("ack_events", "s", [("a", 1)]),
            200,
            {"checkpoint": 6},
        ),
        ("POST", "/ack", {"events": []}, ("ack_events", "s", []), 200, {"checkpoint": 6}),
        (
            "POST",
            "/nack",
            {"leases": ["a"]},
            ("nack", "s", ["a"], "retry", None, ""),
            200,
            {"checkpoint": 7},
        ),
        (
            "POST",
            "/nack",
            {"leases": ["a"], "action": "park", "delay_ms": 5, "reason": "x" * 1000},
            ("nack", "s", ["a"], "park", 5, "x" * 1000),
            200,
            {"checkpoint": 7},
        ),
        ("POST", "/leave", {"consumer": "c"}, ("leave", "s", "c"), 204, None),
        (
            "GET",
            "/parked",
            None,
            ("parked_page", "s", 0, 100),
            200,
            {"events": [EVENT | {"reason": "bad", "attempts": 3, "replaying": True}], "next": 8},
        ),
        (
            "GET",
            "/parked?after=8&limit=3",
            None,
            ("parked_page", "s", 8, 3),
            200,
            {"events": [EVENT | {"reason": "bad", "attempts": 3, "replaying": True}], "next": 8},
        ),
        ("POST", "/parked/replay", None, ("replay_parked", "s", None), 200, {"replayed": 2}),
        ("POST", "/parked/replay?limit=9", None, ("replay_parked", "s", 9), 200, {"replayed": 2}),
        ("POST", "/reset", {"to": "end"}, ("reset", "s", "end"), 200, SHOWN),
        ("POST", "/reset", {"to": 0}, ("reset", "s", 0), 200, SHOWN),
        ("GET", "/stats", None, ("stats", "s"), 200, msgspec.to_builtins(STATS)),
    ],
)
async def test_each_route_asks_the_store_and_says_what_it_answered(
    served: Served, method: str, below: str, body: Any, asked: tuple[Any, ...], status: int, answer: Any
) -> None:
    reply = await served.board.call(method, ONE + below, body)
    assert reply.status == status, reply
    assert (reply.json if reply.body else None) == answer
    assert served.subscriptions.calls == [asked]


async def test_leased_events_come_with_lease_and_attempt_in_the_form_asked_for(served: Served) -> None:
    served.subscriptions.events = [delivered(8)]
    leased = EVENT | {"lease": "lease-8", "attempt": 2}
    reply = await served.board.call("POST", f"{ONE}/pull", {})
    assert reply.json == {"events": [leased]}
    assert reply.headers["Shoal-Role"] == "leader"
    headers = {"Accept": "application/cbor", "Content-Type": "application/cbor"}
    binary = await served.board.call("POST", f"{ONE}/pull", cbor2.dumps({"count": 1}), headers=headers)
    assert binary.headers["Content-Type"] == "application/cbor"
    assert cbor2.loads(binary.body) == {"events": [leased]}
    aside = await served.board.call("GET", f"{ONE}/parked", headers={"Accept": "application/cbor"})
    assert cbor2.loads(aside.body)["events"][0]["reason"] == "bad"


@pytest.mark.parametrize(
    ("method", "below", "body", "pointer"),
    [
        ("PUT", "", {}, "/type"),
        ("PUT", "", {"type": "streams"}, "/type"),
        ("PUT", "", STREAM | {"other": 1}, "/other"),
        ("PUT", "", STREAM | {"start_from": -1}, "/start_from"),
        ("PUT", "", STREAM | {"start_from": "middle"}, "/start_from"),
        ("PUT", "", STREAM | {"start_from": None}, "/start_from"),
        ("PUT", "", STREAM | {"max_in_flight": 1.5}, "/max_in_flight"),
        ("PUT", "", STREAM | {"backoff_ms": [1, "x"]}, "/backoff_ms/1"),
        ("PUT", "", STREAM | {"strategy": "any"}, "/strategy"),
        ("PUT", "", [], ""),
        ("PATCH", "", {"type": "all"}, "/type"),
        ("PATCH", "", {"ordered": 1}, "/ordered"),
        ("PATCH", "", {"ack_durability": "none"}, "/ack_durability"),
        ("POST", "/pull", {"count": 0}, "/count"),
        ("POST", "/pull", {"count": 10_001}, "/count"),
        ("POST", "/pull", {"wait_ms": 60_001}, "/wait_ms"),
        ("POST", "/pull", {"wait_ms": -1}, "/wait_ms"),
        ("POST", "/pull", {"consumer": ""}, "/consumer"),
        ("POST", "/pull", {"consumer": "ü" * 65}, "/consumer"),
        ("POST", "/pull", {"consumer": "a\0"}, "/consumer"),
        ("POST", "/pull", {"limit": 5}, "/limit"),
        ("POST", "/ack", {}, None),
        ("POST", "/ack", {"position": 1, "leases": []}, None),
        ("POST", "/ack", {"position": -1}, "/position"),
        ("POST", "/ack", {"position": None}, "/position"),
        ("POST", "/ack", {"leases": ["x"] * 10_001}, "/leases"),
        ("POST", "/ack", {"leases": [""]}, "/leases/0"),
        ("POST", "/ack", {"events": [{"stream_id": "a", "version": 1}] * 10_001}, "/events"),
        ("POST", "/ack", {"events": [{"stream_id": "a"}]}, "/events/0/version"),
        ("POST", "/ack", {"events": [{"stream_id": "a", "version": 1, "x": 1}]}, "/events/0/x"),
        ("POST", "/ack", {"events": [{"stream_id": "\0", "version": 1}]}, "/events/0/stream_id"),
        ("POST", "/ack", {"acks": []}, "/acks"),
        ("POST", "/nack", {}, "/leases"),
        ("POST", "/nack", {"leases": ["x"] * 10_001}, "/leases"),
        ("POST", "/nack", {"leases": [], "action": "drop"}, "/action"),
        ("POST", "/nack", {"leases": [], "delay_ms": -1}, "/delay_ms"),
        ("POST", "/nack", {"leases": [], "reason": "ü" * 501}, "/reason"),
        ("POST", "/nack", {"leases": [], "reason": "a\0"}, "/reason"),
        ("POST", "/nack", {"leases": [], "reason": 1}, "/reason"),
        ("POST", "/leave", {}, "/consumer"),
        ("POST", "/leave", {"consumer": "ü" * 65}, "/consumer"),
        ("POST", "/leave", {"consumer": "a", "x": 1}, "/x"),
        ("POST", "/reset", {}, "/to"),
        ("POST", "/reset", {"to": "now"}, "/to"),
        ("POST", "/reset", {"to": -1}, "/to"),
        ("POST", "/parked/replay", {}, None),
        ("POST", "/parked/replay?limit=0", None, "limit"),
        ("POST", "/parked/replay?limit=10001", None, "limit"),
        ("GET", "/parked?after=-1", None, "after"),
        ("GET", "/parked?limit=10001", None, "limit"),
        ("GET", "/events?consumer=", None, "consumer"),
        ("GET", f"/events?consumer={'x' * 129}", None, "consumer"),
        ("GET", "/events?prefetch=0", None, "prefetch"),
        ("GET", "/events?prefetch=10001", None, "prefetch"),
        ("GET", "/events?after=1", None, "after"),
    ],
)
async def test_what_cannot_be_meant_is_refused_and_named(
    served: Served, method: str, below: str, body: Any, pointer: str | None
) -> None:
    reply = await served.board.call(method, ONE + below, body)
    assert (reply.status, reply.code) == (400, "invalid-request")
    assert reply.json.get("pointer") == (pointer or None)
    assert served.subscriptions.calls == []


@pytest.mark.parametrize(
    ("method", "below", "body", "says"),
    [
        ("PUT", "", STREAM | {"type": "foo"}, "stream"),
        ("PUT", "", STREAM | {"strategy": "foo"}, "by_stream, round_robin, single"),
        ("PATCH", "", {"ack_durability": "foo"}, "durable, lazy"),
        ("POST", "/nack", {"leases": ["a"], "action": "foo"}, "park, retry, skip"),
    ],
)
async def test_a_word_that_is_none_of_a_few_is_told_which_they_are(
    served: Served, method: str, below: str, body: Any, says: str
) -> None:
    detail = (await served.board.call(method, ONE + below, body)).json["detail"]
    assert "invalid enum value 'foo'; it is one of " in detail
    assert says in detail


@pytest.mark.parametrize("below", ["/pull", "/ack", "/nack", "/leave", "/reset"])
async def test_a_body_is_needed_in_a_form_that_is_read(served: Served, below: str) -> None:
    reply = await served.board.call("POST", ONE + below, b"{}", headers={"Content-Type": "text/plain"})
    assert (reply.status, reply.code) == (415, "unsupported-media-type")
    assert (await served.board.call("POST", ONE + below, b"{", headers={})).code == "invalid-request"
    assert served.subscriptions.calls == []


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (NotFound("gone"), 404),
        (AlreadyExists("another"), 409),
        (LeaseExpired("late", leases=["a"]), 409),
        (InvalidRequest("no", pointer="/selector/x/$gt"), 400),
    ],
)
async def test_what_the_store_refuses_is_told(served: Served, error: ShoalError, status: int) -> None:
    served.subscriptions.fail = error
    for method, below, body in (
        ("PUT", "", STREAM),
        ("PATCH", "", {}),
        ("DELETE", "", None),
        ("POST", "/pull", {}),
        ("POST", "/pull", {"wait_ms": 9}),
        ("GET", "/events", None),
        ("POST", "/ack", {"leases": ["a"]}),
        ("POST", "/nack", {"leases": ["a"]}),
        ("POST", "/leave", {"consumer": "a"}),
        ("GET", "/parked", None),
        ("POST", "/parked/replay", None),
        ("POST", "/reset", {"to": 1}),
        ("GET", "/stats", None),
    ):
        reply = await served.board.call(method, ONE + below, body)
        assert (reply.status, reply.code) == (status, error.code), below
        assert reply.json.items() >= {key: value for key, value in error.facts.items() if value}.items()


STRANGE = [" ", "a/b", "ü", "100%", "?", "pull", "...", "\n", "x" * 128]


@pytest.mark.parametrize("name", STRANGE)
async def test_strange_names_are_carried_percent_encoded(served: Served, name: str) -> None:
    path = f"/v1/subscriptions/{quote(name, safe='')}"
    made = await served.board.call("PUT", path, STREAM)
    assert (made.status, made.json["name"], made.headers["Location"]) == (201, name, path)
    assert (await served.board.call("POST", f"{path}/pull", {})).status == 200


@pytest.mark.parametrize(
    "raw", ["", ".", "..", "%2E", "%00", "a%00b", "%", "%zz", "%FF", "x" * 129, "%C3%BC" * 65]
)
async def test_bad_names_are_400_under_every_route(served: Served, raw: str) -> None:
    for route in ROUTES[1:]:
        path = f"/v1{route.path}".replace("{name}", raw)
        reply = await served.board.call(route.method, path, {} if route.body else None)
        assert (reply.status, reply.code, reply.json["pointer"]) == (400, "invalid-request", "name"), path
    assert served.subscriptions.calls == []


async def test_what_is_not_there_is_not_found(served: Served) -> None:
    assert (await served.board.call("GET", "/v1/subscriptions/none")).code == "not-found"
    assert (await served.board.call("GET", "/v1/subscriptions/none/events")).code == "not-found"
    assert (await served.board.call("GET", "/v1/subscriptions/s/none")).code == "not-found"
    assert (await served.board.call("GET", "/v1/stores/none/subscriptions")).code == "not-found"
    assert (await served.board.call("POST", ONE, {})).status == 405
