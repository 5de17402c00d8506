"""Options that change while events are leased."""

from __future__ import annotations

from delivery_kit import Bench

from shoal.types import SubscriptionOptions

HEAD = 1_000


def test_options_change_what_is_next() -> None:
    bench = Bench("abab", "one", "two", strategy="round_robin", max_in_flight=2)
    bench.lease("one", 1)
    bench.lease("two", 1)
    bench.delivery.change(SubscriptionOptions(strategy="by_stream", max_in_flight=4))
    assert bench.lease("two") == [4]
    assert bench.lease("one") == [3]


def test_a_stream_that_two_hold_after_a_change_goes_to_neither() -> None:
    bench = Bench("aaa", "one", "two", strategy="round_robin")
    bench.lease("one", 1)
    bench.lease("two", 1)
    bench.ack(1)
    bench.delivery.change(SubscriptionOptions(strategy="by_stream"))
    assert bench.lease("one") == bench.lease("two") == []
    bench.settle()
    assert bench.lease("one") == []
    assert bench.lease("two") == [3]


def test_order_can_be_asked_for_later() -> None:
    bench = Bench("aaab")
    bench.lease(count=1)
    bench.nack(1, delay_ms=100)
    bench.delivery.change(SubscriptionOptions(ordered=True))
    assert bench.lease() == [4]
    bench.later(100)
    assert bench.lease() == [1, 2, 3]
    bench.nack(1, delay_ms=100)
    bench.delivery.change(SubscriptionOptions())
    assert bench.lease() == [2, 3]
