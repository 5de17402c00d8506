"""Delivery: leasing, settling, failing, step by step."""

from __future__ import annotations

import pytest
from delivery_kit import Bench

from shoal.errors import AlreadyExists, InvalidRequest, LeaseExpired, NoLeader, TooBusy
from shoal.model.consumers import MAX_CONSUMERS, Consumers
from shoal.model.delivery import Delivery
from shoal.model.lease import Lease
from shoal.model.standing import AHEAD_ITEMS

HEAD = 1_000


def test_events_come_in_position_order_across_streams() -> None:
    bench = Bench("abcab")
    assert bench.lease(count=3) == [1, 2, 3]
    assert bench.lease() == [4, 5]
    assert bench.lease() == []


def test_one_at_a_time_gets_one_each_time() -> None:
    bench = Bench("aaa")
    assert [bench.lease(count=1) for _ in range(4)] == [[1], [2], [3], []]
    assert bench.delivery.ready("c") == 0


def test_what_comes_again_comes_first_and_in_position_order() -> None:
    bench = Bench("aaaaa")
    bench.lease(count=3)
    bench.nack(3, delay_ms=0)
    bench.nack(1, delay_ms=0)
    assert bench.lease() == [1, 3, 4, 5]


def test_no_more_than_max_in_flight_are_leased() -> None:
    bench = Bench("aaaa", max_in_flight=2)
    assert bench.lease() == [1, 2]
    assert bench.lease() == []
    bench.ack(1)
    assert bench.lease() == [3]
    assert bench.delivery.in_flight == 2


def test_the_checkpoint_follows_what_is_settled_without_a_hole() -> None:
    bench = Bench("aaaa")
    bench.lease()
    bench.ack(2, 3)
    settlement = bench.settle()
    assert (settlement.checkpoint, settlement.settled) == (0, [2, 3])
    assert bench.delivery.checkpoint == 0
    bench.ack(1)
    assert bench.settle().checkpoint == 3
    assert bench.replica.state.settled == ()
    assert bench.delivery.checkpoint == 3


def test_positions_that_match_nothing_are_passed() -> None:
    bench = Bench("a")
    bench.delivery.advance(7)
    bench.lease()
    assert bench.delivery.reached == 0
    bench.ack(1)
    assert bench.delivery.reached == 0  # not for good yet
    bench.replica.position = 7
    assert bench.settle().checkpoint == 7
    assert bench.delivery.reached == 7


def test_nothing_counts_before_it_is_decided() -> None:
    bench = Bench("aa")
    bench.lease()
    bench.ack(1)
    bench.delivery.take_settlement()
    assert bench.delivery.checkpoint == 0
    with pytest.raises(RuntimeError):
        bench.delivery.take_settlement()
    bench.delivery.confirm()
    assert bench.delivery.checkpoint == 1
    with pytest.raises(RuntimeError):
        bench.delivery.confirm()


# -- leases ------------------------------------------------------------------------------------------


def test_a_late_ack_settles_nothing_of_its_call() -> None:
    bench = Bench("aa", ack_timeout_ms=100)
    bench.lease()
    late = bench.tokens(1, 2)
    bench.later(100)
    assert bench.lease(count=1) == [1]
    with pytest.raises(LeaseExpired) as caught:
        bench.delivery.ack([*bench.tokens(1), late[1]], bench.now_ms, HEAD)
    assert caught.value.facts["leases"] == [late[1].token]
    assert bench.delivery.in_flight == 1
    with pytest.raises(LeaseExpired):
        bench.delivery.ack([late[0]], bench.now_ms, HEAD)


def test_a_lease_lasts_until_its_time_is_over() -> None:
    bench = Bench("a", ack_timeout_ms=100)
    bench.lease()
    assert bench.delivery.next_deadline_ms(bench.now_ms) == 100
    bench.later(99)
    bench.ack(1)
    assert bench.settle().checkpoint == 1


def test_acking_again_what_is_settled_succeeds() -> None:
    bench = Bench("aa")
    bench.lease()
    again = bench.tokens(2)
    for _ in range(2):
        bench.delivery.ack(again, bench.now_ms, HEAD)
    bench.settle()
    bench.delivery.ack(again, bench.now_ms, HEAD)
    assert bench.delivery.unreplicated == 0


def test_what_was_never_given_is_refused() -> None:
    bench = Bench("a")
    with pytest.raises(InvalidRequest):
        bench.delivery.ack([Lease(1, 1, HEAD + 1, 1)], bench.now_ms, HEAD)


def test_a_lease_of_a_later_leader_is_not_for_this_one_to_judge() -> None:
    """Found by `shoal lab`: a leader that is cut off, and still believes that it leads, was asked."""
    bench = Bench("a")
    for position in (1, HEAD + 1):
        with pytest.raises(NoLeader):
            bench.delivery.ack([Lease(2, 1, position, 1)], bench.now_ms, HEAD)


def test_another_lifes_lease_settles_nothing() -> None:
    bench = Bench("a")
    bench.lease()
    for life in (0, 2):
        with pytest.raises(LeaseExpired):
            bench.delivery.ack([bench.tokens(1)[0]._replace(life=life)], bench.now_ms, HEAD)


def test_a_lease_is_not_given_twice_after_it_was_given_back() -> None:
    bench = Bench("a")
    bench.lease()
    (first,) = bench.tokens(1)
    bench.delivery.leave("c", bench.now_ms, lost=False)
    assert not bench.delivery.quiet
    bench.enter("c")
    bench.lease()
    assert bench.tokens(1) != [first]


def test_only_leases_that_are_held_are_returned() -> None:
    bench = Bench("aa")
    bench.lease()
    stale = bench.tokens(1)
    bench.nack(1, delay_ms=0)
    bench.lease()
    bench.delivery.return_leases([*stale, *bench.tokens(2)])
    assert bench.lease() == [2]
    assert bench.delivery._window.get(2).failures == 0


# -- failing -----------------------------------------------------------------------------------------


def test_a_retry_waits_by_how_often_it_has_failed() -> None:
    bench = Bench("aa", backoff_ms=(10, 50))
    waits = []
    for _ in range(3):
        bench.lease(count=1)
        bench.nack(1)
        waits.append(bench.delivery.next_deadline_ms(bench.now_ms) - bench.now_ms)
        assert bench.lease(count=1) in ([2], [])
        bench.later(waits[-1])
    assert waits == [10, 50, 50]


def test_without_pauses_a_retry_comes_at_once() -> None:
    bench = Bench("a", backoff_ms=())
    bench.lease()
    bench.nack(1)
    assert bench.lease() == [1]


def test_an_event_is_parked_when_its_retries_are_used_up() -> None:
    bench = Bench("aa", max_retries=2, ack_timeout_ms=100)
    for _ in range(2):
        bench.lease(count=1)
        bench.nack(1, delay_ms=0, reason="no")
    assert bench.settle().attempts == [(1, 2)]
    bench.lease(count=1)
    bench.later(100)
    settlement = bench.settle()
    assert bench.replica.parked == {1: ("a", 3, False, "not acked in 100 ms")}
    assert (settlement.checkpoint, settlement.attempts) == (1, [])
    assert bench.lease() == [2]


def test_failures_of_what_is_settled_since_are_not_replicated() -> None:
    bench = Bench("aa")
    bench.lease()
    bench.nack(2, delay_ms=0)
    bench.lease()
    bench.ack(2)
    assert bench.settle().attempts == []


def test_failures_count_across_restarts() -> None:
    bench = Bench("a", max_retries=1)
    bench.lease()
    bench.nack(1, delay_ms=0)
    bench.settle()
    bench.restart()
    assert bench.lease() == [1]
    bench.nack(1, reason="again")
    bench.settle()
    assert bench.replica.parked == {1: ("a", 2, False, "again")}


def test_nack_parks_and_skips() -> None:
    bench = Bench("aaa")
    bench.lease()
    bench.nack(1, action="skip")
    bench.nack(2, action="park")
    bench.ack(3)
    assert bench.settle().checkpoint == 3
    assert bench.replica.parked == {2: ("a", 1, False, "parked by its consumer")}


def test_the_first_lease_of_a_lost_consumer_has_failed() -> None:
    bench = Bench("aaa", max_retries=0)
    bench.lease(count=2)
    bench.delivery.leave("c", bench.now_ms, lost=True)
    bench.enter("d")
    assert bench.lease("d") == [2, 3]
    bench.settle()
    assert bench.replica.parked == {1: ("a", 1, False, "its consumer was lost")}


def test_a_consumer_that_leaves_gives_back_what_has_not_failed() -> None:
    bench = Bench("aa", max_retries=0)
    bench.lease()
    bench.delivery.leave("c", bench.now_ms, lost=False)
    assert bench.delivery.unreplicated == 0
    bench.enter("d")
    assert bench.lease("d") == [1, 2]
    assert bench.delivery.redeliveries == 2


# -- consumers ---------------------------------------------------------------------------------------


def test_single_serves_the_first_and_the_next_stands_by() -> None:
    bench = Bench("aaa", "one", "two")
    assert bench.lease("two") == []
    assert bench.lease("one", 1) == [1]
    bench.delivery.leave("one", bench.now_ms, lost=False)
    assert bench.lease("two") == [1, 2, 3]


@pytest.mark.parametrize("strategy", ["single", "round_robin", "by_stream"])
def test_who_has_not_entered_or_has_left_gets_nothing(strategy: str) -> None:
    bench = Bench("a", strategy=strategy)
    bench.delivery.leave("c", bench.now_ms, lost=False)
    assert bench.lease("c") == []


def test_competing_consumers_share_what_is_ready() -> None:
    bench = Bench("aaaa", "one", "two", strategy="round_robin")
    assert bench.lease("one") == [1, 2]
    assert bench.lease("two") == [3]
    assert bench.lease("one") == [4]


def test_a_silent_consumer_is_gone_and_keeps_its_leases() -> None:
    bench = Bench("aa", "one", consumer_timeout_ms=100, ack_timeout_ms=1_000)
    bench.lease("one", 1)
    bench.later(99)
    bench.delivery.consumers.rest("one", bench.now_ms)
    assert bench.delivery.next_deadline_ms(bench.now_ms) == 199
    bench.later(99)
    assert bench.delivery.consumers.names == ["one"]
    bench.later(1)
    assert bench.delivery.consumers.names == []
    bench.enter("two")
    assert bench.lease("two") == [2]
    bench.ack(1)
    assert bench.settle().checkpoint == 1


def test_settling_keeps_a_consumer() -> None:
    bench = Bench("aa", consumer_timeout_ms=100)
    bench.lease()
    bench.delivery.consumers.rest("c", 0)
    bench.now_ms = 60
    bench.ack(1)
    bench.later(60)
    bench.nack(2)
    bench.later(99)
    assert bench.delivery.consumers.names == ["c"]


def test_consumers_have_names_of_their_own_and_are_not_endless() -> None:
    consumers = Consumers()
    consumers.enter("a", 0)
    with pytest.raises(AlreadyExists):
        consumers.enter("a", 0)
    consumers.rest("a", 0)
    consumers.enter("a", 0)
    for number in range(MAX_CONSUMERS - 1):
        consumers.enter(str(number), 0)
    with pytest.raises(TooBusy):
        consumers.enter("z", 0)
    assert consumers.count == MAX_CONSUMERS
    assert consumers.leave("z") == []


# -- acks by position and by event -------------------------------------------------------------------


def test_ack_through_settles_what_was_delivered_up_to_there() -> None:
    bench = Bench("aaaa")
    bench.lease(count=3)
    bench.nack(1, delay_ms=1_000)
    bench.delivery.ack_through(2)
    assert bench.settle().checkpoint == 2
    assert bench.delivery.in_flight == 1
    with pytest.raises(InvalidRequest):
        bench.delivery.ack_through(4)
    bench.delivery.ack_through(1)
    assert bench.delivery.unreplicated == 0


def test_ack_through_leaves_what_was_not_delivered() -> None:
    bench = Bench("aab", "one", "two", strategy="by_stream")
    bench.lease("one", 1)
    assert bench.lease("two", 1) == [3]
    bench.delivery.ack_through(3)
    assert bench.settle().checkpoint == 1
    assert bench.lease("one") == [2]


def test_a_replay_is_not_what_was_delivered_up_to() -> None:
    bench = Bench("aa")
    bench.lease()
    bench.nack(2, action="park")
    bench.settle()
    bench.restart()
    bench.replay()
    assert bench.lease(count=1) == [2]
    with pytest.raises(InvalidRequest):
        bench.delivery.ack_through(2)
    bench.ack(2)
    assert bench.lease() == [1]
    bench.delivery.ack_through(1)
    assert bench.settle().checkpoint == 2


def test_what_never_left_does_not_count() -> None:
    bench = Bench("aa")
    delivery = bench.delivery
    items = delivery.lease("c", 2, 0)
    delivery.handed_out(items[:1])
    delivery.give_back(items)
    assert (delivery.delivered, delivery.redeliveries) == (1, 0)
    assert bench.lease() == [1, 2]
    assert (delivery.delivered, delivery.redeliveries) == (3, 1)


def test_redeliveries_count_what_an_earlier_leader_delivered() -> None:
    bench = Bench("a")
    bench.lease()
    bench.nack(1, delay_ms=0)
    bench.settle()
    bench.restart()
    bench.lease()
    assert bench.delivery.redeliveries == 1


def test_events_are_found_and_settled_by_stream_and_version() -> None:
    bench = Bench("aab")
    bench.lease(count=2)
    found = bench.delivery.find([("a", 2), ("b", 3), ("b", 9)])
    assert {key: item.position for key, item in found.items()} == {("a", 2): 2, ("b", 3): 3}
    with pytest.raises(LeaseExpired):
        bench.delivery.ack_items(list(found.values()))
    bench.delivery.ack_items([found["a", 2]])
    assert bench.settle().settled == [2]
    bench.delivery.ack_items([found["a", 2]])
    assert bench.delivery.unreplicated == 0


def test_items_of_an_earlier_life_settle_nothing() -> None:
    bench = Bench("a")
    bench.lease()
    found = bench.delivery.find([("a", 1)])
    bench.delivery = bench.delivery.anew(bench.replica.state)
    with pytest.raises(LeaseExpired):
        bench.delivery.ack_items(list(found.values()))


# -- bounds ------------------------------------------------------------------------------------------


def test_room_counts_all_that_is_known() -> None:
    bench = Bench("aaaa", max_in_flight=3)
    most = 3 + AHEAD_ITEMS
    assert bench.delivery.room() == most - 4
    bench.lease()
    bench.ack(2, 3)
    bench.settle()
    assert bench.delivery.room() == most - 4
    bench.ack(1)
    bench.settle()
    assert bench.delivery.room() == most - 1
    bench.append("a" * most)
    assert bench.delivery.room() == 0


def test_dates_of_settled_events_do_not_pile_up() -> None:
    bench = Bench("a", ack_timeout_ms=1_000_000)
    bench.lease()
    for _ in range(50):
        bench.append("a" * 100)
        bench.ack(*bench.lease())
        bench.settle()
    assert len(bench.delivery._window._due) < 1_000
    assert bench.delivery.next_deadline_ms(0) == 1_000_000


def test_counts_are_what_they_say() -> None:
    bench = Bench("aaaa")
    bench.lease(count=3)
    bench.ack(1)
    bench.nack(2, delay_ms=100)
    delivery = bench.delivery
    assert (delivery.in_flight, delivery.waiting, delivery.unreplicated) == (1, 2, 2)
    bench.delivery.take_settlement()
    assert (delivery.in_flight, delivery.waiting, delivery.unreplicated) == (1, 2, 0)
    bench.delivery.confirm()
    assert (delivery.in_flight, delivery.waiting, delivery.delivered) == (1, 2, 3)


def test_rows_are_kept_only_for_what_was_taken() -> None:
    bench = Bench("aa")
    (item,) = bench.delivery.lease("c", 1, 0)
    bench.delivery.forget_rows()
    assert item.row is not None
    assert bench.delivery.find([("a", 2)])["a", 2].row is None


def test_it_is_quiet_only_if_forgetting_it_changes_nothing() -> None:
    bench = Bench("a", backoff_ms=())
    assert not bench.delivery.quiet
    bench.delivery.consumers.leave("c")
    assert bench.delivery.quiet
    bench.enter("c")
    bench.lease()
    bench.ack(1)
    bench.delivery.consumers.leave("c")
    assert not bench.delivery.quiet
    bench.delivery.take_settlement()
    assert not bench.delivery.quiet
    bench.delivery.confirm()
    assert bench.delivery.quiet
    resumed = Delivery(bench.replica.state, 2, suspects_through=9)
    assert not resumed.quiet
