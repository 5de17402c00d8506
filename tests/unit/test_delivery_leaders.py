"""Delivery over restarts and changes of leader, and settlements whose fate is bad or unknown."""

from __future__ import annotations

import pytest
from delivery_kit import Bench

from shoal.errors import LeaseExpired
from shoal.model.lease import Lease
from shoal.model.standing import ENDED_THE_NODE

HEAD = 1_000


# -- leases of an earlier leader ---------------------------------------------------------------------


def test_an_earlier_leaders_lease_settles_what_was_not_leased_again() -> None:
    bench = Bench("aa")
    bench.lease()
    first, second = bench.tokens(1, 2)
    bench.restart()
    bench.lease(count=1)
    bench.delivery.ack([second], bench.now_ms, HEAD)
    with pytest.raises(LeaseExpired):
        bench.delivery.ack([first], bench.now_ms, HEAD)
    bench.ack(1)
    assert bench.settle().checkpoint == 2


def early() -> tuple[Bench, Lease, list[object]]:
    """A new leader that has read nothing yet, and an earlier one's lease of position 2."""
    bench = Bench("aaa")
    bench.lease()
    (token,) = bench.tokens(2)
    rows, bench.rows = bench.rows, []
    bench.replica.position, head = 0, bench.replica.position
    bench.restart()
    bench.replica.position = head
    return bench, token, rows


def test_an_earlier_leaders_lease_settles_what_is_not_read_yet() -> None:
    bench, token, rows = early()
    for _ in range(2):
        bench.delivery.ack([token], bench.now_ms, HEAD)
    assert bench.delivery.is_settled(2)
    assert bench.settle().settled == [2]
    assert bench.delivery.unreplicated == 0
    bench.delivery.offer(rows, 3)
    assert bench.lease() == [1, 3]


def test_what_is_settled_early_is_not_delivered_when_it_is_read() -> None:
    bench, token, rows = early()
    bench.delivery.ack([token], bench.now_ms, HEAD)
    bench.delivery.offer(rows, 3)
    assert bench.lease() == [1, 3]
    assert bench.settle().settled == [2]


def test_what_is_settled_early_and_matches_nothing_is_forgotten() -> None:
    bench, token, _ = early()
    bench.delivery.ack([token], bench.now_ms, HEAD)
    bench.delivery.advance(3)
    bench.settle()
    assert bench.delivery.unreplicated == 0


def test_an_early_nack_skips_or_is_refused() -> None:
    bench, token, rows = early()
    for action in ("retry", "park"):
        with pytest.raises(LeaseExpired):
            bench.delivery.nack([token], action, bench.now_ms, HEAD)
    bench.delivery.nack([token], "skip", bench.now_ms, HEAD)
    bench.delivery.offer(rows, 3)
    assert bench.lease() == [1, 3]


def test_a_nack_of_an_earlier_leaders_lease_counts_once() -> None:
    bench = Bench("aa", max_retries=3)
    bench.lease()
    tokens = bench.tokens(1)
    bench.restart()
    bench.delivery.nack(tokens, "retry", bench.now_ms, HEAD, delay_ms=50)
    with pytest.raises(LeaseExpired):
        bench.delivery.nack(tokens, "retry", bench.now_ms, HEAD, delay_ms=50)
    assert bench.settle().attempts == [(1, 1)]
    assert bench.lease() == [2]


def test_a_nack_of_an_earlier_leaders_lease_parks() -> None:
    bench = Bench("a")
    bench.lease()
    tokens = bench.tokens(1)
    bench.restart()
    bench.delivery.nack(tokens, "park", bench.now_ms, HEAD, reason="bad")
    assert bench.lease() == []
    bench.settle()
    assert bench.replica.parked == {1: ("a", 1, False, "bad")}


def test_settled_events_do_not_come_again() -> None:
    bench = Bench("aaaa")
    bench.lease()
    bench.ack(1, 3)
    bench.settle()
    bench.restart()
    assert bench.lease() == [2, 4]


# -- suspects ----------------------------------------------------------------------------------------


def test_what_may_be_in_flight_is_held_for_a_new_leader() -> None:
    bench = Bench("aa")
    bench.lease()
    bench.restart(held_ms=500)
    bench.append("a")
    assert bench.delivery.next_deadline_ms(bench.now_ms) == 500
    assert bench.lease() == []
    assert bench.delivery.held
    bench.later(500)
    assert bench.lease() == [1, 2, 3]
    assert not bench.delivery.held


def test_suspects_are_recorded_before_they_go_out_and_others_are_not() -> None:
    bench = Bench("a", ordered=False)
    assert not bench.delivery.must_record(bench.delivery.lease("c", 1, 0))
    bench.restart()
    bench.append("a")
    items = bench.delivery.lease("c", 9, 0)
    assert bench.delivery.must_record(items)
    assert not bench.delivery.must_record(items[1:])
    assert bench.settle().attempts == [(1, 1)]


def test_a_suspect_that_has_failed_travels_alone() -> None:
    bench = Bench("aaa")
    bench.lease()
    bench.restart()
    bench.lease(count=2)
    bench.settle()
    bench.restart()
    assert bench.lease() == [1]
    assert bench.lease() == []
    assert bench.delivery.held
    bench.ack(1)
    assert bench.lease() == [2]
    bench.ack(2)
    assert bench.lease() == [3]


def test_nothing_follows_a_suspect_that_travels_alone() -> None:
    bench = Bench("aa")
    bench.lease(count=1)
    bench.restart()
    bench.lease(count=1)
    bench.settle()
    bench.restart()
    bench.append("a")
    assert bench.lease() == [1]
    assert bench.lease() == []
    bench.ack(1)
    assert bench.lease() == [2, 3]


def test_a_suspect_that_has_failed_waits_for_those_on_their_way() -> None:
    bench = Bench("aa")
    bench.lease()
    bench.nack(2, delay_ms=0)
    bench.settle()
    bench.restart()
    assert bench.lease() == [1]
    assert bench.lease() == []
    bench.ack(1)
    assert bench.lease() == [2]


def test_what_ends_the_node_each_time_is_parked_and_its_neighbours_are_not() -> None:
    bench = Bench("aaa", max_retries=2)
    bench.lease()
    for _ in range(10):
        bench.restart()
        while 2 not in (taken := bench.lease()):
            if not taken:
                break
            bench.settle()
            bench.ack(*taken)
        bench.settle()  # and then it ends
    assert bench.replica.parked == {2: ("a", 3, False, ENDED_THE_NODE)}
    assert bench.replica.state.checkpoint == 3


def test_without_retries_suspects_travel_alone_from_the_first_time() -> None:
    bench = Bench("aa", max_retries=0)
    bench.lease()
    bench.restart()
    assert bench.lease() == [1]
    bench.settle()
    bench.restart()
    assert bench.lease() == [2]
    bench.settle()
    assert bench.parked() == [1]


def test_what_a_consumer_gives_back_did_not_end_the_node() -> None:
    bench = Bench("a", max_retries=0)
    bench.lease()
    bench.restart()
    bench.lease()
    bench.settle()
    bench.delivery.leave("c", bench.now_ms, lost=False)
    bench.settle()
    assert bench.replica.state.attempts == ()


def test_a_replay_that_ends_the_node_stays_parked() -> None:
    bench = Bench("aa")
    bench.lease()
    bench.nack(1, 2, action="park")
    bench.settle()
    bench.replay()
    bench.restart()
    items = bench.delivery.lease("c", 9, 0)
    assert [item.position for item in items] == [1]
    assert bench.delivery.must_record(items)
    bench.settle()
    assert bench.replica.parked[1] == ("a", 2, False, ENDED_THE_NODE)
    bench.restart()
    assert bench.lease() == [2]
    bench.settle()
    bench.delivery.leave("c", bench.now_ms, lost=False)
    bench.settle()
    assert bench.replica.parked[2][1:3] == (1, True)


def test_a_replay_asked_for_since_is_no_suspect() -> None:
    bench = Bench("a")
    bench.lease()
    bench.nack(1, action="park")
    bench.settle()
    bench.restart()
    bench.replay()
    assert not bench.delivery.must_record(bench.delivery.lease("c", 1, 0))


def test_events_that_came_later_are_no_suspects() -> None:
    bench = Bench("")
    bench.restart()
    bench.append("a")
    assert not bench.delivery.must_record(bench.delivery.lease("c", 1, 0))


# -- what is not decided -----------------------------------------------------------------------------


def test_leases_go_on_when_their_settling_was_not_decided() -> None:
    bench = Bench("aaa", ack_timeout_ms=100)
    bench.lease()
    (first,) = bench.tokens(1)
    bench.ack(1, 2)
    bench.delivery.take_settlement()
    bench.delivery.revert(bench.now_ms)
    assert (bench.delivery.in_flight, bench.delivery.checkpoint) == (3, 0)
    assert bench.lease() == []
    bench.delivery.ack([first], bench.now_ms, HEAD)
    assert bench.settle().checkpoint == 1
    bench.later(100)
    assert bench.lease() == [2, 3]


def test_what_ran_out_meanwhile_comes_again() -> None:
    bench = Bench("aa", ack_timeout_ms=100, ordered=True)
    bench.lease()
    bench.ack(1)
    bench.delivery.take_settlement()
    bench.delivery.revert(100)
    assert bench.lease() == [1, 2]  # in order, so that the second was taken back


def test_what_a_consumer_settled_that_has_left_comes_again() -> None:
    bench = Bench("aa", "one", "two", strategy="by_stream")
    bench.lease("one", 1)
    bench.ack(1)
    bench.delivery.take_settlement()
    bench.delivery.leave("one", bench.now_ms, lost=False)
    assert bench.lease("two") == []
    bench.delivery.revert(bench.now_ms)
    assert bench.lease("two") == [1, 2]


def test_failures_that_were_not_decided_are_kept() -> None:
    bench = Bench("ab", max_retries=3)
    bench.lease()
    bench.nack(1, 2, delay_ms=0)
    bench.delivery.take_settlement()
    bench.lease()
    bench.ack(2)
    bench.delivery.revert(bench.now_ms)
    assert bench.settle().attempts == [(1, 1)]


def test_a_replays_failure_that_was_not_decided_is_kept() -> None:
    bench = Bench("a", max_retries=5)
    bench.lease()
    bench.nack(1, action="park")
    bench.settle()
    bench.replay()
    bench.lease()
    bench.nack(1, delay_ms=0, reason="no")
    bench.delivery.take_settlement()
    bench.delivery.revert(bench.now_ms)
    bench.settle()
    assert bench.replica.parked == {1: ("a", 2, True, "no")}


@pytest.mark.parametrize("decided", [True, False])
def test_an_event_whose_parking_is_unknown_comes_again_and_is_unparked(decided: bool) -> None:
    bench = Bench("aa", ordered=True)
    bench.lease()
    bench.nack(1, action="park")
    settlement = bench.delivery.take_settlement()
    if decided:
        bench.replica.settle(settlement, 1)
    bench.delivery.revert(bench.now_ms)
    bench.append("a")
    assert bench.lease() == [1, 2, 3]
    bench.ack(1, 2, 3)
    bench.settle()
    assert bench.parked() == []
    assert bench.replica.state.checkpoint == 3


def test_a_replay_of_an_event_whose_parking_is_unknown_is_its_coming_again() -> None:
    bench = Bench("a")
    bench.lease()
    bench.nack(1, action="park")
    settlement = bench.delivery.take_settlement()
    bench.replica.settle(settlement, 1)
    bench.delivery.revert(bench.now_ms)
    bench.replay()
    assert bench.lease() == [1]
    assert bench.lease() == []
    bench.ack(1)
    bench.settle()
    assert bench.parked() == []


def test_streams_block_as_before_when_a_replays_settling_was_not_decided() -> None:
    bench = Bench("a", ordered=True)
    bench.lease()
    bench.nack(1, action="park")
    bench.settle()
    bench.replay()
    bench.lease()
    bench.ack(1)
    bench.delivery.take_settlement()
    bench.delivery.revert(bench.now_ms)
    bench.append("a")
    assert bench.lease() == []
    bench.ack(1)
    bench.settle()
    assert bench.parked() == [2]
    assert bench.replica.parked[2][2]


def test_in_order_a_late_nack_of_a_later_event_does_not_hold_up_its_stream() -> None:
    """The nack is of a lease before the restart: the event comes again, and not before those in front of it."""
    bench = Bench("aaa", ordered=True)
    bench.lease()
    (late,) = bench.tokens(2)
    bench.restart("c")
    bench.delivery.nack([late], "retry", bench.now_ms, HEAD, delay_ms=0)
    assert bench.lease(count=1) == [1]
    bench.ack(1)
    bench.settle()
    assert bench.lease() == [2]
    bench.ack(2)
    bench.settle()
    assert bench.lease() == [3]


# -- another life ------------------------------------------------------------------------------------


def test_another_life_begins_with_the_same_consumers_and_no_leases() -> None:
    bench = Bench("aa", "one", "two")
    old = bench.delivery
    items = old.lease("one", 1, 0)
    old.handed_out(items)
    old.ack(bench.tokens(1), 0, HEAD)
    old.take_settlement()
    bench.replica.reset("beginning")
    bench.delivery = new = old.anew(bench.replica.state)
    assert (new.consumers.names, new.delivered, new.in_flight) == (["one", "two"], 1, 0)
    new.offer(bench.rows, 2)
    assert bench.lease("one") == [1, 2]
    old.revert(0)
    old.give_back(items)
    assert new.consumers.leased("one") == 2
    assert (new.in_flight, new.waiting) == (2, 0)


def test_of_a_batch_that_runs_out_only_the_first_has_failed() -> None:
    """A consumer died of one event: its neighbours, which it never looked at, are not to be parked for it."""
    bench = Bench("aaa", max_retries=1)
    for _ in range(2):
        assert bench.lease() == [1, 2, 3]
        bench.later(30_000)
    bench.settle()
    assert bench.parked() == [1]
    assert [bench.delivery._window.get(at).failures for at in (2, 3)] == [0, 0]
    assert bench.lease() == [2, 3]
