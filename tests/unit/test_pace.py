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


def measured(*trips_ms: int) -> RoundTrips:
    trips = RoundTrips()
    for trip_ms in trips_ms:
        trips.answered(trips.sent(0), trip_ms)
    return trips


def test_stalls_do_not_count_and_a_slow_network_does_while_it_is_slow() -> None:
    fast = [1] * RTT_SAMPLES
    assert RoundTrips().usual_ms() is None
    assert measured(3).usual_ms() == 3
    assert measured(*fast, 3_000, 2_000).usual_ms() == 1
    slow = measured(*fast, *[400] * (RTT_SAMPLES // 2))
    assert slow.usual_ms() == 400
    for _ in range(RTT_SAMPLES):
        slow.answered(slow.sent(0), 1)
    assert slow.usual_ms() == 1


def test_one_stall_is_measured_once_however_long_it_is() -> None:
    trips = RoundTrips()
    first = trips.sent(0)
    assert [trips.sent(ms) for ms in (1_000, 2_000)] == [0, 0]
    trips.answered(0, 2_900)
    assert trips.usual_ms() is None
    trips.answered(first, 3_000)
    assert trips.usual_ms() == 3_000


def test_a_ping_that_went_with_its_connection_is_not_waited_for() -> None:
    trips = RoundTrips()
    lost = trips.sent(0)
    trips.broken()
    following = trips.sent(9_000)
    trips.answered(lost, 9_001)
    trips.answered(following, 9_002)
    assert trips.usual_ms() == 2
