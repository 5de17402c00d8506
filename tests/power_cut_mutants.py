"""Rules of storage broken on purpose. The power-cut suite must find each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import cycle
from typing import Any, cast

import pytest

from shoal.storage.database import Database
from shoal.storage.engine import Engine, Report, _remove_database
from shoal.storage.files import Files
from shoal.storage.subscriptions_db import SubscriptionsDb

Wrap = Callable[[Files], Files]


class _NoSync:
    """Files whose data sync does nothing."""

    def __init__(self, files: Files) -> None:
        self._files = files

    def __getattr__(self, name: str) -> Any:
        return getattr(self._files, name)

    def sync_data(self, fd: int) -> None:
        """Forget it."""


def _dropped_at_commit(commit: Callable[[Database, int, int], None]) -> Callable[[Database, int, int], None]:
    def mutant(self: Database, index: int, term: int) -> None:
        commit(self, index, term)
        self.durable_index = self.applied_index

    return mutant


def _applied_apart(self: Database, index: int, term: int) -> None:
    digest = self._digest  # the digest is kept right, so that only the rule itself is broken
    self.begin()
    self.put_meta(digest=digest())
    self.connection.execute("COMMIT")
    if index > self.applied_index:
        self.connection.execute("BEGIN IMMEDIATE")
        self.put_meta(applied_index=index, applied_term=term)
        self.put_meta(digest=digest())
        self.connection.execute("COMMIT")
        self.applied_index, self.applied_term = index, term
    self._open = False


def _every_other_time(flush: Callable[[SubscriptionsDb], None]) -> Callable[[SubscriptionsDb], None]:
    turns = cycle((True, False))

    def mutant(self: SubscriptionsDb) -> None:
        if next(turns):
            flush(self)

    return mutant


def _at_once(self: Engine) -> None:
    for dropped in self._dropped:
        _remove_database(self._files, dropped.path)
    self._dropped.clear()


def _first_remove(commit: Callable[[Engine], Report]) -> Callable[[Engine], Report]:
    def mutant(self: Engine) -> Report:
        self._remove_dropped()
        return commit(self)

    return mutant


MUTANTS = (
    "no fdatasync",
    "segment dropped at commit",
    "applied_index outside the transaction",
    "a subscription kept back over a commit",
    "a dropped store's file removed at once",
)


@contextmanager
def applied(name: str | None) -> Iterator[Wrap]:
    """Break the rule while a workload runs; gives what wraps the journal's files."""
    with pytest.MonkeyPatch.context() as patch:
        match name:
            case None:
                yield lambda files: files
            case "no fdatasync":
                yield lambda files: cast("Files", _NoSync(files))
            case "segment dropped at commit":
                patch.setattr(Database, "commit", _dropped_at_commit(Database.commit))
                yield lambda files: files
            case "applied_index outside the transaction":
                patch.setattr(Database, "commit", _applied_apart)
                yield lambda files: files
            case "a subscription kept back over a commit":
                patch.setattr(SubscriptionsDb, "flush", _every_other_time(SubscriptionsDb.flush))
                yield lambda files: files
            case "a dropped store's file removed at once":
                patch.setattr(Engine, "_remove_dropped", _at_once)
                patch.setattr(Engine, "commit", _first_remove(Engine.commit))
                yield lambda files: files
            case _:
                raise ValueError(name)
