"""The reference's gateway client by its names, over HTTP; what it did is looked at through an embedded store."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from scripted_board import ScriptedBoard, answer

from shoal.errors import (
    AlreadyExists,
    InvalidRequest,
    LeaseExpired,
    NotFound,
    StreamNotFound,
    WrongExpectedVersion,
)
from shoal.gateway import Gateway
from shoal.server import Shoald
from shoal.store.api import Store
from shoal.types import NewEvent

STORE = "gater"
OF_A_STORE = {
    "append_events": ("store_id", "stream_id", "expected_and_events"),
    "get_events": ("store_id", "stream_id", "start", "count", "direction"),
    "stream_forward": ("store_id", "stream_id", "start", "count"),
    "stream_backward": ("store_id", "stream_id", "start", "count"),
    "get_version": ("store_id", "stream_id"),
    "get_streams": ("store_id",),
    "delete_stream": ("store_id", "stream_id"),
    "read_by_event_types": ("store_id", "event_types", "batch_size"),
    "read_by_tags": ("store_id", "tags", "match", "batch_size"),
    "read_all_global": ("store_id", "offset", "limit"),
    "has_events": ("store_id",),
    "get_subscriptions": ("store_id",),
    "get_subscription": ("store_id", "subscription_name"),
    "save_subscription": ("store_id", "type", "selector", "subscription_name", "start_from", "options"),
    "remove_subscription": ("store_id", "type", "selector", "subscription_name"),
    "ack_event": ("store_id", "stream_id", "subscription_name", "event_number"),
    "record_snapshot": ("store_id", "source_uuid", "stream_id", "version", "data", "metadata"),
    "read_snapshot": ("store_id", "source_uuid", "stream_id", "version"),
    "delete_snapshot": ("store_id", "source_uuid", "stream_id", "version"),
    "list_snapshots": ("store_id", "source_uuid", "stream_id"),
}
OF_THE_BOARDS = (
    "list_stores",
    "health",
    "quick_health_check",
    "verify_cluster_consistency",
    "verify_membership_consensus",
    "check_raft_log_consistency",
)


@pytest_asyncio.fixture(loop_scope="session")
async def below(shoald: Shoald) -> AsyncIterator[Store]:
    """The store itself, empty."""
    await shoald._node.create_store(STORE)
    yield shoald._node.store(STORE)
    await shoald._node.drop_store(STORE)


@pytest_asyncio.fixture(loop_scope="session")
async def gateway(shoald: Shoald, below: Store) -> AsyncIterator[Gateway]:
    async with Gateway(*shoald.urls) as made:
        yield made


def sent(*numbers: int, kind: str = "e", tags: list[str] | None = None) -> list[NewEvent]:
    return [NewEvent(kind, n, tags=tags) for n in numbers]


@pytest.mark.parametrize("name", OF_A_STORE)
async def test_every_name_takes_what_the_reference_takes(name: str) -> None:
    parameters = tuple(inspect.signature(getattr(Gateway, name)).parameters)[1:]
    assert parameters == OF_A_STORE[name]


async def test_there_is_no_other_name() -> None:
    public = {name for name, value in vars(Gateway).items() if inspect.iscoroutinefunction(value)}
    assert {name for name in public if not name.startswith("_")} == {*OF_A_STORE, *OF_THE_BOARDS, "close"}


async def test_appending_and_reading(gateway: Gateway, below: Store) -> None:
    assert not await gateway.has_events(STORE)
    assert await gateway.append_events(STORE, "s", sent(0, 1)) == 1
    assert await gateway.append_events(STORE, "s", 1, sent(2)) == 2
    assert await gateway.has_events(STORE)
    assert await gateway.get_version(STORE, "s") == 2
    assert await gateway.get_version(STORE, "missing") == -1
    assert [event.data for event in await gateway.stream_forward(STORE, "s", 1, 9)] == [1, 2]
    assert [event.data for event in await gateway.stream_backward(STORE, "s", 1, 9)] == [1, 0]
    assert [event.data for event in await gateway.get_events(STORE, "s", 9, 1, "backward")] == [2]
    assert [event.data for event in await gateway.read_all_global(STORE, 1, 1)] == [1]
    stored, read = await below.streams.read("s"), await gateway.get_events(STORE, "s", 0, 9)
    assert [event.event_id for event in stored] == [event.event_id for event in read]
    with pytest.raises(StreamNotFound):
        await gateway.stream_forward(STORE, "missing", 0, 1)


@pytest.mark.parametrize(
    ("expected", "on_missing", "on_two"),
    [
        (-1, True, False),
        ("no_stream", True, False),
        (-2, True, True),
        ("any", True, True),
        (-4, False, True),
        ("stream_exists", False, True),
        (0, False, False),
        (1, False, True),
    ],
)
async def test_an_expected_version_means_what_it_says(
    gateway: Gateway, below: Store, expected: int | str, on_missing: bool, on_two: bool
) -> None:
    await below.streams.append("two", -1, sent(0, 1))
    for stream_id, fine in (("missing", on_missing), ("two", on_two)):
        before = await below.streams.get_version(stream_id)
        if fine:
            assert await gateway.append_events(STORE, stream_id, expected, sent(7)) == before + 1
        else:
            with pytest.raises(WrongExpectedVersion):
                await gateway.append_events(STORE, stream_id, expected, sent(7))
            assert await below.streams.get_version(stream_id) == before


@pytest.mark.parametrize("given", [(), (-1, [], "more"), ("sometimes", sent(1))])
async def test_what_is_no_append_is_refused(gateway: Gateway, given: tuple[object, ...]) -> None:
    with pytest.raises(InvalidRequest):
        await gateway.append_events(STORE, "s", *given)


async def test_streams_by_page_types_and_tags(
    gateway: Gateway, below: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shoal.gateway.BATCH", 2)
    for number, stream_id in enumerate(["a", "b", "c", "d", "e"]):
        await below.streams.append(stream_id, -1, sent(number, kind=f"k{number % 2}", tags=[stream_id, "x"]))
    assert await gateway.get_streams(STORE) == ["a", "b", "c", "d", "e"]
    assert [event.data for event in await gateway.read_by_event_types(STORE, ["k1"])] == [1, 3]
    assert [event.data for event in await gateway.read_by_tags(STORE, ["a", "b"])] == [0, 1]
    assert [event.data for event in await gateway.read_by_tags(STORE, ["a", "x"], "all")] == [0]
    assert [event.data for event in await gateway.read_by_tags(STORE, ["x"], batch_size=3)] == [0, 1, 2]
    await gateway.delete_stream(STORE, "a")
    assert await gateway.get_streams(STORE) == ["b", "c", "d", "e"]


async def test_subscriptions(gateway: Gateway, below: Store) -> None:
    saved = await gateway.save_subscription(STORE, "stream", "s", "sub", 0, max_in_flight=7)
    assert saved == await gateway.get_subscription(STORE, "sub") == await below.subscriptions.get("sub")
    assert saved.options.max_in_flight == 7
    assert await gateway.get_subscriptions(STORE) == [saved]
    with pytest.raises(AlreadyExists):
        await gateway.save_subscription(STORE, "stream", "other", "sub")
    await below.streams.append("s", -1, sent(0))
    with pytest.raises(LeaseExpired):
        await gateway.ack_event(STORE, "s", "sub", 0)
    async with gateway.store(STORE).subscriptions.subscribe("stream", "s", "sub", max_in_flight=7) as events:
        event = await anext(events)
        assert await gateway.ack_event(STORE, "s", "sub", event.version) == event.position
    for _ in range(2):
        await gateway.remove_subscription(STORE, "stream", "s", "sub")
    assert await below.subscriptions.list() == []
    with pytest.raises(NotFound):
        await gateway.remove_subscription("no-such-store", "stream", "s", "sub")


async def test_snapshots(gateway: Gateway, below: Store) -> None:
    await below.streams.append("s", -1, sent(0, 1))
    for version in (1, 0):
        await gateway.record_snapshot(STORE, "any", "s", version, {"at": version}, {"by": "me"})
    assert await gateway.list_snapshots(STORE, "other", "s") == await below.snapshots.list("s")
    loaded = await gateway.read_snapshot(STORE, "any", "s", 0)
    assert (loaded.version, loaded.data, loaded.metadata) == (0, {"at": 0}, {"by": "me"})
    for _ in range(2):
        await gateway.delete_snapshot(STORE, "any", "s", 0)
    with pytest.raises(NotFound):
        await gateway.read_snapshot(STORE, "any", "s", 0)
    assert [saved.version for saved in await gateway.list_snapshots(STORE, "any", "s")] == [1]


async def test_the_boards(gateway: Gateway) -> None:
    assert STORE in await gateway.list_stores()
    assert (await gateway.health())["level"] in {"ok", "elevated", "critical"}
    assert (await gateway.quick_health_check())["status"] == "ready"
    assert (await gateway.check_raft_log_consistency())["ok"]


async def test_the_cluster_is_told_as_its_boards_tell_it(clustered_gateway: Gateway) -> None:
    members = [{"id": "A", "url": "http://a", "role": "leader", "alive": True}]
    assert (await clustered_gateway.verify_cluster_consistency())["quorum"]["margin"] == 0
    assert await clustered_gateway.verify_membership_consensus() == members


@pytest_asyncio.fixture(loop_scope="session")
async def clustered_gateway() -> AsyncIterator[Gateway]:
    """Of a scripted board, since the server here is no cluster."""
    members = [{"id": "A", "url": "http://a", "role": "leader", "alive": True}]
    quorum = {"size": 1, "alive": 1, "margin": 0}
    async with ScriptedBoard() as board:
        board.cluster = answer({"node_id": "A", "leader": "A", "members": members, "quorum": quorum})
        async with Gateway(board.url) as made:
            yield made
