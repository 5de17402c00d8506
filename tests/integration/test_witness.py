"""A site of two boards and a witness: it keeps what a board lacks, and nothing else. Real TLS, HTTP and journals."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cluster_kit import Member, Reef, reef, until, voters

WITNESS = {"storage.witness_bytes": 512 * 1024}
EVENT = "x" * 1_000
ALL = "/v1/streams/s?consistency=linearizable&limit=1000"


@pytest.fixture
async def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Reef]:
    async with reef(tmp_path, monkeypatch) as made:
        yield made


async def site(cluster: Reef, **values: object) -> Member:
    """n1, which leads, n2, and the witness w."""
    leader = await cluster.grow(2)
    await cluster.start("w", **{**WITNESS, **values})
    await leader.change("join", address=cluster.peer_address("w"), role="witness")
    await until(lambda: voters(leader) == 3)
    await cluster.ready("w")
    return leader


async def append(member: Member, count: int, first: int = 0) -> None:
    for number in range(first, first + count):
        reply = await member.board.append("s", f"{number} {EVENT}")
        assert reply.status == 201, reply.body


async def numbers(member: Member) -> list[int]:
    found = (await member.board.call("GET", ALL)).json["events"]
    return [int(event["data"].split()[0]) for event in found]


def journal_of(member: Member) -> tuple[int, int]:
    journal = member.node.node._journal
    return journal.first_index, journal.last_index


async def test_what_one_board_and_the_witness_have_committed_outlives_that_board(cluster: Reef) -> None:
    """Consensus.md: A + witness commit with B down, A dies, B returns."""
    first = await site(cluster)
    await append(first, 3)
    await cluster.stop("n2")
    await append(first, 3, 3)
    await cluster.stop("n1")
    back = await cluster.start("n2")
    assert await cluster.leader() is back
    await cluster.ready("n2")
    assert await numbers(back) == [0, 1, 2, 3, 4, 5]
    await append(back, 1, 6)
    assert not cluster.up["w"].node.node._engine.created


async def test_the_witness_says_what_it_is_and_serves_no_store(cluster: Reef) -> None:
    first = await site(cluster)
    await append(first, 1)
    witness = cluster.up["w"]
    ready = await witness.board.call("GET", "/readyz")
    assert (ready.status, ready.json["role"]) == (200, "witness")
    for method, path in (
        ("GET", "/v1/streams/s?consistency=local"),
        ("PUT", "/v1/stores/more"),
        ("DELETE", "/v1/stores/main"),
    ):
        refused = await witness.board.call(method, path)
        assert (refused.status, refused.code) == (503, "unavailable")
        assert f"n1 ({first.board.url}), n2 (" in refused.json["detail"]
    view = await witness.view()
    assert (view["role"], view["status"]) == ("witness", "")
    assert {m["id"]: m["role"] for m in view["members"]}["w"] == "witness"
    await until(
        lambda: witness.node.node.journal_only.applied_index == first.node.node.sequencer.applied_index
    )
    assert (await witness.board.call("GET", "/v1/stores")).json["stores"] == []


async def test_it_restarts_with_what_it_held(cluster: Reef) -> None:
    first = await site(cluster)
    await cluster.stop("n2")
    await append(first, 3)
    await cluster.stop("w")
    await cluster.start("w", **WITNESS)
    await append(first, 3, 3)
    await cluster.stop("n1")
    back = await cluster.start("n2")
    assert await cluster.leader() is back
    await cluster.ready("n2")
    assert await numbers(back) == [0, 1, 2, 3, 4, 5]


async def test_it_forgets_what_both_boards_hold_and_no_more(cluster: Reef) -> None:
    first = await site(cluster)
    witness = cluster.up["w"]
    await append(first, 600)
    await until(lambda: journal_of(witness)[0] > 1)
    await cluster.stop("n2")
    begins = journal_of(witness)[1] + 1
    await append(first, 200, 600)
    assert journal_of(witness)[0] <= begins


async def test_at_its_limit_it_acknowledges_no_more_and_forgets_nothing(
    cluster: Reef, caplog: pytest.LogCaptureFixture
) -> None:
    first = await site(cluster)
    witness = cluster.up["w"]
    await cluster.stop("n2")
    limit = witness.node.node.journal_only
    stored, appending = await fill(first, witness)
    assert stored > 200
    assert "acknowledges no more: start the board that is down" in caplog.text
    view = await witness.view()
    assert view["disk_full"]
    assert "storage.witness_bytes" in view["status"]
    assert journal_of(witness)[0] == 1
    assert witness.node.node._journal.segment_count == 2
    await heard(witness, 8)
    assert not appending.done()
    assert first.node._driver.serves, "it still hears the leader, and votes"
    back = await cluster.start("n2")
    await appending  # on a busy machine it may be answered before it is stored, and is stored all the same
    await cluster.ready("n2")
    await append(first, 3, stored + 1)
    await until(lambda: not limit.full)
    assert await numbers(back) == list(range(stored + 4))


async def test_at_its_limit_it_still_saves_what_it_holds(cluster: Reef) -> None:
    """The board that had all of it dies: what was acknowledged is there, and without that board they go on."""
    first = await site(cluster)
    witness = cluster.up["w"]
    await cluster.stop("n2")
    stored, _ = await fill(first, witness)
    await cluster.stop("n1")
    back = await cluster.start("n2")
    assert await cluster.leader() is back
    await cluster.ready("n2")
    assert await numbers(back) == list(range(stored))
    await back.change("leave", node_id="n1")
    await append(back, 3, stored)


async def test_a_witness_that_is_far_behind_takes_no_databases(cluster: Reef) -> None:
    """What its journal lacks then, the two boards have committed without it."""
    first = await site(cluster)
    second = cluster.up["n2"]
    held = journal_of(cluster.up["w"])[1]
    await cluster.stop("w")
    await append(first, 1)
    for member in (first, second):
        node = member.node.node
        await node.hold(node._engine.make_durable)
        await until(lambda node=node: node.driver.commit_index == node.sequencer.applied_index)  # type: ignore[misc] # bound now
        drop(member)
    await until(lambda: first.node._driver.core.log.first_index > held + 1)
    witness = await cluster.start("w", **WITNESS)
    await until(witness.node.must_reopen.is_set)
    await cluster.stop("w")
    witness = await cluster.start("w", **WITNESS)
    begins, last = journal_of(witness)
    assert begins > held + 1
    assert last >= begins - 1
    assert not any((cluster.directory / "w" / "db").glob("g*/main*"))
    await until(lambda: journal_of(witness)[1] == first.node._driver.core.log.last_index)
    await cluster.stop("n2")
    await append(first, 3, 1)
    await cluster.stop("n1")
    back = await cluster.start("n2")
    assert await cluster.leader() is back
    await cluster.ready("n2")
    assert await numbers(back) == [0, 1, 2, 3]


def drop(member: Member) -> None:
    """Have a board's journal begin after all that it has applied."""
    node = member.node.node
    journal = node._journal

    def roll() -> None:
        with journal._spare_lock:
            journal._roll_to_next(1, use_reserve=True)
        journal.drop_through(journal.last_index)

    node._journal_worker.submit(roll, node._retention._dropped)


async def fill(board: Member, witness: Member) -> tuple[int, asyncio.Future[Any]]:
    """Append until the witness is at its limit; how many were answered, and the one that may not be."""
    limit = witness.node.node.journal_only
    stored = 0
    while True:
        appending = asyncio.ensure_future(board.board.append("s", f"{stored} {EVENT}"))
        await until(lambda: appending.done() or limit.full)  # noqa: B023 - within this turn
        stored += appending.done()
        if limit.full:
            return stored, appending


async def heard(member: Member, count: int) -> None:
    """Until so many more messages have come."""
    driver, left = member.node._driver, [None] * count
    accepts = driver.accepts

    def counted(message: Any) -> bool:
        left[:1] = []
        return accepts(message)

    driver.accepts = counted
    await until(lambda: not left)
