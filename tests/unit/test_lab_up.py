"""The processes of `shoal up --nodes N`, here as boards that know nothing of each other; and where they are."""

from __future__ import annotations

import asyncio
import os

import aiohttp
import psutil
import pytest
from cli_kit import run

from shoal.cluster.identity import load_identity
from shoal.errors import ConfigError
from shoal_host.commands.up_cluster import Boards
from shoal_host.local_board import Died
from shoal_host.local_cluster import (
    Place,
    boards_in,
    cluster_options,
    free_ports,
    issue_identities,
    places_in,
    shoald_options,
)

PATIENCE_S = 40


def alone(place, _places) -> list[str]:
    """Options of a board without others."""
    return ["--node-id", place.node_id]


@pytest.fixture
async def boards(tmp_path, monkeypatch):
    monkeypatch.setenv("SHOAL_STORAGE_RESERVE_BYTES", "0")
    places = [
        Place(f"n{number}", f"127.0.0.1:{port}", "127.0.0.1:1", tmp_path / f"n{number}")
        for number, port in enumerate(free_ports(2), 1)
    ]
    made = Boards(places, lambda _line: None, alone)
    await made.start()
    yield made
    pids = [node.child.process.pid for node in made.nodes.values()]
    await asyncio.wait_for(made.stop(), PATIENCE_S)
    assert not any(psutil.pid_exists(pid) for pid in pids)


async def answers(boards, number) -> bool:
    timeout = aiohttp.ClientTimeout(total=2)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(f"{boards.nodes[number].url}/livez") as answer,
        ):
            return answer.status == 200
    except (aiohttp.ClientError, TimeoutError):
        return False


async def test_keys_kill_and_start_and_pause_and_continue(boards) -> None:
    assert [boards.nodes[number].node_id for number in (0, 1)] == ["n1", "n2"]
    assert await answers(boards, 0)
    assert await answers(boards, 1)
    assert "n2 was killed and stays down" in await boards.obey("k2\n")
    assert not await answers(boards, 1)
    assert await answers(boards, 0)
    assert "n2 is down" in await boards.obey("p2")
    assert "n2 is back" in await boards.obey("s2")
    assert await answers(boards, 1)
    assert "n2 runs already" in await boards.obey("s2")
    assert "n1 is paused" in await boards.obey("p1")
    await asyncio.to_thread(  # until it is stopped
        os.waitid, os.P_PID, boards.nodes[0].child.process.pid, os.WSTOPPED | os.WNOWAIT
    )
    assert "n1 goes on" in await boards.obey("c1")
    assert await answers(boards, 0)
    for nonsense in ("", "k", "k3", "x1", "k0", "kill 1"):
        assert "a board from 1 to 2" in await boards.obey(nonsense)
    await boards.obey("p1")  # one that is paused is stopped too


async def test_a_board_that_ends_by_itself_stays_down_and_is_told(boards, capsys) -> None:
    node = boards.nodes[0]
    os.kill(node.child.process.pid, 9)
    await asyncio.wait_for(boards._watching[0], PATIENCE_S)
    told = capsys.readouterr().err
    assert "n1 was ended by signal 9" in told
    assert "the others go on" in told
    assert await answers(boards, 1)
    assert "n1 is back" in await boards.obey("s1")


async def test_when_one_cannot_start_none_stays(tmp_path) -> None:
    ports = free_ports(2)
    places = [Place(f"n{n}", f"127.0.0.1:{port}", "", tmp_path / f"n{n}") for n, port in enumerate(ports, 1)]

    def options(place, places):
        return ["--mode", "nonsense"] if place.node_id == "n2" else alone(place, places)

    boards = Boards(places, lambda _line: None, options)
    with pytest.raises(Died, match="n2 ended with exit code 2"):
        await boards.start()
    await boards.stop()
    me = psutil.Process()
    assert [
        child for child in me.children(recursive=True) if str(tmp_path) in " ".join(child.cmdline())
    ] == []


def test_boards_are_at_the_same_places_each_time(tmp_path) -> None:
    first, second, third = places_in(tmp_path, "127.0.0.1:4589", 3)
    assert (first.node_id, first.listen, first.peer_listen) == ("n1", "127.0.0.1:4589", "127.0.0.1:4689")
    assert (third.listen, third.peer_listen) == ("127.0.0.1:4591", "127.0.0.1:4691")
    assert second.data_dir == tmp_path / "n2"
    assert second.url == "http://127.0.0.1:4590"
    assert places_in(tmp_path, "[::1]:4589", 2)[1].listen == "[::1]:4590"
    with pytest.raises(ConfigError, match="65432"):
        places_in(tmp_path, "127.0.0.1:65433", 3)


def test_one_of_several_is_told_of_the_others_and_one_alone_of_nobody(tmp_path) -> None:
    places = places_in(tmp_path, "127.0.0.1:4589", 3)
    options = cluster_options(places[1], places)
    seeds = [options[n + 1] for n, option in enumerate(options) if option == "--seed"]
    assert seeds == ["127.0.0.1:4689", "127.0.0.1:4691"]
    assert options[options.index("--bootstrap-expect") + 1] == "3"
    assert options[options.index("--tls-dir") + 1] == str(places[1].tls_dir)
    assert shoald_options(places[0], places[:1]) == [
        *("--data-dir", str(tmp_path / "n1"), "--listen", "127.0.0.1:4589", "--node-id", "n1")
    ]


def test_identities_are_made_once_for_all(tmp_path) -> None:
    ids = ["n1", "n2", "n3"]
    made = issue_identities(tmp_path / "tls", ids)
    identities = [load_identity(made[node_id]) for node_id in ids]
    assert [identity.node_id for identity in identities] == ids
    assert len({identity.cluster_id for identity in identities}) == 1
    assert issue_identities(tmp_path / "tls", ids) == made
    assert load_identity(made["n1"]).key_hash == identities[0].key_hash
    assert boards_in(tmp_path) == 3
    with pytest.raises(ConfigError, match="certificates for 3 boards"):
        issue_identities(tmp_path / "tls", [*ids, "n4"])
    assert list((tmp_path / "tls").glob("**/*ca*key*")) == []


def test_up_does_not_mix_a_board_and_a_cluster(tmp_path) -> None:
    issue_identities(tmp_path / "three" / "tls", ["n1", "n2", "n3"])
    result = run("up", "--data-dir", str(tmp_path / "three"))
    assert result.exit_code == 2
    assert "write --nodes 3" in result.stderr
    (tmp_path / "one" / "db").mkdir(parents=True)
    result = run("up", "--nodes", "3", "--data-dir", str(tmp_path / "one"))
    assert result.exit_code == 2
    assert "holds a board of its own" in result.stderr
    assert not (tmp_path / "one" / "tls").exists()
