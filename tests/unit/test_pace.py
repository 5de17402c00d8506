"""How long a member should be waited for: shoal.cluster.pace and the round trips it goes by."""

from __future__ import annotations

from shoal.cluster.dialler import RTT_SAMPLES, RoundTrips
from shoal.cluster.pace import FACTOR, FIRST_MS, SAMPLES, Pacemaker


def test_before_a_sync_is_measured_it_is_a_second() -> None:
    assert Pacemaker().election_timeout_ms == FIRST_MS


def test_a_single_stall_of_the_disk_does_not_count() -> None:
    pace = Pacemaker()
    for ms in (2, 3_000, 4):
        pace.synced(ms)
    assert pace.election_timeout_ms == FACTOR * 4


def test_a_slow_disk_counts_as_long_as_it_is_slow() -> None:
    pace = Pacemaker()
    for _ in range(3):
        pace.synced(100)
    assert pace.election_timeout_ms == FACTOR * 100
    for _ in range(SAMPLES):
        pace.synced(2)
    assert pace.election_timeout_ms == FACTOR * 2


def test_a_far_peer_counts_until_it_is_near_again() -> None:
    pace = Pacemaker()
    pace.synced(2)
    pace.trip_ms = 400
    assert pace.election_timeout_ms == FACTOR * 400
    pace.trip_ms = 1
    assert pace.election_timeout_ms == FACTOR * 2


def test_one_slow_ping_does_not_count_and_a_few_are_forgotten_in_seconds() -> None:
    trips = RoundTrips()
    now_ms = 0
    for trip_ms in (1, 400, 1):
        trips.answered(trips.sent(now_ms), now_ms + trip_ms)
    assert trips.high_ms() == 1
    trips.answered(trips.sent(now_ms), now_ms + 400)
    assert trips.high_ms() == 400
    for _ in range(RTT_SAMPLES - 1):
        trips.answered(trips.sent(now_ms), now_ms + 1)
    assert trips.high_ms() == 1
