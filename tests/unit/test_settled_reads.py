"""Reads that must see what the leader knows: made while it is asked, and counted only if they were late enough."""

from __future__ import annotations

import asyncio
import gc
import logging
from types import SimpleNamespace
from typing import Any

import pytest

from shoal.errors import InvalidRequest, NoLeader, ShuttingDown, StreamNotFound, Timeout
from shoal.store.context import StoreContext


class Follower:
    """A store's means, where the leader and what is applied are what a test says. `did` is the order of things."""

    def __init__(self, applied_index: int) -> None:
        self.applied_index = applied_index
        self.has_decided_all = False
        self.leaderless: NoLeader | None = None
        self.did: list[str] = []
        self.asked: list[asyncio.Future[int]] = []
        self.confirmed: list[bool] = []
        self.waited: list[int] = []
        self.finds: list[Any] = []
        self.listeners: dict[str, Any] = {}
        self.stores: dict[str, Any] = {}
        unused: Any = None
        nothing: Any = SimpleNamespace()
        me: Any = self
        self.context = StoreContext(
            "main",
            sequencer=me,
            reader=nothing,
            queries=nothing,
            ids=unused,
            limits=unused,
            timeout_ms=5_000,
            writer_partitions=1,
            queue_limit=1,
            now_ms=lambda: 0,
            leadership=me,
            parked=dict,
        )

    def require_leader(self) -> None:
        if self.leaderless is not None:
            raise self.leaderless

    async def read_index(self, *, confirmed: bool) -> int:
        self.did.append("ask")
        self.confirmed.append(confirmed)
        self.asked.append(asyncio.get_running_loop().create_future())
        return await self.asked[-1]

    async def wait_applied(self, index: int, timeout_ms: int) -> None:
        self.did.append("wait")
        self.waited.append(index)
        self.applied_index = max(self.applied_index, index)

    async def find(self) -> str:
        self.did.append("read")
        found = self.finds.pop(0)
        if isinstance(found, Exception):
            raise found
        return str(found)

    def read(
        self, *finds: Any, consistency: Any = "linearizable", in_memory: bool = False
    ) -> asyncio.Task[str]:
        self.finds = list(finds)
        return asyncio.ensure_future(self.context.read_settled(consistency, self.find, in_memory=in_memory))

    async def answer(self, index: int) -> None:
        """The leader answers the last question."""
        await turns()
        self.asked[-1].set_result(index)
        await turns()


async def turns() -> None:
    """Whatever can go on goes on."""
    for _ in range(6):
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("consistency", "decided", "asks"),
    [
        ("local", False, []),
        (None, True, []),
        ("leader", True, []),
        (None, False, [False]),
        ("leader", False, [False]),
    ]
    + [("linearizable", decided, [True]) for decided in (False, True)],
)
async def test_only_who_must_know_more_asks(consistency: Any, decided: bool, asks: list[bool]) -> None:
    follower = Follower(5)
    follower.has_decided_all = decided
    read = follower.read("found", consistency=consistency)
    await turns()
    assert follower.confirmed == asks
    if asks:
        await follower.answer(5)
    assert await read == "found"


async def test_what_was_read_meanwhile_counts_if_nothing_more_had_to_be_applied() -> None:
    follower = Follower(5)
    read = follower.read("early")
    await follower.answer(5)
    assert await read == "early"
    assert sorted(follower.did) == ["ask", "read"]


async def test_nothing_is_answered_before_the_leader_has_answered() -> None:
    follower = Follower(5)
    read = follower.read("early")
    await turns()
    assert "read" in follower.did
    assert not read.done()
    await follower.answer(4)
    assert await read == "early"


async def test_what_was_read_too_early_is_read_again_once_that_much_is_applied() -> None:
    follower = Follower(5)
    read = follower.read("early", "late")
    await follower.answer(6)
    assert await read == "late"
    assert (follower.did[-2:], follower.waited) == (["wait", "read"], [6])


async def test_what_is_applied_while_the_read_is_under_way_counts_for_nothing() -> None:
    """Nobody knows which part of it the read saw."""
    follower = Follower(5)
    read = follower.read("early", "late")
    await turns()
    follower.applied_index = 6
    await follower.answer(6)
    assert await read == "late"


async def test_an_error_counts_as_what_was_found_does() -> None:
    follower = Follower(5)
    read = follower.read(StreamNotFound("s"))
    await turns()
    assert not read.done()
    await follower.answer(5)
    with pytest.raises(StreamNotFound):
        await read
    read = follower.read(StreamNotFound("s"), "made since")
    await follower.answer(6)
    assert await read == "made since"


async def test_who_lagged_reads_once_and_afterwards_until_it_keeps_up() -> None:
    follower = Follower(5)
    read = follower.read("early", "late")
    await follower.answer(6)
    await read
    follower.did.clear()
    read = follower.read("only")
    await follower.answer(6)
    assert await read == "only"
    assert follower.did == ["ask", "wait", "read"]
    follower.did.clear()
    read = follower.read("meanwhile")
    await follower.answer(6)
    assert await read == "meanwhile"
    assert "wait" not in follower.did


async def test_what_is_in_memory_is_read_once_all_that_it_must_see_is_there() -> None:
    follower = Follower(5)
    read = follower.read("only", in_memory=True)
    await turns()
    assert follower.did == ["ask"]
    await follower.answer(6)
    assert await read == "only"
    assert follower.did == ["ask", "wait", "read"]
    follower.did.clear()
    assert await follower.read("at once", consistency="local", in_memory=True) == "at once"
    assert follower.did == ["read"]


async def test_without_a_leader_what_was_read_counts_for_nothing(caplog: pytest.LogCaptureFixture) -> None:
    follower = Follower(5)
    with caplog.at_level(logging.ERROR, "asyncio"):
        read = follower.read("early")
        await turns()
        follower.context.close()
        follower.asked[-1].set_exception(NoLeader("nobody leads"))
        with pytest.raises(NoLeader):
            await read
        gc.collect()
    assert caplog.text == ""


@pytest.mark.parametrize("consistency", ["local", "leader", "linearizable"])
async def test_of_a_closed_store_nobody_is_asked(consistency: Any) -> None:
    follower = Follower(5)
    follower.stores = {"main": None}
    follower.context.close()
    with pytest.raises(ShuttingDown):
        await follower.read("never", consistency=consistency)
    with pytest.raises(ShuttingDown):
        await follower.context.settle_reads(consistency)
    assert follower.did == []


async def test_who_has_had_no_leader_for_long_is_told_so_at_once() -> None:
    follower = Follower(5)
    follower.leaderless = NoLeader("nobody leads")
    with pytest.raises(NoLeader):
        await follower.read("early")
    assert follower.asked == []
    assert await follower.read("here", consistency="local") == "here"


async def test_a_read_that_is_given_up_leaves_no_question_behind() -> None:
    follower = Follower(5)
    slow: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    read = asyncio.ensure_future(follower.context.read_settled("linearizable", lambda: slow))
    await turns()
    read.cancel()
    await turns()
    assert (read.cancelled(), slow.cancelled(), follower.asked[-1].cancelled()) == (True, True, True)


async def test_of_a_read_that_is_given_up_no_error_is_left(caplog: pytest.LogCaptureFixture) -> None:
    follower = Follower(5)
    slow: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    with caplog.at_level(logging.ERROR, "asyncio"):
        read = asyncio.ensure_future(follower.context.read_settled("linearizable", lambda: slow))
        await turns()
        follower.context.close()
        follower.asked[-1].set_exception(NoLeader("nobody leads"))
        await turns()
        read.cancel()
        await turns()
        del read
        gc.collect()
    assert caplog.text == ""


async def test_what_is_not_applied_in_time_is_told() -> None:
    follower = Follower(5)

    async def too_slow(index: int, timeout_ms: int) -> None:
        raise Timeout(f"{index} is not applied")

    follower.wait_applied = too_slow  # type: ignore[method-assign]
    read = follower.read("early")
    await follower.answer(9)
    with pytest.raises(Timeout):
        await read


async def test_an_unknown_consistency_is_refused_before_anything_is_read() -> None:
    follower = Follower(5)
    with pytest.raises(InvalidRequest):
        await follower.read("early", consistency="strong")
    assert follower.did == []
