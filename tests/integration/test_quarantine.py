"""A board whose state differs from the leader's takes itself out, and comes back with a copy."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cluster_kit import Member, Reef, reef, until

from shoal.errors import StateDiverged
from shoal.storage.recovery import mark_suspect
from shoal.store import proposing

LOCAL = "/v1/streams/s?consistency=local"


@pytest.fixture
async def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Reef]:
    monkeypatch.setattr(proposing, "DIGEST_ENTRIES", 4)
    async with reef(tmp_path, monkeypatch) as made:
        yield made


async def append(member: Member, count: int, first: int = 0) -> None:
    for number in range(first, first + count):
        reply = await member.board.append("s", number)
        assert reply.status == 201, reply.body


async def quarantined(cluster: Reef) -> Member:
    """The leader of three; n3 had another state, and has ended."""
    first = await cluster.grow()
    await append(first, 6)
    odd = cluster.up["n3"]
    await until(lambda: odd.node.node.sequencer.applied_index == first.node.node.sequencer.applied_index)
    odd.node.node.sequencer.stores["main"].state.position += 1
    await append(first, 6, 6)
    await until(odd.node.node.failed.done)
    error = odd.node.node.failed.exception()
    assert isinstance(error, StateDiverged)
    await cluster.stop("n3")
    assert [m.node.node.failed.done() for m in cluster.up.values()] == [False, False]
    return first


async def test_a_board_that_differs_ends_and_comes_back_with_a_copy(cluster: Reef) -> None:
    first = await quarantined(cluster)
    back = await cluster.start("n3")
    refused = await back.board.call("GET", LOCAL)
    assert (refused.status, refused.code) == (503, "unavailable")
    assert "Ask n1 (http" in refused.json["detail"]
    assert (await back.board.call("GET", "/readyz")).status == 503
    assert "copied anew from the leader" in (await back.view())["status"]
    await until(back.node.must_reopen.is_set)
    await cluster.stop("n3")
    back = await cluster.start("n3")
    await append(first, 6, 12)
    await until(lambda: back.node.node.sequencer.applied_index == first.node.node.sequencer.applied_index)
    events = (await back.board.call("GET", LOCAL)).json["events"]
    assert [event["data"] for event in events] == list(range(18))
    assert not (cluster.directory / "n3" / "db" / "HOLLOW").exists()
    assert list((cluster.directory / "n3" / "db").glob("quarantine-*/DIVERGED"))


async def test_it_has_nothing_until_the_copy_is_there_however_often_it_starts(cluster: Reef) -> None:
    await quarantined(cluster)
    for node_id in ("n1", "n2"):
        await cluster.stop(node_id)
    for _ in range(2):
        back = await cluster.start("n3")
        assert back.node.node.stores == {}
        assert back.node._driver.core.hollow
        await cluster.stop("n3")
    assert len(list((cluster.directory / "n3" / "db").glob("quarantine-*"))) == 1


async def test_it_votes_and_does_not_lead(cluster: Reef) -> None:
    await quarantined(cluster)
    await cluster.stop("n1")
    await cluster.stop("n2")
    back = await cluster.start("n3")
    second = await cluster.start("n2")
    assert await cluster.leader() is second
    await until(back.node.must_reopen.is_set)
    await append(second, 2, 12)


async def test_a_board_whose_databases_are_damaged_comes_back_with_a_copy(cluster: Reef) -> None:
    """Its journal no longer holds everything, but the others do (storage.md 7)."""
    first = await cluster.grow(**{"storage.segment_bytes": 64 * 1024, "storage.commit_rows": 10})
    for number in range(150):
        assert (await first.board.append("s", "x" * 1_000 + str(number))).status == 201
    hurt = cluster.up["n3"].node.node
    await until(lambda: hurt._journal.first_index > 1)
    await cluster.stop("n3")
    directory = cluster.directory / "n3" / "db" / "g1"
    (path,) = directory.glob("main-*.db")
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2 : len(raw) // 2 + 8_192] = bytes(8_192)
    path.write_bytes(raw)
    mark_suspect(directory)
    back = await cluster.start("n3", **{"storage.segment_bytes": 64 * 1024})
    assert any("comes anew from the leader" in note for note in back.node.node.notes)
    await until(back.node.must_reopen.is_set)
    await cluster.stop("n3")
    back = await cluster.start("n3", **{"storage.segment_bytes": 64 * 1024})
    await until(lambda: back.node.node.sequencer.applied_index == first.node.node.sequencer.applied_index)
    page = (await back.board.call("GET", f"{LOCAL}&limit=1000")).json
    assert [event["version"] for event in page["events"]] == list(range(150))
