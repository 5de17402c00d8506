"""A simulated network: each node dials each other one, as the transport does, and sends over what it has dialled.

A line is two TCP connections, control and bulk. What goes over one arrives in order and once, as long as it stands;
when it breaks, some end of what was under way is lost, and what was not may arrive after what the next one brings. An
unruly network (`repeats`, `drops`) is worse than TCP: the core promises to bear that too.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from shoal.testing.sim_loop import Life, SimLoop

PATIENCE_S = 3.0
"""How long a line may be silent until its owner takes it as broken."""
BULK_BYTES_S = 10e6


class Host(Protocol):
    """A node on the network. What it is told runs in its life."""

    @property
    def listening(self) -> Life | None:
        """The process that takes connections now."""

    def connected(self, peer: str) -> None:
        """A line to the peer stands."""

    def broken(self, peer: str) -> None:
        """The line to the peer broke."""

    def gone(self, peer: str) -> None:
        """The peer's machine says that nobody listens."""

    def received(self, peer: str, frame: bytes) -> None:
        """A frame came."""


class _Line:
    """From one life of a node to another node."""

    def __init__(self, life: Life, peer_life: Life) -> None:
        self.life = life
        self.peer_life = peer_life
        self.up = True
        self.lanes: dict[bool, float] = {False: 0.0, True: 0.0}
        self.under_way: list[Any] = []
        self.stalled: list[tuple[bytes, bool]] = []
        self.silent_since_s: float | None = None


class SimNetwork:
    """The network of `hosts`. `cuts` are (from, to) that nothing passes."""

    def __init__(self, loop: SimLoop, rng: random.Random) -> None:
        self._loop = loop
        self._rng = rng
        self.hosts: dict[str, Host] = {}
        self.cuts: set[tuple[str, str]] = set()
        self.delay_s = (0.0002, 0.003)
        self.slow = 0.01
        """How likely a frame takes up to 200 ms."""
        self.repeats = self.drops = 0.0
        self.sent: Callable[[str, str, bytes], None] = _nobody
        """Hears of every frame."""
        self._lines: dict[tuple[str, str], _Line] = {}
        self._loop.call_later(0.1, self._look)

    # -- what nodes do ---------------------------------------------------------------------------

    def send(self, life: Life, peer: str, frame: bytes, *, bulk: bool) -> bool:
        """Over the line of that life; False where there is none."""
        line = self._lines.get((life.name, peer))
        if line is None or line.life is not life or not line.up or life.dead:
            return False
        self.sent(life.name, peer, frame)
        if (life.name, peer) in self.cuts:
            line.stalled.append((frame, bulk))
            return True
        if self._rng.random() < self.drops:
            return True
        self._carry(line, frame, bulk=bulk)
        if self._rng.random() < self.repeats:
            self._deliver_later(line, frame, self._loop.time() + self._rng.random() * 2)
        return True

    def rest_s(self) -> float:
        """What one frame takes."""
        low, high = self.delay_s
        return self._rng.uniform(low, high) + (
            self._rng.random() * 0.2 if self._rng.random() < self.slow else 0
        )

    def _carry(self, line: _Line, frame: bytes, *, bulk: bool) -> None:
        at = max(line.lanes[bulk], self._loop.time() + self.rest_s()) + len(frame) / BULK_BYTES_S
        line.lanes[bulk] = at
        self._deliver_later(line, frame, at)

    def _deliver_later(self, line: _Line, frame: bytes, at_s: float) -> None:
        handle = self._loop.call_at(at_s, self._deliver, line, frame)
        line.under_way = [each for each in line.under_way if each.when() > self._loop.time()]
        line.under_way.append(handle)

    def _deliver(self, line: _Line, frame: bytes) -> None:
        host = self.hosts[line.peer_life.name]
        if host.listening is line.peer_life:
            self._in_life(line.peer_life, host.received, line.life.name, frame)

    def _in_life(self, life: Life, call: Callable[..., None], *arguments: Any) -> None:
        self._loop.call_soon(call, *arguments, context=life.context)

    # -- what happens to lines -------------------------------------------------------------------

    def heal(self) -> None:
        """Nothing is cut any more, nothing dropped."""
        self.cuts.clear()
        self.repeats = self.drops = 0.0

    def reset(self, names: Iterable[tuple[str, str]]) -> None:
        """Lines break."""
        for name in names:
            line = self._lines.get(name)
            if line is not None and line.up:
                self._break(name, line)

    def _break(self, name: tuple[str, str], line: _Line) -> None:
        line.up = False
        kept = self._rng.randint(0, len(line.under_way))
        for handle in sorted(line.under_way, key=lambda each: each.when())[kept:]:
            handle.cancel()
        del self._lines[name]
        host = self.hosts[name[0]]
        if host.listening is line.life:
            self._in_life(line.life, host.broken, name[1])

    def _look(self) -> None:
        """Each tenth of a second: lines are taken as broken, go on, are made."""
        for name in [(a, b) for a in self.hosts for b in self.hosts if a != b]:
            self._look_at(name)
        self._loop.call_later(0.1, self._look)

    def _look_at(self, name: tuple[str, str]) -> None:
        life, peer_life = self.hosts[name[0]].listening, self.hosts[name[1]].listening
        line = self._lines.get(name)
        if line is not None and line.life is not life:
            del self._lines[name]
            line = None
        if life is None or life.stopped:
            return
        cut = name in self.cuts or name[::-1] in self.cuts
        if line is None:
            self._dial(name, life, peer_life, cut=cut)
        elif cut or peer_life is not line.peer_life or line.peer_life.stopped:
            self._be_patient(name, line, peer_life, cut=cut)
        else:
            line.silent_since_s = None
            stalled, line.stalled = line.stalled, []
            for frame, bulk in stalled:
                self._carry(line, frame, bulk=bulk)

    def _dial(self, name: tuple[str, str], life: Life, peer_life: Life | None, *, cut: bool) -> None:
        host = self.hosts[name[0]]
        if cut or self._rng.random() < 0.5:
            return
        if peer_life is None:
            if self._rng.random() < 0.5:  # else the machine itself is off
                self._in_life(life, host.gone, name[1])
        elif not peer_life.stopped:
            self._lines[name] = _Line(life, peer_life)
            self._in_life(life, host.connected, name[1])

    def _be_patient(self, name: tuple[str, str], line: _Line, peer_life: Life | None, *, cut: bool) -> None:
        now_s = self._loop.time()
        if line.silent_since_s is None:
            line.silent_since_s = now_s
        told = peer_life is not line.peer_life and not cut and self._rng.random() < 0.3  # its machine says so
        if told or now_s - line.silent_since_s > PATIENCE_S:
            self._break(name, line)


def _nobody(_sender: str, _peer: str, _frame: bytes) -> None:
    """Nobody listens in."""
