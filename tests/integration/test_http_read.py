"""Reading over HTTP: pages, directions, links, events of all streams, queries, snapshots, folding, parameters."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.parse import quote

import pytest
from http_board import Board

from shoal.store.context import StoreContext

pytestmark = pytest.mark.asyncio(loop_scope="module")


def datas(reply: Any) -> list[Any]:
    """The payloads of a page."""
    return [event["data"] for event in reply.json["events"]]


async def test_a_stream_is_read_in_pages_both_ways(board: Board) -> None:
    await board.append("s", *range(5))
    first = await board.call("GET", "/v1/streams/s?limit=2")
    assert (datas(first), first.json["next"], first.json["version"]) == ([0, 1], 2, 4)
    assert first.headers["ETag"] == '"4"'
    link = first.headers["Link"].removeprefix("<").partition(">")[0]
    assert datas(await board.call("GET", link)) == [2, 3]
    last = await board.call("GET", "/v1/streams/s?from=4&limit=2")
    assert (datas(last), last.json["next"]) == ([4], None)
    assert "Link" not in last.headers
    backward = await board.call("GET", "/v1/streams/s?direction=backward&limit=2")
    assert (datas(backward), backward.json["next"]) == ([4, 3], 2)
    beyond = await board.call("GET", "/v1/streams/s?direction=backward&from=99&limit=10")
    assert datas(beyond) == [4, 3, 2, 1, 0]


async def test_reading_past_the_head_is_an_empty_page(board: Board) -> None:
    await board.append("s", 1)
    reply = await board.call("GET", "/v1/streams/s?from=7")
    assert (reply.status, reply.json["events"], reply.json["next"], reply.json["version"]) == (
        200,
        [],
        None,
        0,
    )


async def test_an_event_says_all_about_itself(board: Board) -> None:
    sent = {"event_type": "t", "data": {"a": 1}, "metadata": {"m": 2}, "tags": ["x"], "event_id": "id-1"}
    await board.append("s", sent)
    event = (await board.call("GET", "/v1/streams/s/0")).json
    assert sent.items() <= event.items()
    assert event["stream_id"] == "s"
    assert (event["version"], event["position"]) == (0, 1)
    assert event["timestamp"].endswith("Z")
    assert event["data_content_type"] == event["metadata_content_type"] == "application/json"
    assert (await board.call("GET", "/v1/events/id-1")).json == event


async def test_answers_say_where_they_come_from(board: Board) -> None:
    await board.append("s", 1, 2)
    for method, path in (("GET", "/v1/streams/s"), ("HEAD", "/v1/streams/s"), ("GET", "/v1/events")):
        headers = (await board.call(method, path)).headers
        assert headers["Shoal-Position"] == "2"
        assert headers["Shoal-Role"] == "leader"
        assert headers["Shoal-Node"]


async def test_what_is_missing_is_404_and_what_is_gone_for_ever_410(board: Board) -> None:
    await board.append("s", 1)
    assert (await board.call("GET", "/v1/streams/nope")).code == "stream-not-found"
    assert (await board.call("GET", "/v1/streams/s/9")).code == "not-found"
    assert (await board.call("GET", "/v1/events/nope")).code == "not-found"
    assert (await board.call("HEAD", "/v1/streams/nope")).status == 404
    assert (await board.call("DELETE", "/v1/streams/s?expected_version=3")).code == "wrong-expected-version"
    assert (await board.call("DELETE", "/v1/streams/s")).status == 204
    assert (await board.call("DELETE", "/v1/streams/s")).status == 204
    assert (await board.call("GET", "/v1/streams/s")).code == "stream-not-found"
    assert (await board.append("s?expected_version=-1", 2)).json["version"] == 1
    assert datas(await board.call("GET", "/v1/streams/s")) == [2]
    assert (await board.call("DELETE", "/v1/streams/s?hard=true")).status == 204
    gone = await board.append("s", 3)
    assert (gone.status, gone.code) == (410, "stream-tombstoned")
    assert (await board.call("GET", "/v1/streams/s")).status == 410
    assert (await board.call("HEAD", "/v1/streams/s")).status == 410


async def test_one_id_in_two_streams_is_ambiguous(board: Board) -> None:
    event = {"event_type": "t", "data": 1, "event_id": "same"}
    await board.append("a", event)
    await board.append("b", event)
    reply = await board.call("GET", "/v1/events/same")
    assert (reply.status, reply.code) == (409, "ambiguous")
    assert {candidate["stream_id"] for candidate in reply.json["candidates"]} == {"a", "b"}
    assert (await board.call("GET", "/v1/events/same?stream=b")).json["stream_id"] == "b"


STRANGE = [
    "a/b",
    "%",
    "ü",
    "a b",
    "a+b",
    "~",
    "*",
    "a?b#c",
    "\n",
    "snapshots",
    "...",
    "\U0001f41f",
    "x" * 512,
]


@pytest.mark.parametrize("stream", STRANGE)
async def test_strange_ids_are_carried_percent_encoded(board: Board, stream: str) -> None:
    encoded = quote(stream, safe="")
    reply = await board.append(encoded, 1)
    assert (reply.status, reply.json["stream_id"]) == (201, stream)
    assert (await board.call("GET", reply.headers["Location"])).json["stream_id"] == stream
    assert (await board.call("GET", "/v1/streams")).json["streams"] == [{"stream_id": stream, "version": 0}]


@pytest.mark.parametrize(
    "raw",
    [
        "",
        ".",
        "..",
        "%2E",
        "%2e%2E",
        "%00",
        "a%00b",
        "%",
        "%4",
        "%zz",
        "%FF",
        "%C3%28",
        "x" * 513,
        "%C3%BC" * 257,
    ],
)
async def test_bad_ids_are_400_whatever_the_method(board: Board, raw: str) -> None:
    for method, body in (("GET", None), ("POST", [])):
        reply = await board.call(method, f"/v1/streams/{raw}", body)
        assert (reply.status, reply.code) == (400, "invalid-request"), raw
        assert reply.json["pointer"] == "stream_id"
    assert (await board.call("GET", f"/v1/streams/{raw}/snapshots")).status == 400


@pytest.mark.parametrize(
    ("path", "pointer"),
    [
        ("/v1/streams/s?limit=0", "limit"),
        ("/v1/streams/s?limit=10001", "limit"),
        ("/v1/streams/s?limit=-1", "limit"),
        ("/v1/streams/s?limit=", "limit"),
        ("/v1/streams/s?limit", "limit"),
        ("/v1/streams/s?limit=1.0", "limit"),
        ("/v1/streams/s?limit=%31%30%FF", "limit"),
        ("/v1/streams/s?limit=1&limit=1", "limit"),
        ("/v1/streams/s?limit=99999999999999999999", "limit"),
        ("/v1/streams/s?from=-1", "from"),
        ("/v1/streams/s?from=abc", "from"),
        ("/v1/streams/s?direction=up", "direction"),
        ("/v1/streams/s?after=1", "after"),
        ("/v1/streams/s?consistency=strong", "consistency"),
        ("/v1/streams/s?wait_ms=-1", "wait_ms"),
        ("/v1/streams/s/-1", "version"),
        ("/v1/streams/s/abc", "version"),
        ("/v1/streams/s/01", "version"),
        ("/v1/streams/s/9007199254740992", "version"),
        ("/v1/streams/s/aggregate?finalize=yes", "finalize"),
        ("/v1/streams/s/aggregate?fold=up", "fold"),
        ("/v1/streams?after=", "after"),
        ("/v1/events?after=-1", "after"),
        ("/v1/events?types=", "types"),
        ("/v1/events?types=a,,b", "types"),
        ("/v1/events?tags_match=some", "tags_match"),
        ("/v1/events?limit=2&x=1", "x"),
        ("/readyz?leader=1", "leader"),
        ("/livez?x=1", "x"),
    ],
)
async def test_a_bad_parameter_is_400_and_named(board: Board, path: str, pointer: str) -> None:
    await board.append("s", 1)
    reply = await board.call("GET", path)
    assert (reply.status, reply.code) == (400, "invalid-request")
    assert reply.json["pointer"].split("/")[0] == pointer
    assert pointer in reply.json["detail"]


@pytest.mark.parametrize("consistency", ["local", "leader", "linearizable"])
async def test_every_consistency_is_the_same_on_one_board(board: Board, consistency: str) -> None:
    await board.append("s", 1)
    assert datas(await board.call("GET", f"/v1/streams/s?consistency={consistency}")) == [1]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/streams/s?"),
        ("HEAD", "/v1/streams/s?"),
        ("GET", "/v1/streams/s/0?"),
        ("GET", "/v1/streams/s/aggregate?"),
        ("GET", "/v1/streams?"),
        ("GET", "/v1/events?"),
        ("GET", "/v1/events/an-id?"),
        ("POST", "/v1/query?"),
        ("GET", "/v1/streams/s/snapshots?"),
        ("GET", "/v1/streams/s/snapshots/latest?"),
        ("GET", "/v1/streams/s/snapshots/0?"),
    ],
)
async def test_a_read_is_settled_as_it_asks_for(
    board: Board, monkeypatch: pytest.MonkeyPatch, method: str, path: str
) -> None:
    """On one board nothing else tells them apart."""
    await board.append("s", {"event_type": "t", "data": {}, "event_id": "an-id"})
    assert (await board.call("PUT", "/v1/streams/s/snapshots/0", {"data": {}})).status == 204
    settled: list[str | None] = []
    settle = StoreContext.settle_reads

    async def settle_reads(self: StoreContext, consistency: Any) -> None:
        settled.append(consistency)
        await settle(self, consistency)

    monkeypatch.setattr(StoreContext, "settle_reads", settle_reads)
    body = {"items": [{"types": ["t"]}]} if method == "POST" else None
    for consistency in ("local", "leader", "linearizable"):
        reply = await board.call(method, f"{path}consistency={consistency}", body)
        assert reply.status == 200
        assert settled.pop(0) == consistency
        assert set(settled) <= {"local"}  # what follows reads on where the first has settled
        settled.clear()
    await board.call(method, path.rstrip("?"), body)
    assert settled[0] == "leader"


async def test_a_read_can_wait_for_a_position(board: Board) -> None:
    """It answers when the position is there, and 503 when it does not come."""
    waiting = asyncio.create_task(board.call("GET", "/v1/events?wait_for=1&wait_ms=10000"))
    await board.append("s", 1)
    assert datas(await waiting) == [1]
    late = await board.call("GET", "/v1/events?wait_for=2&wait_ms=1")
    assert (late.status, late.code, late.json["retryable"]) == (503, "timeout", True)
    assert late.headers["Retry-After"] == "1"


async def test_ndjson_is_whole_only_with_its_last_line(board: Board) -> None:
    await board.append("s", *range(3))
    await board.call("POST", "/v1/streams/s", b'[{"event_type":"t","data":{"a":\n1,\r\n"b":[]}}]')
    reply = await board.call("GET", "/v1/streams/s?from=1", headers={"Accept": "application/x-ndjson"})
    assert reply.headers["Content-Type"] == "application/x-ndjson"
    *events, end = [json.loads(line) for line in reply.body.splitlines()]
    assert [event["data"] for event in events] == [1, 2, {"a": 1, "b": []}]
    assert end == {"end": True, "version": 3}


@pytest.mark.parametrize("accept", ["image/png", "text/event-stream;q=0", "application/json;q=0"])
async def test_what_nobody_can_read_is_406(board: Board, accept: str) -> None:
    await board.append("s", 1)
    reply = await board.call("GET", "/v1/streams/s", headers={"Accept": accept})
    assert (reply.status, reply.code) == (406, "not-acceptable")


async def test_streams_are_listed_by_id(board: Board) -> None:
    for stream in ("b", "a", "ab", "c"):
        await board.append(stream, 1)
    first = await board.call("GET", "/v1/streams?limit=2")
    assert [stream["stream_id"] for stream in first.json["streams"]] == ["a", "ab"]
    rest = await board.call("GET", first.headers["Link"].removeprefix("<").partition(">")[0])
    assert [stream["stream_id"] for stream in rest.json["streams"]] == ["b", "c"]
    for query in ("prefix=a", "pattern=a*"):
        found = await board.call("GET", f"/v1/streams?{query}")
        assert [stream["stream_id"] for stream in found.json["streams"]] == ["a", "ab"]


async def test_all_events_are_read_by_position_and_selected(board: Board) -> None:
    await board.append("a", {"event_type": "x", "data": 0, "tags": ["p", "q"]})
    await board.append("b", {"event_type": "y", "data": 1, "tags": ["q"]}, {"event_type": "z", "data": 2})
    await board.append("ab", {"event_type": "x", "data": 3})
    cases = {
        "": [0, 1, 2, 3],
        "?after=1&limit=2": [1, 2],
        "?direction=backward": [3, 2, 1, 0],
        "?direction=backward&after=3": [1, 0],
        "?types=x": [0, 3],
        "?types=x,y": [0, 1, 3],
        "?tags=p,q": [0, 1],
        "?tags=p,q&tags_match=all": [0],
        "?stream_pattern=a*": [0, 3],
        "?stream_pattern=?&types=x,y": [0, 1],
        "?types=nothing": [],
    }
    for query, expected in cases.items():
        assert datas(await board.call("GET", f"/v1/events{query}")) == expected, query
    moved = (await board.call("GET", "/v1/events?types=nothing")).json
    assert (moved["head"], moved["next"]) == (4, 4)


async def test_a_query_selects_by_items(board: Board) -> None:
    """Types are alternatives, tags all needed, items alternatives."""
    await board.append(
        "s",
        *(
            {"event_type": t, "data": t, "tags": list(tags)}
            for t, tags in [("x", "pq"), ("y", "p"), ("x", "q")]
        ),
    )
    cases: list[tuple[Any, list[str]]] = [
        ({"items": [{"types": ["x"], "tags": ["p"]}]}, ["x"]),
        ({"items": [{"types": ["x", "y"]}]}, ["x", "y", "x"]),
        ({"items": [{"tags": ["p", "q"]}, {"types": ["y"]}]}, ["x", "y"]),
        ({"items": [{}], "after": 1, "limit": 1}, ["y"]),
    ]
    for query, expected in cases:
        assert datas(await board.call("POST", "/v1/query", query)) == expected, query


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"items": []},
        {"items": [{}] * 65},
        {"items": [{"types": [""]}]},
        {"items": [{"kinds": ["x"]}]},
        {"items": [{}], "limit": 0},
        {"items": [{}], "limit": 10_001},
        {"items": [{}], "after": -1},
        {"items": [{}], "after": "1"},
        [],
        None,
    ],
)
async def test_a_bad_query_is_refused(board: Board, body: Any) -> None:
    reply = await board.call("POST", "/v1/query", json.dumps(body).encode())
    assert (reply.status, reply.code) == (400, "invalid-request")


async def test_snapshots_are_saved_listed_and_deleted(board: Board) -> None:
    await board.append("s", *range(4))
    base = "/v1/streams/s/snapshots"
    for version in (2, 0, 1):
        state = {"data": {"sum": version}, "metadata": {"by": "test"}}
        assert (await board.call("PUT", f"{base}/{version}", state)).status == 204
    listed = (await board.call("GET", base)).json["snapshots"]
    assert [each["version"] for each in listed] == [0, 1, 2]
    assert (listed[0]["stream_id"], listed[0]["data"], listed[0]["metadata"]) == (
        "s",
        {"sum": 0},
        {"by": "test"},
    )
    assert (await board.call("GET", f"{base}/latest")).json == listed[2]
    assert (await board.call("GET", f"{base}/1")).json == listed[1]
    assert (await board.call("DELETE", f"{base}/1")).status == 204
    assert (await board.call("GET", f"{base}/1")).code == "not-found"
    assert (await board.call("DELETE", base)).status == 204
    assert (await board.call("GET", base)).json == {"snapshots": []}
    assert (await board.call("GET", f"{base}/latest")).status == 404


@pytest.mark.parametrize("body", [{}, {"data": 1, "extra": 2}, {"data": 1, "metadata": 3}, []])
async def test_a_bad_snapshot_is_refused(board: Board, body: Any) -> None:
    await board.append("s", 1)
    assert (await board.call("PUT", "/v1/streams/s/snapshots/0", body)).code == "invalid-request"
    assert (await board.call("PUT", "/v1/streams/s/snapshots/-1", {"data": 1})).status == 400
    assert (await board.call("GET", "/v1/streams/s/snapshots")).json == {"snapshots": []}


async def test_a_stream_is_folded(board: Board) -> None:
    """Tags travel as objects with one `$` key; unless they are asked for they are unwrapped."""
    await board.append("s", {"event_type": "t", "data": {"name": "a", "n": {"$sum": 2}}})
    await board.append("s", {"event_type": "t", "data": {"n": {"$sum": 3}}})
    folded = await board.call("GET", "/v1/streams/s/aggregate")
    assert folded.json == {"version": 1, "state": {"name": "a", "n": 5}}
    kept = await board.call("GET", "/v1/streams/s/aggregate?finalize=false&at=0")
    assert kept.json == {"version": 0, "state": {"name": "a", "n": {"$sum": 2}}}
    assert (await board.call("GET", "/v1/streams/nope/aggregate")).code == "stream-not-found"
