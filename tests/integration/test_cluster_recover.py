"""A quorum is destroyed: what the last board says, and how it goes on alone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cluster_kit import Reef, reef, until, voters

from shoal import telemetry


@pytest.fixture
async def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Reef]:
    async with reef(tmp_path, monkeypatch) as made:
        yield made


async def destroy(cluster: Reef, *node_ids: str) -> None:
    for node_id in node_ids:
        await cluster.stop(node_id)
        await cluster.wipe(node_id)


async def test_the_last_of_three_recovers_and_others_are_added(cluster: Reef) -> None:
    await cluster.grow()
    leader = await cluster.leader()
    for number in range(5):
        assert (await leader.board.append("s", number)).status == 201
    last = cluster.up["n2"]
    await until(lambda: last.node.node.sequencer.applied_index == leader.node._driver.commit_index)
    await destroy(cluster, "n1", "n3")
    await until(lambda: last.node.members.margin < 0 and last.node._driver.leader is None)
    ready = await last.board.call("GET", "/readyz")
    assert (ready.status, ready.code) == (503, "no-quorum")
    assert "shoal cluster recover" in ready.json["detail"]

    view = await last.change("recover", node_id="n2", cluster_id="reef")
    assert [member["id"] for member in view["members"]] == ["n2"]
    await cluster.ready("n2")
    assert (await last.board.append("s", 5)).status == 201

    await cluster.stop("n2")
    last = await cluster.start("n2")  # it is so after a restart, too
    await cluster.ready("n2")
    for node_id in ("n1", "n4"):
        await cluster.start(node_id)
        await last.change("join", address=cluster.peer_address(node_id))
        await cluster.ready(node_id)
    await until(lambda: voters(last) == 3)
    for node_id in ("n1", "n2", "n4"):
        await until(lambda node_id=node_id: cluster.up[node_id].node.node.store("main").head == 6)  # type: ignore[misc] # bound now
        read = await cluster.up[node_id].board.call("GET", "/v1/streams/s?consistency=local")
        assert [event["data"] for event in read.json["events"]] == list(range(6))


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({"node_id": "n2", "cluster_id": "reef"}, "something else was typed"),
        ({"node_id": "n1", "cluster_id": "reed"}, "something else was typed"),
        ({"node_id": "n1", "cluster_id": "reef"}, "a quorum is alive"),
    ],
)
async def test_recovering_is_refused_where_it_would_harm(
    cluster: Reef, body: dict[str, Any], word: str
) -> None:
    leader = await cluster.grow(2)
    refused = await leader.board.call("POST", "/v1/cluster/recover", body)
    assert (refused.status, refused.code) == (400, "invalid-request")
    assert word in refused.json["detail"]
    assert voters(leader) == 2


async def test_a_board_that_the_others_removed_is_not_recovered_beside_them(cluster: Reef) -> None:
    """It was away then, and its own log still says that it is a member."""
    leader = await cluster.grow()
    await cluster.stop("n3")
    await leader.change("leave", node_id="n3")
    out = await cluster.start("n3")
    await until(lambda: out.node.watch.removed)
    assert out.node.members.find("n3") is not None
    await until(lambda: out.node.members.margin < 0)
    refused = await out.board.call("POST", "/v1/cluster/recover", {"node_id": "n3", "cluster_id": "reef"})
    assert (refused.status, refused.code) == (400, "invalid-request")
    assert "goes on without this board" in refused.json["detail"]
    assert voters(leader) == 2


async def test_telemetry_and_metrics_follow_the_quorum(cluster: Reef) -> None:
    heard: list[tuple[str, ...]] = []
    names = [
        telemetry.CLUSTER_QUORUM_LOST,
        telemetry.CLUSTER_QUORUM_RESTORED,
        telemetry.CLUSTER_NODE_UP,
        telemetry.CLUSTER_NODE_DOWN,
    ]
    leader = await cluster.grow(2)
    telemetry.attach("test", names, lambda event, *_: heard.append(event[2:]))
    try:
        page = (await leader.board.call("GET", "/metrics")).body.decode()
        assert "shoal_is_leader 1.0" in page
        assert "shoal_quorum_margin 0.0" in page
        assert "shoal_peers_connected 1.0" in page
        assert 'shoal_follower_lag_entries{node="n2"}' in page
        await cluster.stop("n2")
        await until(lambda: ("quorum", "lost") in heard and ("node", "down") in heard)
        page = (await leader.board.call("GET", "/metrics")).body.decode()
        assert "shoal_quorum_margin -1.0" in page
        await cluster.start("n2")
        await until(lambda: ("quorum", "restored") in heard and ("node", "up") in heard)
    finally:
        telemetry.detach("test")


async def test_boards_outside_with_data_are_a_split_brain(cluster: Reef) -> None:
    """Who recovers while the others are not destroyed is told, once they are back."""
    heard: list[Any] = []
    telemetry.attach("test", [telemetry.CLUSTER_SPLIT_BRAIN_DETECTED], lambda *told: heard.append(told[2]))
    try:
        await cluster.grow()
        await cluster.stop("n1")
        await cluster.stop("n3")
        last = cluster.up["n2"]
        await until(lambda: last.node._driver.leader is None and last.node.members.margin < 0)
        await last.change("recover", node_id="n2", cluster_id="reef")
        await cluster.ready("n2")
        await until(lambda: not last.node.members.met)  # nobody is there yet, and so nobody is told of
        assert heard == []
        await cluster.start("n1")
        await cluster.start("n3")
        await until(lambda: heard)
        assert heard[0]["nodes"] == "n1,n3"
        assert {m["id"] for m in (await last.view())["members"]} == {"n2"}
    finally:
        telemetry.detach("test")
