"""What a leader proposes: the commands gathered, its clock, and now and then the digest of its state."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import msgspec

from shoal.clock import Clock
from shoal.errors import InternalError
from shoal.model.commands import Origin, Proposal, StateDigest, encode
from shoal.model.event_time import EventTime
from shoal.store.conditions import proposed_command
from shoal.store.deciding import Decidable, Decider
from shoal.store.lanes import Pending
from shoal.store.ports import Proposed, ReadSet
from shoal.store.state_digest import FORM, digest_of

_log = logging.getLogger("shoal.store")

DIGEST_ENTRIES = 1_000
"""After so many entries one carries the digest of the state before it."""


class UnderWay(msgspec.Struct, eq=False):
    """The entry under way. Those who wait for it here are `waiting`; of an `own` one they are the commands in it."""

    entry: Decidable
    waiting: Sequence[Pending]
    own: bool
    proposed: Proposed | BaseException | None = None
    fetched: dict[str, ReadSet] | BaseException | None = None
    searching: bool = False


def make_proposal(
    batch: Sequence[Pending], decider: Decider, clock: Clock, event_time: EventTime
) -> Proposal:
    """The next entry: what is decided now comes right before it, unless the members change meanwhile."""
    reading = clock.wall()
    last = max((memory.state.epoch_us for memory in decider.stores.values()), default=0)
    clock_us = event_time.stamp(reading, clock.monotonic_ms(), last)
    origins = [
        Origin(place, pending.origin.node_id, pending.origin.number)
        for place, pending in enumerate(batch)
        if pending.origin is not None
    ]
    digest = None
    if decider.applied_index - decider.digested_index >= DIGEST_ENTRIES - 1:
        digest = StateDigest(decider.applied_index, digest_of(decider.stores), FORM)
    return Proposal(
        clock_us, reading.epoch_us, [proposed_command(pending) for pending in batch], origins, digest
    )


def sound(batch: Sequence[Pending], decider: Decider) -> list[Pending]:
    """The commands that can be stored; the others are answered: the checks should have refused them."""
    good: list[Pending] = []
    for pending in batch:
        try:
            encode(Proposal(0, 0, [pending.command]))
            decider.needs([pending.command])
        except Exception as error:  # noqa: BLE001 - told to whoever sent it
            pending.fail(InternalError(f"the command cannot be stored: {error!r}"))
            _log.exception("a command cannot be stored")
        else:
            good.append(pending)
    return good
