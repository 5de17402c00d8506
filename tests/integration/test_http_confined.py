"""Tokens for some streams: what lies within their patterns is theirs, and nothing else is there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from http_board import Board, Reply, running_board

from shoal.errors import Forbidden
from shoal.http import subscriptions
from shoal.http.auth import Access
from shoal.http.service import ROUTES
from shoal.tokens import Role, TokenFile

pytestmark = pytest.mark.asyncio(loop_scope="module")

EVENT = {"event_type": "t", "data": 1}
STREAMS = ("pub-1", "pub-10", "pub-2", "log", "secret")
CONFINED = {"/streams", "/events", "/events/{event_id}", "/query", "/append"}
"""Routes without a stream in their path that a token for some streams may take, since each confines its answer."""
OF_THE_BOARD = {"/metrics", "/v1/info", "/v1/health", "/v1/cluster"}


class Guarded:
    """A board with a few streams, and its tokens by name."""

    def __init__(self, board: Board, texts: dict[str, str]) -> None:
        self.board = board
        self._texts = texts

    async def call(self, token: str, method: str, path: str, body: Any = None) -> Reply:
        headers = {"Authorization": f"Bearer {self._texts[token]}"}
        return await self.board.call(method, path, body, headers=headers)

    async def streams(self, token: str, path: str) -> list[str]:
        """The ids of the streams in a listing."""
        reply = await self.call(token, "GET", path)
        assert reply.status == 200, reply
        return [each["stream_id"] for each in reply.json["streams"]]

    async def seen(self, token: str, method: str, path: str, body: Any = None) -> set[str]:
        """The streams of the events in an answer."""
        reply = await self.call(token, method, path, body)
        assert reply.status == 200, reply
        return {event["stream_id"] for event in reply.json["events"]}


async def make_token(data_dir: Path, role: Role, streams: Sequence[str]) -> str:
    return await asyncio.to_thread(partial(TokenFile(data_dir).add, role, streams=streams))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def guarded(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Guarded]:
    data_dir = tmp_path_factory.mktemp("guarded")
    texts = {
        "all": await make_token(data_dir, "admin", []),
        "pub": await make_token(data_dir, "admin", ["pub-*"]),
        "two": await make_token(data_dir, "admin", ["pub-*", "log"]),
        "nested": await make_token(data_dir, "read", ["pub-1*", "pub-*"]),
    }
    async with running_board(data_dir) as board:
        guarded = Guarded(board, texts)
        for stream in STREAMS:
            events = [EVENT | {"event_id": "everywhere"}, EVENT | {"event_id": f"id-{stream}"}]
            assert (await guarded.call("all", "POST", f"/v1/streams/{stream}", events)).status == 201
        for stream in ("pub-2", "secret"):
            await guarded.call("all", "POST", f"/v1/streams/{stream}", [EVENT | {"event_id": "shared"}])
        for stream in ("log", "secret"):
            await guarded.call("all", "POST", f"/v1/streams/{stream}", [EVENT | {"event_id": "foreign"}])
        yield guarded


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/stores"),
        ("GET", "/v1/stores/main"),
        ("PUT", "/v1/stores/other"),
        ("DELETE", "/v1/stores/main"),
        ("POST", "/v1/verify"),
    ],
)
async def test_what_is_about_all_streams_is_not_for_a_token_for_some(
    guarded: Guarded, method: str, path: str
) -> None:
    reply = await guarded.call("pub", method, path)
    assert (reply.status, reply.code) == (403, "forbidden")
    assert (await guarded.call("all", "GET", "/v1/info")).json["stores"] == ["main"]
    assert (await guarded.call("pub", "GET", "/v1/info")).json["stores"] == []


async def test_no_route_forgets_that_a_token_may_be_for_some_streams() -> None:
    """Each names its stream in the path, is for all streams, or is known to confine its answer.

    Subscriptions have tests of their own, `test_http_subscriptions_confined.py`.
    """
    unclear = {
        route.path
        for route in ROUTES
        if route.role is not None and "{stream_id}" not in route.path and not route.all_streams
    }
    assert unclear == CONFINED | OF_THE_BOARD | {route.path for route in subscriptions.ROUTES}


@pytest.mark.parametrize("event_id", ["foreign", "id-secret", "nowhere"])
async def test_a_foreign_event_is_as_if_it_were_not_there(guarded: Guarded, event_id: str) -> None:
    """The answers differ in the id that was asked for, and in nothing else."""
    reply = await guarded.call("pub", "GET", f"/v1/events/{event_id}")
    missing = await guarded.call("pub", "GET", "/v1/events/missing")
    assert (reply.status, reply.code) == (404, "not-found")
    assert reply.body.replace(event_id.encode(), b"missing") == missing.body


async def test_of_events_with_one_id_only_ones_own_are_candidates(guarded: Guarded) -> None:
    reply = await guarded.call("pub", "GET", "/v1/events/everywhere")
    assert reply.code == "ambiguous"
    assert {each["stream_id"] for each in reply.json["candidates"]} == {"pub-1", "pub-10", "pub-2"}
    assert "3 streams" in reply.json["detail"]
    only = await guarded.call("pub", "GET", "/v1/events/shared")
    assert (only.status, only.json["stream_id"]) == (200, "pub-2")
    assert (await guarded.call("all", "GET", "/v1/events/shared")).code == "ambiguous"


async def test_a_token_for_several_patterns_says_within_which_it_reads(guarded: Guarded) -> None:
    body = {"items": [{}]}
    for method, path, sent in (("GET", "/v1/events", None), ("POST", "/v1/query", body)):
        refused = await guarded.call("two", method, path, sent)
        assert refused.code == "forbidden"
        assert "stream_pattern=" in refused.json["detail"]
        assert await guarded.seen("two", method, f"{path}?stream_pattern=log", sent) == {"log"}
        assert await guarded.seen("two", method, f"{path}?stream_pattern=pub-1*", sent) == {"pub-1", "pub-10"}
        assert (await guarded.call("two", method, f"{path}?stream_pattern=*", sent)).code == "forbidden"
        assert await guarded.seen("nested", method, path, sent) == {"pub-1", "pub-10", "pub-2"}
    refused = await guarded.call("two", "GET", "/v1/streams")
    assert "send pattern=" in refused.json["detail"]
    assert await guarded.streams("two", "/v1/streams?prefix=pub-1") == ["pub-1", "pub-10"]
    assert await guarded.streams("two", "/v1/streams?pattern=log") == ["log"]
    assert (await guarded.call("two", "GET", "/v1/streams?prefix=p")).code == "forbidden"
    assert await guarded.streams("pub", "/v1/streams?prefix=p") == ["pub-1", "pub-10", "pub-2"]


@pytest.mark.parametrize(
    ("own", "pattern", "inside"),
    [
        ("pub-*", "pub-1*", True),
        ("pub-*", "pub-*", True),
        ("pub-*", "pub-?", True),
        ("pub-*", "pub-7", True),
        ("pub-*", "pub*", False),
        ("pub-*", "*", False),
        ("pub-*", "?ub-1", False),
        ("*", "a?b*", True),
        ("*-log", "a*-log", True),
        ("*-log", "a*", False),
        ("a*z", "a*b*z", True),
        ("log", "lo?", False),
        ("log", "log", True),
        ("a?", "a?", True),
        ("a?", "ab", True),
        ("a?", "a*", False),
        ("a?*", "a*", False),
        ("a?*", "ab*", False),
        ("*?", "*", False),
    ],
)
async def test_a_pattern_is_let_through_only_where_it_surely_lies_within(
    own: str, pattern: str, inside: bool
) -> None:
    access = Access((own,))
    if inside:
        assert access.confine(pattern) == pattern
    else:
        with pytest.raises(Forbidden):
            access.confine(pattern)
