"""A digest over what every member's state machine must hold alike, and what to do with one that does not."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from shoal.accel.hash import xxh3_64
from shoal.errors import StateDiverged
from shoal.model.commands import StateDigest
from shoal.store.memory import StoreMemory

FORM = 1
"""Raise it when what is digested changes, a field with a default in a subscription's state included."""
_encode = msgspec.msgpack.Encoder().encode


def digest_of(stores: Mapping[str, StoreMemory]) -> int:
    """Of each store its position and event time, and each subscription's state. Costs what they are in bytes."""
    whole = [
        (
            name,
            memory.state.position,
            memory.state.epoch_us,
            [state for _, state in sorted(memory.subscriptions.items())],
        )
        for name, memory in sorted(stores.items())
    ]
    return xxh3_64(_encode(whole))


def check(told: StateDigest, stores: Mapping[str, StoreMemory]) -> None:
    """Compare with the leader's of the same entry. Raises StateDiverged."""
    own = digest_of(stores) if told.form == FORM else told.digest
    if own != told.digest:
        held = ", ".join(
            f"{name} at position {memory.state.position}" for name, memory in sorted(stores.items())
        )
        raise StateDiverged(
            f"after entry {told.index} this board's state ({held}) has the digest {own:016x}, the leader's "
            f"{told.digest:016x}: the databases are set aside at the next start and copied anew from the leader. If "
            "it comes again, remove this board and add it again"
        )
