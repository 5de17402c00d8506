"""`shoal subscribe` on a consumer whose acks a test answers: when it acks, and acks that come too late."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import pytest
from cli_kit import Recorder, run

from shoal.errors import LeaseExpired, NotFound, ShoalError, Unreachable
from shoal.types import Delivered, Strategy, Subscription, SubscriptionOptions, SubscriptionStats
from shoal_host.options import Target

NOBODY = Target((), None, "main")
"""Its `on_tail` is the one that tells nobody."""


class Scripted(Recorder):
    """A store whose one subscription delivers events 1, 2, 3, ...; acks and flushes are answered by `answers`."""

    def __init__(self, answers: Sequence[ShoalError | None], *, found: ShoalError | None = None) -> None:
        super().__init__()
        self.subscriptions = self
        self.acked: list[tuple[int, str]] = []
        self._answers = list(answers)
        self._found = found
        self._next = 0
        self.strategy: Strategy = "single"
        self.others: list[str] = []

    async def get(self, name: str) -> Subscription:
        if self._found is not None:
            raise self._found
        options = SubscriptionOptions(strategy=self.strategy)
        return Subscription(name, "all", None, "beginning", options, 0, 0)

    async def stats(self, name: str) -> SubscriptionStats:
        return SubscriptionStats(name, 0, 9, 9, 0, 0, 0, 0, 0, self.others, None)

    def subscribe(self, *_definition: Any, **_options: Any) -> Any:
        return self

    def __aiter__(self) -> Scripted:
        return self

    async def __anext__(self) -> Delivered:
        self._next += 1
        return Delivered("s", self._next, self._next, "e", "t", 0, b"1", lease="L")

    async def ack(self, event: Delivered) -> None:
        printed = sys.stdout.buffer.getvalue().decode()  # type: ignore[attr-defined]
        self.acked.append((event.position, printed.splitlines()[-1]))
        self._answer()

    async def flush(self) -> None:
        self._answer()

    def _answer(self) -> None:
        error = self._answers.pop(0)
        if error is not None:
            raise error


def test_an_event_is_acked_once_it_is_written_and_flushed() -> None:
    store = Scripted([None, None, None])
    run("subscribe", "sub", "--count", "2", store=store)
    assert [(position, f"s@{position}" in line) for position, line in store.acked] == [(1, True), (2, True)]


@pytest.mark.parametrize(("options", "told"), [((), 2), (("--json",), 0)])
def test_acks_that_came_too_late_are_told_and_it_goes_on(options: tuple[str, ...], told: int) -> None:
    late = LeaseExpired("2 acked events were not leased any more, and come again")
    store = Scripted([late, None, late])
    result = run("subscribe", "sub", "--count", "2", *options, store=store)
    assert (result.exit_code, len(result.stdout.splitlines())) == (0, 2)
    assert result.stderr.splitlines() == [f"shoal: {late.detail}"] * told


def test_an_ack_that_fails_otherwise_ends_it() -> None:
    result = run("subscribe", "sub", store=Scripted([Unreachable("no board answered")]))
    assert (result.exit_code, "no board answered" in result.stderr) == (5, True)


def test_a_missing_store_is_not_taken_for_a_missing_subscription() -> None:
    result = run("subscribe", "sub", store=Scripted([], found=NotFound("there is no store 'x'", store="x")))
    assert (result.exit_code, "no store" in result.stderr) == (4, True)


@pytest.mark.parametrize(("options", "told"), [((), True), (("--json",), False)])
def test_a_lost_board_is_told_to_people_only(options: tuple[str, ...], told: bool) -> None:
    store = Scripted([None] * 2)
    run("subscribe", "sub", "--count", "1", *options, store=store)
    (target,) = store.targets
    assert (target.on_tail is not NOBODY.on_tail) is told


@pytest.mark.parametrize(
    ("others", "strategy", "options", "told"),
    [
        (
            ["fir\x1bst", "second"],
            "single",
            (),
            ["shoal: fir\\x1bst consumes sub; events come here when it is gone"],
        ),
        ([], "single", (), []),
        (["first"], "round_robin", (), []),
        (["first"], "single", ("--json",), []),
        (["first"], "single", ("--consumer", "first"), []),
    ],
)
def test_whoever_will_see_nothing_for_now_is_told_why(
    others: list[str], strategy: Strategy, options: tuple[str, ...], told: list[str]
) -> None:
    store = Scripted([None] * 2)
    store.others, store.strategy = others, strategy
    result = run("subscribe", "sub", "--count", "1", *options, store=store)
    assert (result.exit_code, result.stderr.splitlines()) == (0, told)
