"""Who may use which subscription: roles, and tokens for some streams, on every route."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from http_board import Reply
from served_subscriptions import Served, stored, subscription_board
from token_kit import add, bearer

from shoal.errors import NotFound
from shoal.http.subscriptions import ROUTES

USES: list[tuple[str, str, Any, str]] = [
    ("GET", "", None, "read"),
    ("PATCH", "", {"max_retries": 1}, "append"),
    ("DELETE", "", None, "append"),
    ("POST", "/pull", {}, "read"),
    ("GET", "/events", None, "read"),
    ("POST", "/ack", {"leases": ["a"]}, "read"),
    ("POST", "/nack", {"leases": ["a"]}, "read"),
    ("POST", "/leave", {"consumer": "c"}, "read"),
    ("GET", "/parked", None, "read"),
    ("POST", "/parked/replay", None, "append"),
    ("POST", "/reset", {"to": "end"}, "append"),
    ("GET", "/stats", None, "read"),
]
"""Every route of one subscription that is there, and the role it needs."""
RANK = {"read": 1, "append": 2, "admin": 3}
FOREIGN = [
    stored("foreign", "stream", "secret"),
    stored("foreign", "all", None),
    stored("foreign", "event_type", "pub-1"),
    stored("foreign", "event_pattern", {"stream_id": "pub-1"}),
    stored("foreign", "tags", ["pub-1"]),
    stored("foreign", "event_payload", {"a": 1}),
]


class Guarded:
    """A board with subscriptions `own` and `foreign`, and tokens by name."""

    def __init__(self, served: Served, texts: dict[str, str]) -> None:
        self.subscriptions = served.subscriptions
        self._board = served.board
        self._texts = texts

    async def call(self, token: str, method: str, path: str, body: Any = None) -> Reply:
        """The events of a push end at once, since the subscription is gone."""
        self.subscriptions.batches.put_nowait(NotFound("deleted"))
        return await self._board.call(
            method, f"/v1/subscriptions{path}", body, headers=bearer(self._texts[token])
        )


@pytest_asyncio.fixture
async def guarded(tmp_path: Path) -> AsyncIterator[Guarded]:
    texts = {role: await add(tmp_path, role) for role in ("read", "append", "admin")}
    texts["pub"] = await add(tmp_path, "append", ["pub-*", "log"])
    async with subscription_board(tmp_path) as served:
        served.subscriptions.stored["own"] = stored("own", "stream", "pub-1")
        yield Guarded(served, texts)


def test_no_route_is_forgotten_here() -> None:
    used = {(method, "/subscriptions/{name}" + below) for method, below, _, _ in USES}
    others = {("GET", "/subscriptions"), ("PUT", "/subscriptions/{name}")}
    assert {(route.method, route.path) for route in ROUTES} == used | others


async def test_each_role_may_what_it_says(guarded: Guarded) -> None:
    everything = [
        ("GET", "", None, "read"),
        ("PUT", "/own", {"type": "all"}, "append"),
        *((method, f"/own{below}", body, role) for method, below, body, role in USES),
    ]
    for role in ("read", "append", "admin"):
        for method, path, body, needed in everything:
            reply = await guarded.call(role, method, path, body)
            assert (reply.status == 403) is (RANK[role] < RANK[needed]), (role, method, path, reply)
            assert reply.status == 403 or reply.status < 300 or path == "/own/events", reply


@pytest.mark.parametrize("foreign", FOREIGN, ids=lambda each: each.type)
async def test_a_token_for_some_streams_uses_no_other_subscription(guarded: Guarded, foreign: Any) -> None:
    """Nothing is asked of the store on its behalf."""
    guarded.subscriptions.stored["foreign"] = foreign
    for method, below, body, _ in USES:
        reply = await guarded.call("pub", method, f"/foreign{below}", body)
        assert (reply.status, reply.code) == (403, "forbidden"), below
        assert "pub-*, log" in reply.json["detail"]
    assert guarded.subscriptions.calls == []


async def test_a_token_for_some_streams_uses_subscriptions_to_these(guarded: Guarded) -> None:
    for method, below, body, _ in USES:
        reply = await guarded.call("pub", method, f"/own{below}", body)
        assert reply.status < 300 or (below, reply.status) == ("/events", 404), (below, reply)
    assert len(guarded.subscriptions.calls) == len(USES) - 1  # one is only looked at
    for method, below, body, _ in USES:
        assert (await guarded.call("pub", method, f"/none{below}", body)).code == "not-found"


@pytest.mark.parametrize(
    ("body", "own"),
    [
        ({"type": "stream", "selector": "pub-7"}, True),
        ({"type": "stream", "selector": "log"}, True),
        ({"type": "stream", "selector": "secret"}, False),
        ({"type": "stream", "selector": ["pub-7"]}, False),
        ({"type": "stream"}, False),
        ({"type": "all"}, False),
        ({"type": "event_type", "selector": "log"}, False),
        ({"type": "event_pattern", "selector": {"stream_id": "log"}}, False),
        ({"type": "event_payload", "selector": {}}, False),
        ({"type": "tags", "selector": ["log"]}, False),
    ],
)
async def test_a_token_for_some_streams_makes_subscriptions_to_these_only(
    guarded: Guarded, body: dict[str, Any], own: bool
) -> None:
    reply = await guarded.call("pub", "PUT", "/new", body)
    if own:
        assert reply.status == 201
    else:
        assert (reply.status, reply.code) == (403, "forbidden")
        assert guarded.subscriptions.calls == []


async def test_a_listing_has_what_the_token_may_use(guarded: Guarded) -> None:
    for index, foreign in enumerate(FOREIGN):
        guarded.subscriptions.stored[f"foreign-{index}"] = foreign
    listed = (await guarded.call("pub", "GET", "")).json["subscriptions"]
    assert [each["name"] for each in listed] == ["own"]
    assert len((await guarded.call("read", "GET", "")).json["subscriptions"]) == len(FOREIGN) + 2
