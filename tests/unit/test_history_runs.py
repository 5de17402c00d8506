"""Histories of a true run are clean whatever the delays; each kind of damage to them is found."""

from __future__ import annotations

import random

import pytest
from history_kit import TrueStore
from hypothesis import assume, given
from hypothesis import strategies as st
from msgspec.structs import replace

from shoal.testing.history import History
from shoal.testing.history_checks import check


@given(st.integers(0, 2**32), st.integers(0, 60))
def test_a_true_run_is_clean(seed, count) -> None:
    assert check(TrueStore(random.Random(seed)).run(count)) == []


def lose(history, rng):
    """An acknowledged event is gone."""
    lost = rng.choice([event for op in history.appends if op.applied for event in op.events])
    return History(history.operations, [event for event in history.final if event.event_id != lost.event_id])


def double(history, rng):
    """An event is there again at the end."""
    twin = rng.choice(history.final)
    version = max(history.streams[twin.stream_id]) + 1
    again = replace(twin, version=version, position=len(history.final) + 1)
    return History(history.operations, [*history.final, again])


def alter(history, rng):
    """An event has another content."""
    number = rng.randrange(len(history.final))
    final = list(history.final)
    final[number] = replace(final[number], content="other")
    return History(history.operations, final)


def apply_refused(history, rng):
    """What was answered as not applied is there."""
    refused = rng.choice([op for op in history.appends if op.outcome == "not-applied"])
    event = refused.events[0]
    version = max(history.streams.get(event.stream_id, {-1: None})) + 1
    there = replace(event, version=version, position=len(history.final) + 1)
    return History(history.operations, [*history.final, there])


def swap_places(history, rng):
    """Two events that were acknowledged, one before the other, change places."""
    one, other = rng.sample([op for op in history.appends if op.applied and len(op.events) == 1], 2)
    first, second = one.events[0], other.events[0]
    places = {
        first.event_id: {"version": second.version, "position": second.position},
        second.event_id: {"version": first.version, "position": first.position},
    }
    assume(first.stream_id == second.stream_id)
    final = [replace(event, **places.get(event.event_id, {})) for event in history.final]
    return History(history.operations, sorted(final, key=lambda event: event.position))


def reordered_acks(history, rng):
    """An append began only after a later one was acknowledged."""
    acked = [op for op in history.operations if op.kind == "append" and op.applied]
    one, other = sorted(rng.sample(acked, 2), key=lambda op: op.position)
    late = replace(one, invoked_us=other.completed_us + 1, completed_us=other.completed_us + 9)
    return History([late if op is one else op for op in history.operations], history.final)


def stale_read(history, rng):
    """A linearizable read of all began only after a later append was acknowledged."""
    seen = rng.choice([op for op in history.operations if op.kind == "read_all"])
    later = [op for op in history.appends if op.applied and op.position > seen.position]
    assume(later)
    after = rng.choice(later).completed_us + 1
    late = replace(seen, invoked_us=after, completed_us=after + 5)
    return History([late if op is seen else op for op in history.operations], history.final)


def early_read(history, rng):
    """A read ended before what it saw began."""
    seen = rng.choice([op for op in history.operations if op.kind == "read" and op.version >= 0])
    event = history.streams[seen.stream_id][seen.version]
    begun = history.sent[event.event_id].first.invoked_us
    early = replace(seen, invoked_us=begun - 9, completed_us=begun - 1)
    return History([early if op is seen else op for op in history.operations], history.final)


def holed_read(history, rng):
    """A read left an event out."""
    seen = rng.choice([op for op in history.operations if op.kind != "append" and len(op.events) > 1])
    gone = rng.randrange(len(seen.events) - 1)
    holed = replace(seen, events=seen.events[:gone] + seen.events[gone + 1 :])
    return History([holed if op is seen else op for op in history.operations], history.final)


def unjustified_conflict(history, rng):
    """A conflict told a version that the stream never had meanwhile."""
    refused = rng.choice([op for op in history.operations if op.conflict])
    wrong = replace(refused, version=refused.version + 1_000)
    return History([wrong if op is refused else op for op in history.operations], history.final)


def forget_a_position(history, rng):
    """A position was left out."""
    after = rng.randrange(1, len(history.final))
    final = [replace(e, position=e.position + (e.position > after)) for e in history.final]
    return History(history.operations, final)


def misplace(history, rng):
    """An append stands elsewhere than behind the version it expected."""
    held = [op for op in history.appends if op.outcome != "not-applied" and op.expected_version >= -1]
    one = rng.choice([op for op in held if op.events[0].event_id in history.by_id])
    wrong = replace(one, expected_version=one.expected_version + 1)
    return History([wrong if op is one else op for op in history.operations], history.final)


MUTATIONS = [
    lose,
    double,
    alter,
    apply_refused,
    swap_places,
    reordered_acks,
    stale_read,
    early_read,
    holed_read,
    unjustified_conflict,
    forget_a_position,
    misplace,
]


@pytest.mark.parametrize("mutate", MUTATIONS)
@given(seed=st.integers(0, 2**32))
def test_damage_is_found(mutate, seed) -> None:
    rng = random.Random(seed)
    history = TrueStore(rng).run(80)
    try:
        damaged = mutate(history, rng)
    except (IndexError, ValueError):  # nothing of that kind in this run
        assume(False)
    assert check(damaged) != []
