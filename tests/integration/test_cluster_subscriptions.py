"""Subscriptions are one thing, whichever board is asked: a board that lags says nothing of them that is not so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from cluster_kit import Member, Reef, reef, until
from msgspec import structs
from token_kit import add, bearer

from shoal.http import lasting

ONE = "/v1/subscriptions/s"
ALL = {"type": "all"}
PUBLIC = {"type": "stream", "selector": "pub"}


@pytest_asyncio.fixture
async def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Reef]:
    async with reef(tmp_path, monkeypatch) as made:
        yield made


def lag(member: Member) -> Callable[[], None]:
    """From now on a board learns what is committed and applies none of it, until the result is called."""
    driver: Any = member.node._driver
    hand_out, held = driver._hand_out, []
    driver._hand_out = held.extend

    def go_on() -> None:
        driver._hand_out = hand_out
        hand_out(held)

    return go_on


def known(member: Member) -> Any:
    """The subscriptions that a board knows, by name."""
    return member.node.node.store("main")._context.memory.subscriptions


async def stays_open(member: Member, call: asyncio.Task[Any]) -> None:
    """What the board would have answered at once it would have by now."""
    for _ in range(3):
        assert (await member.board.call("GET", "/livez")).status == 200
    assert not call.done(), call.result().body


COMMANDS = [
    ("PATCH", "", {"max_retries": 3}, 200),
    ("DELETE", "", None, 204),
    ("POST", "/reset", {"to": "end"}, 200),
    ("POST", "/parked/replay", None, 200),
]
"""What changes a subscription through any board."""


@pytest.mark.parametrize(("method", "path", "body", "status"), COMMANDS)
async def test_a_follower_that_lags_misses_no_subscription(
    cluster: Reef, method: str, path: str, body: Any, status: int
) -> None:
    leader = await cluster.grow()
    follower = cluster.up["n2"]
    go_on = lag(follower)
    assert (await leader.board.call("PUT", ONE, ALL)).status == 201
    call = asyncio.create_task(follower.board.call(method, ONE + path, body))
    await stays_open(follower, call)
    go_on()
    assert (await call).status == status, (await call).body


async def test_a_leader_that_lags_behind_its_own_cluster_misses_no_subscription(cluster: Reef) -> None:
    """The others may commit, and answer, before the leader's own disk is done."""
    leader = await cluster.grow()
    go_on = lag(leader)
    assert (await cluster.up["n2"].board.call("PUT", ONE, ALL)).status == 201
    pull = asyncio.create_task(leader.board.call("POST", f"{ONE}/pull", {"wait_ms": 0}))
    await stays_open(leader, pull)
    go_on()
    assert (await pull).json == {"events": []}


async def test_what_is_in_no_board_is_not_found_at_once(cluster: Reef) -> None:
    await cluster.grow(2)
    for member in cluster.up.values():
        for method, path, body in (("DELETE", "", None), ("POST", "/pull", {"wait_ms": 0})):
            assert (await member.board.call(method, ONE + path, body)).code == "not-found"


async def test_changes_of_several_options_at_once_are_all_kept(cluster: Reef) -> None:
    leader = await cluster.grow()
    await leader.board.call("PUT", ONE, ALL)
    await until(lambda: all("s" in known(each) for each in cluster.up.values()))
    changes = {"n1": {"max_retries": 7}, "n2": {"ack_timeout_ms": 7_000}, "n3": {"max_in_flight": 77}}
    answers = await asyncio.gather(
        *(cluster.up[node_id].board.call("PATCH", ONE, change) for node_id, change in changes.items())
    )
    assert [answer.status for answer in answers] == [200, 200, 200]
    found = (await leader.board.call("GET", f"{ONE}?consistency=linearizable")).json
    for change in changes.values():
        assert found | change == found


async def test_what_was_parked_through_another_board_is_replayed(cluster: Reef) -> None:
    leader = await cluster.grow()
    follower = cluster.up["n2"]
    await leader.board.call("PUT", ONE, ALL)
    await leader.board.append("orders", 1)
    pulled = (await leader.board.call("POST", f"{ONE}/pull", {"wait_ms": 5_000})).json["events"]
    go_on = lag(follower)
    parked = {"leases": [event["lease"] for event in pulled], "action": "park"}
    assert (await leader.board.call("POST", f"{ONE}/nack", parked)).status == 200
    replay = asyncio.create_task(follower.board.call("POST", f"{ONE}/parked/replay"))
    await stays_open(follower, replay)
    go_on()
    assert (await replay).json == {"replayed": 1}


@pytest.mark.parametrize(("method", "path", "body", "status"), COMMANDS)
async def test_a_token_for_some_streams_changes_no_other_subscription_through_a_follower_that_lags(
    cluster: Reef, method: str, path: str, body: Any, status: int
) -> None:
    """What was its own there is, by now, another of the name."""
    leader = await cluster.grow()
    follower = cluster.up["n2"]
    text = await add(cluster.directory / "n2", "append", ["pub"])
    assert (await leader.board.call("PUT", ONE, PUBLIC)).status == 201
    await until(lambda: "s" in known(follower))
    go_on = lag(follower)
    await leader.board.call("DELETE", ONE)
    await leader.board.call("PUT", ONE, ALL)
    call = asyncio.create_task(follower.board.call(method, ONE + path, body, headers=bearer(text)))
    await stays_open(follower, call)
    go_on()
    assert ((await call).status, (await call).code) == (403, "forbidden")
    left = (await leader.board.call("GET", f"{ONE}?consistency=linearizable")).json
    assert (left["type"], left["max_retries"], left["checkpoint"]) == ("all", 10, 0)


@pytest.mark.parametrize(("method", "path", "body", "status"), COMMANDS[:3])
async def test_a_command_that_is_on_its_way_is_for_the_subscription_that_was_seen(
    cluster: Reef, monkeypatch: pytest.MonkeyPatch, method: str, path: str, body: Any, status: int
) -> None:
    leader = await cluster.grow()
    follower = cluster.up["n2"]
    await leader.board.call("PUT", ONE, PUBLIC)
    await until(lambda: "s" in known(follower))
    sequencer: Any = leader.node.node.sequencer
    take, held = sequencer.followers.take, []
    monkeypatch.setattr(sequencer.followers, "take", lambda *passed_on: held.append(passed_on))
    call = asyncio.create_task(follower.board.call(method, ONE + path, body))
    await until(lambda: held)
    await leader.board.call("DELETE", ONE)
    await leader.board.call("PUT", ONE, PUBLIC)
    monkeypatch.undo()
    for passed_on in held:
        take(*passed_on)
    assert ((await call).status, (await call).code) == (404, "not-found")
    assert (await follower.board.call(method, ONE + path, body)).status == status


async def test_a_token_for_some_streams_pulls_from_no_other_subscription_with_a_slow_body(
    cluster: Reef,
) -> None:
    board = (await cluster.grow(1)).board
    admin = bearer(await add(cluster.directory / "n1", "admin"))
    text = await add(cluster.directory / "n1", "read", ["pub"])
    assert (await board.call("PUT", ONE, PUBLIC, headers=admin)).status == 201
    assert (await board.append("secret", 1, headers=admin)).status == 201
    reader, writer = await asyncio.open_connection(*board.address)
    head = f"POST {ONE}/pull HTTP/1.1\r\nHost: b\r\nAuthorization: Bearer {text}\r\nContent-Length: 2\r\n"
    writer.write(
        f"{head}Content-Type: application/json\r\nConnection: close\r\nExpect: 100-continue\r\n\r\n".encode()
    )
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n", "the body is awaited"
    await board.call("DELETE", ONE, headers=admin)
    assert (await board.call("PUT", ONE, ALL, headers=admin)).status == 201
    writer.write(b"{}")
    answer = await reader.read()
    writer.close()
    assert answer.startswith(b"HTTP/1.1 403 "), answer


async def test_a_waiting_pull_is_of_the_subscription_that_was_checked(
    cluster: Reef, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the loop has to do comes before the check, or after the lease."""
    leader = await cluster.grow(1)
    board, memory = leader.board, known(leader)
    admin = bearer(await add(cluster.directory / "n1", "admin"))
    text = await add(cluster.directory / "n1", "read", ["pub"])
    await board.call("PUT", ONE, PUBLIC, headers=admin)
    await board.call("PUT", "/v1/subscriptions/t", ALL, headers=admin)
    await board.append("secret", 1, headers=admin)
    loop, attend = asyncio.get_running_loop(), lasting.attend

    def decided() -> None:
        memory["s"] = structs.replace(memory["t"], name="s")

    async def later(call: Any, work: Any, left: Any) -> Any:
        loop.call_soon(decided)
        return await attend(call, work, left)

    monkeypatch.setattr(lasting, "attend", later)
    pulled = await board.call("POST", f"{ONE}/pull", {"wait_ms": 100}, headers=bearer(text))
    assert (pulled.status, pulled.code) == (403, "forbidden")
