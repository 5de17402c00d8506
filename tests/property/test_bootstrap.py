"""Bootstrap under everything a network, a disk and an operator do: no two groups share a board; healed, all begin."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import Any

from bootstrap_kit import Fleet
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from shoal.cluster.bootstrap import SETTLE_MS
from shoal.raft.log import Member

NAMES = "abcd"
names = st.sampled_from(NAMES)
numbers = st.integers(0, 10_000)


def identities(members: tuple[Member, ...]) -> frozenset[tuple[str, bytes]]:
    return frozenset((member.node_id, member.incarnation) for member in members)


class Fates(RuleBasedStateMachine):
    """Four boards, any expectation: messages are lost, doubled, late; boards crash, are wiped, meet, lose sight."""

    @initialize(expect=st.integers(2, 3), odd=st.none() | names)
    def begin(self, expect: int, odd: str | None) -> None:
        self.fleet = Fleet(*NAMES, expect=expect)
        if odd is not None:
            self.fleet.boards[odd].expect = 5 - expect
            self.fleet.boards[odd].crash()
        self.promised: set[tuple[tuple[str, bytes], tuple[Member, ...]]] = set()

    @rule(one=names, other=names)
    def meet(self, one: str, other: str) -> None:
        self.fleet.meet(one, other)

    @rule(group=st.sets(names, min_size=2, max_size=3))
    def see_only(self, group: set[str]) -> None:
        """The network is cut: these see each other, and nobody else."""
        for one in group:
            for other in NAMES:
                self.fleet.boards[one].machine.lost(other, self.fleet.now_ms)
            for other in sorted(group):
                self.fleet.meet(one, other)

    @rule(one=names, other=names)
    def lose_sight(self, one: str, other: str) -> None:
        self.fleet.boards[one].machine.lost(other, self.fleet.now_ms)

    @rule(name=names)
    def save(self, name: str) -> None:
        board = self.fleet.boards[name]
        board.save()
        if board.saved is not None:
            self.promised.add(((name, board.own.incarnation), board.saved.members))

    @rule(name=names)
    def send(self, name: str) -> None:
        self.fleet.send(name)

    @rule(stuck=st.sets(names), fates=st.lists(numbers, max_size=12))
    def work(self, stuck: set[str], fates: list[int]) -> None:
        """All do what they can, some with a disk that hangs, and some of what is under way arrives, in any order."""
        for name in NAMES:
            self.tick(name)
            if name not in stuck:
                self.save(name)
            self.send(name)
        for number in fates:
            if self.fleet.wire:
                self.fleet.deliver(number % len(self.fleet.wire), again=number % 5 == 4)

    @precondition(lambda self: self.fleet.wire)
    @rule(number=numbers, again=st.booleans())
    def deliver(self, number: int, again: bool) -> None:
        self.fleet.deliver(number % len(self.fleet.wire), again=again)

    @precondition(lambda self: self.fleet.wire)
    @rule(number=numbers)
    def drop(self, number: int) -> None:
        self.fleet.wire.pop(number % len(self.fleet.wire))

    @precondition(lambda self: self.fleet.wire)
    @rule()
    def deliver_all(self) -> None:
        for _ in range(len(self.fleet.wire)):
            self.fleet.deliver(0)

    @rule(name=names)
    def tick(self, name: str) -> None:
        self.fleet.now_ms += SETTLE_MS
        self.fleet.tick(name)

    @rule(name=names)
    def crash(self, name: str) -> None:
        self.fleet.boards[name].crash()

    @rule(name=names, file_stays=st.booleans())
    def wipe(self, name: str, file_stays: bool) -> None:
        """A new incarnation; the file stays where a journal was corrupt."""
        board = self.fleet.boards[name]
        saved = board.saved if file_stays else None
        board.wipe(name)
        board.saved = saved
        board.crash()

    @rule(
        group=st.sets(names, min_size=2, max_size=3),
        rounds=st.integers(1, 4),
        early=st.none() | names,
        late=st.none() | names,
        power=st.booleans(),
    )
    def nearly_begin(
        self, group: set[str], rounds: int, early: str | None, late: str | None, power: bool
    ) -> None:
        """A good stretch, up to some point; one board has another life before it, as only itself knows, or after it."""
        self.see_only(group)
        if early in group:
            self.fleet.boards[early].wipe(early)
            for other in sorted(group):
                self.fleet.meet(early, other)
        for _ in range(rounds):
            self.work(set(), [0] * 20)
        if power:
            for name in sorted(group):
                self.crash(name)
        if late in group:
            self.fleet.boards[late].wipe(late)

    @invariant()
    def no_two_groups_share_a_board(self) -> None:
        for one, other in combinations(self.fleet.begun, 2):
            assert not identities(one) & identities(other), "two groups share a board"

    @invariant()
    def a_group_begins_only_with_all_promises(self) -> None:
        for members in self.fleet.begun:
            for each in identities(members):
                assert (each, members) in self.promised, "begun without a durable promise"


TestFates = Fates.TestCase
TestFates.settings = settings(
    max_examples=400, stateful_step_count=40, suppress_health_check=[HealthCheck.too_slow]
)

Step = Callable[[Fleet], Any]


def _deliver(number: int, again: bool) -> Step:
    return lambda fleet: fleet.deliver(number % len(fleet.wire), again=again) if fleet.wire else None


def _drop(number: int) -> Step:
    return lambda fleet: fleet.wire.pop(number % len(fleet.wire)) if fleet.wire else None


def _board(name: str, what: str) -> Step:
    return lambda fleet: getattr(fleet.boards[name], what)()


steps: st.SearchStrategy[Step] = st.one_of(
    st.builds(_deliver, numbers, st.booleans()),
    st.builds(_drop, numbers),
    st.just(lambda fleet: [fleet.deliver(0) for _ in range(len(fleet.wire))]),
    st.builds(_board, st.sampled_from("abc"), st.sampled_from(["crash", "save"])),
    st.builds(lambda name: lambda fleet: fleet.send(name), st.sampled_from("abc")),
    st.builds(
        lambda one, other: lambda fleet: fleet.meet(one, other),
        st.sampled_from("abc"),
        st.sampled_from("abc"),
    ),
    st.just(lambda fleet: fleet.meet_all()),
    st.builds(lambda names: lambda fleet: _work(fleet, names), st.sets(st.sampled_from("abc"), min_size=1)),
)


def _work(fleet: Fleet, who: set[str]) -> None:
    """Some boards do what is due, and what they have to say is under way."""
    fleet.now_ms += SETTLE_MS
    for name in sorted(who):
        fleet.tick(name)
        fleet.boards[name].save()
        fleet.send(name)


@given(st.lists(steps, max_size=30))
def test_once_all_see_each_other_and_messages_flow_all_begin(history: list[Step]) -> None:
    fleet = Fleet("a", "b", "c")
    fleet.meet_all()
    for step in history:
        step(fleet)
    fleet.wire.clear()
    fleet.meet_all()
    fleet.settle()
    assert fleet.groups() == [["a", "b", "c"]] * 3
    assert len(fleet.begun) == 1
