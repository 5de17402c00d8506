"""What a leader proposes: the commands gathered, its clock, and now and then the digest of its state."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from shoal.clock import Clock
from shoal.model.commands import Origin, Proposal, StateDigest
from shoal.model.event_time import EventTime
from shoal.store.deciding import Decidable, Decider
from shoal.store.lanes import Pending
from shoal.store.ports import Proposed, ReadSet
from shoal.store.state_digest import digest_of

DIGEST_ENTRIES = 1_000
"""After so many entries one carries the digest of the state before it."""


class UnderWay(msgspec.Struct, eq=False):
    """The entry under way. `batch` is what was gathered here for it, None for one that came committed."""

    entry: Decidable
    batch: list[Pending] | None
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
        digest = StateDigest(decider.applied_index, digest_of(decider.stores))
    return Proposal(clock_us, reading.epoch_us, [pending.command for pending in batch], origins, digest)
