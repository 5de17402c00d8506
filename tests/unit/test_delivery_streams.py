"""Delivery where streams matter: by_stream, `ordered`, and parked events that are delivered again."""

from __future__ import annotations

import time
from typing import Any

import pytest
from delivery_kit import Bench

from shoal.model.standing import AHEAD_ITEMS
from shoal.types import SubscriptionOptions


def by_stream(streams: str, **options: object) -> Bench:
    return Bench(streams, "one", "two", strategy="by_stream", **options)


# -- by_stream ---------------------------------------------------------------------------------------


def test_a_stream_stays_with_who_has_a_lease_of_it() -> None:
    bench = by_stream("aabb")
    assert bench.lease("one", 1) == [1]
    assert [bench.lease("two") for _ in range(3)] == [[3], [4], []]
    assert bench.lease("one") == [2]


def test_a_stream_passes_on_when_what_was_settled_is_decided() -> None:
    bench = by_stream("aa")
    bench.lease("one", 1)
    bench.ack(1)
    assert bench.lease("two") == []
    bench.settle()
    assert bench.lease("two") == [2]


def test_a_stream_passes_on_when_its_consumer_leaves() -> None:
    bench = by_stream("aa")
    bench.lease("one", 2)
    bench.delivery.leave("one", bench.now_ms, lost=False)
    assert bench.lease("two") == [1, 2]


@pytest.mark.parametrize("strategy", ["by_stream", "round_robin"])
def test_what_comes_again_comes_before_other_streams_earlier_events(strategy: Any) -> None:
    bench = by_stream("aab")
    bench.lease("one", 1)
    assert bench.lease("two") == [3]
    bench.nack(3, delay_ms=0)
    bench.ack(1)
    bench.settle()
    bench.delivery.change(SubscriptionOptions(strategy=strategy))
    assert bench.lease("two", 1) == [3]
    assert bench.lease("two", 1) == [2]


def test_a_silent_consumers_stream_stays_until_its_leases_run_out() -> None:
    bench = by_stream("aa", consumer_timeout_ms=100, ack_timeout_ms=1_000)
    bench.lease("one", 1)
    bench.delivery.consumers.rest("one", 0)
    bench.later(100)
    assert bench.lease("two") == []
    bench.later(900)
    assert bench.lease("two") == [1, 2]


def test_what_is_ready_is_counted_for_each_consumer() -> None:
    bench = by_stream("aaab")
    bench.lease("one", 1)
    assert (bench.delivery.ready("one"), bench.delivery.ready("two")) == (3, 1)
    bench.ack(1)
    bench.settle()
    assert (bench.delivery.ready("one"), bench.delivery.ready("two")) == (3, 3)


def test_places_of_consumers_that_left_are_forgotten() -> None:
    bench = by_stream("")
    for number in range(100):
        bench.append("a")
        name = f"c{number}"
        bench.enter(name)
        assert len(bench.lease(name)) == 1
        bench.ack(number + 1)
        bench.settle()
        bench.delivery.leave(name, 0, lost=False)
    turns = bench.delivery._turns
    assert (turns._lanes, turns._queues, turns._ready) == ({}, {}, {})


def test_places_that_do_not_count_any_more_do_not_pile_up() -> None:
    bench = by_stream("a")
    bench.append("b")
    for _ in range(500):
        assert bench.lease("two", 1) == [1]
        bench.delivery.give_back([bench.delivery._window.get(1)])
    assert len(bench.delivery._turns._queues[""]) < 200


def test_taking_past_a_long_stream_costs_what_is_taken() -> None:
    """Not what lies before it: that would be half a minute."""
    bench = by_stream("a" * 8_000)
    bench.lease("one", 1)
    begun = time.process_time()
    for _ in range(1_000):
        bench.append("z")
        (position,) = bench.lease("two", 1)
        bench.ack(position)
        bench.settle_here()
    assert time.process_time() - begun < 2


# -- ordered -----------------------------------------------------------------------------------------


def test_an_ordered_stream_waits_for_the_one_that_failed() -> None:
    bench = Bench("aaba", ordered=True)
    bench.lease()
    bench.nack(1, delay_ms=100)
    assert bench.delivery.in_flight == 1
    assert bench.lease() == []
    bench.later(100)
    assert bench.lease() == [1, 2, 4]


def test_an_ordered_stream_goes_on_only_when_its_last_batch_is_settled() -> None:
    """Whether a batch has arrived nobody knows: what comes after it must not overtake it."""
    bench = Bench("aaba", ordered=True)
    assert bench.lease(count=2) == [1, 2]
    assert bench.lease() == [3]
    bench.ack(1)
    assert bench.lease() == []
    bench.ack(2)
    assert bench.lease() == [4]


def test_an_ordered_stream_waits_for_one_that_was_passed_over_by_its_acks() -> None:
    bench = Bench("aaaa", ordered=True)
    assert bench.lease(count=3) == [1, 2, 3]
    bench.ack(3)
    assert bench.lease() == []
    bench.ack(1)
    assert bench.lease() == []
    bench.settle()
    assert bench.lease() == []
    bench.ack(2)
    assert bench.lease() == [4]


def test_what_was_taken_back_has_not_failed() -> None:
    bench = Bench("aa", ordered=True, max_retries=0)
    bench.lease()
    (late,) = bench.tokens(2)
    bench.delivery.change(bench.delivery.options)
    bench.later(30_000)
    bench.settle()
    assert bench.replica.parked[2][3].startswith("behind")
    assert late.attempt == 1


def test_a_nack_of_several_fails_only_the_first_of_a_stream() -> None:
    bench = Bench("aaa", ordered=True)
    bench.lease()
    bench.nack(3, 2, 1, delay_ms=0)
    assert [bench.delivery._window.get(at).failures for at in (1, 2, 3)] == [1, 0, 0]


def test_an_ordered_stream_is_with_one_consumer() -> None:
    bench = Bench("aab", "one", "two", strategy="round_robin", ordered=True)
    bench.lease("one", 1)
    assert bench.lease("two") == [3]
    bench.ack(1)
    assert bench.lease("two") == []
    bench.settle()
    assert bench.lease("two") == [2]


def test_the_rest_of_a_stream_is_parked_behind_a_parked_event() -> None:
    bench = Bench("abaa", ordered=True)
    bench.lease(count=3)
    bench.nack(1, action="park")
    bench.ack(2)
    bench.settle()
    assert bench.parked() == [1, 3, 4]
    assert bench.replica.parked[3] == ("a", 1, False, "behind the parked event at position 1")
    assert bench.replica.state.checkpoint == 4
    bench.append("ab")
    assert bench.lease() == [6]
    bench.settle()
    assert bench.parked() == [1, 3, 4, 5]


def test_without_order_only_the_event_itself_is_parked() -> None:
    bench = Bench("aa")
    bench.lease(count=1)
    bench.nack(1, action="park")
    bench.settle()
    bench.append("a")
    assert bench.lease() == [2, 3]
    assert bench.parked() == [1]


def test_a_stream_is_blocked_after_a_restart_too() -> None:
    bench = Bench("aa", ordered=True)
    bench.lease(count=1)
    bench.nack(1, action="park")
    bench.settle()
    bench.restart()
    bench.append("ab")
    assert bench.lease() == [4]


def test_a_deleted_stream_is_not_blocked() -> None:
    bench = Bench("ab", ordered=True)
    bench.lease()
    bench.nack(1, action="park")
    bench.settle()
    bench.replay()
    bench.lease()
    bench.delivery.unblock("a")
    bench.delivery.unblock("b")
    bench.append("a")
    assert bench.lease() == [3]
    assert bench.settle().unpark == [1]


@pytest.mark.parametrize("call", ["nack", "expire"])
def test_a_long_ordered_stream_fails_in_one_go(call: str) -> None:
    bench = Bench("a" * 8_000, ordered=True, max_in_flight=8_000)
    taken = bench.lease(count=8_000)
    begun = time.process_time()
    if call == "nack":
        bench.nack(*reversed(taken), delay_ms=0)
    else:
        bench.later(30_000)
    assert time.process_time() - begun < 2
    assert bench.delivery.in_flight == 0


# -- replays -----------------------------------------------------------------------------------------


def parked(streams: str, *positions: int, **options: object) -> Bench:
    bench = Bench(streams, **options)
    bench.lease()
    bench.nack(*positions, action="park", reason="bad")
    bench.settle()
    return bench


def test_a_replay_is_unparked_and_the_checkpoint_stays() -> None:
    bench = parked("aab", 1)
    bench.ack(2)
    bench.settle()
    bench.replay()
    assert bench.lease() == [1]
    bench.ack(1)
    settlement = bench.settle()
    assert (settlement.unpark, settlement.checkpoint, settlement.settled) == ([1], 2, [])
    assert bench.parked() == []


def test_a_replay_that_fails_is_parked_again() -> None:
    bench = parked("a", 1, max_retries=1)
    bench.replay()
    bench.lease()
    bench.nack(1, reason="still bad")
    settlement = bench.settle()
    assert bench.replica.parked == {1: ("a", 2, False, "still bad")}
    assert settlement.unpark == []
    assert bench.lease() == []


def test_a_replay_that_is_tried_again_stays_a_replay() -> None:
    bench = parked("a", 1, max_retries=5)
    bench.replay()
    bench.lease()
    bench.nack(1, delay_ms=0, reason="not yet")
    bench.settle()
    assert bench.replica.parked == {1: ("a", 2, True, "not yet")}
    bench.lease()
    bench.nack(1, delay_ms=0)
    bench.lease()
    bench.ack(1)  # before its failure is replicated
    bench.settle()
    assert bench.parked() == []


def test_a_replay_comes_once_however_often_it_is_asked_for() -> None:
    bench = parked("a", 1)
    bench.replay()
    bench.replay()
    assert bench.lease() == [1]
    bench.replay()
    assert bench.lease() == []


def test_a_replay_asked_for_while_it_is_being_parked_again_is_not_missed() -> None:
    bench = parked("a", 1, max_retries=0)
    bench.replay()
    bench.lease()
    bench.nack(1)
    settlement = bench.delivery.take_settlement()
    bench.replica.settle(settlement, 1)
    bench.replay()
    assert not bench.delivery.replays_wanted
    bench.delivery.confirm()
    assert bench.delivery.replays_wanted
    bench.load_replays()
    assert bench.lease() == [1]


def test_replays_of_an_ordered_stream_stop_where_one_is_parked_again() -> None:
    bench = parked("aaa", 1, ordered=True, max_retries=0)
    bench.replica.replay()
    bench.delivery.replay()
    bench.delivery.offer_parked(bench.replica.replaying()[:2])
    assert bench.lease(count=1) == [1]
    bench.nack(1)
    bench.delivery.offer_parked(bench.replica.replaying()[2:])
    assert bench.lease() == []
    bench.settle()
    assert bench.parked() == [1, 2, 3]
    assert not bench.replica.replaying()
    bench.replay()
    assert bench.lease() == [1, 2, 3]


def test_replays_of_other_events_go_on_where_order_does_not_matter() -> None:
    bench = parked("aaa", 1, 2, max_retries=0)
    bench.replica.replay()
    bench.delivery.offer_parked(bench.replica.replaying()[:1])
    bench.lease()
    bench.nack(1)
    bench.delivery.offer_parked(bench.replica.replaying()[1:])
    assert bench.lease() == [2]


def test_what_comes_while_a_whole_stream_is_replayed_joins_it() -> None:
    bench = parked("a", 1, ordered=True)
    bench.replay()
    bench.append("a")
    assert bench.lease() == [1]
    bench.settle()
    assert bench.replica.parked[2][2]
    assert bench.delivery.replays_wanted
    bench.load_replays()
    bench.ack(1)
    bench.append("a")
    bench.settle()
    assert bench.replica.parked[3][2]
    bench.load_replays()
    assert bench.lease() == [2, 3]
    bench.ack(2, 3)
    bench.settle()
    bench.append("a")
    assert bench.lease() == [4]


def test_what_did_not_join_a_replay_after_all_can_be_replayed_itself() -> None:
    bench = parked("a", 1, ordered=True)
    bench.replay()
    bench.append("a")
    bench.delivery.take_settlement()
    bench.delivery.revert(bench.now_ms)
    assert bench.lease() == [1, 2]
    bench.ack(1)
    bench.nack(2, action="park")
    bench.settle()
    bench.replay()
    bench.append("a")
    bench.settle()
    assert bench.replica.parked[3][2]


def test_replays_go_on_when_it_was_not_decided_that_they_stop() -> None:
    bench = parked("aa", 1, ordered=True, max_retries=0)
    bench.replica.replay()
    bench.delivery.offer_parked(bench.replica.replaying()[:1])
    bench.lease()
    bench.nack(1)
    bench.delivery.take_settlement()
    bench.delivery.revert(bench.now_ms)
    bench.delivery.offer_parked(bench.replica.replaying()[1:])
    assert bench.lease() == [1, 2]


def test_a_stream_deleted_with_what_it_had_parked_is_not_blocked() -> None:
    bench = parked("a", 1, ordered=True)
    bench.delivery.unblock("a")
    bench.append("a")
    assert bench.lease() == [2]


def test_what_comes_while_a_part_of_a_stream_is_replayed_is_parked() -> None:
    bench = parked("aa", 1, ordered=True)
    bench.delivery.replay()
    bench.delivery.offer_parked([(1, "a", 1)])
    bench.append("a")
    bench.lease()
    bench.ack(1)
    bench.settle()
    assert bench.parked() == [2, 3]
    assert not bench.replica.parked[3][2]


def test_a_stream_goes_on_when_all_that_was_parked_is_settled() -> None:
    bench = parked("aa", 1, ordered=True)
    bench.replay()
    bench.ack(*bench.lease())
    bench.append("a")
    assert bench.lease() == [3]


def test_room_counts_replays() -> None:
    bench = parked("a", 1, max_in_flight=1)
    bench.replay()
    assert bench.delivery.room() == AHEAD_ITEMS


def test_a_replay_behind_the_checkpoint_to_be_does_not_hold_it() -> None:
    bench = parked("aaa", 2)
    bench.replay()
    bench.lease()
    bench.ack(1, 3)
    assert bench.settle().checkpoint == 3


def test_replays_keep_the_order_of_their_stream_however_they_are_taken_in() -> None:
    bench = parked("aa", 1, ordered=True)
    bench.delivery.offer_parked([(2, "a", 0)])
    bench.delivery.offer_parked([(1, "a", 1)])
    assert bench.lease() == [1, 2]
    bench.nack(1, delay_ms=100)
    assert bench.lease() == []


def test_a_pause_outlasts_the_lease_it_follows() -> None:
    bench = Bench("a", ack_timeout_ms=100)
    bench.lease()
    bench.nack(1, delay_ms=1_000)
    bench.later(999)
    assert bench.lease() == []
    bench.later(1)
    assert bench.lease() == [1]


def test_what_is_delivered_again_gets_a_lease_that_was_never_given() -> None:
    bench = Bench("a")
    given = []
    for _ in range(3):
        bench.lease()
        given += bench.tokens(1)
        bench.delivery.give_back([bench.delivery._window.get(1)])
    bench.lease()
    bench.nack(1, action="park")
    bench.settle()
    bench.replay()
    bench.lease()
    assert bench.tokens(1)[0] not in given
