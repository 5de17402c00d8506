"""A consumer: what it fetches, when its acks go, what it says of errors, and how it ends."""

from __future__ import annotations

import asyncio

import pytest
from scripted_consumer import ScriptedSubscriptions, batch, delivered

from shoal.errors import LeaseExpired, NotFound, ShuttingDown, Timeout, TooBusy, Unreachable
from shoal.store.consumer import Pace, own_name
from shoal.types import SubscriptionOptions


async def take(consumer, count: int) -> list:
    async with asyncio.timeout(5):
        return [await anext(consumer) for _ in range(count)]


async def settled() -> None:
    """Let every task go as far as it can."""
    for _ in range(10):
        await asyncio.sleep(0)


# -- iterating ---------------------------------------------------------------------------------------


async def test_entering_makes_the_subscription_and_iterating_gives_what_is_pulled():
    subscriptions = ScriptedSubscriptions(batch(1, 2), [], batch(3))
    async with subscriptions.consumer() as consumer:
        assert [event.version for event in await take(consumer, 3)] == [1, 2, 3]
    assert [call[0] for call in subscriptions.calls] == ["create", "pull", "pull", "pull", "leave"]


async def test_a_consumer_is_for_one_entering_and_one_task():
    subscriptions = ScriptedSubscriptions(batch(1))
    consumer = subscriptions.consumer()
    with pytest.raises(RuntimeError, match="enter the consumer first"):
        await anext(consumer)
    async with consumer:
        event = await anext(consumer)
        with pytest.raises(RuntimeError, match="entered once"):
            await consumer.__aenter__()
        other = asyncio.create_task(anext(consumer))
        await settled()
        for call in (anext(consumer), consumer.run(lambda _: settled())):
            with pytest.raises(RuntimeError, match="another task"):
                await call
        other.cancel()
    for call in (anext(consumer), consumer.run(lambda _: settled())):
        with pytest.raises(RuntimeError, match="was left"):
            await call
    for call in (consumer.ack(event), consumer.nack(event)):
        with pytest.raises(RuntimeError, match="was left"):
            await call
    with pytest.raises(RuntimeError, match="entered once"):
        await consumer.__aenter__()


async def test_a_cancelled_wait_loses_nothing_and_pulls_once():
    subscriptions = ScriptedSubscriptions()
    async with subscriptions.consumer() as consumer:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await anext(consumer)
        subscriptions.give(batch(1))
        assert [event.version for event in await take(consumer, 1)] == [1]
        assert len(subscriptions.asked("pull")) == 1


async def test_an_error_of_a_pull_is_raised_and_iterating_goes_on():
    subscriptions = ScriptedSubscriptions(Timeout("slow"), batch(1))
    async with subscriptions.consumer() as consumer:
        with pytest.raises(Timeout):
            await anext(consumer)
        assert [event.version for event in await take(consumer, 1)] == [1]


async def test_what_has_run_out_is_not_handed_out():
    subscriptions = ScriptedSubscriptions(batch(1, 2, 3), batch(2, 3), ack_timeout_ms=1_000)
    async with subscriptions.consumer() as consumer:
        await take(consumer, 1)
        subscriptions.now_ms += 999
        await take(consumer, 1)
        subscriptions.now_ms += 1
        assert [event.version for event in await take(consumer, 2)] == [2, 3]


async def test_names_of_consumers_are_their_own():
    assert own_name() != own_name()


# -- how many ----------------------------------------------------------------------------------------


def pace(**options: int) -> Pace:
    return Pace(SubscriptionOptions(**{"ack_timeout_ms": 1_000, **options}))


@pytest.mark.parametrize(
    ("got", "took_ms", "count"),
    [
        (32, 100, 64),  # within a tenth
        (32, 101, 32),
        (32, 250, 32),
        (32, 251, 16),  # longer than a quarter
        (31, 0, 32),  # there was no more
        (1, 7, 32),
        (1, 8, 16),  # 32 of this kind would have taken longer than a quarter
        (0, 9_999, 32),
    ],
)
def test_a_quick_consumer_gets_more_and_a_slow_one_less(got, took_ms, count):
    measured = pace()
    measured.fetched(got, 5_000)
    measured.consumed(5_000 + took_ms)
    assert measured.count == count
    measured.consumed(99_000)  # with nothing fetched since
    assert measured.count == count


def test_who_counts_as_gone_soon_gets_less_too():
    measured = pace(consumer_timeout_ms=400)
    measured.fetched(32, 0)
    measured.consumed(101)
    assert measured.count == 16
    assert not measured.run_out(401)  # the leases are not given up by that, if acks went meanwhile


def test_batches_stay_between_one_and_what_is_allowed():
    quick, few, slow, pool = pace(), pace(max_in_flight=40), pace(), pace()
    wide = pace(max_in_flight=2)
    pool.least = wide.least = 4
    for _ in range(10):
        for measured, took_ms in ((quick, 0), (few, 0), (slow, 900), (pool, 900), (wide, 900)):
            measured.fetched(measured.count, 0)
            measured.consumed(took_ms)
    assert (quick.count, few.count, slow.count, pool.count) == (1_000, 40, 1, 4)
    assert (wide.count, pace(max_in_flight=5).count) == (2, 5)


async def test_the_pace_is_that_of_the_consumer():
    subscriptions = ScriptedSubscriptions(
        batch(*range(32)), batch(*range(64)), batch(1), ack_timeout_ms=1_000
    )
    async with subscriptions.consumer() as consumer:
        await take(consumer, 32 + 64)
        subscriptions.now_ms += 300
        await take(consumer, 1)
    assert subscriptions.asked("pull") == [32, 64, 32]


# -- when acks go ------------------------------------------------------------------------------------


async def test_acks_travel_with_that_of_the_last_event():
    subscriptions = ScriptedSubscriptions(batch(1, 2, 3))
    async with subscriptions.consumer() as consumer:
        events = await take(consumer, 3)
        await consumer.ack(events[0])
        await consumer.ack(events[1])
        assert subscriptions.asked("ack") == []
        await consumer.ack(events[2])
        assert subscriptions.asked("ack") == [["l1", "l2", "l3"]]


async def test_many_acks_go():
    subscriptions = ScriptedSubscriptions(batch(*range(300)))
    async with subscriptions.consumer() as consumer:
        for event in await take(consumer, 299):
            await consumer.ack(event)
        assert [len(leases) for leases in subscriptions.asked("ack")] == [256]


async def test_the_ack_of_an_event_that_took_its_time_goes_at_once():
    subscriptions = ScriptedSubscriptions(batch(1, 2, 3, 4))
    async with subscriptions.consumer() as consumer:
        first, second, third = await take(consumer, 3)
        subscriptions.now_ms += 99
        await consumer.ack(first)
        assert subscriptions.asked("ack") == []
        subscriptions.now_ms += 1
        await consumer.ack(second)
        assert subscriptions.asked("ack") == [["l1", "l2"]]
        await consumer.ack(third)
        assert subscriptions.asked("ack") == [["l1", "l2"]]
        subscriptions.now_ms += 100
        await take(consumer, 1)
        assert subscriptions.asked("ack") == [["l1", "l2"], ["l3"]]


async def test_time_spent_waiting_for_events_does_not_make_an_ack_go():
    subscriptions = ScriptedSubscriptions()
    async with subscriptions.consumer() as consumer:
        waiting = asyncio.create_task(anext(consumer))
        await settled()
        subscriptions.now_ms += 5_000
        subscriptions.give(batch(1, 2))
        await consumer.ack(await waiting)
        assert subscriptions.asked("ack") == []


async def test_the_ack_of_a_redelivered_event_goes_at_once():
    subscriptions = ScriptedSubscriptions(batch(1, 2, attempt=2))
    async with subscriptions.consumer() as consumer:
        await consumer.ack(await anext(consumer))
        assert subscriptions.asked("ack") == [["l1"]]


async def test_while_a_pull_waits_acks_go_at_once():
    subscriptions = ScriptedSubscriptions(batch(1, 2))
    async with subscriptions.consumer() as consumer:
        first, _second = await take(consumer, 2)
        waiting = asyncio.create_task(anext(consumer))
        await settled()
        await consumer.ack(first)
        assert subscriptions.asked("ack") == [["l1"]]
        waiting.cancel()


async def test_acks_go_before_the_next_pull_a_nack_and_the_end():
    subscriptions = ScriptedSubscriptions(batch(1, 2), batch(3, 4), batch(5, 6))
    async with subscriptions.consumer() as consumer:
        first, _second = await take(consumer, 2)
        await consumer.ack(first)
        third, fourth = await take(consumer, 2)
        await consumer.ack(third)
        await consumer.nack(fourth, "park", 7, "why")
        await consumer.ack(await anext(consumer))
    kinds = [(call[0], call[1]) for call in subscriptions.calls[1:]]
    assert kinds == [
        ("pull", 32),
        ("ack", ["l1"]),
        ("pull", 32),
        ("ack", ["l3"]),
        ("nack", ["l4"]),
        ("pull", 32),
        ("ack", ["l5"]),
        ("leave", "me"),
    ]
    assert subscriptions.asked("nack") == [[["l4"], "park", 7, "why"]]


async def test_flush_sends_what_waits_once():
    subscriptions = ScriptedSubscriptions(batch(1, 2, 3))
    async with subscriptions.consumer() as consumer:
        first, second = await take(consumer, 2)
        await consumer.ack(first)
        await consumer.ack(second)
        await asyncio.gather(consumer.flush(), consumer.flush())
    assert subscriptions.asked("ack") == [["l1", "l2"]]


# -- errors of acks ----------------------------------------------------------------------------------


async def test_the_dead_are_named_and_the_others_settled():
    subscriptions = ScriptedSubscriptions(batch(1, 2, 3))
    subscriptions.ack_answers = [LeaseExpired(leases=["l2"]), LeaseExpired(leases=["l3"])]
    async with subscriptions.consumer() as consumer:
        events = await take(consumer, 3)
        await consumer.ack(events[0])
        await consumer.ack(events[1])
        with pytest.raises(LeaseExpired) as caught:
            await consumer.ack(events[2])
        assert caught.value.facts["leases"] == ["l2", "l3"]
        assert subscriptions.asked("ack") == [["l1", "l2", "l3"], ["l1", "l3"], ["l1"]]
    assert len(subscriptions.asked("ack")) == 3


@pytest.mark.parametrize("facts", [{}, {"leases": ["of somebody else"]}])
async def test_where_the_dead_are_not_named_all_are_given_up(facts):
    subscriptions = ScriptedSubscriptions(batch(1))
    subscriptions.ack_answers = [LeaseExpired(**facts)]
    async with subscriptions.consumer() as consumer:
        with pytest.raises(LeaseExpired) as caught:
            await consumer.ack(await anext(consumer))
        assert caught.value.facts["leases"] == ["l1"]


async def test_acks_that_failed_are_sent_again_and_the_dead_are_still_named():
    subscriptions = ScriptedSubscriptions(batch(1, 2, 3))
    subscriptions.ack_answers = [LeaseExpired(leases=["l1"]), Timeout(outcome="unknown"), None]
    async with subscriptions.consumer() as consumer:
        first, second, third = await take(consumer, 3)
        await consumer.ack(first)
        await consumer.ack(second)
        with pytest.raises(Timeout):
            await consumer.ack(third)
        with pytest.raises(LeaseExpired) as caught:
            await consumer.flush()
        assert caught.value.facts["leases"] == ["l1"]
    assert subscriptions.asked("ack") == [["l1", "l2", "l3"], ["l2", "l3"], ["l2", "l3"]]


async def test_a_nack_goes_out_though_earlier_acks_have_expired():
    subscriptions = ScriptedSubscriptions(batch(1, 2, 3))
    subscriptions.ack_answers = [LeaseExpired(leases=["l1"])]
    async with subscriptions.consumer() as consumer:
        first, second = await take(consumer, 2)
        await consumer.ack(first)
        with pytest.raises(LeaseExpired):
            await consumer.nack(second)
    assert subscriptions.asked("nack") == [[["l2"], "retry", None, ""]]


# -- the end -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("gone", [NotFound("deleted"), ShuttingDown("closing")])
async def test_at_the_end_a_subscription_or_store_that_is_gone_is_no_error(gone):
    subscriptions = ScriptedSubscriptions(batch(1, 2))
    async with subscriptions.consumer() as consumer:
        await consumer.ack(await anext(consumer))
        subscriptions.ack_answers, subscriptions.leave_answers = [gone], [gone]
    assert subscriptions.asked("ack") == [["l1"]]
    assert subscriptions.asked("leave") == ["me"]


async def test_at_the_end_other_errors_are_raised_and_the_consumer_leaves_all_the_same():
    subscriptions = ScriptedSubscriptions(batch(1, 2))
    with pytest.raises(LeaseExpired):
        async with subscriptions.consumer() as consumer:
            await consumer.ack(await anext(consumer))
            subscriptions.ack_answers = [LeaseExpired(leases=["l1"])]
    assert subscriptions.asked("leave") == ["me"]


async def test_what_ended_the_body_is_not_masked():
    subscriptions = ScriptedSubscriptions(batch(1, 2))
    subscriptions.ack_answers, subscriptions.leave_answers = [TooBusy("now")], [TooBusy("still")]
    with pytest.raises(ValueError, match="mine"):
        async with subscriptions.consumer() as consumer:
            await consumer.ack(await anext(consumer))
            raise ValueError("mine")
    assert [call[0] for call in subscriptions.calls[-2:]] == ["ack", "leave"]


async def test_leaving_ends_the_pull_that_waits():
    subscriptions = ScriptedSubscriptions()
    async with subscriptions.consumer() as consumer:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await anext(consumer)
        assert [task for task in asyncio.all_tasks() if task.get_name() == "pull sub"]
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "pull sub"]
    assert subscriptions.asked("leave") == ["me"]


async def test_an_event_that_was_not_acked_is_not_acked_by_leaving():
    subscriptions = ScriptedSubscriptions([delivered(1), delivered(2)])
    async with subscriptions.consumer() as consumer:
        await anext(consumer)
    assert subscriptions.asked("ack") == []


# -- a store that may be away ------------------------------------------------------------------------


async def test_errors_that_may_pass_are_waited_out_and_told_of():
    away, busy, full = Unreachable("gone"), TooBusy("now"), ShuttingDown("restarting")
    subscriptions = ScriptedSubscriptions(away, full, batch(1, 2))
    subscriptions.ack_answers = [busy, Timeout("lost", outcome="unknown"), None]
    subscriptions.nack_answers = [away, None]
    async with subscriptions.consumer(enduring=True) as consumer:
        first, second = await take(consumer, 2)
        assert subscriptions.endured[:3] == [away, full, None]
        await consumer.ack(first)
        await consumer.flush()
        assert subscriptions.asked("ack") == [["l1"]] * 3
        await consumer.nack(second)
        assert len(subscriptions.asked("nack")) == 2
    assert [type(error) for error in subscriptions.endured[3:]] == [
        TooBusy,
        Timeout,
        type(None),
        Unreachable,
        type(None),
    ]


async def test_other_errors_and_the_end_are_not_waited_out():
    subscriptions = ScriptedSubscriptions(NotFound("deleted"), batch(1))
    subscriptions.ack_answers = [Unreachable("gone"), None]
    consumer = subscriptions.consumer(enduring=True)
    with pytest.raises(Unreachable):
        async with consumer:
            with pytest.raises(NotFound):
                await anext(consumer)
            consumer._acks.add("l1")  # whoever leaves is not kept until the board is there again
    assert subscriptions.asked("leave") == ["me"]


async def test_what_the_body_raised_on_has_failed_and_the_rest_has_not():
    subscriptions = ScriptedSubscriptions(batch(1, 2, 3))
    with pytest.raises(ZeroDivisionError):
        async with subscriptions.consumer() as consumer:
            await consumer.ack(await anext(consumer))
            await anext(consumer)
            1 / 0  # noqa: B018
    assert subscriptions.asked("ack") == [["l1"]]
    assert [(leases, action) for leases, action, *_ in subscriptions.asked("nack")] == [(["l2"], "retry")]
    assert "ZeroDivisionError" in subscriptions.asked("nack")[0][3]


async def test_who_is_cancelled_or_has_settled_all_fails_nothing():
    for end in (asyncio.CancelledError, KeyboardInterrupt):
        subscriptions = ScriptedSubscriptions(batch(1, 2))
        with pytest.raises(end):
            async with subscriptions.consumer() as consumer:
                await anext(consumer)
                raise end
        assert subscriptions.asked("nack") == []
    subscriptions = ScriptedSubscriptions(batch(1, 2))
    with pytest.raises(ZeroDivisionError):
        async with subscriptions.consumer() as consumer:
            await consumer.ack(await anext(consumer))
            1 / 0  # noqa: B018
    assert subscriptions.asked("nack") == []
