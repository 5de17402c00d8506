"""The schedule of faults: the same from the same seed, complete, and no fault hides another."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.errors import ConfigError
from shoal_host.lab.schedule import BETWEEN_NODES, KINDS, Fault, choose_kinds, plan


@given(st.integers(0, 2**32), st.integers(1, 9), st.floats(30, 900))
def test_every_kind_comes_and_nothing_overlaps(seed, nodes, seconds) -> None:
    kinds = choose_kinds((), nodes)
    episodes = plan(seed, nodes, seconds, kinds)
    assert episodes == plan(seed, nodes, seconds, kinds)
    faults = [fault for episode in episodes for fault in episode.faults]
    assert {fault.kind for fault in faults} == set(kinds)
    assert all(fault.target is None or 0 <= fault.target < nodes for fault in faults)
    assert all(1 <= episode.hold_s < episode.end_s - episode.begin_s for episode in episodes)
    assert episodes[0].begin_s > 0
    assert episodes[-1].end_s <= seconds + 0.01
    for earlier, later in pairwise(episodes):
        assert earlier.end_s == pytest.approx(later.begin_s, abs=0.01)


@given(st.integers(0, 2**32))
def test_two_at_once_are_different_faults_of_different_nodes(seed) -> None:
    doubles = [episode.faults for episode in plan(seed, 3, 600, KINDS) if len(episode.faults) > 1]
    assert doubles
    for one, other in doubles:
        assert one.kind != other.kind
        assert None not in {one.target, other.target}
        assert one.target != other.target


def test_seeds_differ() -> None:
    assert plan(1, 3, 60, KINDS) != plan(2, 3, 60, KINDS)


def test_the_leader_is_hit_and_others_too() -> None:
    targets = {fault.target for episode in plan(1, 3, 900, KINDS) for fault in episode.faults}
    assert targets == {None, 0, 1, 2}


def test_one_node_has_no_network() -> None:
    assert set(choose_kinds((), 1)) == set(KINDS) - BETWEEN_NODES
    assert choose_kinds((), 3) == KINDS
    assert choose_kinds(("pause", "kill"), 1) == ("kill", "pause")


@pytest.mark.parametrize(
    ("wanted", "nodes", "advice"), [("fire", 3, "none of kill, pause"), ("cut", 1, "--nodes 3")]
)
def test_faults_that_cannot_be_are_refused(wanted, nodes, advice) -> None:
    with pytest.raises(ConfigError, match=advice):
        choose_kinds((wanted,), nodes)


def test_a_run_too_short_for_its_faults_is_refused() -> None:
    with pytest.raises(ConfigError, match="7 kinds of faults need at least 0"):
        plan(1, 3, 20, KINDS)
    assert plan(1, 3, 0.39 * 60, KINDS)


@pytest.mark.parametrize(
    ("fault", "shown"),
    [
        (Fault("kill", 0), "kill"),
        (Fault("one-way", 0, outwards=True), "one-way (what it sends is lost)"),
        (Fault("one-way", 0), "one-way (what is sent to it is lost)"),
        (Fault("delay", 0, amount_ms=60), "delay (60 ms each way)"),
        (Fault("slow-disk", 0, amount_ms=30), "slow-disk (30 ms a sync)"),
        (Fault("slow-disk", 0, amount_ms=3000, once=True), "slow-disk (one stall of 3000 ms)"),
    ],
)
def test_a_fault_says_what_it_is(fault, shown) -> None:
    assert str(fault) == shown
