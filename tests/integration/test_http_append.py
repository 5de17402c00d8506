"""Appending over HTTP: versions, conditions, duplicates, bad events; nothing is stored unless all is."""

from __future__ import annotations

import asyncio
import json
from base64 import b64decode
from email.utils import parsedate_to_datetime
from typing import Any

import cbor2
import pytest
from http_board import Board

EVENT = {"event_type": "reading", "data": {"c": 21.5}}
CBOR = {"Content-Type": "application/cbor", "Accept": "application/cbor"}


pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_append_answers_where_the_events_are(board: Board) -> None:
    """201 with versions, position, ETag and the place of the first event."""
    reply = await board.append("s", 1, 2)
    assert reply.status == 201
    assert reply.json == {
        "stream_id": "s",
        "first_version": 0,
        "version": 1,
        "position": 2,
        "duplicate": False,
    }
    assert reply.headers["ETag"] == '"1"'
    assert (await board.call("GET", reply.headers["Location"])).json["data"] == 1


@pytest.mark.parametrize(
    ("given", "status"),
    [
        ({"params": {"expected_version": "-1"}}, 409),
        ({"params": {"expected_version": "0"}}, 201),
        ({"params": {"expected_version": "-2"}}, 201),
        ({"params": {"expected_version": "-4"}}, 201),
        ({"params": {"expected_version": "1"}}, 409),
        ({"headers": {"If-Match": '"0"'}}, 201),
        ({"headers": {"If-Match": '"1"'}}, 412),
        ({"headers": {"If-Match": "*"}}, 201),
        ({"headers": {"If-None-Match": "*"}}, 412),
    ],
)
async def test_expected_version_is_checked_wherever_it_is_said(
    board: Board, given: dict[str, Any], status: int
) -> None:
    await board.append("s", 0)
    query = "&".join(f"{name}={value}" for name, value in given.get("params", {}).items())
    reply = await board.append(f"s?{query}" if query else "s", 1, headers=given.get("headers", {}))
    assert reply.status == status
    if status != 201:
        assert reply.code == "wrong-expected-version"
        assert reply.json["actual_version"] == 0
        assert reply.json["stream_id"] == "s"
        assert reply.json["outcome"] == "not-applied"


@pytest.mark.parametrize(
    ("query", "headers", "body"),
    [
        ("expected_version=-3", {}, [EVENT]),
        ("expected_version=-5", {}, [EVENT]),
        ("expected_version=9007199254740992", {}, [EVENT]),
        ("expected_version=1e3", {}, [EVENT]),
        ("expected_version=", {}, [EVENT]),
        ("expected_version=1&expected_version=1", {}, [EVENT]),
        ("expected_version=0", {"If-Match": '"0"'}, [EVENT]),
        ("expected_version=0", {}, {"expected_version": 0, "events": [EVENT]}),
        ("", {}, {"expected_version": -3, "events": [EVENT]}),
        ("", {}, {"expected_version": "0", "events": [EVENT]}),
        ("", {"If-Match": "0"}, [EVENT]),
        ("", {"If-Match": 'W/"0"'}, [EVENT]),
        ("", {"If-Match": '"0", "1"'}, [EVENT]),
        ("", {"If-None-Match": '"0"'}, [EVENT]),
        ("", {"If-Match": "*", "If-None-Match": "*"}, [EVENT]),
        ("unknown=1", {}, [EVENT]),
    ],
)
async def test_an_expected_version_that_cannot_be_meant_is_refused(
    board: Board, query: str, headers: dict[str, str], body: Any
) -> None:
    reply = await board.call("POST", f"/v1/streams/s?{query}", body, headers=headers)
    assert (reply.status, reply.code) == (400, "invalid-request")
    assert (await board.call("GET", "/v1/streams/s")).status == 404


@pytest.mark.parametrize(
    ("bad", "pointer"),
    [
        ({"event_type": "t"}, "/1/data"),
        ({"data": 1}, "/1/event_type"),
        ({"event_type": "t", "data": 1, "extra": 2}, "/1/extra"),
        ({"event_type": "", "data": 1}, "/1/event_type"),
        ({"event_type": "t" * 257, "data": 1}, "/1/event_type"),
        ({"event_type": "a\0b", "data": 1}, "/1/event_type"),
        ({"event_type": 7, "data": 1}, "/1/event_type"),
        ({"event_type": "t", "data": 1, "metadata": [1]}, "/1/metadata"),
        ({"event_type": "t", "data": 1, "tags": "a"}, "/1/tags"),
        ({"event_type": "t", "data": 1, "tags": ["x" * 129]}, "/1/tags/0"),
        ({"event_type": "t", "data": 1, "tags": [""]}, "/1/tags/0"),
        ({"event_type": "t", "data": 1, "tags": ["x"] * 65}, "/1/tags"),
        ({"event_type": "t", "data": 1, "event_id": ""}, "/1/event_id"),
        ({"event_type": "t", "data": 1, "data_base64": "AA=="}, "/1/data"),
        ({"event_type": "t", "data_base64": "A"}, "/1/data_base64"),
        ({"event_type": "t", "data_base64": "AA==", "data_content_type": "nonsense"}, "/1/data_content_type"),
        ({"event_type": "t", "data": 1, "data_content_type": "image/png"}, "/1/data_content_type"),
        ({"event_type": "t", "data_base64": "e30x", "data_content_type": "application/json"}, "/1/data"),
    ],
)
async def test_one_bad_event_refuses_the_batch_and_is_named(board: Board, bad: Any, pointer: str) -> None:
    reply = await board.append("s", EVENT, bad)
    assert (reply.status, reply.code) == (400, "invalid-request")
    assert reply.json["pointer"] == pointer
    assert (await board.call("GET", "/v1/streams/s")).status == 404


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"1",
        b'{"events": 1}',
        b'[{"event_type":"t","data":1e999}]',
        b'[{"event_type":"t","data":NaN}]',
        b'[{"event_type":"t","data":{"a":1,"a":2}}]',
        b'[{"event_type":"t","event_type":"u","data":1}]',
        b'[{"event_type":"t","data":"\xff"}]',
        b'[{"event_type":"t","data":"\\ud800"}]',
        b'[{"event_type":"t","data":' + b"[" * 65 + b"]" * 65 + b"}]",
        b"[" * 100_000,
        b'[{"event_type":"t","data":1}] x',
    ],
)
async def test_a_body_that_is_not_sound_json_is_refused(board: Board, body: bytes) -> None:
    reply = await board.call("POST", "/v1/streams/s", body)
    assert (reply.status, reply.code) == (400, "invalid-request")
    assert (await board.call("GET", "/v1/streams/s")).status == 404


async def test_payloads_may_be_as_deep_as_the_limit_says(board: Board) -> None:
    """64 levels of the payload itself; what surrounds it in the body does not count."""
    body = b'[{"event_type":"t","data":' + b"[" * 64 + b"]" * 64 + b"}]"
    assert (await board.call("POST", "/v1/streams/s", body)).status == 201
    body = b'{"events":[{"event_type":"t","data":' + b"[" * 64 + b"]" * 64 + b"}]}"
    assert (await board.call("POST", "/v1/streams/s", body)).status == 201


async def test_the_same_events_again_are_a_duplicate(board: Board) -> None:
    """200 with the first answer; other content under the same id is a conflict."""
    event = {"event_type": "t", "data": {"a": 1, "b": 2}, "event_id": "e-1"}
    first = await board.append("s", event)
    await board.append("s", 2)
    again = await board.append("s", event | {"data": {"b": 2, "a": 1}})
    assert (first.status, again.status) == (201, 200)
    assert again.json == first.json | {"duplicate": True}
    other = await board.append("s", event | {"data": 3})
    assert (other.status, other.code) == (409, "event-id-reused")
    twice = await board.append("s", EVENT | {"event_id": "x"}, EVENT | {"event_id": "x"})
    assert (twice.status, twice.json["pointer"]) == (400, "/1/event_id")


async def test_an_empty_batch_answers_the_current_version(board: Board) -> None:
    assert (await board.append("s")).json["version"] == -1
    await board.append("s", 1)
    reply = await board.append("s")
    assert (reply.status, reply.json["version"]) == (200, 0)
    assert (await board.append("s?expected_version=7")).status == 409


async def test_payload_bytes_come_back_as_they_were_sent(board: Board) -> None:
    """Big numbers, spaces and key order are the client's; line breaks between tokens become spaces."""
    body = (
        b'[{"event_type":"t","data":{ "z": 1.50, "a": 123456789012345678901234567890 },"tags":["b","a","b"]}]'
    )
    assert (await board.call("POST", "/v1/streams/s", body)).status == 201
    reply = await board.call("GET", "/v1/streams/s/0")
    assert b'{ "z": 1.50, "a": 123456789012345678901234567890 }' in reply.body
    assert reply.json["tags"] == ["b", "a", "b"]


async def test_binary_data_travels_as_base64(board: Board) -> None:
    event = {"event_type": "t", "data_base64": "AAH/", "data_content_type": "image/png"}
    assert (await board.append("s", event)).status == 201
    read = (await board.call("GET", "/v1/streams/s/0")).json
    assert (read["data_base64"], read["data_content_type"]) == ("AAH/", "image/png")
    assert "data" not in read


async def test_cbor_goes_in_and_comes_out(board: Board) -> None:
    """Byte strings anywhere in data or metadata survive."""
    event = {"event_type": "t", "data": {"raw": b"\x00\xff", "n": 1}, "metadata": {"k": b"v"}, "tags": ["a"]}
    reply = await board.call("POST", "/v1/streams/s", cbor2.dumps({"events": [event]}), headers=CBOR)
    assert reply.status == 201
    assert cbor2.loads(reply.body)["version"] == 0
    read = cbor2.loads(
        (await board.call("GET", "/v1/streams/s", headers={"Accept": "application/cbor"})).body
    )
    assert read["events"][0]["data"] == event["data"]
    assert read["events"][0]["metadata"] == event["metadata"]
    as_json = (await board.call("GET", "/v1/streams/s/0")).json
    assert cbor2.loads(b64decode(as_json["data_base64"])) == event["data"]


@pytest.mark.parametrize(
    "body",
    [b"", b"\xff", cbor2.dumps([EVENT])[:-1], cbor2.dumps([EVENT | {"data": float("nan")}]), cbor2.dumps(7)],
)
async def test_a_body_that_is_not_sound_cbor_is_refused(board: Board, body: bytes) -> None:
    reply = await board.call("POST", "/v1/streams/s", body, headers={"Content-Type": "application/cbor"})
    assert (reply.status, reply.code) == (400, "invalid-request")


@pytest.mark.parametrize(
    "content_type",
    ["text/plain", "application/x-www-form-urlencoded", "application/json; charset=latin-1", "nonsense"],
)
async def test_other_media_types_are_refused(board: Board, content_type: str) -> None:
    reply = await board.call("POST", "/v1/streams/s", b"[]", headers={"Content-Type": content_type})
    assert (reply.status, reply.code) == (415, "unsupported-media-type")


async def test_a_compressed_body_is_refused(board: Board) -> None:
    headers = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
    reply = await board.call("POST", "/v1/streams/s", b"[]", headers=headers)
    assert (reply.status, reply.code) == (415, "unsupported-media-type")


async def test_answers_that_nobody_can_read_are_refused_before_anything_is_stored(board: Board) -> None:
    reply = await board.append("s", 1, headers={"Accept": "image/png"})
    assert (reply.status, reply.code) == (406, "not-acceptable")
    assert (await board.call("GET", "/v1/streams/s")).status == 404


async def test_only_the_store_writes_to_its_own_streams(board: Board) -> None:
    assert (await board.append("%24sys", 1)).code == "invalid-request"


async def test_several_streams_are_one_append(board: Board) -> None:
    writes = [
        {"stream_id": "a", "expected_version": -1, "events": [EVENT, EVENT]},
        {"stream_id": "b/c", "events": [EVENT | {"tags": ["x"]}]},
    ]
    reply = await board.call("POST", "/v1/append", {"writes": writes})
    assert reply.status == 201
    assert reply.json["position"] == 3
    assert reply.json["results"] == [
        {"stream_id": "a", "first_version": 0, "version": 1},
        {"stream_id": "b/c", "first_version": 0, "version": 0},
    ]
    conflict = await board.call("POST", "/v1/append", {"writes": [writes[1], writes[0]]})
    assert (conflict.status, conflict.code) == (409, "wrong-expected-version")
    assert conflict.json["stream_id"] == "a"
    assert (await board.call("HEAD", "/v1/streams/b%2Fc")).headers["ETag"] == '"0"'


async def test_a_condition_holds_an_append_back(board: Board) -> None:
    """It fails when an event after `after` matches, and names the first one."""
    await board.append("a", EVENT | {"tags": ["room:1"]})
    query = {"items": [{"types": ["reading"], "tags": ["room:1"]}]}
    body: dict[str, Any] = {
        "writes": [{"stream_id": "b", "events": [EVENT]}],
        "condition": {"query": query, "after": 0},
    }
    refused = await board.call("POST", "/v1/append", body)
    assert (refused.status, refused.code, refused.json["position"]) == (409, "condition-failed", 1)
    body["condition"]["after"] = 1
    assert (await board.call("POST", "/v1/append", body)).status == 201


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"writes": []}, "/writes"),
        ({"writes": [{"stream_id": "", "events": [EVENT]}]}, "/writes/0/stream_id"),
        ({"writes": [{"stream_id": "..", "events": [EVENT]}]}, "/writes/0/stream_id"),
        ({"writes": [{"stream_id": "a", "events": [EVENT]}] * 2}, "/writes/1/stream_id"),
        ({"writes": [{"stream_id": "a", "events": [{"event_type": "t"}]}]}, "/writes/0/events/0/data"),
        (
            {"writes": [{"stream_id": "a", "expected_version": -3, "events": [EVENT]}]},
            "/writes/0/expected_version",
        ),
        (
            {"writes": [{"stream_id": "a", "events": [EVENT]}], "condition": {"query": {"items": []}}},
            "/condition/query/items",
        ),
        (
            {
                "writes": [{"stream_id": "a", "events": [EVENT]}],
                "condition": {"query": {"items": [{}]}, "after": -1},
            },
            "/condition/after",
        ),
    ],
)
async def test_a_bad_append_to_several_streams_is_refused(board: Board, body: Any, pointer: str) -> None:
    reply = await board.call("POST", "/v1/append", body)
    assert (reply.status, reply.code) == (400, "invalid-request")
    assert reply.json["pointer"] == pointer
    assert (await board.call("GET", "/v1/streams/a")).status == 404


HEAD = b"POST /v1/streams/s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 29\r\n"
BODY = b'[{"event_type":"t","data":1}]'


@pytest.mark.parametrize(
    ("head", "answers", "kept"),
    [
        (HEAD, b"HTTP/1.1 201 Created", True),
        (HEAD + b"Connection: close\r\n", b"HTTP/1.1 201 Created", False),
        (HEAD.replace(b"1.1", b"1.0"), b"HTTP/1.0 201 Created", False),
        (HEAD.replace(b"1.1", b"1.0") + b"Connection: keep-alive\r\n", b"HTTP/1.0 201 Created", True),
    ],
)
async def test_an_append_is_answered_over_any_kind_of_connection(
    shared_board: Board, head: bytes, answers: bytes, kept: bool
) -> None:
    """One that is kept takes the next request, also one that was sent without waiting."""
    request = head + b"\r\n" + BODY
    reader, writer = await asyncio.open_connection(*shared_board.address)
    writer.write(request * 3 if kept else request)
    for _ in range(3 if kept else 1):
        lines = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
        headers = dict(line.lower().split(b": ", 1) for line in lines[1:-2])
        body = await reader.readexactly(int(headers[b"content-length"]))
        assert lines[0] == answers
        assert headers[b"content-type"] == b"application/json"
        assert headers[b"etag"] == b'"%d"' % json.loads(body)["version"]
        assert parsedate_to_datetime(headers[b"date"].decode()).tzinfo is not None
    if not kept:
        assert await reader.read() == b""
    writer.close()


async def test_an_idempotency_key_is_refused_rather_than_ignored(board: Board) -> None:
    """Whoever sends the header counts on being safe to repeat, which this release gives by event ids only."""
    reply = await board.append("keyed", 1, headers={"Idempotency-Key": "session/1"})
    assert (reply.status, reply.code, reply.json["pointer"]) == (400, "invalid-request", "Idempotency-Key")
    assert (await board.call("GET", "/v1/streams/keyed")).status == 404
