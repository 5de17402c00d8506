"""Subscriptions in the power-cut suite: a model of what each answer says, and commands drawn from it.

A command that is refused, or changes nothing, leaves the model alone.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import apsw
from msgspec import structs

from shoal.model.commands import (
    ChangeSubscription,
    Command,
    CreateSubscription,
    Definition,
    DeleteSubscription,
    Parked,
    ReplayParked,
    ResetSubscription,
    Settle,
)
from shoal.model.subscriptions import SubscriptionState
from shoal.storage.subscriptions_db import PARKED_COLUMNS, SUBSCRIPTION_COLUMNS, state_of
from shoal.types import Beginning, SubscriptionOptions

NAMES: Final = ("mail", "audit")
Draw = tuple[Command, Callable[[Any], None]]
"""A command on a subscription, and what takes its answer."""


class ParkedRow(NamedTuple):
    """An event that a subscription has put aside."""

    name: str
    position: int
    stream_id: str
    reason: str
    attempts: int
    replaying: bool


class Subscribed(NamedTuple):
    """All subscriptions and parked events, comparable."""

    states: frozenset[SubscriptionState] = frozenset()
    parked: frozenset[ParkedRow] = frozenset()


def read_subscribed(connection: apsw.Connection) -> Subscribed:
    """What a store's file has of them."""
    states = connection.execute(f"SELECT {SUBSCRIPTION_COLUMNS} FROM subscription")
    parked = connection.execute(f"SELECT {PARKED_COLUMNS} FROM parked")
    return Subscribed(
        frozenset(map(state_of, states)), frozenset(ParkedRow(*row[:-1], bool(row[-1])) for row in parked)
    )


class SubscriptionsModel:
    """What a store's subscriptions must be after each answer. Raises AssertionError for an answer that is wrong."""

    def __init__(self, found: Subscribed) -> None:
        self.states = {state.name: state for state in found.states}
        self.parked = {(row.name, row.position): row for row in found.parked}

    @property
    def now(self) -> Subscribed:
        """As it is now."""
        return Subscribed(frozenset(self.states.values()), frozenset(self.parked.values()))

    def created(self, answer: SubscriptionState) -> None:
        """Take a new subscription."""
        if answer.name in self.states:
            raise AssertionError(f"{answer.name} was made twice")
        self.states[answer.name] = answer

    def changed(self, name: str, options: SubscriptionOptions) -> None:
        """Take new options."""
        self.states[name] = structs.replace(self.states[name], options=options)

    def deleted(self, name: str) -> None:
        """Take a delete."""
        del self.states[name]
        self._keep(lambda row: row.name != name)

    def reset(self, answer: SubscriptionState, checkpoint: int) -> None:
        """Take a reset, which begins a later life."""
        before = self.states[answer.name]
        if answer.life <= before.life:
            raise AssertionError(f"life {answer.life} of {answer.name} follows {before.life}")
        self.states[answer.name] = structs.replace(
            before,
            life=answer.life,
            advanced_us=answer.advanced_us,
            checkpoint=checkpoint,
            settled=(),
            attempts=(),
        )
        self._keep(lambda row: row.name != answer.name or row.position <= checkpoint)

    def settled(self, command: Settle, answer: SubscriptionState, readable: Sequence[str | None]) -> None:
        """Take what was settled; `readable` has the stream of each position from 1 on, None if it is hidden."""
        before = self.states[command.name]
        if answer.advanced_us < before.advanced_us:
            raise AssertionError(f"the time of {command.name} went back")
        checkpoint = max(before.checkpoint, command.checkpoint)
        done = {*before.settled, *command.settled}
        attempts = {**dict(before.attempts), **dict(command.attempts)}
        self.states[command.name] = structs.replace(
            before,
            checkpoint=checkpoint,
            settled=tuple(sorted(at for at in done if at > checkpoint)),
            attempts=tuple(
                sorted((at, n) for at, n in attempts.items() if at > checkpoint and at not in done)
            ),
            advanced_us=answer.advanced_us,
        )
        self._keep(lambda row: row.name != command.name or row.position not in command.unpark)
        for row in command.park:
            self.parked.pop((command.name, row.position), None)
            if readable[row.position - 1] == row.stream_id:
                fields = (row.position, row.stream_id, row.reason, row.attempts, row.replaying)
                self.parked[command.name, row.position] = ParkedRow(command.name, *fields)

    def replayed(self, command: ReplayParked) -> None:
        """Take what is to be delivered again."""
        for at in command.positions:
            row = self.parked.get((command.name, at))
            if row is not None:
                self.parked[command.name, at] = row._replace(replaying=True)

    def forget_stream(self, stream_id: str) -> None:
        """Take the delete of a stream."""
        self._keep(lambda row: row.stream_id != stream_id)

    def _keep(self, wanted: Callable[[ParkedRow], bool]) -> None:
        self.parked = {key: row for key, row in self.parked.items() if wanted(row)}


class Draws:
    """Commands on the subscriptions of one store, as likely to be right as a consumer's."""

    def __init__(self, rng: random.Random, store: str, model: Any) -> None:
        self._rng = rng
        self._store = store
        self._model = model

    @property
    def _subscriptions(self) -> SubscriptionsModel:
        return self._model.subscriptions

    def draw(self) -> Draw:
        """A command; the model may have moved before its answer comes."""
        name = self._rng.choice(NAMES)
        known = self._subscriptions.states.get(name)
        if known is None:
            return self._create(name)
        choices = (
            (50, self._settle),
            (14, self._replay),
            (10, self._reset),
            (8, self._change),
            (8, self._delete),
        )
        (chosen,) = self._rng.choices([call for _, call in choices], [weight for weight, _ in choices])
        return chosen(known)

    def _position(self) -> int:
        return self._rng.randint(0, len(self._model.events))

    def _start(self) -> Beginning | int:
        starts: tuple[Beginning | int, ...] = ("beginning", "end", self._position())
        return self._rng.choice(starts)

    def _options(self) -> SubscriptionOptions:
        return SubscriptionOptions(max_retries=self._rng.randrange(9), ordered=self._rng.random() < 0.5)

    def _create(self, name: str) -> Draw:
        definition = Definition("all", b"{}", self._start())
        command = CreateSubscription(self._store, name, definition, self._options(), [])

        def accepted(answer: Any) -> None:
            if answer.created:
                self._same_start(answer.state.checkpoint, definition.start_from)
                self._subscriptions.created(answer.state)
                self._model.note()

        return command, accepted

    def _same_start(self, checkpoint: int, start_from: Beginning | int) -> None:
        wanted = {"beginning": 0, "end": len(self._model.events)}.get(str(start_from), start_from)
        if checkpoint != wanted:
            raise AssertionError(f"it begins after {checkpoint}, not {start_from}")

    def _settle(self, known: SubscriptionState) -> Draw:
        head = len(self._model.events)
        checkpoint = min(head, known.checkpoint + self._rng.choice((0, 0, 1, 3, 20)))
        beyond = range(checkpoint + 1, head + 1)
        failed = self._some(beyond, 2)
        command = Settle(
            self._store,
            known.name,
            known.life,
            checkpoint,
            self._some(beyond, 4),
            [self._parked(at) for at in self._some(range(1, head + 1), 3)],
            self._some([at for name, at in self._subscriptions.parked if name == known.name], 2),
            [(at, self._rng.randint(1, 9)) for at in failed],
        )

        def accepted(answer: Any) -> None:
            self._subscriptions.settled(command, answer.state, self._model.readable())
            self._model.note()

        return command, accepted

    def _some(self, candidates: Sequence[int], most: int) -> list[int]:
        return sorted(self._rng.sample(candidates, min(len(candidates), self._rng.randint(0, most))))

    def _parked(self, position: int) -> Parked:
        reason = f"failed {'x' * self._rng.choice((1, 200))}"
        stream_id = self._model.events[position - 1].stream_id
        return Parked(position, stream_id, reason, self._rng.randint(1, 9), self._rng.random() < 0.2)

    def _replay(self, known: SubscriptionState) -> Draw:
        mine = [at for name, at in self._subscriptions.parked if name == known.name]
        command = ReplayParked(self._store, known.name, known.life, [*self._some(mine, 5), self._position()])

        def accepted(_answer: Any) -> None:
            self._subscriptions.replayed(command)
            self._model.note()

        return command, accepted

    def _reset(self, known: SubscriptionState) -> Draw:
        command = ResetSubscription(self._store, known.name, self._start())

        def accepted(answer: Any) -> None:
            self._same_start(answer.state.checkpoint, command.to)
            self._subscriptions.reset(answer.state, answer.state.checkpoint)
            self._model.note()

        return command, accepted

    def _change(self, known: SubscriptionState) -> Draw:
        command = ChangeSubscription(
            self._store, known.name, self._options(), list(SubscriptionOptions.__struct_fields__)
        )

        def accepted(_answer: Any) -> None:
            self._subscriptions.changed(known.name, command.options)
            self._model.note()

        return command, accepted

    def _delete(self, known: SubscriptionState) -> Draw:
        def accepted(_answer: Any) -> None:
            self._subscriptions.deleted(known.name)
            self._model.note()

        return DeleteSubscription(self._store, known.name), accepted


def differences(wanted: Subscribed, found: Subscribed) -> Iterator[str]:
    """Lines that tell what is not as wanted."""
    yield f"  subscriptions not as answered: {_sorted(wanted.states ^ found.states)}"
    yield f"  parked not as answered: {_sorted(wanted.parked ^ found.parked)}"


def _sorted(things: Iterable[Any]) -> list[str]:
    return sorted(map(repr, things))[:6]
