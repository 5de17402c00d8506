"""Acks, retries, parked events, replay, reset, and where a subscription says it stands."""

from __future__ import annotations

import pytest
from consumer_kit import append, checkpoint, leases, nothing, positions, pull

from shoal.errors import InvalidRequest, LeaseExpired


async def prepared(store, count: int = 3, **options) -> None:
    """A subscription `sub` of `count` events at positions from 1."""
    await append(store, *range(count))
    await store.subscriptions.create("all", None, "sub", **options)


# -- acks --------------------------------------------------------------------------------------------


async def test_the_checkpoint_goes_as_far_as_everything_is_settled(store):
    await prepared(store)
    first, second, third = leases(await pull(store, 3))
    assert await store.subscriptions.ack_leases("sub", [second]) == 0
    assert await store.subscriptions.ack_leases("sub", [first]) == 2
    assert await store.subscriptions.ack_leases("sub", [third]) == 3
    assert await checkpoint(store) == 3


async def test_acking_what_is_settled_is_fine(store):
    await prepared(store)
    first, second, _ = leases(await pull(store, 3))
    for _ in range(2):
        assert await store.subscriptions.ack_leases("sub", [first, second]) == 2
    assert await store.subscriptions.ack("s", "sub", 1) == 2
    assert await store.subscriptions.ack_through("sub", 1) == 2


async def test_everything_up_to_a_position(store):
    await prepared(store)
    await pull(store, 2)
    assert await store.subscriptions.ack_through("sub", 2) == 2
    for beyond in (3, 4, 2**53):
        with pytest.raises(InvalidRequest):
            await store.subscriptions.ack_through("sub", beyond)
    assert await checkpoint(store) == 2


async def test_by_stream_name_and_number_as_the_reference_has_it(store):
    await append(store, 1, 2, stream_id="a")
    await append(store, 3, stream_id="b")
    await store.subscriptions.create("all", None, "sub")
    await pull(store, 3)
    assert await store.subscriptions.ack("a", "sub", 0) == 1
    assert await store.subscriptions.ack_events("sub", [("b", 0), ("a", 1)]) == 3


async def test_what_was_not_delivered_cannot_be_acked_by_name(store):
    await prepared(store)
    await pull(store, 1)
    with pytest.raises(LeaseExpired):
        await store.subscriptions.ack("s", "sub", 2)
    with pytest.raises(LeaseExpired):
        await store.subscriptions.ack_events("sub", [("s", 0), ("s", 2)])
    assert await checkpoint(store) == 0


@pytest.mark.parametrize(
    "garbage",
    ["s", 5, None, ("s",), ("s", 1, 2), ("s", "1"), ("s", True), ("s", -1), (1, "s"), (["s"], 1), {"s": 1}],
    ids=repr,
)
async def test_what_names_no_event_is_refused_with_its_place(store, garbage):
    await prepared(store)
    await pull(store, 3)
    with pytest.raises(InvalidRequest) as refused:
        await store.subscriptions.ack_events("sub", [("s", 0), garbage])
    assert refused.value.facts["pointer"] == "/events/1"
    for no_list in (garbage, {("s", 0)}, []):
        with pytest.raises(InvalidRequest):
            await store.subscriptions.ack_events("sub", no_list)
    with pytest.raises(InvalidRequest):
        await store.subscriptions.ack("s", "sub", garbage)
    assert await checkpoint(store) == 0


@pytest.mark.parametrize("garbage", [["nonsense"], [""], ["\0"], [7]], ids=repr)
async def test_what_is_no_lease_is_refused(store, garbage):
    await prepared(store)
    (first, *_) = leases(await pull(store, 3))
    for call in (store.subscriptions.ack_leases, store.subscriptions.nack):
        with pytest.raises(InvalidRequest):
            await call("sub", [first, *garbage])
    assert await checkpoint(store) == 0


async def test_a_late_ack_of_what_was_leased_again_settles_nothing_of_its_call(store):
    await prepared(store, 2, ack_timeout_ms=1_000, strategy="round_robin")
    (late,) = await pull(store, 1, "one")
    (again,) = await pull(store, 1, "two", most=1)
    while again.position != late.position:
        (again,) = await pull(store, 1, "two", most=1)
    assert again.attempt > 1
    with pytest.raises(LeaseExpired) as caught:
        await store.subscriptions.ack_leases("sub", [again.lease, late.lease])
    assert caught.value.facts["leases"] == [late.lease]
    assert await checkpoint(store) == 0
    assert await store.subscriptions.ack_leases("sub", [again.lease]) == 1


# -- retries and parking -----------------------------------------------------------------------------


async def test_a_nacked_event_comes_again_before_others(store):
    await prepared(store, backoff_ms=[])
    (event,) = await pull(store, 1)
    await store.subscriptions.nack("sub", [event.lease])
    again, *others = await pull(store, 3)
    assert (again.position, again.attempt) == (1, 2)
    assert again.lease != event.lease
    assert [(other.position, other.attempt) for other in others] == [(2, 1), (3, 1)]


async def test_a_nacked_event_waits_while_others_go_on(store):
    await prepared(store, backoff_ms=[60_000])
    first, second = await pull(store, 2)
    assert await store.subscriptions.nack("sub", [first.lease]) == 0
    await store.subscriptions.nack("sub", [second.lease], delay_ms=0)
    assert sorted(positions(await pull(store, 2))) == [2, 3]
    assert await nothing(store)
    assert (await store.subscriptions.stats("sub")).waiting == 1


async def test_an_event_is_parked_when_it_has_failed_too_often(store):
    await prepared(store, max_retries=2, backoff_ms=[])
    for attempt in (1, 2, 3):
        (event,) = await pull(store, 1)
        assert (event.position, event.attempt) == (1, attempt)
        await store.subscriptions.nack("sub", [event.lease], reason=f"failure {attempt}")
    (parked,) = await store.subscriptions.parked("sub")
    assert (parked.position, parked.reason, parked.attempts) == (1, "failure 3", 3)
    assert (parked.data, parked.event_type, parked.replaying) == (0, "e", False)
    assert positions(await pull(store, 2)) == [2, 3]
    assert await nothing(store)
    assert await checkpoint(store) == 1


async def test_events_are_parked_and_skipped_at_once_where_asked_for(store):
    await prepared(store)
    first, second, third = leases(await pull(store, 3))
    assert await store.subscriptions.nack("sub", [first], "park", reason="ünreadable") == 1
    assert await store.subscriptions.nack("sub", [second], "skip") == 2
    assert await store.subscriptions.ack_leases("sub", [third]) == 3
    assert [(event.position, event.reason) for event in await store.subscriptions.parked("sub")] == [
        (1, "ünreadable")
    ]
    assert await nothing(store)


async def test_what_cannot_be_done_to_an_event_is_refused(store):
    await prepared(store)
    (event,) = await pull(store, 1)
    for given in ({"action": "burn"}, {"delay_ms": -1}):
        with pytest.raises(InvalidRequest):
            await store.subscriptions.nack("sub", [event.lease], **given)
    assert await store.subscriptions.ack_leases("sub", [event.lease]) == 1


async def parked_all(store, count: int) -> None:
    await prepared(store, count)
    await store.subscriptions.nack("sub", leases(await pull(store, count)), "park", reason="all")


async def test_parked_events_come_in_pages(store):
    await parked_all(store, 5)
    page = await store.subscriptions.parked_page("sub", 0, 2)
    assert (positions(page.events), page.next) == ([1, 2], 2)
    page = await store.subscriptions.parked_page("sub", 4, 2)
    assert (positions(page.events), page.next) == ([5], None)
    assert positions(await store.subscriptions.parked("sub", after=1, count=3)) == [2, 3, 4]


async def test_parked_events_are_delivered_again_a_few_at_a_time(store):
    await parked_all(store, 5)
    assert await checkpoint(store) == 5
    assert await store.subscriptions.replay_parked("sub", 2) == 2
    events = await pull(store, 2)
    assert positions(events) == [1, 2]
    assert await nothing(store)
    assert [event.replaying for event in await store.subscriptions.parked("sub")] == [True] * 2 + [False] * 3
    await store.subscriptions.ack_leases("sub", leases(events))
    assert positions(await store.subscriptions.parked("sub")) == [3, 4, 5]
    assert await store.subscriptions.replay_parked("sub") == 3
    await store.subscriptions.ack_leases("sub", leases(await pull(store, 3)))
    assert await store.subscriptions.parked("sub") == []
    assert await store.subscriptions.replay_parked("sub") == 0
    assert await checkpoint(store) == 5


async def test_a_replayed_event_that_fails_is_parked_again(store):
    await parked_all(store, 1)
    await store.subscriptions.update("sub", max_retries=0)
    await store.subscriptions.replay_parked("sub")
    await store.subscriptions.nack("sub", leases(await pull(store, 1)), reason="again")
    (event,) = await store.subscriptions.parked("sub")
    assert (event.reason, event.replaying) == ("again", False)
    assert await nothing(store)


# -- reset and standing ------------------------------------------------------------------------------


async def test_from_the_beginning_again(store):
    await prepared(store)
    first, second, third = leases(await pull(store, 3))
    await store.subscriptions.ack_leases("sub", [first])
    await store.subscriptions.nack("sub", [second], "park")
    assert (await store.subscriptions.reset("sub", "beginning")).checkpoint == 0
    assert await store.subscriptions.parked("sub") == []
    with pytest.raises(LeaseExpired):
        await store.subscriptions.ack_leases("sub", [third])
    again = await pull(store, 3)
    assert positions(again) == [1, 2, 3]
    assert await store.subscriptions.ack_leases("sub", leases(again)) == 3


async def test_from_a_position_and_what_is_parked_before_it_stays(store):
    await prepared(store, 4)
    await store.subscriptions.nack("sub", leases(await pull(store, 4)), "park")
    assert (await store.subscriptions.reset("sub", 2)).checkpoint == 2
    assert positions(await store.subscriptions.parked("sub")) == [1, 2]
    assert positions(await pull(store, 2)) == [3, 4]


async def test_from_the_end_only_what_comes(store):
    await prepared(store)
    assert (await store.subscriptions.reset("sub", "end")).checkpoint == 3
    await append(store, "new")
    assert positions(await pull(store, 1)) == [4]
    with pytest.raises(InvalidRequest):
        await store.subscriptions.reset("sub", 5)


async def test_where_it_stands(store):
    await prepared(store, 5, backoff_ms=[60_000])
    fresh = await store.subscriptions.stats("sub")
    assert (fresh.name, fresh.checkpoint, fresh.head, fresh.lag) == ("sub", 0, 5, 5)
    assert (fresh.in_flight, fresh.waiting, fresh.parked, fresh.delivered, fresh.redeliveries) == (
        0,
        0,
        0,
        0,
        0,
    )
    assert (fresh.consumers, fresh.holds_after) == ([], 0)
    events = await pull(store, 4, "me")
    await store.subscriptions.ack_leases("sub", leases(events[:1]))
    await store.subscriptions.nack("sub", leases(events[1:2]), "park")
    await store.subscriptions.nack("sub", leases(events[2:3]))
    stats = await store.subscriptions.stats("sub")
    assert (stats.checkpoint, stats.head, stats.lag) == (2, 5, 3)
    assert (stats.waiting, stats.parked, stats.delivered, stats.redeliveries) == (1, 1, 4, 0)
    assert (stats.consumers, stats.holds_after) == (["me"], 2)
    await store.subscriptions.leave("sub", "me")
    await pull(store, 1, "you", most=1)
    stats = await store.subscriptions.stats("sub")
    assert (stats.consumers, stats.delivered, stats.redeliveries) == (["you"], 5, 1)
