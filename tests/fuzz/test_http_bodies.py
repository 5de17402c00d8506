"""Any body, path, query and header: the board answers with what it promises, and never with a defect."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any, cast

import aiohttp
import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from served_subscriptions import ScriptedSubscriptions, stored
from yarl import URL

from shoal.config import Config
from shoal.http import Connections, Service
from shoal.http.context import ServedSubscriptions
from shoal.testing.clock import FakeClock
from shoal.testing.memory_node import MemoryNode

SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.binary(max_size=8)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
)
FIELDS = ["event_type", "data", "metadata", "tags", "event_id", "data_base64", "data_content_type", "extra"]
EVENTS = st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=6) | st.fixed_dictionaries(
    {"event_type": st.text(max_size=5), "data": VALUES}
)
BATCHES = st.lists(EVENTS, max_size=3)
BODIES = (
    BATCHES
    | st.fixed_dictionaries({"events": BATCHES}, optional={"expected_version": VALUES})
    | st.fixed_dictionaries(
        {
            "writes": st.lists(
                st.fixed_dictionaries({"stream_id": st.text(max_size=5), "events": BATCHES}), max_size=3
            )
        },
        optional={"condition": VALUES},
    )
    | st.fixed_dictionaries({"items": VALUES}, optional={"after": VALUES, "limit": VALUES})
    | st.fixed_dictionaries({"data": VALUES}, optional={"metadata": VALUES})
    | st.fixed_dictionaries({"type": VALUES}, optional={"selector": VALUES, "start_from": VALUES})
    | st.fixed_dictionaries({"leases": VALUES}, optional={"action": VALUES, "reason": VALUES})
    | VALUES
)
TARGETS = st.sampled_from(
    [
        ("POST", "/v1/streams/s"),
        ("POST", "/v1/append"),
        ("POST", "/v1/query"),
        ("PUT", "/v1/streams/s/snapshots/1"),
        ("PUT", "/v1/subscriptions/s"),
        ("PATCH", "/v1/subscriptions/s"),
        ("POST", "/v1/subscriptions/s/ack"),
        ("POST", "/v1/subscriptions/s/nack"),
        ("POST", "/v1/subscriptions/s/reset"),
    ]
)
MEDIA = st.sampled_from(["application/json", "application/cbor"])


class NoTokens:
    def tokens(self) -> tuple[()]:
        return ()


class Client:
    """Calls a service over loopback from code that is not asynchronous, as Hypothesis wants it."""

    def __init__(self) -> None:
        self.runner = asyncio.Runner()
        self.runner.run(self._start())

    async def _start(self) -> None:
        node, scripted = MemoryNode(FakeClock()), ScriptedSubscriptions()
        scripted.stored["s"] = stored()
        node.store("main").subscriptions = cast("ServedSubscriptions", scripted)
        service = Service(node, Config(), NoTokens(), now_ms=lambda: 0)
        connections = Connections(service.handle, limit=9, header_timeout_s=9)
        self.server = await asyncio.get_running_loop().create_server(connections, "127.0.0.1", 0)
        self.url = "http://127.0.0.1:%d" % self.server.sockets[0].getsockname()[1]
        self.session = aiohttp.ClientSession()
        self.node = service.context.node

    def call(self, method: str, path: str, body: bytes | None, **headers: str) -> tuple[int, bytes]:
        return self.runner.run(self._call(method, path, body, headers))

    async def _call(
        self, method: str, path: str, body: bytes | None, headers: dict[str, str]
    ) -> tuple[int, bytes]:
        url = URL(self.url + path, encoded=True)
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.session.request(method, url, data=body, headers=sent) as answer:
            return answer.status, await answer.read()

    def close(self) -> None:
        async def end() -> None:
            await self.session.close()
            self.server.close()

        self.runner.run(end())
        self.runner.close()


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    made = Client()
    yield made
    made.close()


def encoded(value: Any, media: str) -> bytes:
    if media == "application/cbor":
        return cbor2.dumps(value)
    return json.dumps(value, default=lambda raw: raw.hex()).encode("utf-8", "surrogatepass")


def sound(status: int, body: bytes) -> bool:
    """A success, or a problem document that is not about a defect."""
    if status < 300:
        return True
    problem = json.loads(body)
    return status < 500 and problem["status"] == status and bool(problem["code"])


@given(TARGETS, BODIES, MEDIA)
@settings(max_examples=300)
def test_any_value_as_body_is_taken_or_refused(
    client: Client, target: tuple[str, str], value: Any, media: str
) -> None:
    head = client.node.store("main").head
    status, body = client.call(*target, encoded(value, media), Content_Type=media)
    assert sound(status, body), (status, body)
    if status >= 300:
        assert client.node.store("main").head == head


@given(TARGETS, st.binary(max_size=200), MEDIA)
@settings(max_examples=200)
def test_any_bytes_as_body_are_taken_or_refused(
    client: Client, target: tuple[str, str], raw: bytes, media: str
) -> None:
    assert sound(*client.call(*target, raw, Content_Type=media))


@given(st.data(), TARGETS, MEDIA)
@settings(max_examples=200)
def test_a_sound_body_with_a_few_bytes_changed_is_taken_or_refused(
    client: Client, data: st.DataObject, target: tuple[str, str], media: str
) -> None:
    event = {"event_type": "t", "data": {"a": [1, "ü", None]}, "tags": ["x"], "metadata": {"m": 1}}
    value: Any = {"events": [event]}
    if target[1] == "/v1/append":
        value = {"writes": [{"stream_id": "s", "events": [event]}]}
    raw = bytearray(encoded(value, media))
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    assert sound(*client.call(*target, bytes(raw), Content_Type=media))


PATH = st.text(st.sampled_from("abc/%.?&=~$*012FfüÄ-_ "), max_size=20)


@given(st.sampled_from(["GET", "POST", "PUT", "DELETE", "HEAD"]), PATH)
@settings(max_examples=300)
def test_any_path_and_query_is_answered(client: Client, method: str, rest: str) -> None:
    path = "/v1/streams/" + rest.replace(" ", "%20").replace("ü", "%C3%BC").replace("Ä", "%C3")
    sent = b"[]" if method in {"POST", "PUT"} else None
    status, body = client.call(method, path, sent, Content_Type="application/json")
    assert method == "HEAD" or sound(status, body)


NAMES = [
    "Accept",
    "Content_Type",
    "If_Match",
    "If_None_Match",
    "Authorization",
    "Last_Event_ID",
    "Content_Encoding",
]
HEADERS = st.dictionaries(
    st.sampled_from(NAMES),
    st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=30),
)


@given(st.sampled_from(["GET", "POST"]), HEADERS)
@settings(max_examples=200)
def test_any_header_is_understood_or_refused(client: Client, method: str, headers: dict[str, str]) -> None:
    sent = {"Content_Type": "application/json"} | headers
    assert sound(*client.call(method, "/v1/streams/s", b"[]" if method == "POST" else None, **sent))
