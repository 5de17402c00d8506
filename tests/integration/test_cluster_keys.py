"""Keys of members: which count, over renewals, removals, wiped boards and new leaders. Real TLS, real HTTP."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
from cluster_kit import Member, Reef, reef, until, voters
from msgspec import structs

from shoal.cluster.identity import issue, load_identity
from shoal.cluster.words import OLD_KEY
from shoal.raft.member_keys import is_retired


@pytest.fixture
async def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Reef]:
    async with reef(tmp_path, monkeypatch) as made:
        yield made


async def test_a_key_that_was_renewed_lets_nobody_in_any_more(
    cluster: Reef, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever copied the old key, or a card with it, is out as soon as the members know the new one."""
    leader = await cluster.grow()
    tls_dir = cluster.directory / "tls" / "n2"
    old = await asyncio.to_thread(load_identity, tls_dir)
    await asyncio.to_thread(partial(issue, cluster.authority, "n2", tls_dir, renew=True))
    new = await asyncio.to_thread(load_identity, tls_dir)

    def known() -> bytes:
        member = leader.node.members.find("n2")
        assert member is not None
        return member.key_hash

    board = cluster.up["n2"].node
    board._use_identity(new)  # as KeyWatch does: no connection ends for that
    await until(lambda: known() == new.key_hash)
    await until(lambda: all(member.node.is_alive("n2") for member in cluster.up.values()))
    board._use_identity(old)
    for link in [link for member in cluster.up.values() for link in member.node.transport._links]:
        link.end()
    await until(lambda: not leader.node.is_alive("n2"))
    with caplog.at_level(logging.WARNING, "shoal.cluster"):
        await until(lambda: "a key of n2 that counts no more" in caplog.text)
    assert known() == new.key_hash
    await until(lambda: "older than its last key" in str(board.obstacle()))
    assert not board.watch.removed
    board._use_identity(new)
    await until(lambda: leader.node.is_alive("n2"))


async def test_a_new_leader_that_knows_the_old_key_only_brings_it_not_back(cluster: Reef) -> None:
    """Another leader has heard of the new one, and had it agreed upon: whoever holds the old one would be in again."""
    leader = await cluster.grow()
    heard = leader.node.members.met["n2"]
    tls_dir = cluster.directory / "tls" / "n2"
    await asyncio.to_thread(partial(issue, cluster.authority, "n2", tls_dir, renew=True))
    new = await asyncio.to_thread(load_identity, tls_dir)
    cluster.up["n2"].node._use_identity(new)
    members = leader.node.members
    await until(lambda: retired(leader, "n2", heard.key_hash))
    members.met["n2"] = heard
    await members.tend()
    member = members.find("n2")
    assert member is not None
    assert member.key_hash == new.key_hash
    assert retired(leader, "n2", heard.key_hash)


async def test_boards_that_come_back_with_new_keys_find_together(cluster: Reef) -> None:
    """Power was cut before anybody had heard of them: no lock-out, since their authority vouches for them."""
    await cluster.grow()
    old = {}
    for node_id in ("n1", "n2", "n3"):
        await cluster.stop(node_id)
        tls_dir = cluster.directory / "tls" / node_id
        old[node_id] = await asyncio.to_thread(load_identity, tls_dir)
        await asyncio.to_thread(partial(issue, cluster.authority, node_id, tls_dir, renew=True))
    for node_id in old:
        await cluster.start(node_id)
    leader = await cluster.leader()
    for node_id, before in old.items():
        await until(lambda node_id=node_id, before=before: retired(leader, node_id, before.key_hash))  # type: ignore[misc] # bound now


async def test_a_key_that_was_renewed_stays_out_when_the_board_is_wiped_and_added_again(
    cluster: Reef,
) -> None:
    leader = await cluster.grow()
    await cluster.stop("n3")
    tls_dir = cluster.directory / "tls" / "n3"
    old = await asyncio.to_thread(load_identity, tls_dir)
    await asyncio.to_thread(partial(issue, cluster.authority, "n3", tls_dir, renew=True))
    await cluster.start("n3")
    await until(lambda: retired(leader, "n3", old.key_hash))
    await cluster.stop("n3")
    await cluster.wipe("n3")
    await cluster.start("n3")
    await until(leader.node.members.strangers)
    await leader.change("join", node_id="n3")
    await until(lambda: voters(leader) == 3)
    assert retired(leader, "n3", old.key_hash)


async def test_the_key_of_a_removed_board_is_not_that_of_another_with_its_name(
    cluster: Reef, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever has the removed board, and learns what data the new one has, could stand in for it."""
    leader = await cluster.grow()
    tls_dir = cluster.directory / "tls" / "n3"
    old = await asyncio.to_thread(load_identity, tls_dir)
    await leader.change("leave", node_id="n3")
    await cluster.stop("n3")
    await cluster.wipe("n3")
    await asyncio.to_thread(partial(issue, cluster.authority, "n3", tls_dir, renew=True))
    await cluster.start("n3")
    members = leader.node.members
    new = await asyncio.to_thread(load_identity, tls_dir)
    await until(lambda: "n3" in members.met and members.met["n3"].key_hash == new.key_hash)
    thief = structs.replace(members.met["n3"], key_hash=old.key_hash)
    assert not members.meet(thief), "it would be added in the place of the new board"
    await leader.change("join", node_id="n3")
    await until(lambda: voters(leader) == 3)
    assert retired(leader, "n3", old.key_hash)
    refusal = members.refusal(thief)
    assert refusal is not None
    assert refusal.reason == OLD_KEY
    assert members.refusal(members.met["n3"]) is None
    assert caplog.text.count("counts no more") == 1


async def test_a_removed_board_is_added_again_with_its_key(
    cluster: Reef, caplog: pytest.LogCaptureFixture
) -> None:
    leader = await cluster.grow()
    key_hash = (await asyncio.to_thread(load_identity, cluster.directory / "tls" / "n3")).key_hash
    await leader.change("leave", node_id="n3")
    await cluster.stop("n3")
    assert is_retired(leader.node.members.configuration, key_hash)
    await cluster.wipe("n3")
    await cluster.start("n3")
    await until(leader.node.members.strangers)
    await leader.change("join", node_id="n3")
    await until(lambda: voters(leader) == 3)
    assert not retired(leader, "n3", key_hash)
    assert "n3 is added with the key of a member that was removed" in caplog.text


def retired(leader: Member, node_id: str, key_hash: bytes) -> bool:
    """Whether the leader takes this key of a member no more."""
    members = leader.node.members
    return members.find(node_id) is not None and is_retired(members.configuration, key_hash)


async def test_a_key_that_nobody_has_said_hello_with_is_not_served(cluster: Reef, tmp_path: Path) -> None:
    """The authority certified it; that it is the board's own is known when the board has come with it."""
    leader = await cluster.grow(2)
    await asyncio.to_thread(partial(issue, cluster.authority, "n2", tmp_path / "other"))
    other = await asyncio.to_thread(load_identity, tmp_path / "other")
    own = await asyncio.to_thread(load_identity, cluster.directory / "tls" / "n2")
    host, port = cluster.peer_address("n1").split(":")
    answers = []
    for identity in (own, other):
        reader, writer = await asyncio.open_connection(host, int(port), ssl=identity.http, server_hostname="")
        writer.write(b"GET /livez HTTP/1.1\r\nHost: n1\r\nConnection: close\r\n\r\n")
        try:
            answers.append(await reader.read(5))
        except ConnectionError:
            answers.append(b"")
        writer.close()
    assert answers == [b"HTTP/", b""]
    assert voters(leader) == 2
