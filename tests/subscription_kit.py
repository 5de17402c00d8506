"""Changes of subscriptions for the tests of storage, and plain dicts that say what they come to."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from shoal.model.commands import Definition, Parked
from shoal.model.machine import Head, RowsAppended, StoreState, StreamDeleted
from shoal.model.subscriptions import SubscriptionChanged, SubscriptionDeleted, SubscriptionState
from shoal.storage.store_db import StoreDb
from shoal.storage.verify_store import StoreVerifier, Verification
from shoal.types import SubscriptionOptions


def store_at(path: Path) -> StoreDb:
    """A store's file."""
    return StoreDb(path, cache_bytes=1 << 20)


def appended(stream: str, first: int, count: int) -> RowsAppended:
    """Events of a new stream, from position `first` on."""
    rows: list[Any] = [
        (stream, n, first + n, f"{stream}-{first + n}", "e", 1_000, b"data", None, None, None, None)
        for n in range(count)
    ]
    return RowsAppended(rows, [False] * count, [(stream, Head(count - 1))], 1_000)


def subscription(
    name: str, checkpoint: int = 0, *, life: int = 7, start_from: Any = "beginning", **fields: Any
) -> SubscriptionState:
    """A subscription to everything."""
    options = fields.pop("options", SubscriptionOptions())
    definition = Definition("all", b"{}", start_from)
    return SubscriptionState(name, life, definition, options, checkpoint, 7, 8, **fields)


def changed(name: str, state: SubscriptionState | None = None, **fields: Any) -> SubscriptionChanged:
    """A change of a subscription, which keeps its first state if none is given."""
    return SubscriptionChanged(state or subscription(name), **fields)


def parked(
    position: int, stream: str = "s", reason: str = "why", attempts: int = 2, *, replaying: bool = False
) -> Parked:
    """An event to park."""
    return Parked(position, stream, reason, attempts, replaying)


def verified(store: StoreDb) -> Verification:
    """What a verification of the committed file finds."""
    found = Verification()
    StoreVerifier(store.db.connection, "store main", found, lambda: None).verify(structure=True)
    return found


def problems(store: StoreDb) -> list[tuple[str, str]]:
    """Where, and what."""
    return [(problem.where, problem.what) for problem in verified(store).problems]


class Plain(NamedTuple):
    """States by name, and by name and position the attempts and the mark of what is replayed."""

    states: dict[str, SubscriptionState]
    parked: dict[str, dict[int, tuple[int, int]]]
    visible_from: dict[str, int]

    def copy(self) -> Plain:
        """An independent one."""
        return Plain(
            dict(self.states), {n: dict(rows) for n, rows in self.parked.items()}, dict(self.visible_from)
        )


def drained(store: StoreDb, history: Iterable[Any]) -> Plain:
    """Do all that to the store; what it must hold then. Streams are `s` (1-10) and `t` (11-20)."""
    now = Plain({}, {}, {"s": 1, "t": 11})
    saved = now.copy()
    for number, step in enumerate(history, 2):
        if step == "commit":
            store.commit(number, 1)
            saved = now.copy()
        elif step == "rollback":
            store.rollback()
            now = saved.copy()
        elif step == "flush":
            store.flush()
        else:
            store.apply([step], StoreState(20, 1_000))
            _take(now, step)
    return now


def _take(now: Plain, step: Any) -> None:
    if isinstance(step, StreamDeleted):
        first = 1 if step.stream_id == "s" else 11
        now.visible_from[step.stream_id] = first + step.head.visible_from
        for rows in now.parked.values():
            for at in [at for at in rows if first <= at < first + 10]:
                del rows[at]
    elif isinstance(step, SubscriptionDeleted):
        now.states.pop(step.name, None)
        now.parked.pop(step.name, None)
    else:
        _change(now, step)


def _change(now: Plain, step: SubscriptionChanged) -> None:
    rows = now.parked.setdefault(step.state.name, {})
    now.states[step.state.name] = step.state
    after = 99 if step.forget_after is None else step.forget_after
    for at in [at for at in rows if at > after or at in step.unpark]:
        del rows[at]
    for each in step.park:
        rows.pop(each.position, None)
        if each.position >= now.visible_from[each.stream_id]:
            rows[each.position] = (each.attempts, int(each.replaying))
    for at in step.replay:
        if at in rows:
            rows[at] = (rows[at][0], 1)
