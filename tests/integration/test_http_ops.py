"""For operators: liveness, readiness, metrics, info, health, stores, what is not there, and the OpenAPI document."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest
from http_board import Board, configured, running_board

import shoal
from shoal.errors import StorageError
from shoal.http import Connections, Service
from shoal.testing.clock import FakeClock
from shoal.testing.memory_node import MemoryNode
from shoal.tokens import TokenFile
from shoal_host.local_cluster import free_ports, issue_identities

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_running_board_is_alive_and_ready(board: Board) -> None:
    assert (await board.call("GET", "/livez")).json == {"status": "alive"}
    ready = await board.call("GET", "/readyz?leader=true&lag_ms=0")
    assert (ready.status, ready.json["role"]) == (200, "leader")


async def test_info_says_what_the_board_is(shared_board: Board) -> None:
    info = (await shared_board.call("GET", "/v1/info")).json
    assert info["version"] == shoal.__version__
    assert info["node"]["mode"] == "single"
    assert info["node"]["node_id"]
    assert "main" in info["stores"]
    assert info["limits"]["depth"] == 64
    assert info["peers"] == []


async def test_health_is_read_from_the_machine(shared_board: Board) -> None:
    health = (await shared_board.call("GET", "/v1/health")).json
    assert health["level"] in {"ok", "elevated", "critical"}
    assert 0 < health["memory"]["available_bytes"] <= health["memory"]["total_bytes"]
    assert health["disk"]["total_bytes"] > 0
    assert health["process"]["rss_bytes"] > 0


async def test_metrics_count_what_happened(tmp_path: Path) -> None:
    async with running_board(tmp_path) as board:
        await board.append("s", 1, 2)
        await board.append("s?expected_version=9", 1)
        page = await board.call("GET", "/metrics")
        assert page.headers["Content-Type"].startswith("text/plain")
        lines = page.body.decode().splitlines()
        counted = [line for line in lines if line.startswith("shoal_events_appended_total")]
        assert sum(float(line.split()[-1]) for line in counted) == 2
        assert any(line.startswith("shoal_http_answers_total") and "409" in line for line in lines)


async def test_a_sound_board_verifies_and_a_changed_byte_is_found(tmp_path: Path) -> None:
    async with running_board(tmp_path) as board:
        await board.append("s", *range(3))
        await board.call("PUT", "/v1/streams/s/snapshots/1", {"data": {"n": 1}})
        found = (await board.call("POST", "/v1/verify")).json
        assert found["ok"] is True
        assert found["problems"] == []
        assert found["subscriptions"] == 0
        assert (found["stores"], found["streams"], found["events"], found["snapshots"]) == (1, 1, 3, 1)
        (database,) = (tmp_path / "db").glob("*/main-*.db")
        await change_an_event(database)
        found = (await board.call("POST", "/v1/verify")).json
        assert found["ok"] is False
        assert "version 1" in str(found["problems"]) or "position 2" in str(found["problems"])


async def change_an_event(database: Path) -> None:
    """What a failing card does, seen through SQLite; by another process, as two SQLites in one break its locks."""
    statement = "UPDATE event SET data = X'37' WHERE version = 1"
    script = f'import sqlite3\nwith sqlite3.connect({str(database)!r}) as connection: connection.execute("{statement}")'
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", script)
    assert await process.wait() == 0


async def test_stores_are_created_used_and_dropped(tmp_path: Path) -> None:
    async with running_board(tmp_path) as board:
        assert (await board.call("PUT", "/v1/stores/two")).status == 201
        assert (await board.call("PUT", "/v1/stores/two")).status == 200
        await board.append("s", 1)
        events = [{"event_type": "t", "data": 2}]
        made = await board.call("POST", "/v1/stores/two/streams/s", events)
        assert (made.status, made.json["position"]) == (201, 1)
        assert made.headers["Location"] == "/v1/stores/two/streams/s/0"
        assert (await board.call("GET", "/v1/stores/two/streams/s/0")).json["data"] == 2
        assert (await board.call("GET", "/v1/stores/main/streams/s/0")).json["data"] == 1
        listed = (await board.call("GET", "/v1/stores")).json
        assert listed == {"stores": [{"name": "main", "head": 1}, {"name": "two", "head": 1}]}
        assert (await board.call("GET", "/v1/stores/two")).json == {"name": "two", "head": 1}
        assert (await board.call("DELETE", "/v1/stores/two")).status == 204
        assert (await board.call("DELETE", "/v1/stores/two")).status == 204
        for path in ("/v1/stores/two", "/v1/stores/two/streams/s", "/v1/stores/two/events"):
            assert (await board.call("GET", path)).code == "not-found"
        assert (await board.call("PUT", "/v1/stores/two")).status == 201
        assert (await board.call("GET", "/v1/stores/two/streams/s")).code == "stream-not-found"


async def test_boards_of_a_cluster_show_whom_they_heard(tmp_path: Path) -> None:
    values = {
        "mode": "cluster",
        "discovery.secret": "a secret of the test",
        "discovery.multicast_addr": "239.255.77.9",
        "discovery.port": 45_977,
        "discovery.interval_ms": 100,
    }
    keys = await asyncio.to_thread(issue_identities, tmp_path / "tls", ["a", "b"])
    (port,) = free_ports(1)
    first = running_board(
        tmp_path / "a",
        values | {"tls_dir": keys["a"], "peer_listen": f"127.0.0.1:{port}", "bootstrap_expect": 0},
    )
    other_values = values | {"tls_dir": keys["b"], "peer_listen": "127.0.0.1:0", "bootstrap_expect": 0}
    async with first as one, running_board(tmp_path / "b", other_values) as other:
        async with asyncio.timeout(20):
            while not (peers := (await other.call("GET", "/v1/info")).json["peers"]):
                pass
        assert (peers[0]["node_id"], peers[0]["addresses"]) == ("a", [f"127.0.0.1:{port}"])
        assert (await one.call("GET", "/v1/info")).json["node"]["mode"] == "cluster"


@pytest.mark.parametrize("name", ["", ".", "-a", "a%20b", "a%2Fb", "%C3%BC", "x" * 65, "%00"])
async def test_a_store_needs_a_plain_name(board: Board, name: str) -> None:
    reply = await board.call("PUT", f"/v1/stores/{name}")
    assert (reply.status, reply.code, reply.json["pointer"]) == (400, "invalid-request", "store")
    assert (await board.call("GET", f"/v1/stores/{name}/events")).status == 400


async def test_there_is_an_end_to_stores(tmp_path: Path) -> None:
    async with running_board(tmp_path, {"http.max_stores": 2}) as board:
        assert (await board.call("PUT", "/v1/stores/two")).status == 201
        assert (await board.call("PUT", "/v1/stores/three")).code == "invalid-request"
        assert (await board.call("PUT", "/v1/stores/two")).status == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/v1"),
        ("GET", "/v2/streams"),
        ("GET", "/v1/streams/a/b/c/d"),
        ("GET", "/v1/subscriptions/x/y"),
        ("PUT", "/v1/subscriptions/x/pull/y"),
        ("GET", "/v1/streams/a/version_at?at=1"),
        ("POST", "/v1/streams/a/scavenge"),
        ("GET", "/v1/events/x/effects"),
        ("GET", "/v1/backup"),
        ("GET", "/livez/"),
    ],
)
async def test_what_is_not_there_is_404(shared_board: Board, method: str, path: str) -> None:
    reply = await shared_board.call(method, path)
    assert (reply.status, reply.code) == (404, "not-found")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PATCH", "/v1/streams/a", "DELETE, GET, HEAD, POST"),
        ("POST", "/livez", "GET"),
        ("OPTIONS", "/v1/events", "GET"),
        ("GET", "/v1/query", "POST"),
        ("PROPFIND", "/v1/events", "GET"),
    ],
)
async def test_another_method_is_405_and_says_which(
    board: Board, method: str, path: str, allowed: str
) -> None:
    reply = await board.call(method, path)
    assert (reply.status, reply.code, reply.headers["Allow"]) == (405, "invalid-request", allowed)


async def test_a_whole_url_as_target_is_understood(shared_board: Board) -> None:
    """RFC 9112, 3.2.2: as a proxy's client sends it."""
    answer = await shared_board.raw(b"GET http://x/livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert b" 200 " in answer.splitlines()[0]


async def test_a_leaving_or_failed_node_is_not_ready(tmp_path: Path) -> None:
    clock = FakeClock()
    node = MemoryNode(clock)
    service = Service(node, configured(tmp_path), TokenFile(tmp_path), now_ms=lambda: 0)
    connections = Connections(service.handle, limit=9, header_timeout_s=9)
    server = await asyncio.get_running_loop().create_server(connections, "127.0.0.1", 0)
    import aiohttp

    async with aiohttp.ClientSession() as session:
        url = "http://127.0.0.1:%d" % server.sockets[0].getsockname()[1]
        board = Board(url, session)
        assert (await board.call("GET", "/readyz")).status == 200
        node.failed.set_exception(StorageError("the disk is gone"))
        assert (await board.call("GET", "/readyz")).code == "storage-error"
        service.context.closing.set()
        leaving = await board.call("GET", "/readyz")
        assert (leaving.status, leaving.code) == (503, "shutting-down")
        assert (await board.call("GET", "/livez")).status == 200
    server.close()
    assert isinstance(node.failed.exception(), StorageError)
