"""`shoal cluster` and `shoal doctor` on boards that are told what to say, over real HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from cluster_kit import Reef, reef, until, voters
from http_board import configured, running_board

from shoal.cluster.certificates import make_ca
from shoal.cluster.identity import issue
from shoal.errors import NoLeader, NotFound, OutcomeUnknown, Unavailable
from shoal.http import Connections, Service
from shoal.testing.clock import FakeClock
from shoal.testing.memory_node import MemoryNode
from shoal.tokens import TokenFile
from shoal_host import cluster_boards
from shoal_host.group import main


async def shoal(*arguments: str, code: int = 0, stdin: str | None = None) -> Result:
    """Call `shoal` in a thread, while the boards answer on the loop."""
    result = await asyncio.to_thread(CliRunner().invoke, main, arguments, input=stdin, catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result


class Told:
    """A cluster that is as the test says; changes are written down, or refused once each."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.seen: dict[str, Any] = {
            "cluster_id": "reef",
            "node_id": name,
            "role": "leader",
            "leader": name,
            "term": 3,
            "commit_index": 9,
            "applied_index": 9,
            "last_index": 9,
            "last_term": 3,
            "members": [],
            "quorum": {"size": 1, "alive": 1, "margin": 0},
            "met": [],
            "disk_full": False,
            "removed": False,
            "status": "",
        }
        self.refusals: list[Exception] = []
        self.changes: list[tuple[Any, ...]] = []
        self.trouble: Unavailable | None = None
        self.lag_ms = 0

    @property
    def members(self) -> Told:
        return self

    def has(self, *names: str, url: str) -> None:
        """These are members, the first leads."""
        self.seen["members"] = [
            {
                "id": each,
                "url": url,
                "role": "follower" if number else "leader",
                "match_index": 9,
                "lag": 0,
                "alive": True,
                "addresses": [],
            }
            for number, each in enumerate(names)
        ]

    def view(self) -> dict[str, Any]:
        return self.seen

    def obstacle(self) -> Unavailable | None:
        return self.trouble

    def stats(self) -> dict[str, float]:
        return {}

    def _note(self, *change: Any) -> None:
        if self.refusals:
            raise self.refusals.pop(0)
        self.changes.append(change)

    async def add(self, node_id: str | None, address: str | None = None, role: str = "voter") -> str:
        self._note("add", node_id, address, role)
        return node_id or "met"

    async def remove(self, node_id: str) -> None:
        self._note("remove", node_id)

    async def promote(self, node_id: str) -> None:
        self._note("promote", node_id)

    async def transfer(self, target: str | None) -> str:
        self._note("transfer", target)
        return target or "best"

    async def recover(self, node_id: str, cluster_id: str) -> None:
        self._note("recover", node_id, cluster_id)


@asynccontextmanager
async def served(tmp_path: Path, *tolds: Told) -> AsyncIterator[list[str]]:
    """The urls where they answer."""
    async with AsyncExitStack() as stack:
        urls = []
        for told in tolds:
            place = tmp_path / told.name
            place.mkdir()
            node = MemoryNode(FakeClock())
            service = Service(node, configured(place), TokenFile(place), now_ms=lambda: 0, cluster=told)
            connections = Connections(service.handle, limit=9, header_timeout_s=9)
            server = await asyncio.get_running_loop().create_server(connections, "127.0.0.1", 0)
            stack.push_async_callback(connections.drain, 1)
            stack.callback(server.close)
            urls.append("http://127.0.0.1:%d" % server.sockets[0].getsockname()[1])
        yield urls


async def test_status_shows_members_quorum_and_findings(tmp_path: Path) -> None:
    one = Told("n1")
    async with served(tmp_path, one) as (url,):
        one.has("n1", "n2", url=url)
        one.seen["quorum"] = {"size": 2, "alive": 2, "margin": 0}
        lines = (await shoal("cluster", "status", "--url", url)).stdout.splitlines()
        assert lines[0].split("\t") == ["id", "role", "url", "alive", "lag"]
        assert lines[1].split("\t") == ["n1", "leader", url, "yes", "0"]
        assert lines[3] == "cluster reef, leader n1, term 3; quorum: 2 needed, 2 alive, none may fail"
        assert lines[4].startswith("warning: no board may fail now")
        document = json.loads((await shoal("cluster", "status", "--url", url, "--json")).stdout)
        assert (document["ok"], document["cluster"]["node_id"]) == (True, "n1")
        assert document["findings"][0]["do"].startswith("add one")


async def test_status_asks_the_members_and_sees_two_leaders(tmp_path: Path) -> None:
    one, two = Told("n1"), Told("n2")
    async with served(tmp_path, one, two) as (url, other):
        one.has("n1", "n2", url=other)
        two.has("n2", url=other)
        two.seen["term"] = 7
        result = await shoal("cluster", "status", "--url", url, code=5)
        assert "error: split brain: n1 leads in term 3 and n2 leads in term 7" in result.stdout


async def test_status_of_nobody_is_unreachable() -> None:
    result = await shoal("cluster", "status", "--url", "http://127.0.0.1:9", code=5)
    assert "no answer from http://127.0.0.1:9" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "change"),
    [
        (("add", "n4"), ("add", "n4", None, "voter")),
        (("add", "10.0.0.4:4590", "--role", "witness"), ("add", None, "10.0.0.4:4590", "witness")),
        (("remove", "n2"), ("remove", "n2")),
        (("promote", "n2"), ("promote", "n2")),
        (("transfer-leader",), ("transfer", None)),
        (("transfer-leader", "n2"), ("transfer", "n2")),
    ],
)
async def test_changes_are_sent_as_they_were_typed(
    tmp_path: Path, arguments: tuple[str, ...], change: tuple[Any, ...]
) -> None:
    one = Told("n1")
    async with served(tmp_path, one) as (url,):
        result = await shoal("cluster", *arguments, "--url", url)
        assert one.changes == [change]
        assert result.stdout
        document = json.loads((await shoal("cluster", *arguments, "--url", url, "--json")).stdout)
        assert document["node_id"] == "n1"


@pytest.mark.parametrize(("role", "word"), [("learner", "shoal cluster promote"), ("voter", "it votes when")])
async def test_who_is_added_is_told_when_the_board_votes(tmp_path: Path, role: str, word: str) -> None:
    async with served(tmp_path, Told("n1")) as (url,):
        result = await shoal("cluster", "add", "n3", "--role", role, "--url", url)
        assert word in result.stdout


async def test_of_several_boards_the_next_is_asked(tmp_path: Path) -> None:
    one = Told("n1")
    async with served(tmp_path, one) as (url,):
        await shoal("cluster", "remove", "n3", "--url", "http://127.0.0.1:9", "--url", url)
        assert one.changes == [("remove", "n3")]


async def test_what_is_not_possible_yet_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_boards, "AGAIN_S", 0)
    one = Told("n1")
    async with served(tmp_path, one) as (url,):
        one.refusals = [Unavailable("another change is under way"), NoLeader("nobody")]
        await shoal("cluster", "promote", "n3", "--url", url)
        assert one.changes == [("promote", "n3")]
        one.refusals = [NotFound("board 'n9' was not met")]
        result = await shoal("cluster", "add", "n9", "--url", url, code=4)
        assert "was not met" in result.stderr


async def test_a_change_whose_answer_is_lost_is_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A leader that was told to go may be gone before its word has come back."""
    monkeypatch.setattr(cluster_boards, "AGAIN_S", 0)
    one = Told("n1")
    async with served(tmp_path, one) as (url,):
        one.has("n1", "n2", url=url)
        one.refusals = [OutcomeUnknown("it leads no more")]
        await shoal("cluster", "remove", "n3", "--url", url)
        one.refusals = [OutcomeUnknown("it leads no more")]
        result = await shoal("cluster", "remove", "n2", "--url", url, code=5)
        assert "it leads no more" in result.stderr
        assert one.changes == []


async def test_recovery_wants_the_names_typed(tmp_path: Path) -> None:
    one, two = Told("n1"), Told("n2")
    async with served(tmp_path, one, two) as (url, other):
        one.has("n1", "n2", "n3", url=other)
        two.seen["last_index"] = 12
        for given in ((), ("--confirm", "n1@reef")):
            stopped = await shoal("cluster", "recover", "--url", url, *given, stdin="n1@reef\n", code=2)
            assert "STOP: nothing was done: n2 has more than n1" in stopped.stderr
        two.seen["last_index"] = 9
        result = await shoal("cluster", "recover", "--url", url, stdin="n1\n", code=2)
        assert "n1 of reef has entry 9 of term 3" in result.stderr
        assert "must never run again with their data: n2, n3" in result.stderr
        assert one.changes == []
        await shoal("cluster", "recover", "--url", url, "--confirm", "n2@reef", code=2)
        nobody = await shoal("cluster", "recover", "--url", url, stdin="", code=2)
        assert "scripts write --confirm n1@reef" in nobody.stderr
        nobody = await shoal("cluster", "recover", "--url", url, "--json", stdin="", code=2)
        assert "scripts write --confirm n1@reef" in json.loads(nobody.stderr)["error"]["detail"]
        assert one.changes == []
        await shoal("cluster", "recover", "--url", url, stdin="n1@reef\n")
        await shoal("cluster", "recover", "--url", url, "--confirm", "n1@reef", "--json")
        assert one.changes == [("recover", "n1", "reef")] * 2
        await shoal("cluster", "recover", "--url", url, "--url", other, code=2)


async def test_doctor_names_the_step_that_fails(tmp_path: Path) -> None:
    one = Told("n1")
    async with served(tmp_path, one) as (url,):
        one.has("n1", url=url)
        document = json.loads((await shoal("doctor", "--url", url, "--json")).stdout)
        assert document["ok"]
        steps = {row["step"]: row["result"] for row in document["steps"]}
        assert {f"address {url}", "token", "disk", "time", "ready", "quorum"} <= set(steps)
        one.trouble = Unavailable("this board is catching up")
        result = await shoal("doctor", "--url", url, code=1)
        assert "ready\tFAILS\tthis board is catching up" in result.stdout
    result = await shoal("doctor", "--url", url, code=1)
    assert f"address {url}\tFAILS" in result.stdout


async def test_a_board_alone_is_a_cluster_of_one(tmp_path: Path) -> None:
    async with running_board(tmp_path) as board:
        view = (await board.call("GET", "/v1/cluster")).json
        assert (view["role"], view["leader"]) == ("leader", view["node_id"])
        assert view["quorum"] == {"size": 1, "alive": 1, "margin": 0}
        assert [member["role"] for member in view["members"]] == ["leader"]
        refused = await board.call("POST", "/v1/cluster/join", {"node_id": "n2"})
        assert (refused.status, refused.code) == (400, "invalid-request")
        assert "mode = cluster" in refused.json["detail"]
        assert (await shoal("cluster", "status", "--url", board.url)).exit_code == 0


@pytest.fixture
async def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Reef]:
    async with reef(tmp_path / "reef", monkeypatch) as made:
        yield made


async def test_doctor_on_a_board_tries_its_keys_at_the_doors_of_the_others(
    cluster: Reef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leader = await cluster.grow(2)
    settings = tmp_path / "shoald.toml"

    def write(tls_dir: Path) -> None:
        settings.write_text(
            f'mode = "cluster"\ntls_dir = "{tls_dir}"\nseeds = ["{cluster.peer_address("n2")}"]\n'
            '[discovery]\nmethods = ["static"]\ninterval_ms = 100\n'
        )

    async def steps(code: int) -> dict[str, str]:
        asked = ("doctor", "--config", str(settings), "--url", leader.board.url, "--json")
        rows = json.loads((await shoal(*asked, code=code)).stdout)["steps"]
        return {row["step"]: row["result"] for row in rows}

    monkeypatch.setattr("shoal_host.commands.doctor.LISTEN_MORE_S", 0)
    write(cluster.directory / "tls" / "n1")
    found = await steps(0)
    doors = [f"TLS to {name} at {cluster.peer_address(name)}" for name in ("n1", "n2")]
    assert {found[step] for step in (*doors, "keys", "configuration")} == {"ok"}
    await cluster.stop("n2")
    assert (await steps(1))[doors[1]] == "FAILS"
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    await asyncio.to_thread(issue, make_ca("reed"), "n1", foreign)
    write(foreign)
    assert (await steps(1))[doors[0]] == "FAILS"
    write(tmp_path / "nowhere")
    assert (await steps(1))["keys"] == "FAILS"


async def test_a_board_with_data_is_adopted(cluster: Reef, tmp_path: Path) -> None:
    """Streams, ids, bytes, tags and snapshots are in the cluster; the directory is aside; the board is a member."""
    alone = tmp_path / "alone"
    async with running_board(alone) as board:
        await board.append("s", *range(3))
        await board.append("s", {"event_type": "t", "data": {"a": 1.50}, "tags": ["x"], "metadata": {"m": 1}})
        await board.append("b", {"event_type": "t", "data_base64": "AP8=", "data_content_type": "image/x"})
        await board.call("PUT", "/v1/streams/s/snapshots/2", {"data": {"sum": 3}})
        assert (await board.call("PUT", "/v1/stores/other")).status == 201
        await board.call("POST", "/v1/stores/other/streams/o", [{"event_type": "t", "data": 1}])
        before = (await board.call("GET", "/v1/streams/s")).json["events"]
    leader = await cluster.grow(1)
    address = cluster.peer_address("n2")
    asked = asyncio.create_task(
        shoal("cluster", "add", address, "--adopt", str(alone), "--url", leader.board.url, "--json")
    )
    await until(lambda: not alone.exists() or asked.done())
    await cluster.start("n2")
    adopted = json.loads((await asked).stdout)["adopted"]
    assert (adopted["streams"], adopted["events"], adopted["snapshots"]) == (3, 6, 1)
    assert Path(adopted["moved_to"]).name == "alone.adopted-1"
    await until(lambda: voters(leader) == 2)
    after = (await leader.board.call("GET", "/v1/streams/s")).json["events"]
    kept = ("version", "event_id", "event_type", "data", "metadata", "tags")
    assert [{key: event[key] for key in kept} for event in after] == [
        {key: event[key] for key in kept} for event in before
    ]
    assert (await leader.board.call("GET", "/v1/streams/s/snapshots/2")).json["data"] == {"sum": 3}
    assert len((await leader.board.call("GET", "/v1/stores/other/streams/o")).json["events"]) == 1


async def test_what_the_cluster_has_otherwise_is_not_adopted(cluster: Reef, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    async with running_board(alone) as board:
        await board.append("a", 1)
        for stream in ("s", "t"):
            await board.append(stream, {"event_type": "t", "data": 1, "event_id": f"same-{stream}"})
            await board.append(stream, 2)
        await board.append("u", 1)
        await board.call("PUT", "/v1/stores/other")
        await board.call("POST", "/v1/stores/other/streams/o", [{"event_type": "t", "data": 1}])
    leader = await cluster.grow(1)
    await leader.board.append("s", 2)
    await leader.board.append("t", {"event_type": "t", "data": 1, "event_id": "same-t"}, 3)
    await leader.board.append("u", 1)
    await leader.board.call("DELETE", "/v1/streams/u?tombstone=true")
    await leader.board.call("PUT", "/v1/stores/other")
    await leader.board.call("POST", "/v1/stores/other/streams/o", [{"event_type": "t", "data": 1}])
    result = await shoal("cluster", "add", "n2", "--adopt", str(alone), "--url", leader.board.url, code=3)
    assert (
        "4 streams with other events than these here: main/s, main/t, main/u, other/o. Nothing"
        in result.stderr
    )
    assert alone.exists()
    assert (await leader.board.call("GET", "/v1/streams/a")).status == 404


async def test_an_adoption_that_broke_off_goes_on_also_where_the_cluster_has_gone_on(
    cluster: Reef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a snapshot that the cluster has made of the same events since is kept."""
    monkeypatch.setattr("shoal_host.commands.cluster.ADOPTED_WAIT_S", 0.1)
    alone = tmp_path / "alone"
    events = [{"event_type": "t", "data": n, "event_id": f"e-{n}"} for n in range(3)]
    async with running_board(alone) as board:
        for stream in ("begun", "done"):
            await board.append(stream, *events)
        for version in (0, 1):
            await board.call("PUT", f"/v1/streams/done/snapshots/{version}", {"data": "old"})
    leader = await cluster.grow(1)
    await leader.board.append("begun", events[0])
    await leader.board.append("done", *events, 3)
    await leader.board.call("PUT", "/v1/streams/done/snapshots/1", {"data": "new"})
    asked = ("cluster", "add", "n2", "--adopt", str(alone), "--url", leader.board.url)
    result = await shoal(*asked, code=4)
    assert "6 events of 2 streams are in the cluster" in result.stderr
    assert "n2 was not met in 0.1 s: start it, then shoal cluster add n2" in result.stderr
    assert not alone.exists()
    for stream, count in (("begun", 3), ("done", 4)):
        found = (await leader.board.call("GET", f"/v1/streams/{stream}")).json["events"]
        assert [event["data"] for event in found] == list(range(count))
    kept = [(await leader.board.call("GET", f"/v1/streams/done/snapshots/{n}")).json["data"] for n in (0, 1)]
    assert kept == ["old", "new"]


async def test_what_a_removed_board_has_more_is_adopted_and_a_member_that_is_down_keeps_its_own(
    cluster: Reef, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shoal_host.commands.cluster.ADOPTED_WAIT_S", 0.1)
    leader = await cluster.grow(3)
    await leader.board.append("s", 1)
    for node_id in cluster.up:
        await cluster.ready(node_id)
    await until(lambda: all(each.node.node.store("main").head == 1 for each in cluster.up.values()))
    data_dir = cluster.directory / "n3"
    await cluster.stop("n3")
    asked = ("cluster", "add", "n3", "--adopt", str(data_dir), "--url", leader.board.url)
    result = await shoal(*asked, code=2)
    assert "the data of n3, a member of reef that is down" in result.stderr
    await leader.change("leave", node_id="n3")
    await leader.board.append("s", 2)
    result = await shoal(*asked, code=4)
    assert "1 events of 1 streams are in the cluster" in result.stderr
    assert not data_dir.exists()
    found = (await leader.board.call("GET", "/v1/streams/s")).json["events"]
    assert [event["data"] for event in found] == [1, 2]
