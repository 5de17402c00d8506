"""The workload records what clients did and saw, truly: against honest stores, lying ones, and none."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import aiohttp
import pytest
from http_board import running_board
from lab_kit import CountingRecorder, LyingStore, StubNode

from shoal.testing.history import CONFLICT, History
from shoal.testing.history_checks import check
from shoal_host.lab.calls import content_of
from shoal_host.lab.final import digest, read_final
from shoal_host.lab.proxy import Proxy, Way
from shoal_host.lab.recorder import Did
from shoal_host.lab.workload import Workload

PATIENCE_S = 60


def operations(recorder):
    return [line.operation for line in recorder.lines if isinstance(line, Did)]


@asynccontextmanager
async def worked(path, count, *urls, clients=4):
    """Nodes at `urls`, after so many operations on them."""
    async with aiohttp.ClientSession() as session:
        nodes = [StubNode(url, session, f"n{number}") for number, url in enumerate(urls, 1)]
        with CountingRecorder(path, count) as recorder:
            async with Workload(clients, 1, nodes, recorder) as workload:
                await asyncio.wait_for(recorder.enough.wait(), PATIENCE_S)
                workload.check()
        yield nodes, operations(recorder)


async def test_a_true_node_is_found_clean(tmp_path) -> None:
    async with (
        running_board(tmp_path / "data") as board,
        worked(tmp_path / "h", 250, board.url, board.url) as (nodes, done),
    ):
        final, differences = await read_final(nodes)
    assert differences == []
    assert check(History(done, final)) == []
    assert {op.kind for op in done} == {"append", "read", "read_all"}
    assert {op.node for op in done} == {"n1", "n2"}
    assert any(op.error == CONFLICT for op in done)
    assert any(len(op.events) > 1 for op in done if op.kind == "append")
    acked = [event for op in done if op.kind == "append" and op.applied for event in op.events]
    assert sorted(acked, key=lambda event: event.position) == final


@pytest.mark.parametrize(
    ("lie", "found"),
    [
        ("honest", None),
        ("lose", "is lost"),
        ("double", "is there 2 times"),
        ("alter", "is content"),
        ("stale", "which is older"),
        ("misplace", "by the ack of"),
    ],
)
async def test_a_lying_store_is_found(tmp_path, lie, found) -> None:
    async with LyingStore(lie).serve() as url, worked(tmp_path / "h", 200, url) as (nodes, done):
        final, _ = await read_final(nodes)
    violations = check(History(done, final))
    if found is None:
        assert violations == []
    else:
        assert any(found in violation for violation in violations), violations


async def test_an_answer_that_never_came_is_unknown_and_may_be_sent_again(tmp_path) -> None:
    """Connections are dropped all the time, so that some appends are stored and never answered."""
    out, back = Way(), Way()
    async with running_board(tmp_path / "data") as board:
        proxy = Proxy(*board.address, out, back)
        await proxy.start()
        dropping = asyncio.create_task(drop_again_and_again(proxy))
        try:
            async with worked(tmp_path / "h", 150, f"http://{proxy.address}", board.url) as (nodes, done):
                dropping.cancel()
                final, _ = await read_final(nodes)
        finally:
            await proxy.close()
    unknown = [op for op in done if op.outcome == "unknown" and op.kind == "append"]
    assert unknown
    assert all(op.completed_us is None and op.error == "no-answer" for op in unknown)
    sent = [event.event_id for op in done if op.kind == "append" for event in op.events]
    assert len(sent) > len(set(sent))
    assert check(History(done, final)) == []


async def drop_again_and_again(proxy) -> None:
    while True:
        await asyncio.sleep(0.02)  # the accidents of a network keep no time with anything
        proxy.drop()


async def test_what_could_not_be_sent_is_certainly_not_applied(tmp_path) -> None:
    async with worked(tmp_path / "h", 8, "http://127.0.0.1:9") as (_, done):
        assert {(op.outcome, op.error) for op in done} == {("not-applied", "not-connected")}


async def test_a_defect_of_the_lab_is_not_silent(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("shoal_host.lab.workload.content_of", None)
    async with LyingStore("honest").serve() as url:
        with pytest.raises(TypeError), CountingRecorder(tmp_path / "h", 1) as recorder:
            async with Workload(1, 1, [StubNode(url)], recorder) as workload:
                await asyncio.wait(workload._tasks, timeout=PATIENCE_S)
                workload.check()


async def test_nodes_that_differ_are_told_with_the_first_difference(tmp_path) -> None:
    one, other = LyingStore("honest"), LyingStore("honest")
    one.store("s", [{"event_type": "t", "event_id": "a", "data": {}}], lying=False)
    other.store("s", [{"event_type": "t", "event_id": "b", "data": {}}], lying=False)
    async with one.serve() as here, other.serve() as there, aiohttp.ClientSession() as session:
        final, (difference,) = await read_final(
            [StubNode(here, session), StubNode(there, session, node_id="n2")]
        )
    assert [event.event_id for event in final] == ["a"]
    assert "n1 and n2 differ from event 1 on" in difference
    assert digest(final) != digest([])


def test_content_is_the_same_however_it_is_written() -> None:
    assert content_of("t", {"a": 1, "b": [1.5]}) == content_of("t", {"b": [1.5], "a": 1})
    assert content_of("t", {"a": 1}) != content_of("t", {"a": 2})
    assert content_of("t", {}) != content_of("u", {})
