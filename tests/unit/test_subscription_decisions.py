"""What a command on a subscription decides."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from delivery_kit import DEFINITION, NAME, state_of

from shoal.errors import AlreadyExists, InvalidRequest, NotFound
from shoal.model.commands import (
    ChangeSubscription,
    CreateSubscription,
    DeleteSubscription,
    Parked,
    ReplayParked,
    ResetSubscription,
    Settle,
)
from shoal.model.subscriptions import (
    SubscriptionDeleted,
    SubscriptionState,
    decide_subscription,
    held_after,
    holds,
)
from shoal.types import SubscriptionOptions

CLOCK = 5_000


class Store:
    """A store's clock and head, with at most one subscription."""

    def __init__(
        self, known: SubscriptionState | None = None, position: int = 100, epoch_us: int = 50
    ) -> None:
        self.known, self.position, self.epoch_us = known, position, epoch_us

    def subscription(self, name: str) -> SubscriptionState | None:
        return self.known if self.known and name == self.known.name else None

    def decide(self, command: Any, clock_us: int = CLOCK) -> Any:
        return decide_subscription(self, self, command, clock_us)


def create(start_from: Any = "beginning", given: tuple[str, ...] = (), **options: Any) -> CreateSubscription:
    definition = msgspec.structs.replace(DEFINITION, start_from=start_from)
    return CreateSubscription("store", NAME, definition, SubscriptionOptions(**options), list(given))


def settle(life: int = 1, checkpoint: int = 0, *rest: Any) -> Settle:
    return Settle("store", NAME, life, checkpoint, *rest)


# -- creating ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("start_from", "checkpoint"), [("beginning", 0), ("end", 100), (7, 7), (100, 100)])
def test_a_subscription_begins_where_it_was_asked_to(start_from: Any, checkpoint: int) -> None:
    change, answer = Store().decide(create(start_from, max_retries=3))
    assert answer.created
    assert change.state == answer.state
    made = answer.state
    assert (made.checkpoint, made.settled, made.attempts, made.options.max_retries) == (checkpoint, (), (), 3)
    assert made.definition.start_from == start_from


def test_it_cannot_begin_beyond_the_head() -> None:
    with pytest.raises(InvalidRequest) as caught:
        Store().decide(create(101))
    assert caught.value.facts["pointer"] == "/start_from"


def test_lives_have_numbers_of_their_own_and_time_goes_on() -> None:
    store = Store(epoch_us=9_000)
    lives = [store.decide(create(), clock_us=1)[1].state.life for _ in range(3)]
    assert lives == [9_001, 9_002, 9_003]
    assert store.decide(create(), clock_us=20_000)[1].state.life == store.epoch_us == 20_000


def test_the_same_again_is_what_is_there() -> None:
    known = state_of(7, max_retries=3)
    for command in (create(), create("beginning", ("start_from",)), create(7, (), max_retries=9)):
        change, answer = Store(known).decide(command)
        assert (change, answer.state, answer.created) == (None, known, False)
    change, _ = Store(known).decide(create("beginning", ("max_retries",), max_retries=3))
    assert change is None


@pytest.mark.parametrize(
    ("command", "differs"),
    [
        (create("end", ("start_from",)), ["start_from"]),
        (create("beginning", ("max_retries", "ordered"), max_retries=4), ["max_retries"]),
        (
            CreateSubscription("store", NAME, msgspec.structs.replace(DEFINITION, type="tags", selector=b"[]"),
                               SubscriptionOptions(), []),
            ["type", "selector"],
        ),
    ],
)  # fmt: skip
def test_another_of_the_name_is_refused(command: CreateSubscription, differs: list[str]) -> None:
    with pytest.raises(AlreadyExists) as caught:
        Store(state_of(max_retries=3)).decide(command)
    assert caught.value.facts["differs"] == differs


# -- changing and deleting ---------------------------------------------------------------------------


def test_options_change_and_nothing_else_does() -> None:
    """Not those either that were not given: somebody else may have changed them since they were looked at."""
    known = state_of(7)
    sent = SubscriptionOptions(ordered=True, max_retries=99, ack_timeout_ms=1)
    change, answer = Store(known).decide(ChangeSubscription("store", NAME, sent, ["ordered"]))
    assert (
        change.state
        == answer.state
        == msgspec.structs.replace(known, options=SubscriptionOptions(ordered=True))
    )


@pytest.mark.parametrize("of_type", [None, "all"])
def test_a_subscription_is_deleted_with_its_type_or_without(of_type: Any) -> None:
    change, _ = Store(state_of()).decide(DeleteSubscription("store", NAME, of_type))
    assert change == SubscriptionDeleted(NAME)


@pytest.mark.parametrize(
    "command",
    [
        DeleteSubscription("store", NAME, "tags"),
        DeleteSubscription("store", "other"),
        ChangeSubscription("store", "other", SubscriptionOptions(), []),
        ResetSubscription("store", "other", 0),
        DeleteSubscription("store", NAME, None, 6),
        ChangeSubscription("store", NAME, SubscriptionOptions(), [], 8),
        ResetSubscription("store", NAME, 0, 6),
        ReplayParked("store", NAME, 2, [1]),
        settle(life=2),
        settle(life=0),
    ],
)
def test_what_is_not_there_is_not_found(command: Any) -> None:
    with pytest.raises(NotFound):
        Store(state_of()).decide(command)


# -- settling ----------------------------------------------------------------------------------------


def settled(known: SubscriptionState, *command: Any) -> SubscriptionState:
    change, answer = Store(known).decide(settle(1, *command))
    assert change.state == answer.state
    return answer.state  # type: ignore[no-any-return]


def test_the_checkpoint_never_moves_back_nor_beyond_the_head() -> None:
    known = state_of(7)
    assert [settled(known, at).checkpoint for at in (3, 7, 8, 100, 101)] == [7, 7, 8, 100, 100]


def test_what_is_settled_beyond_the_checkpoint_is_remembered_until_it_gets_there() -> None:
    known = settled(state_of(1), 1, [9, 3])
    assert known.settled == (3, 9)
    known = settled(known, 1, [5, 3, 101])
    assert known.settled == (3, 5, 9)
    assert settled(known, 5).settled == (9,)


def test_failures_are_kept_while_their_events_are_not_settled() -> None:
    known = settled(state_of(), 0, [], [], [], [(2, 1), (3, 1), (4, 1), (5, 1), (101, 1)])
    assert known.attempts == ((2, 1), (3, 1), (4, 1), (5, 1))
    known = settled(known, 2, [4], [], [], [(3, 2), (5, 0)])
    assert known.attempts == ((3, 2),)


def test_what_is_parked_and_unparked_is_passed_on() -> None:
    parked = [Parked(3, "s", "bad", 2)]
    change, _ = Store(state_of()).decide(settle(1, 0, [3], parked, [2]))
    assert (change.park, change.unpark, change.replay, change.forget_after) == (parked, [2], [], None)


@pytest.mark.parametrize(
    ("command", "moves"),
    [((8,), True), ((7, [9]), True), ((7,), False), ((3,), False), ((7, [], [], [], [(9, 1)]), False)],
)
def test_only_what_moves_it_counts_as_progress(command: tuple[Any, ...], moves: bool) -> None:
    assert settled(state_of(7), *command).advanced_us == (50 if moves else 1)


# -- replaying and resetting -------------------------------------------------------------------------


def test_a_replay_changes_nothing_but_what_is_parked() -> None:
    known = settled(state_of(7), 7, [9])
    change, answer = Store(known).decide(ReplayParked("store", NAME, 1, [3, 4]))
    assert (change.state, answer.state, change.replay) == (known, known, [3, 4])


@pytest.mark.parametrize(("to", "checkpoint"), [("beginning", 0), ("end", 100), (3, 3)])
def test_a_reset_begins_another_life(to: Any, checkpoint: int) -> None:
    known = settled(state_of(7), 7, [9], [], [], [(8, 1)])
    change, answer = Store(known).decide(ResetSubscription("store", NAME, to))
    state = answer.state
    assert change.forget_after == state.checkpoint == checkpoint
    assert (state.life, state.advanced_us, state.created_us) == (CLOCK, CLOCK, 1)
    assert (state.settled, state.attempts) == ((), ())


def test_a_reset_does_not_go_beyond_the_head() -> None:
    with pytest.raises(InvalidRequest) as caught:
        Store(state_of()).decide(ResetSubscription("store", NAME, 101))
    assert caught.value.facts["pointer"] == "/to"


# -- holding back what would be scavenged ------------------------------------------------------------


def test_events_are_kept_from_where_the_last_subscription_is() -> None:
    assert held_after([], 0) is None
    assert held_after([state_of(7), state_of(3)], 10**15) == 3


def test_one_that_has_not_moved_for_too_long_holds_nothing() -> None:
    slow = state_of(3, retention_hold_max_ms=2)
    assert holds(slow, 2_001)
    assert not holds(slow, 2_002)
    assert held_after([slow, state_of(7)], 2_001) == 3
    assert held_after([slow, state_of(7)], 2_002) == 7
    assert held_after([slow], 2_002) is None
