"""Tokens over HTTP: who gets in, to what, and how fast a revoked one is out."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
from http_board import Board, Reply, configured, running_board
from token_kit import add, bearer, revoke

from shoal.errors import Unauthorized
from shoal.http import Service, auth
from shoal.http.auth import EVERYTHING, Door
from shoal.testing.clock import FakeClock
from shoal.testing.memory_node import MemoryNode
from shoal.tokens import ROLES, Role, Token, TokenFile, make_token

QUERY = {"items": [{}]}
EVENT = {"event_type": "t", "data": 1}

CALLS: list[tuple[str, str, object, str | None]] = [
    ("GET", "/v1/streams/a", None, "read"),
    ("HEAD", "/v1/streams/a", None, "read"),
    ("GET", "/v1/streams/a/0", None, "read"),
    ("GET", "/v1/streams", None, "read"),
    ("GET", "/v1/events", None, "read"),
    ("POST", "/v1/query", QUERY, "read"),
    ("GET", "/v1/streams/a/aggregate", None, "read"),
    ("GET", "/v1/streams/a/snapshots", None, "read"),
    ("GET", "/v1/info", None, "read"),
    ("GET", "/v1/health", None, "read"),
    ("GET", "/metrics", None, "read"),
    ("POST", "/v1/streams/a", [EVENT], "append"),
    ("POST", "/v1/append", {"writes": [{"stream_id": "a", "events": [EVENT]}]}, "append"),
    ("PUT", "/v1/streams/a/snapshots/0", {"data": {}}, "append"),
    ("DELETE", "/v1/streams/a/snapshots/0", None, "append"),
    ("DELETE", "/v1/streams/a", None, "admin"),
    ("GET", "/v1/stores", None, "admin"),
    ("PUT", "/v1/stores/other", None, "admin"),
    ("DELETE", "/v1/stores/other", None, "admin"),
    ("POST", "/v1/verify", None, "admin"),
    ("GET", "/livez", None, None),
    ("GET", "/readyz", None, None),
    ("GET", "/openapi.json", None, None),
]
RANK = {None: 0, "read": 1, "append": 2, "admin": 3}


async def replace_all(data_dir: Path) -> None:
    """Revoke the only token and make another, so that the door stays guarded."""

    def change() -> None:
        file = TokenFile(data_dir)
        file.add("admin")
        file.remove(file.tokens()[0].id)

    await asyncio.to_thread(change)


async def test_each_role_may_what_it_says_and_no_more(tmp_path: Path) -> None:
    texts = {role: await add(tmp_path, role) for role in ROLES}
    async with running_board(tmp_path) as board:
        await board.append("a", 1, headers=bearer(texts["append"]))
        for role, text in texts.items():
            for method, path, body, needed in CALLS:
                reply = await board.call(method, path, body, headers=bearer(text))
                assert (reply.status == 403) is (RANK[role] < RANK[needed]), (role, method, path, reply)


@pytest.mark.parametrize(
    "value", [None, "", "Bearer", "Bearer ", "Bearer nope", "Basic YTpi", "nope", "Bearer a b"]
)
async def test_without_a_good_token_nobody_gets_in(tmp_path: Path, value: str | None) -> None:
    await add(tmp_path, "admin")
    headers = {} if value is None else {"Authorization": value}
    async with running_board(tmp_path) as board:
        for method, path, body, needed in CALLS[::4] + CALLS[-3:]:
            reply = await board.call(method, path, body, headers=headers)
            assert (reply.status == 401) is (needed is not None), path
            if needed is not None and method != "HEAD":
                assert reply.code == "unauthorized"
                assert reply.headers["WWW-Authenticate"].startswith("Bearer")


async def test_a_token_for_some_streams_reaches_no_others(tmp_path: Path) -> None:
    admin, mine = await add(tmp_path, "admin"), await add(tmp_path, "append", ["mine-*"])
    two = await add(tmp_path, "read", ["mine-*", "yours"])
    async with running_board(tmp_path) as board:

        async def call(text: str, method: str, path: str, body: object = None) -> Reply:
            return await board.call(method, path, body, headers=bearer(text))

        for stream in ("mine-1", "yours", "theirs"):
            await board.append(stream, EVENT | {"event_id": stream}, headers=bearer(admin))
        assert (await call(mine, "POST", "/v1/streams/mine-1", [EVENT])).status == 201
        assert (await call(mine, "POST", "/v1/streams/yours", [EVENT])).code == "forbidden"
        assert (await call(mine, "GET", "/v1/streams/yours")).code == "forbidden"
        assert (await call(mine, "GET", "/v1/streams/yours/snapshots")).code == "forbidden"
        writes = [{"stream_id": stream, "events": [EVENT]} for stream in ("mine-1", "yours")]
        assert (await call(mine, "POST", "/v1/append", {"writes": writes})).code == "forbidden"
        condition = {"writes": writes[:1], "condition": {"query": QUERY}}
        assert (await call(mine, "POST", "/v1/append", condition)).code == "forbidden"
        for method, path, body in (("GET", "/v1/events", None), ("POST", "/v1/query", QUERY)):
            seen = {event["stream_id"] for event in (await call(mine, method, path, body)).json["events"]}
            assert seen == {"mine-1"}
        streams = (await call(mine, "GET", "/v1/streams")).json["streams"]
        assert [stream["stream_id"] for stream in streams] == ["mine-1"]
        assert (await call(mine, "GET", "/v1/events?stream_pattern=*")).code == "forbidden"
        assert (await call(mine, "GET", "/v1/events/theirs")).code == "not-found"
        assert (await call(mine, "GET", "/v1/events/mine-1")).status == 200
        assert (await call(two, "GET", "/v1/events")).code == "forbidden"
        assert (await call(two, "GET", "/v1/events?stream_pattern=yours")).status == 200


async def revoked_at(board: Board, text: str) -> float:
    """Seconds until the token is refused."""
    began = time.monotonic()
    while (await board.call("GET", "/v1/info", headers=bearer(text))).status == 200:
        assert time.monotonic() - began < 5
    return time.monotonic() - began


async def test_the_first_token_closes_the_door_and_a_revoked_one_is_out_soon(tmp_path: Path) -> None:
    """While the server runs, without a restart; a live tail ends too."""
    async with running_board(tmp_path, {"http.heartbeat_ms": 20}) as board:
        assert (await board.call("GET", "/v1/info")).status == 200
        text = await add(tmp_path, "read")
        assert await revoked_at(board, "none") < 2
        assert (await board.call("GET", "/v1/info", headers=bearer(text))).status == 200
        headers = bearer(text) | {"Accept": "text/event-stream"}
        async with board.session.get(f"{board.url}/v1/events", headers=headers) as live:
            await replace_all(tmp_path)
            assert await revoked_at(board, text) < 2
            await asyncio.wait_for(live.content.read(), 5)


@pytest.mark.parametrize("flowing", [False, True])
async def test_a_tail_ends_soon_after_its_token_is_gone(tmp_path: Path, flowing: bool) -> None:
    """Long before its next comment, while events flow as well as while none do."""
    admin, text = await add(tmp_path, "admin"), await add(tmp_path, "read")
    async with running_board(tmp_path, {"http.heartbeat_ms": 600_000}) as board:
        headers = bearer(text) | {"Accept": "text/event-stream"}
        async with board.session.get(f"{board.url}/v1/events", headers=headers) as live:
            await live.content.readuntil(b"caught-up")
            began = time.monotonic()
            await revoke(tmp_path, text)
            ended = asyncio.create_task(live.content.read())
            while flowing and not ended.done():
                await board.append("a", 1, headers=bearer(admin))
                assert time.monotonic() - began < 5
            await asyncio.wait_for(ended, 5)
            assert time.monotonic() - began < 2 * auth.WATCH_S + auth.FRESH_S


async def test_a_token_file_that_goes_bad_closes_the_door(tmp_path: Path) -> None:
    text = await add(tmp_path, "read")
    async with running_board(tmp_path) as board:
        (tmp_path / "tokens.json").write_text("{")
        assert await revoked_at(board, text) < 2
        assert (await board.call("GET", "/v1/info")).code == "config-error"
        assert (await board.call("GET", "/livez")).status == 200


@pytest.mark.parametrize(
    ("listen", "open_without"), [("127.0.0.1:1", True), ("[::1]:1", True), ("192.0.2.1:1", False)]
)
async def test_revoking_the_last_token_opens_no_door_to_others(
    tmp_path: Path, listen: str, open_without: bool
) -> None:
    """Alone on loopback a board needs no tokens; one that others reach stays shut without them."""
    config = configured(tmp_path, {"listen": listen})
    tokens = TokenFile(tmp_path)
    text = await asyncio.to_thread(tokens.add, "admin")
    door = Service(MemoryNode(FakeClock()), config, tokens, now_ms=lambda: 0).context.door
    await door.look()
    with pytest.raises(Unauthorized):
        door.admit("read", None)
    assert await door.still_open(door.admit("read", f"Bearer {text}"))
    await asyncio.to_thread(lambda: tokens.remove(tokens.tokens()[0].id))
    for _ in ("an empty file", "none"):
        await door.look()
        assert await door.still_open(EVERYTHING) is open_without
        if open_without:
            assert door.admit("admin", None) is EVERYTHING
        else:
            with pytest.raises(Unauthorized):
                door.admit("read", f"Bearer {text}")
        await asyncio.to_thread(partial(tokens.path.unlink, missing_ok=True))


class OneToken:
    """A token that is slow to come: it blocks until `gate` opens, as a file on a bad card would."""

    def __init__(self, role: Role) -> None:
        self.text, self.token = make_token(role)
        self.looks = 0

    def tokens(self) -> Sequence[Token]:
        self.looks += 1
        return (self.token,)


async def test_a_door_is_shut_until_it_has_looked_and_looks_no_more_than_needed() -> None:
    """Time is an argument: a look counts for `FRESH_S`."""
    now = 0.0
    source = OneToken("read")
    door = Door(source, lambda: now)
    assert door.stale
    await door.look()
    assert not door.stale
    assert door.admit("read", f"Bearer {source.text}").token_id == source.token.id
    now = auth.FRESH_S + 0.01
    assert door.stale
    assert not await door.still_open(EVERYTHING)
    assert (source.looks, door.stale) == (2, False)


class SlowTokens:
    """Tokens that come when a test lets them; `looks` counts."""

    def __init__(self, *tokens: Token) -> None:
        self.found: tuple[Token, ...] = tokens
        self.looks = 0
        self.may_come = threading.Event()
        self.may_come.set()

    def tokens(self) -> Sequence[Token]:
        self.looks += 1
        found = self.found
        assert self.may_come.wait(10)
        return found


async def test_nobody_is_judged_by_an_older_list_while_the_next_one_is_read() -> None:
    now = 0.0
    (_, old), (text, new) = make_token("read"), make_token("read")
    source = SlowTokens(old)
    door = Door(source, lambda: now)
    await door.look()
    source.found, now = (old, new), auth.FRESH_S + 0.01
    source.may_come.clear()
    both = [asyncio.ensure_future(door.enter("read", f"Bearer {text}")) for _ in range(2)]
    for _ in range(9):
        await asyncio.sleep(0)
    assert not any(each.done() for each in both)
    source.may_come.set()
    assert {(await each).token_id for each in both} == {new.id}
    assert source.looks == 2


async def test_a_token_that_was_made_a_moment_ago_is_known() -> None:
    now = 0.0
    (_, old), (text, new) = make_token("read"), make_token("read")
    source = SlowTokens(old)
    door = Door(source, lambda: now)
    await door.look()
    source.found = (old, new)
    with pytest.raises(Unauthorized):
        await door.enter("read", f"Bearer {text}")
    assert source.looks == 1, (
        "who sends what nobody knows has the file looked at fifty times a second at most"
    )
    now = auth.NEW_S + 0.001
    with pytest.raises(Unauthorized):
        await door.enter("read", None)
    assert source.looks == 1
    assert (await door.enter("read", f"Bearer {text}")).token_id == new.id
