"""What a node notices of its cluster: who comes and goes, whether there is a quorum, whether it is out, how far behind.

Looks once a second; telemetry hears of changes, `obstacle` says in words for people why requests cannot be served.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final

from shoal import telemetry
from shoal.clock import Clock
from shoal.cluster.driver import RaftDriver
from shoal.cluster.members import CAUGHT_UP_ENTRIES, Members
from shoal.cluster.words import OLD_KEY, STRANGER
from shoal.errors import NoLeader, NoQuorum, Unavailable
from shoal.raft.quorum import voters

LAG_MS_MAX: Final = 5_000
"""A node further behind takes no requests until it has caught up."""
LONG_MS: Final = 60_000
_RESTORED: Final = (
    ". If it gets no nearer, its data is older than what it has confirmed, as from a copy of its card: move its data "
    "directory aside, and add it again"
)
_TWO: Final = 2

_log = logging.getLogger("shoal.cluster")


class Watch:
    """`applied` is the last entry in the databases, `beginning` what a board that begins a group waits for."""

    def __init__(
        self,
        driver: RaftDriver,
        members: Members,
        clock: Clock,
        *,
        applied: Callable[[], int],
        beginning: Callable[[], str],
        has_store: Callable[[], bool],
    ) -> None:
        self._driver = driver
        self._members = members
        self._clock = clock
        self._applied = applied
        self._beginning = beginning
        self._has_store = has_store
        self._alive: set[str] = set()
        self._quorum: bool | None = None
        self._split: frozenset[str] = frozenset()
        self._refused_by: set[str] = set()
        self._old_key_at: set[str] = set()
        self._said_removed = False
        self._said_waiting = ""
        self._was_current = False
        self._target = (0, clock.monotonic_ms())
        """Up to where was committed when that was asked last, and when."""
        self._current_ms = clock.monotonic_ms()
        """When this node last had all that was committed then."""

    # -- what is noticed -------------------------------------------------------------------------

    def tick(self) -> None:
        """A second has passed."""
        self._members.forget_gone()
        self._tell_what_is_waited_for()
        self._tell_who_is_alive()
        self._tell_quorum()
        self._tell_split()
        self._measure_lag()
        if self._driver.leader is not None:
            self._refused_by.clear()
            self._old_key_at.clear()
        if self.removed != self._said_removed:
            self._said_removed = self.removed
            if self.removed:
                _log.error("%s", self._why_removed())

    def refused(self, node_id: str, reason: str) -> None:
        """A node will not have this one."""
        if reason == STRANGER and self._members.find(node_id) is not None:
            self._refused_by.add(node_id)
        elif reason == OLD_KEY:
            self._old_key_at.add(node_id)

    def _tell_what_is_waited_for(self) -> None:
        waits = "" if self._members.configuration.members else self._beginning() or self._waits()
        if waits != self._said_waiting:
            self._said_waiting = waits
            _log.info("%s", waits or "this board is in the cluster")

    def _tell_who_is_alive(self) -> None:
        members = self._members
        alive = {m.node_id for m in members.configuration.members if members.alive(m.node_id)}
        for node_id in sorted(alive - self._alive - {members.own_id}):
            _tell(telemetry.CLUSTER_NODE_UP, node=node_id, member_count=len(alive))
        for node_id in sorted(self._alive - alive - {members.own_id}):
            reason = "removed" if members.find(node_id) is None else "unreachable"
            _tell(telemetry.CLUSTER_NODE_DOWN, node=node_id, member_count=len(alive), reason=reason)
        self._alive = alive

    def _tell_quorum(self) -> None:
        members = self._members
        size = members.configuration.quorum
        if not voters(members.configuration):
            return
        before, self._quorum = self._quorum, members.margin >= 0
        if before is self._quorum or (before is None and self._quorum):
            return
        event = telemetry.CLUSTER_QUORUM_RESTORED if self._quorum else telemetry.CLUSTER_QUORUM_LOST
        _tell(event, alive=members.living_voters(), required=size)

    def _tell_split(self) -> None:
        """Boards with data of this cluster that are no members: two or more may believe to be the cluster."""
        seen = (s.hello for s in self._members.strangers() if not s.hello.empty)
        outside = frozenset(hello.node_id for hello in seen if hello.node_id != self._members.own_id)
        own = self._driver.own
        inside = self._driver.leader is not None and self._members.is_member(own.node_id, own.incarnation)
        split = outside if inside and len(outside) >= _TWO else frozenset()
        if split - self._split:
            nodes = ",".join(sorted(split))
            _tell(telemetry.CLUSTER_SPLIT_BRAIN_DETECTED, nodes=nodes)
            _log.error(
                "%s hold data of this cluster and are no members of it: if they go on as a cluster of their own, two "
                "histories grow apart. Stop them, and move their data directories aside",
                nodes,
            )
        self._split = split

    def _measure_lag(self) -> None:
        target, at_ms = self._target
        now_ms = self._clock.monotonic_ms()
        if self._applied() >= target:
            self._current_ms = at_ms
            self._target = (self._driver.core.known_commit, now_ms)

    @property
    def lag_ms(self) -> int:
        """For how long this node has lacked something that was committed; 0 when it has all of the last second."""
        if self._applied() >= self._target[0]:
            return 0
        return max(0, self._clock.monotonic_ms() - self._current_ms)

    # -- what it means ---------------------------------------------------------------------------

    @property
    def removed(self) -> bool:
        """Whether this node was a member and is none any more."""
        members, own = self._members, self._driver.own
        if not members.configuration.members:
            return False
        if not members.is_member(own.node_id, own.incarnation):
            return True
        return self._driver.leader is None and bool(self._refused_by)

    def obstacle(self) -> Unavailable | None:
        """Why this node cannot serve what is asked of it, and what to do about it; None when it can."""
        members = self._members
        if not members.configuration.members:
            return NoLeader(self._beginning() or self._waits())
        if self.removed:
            return Unavailable(self._why_removed())
        if self._driver.leader is None:
            if self._old_key_at:
                return NoLeader(self._why_old_key())
            if members.margin < 0:
                return NoQuorum(self._no_quorum())
            return NoLeader("no leader is known: an election takes a second or two")
        return self._why_late()

    def _why_late(self) -> Unavailable | None:
        if (lag_ms := self.lag_ms) > LAG_MS_MAX:
            late = f"this board is catching up, it is {lag_ms / 1000:.0f} s behind"
            return Unavailable(late + (_RESTORED if lag_ms > LONG_MS else ""), lag_ms=lag_ms)
        if not self._is_current():
            return Unavailable("this board is catching up with what it has missed")
        if not self._has_store():
            return Unavailable("the first store is not made yet: wait a moment")
        return None

    def _is_current(self) -> bool:
        """Whether it once had nearly all that was committed, since it was started."""
        missing = self._driver.core.known_commit - self._applied()
        self._was_current = self._was_current or missing <= CAUGHT_UP_ENTRIES
        return self._was_current

    def _waits(self) -> str:
        own = self._members.own_id
        return (
            f"this board is empty and waits to be added: on a member run `shoal cluster add {own}`. To begin a cluster "
            "with it, start it with --bootstrap-expect 1, or 3 for three boards"
        )

    def _why_removed(self) -> str:
        own = self._members.own_id
        who = ", ".join(sorted(self._refused_by)) or "its own log"
        return (
            f"this board is no member of the cluster any more (so says {who}). To take it back: stop it, move its data "
            f"directory aside, start it, and run `shoal cluster add {own}`"
        )

    def _why_old_key(self) -> str:
        own, who = self._members.own_id, ", ".join(sorted(self._old_key_at))
        return (
            f"{who} will not hear this board: its files are older than its last key. Give it another one: "
            f"`shoal ca issue {own} --new-key` into its tls_dir"
        )

    def _no_quorum(self) -> str:
        members = self._members
        voting = voters(members.configuration)
        down = ", ".join(node_id for node_id in voting if not members.alive(node_id))
        return (
            f"{down} cannot be reached: {members.living_voters()} of {len(voting)} voters are alive, and "
            f"{members.configuration.quorum} are needed. Start them; only if they are destroyed for ever: "
            "`shoal cluster recover`"
        )

    def stats(self) -> dict[str, float]:
        """Numbers for metrics."""
        core = self._driver.core
        return {
            "is_leader": float(self._driver.serves),
            "term": core.term,
            "commit_index": core.log.commit,
            "applied_index": self._applied(),
            "lag_seconds": self.lag_ms / 1000,
            **self._members.stats(),
        }


def _tell(event: telemetry.EventName, **about: Any) -> None:
    telemetry.emit(event, {"system_time": telemetry.system_time()}, {"store_id": "*", **about})
