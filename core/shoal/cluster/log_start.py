"""With what a log begins, and what the core must know of one that is there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from shoal.cluster.ports import Log, LoggedEntry
from shoal.errors import ConfigError
from shoal.raft.entries import LogStart
from shoal.raft.log import Configuration, Kind, Member
from shoal.raft.messages import Entry


def read_start(log: Log, applied: int | None) -> LogStart:
    """Of a log whose entries up to `applied` are in the databases; None where there are no databases. Blocks.

    Without databases nothing is handed out, so the entries stay where they are: what of them is committed the leader
    tells, and what somebody lacks is fetched from the journal.
    """
    first = log.first_index
    entries = [] if applied is None else [_entry(record) for record in log.read(applied)]
    known = first - 1 if applied is None else applied
    return LogStart(first, log.previous_term, log.terms, log.last_index, entries, log.configurations, known)


def _entry(record: LoggedEntry) -> Entry:
    return Entry(record.index, record.term, int(record.kind), record.payload)


def configuration_record(configuration: Configuration) -> tuple[Kind, int, int, bytes]:
    """The first record of a log: whoever begins with this configuration writes the same bytes."""
    return (Kind.CONFIGURATION, 1, 0, msgspec.msgpack.encode(configuration))


def found_group(log: Log, members: Sequence[Member]) -> None:
    """Make the log's first record: the configuration it begins with. On an empty log only."""
    log.append_records([configuration_record(Configuration(tuple(members)))], use_reserve=True)


def require_alone(own_id: str, configuration: Configuration, data_dir: Path) -> None:
    """A member that ran as a board alone would neither lead nor hear of a leader. Raises ConfigError."""
    members = [member.node_id for member in configuration.members]
    if members != [own_id]:
        raise ConfigError(
            "mode",
            f"{data_dir} holds the data of {own_id} of a cluster ({', '.join(members)}): start it with --mode cluster "
            "and its --tls-dir",
        )


def begin_group(log: Log, members: Sequence[Member]) -> bool:
    """As `found_group`, unless a leader was quicker with the first entry. Blocks."""
    if log.last_index == 0:
        found_group(log, members)
        return True
    return False
