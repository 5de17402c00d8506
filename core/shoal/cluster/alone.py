"""A log whose quorum is lost for ever goes on with one voter."""

from __future__ import annotations

import msgspec

from shoal.cluster.ports import Log, Records
from shoal.raft.entries import encode_configuration
from shoal.raft.log import Configuration, HardState, Kind, Member
from shoal.raft.member_keys import after_change
from shoal.raft.state import Own


def write_alone(log: Log, own: Own, term: int) -> None:
    """Begin a term above `term` in which `own` is the only voter; entries stay. Blocks. Raises OSError, DiskFull."""
    state = HardState(max(term, log.hard_state.term) + 1)
    before = log.configurations[-1][1] if log.configurations else Configuration()
    known = next((m for m in before.members if m.node_id == own.node_id), None)
    key_hash = b"" if known is None else known.key_hash
    members = (Member(own.node_id, own.incarnation, key_hash=key_hash),)
    alone = after_change(before, msgspec.structs.replace(before, members=members))
    records: Records = [
        (Kind.HARD_STATE, 0, state.term, msgspec.msgpack.encode(state)),
        (Kind.CONFIGURATION, log.last_index + 1, state.term, encode_configuration(alone)),
    ]
    log.append_records(records, use_reserve=True)
