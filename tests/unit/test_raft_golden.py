"""Conversations as they should be, word for word: tests/golden/*.txt. SHOAL_RECORD_GOLDEN=1 writes them anew."""

from __future__ import annotations

import os
from collections.abc import Callable
from difflib import unified_diff
from pathlib import Path

import pytest
from raft_kit import Cluster, led_by_a, member

from shoal.raft.membership import with_learner, with_voter
from shoal.raft.messages import Append, Appended

GOLDEN = Path(__file__).parents[1] / "golden"


def election_of_three() -> Cluster:
    """Pre-vote, vote, and the no-op that begins a term."""
    cluster = Cluster()
    cluster.elect("A")
    cluster.due("A")
    cluster.deliver()
    return cluster


def append() -> Cluster:
    """A command: sent while the leader's own disk writes, committed by a quorum, told with what comes next."""
    cluster = fresh(led_by_a())
    cluster.slow.add("A")
    cluster.propose("A")
    cluster.deliver()
    cluster.persist("A")
    cluster.due("A")
    cluster.deliver()
    return cluster


def leader_dies() -> Cluster:
    """The others wait for a timeout, elect one of them, and the old leader follows when it is back."""
    cluster = fresh(led_by_a())
    cluster.propose("A")
    cluster.deliver()
    cluster.crash("A")
    cluster.elect("B")
    cluster.restart("A")
    cluster.due("B")
    cluster.deliver()
    return cluster


def divergent_log() -> Cluster:
    """A leader that was cut off comes back with entries that nobody acknowledged."""
    cluster = led_by_a()
    cluster.cut("A")
    for _ in range(3):
        cluster.propose("A")
    cluster.elect("B")
    cluster.propose("B")
    cluster.deliver()
    fresh(cluster)
    cluster.heal()
    cluster.due("B")
    cluster.deliver()
    return cluster


def figure_8() -> Cluster:
    """Paper 5.4.2: a majority holds 2/2, A does not commit it in term 4, and E replaces it in term 5."""
    cluster = Cluster("ABCDE", logs={"A": [2], "B": [2], "C": [2], "E": [3]}, terms=dict.fromkeys("ABCDE", 3))
    cluster.due("A")
    cluster.deliver(rounds=4)
    fresh(cluster)
    cluster.take()
    cluster.due("A")
    for name in "BC":
        cluster.deliver(Append, to=name)
    cluster.deliver(Appended)
    cluster.crash("A")
    cluster.take()
    for _ in range(2):
        cluster.elect("E")
    cluster.due("E")
    cluster.deliver()
    return cluster


def one_becomes_three() -> Cluster:
    """Each new board learns first, and then votes."""
    cluster = Cluster("A")
    cluster.elect("A")
    fresh(cluster)
    for name in "BC":
        cluster.stranger(name)
        cluster.change("A", with_learner(cluster["A"].configuration, member(name)))
        for _ in range(2):
            cluster.due("A")
            cluster.deliver()
        cluster.change("A", with_voter(cluster["A"].configuration, name))
        cluster.deliver()
    return cluster


def transfer() -> Cluster:
    """The target is brought up to date, told, and elected though all hear the leader."""
    cluster = fresh(led_by_a())
    cluster.propose("A")
    late = cluster.take(Append, to="B")
    cluster["A"].transfer("B", cluster.now_ms)
    cluster.transcript.note(cluster.now_ms, "A is asked to hand over to B")
    cluster.deliver()
    for sent in late:
        cluster.step(sent)
    cluster.deliver()
    return cluster


def read_through_a_follower() -> Cluster:
    """Leader and asker are a quorum: that B still asks A confirms it, and A names the index at once."""
    return reads_of_b("ABC")


def read_through_a_follower_of_five() -> Cluster:
    """The leader has itself confirmed by a quorum, and names the index."""
    return reads_of_b("ABCDE")


def reads_of_b(names: str) -> Cluster:
    cluster = fresh(led_by_a(names))
    cluster.read("B", 1)
    cluster.deliver()
    cluster.transcript.note(cluster.now_ms, f"B serves {cluster.boards['B'].reads}")
    return cluster


def fresh(cluster: Cluster) -> Cluster:
    """Leave out how it came so far."""
    cluster.transcript.lines.clear()
    return cluster


SCENES = (
    election_of_three,
    append,
    leader_dies,
    divergent_log,
    figure_8,
    one_becomes_three,
    transfer,
    read_through_a_follower,
    read_through_a_follower_of_five,
)


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_conversation(scene: Callable[[], Cluster]) -> None:
    cluster = scene()
    told = "\n".join([f"{scene.__doc__}", "", *cluster.transcript.lines, ""])
    path = GOLDEN / f"{scene.__name__}.txt"
    if os.environ.get("SHOAL_RECORD_GOLDEN"):
        path.write_text(told, encoding="utf-8")
    known = path.read_text(encoding="utf-8")
    assert told == known, "\n".join(unified_diff(known.splitlines(), told.splitlines(), "known", "now"))


def test_each_conversation_is_one_of_these() -> None:
    assert {path.stem for path in GOLDEN.glob("*.txt")} == {scene.__name__ for scene in SCENES}
