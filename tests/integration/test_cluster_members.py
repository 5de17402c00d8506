"""Members come and go: three boards in one loop, over real TLS and HTTP."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cluster_kit import Reef, reef, until, voters
from http_board import configured
from msgspec import structs

from shoal import leadership
from shoal.cluster import members as cluster_members
from shoal.cluster.watch import Watch
from shoal.errors import ConfigError, NoLeader, StorageError
from shoal.raft import membership
from shoal.raft.log import Configuration
from shoal.raft.log import Member as LogMember
from shoal.server import Shoald


@pytest.fixture
async def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Reef]:
    async with reef(tmp_path, monkeypatch) as made:
        yield made


async def test_one_board_grows_to_three(cluster: Reef) -> None:
    leader = await cluster.grow()
    view = await leader.view()
    assert (view["cluster_id"], view["leader"], view["role"]) == ("reef", "n1", "leader")
    assert {m["id"]: m["role"] for m in view["members"]} == {
        "n1": "leader",
        "n2": "follower",
        "n3": "follower",
    }
    assert view["quorum"] == {"size": 2, "alive": 3, "margin": 1}
    assert (view["status"], view["removed"], view["met"]) == ("", False, [])
    for member in cluster.up.values():
        assert (await member.board.call("GET", "/readyz")).status == 200


async def test_a_member_does_not_run_as_a_board_alone(cluster: Reef) -> None:
    """It would answer, and neither lead nor hear of a leader."""
    leader = await cluster.grow(2)
    await leader.board.append("s", 1)
    await cluster.stop("n2")
    with pytest.raises(ConfigError, match=r"of a cluster \(n1, n2\): start it with --mode cluster"):
        await Shoald(configured(cluster.directory / "n2")).__aenter__()
    await cluster.start("n2")
    await cluster.ready("n2")


async def test_a_board_that_lags_for_long_is_told_why_that_may_be(
    cluster: Reef, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = (await cluster.grow(1)).node.watch
    for lag_ms, told in ((6_000, False), (61_000, True)):
        monkeypatch.setattr(Watch, "lag_ms", lag_ms)
        assert f"{lag_ms // 1000} s behind" in str(watch.obstacle())
        assert ("as from a copy of its card" in str(watch.obstacle())) is told


async def test_an_empty_board_says_what_it_waits_for(cluster: Reef, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "shoal.cluster"):
        seed = cluster.peer_address("n2")
        await cluster.start("n1", bootstrap_expect=None, seeds=[seed])
        await until(lambda: "run `shoal cluster add n1`" in caplog.text)
        leader = await cluster.start("n2", bootstrap_expect=1)
        await cluster.ready("n2")
        await leader.change("join", address=cluster.peer_address("n1"))
        await until(lambda: "this board is in the cluster" in caplog.text)


async def test_a_store_that_has_not_come_yet_is_no_missing_one(cluster: Reef) -> None:
    """A client that is told "not found" gives up; one that is told of no leader asks again, or elsewhere."""
    await cluster.grow()
    behind = cluster.up["n2"]
    store = behind.node.node._stores._open.pop("main")  # as in a life in which nothing was heard of yet
    reply = await behind.board.call("GET", "/v1/streams/s?consistency=local")
    assert (reply.status, reply.code) == (503, "no-leader")
    other = await behind.board.call("GET", "/v1/stores/other/streams/s?consistency=local")
    assert (other.status, other.code) == (404, "not-found")
    behind.node.node._stores._open["main"] = store


async def test_a_follower_passes_changes_on(cluster: Reef) -> None:
    leader = await cluster.grow()
    view = await cluster.up["n2"].change("leave", node_id="n3")
    assert (view["node_id"], len(view["members"])) == ("n1", 2)
    assert voters(leader) == 2


async def test_leadership_goes_to_whom_it_is_handed(cluster: Reef) -> None:
    leader = await cluster.grow()
    await leader.change("transfer-leader", node_id="n3")
    assert (await cluster.leader()) is cluster.up["n3"]
    refused = await cluster.up["n3"].board.call("POST", "/v1/cluster/transfer-leader", {"node_id": "n9"})
    assert (refused.status, refused.code) == (400, "invalid-request")


async def test_a_removed_board_says_so_and_disturbs_nobody(
    cluster: Reef, caplog: pytest.LogCaptureFixture
) -> None:
    leader = await cluster.grow()
    out = cluster.up["n3"]
    await leader.change("leave", node_id="n3")
    await until(lambda: out.node.watch.removed)
    view = await out.view()
    assert view["removed"]
    assert "move its data directory aside" in view["status"]
    ready = await out.board.call("GET", "/readyz")
    assert (ready.status, ready.code) == (503, "unavailable")
    assert "shoal cluster add n3" in ready.json["detail"]
    await until(lambda: "no member of the cluster any more" in caplog.text)
    term = leader.node._driver.term
    await until(lambda: out.node._driver.core.role == "pre-candidate")  # it would like to lead
    assert (await leader.board.append("s", 1)).status == 201
    assert leader.node._driver.term == term
    assert {m["id"] for m in (await leader.view())["members"]} == {"n1", "n2"}


async def test_a_removed_leader_hands_over_and_is_out(cluster: Reef) -> None:
    first = await cluster.grow()
    assert (await first.board.append("s", 1)).status == 201
    await first.change("leave", node_id="n1")
    await until(lambda: cluster.up["n2"].node._driver.leader in {"n2", "n3"})
    await until(lambda: first.node.watch.removed)
    gone = cluster.up.pop("n1")
    leader = await cluster.leader()
    assert (await leader.board.append("s", 2)).status == 201
    assert {m["id"] for m in (await leader.view())["members"]} == {"n2", "n3"}
    await gone.stack.aclose()


async def test_a_removed_board_with_its_data_is_not_added_again(cluster: Reef) -> None:
    leader = await cluster.grow()
    await leader.change("leave", node_id="n3")
    await cluster.stop("n3")
    await cluster.start("n3")
    await until(leader.node.members.strangers)
    refused = await leader.board.call(
        "POST", "/v1/cluster/join", {"node_id": "n3", "address": cluster.peer_address("n3")}
    )
    assert (refused.status, refused.code) == (400, "invalid-request")
    assert "move its data directory aside" in refused.json["detail"]
    assert "--adopt" in refused.json["detail"]


async def test_a_board_that_was_met_and_turned_off_is_forgotten_after_a_while(
    cluster: Reef, monkeypatch: pytest.MonkeyPatch
) -> None:
    leader = await cluster.grow(2)
    await cluster.start("n3", seeds=[cluster.peer_address("n1")])
    await until(leader.node.members.strangers)
    await cluster.stop("n3")
    for _ in range(3):
        leader.node.members.forget_gone()
    assert [met["id"] for met in (await leader.view())["met"]] == ["n3"], "it may only be starting anew"
    monkeypatch.setattr(cluster_members, "SILENT_MS", 0)
    await until(lambda: not leader.node.members.strangers())
    assert leader.node.members.find("n2") is not None
    monkeypatch.undo()
    await cluster.start("n3", seeds=[cluster.peer_address("n1")])
    await until(leader.node.members.strangers)


async def test_a_wiped_board_is_added_in_place_of_what_it_was(cluster: Reef) -> None:
    leader = await cluster.grow()
    assert (await leader.board.append("s", 1)).status == 201
    before = leader.node.members.find("n3")
    await cluster.stop("n3")
    await cluster.wipe("n3")
    back = await cluster.start("n3")
    await until(leader.node.members.strangers)
    assert (await leader.view())["met"] == [
        {"id": "n3", "addresses": [cluster.peer_address("n3")], "empty": True}
    ]
    await leader.change("join", node_id="n3")
    await until(lambda: voters(leader) == 3)
    after = leader.node.members.find("n3")
    assert before is not None
    assert after is not None
    assert before.incarnation != after.incarnation
    await cluster.ready("n3")
    await until(lambda: back.node.node.store("main").head == 1)
    read = await back.board.call("GET", "/v1/streams/s?consistency=local")
    assert [event["data"] for event in read.json["events"]] == [1]


async def test_a_name_that_is_taken_by_a_living_board_is_refused(cluster: Reef) -> None:
    leader = await cluster.grow()
    again = await leader.board.call("POST", "/v1/cluster/join", {"node_id": "n2"})
    assert (again.status, again.code) == (409, "already-exists")


async def test_a_learner_stays_one_until_it_is_promoted(cluster: Reef) -> None:
    leader = await cluster.grow(1)
    await cluster.start("n2")
    await leader.change("join", address=cluster.peer_address("n2"), role="learner")
    await cluster.ready("n2")
    await until(lambda: leader.node._driver.core.followers()["n2"][0] >= leader.node._driver.commit_index)
    for _ in range(3):  # the leader has looked at its members since
        await leader.node.members.tend()
    assert (await leader.view())["members"][1]["role"] == "learner"
    await leader.change("promote", node_id="n2")
    assert (await leader.view())["members"][1]["role"] == "follower"


async def test_nobody_is_added_whom_nobody_met(cluster: Reef, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shoal.cluster.members.MEET_S", 0.05)
    leader = await cluster.grow(1)
    reply = await leader.board.call("POST", "/v1/cluster/join", {"node_id": "n7"})
    assert (reply.status, reply.code) == (404, "not-found")
    assert "mode = cluster" in reply.json["detail"]


@pytest.mark.parametrize("address", ["garbage", "127.0.0.1:99999", "127.0.0.1"])
async def test_what_is_no_address_is_refused_at_once(cluster: Reef, address: str) -> None:
    leader = await cluster.grow(1)
    reply = await leader.board.call("POST", "/v1/cluster/join", {"address": address})
    assert (reply.status, reply.code, reply.json["pointer"]) == (400, "invalid-request", "address")


async def test_a_leader_is_not_added_to_itself(cluster: Reef) -> None:
    leader = await cluster.grow(1)
    reply = await leader.board.call("POST", "/v1/cluster/join", {"node_id": "n1"})
    assert (reply.status, reply.code) == (409, "already-exists")


async def test_a_board_that_was_removed_and_wiped_is_added_at_once(cluster: Reef) -> None:
    """What the leader remembers of it is of its life before."""
    leader = await cluster.grow()
    met = leader.node.members.met["n3"]
    remembered = structs.replace(met, hello=structs.replace(met.hello, empty=False))
    await leader.change("leave", node_id="n3")
    await cluster.stop("n3")
    await cluster.wipe("n3")
    await cluster.start("n3", seeds=[])
    leader.node.members.met["n3"] = remembered
    await leader.change("join", node_id="n3", address=cluster.peer_address("n3"))
    await until(lambda: voters(leader) == 3)


async def test_who_does_not_take_over_in_time_may_still_do_so(
    cluster: Reef, monkeypatch: pytest.MonkeyPatch
) -> None:
    leader = await cluster.grow()
    driver: Any = cluster.up["n2"].node._driver
    monkeypatch.setattr(driver, "receive", lambda *_: None)  # it hears, and does nothing yet
    reply = await leader.board.call("POST", "/v1/cluster/transfer-leader", {"node_id": "n2"})
    assert (reply.status, reply.code, reply.json["outcome"]) == (503, "unavailable", "unknown")


async def test_without_a_leader_for_long_nothing_waits(
    cluster: Reef, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is refused at once was not applied for sure; who waits to the end of its time knows nothing."""
    monkeypatch.setattr(leadership, "PATIENCE_MS", 0)
    leader = await cluster.grow()
    await leader.board.append("s", 1)
    await cluster.stop("n1")
    await cluster.stop("n3")
    last = cluster.up["n2"]
    await until(lambda: last.node._driver.leader is None and last.node.members.margin < 0)
    for call in (
        last.board.append("s", 2),
        last.board.call("GET", "/v1/streams/s"),
        last.board.call("GET", "/v1/streams/s?consistency=linearizable"),
        last.board.call("POST", "/v1/cluster/leave", {"node_id": "n3"}),
    ):
        refused = await asyncio.wait_for(call, 2)
        assert (refused.status, refused.code, refused.json["outcome"]) == (503, "no-quorum", "not-applied")
        assert "n1, n3 cannot be reached" in refused.json["detail"]
    assert (await last.board.call("GET", "/v1/streams/s?consistency=local")).json["version"] == 0


async def test_a_removed_board_says_so_to_whoever_writes(
    cluster: Reef, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leadership, "PATIENCE_MS", 0)
    leader = await cluster.grow()
    gone = cluster.up["n3"]
    await leader.change("leave", node_id="n3")
    await until(lambda: gone.node.watch.removed)
    refused = await asyncio.wait_for(gone.board.append("s", 1), 2)
    assert (refused.status, refused.code, refused.json["outcome"]) == (503, "unavailable", "not-applied")
    assert "no member of the cluster any more" in refused.json["detail"]


async def test_the_last_voter_stays(cluster: Reef) -> None:
    leader = await cluster.grow(1)
    reply = await leader.board.call("POST", "/v1/cluster/leave", {"node_id": "n1"})
    assert (reply.status, reply.code) == (400, "invalid-request")
    assert "last voter" in reply.json["detail"]


async def test_who_adds_a_wiped_board_is_told_when_only_half_of_it_was_done(
    cluster: Reef, monkeypatch: pytest.MonkeyPatch
) -> None:
    leader = await cluster.grow()
    await cluster.stop("n3")
    await cluster.wipe("n3")
    await cluster.start("n3")
    await until(leader.node.members.strangers)

    def refuses(before: Configuration, learner: LogMember) -> Configuration:
        raise NoLeader("leadership changed meanwhile")

    monkeypatch.setattr(membership, "with_learner", refuses)
    reply = await leader.board.call("POST", "/v1/cluster/join", {"node_id": "n3"})
    assert (reply.status, reply.json["outcome"]) == (503, "unknown")
    assert "Add it again" in reply.json["detail"]
    monkeypatch.undo()
    await leader.change("join", node_id="n3")
    await until(lambda: voters(leader) == 3)


async def test_a_defect_in_what_a_node_does_each_second_ends_the_node(
    cluster: Reef, caplog: pytest.LogCaptureFixture
) -> None:
    """A node that goes on without it would look alive and do nothing."""
    member = await cluster.grow(1)

    def breaks() -> None:
        raise ZeroDivisionError("as a defect would")

    member.node._measure = breaks  # type: ignore[method-assign]
    with pytest.raises(StorageError, match="a defect in shoal ended the node"):
        await asyncio.wait_for(member.shoald.run(asyncio.Event()), 10)
    assert "in breaks" in caplog.text


async def test_the_feature_level_rises_once_every_member_understands_more(
    cluster: Reef, monkeypatch: pytest.MonkeyPatch
) -> None:
    leader = await cluster.grow()
    members = leader.node.members
    monkeypatch.setattr(cluster_members, "FEATURE_LEVEL", 2)
    for node_id in ("n2", "n3"):
        await members.tend()
        assert members.configuration.feature_level == 1
        seen = members.met[node_id]
        members.met[node_id] = structs.replace(seen, hello=structs.replace(seen.hello, feature_level=3))
    await until(lambda: members.configuration.feature_level == 2)
    await cluster.start("n4")
    old = await leader.board.call("POST", "/v1/cluster/join", {"address": cluster.peer_address("n4")})
    assert (old.status, old.code) == (400, "invalid-request")
    assert "install shoal" in old.json["detail"]
    await until(lambda: cluster.up["n2"].node.members.configuration.feature_level == 2)
    await cluster.stop("n2")
    with pytest.raises(StorageError, match="install the release"):
        await cluster.start("n2")
