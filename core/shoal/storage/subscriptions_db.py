"""The subscriptions in a store's file: applying their changes, on the writer's connection.

All states are in memory, so that a busy subscription's row is written once per commit and replay asks no SQL.
What is parked is written at once: there may be more of it than fits memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from shoal.errors import DatabaseCorrupt
from shoal.model.commands import Definition, Parked
from shoal.model.subscriptions import (
    SubscriptionChange,
    SubscriptionDeleted,
    SubscriptionState,
)
from shoal.storage.chain import row_digest
from shoal.storage.database import Database
from shoal.types import SubscriptionOptions

SUBSCRIPTION_COLUMNS = (
    "name, life, type, selector, start_from, options, checkpoint, settled, attempts, created_us, advanced_us"
)
PARKED_COLUMNS = "subscription, position, stream, reason, attempts, replaying"
_PUT = (
    f"INSERT OR REPLACE INTO subscription ({SUBSCRIPTION_COLUMNS}, digest) VALUES (?,?,?,?,?,?,?,?,?,?,?,?)"  # noqa: S608 - constants
)
_PARK = (
    f"INSERT INTO parked ({PARKED_COLUMNS}, digest) SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7 WHERE EXISTS ("  # noqa: S608 - constants
    "SELECT 1 FROM event e JOIN stream s ON s.id = e.stream "
    "WHERE e.position = ?2 AND s.name = ?3 AND e.version >= s.visible_from AND s.tombstoned = 0)"
)
_AT = "subscription = ? AND position IN (SELECT value FROM json_each(?))"
_encode_json = msgspec.json.encode
_encode = msgspec.msgpack.encode
_decode_options = msgspec.json.Decoder(SubscriptionOptions).decode
_decode_settled = msgspec.msgpack.Decoder(tuple[int, ...]).decode
_decode_attempts = msgspec.msgpack.Decoder(tuple[tuple[int, int], ...]).decode


class SubscriptionsDb:
    """The subscriptions of one store. Changes go into the open transaction; one thread at a time."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self.states: dict[str, SubscriptionState] = {}
        self.parked_counts: dict[str, int] = {}
        self._unwritten: dict[str, SubscriptionState] = {}
        self.load()

    def load(self) -> None:
        """Read everything again, forgetting what is not written. Raises DatabaseCorrupt for a changed row."""
        execute = self._db.connection.execute
        self._unwritten.clear()
        try:
            rows = execute(f"SELECT {SUBSCRIPTION_COLUMNS}, digest FROM subscription")  # noqa: S608 - constants
            self.states = {state.name: state for state in map(self._checked, rows)}
        except (msgspec.MsgspecError, UnicodeDecodeError, AttributeError) as error:
            raise DatabaseCorrupt(
                f"{self._db.path}: a subscription is not what was stored: {error}"
            ) from error
        self.parked_counts = dict(execute("SELECT subscription, count(*) FROM parked GROUP BY subscription"))

    def _checked(self, row: Sequence[Any]) -> SubscriptionState:
        *fields, digest = row
        if row_digest(fields) != digest:
            raise DatabaseCorrupt(f"{self._db.path}: subscription {row[0]!r} is not what was stored")
        return state_of(fields)

    def apply(self, change: SubscriptionChange) -> None:
        """Put a change into the open transaction; a subscription's row waits for `flush`.

        What cannot be read any more is not parked: a delete of its stream came first.
        """
        if isinstance(change, SubscriptionDeleted):
            self._delete(change.name)
            return
        name = change.state.name
        self.states[name] = self._unwritten[name] = change.state
        if change.forget_after is not None:
            self._remove("subscription = ? AND position > ?", name, change.forget_after)
        gone = [*change.unpark, *(each.position for each in change.park)]
        if gone:
            self._remove(_AT, name, _encode_json(gone).decode())
        if change.park:
            self._park(name, change.park)
        if change.replay:
            self._replay(name, change.replay)

    def forget_stream(self, stream_id: str) -> None:
        """Remove what subscriptions have parked of a stream that is deleted."""
        if self.parked_counts:
            rows = self._db.connection.execute(
                "DELETE FROM parked WHERE stream = ? RETURNING subscription", (stream_id,)
            ).fetchall()
            for name, removed in Counter(str(name) for (name,) in rows).items():
                self._count(name, -removed)

    def flush(self) -> None:
        """Write the states that were kept back."""
        if self._unwritten:
            self._db.connection.executemany(_PUT, [stored(row_of(each)) for each in self._unwritten.values()])
            self._unwritten.clear()

    def _delete(self, name: str) -> None:
        self.states.pop(name, None)
        self._unwritten.pop(name, None)
        self._db.connection.execute("DELETE FROM subscription WHERE name = ?", (name,))
        self._remove("subscription = ?", name)

    def _remove(self, where: str, name: str, *arguments: Any) -> None:
        if name in self.parked_counts:
            connection = self._db.connection
            connection.execute(f"DELETE FROM parked WHERE {where}", (name, *arguments))  # noqa: S608 - our own conditions
            self._count(name, -connection.changes())

    def _park(self, name: str, rows: Iterable[Parked]) -> None:
        connection = self._db.connection
        before = connection.total_changes()
        last_of_each = {each.position: each for each in rows}
        connection.executemany(
            _PARK,
            [
                stored((name, each.position, each.stream_id, each.reason, each.attempts, int(each.replaying)))
                for each in last_of_each.values()
            ],
        )
        self._count(name, connection.total_changes() - before)

    def _replay(self, name: str, positions: list[int]) -> None:
        sql = f"SELECT {PARKED_COLUMNS} FROM parked WHERE {_AT}"  # noqa: S608 - constants
        rows = self._db.connection.execute(sql, (name, _encode_json(positions).decode())).fetchall()
        self._db.connection.executemany(
            "UPDATE parked SET replaying = 1, digest = ? WHERE subscription = ? AND position = ?",
            [(row_digest((*row[:-1], 1)), *row[:2]) for row in rows],
        )

    def _count(self, name: str, more: int) -> None:
        count = self.parked_counts.get(name, 0) + more
        if count:
            self.parked_counts[name] = count
        else:
            self.parked_counts.pop(name, None)


def stored(fields: tuple[Any, ...]) -> tuple[Any, ...]:
    """A row with its digest."""
    return (*fields, row_digest(fields))


def row_of(state: SubscriptionState) -> tuple[Any, ...]:
    """A subscription's row, in the order of SUBSCRIPTION_COLUMNS."""
    definition = state.definition
    return (
        state.name,
        state.life,
        definition.type,
        definition.selector.decode(),
        definition.start_from,
        _encode_json(state.options).decode(),
        state.checkpoint,
        _encode(state.settled),
        _encode(state.attempts),
        state.created_us,
        state.advanced_us,
    )


def state_of(row: Sequence[Any]) -> SubscriptionState:
    """The inverse of `row_of`. Raises MsgspecError for what is no subscription."""
    (
        name,
        life,
        kind,
        selector,
        start_from,
        options,
        checkpoint,
        settled,
        attempts,
        created_us,
        advanced_us,
    ) = row
    return SubscriptionState(
        name,
        life,
        Definition(kind, selector.encode(), start_from),
        _decode_options(options),
        checkpoint,
        created_us,
        advanced_us,
        _decode_settled(settled),
        _decode_attempts(attempts),
    )
