"""Subscriptions as replicated state: what a command on one decides. See model/DESIGN.md.

A subscription lives from its creation or last reset: each such *life* has a number, and what was delivered in an
earlier one cannot settle anything in this one.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from shoal.errors import AlreadyExists, InvalidRequest, NotFound
from shoal.model.commands import (
    ChangeSubscription,
    CreateSubscription,
    Definition,
    DeleteSubscription,
    Parked,
    ReplayParked,
    ResetSubscription,
    Settle,
    SubscriptionCommand,
)
from shoal.types import Beginning, Subscription, SubscriptionOptions


class SubscriptionState(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Replicated state of a subscription, but for what it has parked.

    Every matching event up to `checkpoint` is settled, and those at the positions of `settled` (ascending, all
    beyond it). `attempts` are (position, failures) of unsettled events. `advanced_us` is the event time at which
    it last moved.
    """

    name: str
    life: int
    definition: Definition
    options: SubscriptionOptions
    checkpoint: int
    created_us: int
    advanced_us: int
    settled: tuple[int, ...] = ()
    attempts: tuple[tuple[int, int], ...] = ()

    @property
    def subscription(self) -> Subscription:
        """As its users see it."""
        return Subscription(
            self.name,
            self.definition.type,
            msgspec.json.decode(self.definition.selector),
            self.definition.start_from,
            self.options,
            self.checkpoint,
            self.created_us,
        )


class SubscriptionChanged(msgspec.Struct, frozen=True, gc=False):
    """A subscription's new state, and what happens to its parked events.

    `park` rows replace those of the same positions, `unpark` ones go, those at `replay` are delivered again, and
    with `forget_after` all beyond that position go first.
    """

    state: SubscriptionState
    park: list[Parked] = []
    unpark: list[int] = []
    replay: list[int] = []
    forget_after: int | None = None


class SubscriptionDeleted(msgspec.Struct, frozen=True, gc=False):
    """A subscription to remove, with its parked events."""

    name: str


SubscriptionChange = SubscriptionChanged | SubscriptionDeleted


class SubscriptionAnswer(msgspec.Struct, frozen=True, gc=False):
    """The answer to a command on a subscription: its state then, and whether the command made it."""

    state: SubscriptionState
    created: bool = False


Outcome = tuple[SubscriptionChange | None, SubscriptionAnswer]
"""What changes (None: nothing), and the answer."""


class Clocked(Protocol):
    """The part of a store's state that subscriptions read, and move."""

    position: int
    epoch_us: int


class SubscriptionView(Protocol):
    """What a decision may ask about subscriptions as of the command before."""

    def subscription(self, name: str) -> SubscriptionState | None:
        """The subscription of that name."""


def decide_subscription(
    state: Clocked, view: SubscriptionView, command: SubscriptionCommand, clock_us: int
) -> Outcome:
    """Decide one command. Raises AlreadyExists, NotFound, InvalidRequest."""
    if isinstance(command, Settle):
        return _settle(state, _known(view, command.name, command.life), command)
    match command:
        case CreateSubscription():
            return _create(state, view.subscription(command.name), command, clock_us)
        case ChangeSubscription():
            return _change(_meant(view, command), command)
        case DeleteSubscription():
            return _delete(_meant(view, command), command)
        case ReplayParked():
            known = _known(view, command.name, command.life)
            return SubscriptionChanged(known, replay=command.positions), SubscriptionAnswer(known)
        case ResetSubscription():
            return _reset(state, _meant(view, command), command, clock_us)


def subscription_not_found(name: str) -> NotFound:
    """What is raised for a name that no subscription has."""
    return NotFound(f"subscription {name!r} does not exist", subscription=name)


def _known(view: SubscriptionView, name: str, life: int | None = None) -> SubscriptionState:
    found = view.subscription(name)
    if found is None or life not in (None, found.life):
        raise subscription_not_found(name)
    return found


def _meant(
    view: SubscriptionView, command: ChangeSubscription | DeleteSubscription | ResetSubscription
) -> SubscriptionState:
    """Raises NotFound, also when another was made of the name since."""
    found = _known(view, command.name)
    if command.created_us not in (None, found.created_us):
        raise subscription_not_found(command.name)
    return found


def _start(state: Clocked, start_from: Beginning | int, pointer: str) -> int:
    if start_from == "beginning":
        return 0
    if start_from == "end":
        return state.position
    if start_from > state.position:
        raise InvalidRequest(
            f"position {start_from} is beyond the store's head, {state.position}", pointer=pointer
        )
    return start_from


def _new_life(state: Clocked, clock_us: int) -> int:
    """A number no life before has: the event time, which goes on so that the next one gets another."""
    state.epoch_us = max(state.epoch_us + 1, clock_us)
    return state.epoch_us


def _create(
    state: Clocked, known: SubscriptionState | None, command: CreateSubscription, clock_us: int
) -> Outcome:
    if known is not None:
        _check_same(known, command)
        return None, SubscriptionAnswer(known)
    checkpoint = _start(state, command.definition.start_from, "/start_from")
    life = _new_life(state, clock_us)
    made = SubscriptionState(command.name, life, command.definition, command.options, checkpoint, life, life)
    return SubscriptionChanged(made), SubscriptionAnswer(made, created=True)


def _check_same(known: SubscriptionState, command: CreateSubscription) -> None:
    mine, asked = known.definition, command.definition
    differs = [name for name in ("type", "selector") if getattr(mine, name) != getattr(asked, name)]
    if "start_from" in command.given and mine.start_from != asked.start_from:
        differs.append("start_from")
    differs += [
        name
        for name in command.given
        if name != "start_from" and getattr(known.options, name) != getattr(command.options, name)
    ]
    if differs:
        raise AlreadyExists(
            f"subscription {known.name!r} exists with another {', '.join(differs)}; {_way_out(differs)}",
            subscription=known.name,
            differs=differs,
        )


def _way_out(differs: list[str]) -> str:
    if differs[0] in ("type", "selector"):
        return "choose another name, or delete it first"
    if differs == ["start_from"]:
        return "leave start_from out, and reset it if it is to begin elsewhere"
    return "leave that out, or change its options"


def _change(known: SubscriptionState, command: ChangeSubscription) -> Outcome:
    given = {name: getattr(command.options, name) for name in command.given}
    changed = msgspec.structs.replace(known, options=msgspec.structs.replace(known.options, **given))
    return SubscriptionChanged(changed), SubscriptionAnswer(changed)


def _delete(known: SubscriptionState, command: DeleteSubscription) -> Outcome:
    if command.of_type not in (None, known.definition.type):
        raise subscription_not_found(command.name)
    return SubscriptionDeleted(command.name), SubscriptionAnswer(known)


def _reset(state: Clocked, known: SubscriptionState, command: ResetSubscription, clock_us: int) -> Outcome:
    to = _start(state, command.to, "/to")
    life = _new_life(state, clock_us)
    changed = msgspec.structs.replace(
        known, life=life, checkpoint=to, advanced_us=life, settled=(), attempts=()
    )
    return SubscriptionChanged(changed, forget_after=to), SubscriptionAnswer(changed)


def _settle(state: Clocked, known: SubscriptionState, command: Settle) -> Outcome:
    checkpoint = min(max(known.checkpoint, command.checkpoint), state.position)
    settled = {*known.settled, *command.settled}
    unsettled = range(checkpoint + 1, state.position + 1)  # no event beyond the head is anything yet
    done = tuple(sorted(position for position in settled if position in unsettled))
    failures = {**dict(known.attempts), **dict(command.attempts)}
    attempts = tuple(
        sorted(
            (at, count) for at, count in failures.items() if count and at in unsettled and at not in settled
        )
    )
    moved = checkpoint > known.checkpoint or done != known.settled
    changed = msgspec.structs.replace(
        known,
        checkpoint=checkpoint,
        settled=done,
        attempts=attempts,
        advanced_us=state.epoch_us if moved else known.advanced_us,
    )
    return SubscriptionChanged(changed, command.park, command.unpark), SubscriptionAnswer(changed)


def held_after(states: list[SubscriptionState], epoch_us: int) -> int | None:
    """The position after which events must be kept for `states`, None when nothing has to be.

    One that has not moved for longer than its `retention_hold_max_ms` holds nothing any more; `epoch_us` is the
    time of the store's last event.
    """
    holding = [state.checkpoint for state in states if holds(state, epoch_us)]
    return min(holding, default=None)


def holds(state: SubscriptionState, epoch_us: int) -> bool:
    """Whether the subscription still keeps unsettled events from scavenging."""
    longest = state.options.retention_hold_max_ms
    return longest is None or epoch_us - state.advanced_us <= longest * 1_000
