"""A consumer's pool of workers: who handles what, what becomes of failures, how it ends."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest
from scripted_consumer import ScriptedSubscriptions, batch, delivered

from shoal import telemetry
from shoal.accel.hash import partition_hash
from shoal.errors import LeaseExpired, NotFound, TooBusy

FIRST = next(f"s{n}" for n in range(100) if partition_hash(f"s{n}".encode(), 2) == 0)
SECOND = next(f"s{n}" for n in range(100) if partition_hash(f"s{n}".encode(), 2) == 1)


class Handled:
    """A handler: writes down what it gets; the events of `failing` fail, those of `gates` wait."""

    def __init__(self, failing=(), error: BaseException | None = None) -> None:
        self.versions: list[int] = []
        self.failing = set(failing)
        self.error = error or ValueError("no good")
        self.gates: dict[int, asyncio.Event] = {}
        self.cancelled: list[int] = []

    async def __call__(self, event) -> None:
        self.versions.append(event.version)
        try:
            if event.version in self.gates:
                await self.gates[event.version].wait()
        except asyncio.CancelledError:
            self.cancelled.append(event.version)
            raise
        if event.version in self.failing:
            raise self.error


async def settled() -> None:
    for _ in range(100):
        await asyncio.sleep(0)


@asynccontextmanager
async def running(subscriptions, handler):
    """The run as a task, at work until it waits."""
    async with asyncio.timeout(5), subscriptions.consumer() as consumer:
        task = asyncio.create_task(consumer.run(handler))
        await settled()
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.wait([task])


async def test_each_event_is_handled_and_acked():
    subscriptions, handler = ScriptedSubscriptions(batch(1, 2), batch(3)), Handled()
    async with running(subscriptions, handler):
        assert handler.versions == [1, 2, 3]
        assert subscriptions.asked("ack") == [["l1", "l2"], ["l3"]]
    assert subscriptions.asked("leave") == ["me"]


async def test_a_stream_stays_with_one_worker_and_others_go_on_beside_it():
    events = [delivered(1, FIRST), delivered(2, FIRST), delivered(3, SECOND), delivered(4, SECOND)]
    subscriptions, handler = ScriptedSubscriptions(events, pool_size=2), Handled()
    handler.gates = {1: asyncio.Event()}
    async with running(subscriptions, handler):
        assert handler.versions == [1, 3, 4]
        handler.gates[1].set()
        await settled()
        assert handler.versions == [1, 3, 4, 2]
        assert sorted(lease for leases in subscriptions.asked("ack") for lease in leases) == [
            "l1",
            "l2",
            "l3",
            "l4",
        ]


async def test_the_next_batch_is_fetched_when_one_is_done():
    subscriptions, handler = ScriptedSubscriptions(batch(1, 2), batch(3)), Handled()
    handler.gates = {2: asyncio.Event()}
    async with running(subscriptions, handler):
        assert len(subscriptions.asked("pull")) == 1
        handler.gates[2].set()
        await settled()
        assert handler.versions == [1, 2, 3]


async def test_a_batch_is_not_smaller_than_the_pool():
    subscriptions, handler = ScriptedSubscriptions(*[batch(1)] * 6, pool_size=4), Handled()

    async def slow(event) -> None:
        subscriptions.now_ms += 20_000
        await handler(event)

    async with running(subscriptions, slow):
        assert subscriptions.asked("pull") == [32, 16, 8, 4, 4, 4, 4]


async def test_an_event_that_fails_is_retried_with_its_error_as_reason():
    subscriptions, handler = ScriptedSubscriptions(batch(1, 2, 3)), Handled({2})
    async with running(subscriptions, handler):
        assert handler.versions == [1, 2, 3]
        assert subscriptions.asked("nack") == [[["l2"], "retry", None, "ValueError('no good')"]]
        assert subscriptions.asked("ack") == [["l1"], ["l3"]]


async def test_reasons_can_be_sent_and_are_cut_between_characters():
    class OddError(Exception):
        def __repr__(self) -> str:
            return "\udc00\0x" + "é" * 2_000

    subscriptions = ScriptedSubscriptions(batch(1))
    async with running(subscriptions, Handled({1}, OddError())):
        ((_, _, _, reason),) = subscriptions.asked("nack")
    assert reason == "\\udc00\\0x" + "é" * 495


async def test_in_order_the_rest_of_a_failed_stream_is_left_to_come_again_behind_it():
    events = [delivered(1, "a"), delivered(2, "b"), delivered(3, "a"), delivered(4, "b")]
    subscriptions, handler = ScriptedSubscriptions(events, ordered=True), Handled({1})
    async with running(subscriptions, handler):
        assert handler.versions == [1, 2, 4]
        assert [(leases, action) for leases, action, *_ in subscriptions.asked("nack")] == [(["l1"], "retry")]
        assert subscriptions.asked("ack") == [["l2", "l4"]]


async def test_what_has_run_out_before_its_turn_is_not_handled():
    subscriptions, handler = ScriptedSubscriptions(batch(1, 2), ack_timeout_ms=1_000), Handled()

    async def slow(event) -> None:
        await handler(event)
        subscriptions.now_ms += 1_000

    async with running(subscriptions, slow):
        assert handler.versions == [1]


async def test_leases_that_ran_out_do_not_end_it():
    subscriptions, handler = ScriptedSubscriptions(batch(1), batch(2, 3), batch(4)), Handled({2})
    subscriptions.ack_answers = [LeaseExpired(leases=["l1"])]
    subscriptions.nack_answers = [LeaseExpired(leases=["l2"])]
    async with running(subscriptions, handler) as task:
        assert handler.versions == [1, 2, 3, 4]
        assert not task.done()


async def test_acks_that_expire_before_the_next_pull_do_not_end_it():
    events = [delivered(1, FIRST), delivered(2, SECOND)]
    subscriptions, handler = ScriptedSubscriptions(events, batch(3), pool_size=2), Handled()
    handler.gates = {1: asyncio.Event()}
    async with running(subscriptions, handler) as task:
        subscriptions.ack_answers = [LeaseExpired(leases=["l1"])]
        handler.gates[1].set()
        await settled()
        assert subscriptions.asked("ack")[:2] == [["l2"], ["l1"]]
        assert handler.versions == [1, 2, 3]
        assert not task.done()


async def test_an_error_of_the_store_ends_it_when_the_other_workers_have_finished():
    events = [delivered(1, FIRST), delivered(2, SECOND), delivered(3, SECOND)]
    subscriptions, handler = ScriptedSubscriptions(events, pool_size=2), Handled({1})
    handler.gates = {2: asyncio.Event()}
    subscriptions.nack_answers = [TooBusy("now")]
    async with running(subscriptions, handler) as task:
        assert not task.done()
        handler.gates[2].set()
        await settled()
        assert handler.versions == [1, 2, 3]
        with pytest.raises(TooBusy):
            await task


async def test_a_deleted_subscription_ends_it():
    subscriptions, handler = ScriptedSubscriptions(batch(1), NotFound("deleted")), Handled()
    async with running(subscriptions, handler) as task:
        with pytest.raises(NotFound):
            await task


async def test_cancelling_it_cancels_the_workers_and_settles_nothing_they_held():
    events = [delivered(1, FIRST), delivered(2, SECOND)]
    subscriptions, handler = ScriptedSubscriptions(events, pool_size=2), Handled()
    handler.gates = {1: asyncio.Event(), 2: asyncio.Event()}
    async with running(subscriptions, handler) as task:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert sorted(handler.cancelled) == [1, 2]
    assert [call[0] for call in subscriptions.calls] == ["create", "pull", "leave"]


async def test_what_was_fetched_before_it_is_handled_by_it():
    subscriptions, handler = ScriptedSubscriptions(batch(1, 2)), Handled()
    async with asyncio.timeout(5), subscriptions.consumer() as consumer:
        await consumer.ack(await anext(consumer))
        task = asyncio.create_task(consumer.run(handler))
        await settled()
        assert handler.versions == [2]
        task.cancel()
        await asyncio.wait([task])


async def test_it_tells_of_its_pool_once_and_of_each_event():
    told = []
    names = [telemetry.EMITTER_POOL_CREATED, telemetry.EMITTER_BROADCAST]
    telemetry.attach("told", names, lambda *given: told.append(given[:3]))
    try:
        subscriptions = ScriptedSubscriptions(batch(1, 2), batch(3), pool_size=3)
        async with running(subscriptions, Handled({2})):
            pass
    finally:
        telemetry.detach("told")
    assert [name[1:] for name, *_ in told] == [
        ("emitter", "pool", "created"),
        *[("emitter", "broadcast")] * 3,
    ]
    for name, measurements, metadata in told:
        declared = telemetry.EVENTS[name]
        assert (set(measurements), set(metadata)) == (set(declared.measurements), set(declared.metadata))
        assert (metadata["store_id"], metadata["subscription_id"]) == ("main", "sub")
    assert told[0][2]["pool_size"] == 3


async def test_what_a_handler_raises_is_told(caplog):
    subscriptions = ScriptedSubscriptions(batch(1, 2))
    async with running(subscriptions, Handled({1})):
        pass
    (told,) = [record for record in caplog.records if record.name == "shoal.store.consumer"]
    assert "s@1 is retried" in told.getMessage()
    assert told.exc_info is not None


async def test_a_handler_that_is_not_async_is_a_mistake_that_ends_the_run():
    subscriptions = ScriptedSubscriptions(batch(1, 2))
    async with subscriptions.consumer() as consumer:
        with pytest.raises(TypeError, match="async def"):
            await consumer.run(lambda event: None)
    assert subscriptions.asked("ack") == []
    assert subscriptions.asked("nack") == []
