"""What only the leader answers, asked of a follower: boards of one process, real TLS between them, real HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from cluster_kit import Member, Reef, reef, until
from http_board import Reply
from token_kit import add, bearer, revoke

from shoal.cluster.identity import issue, load_identity
from shoal.http import auth
from shoal.http.auth import ACCESS, encode_access
from shoal.http.pacing import LARGE_BYTES
from shoal.http.passing import CONNECT_S
from shoal.raft.member_keys import is_retired
from shoal_host.local_cluster import free_ports

ONE = "/v1/subscriptions/s"
ALL = {"type": "all"}
OF_LEADER = f"{ONE}/stats"


@pytest_asyncio.fixture
async def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Reef]:
    async with reef(tmp_path, monkeypatch) as made:
        yield made


async def two(cluster: Reef, **values: Any) -> tuple[Member, Member]:
    """The leader and a follower."""
    leader = await cluster.grow(2, **values)
    return leader, cluster.up["n2"]


def passed_to(member: Member) -> int:
    """Requests over the peers' port that wait for their answer here."""
    connections: Any = member.node.peer_http
    waiting: int = connections._under_way
    return waiting


def leases(reply: Reply) -> list[str]:
    assert reply.status == 200, reply.body
    return [event["lease"] for event in reply.json["events"]]


@asynccontextmanager
async def pushed(member: Member, headers: dict[str, str]) -> AsyncIterator[aiohttp.ClientResponse]:
    url = f"{member.board.url}{ONE}/events"
    async with member.board.session.get(url, headers={"Accept": "text/event-stream", **headers}) as answer:
        assert (answer.status, answer.content_type) == (200, "text/event-stream"), await answer.text()
        yield answer


async def test_a_consumer_at_a_follower_is_served_whole(cluster: Reef) -> None:
    _, follower = await two(cluster)
    board = follower.board
    made = await board.call("PUT", ONE, ALL)
    assert made.status == 201
    assert (await board.append("orders", 1, 2)).status == 201
    pulled = await board.call("POST", f"{ONE}/pull", {"count": 2, "wait_ms": 5_000})
    assert [event["data"] for event in pulled.json["events"]] == [1, 2]
    assert (await board.call("POST", f"{ONE}/ack", {"leases": leases(pulled)})).status in {200, 204}
    again = await board.call("POST", f"{ONE}/pull", {"count": 2, "wait_ms": 0})
    assert leases(again) == []
    assert (await board.call("GET", "/v1/subscriptions/none")).code == "not-found"


async def test_a_target_may_be_a_whole_url_at_a_follower_too(cluster: Reef) -> None:
    _, follower = await two(cluster)
    await follower.board.call("PUT", ONE, ALL)
    host, port = follower.board.address
    sent = (
        f"GET http://{host}:{port}{OF_LEADER}?wait_ms=5 HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    )
    answer = await follower.board.raw(sent.encode())
    assert answer.startswith(b"HTTP/1.1 200 "), answer
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["name"] == "s"


async def test_waiting_pulls_keep_no_ack_from_the_leader(cluster: Reef) -> None:
    leader, follower = await two(cluster)
    board = follower.board
    await board.call("PUT", ONE, {**ALL, "strategy": "round_robin"})
    await board.append("orders", 1)
    pulled = await board.call("POST", f"{ONE}/pull", {"wait_ms": 5_000, "consumer": "0"})
    count = 260
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        url = f"{board.url}{ONE}/pull"

        async def wait(consumer: str) -> None:
            async with session.post(url, json={"wait_ms": 60_000, "consumer": consumer}) as answer:
                pytest.fail(f"{consumer} waits no more: {await answer.text()}")

        waits: list[asyncio.Task[None]] = []
        # Some at a time: both boards share this loop, and must hear each other meanwhile.
        for begun in range(20, count + 1, 20):
            waits += [asyncio.create_task(wait(str(begun - number))) for number in range(20)]
            await until(lambda begun=begun: passed_to(leader) >= begun)  # type: ignore[misc] # bound now
        acked = await asyncio.wait_for(
            board.call("POST", f"{ONE}/ack", {"leases": leases(pulled)}), timeout=10
        )
        assert acked.status in {200, 204}
        assert not any(waiting.done() for waiting in waits)
        for waiting in waits:
            waiting.cancel()
        await asyncio.wait(waits)
    await until(lambda: passed_to(leader) == 0)  # who has left leaves at the leader too


async def test_a_push_through_a_follower_lives_as_long_as_its_token(
    cluster: Reef, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Boards have tokens of their own: the leader does not know the follower's, and takes its word."""
    monkeypatch.setattr(auth, "FRESH_S", 0.0)
    monkeypatch.setattr(auth, "WATCH_S", 0.01)
    leader, follower = await two(cluster)
    await add(cluster.directory / "n1", "admin")
    token = await add(cluster.directory / "n2", "admin")
    board, key = follower.board, bearer(token)
    assert (await board.call("PUT", ONE, ALL, headers=key)).status == 201
    assert (await leader.board.call("GET", OF_LEADER, headers=key)).code == "unauthorized"
    async with pushed(follower, key) as answer:
        assert (await board.append("orders", 7, headers=key)).status == 201
        seen = b""
        while b'"data":7' not in seen:
            seen += await asyncio.wait_for(answer.content.readany(), 5)
        assert passed_to(leader) == 1
        await revoke(cluster.directory / "n2", token)
        with pytest.raises(aiohttp.ClientError):  # cut short: a chunked answer without its end
            await asyncio.wait_for(answer.content.read(), 10)
    await until(lambda: passed_to(leader) == 0)


async def test_what_a_token_may_touch_goes_along_and_only_between_members(
    cluster: Reef, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auth, "FRESH_S", 0.0)
    _, follower = await two(cluster)
    await follower.board.call("PUT", ONE, {"type": "stream", "selector": "boat-1"})
    key = bearer(await add(cluster.directory / "n2", "admin", ["barn-*"]))
    forged = {ACCESS: encode_access(auth.EVERYTHING)}
    board, pull = follower.board, {"wait_ms": 0}
    assert (await board.call("POST", f"{ONE}/pull", pull, headers=key)).code == "forbidden"
    assert (await board.call("POST", f"{ONE}/pull", pull, headers={**key, **forged})).code == "forbidden"
    assert (await board.call("POST", f"{ONE}/pull", pull, headers=forged)).code == "unauthorized"
    reader = bearer(await add(cluster.directory / "n2", "read"))
    assert (await board.call("POST", f"{ONE}/pull", pull, headers=reader)).status == 200


async def test_a_member_that_says_nothing_of_access_is_refused(cluster: Reef) -> None:
    leader, follower = await two(cluster)
    url = f"https://{cluster.peer_address('n1')}{OF_LEADER}"
    context = follower.node.http_context()
    session = follower.board.session
    for headers in ({}, {ACCESS: "?"}, {ACCESS: "e30="}):
        async with session.get(url, ssl=context, server_hostname="", headers=headers) as answer:
            assert answer.status == 400, await answer.text()
            assert (await answer.json(content_type=None))["pointer"] == ACCESS
    assert leader.node.obstacle() is None


async def test_a_leader_that_cannot_be_reached_did_nothing(
    cluster: Reef, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, follower = await two(cluster)
    (port,) = free_ports(1)
    monkeypatch.setattr(follower.node, "where", lambda: ("n1", f"127.0.0.1:{port}"))
    refused = await follower.board.call("GET", OF_LEADER)
    assert (refused.code, refused.json["outcome"]) == ("no-leader", "not-applied")


async def test_a_leader_that_takes_no_connection_did_nothing(
    cluster: Reef, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection is awaited for so long, and what was not sent was not done."""
    _, follower = await two(cluster)
    passing: Any = follower.shoald._service.context.passing
    session = passing._session_to("n1")
    assert session.timeout.sock_connect == CONNECT_S
    monkeypatch.setattr(session, "request", _never_connected)
    refused = await follower.board.call("GET", OF_LEADER)
    assert (refused.code, refused.json["outcome"]) == ("no-leader", "not-applied")


def _never_connected(*_arguments: Any, **_options: Any) -> Any:
    raise aiohttp.ConnectionTimeoutError("connection timeout")


async def test_a_leader_that_hands_over_answers_for_itself(cluster: Reef) -> None:
    leader, follower = await two(cluster)
    await follower.board.call("PUT", ONE, ALL)
    pull = asyncio.create_task(follower.board.call("POST", f"{ONE}/pull", {"wait_ms": 60_000}))
    await until(lambda: passed_to(leader) == 1)
    handed = await follower.change("transfer-leader", node_id="n2")
    assert handed["leader"] == "n2"
    answer = await asyncio.wait_for(pull, 10)
    assert (answer.code, answer.json["outcome"]) == ("no-leader", "not-applied")
    await until(lambda: follower.node._driver.serves)
    assert (await follower.board.call("POST", f"{ONE}/pull", {"wait_ms": 0})).status == 200


async def test_a_leader_that_is_sent_away_through_a_follower_says_that_it_is_done(cluster: Reef) -> None:
    await cluster.grow(3)
    view = await cluster.up["n3"].change("leave", node_id="n1")
    assert [member["id"] for member in view["members"]] == ["n2", "n3"]


async def test_a_leader_that_is_gone_and_says_nothing_is_not_waited_for(
    cluster: Reef, monkeypatch: pytest.MonkeyPatch
) -> None:
    leader, follower = await two(cluster)
    await follower.board.call("PUT", ONE, ALL)
    pull = asyncio.create_task(follower.board.call("POST", f"{ONE}/pull", {"wait_ms": 60_000}))
    await until(lambda: passed_to(leader) == 1)
    monkeypatch.setattr(follower.node, "where", lambda: ("n9", "127.0.0.1:1"))
    follower.node._on_moved()
    answer = await asyncio.wait_for(pull, 10)
    assert (answer.status, answer.code) == (503, "outcome-unknown")
    await until(lambda: passed_to(leader) == 0)


async def test_a_follower_that_closes_answers_what_it_passed_on(cluster: Reef) -> None:
    leader, follower = await two(cluster)
    await follower.board.call("PUT", ONE, ALL)
    pull = asyncio.create_task(follower.board.call("POST", f"{ONE}/pull", {"wait_ms": 60_000}))
    await until(lambda: passed_to(leader) == 1)
    await asyncio.wait_for(cluster.stop("n2"), 10)
    answer = await asyncio.wait_for(pull, 5)
    assert (answer.status, answer.code, answer.json["outcome"]) == (503, "shutting-down", "unknown")
    await until(lambda: passed_to(leader) == 0)


async def test_a_large_answer_comes_whole_with_its_length(cluster: Reef) -> None:
    _, follower = await two(cluster)
    board = follower.board
    await board.call("PUT", ONE, ALL)
    assert (await board.append("large", *("x" * 60_000 for _ in range(4)))).status == 201
    pulled = await board.call("POST", f"{ONE}/pull", {"count": 4, "wait_ms": 5_000})
    assert len(leases(pulled)) == 4
    assert int(pulled.headers["Content-Length"]) == len(pulled.body) > LARGE_BYTES


async def test_nothing_is_passed_on_to_who_is_not_the_leader(
    cluster: Reef, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody took the leader's address, and has a key of the cluster: another node's, or one that was renewed."""
    leader, follower = await two(cluster)
    tls_dir = cluster.directory / "tls" / "n1"
    renewed = await asyncio.to_thread(load_identity, tls_dir)
    await asyncio.to_thread(partial(issue, cluster.authority, "n1", tls_dir, renew=True))
    leader.node._use_identity(await asyncio.to_thread(load_identity, tls_dir))
    for member in (leader, follower):
        members = member.node.members
        await until(lambda members=members: is_retired(members.configuration, renewed.key_hash))  # type: ignore[misc] # bound now
    await until(lambda: leader.node.is_alive("n2") and follower.node.is_alive("n1"))
    assert (await follower.board.call("PUT", ONE, ALL)).status == 201
    other = await asyncio.to_thread(load_identity, cluster.directory / "tls" / "n2")
    heard: list[bytes] = []

    async def hear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.read())
        writer.close()

    for identity in (other, renewed):
        server = await asyncio.start_server(hear, "127.0.0.1", 0, ssl=identity.accept)
        host, port = server.sockets[0].getsockname()
        monkeypatch.setattr(follower.node, "where", lambda host=host, port=port: ("n1", f"{host}:{port}"))
        refused = await follower.board.call("POST", f"{ONE}/pull", {"wait_ms": 0})
        assert (refused.status, refused.code, refused.json["outcome"]) == (503, "no-leader", "not-applied")
        assert "somebody else" in refused.json["detail"]
        server.close()
        await server.wait_closed()
    await until(lambda: heard == [b"", b""])


async def test_connections_of_before_the_leaders_key_was_renewed_are_made_anew(cluster: Reef) -> None:
    leader, follower = await two(cluster)
    board = follower.board
    assert (await board.call("PUT", ONE, ALL)).status == 201
    pulls = [board.call("POST", f"{ONE}/pull", {"wait_ms": 200, "consumer": f"c{n}"}) for n in range(4)]
    assert [reply.status for reply in await asyncio.gather(*pulls)] == [200] * 4, "as many are kept"
    tls_dir = cluster.directory / "tls" / "n1"
    before = await asyncio.to_thread(load_identity, tls_dir)
    await asyncio.to_thread(partial(issue, cluster.authority, "n1", tls_dir, renew=True))
    leader.node._use_identity(await asyncio.to_thread(load_identity, tls_dir))
    members = follower.node.members
    await until(lambda: is_retired(members.configuration, before.key_hash))
    await until(lambda: leader.node.is_alive("n2") and follower.node.is_alive("n1"))
    assert (await board.call("POST", f"{ONE}/pull", {"wait_ms": 0})).status == 200
