"""The client's rules for trying again: pauses, what may be repeated, which board is asked."""

import pytest

from shoal.client.boards import Boards
from shoal.client.retry import Effect, RetryPolicy, may_repeat, settle
from shoal.errors import (
    ConditionFailed,
    DiskFull,
    Forbidden,
    ShoalError,
    Timeout,
    TooBusy,
    Unreachable,
    WrongExpectedVersion,
)

CONFLICT = WrongExpectedVersion("s", 1, 2)


def test_pauses_double_up_to_the_most_and_half_of_each_is_chance() -> None:
    policy = RetryPolicy(base_ms=100, max_ms=1_000)
    longest = [policy.pause_ms(failures, lambda: 1.0) for failures in range(1, 8)]
    shortest = [policy.pause_ms(failures, lambda: 0.0) for failures in range(1, 8)]
    assert longest == [100, 200, 400, 800, 1_000, 1_000, 1_000]
    assert shortest == [50, 100, 200, 400, 500, 500, 500]


def test_many_failures_do_not_overflow_the_pause() -> None:
    assert RetryPolicy(max_ms=700).pause_ms(10_000, lambda: 1.0) == 700


@pytest.mark.parametrize("effect", Effect)
@pytest.mark.parametrize("error", [CONFLICT, ConditionFailed(3), Forbidden("no")])
def test_what_another_try_cannot_mend_is_never_repeated(error: ShoalError, effect: Effect) -> None:
    assert not may_repeat(error, effect)


@pytest.mark.parametrize("effect", Effect)
@pytest.mark.parametrize("error", [TooBusy(), DiskFull(), Unreachable()])
def test_what_was_certainly_not_applied_is_repeated(error: ShoalError, effect: Effect) -> None:
    assert may_repeat(error, effect)


@pytest.mark.parametrize(
    ("effect", "repeated"), [(Effect.NONE, True), (Effect.KEYED, True), (Effect.ONCE, False)]
)
def test_what_may_have_been_applied_is_repeated_only_when_that_is_harmless(
    effect: Effect, repeated: bool
) -> None:
    assert may_repeat(Timeout(outcome="unknown"), effect) is repeated


def test_what_was_applied_is_never_repeated() -> None:
    assert not may_repeat(Timeout(outcome="applied"), Effect.KEYED)


def test_an_earlier_unknown_outcome_makes_the_final_one_unknown() -> None:
    assert settle(Unreachable(), Effect.KEYED, unknown_before=True).outcome == "unknown"
    assert settle(Forbidden("no"), Effect.KEYED, unknown_before=True).outcome == "unknown"


def test_a_conflict_decides_the_outcome_because_ids_are_looked_up_first() -> None:
    assert settle(CONFLICT, Effect.KEYED, unknown_before=True).outcome == "not-applied"


def test_a_condition_does_not_decide_the_outcome_because_what_it_matches_may_be_deleted() -> None:
    assert settle(ConditionFailed(3), Effect.KEYED, unknown_before=True).outcome == "unknown"
    assert settle(ConditionFailed(3), Effect.KEYED, unknown_before=False).outcome == "not-applied"


def test_a_read_has_nothing_to_apply() -> None:
    assert settle(Timeout(outcome="unknown"), Effect.NONE, unknown_before=True).outcome == "not-applied"


def test_boards_take_turns() -> None:
    boards = Boards(["a", "b", "c"])
    assert [boards.pick(0).url for _ in range(5)] == ["a", "b", "c", "a", "b"]


def test_a_failed_board_rests_longer_with_each_failure_and_comes_back() -> None:
    boards = Boards(["a", "b"], rest_ms=100, max_rest_ms=150)
    first = boards.pick(0)
    boards.failed(first, 0)
    assert [boards.pick(now).url for now in (1, 50, 99)] == ["b", "b", "b"]
    assert boards.pick(100).url == "a"
    boards.failed(first, 100)
    assert {boards.pick(249).url, boards.pick(249).url} == {"b"}
    assert "a" in {boards.pick(250).url, boards.pick(250).url}


def test_an_answer_ends_the_rest() -> None:
    boards = Boards(["a", "b"])
    first = boards.pick(0)
    boards.failed(first, 0)
    boards.answered(first)
    assert {boards.pick(0).url, boards.pick(0).url} == {"a", "b"}


def test_when_all_rest_the_one_that_wakes_first_is_asked() -> None:
    boards = Boards(["a", "b"])
    one, other = boards.pick(0), boards.pick(0)
    boards.failed(one, 0)
    boards.failed(other, 10)
    assert boards.pick(20) is one
    assert not boards.fresh(20, set())


def test_a_board_that_was_not_asked_in_this_call_comes_first() -> None:
    boards = Boards(["a", "b"])
    tried = {boards.pick(0)}
    assert boards.fresh(0, tried)
    boards.pick(0)
    assert boards.pick(0, tried).url == "b"
