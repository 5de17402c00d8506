"""Who leads, for the stores of a node: what they must know of the group, and what happens when it changes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

from shoal import telemetry
from shoal.cluster.driver import RaftDriver
from shoal.errors import NoLeader, ShoalError
from shoal.store.sequencer import Sequencer
from shoal.stores import Stores

PATIENCE_MS: Final = 2_000
"""For so long what is asked for waits for a leader: an election takes less, and after that a long time may pass."""


class Leadership:
    """See shoal.store.context.Leadership. A node serves when all that was committed before it led is decided.

    `on_change` is called when role, leader, term or members may have changed.
    """

    def __init__(
        self,
        driver: RaftDriver,
        sequencer: Sequencer,
        wanted_stores: Iterable[str],
        now_ms: Callable[[], int],
    ) -> None:
        self._driver = driver
        self._now_ms = now_ms
        self._leaderless_ms = now_ms()
        self._sequencer = sequencer
        self._wanted = tuple(wanted_stores)
        self._loop = asyncio.get_running_loop()
        self._led = False
        self._leader: str | None = None
        self._making: set[asyncio.Task[None]] = set()
        self._stores: Stores | None = None
        self.made: asyncio.Future[None] = self._loop.create_future()
        """The configured stores are there."""
        self.on_change: list[Callable[[], None]] = []
        self.why_leaderless: Callable[[], ShoalError] = _too_few
        """Why nobody leads, in words for people."""

    def begin(self, stores: Stores) -> None:
        """From now on `stores` are led, and made."""
        self._stores = stores

    @property
    def term(self) -> int:
        """See shoal.store.context.Leadership."""
        return self._driver.term

    @property
    def serves(self) -> bool:
        """See shoal.store.context.Leadership."""
        return self._driver.serves and self._sequencer.applied_term == self._driver.term

    @property
    def has_decided_all(self) -> bool:
        """See shoal.store.context.Leadership. A disk may be slower than a quorum's, and commits come before it."""
        return self.serves and self._driver.commit_index <= self._sequencer.applied_index

    @property
    def leader(self) -> str | None:
        """See shoal.store.context.Leadership."""
        return self._driver.leader

    def require_leader(self) -> None:
        """See shoal.store.context.Leadership."""
        if self._driver.leader is None and self._now_ms() - self._leaderless_ms > PATIENCE_MS:
            raise self.why_leaderless()

    async def read_index(self, *, confirmed: bool) -> int:
        """See shoal.store.context.Leadership."""
        return await self._driver.read_index(confirmed=confirmed)

    def changed(self) -> None:
        """Role, leader, term or members may have changed, or an entry of a new term was applied."""
        self._sequencer.resume()
        if self.leader != self._leader:
            before, self._leader = self._leader, self.leader
            self._leaderless_ms = self._now_ms()
            if self.leader is not None:
                telemetry.emit(
                    telemetry.CLUSTER_LEADER_ELECTED,
                    {"system_time": telemetry.system_time()},
                    {"store_id": "*", "leader": self.leader, "previous_leader": before},
                )
        if self.serves != self._led and self._stores is not None:
            self._led = self.serves
            self._stores.lead(leading=self._led)
            if self._led:
                task = self._loop.create_task(self._make_wanted(self._stores))
                self._making.add(task)
                task.add_done_callback(self._making.discard)
        for hear in self.on_change:
            hear()

    async def _make_wanted(self, stores: Stores) -> None:
        """Make the stores of the configuration, which are not limited in number."""
        try:
            for name in self._wanted:
                if name not in stores.by_name:
                    await stores.make(name)
        except ShoalError as error:
            if self._driver.core.is_alone and not self.made.done():
                self.made.set_exception(error)
            return  # whoever leads next makes them
        if not self.made.done():
            self.made.set_result(None)


def _too_few() -> ShoalError:
    return NoLeader("nobody leads: too few boards of the cluster can reach each other")
