"""Keys and authorities that are replaced while nodes talk to each other: real sockets, real TLS, no message lost."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from enrolment_kit import make_authority
from peer_kit import Node, Reef, Sleeps, until

from shoal.cluster.authority import Authorities, load_authority, rotate
from shoal.cluster.certificates import roots
from shoal.cluster.durable import write_durably
from shoal.cluster.identity import CA_FILE, CERTIFICATE_FILE, Identity, issue, load_identity
from shoal.cluster.key_watch import LOOK_S, KeyWatch

NAMES = ("one", "two", "three")


class Boards:
    """Three nodes, each with its directory, that trust and dial each other."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.ca_dir = place / "ca"
        self.reef = Reef(place / "nodes")
        self.nodes: dict[str, Node] = {}
        self.sent = 0

    async def start(self) -> None:
        await asyncio.to_thread(make_authority, self.ca_dir)
        now = await asyncio.to_thread(load_authority, self.ca_dir)
        for name in NAMES:
            await asyncio.to_thread(issue, now.signing, name, self.place / name)
            identity = await asyncio.to_thread(load_identity, self.place / name)
            self.nodes[name] = await self.reef.node(name, identity)
        for node in self.nodes.values():
            node.admit(*(other for other in self.nodes.values() if other is not node))
            node.dial(*self.nodes.values())
        await self.all_connected()

    async def all_connected(self) -> None:
        for node in self.nodes.values():
            for name in NAMES:
                if name != node.node_id:
                    await node.until_connected(name)

    async def all_talk(self) -> None:
        """A message from each to each other."""
        self.sent += 1
        for node in self.nodes.values():
            for name in NAMES:
                if name != node.node_id:
                    assert node.transport.send(name, self.sent)
        for node in self.nodes.values():
            await until(lambda node=node: [value for _, value in node.received].count(self.sent) == 2)

    async def bring(self, now: Authorities) -> None:
        """`ca.pem` to each node, one after the other; all go on talking in between."""
        for name in NAMES:
            await asyncio.to_thread(write_durably, self.place / name / CA_FILE, now.ca_pem)
            await self.reload(name)

    async def renew(self, now: Authorities, *, key: bool) -> None:
        """A certificate for each node, one after the other, and another key; the membership hears of it first."""
        for name in NAMES:
            await asyncio.to_thread(issue, now.signing, name, self.place / name, ca_pem=now.ca_pem, renew=key)
            await self.reload(name)

    async def reload(self, name: str) -> None:
        identity = await asyncio.to_thread(load_identity, self.place / name)
        for node in self.nodes.values():
            if node.node_id != name:
                node.key_hashes[name].add(identity.key_hash)
        self.nodes[name].transport.reload(identity)
        await self.all_talk()  # on the connections that are there
        for link in [link for node in self.nodes.values() for link in node.transport._links]:
            link.end()
        await self.all_connected()  # and on new ones
        await self.all_talk()


@pytest.fixture
async def boards(tmp_path: Path) -> AsyncIterator[Boards]:
    made = Boards(tmp_path)
    try:
        await made.start()
        yield made
    finally:
        await made.reef.close()


async def test_every_key_is_renewed_while_all_talk(boards: Boards) -> None:
    before = {name: node.identity.key_hash for name, node in boards.nodes.items()}
    await boards.renew(await asyncio.to_thread(load_authority, boards.ca_dir), key=True)
    assert all(node.transport.identity.key_hash != before[name] for name, node in boards.nodes.items())


@pytest.mark.parametrize("key", [True, False], ids=["with new keys", "with the same keys"])
async def test_an_authority_is_replaced_while_all_talk(boards: Boards, key: bool) -> None:
    first = await asyncio.to_thread(load_authority, boards.ca_dir)
    await boards.bring(await asyncio.to_thread(rotate, boards.ca_dir, "begin"))
    await boards.renew(await asyncio.to_thread(rotate, boards.ca_dir, "switch"), key=key)
    last = await asyncio.to_thread(rotate, boards.ca_dir, "finish")
    await boards.bring(last)
    for node in boards.nodes.values():
        assert roots(node.transport.identity.ca_pem) == (last.signing.certificate,)
    assert last.signing != first.signing


async def test_who_was_away_during_a_rotation_is_a_stranger_after_it(
    boards: Boards, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    away = await asyncio.to_thread(load_identity, boards.place / "three")
    await boards.bring(await asyncio.to_thread(rotate, boards.ca_dir, "begin"))
    await boards.renew(await asyncio.to_thread(rotate, boards.ca_dir, "switch"), key=True)
    await boards.bring(await asyncio.to_thread(rotate, boards.ca_dir, "finish"))
    seen = len(boards.nodes["one"].seen)
    boards.nodes["three"].transport.reload(away)  # as a board that was off all the time
    for link in list(boards.nodes["three"].transport._links):
        link.end()
    with caplog.at_level(logging.DEBUG, "shoal.transport"):
        await until(lambda: (boards.nodes["three"].retry(), "no connection to one" in caplog.text)[1])
    assert not boards.nodes["three"].transport.connected("one")
    assert len(boards.nodes["one"].seen) == seen


# -- files that change under a node ----------------------------------------------------------------


class Watched:
    """A watch whose looks happen when the test says so."""

    def __init__(self, directory: Path) -> None:
        self.loaded: list[Identity] = []
        self.sleeps = Sleeps()
        self.task = asyncio.create_task(KeyWatch(directory, self.loaded.append, sleep=self.sleeps).run())

    async def look(self) -> None:
        await until(lambda: self.sleeps.waiting)
        assert self.sleeps.end(lambda _: True) == [LOOK_S]
        await until(lambda: self.sleeps.waiting)


@pytest.fixture
async def watched(tmp_path: Path) -> AsyncIterator[Watched]:
    authority = await asyncio.to_thread(make_authority, tmp_path / "ca")
    await asyncio.to_thread(issue, authority, "board", tmp_path / "board")
    made = Watched(tmp_path / "board")
    await until(lambda: made.sleeps.waiting)
    yield made
    made.task.cancel()
    await asyncio.gather(made.task, return_exceptions=True)


async def test_new_files_are_used_and_old_ones_not_again(watched: Watched, tmp_path: Path) -> None:
    await watched.look()
    assert watched.loaded == []
    now = await asyncio.to_thread(load_authority, tmp_path / "ca")
    await asyncio.to_thread(issue, now.signing, "board", tmp_path / "board", renew=True)
    await watched.look()
    await watched.look()
    on_disk = await asyncio.to_thread(load_identity, tmp_path / "board")
    assert [identity.key_hash for identity in watched.loaded] == [on_disk.key_hash]


async def test_files_that_do_not_fit_together_wait_until_they_do(
    watched: Watched, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    certificate = tmp_path / "board" / CERTIFICATE_FILE
    good = certificate.read_bytes()
    certificate.write_bytes(b"half a certif")
    with caplog.at_level(logging.WARNING, "shoal.transport"):
        await watched.look()
        await watched.look()
    assert len([record for record in caplog.records if "is not used" in record.getMessage()]) == 1
    assert watched.loaded == []
    certificate.write_bytes(good)
    await watched.look()
    assert len(watched.loaded) == 1


async def test_files_of_another_node_are_not_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    authority = await asyncio.to_thread(make_authority, tmp_path / "ca")
    reef = Reef(tmp_path / "nodes")
    await asyncio.to_thread(issue, authority, "board", tmp_path / "board")
    node = await reef.node("board", await asyncio.to_thread(load_identity, tmp_path / "board"))
    sleeps = Sleeps()
    task = asyncio.create_task(KeyWatch(tmp_path / "board", node.transport.reload, sleep=sleeps).run())
    try:
        await until(lambda: sleeps.waiting)
        await asyncio.to_thread(issue, authority, "other", tmp_path / "board")
        with caplog.at_level(logging.WARNING, "shoal.transport"):
            sleeps.end(lambda _: True)
            await until(lambda: "restart" in caplog.text)
        assert node.transport.identity.node_id == "board"
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await reef.close()
