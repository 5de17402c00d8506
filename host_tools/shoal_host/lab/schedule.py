"""Which fault comes when: drawn from a seed. Pure."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, Final, Literal, get_args

import msgspec

from shoal.errors import ConfigError

Kind = Literal["kill", "pause", "cut", "one-way", "delay", "slow-disk", "full-disk"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
BETWEEN_NODES: Final = frozenset[Kind]({"cut", "one-way", "delay"})
"""Faults of the network, which one node alone does not have."""

NONE: Final = "none"
"""What the time before the first fault is called in a report."""

_TOGETHER: Final = 0.2
"""How often a second fault comes with the first."""
_BEFORE_S: Final = 2.0


class Fault(msgspec.Struct, frozen=True):
    """One fault of one node.

    `target` is the node's number, or None for whoever leads when it comes. `outwards` is the way that a one-way cut
    takes away; `amount_ms` how much later the network or the disk is, or for how long the disk hangs `once`.
    """

    kind: Kind
    target: int | None
    outwards: bool = False
    amount_ms: int = 0
    once: bool = False

    def __str__(self) -> str:
        details = {
            "one-way": "what it sends is lost" if self.outwards else "what is sent to it is lost",
            "delay": f"{self.amount_ms} ms each way",
            "slow-disk": f"one stall of {self.amount_ms} ms" if self.once else f"{self.amount_ms} ms a sync",
        }
        detail = details.get(self.kind)
        return f"{self.kind} ({detail})" if detail else self.kind


class Episode(msgspec.Struct, frozen=True):
    """Faults that come together after a run's `begin_s`, stay for `hold_s`, and are over until `end_s`."""

    begin_s: float
    hold_s: float
    end_s: float
    faults: tuple[Fault, ...]


def choose_kinds(wanted: Sequence[str], nodes: int) -> tuple[Kind, ...]:
    """The faults of a run; those wanted, or all that `nodes` can have. Raises ConfigError."""
    possible = [kind for kind in KINDS if nodes > 1 or kind not in BETWEEN_NODES]
    for kind in wanted:
        if kind not in KINDS:
            raise ConfigError("--faults", f"{kind!r} is none of {', '.join(KINDS)}")
        if kind not in possible:
            raise ConfigError("--faults", f"{kind} is a fault between nodes, ask for --nodes 3")
    return tuple(kind for kind in possible if not wanted or kind in wanted)


def plan(seed: int, nodes: int, seconds: float, kinds: Sequence[Kind]) -> list[Episode]:
    """The episodes of a run. Each kind comes once before any comes again; every run has each at least once.

    Raises ConfigError for a run that is too short for that.
    """
    rng = random.Random(seed)  # noqa: S311 - a seed is to give the same run again
    shortest = (seconds - _BEFORE_S) / len(kinds)
    if shortest < 3.0:
        needed = (3.0 * len(kinds) + _BEFORE_S) / 60
        raise ConfigError("--minutes", f"{len(kinds)} kinds of faults need at least {needed:.2g}")
    episodes: list[Episode] = []
    bag: list[Kind] = []
    begin_s = _BEFORE_S
    while True:
        if not bag:
            bag = rng.sample(list(kinds), len(kinds))
        hold_s = min(rng.uniform(1.5, 5.0), shortest * 0.55)
        end_s = begin_s + min(hold_s + rng.uniform(1.0, 3.5), shortest)
        if end_s > seconds + 0.001:
            return episodes
        faults = _faults(rng, nodes, bag.pop(), kinds)
        episodes.append(Episode(round(begin_s, 3), round(hold_s, 3), round(end_s, 3), faults))
        begin_s = end_s


def _faults(rng: random.Random, nodes: int, kind: Kind, kinds: Sequence[Kind]) -> tuple[Fault, ...]:
    """One fault, sometimes two of different kinds at different nodes."""
    targets: list[int | None] = list(rng.sample(range(nodes), min(nodes, 2)))
    others = [other for other in kinds if other != kind]
    if nodes > 2 and others and rng.random() < _TOGETHER:
        return tuple(
            _fault(rng, each, target)
            for each, target in zip((kind, rng.choice(others)), targets, strict=True)
        )
    return (_fault(rng, kind, rng.choice((targets[0], None))),)


def _fault(rng: random.Random, kind: Kind, target: int | None) -> Fault:
    details: dict[str, Any] = {}
    if kind == "one-way":
        details = {"outwards": rng.random() < 0.5}
    elif kind == "delay":
        details = {"amount_ms": rng.choice((20, 60, 200))}
    elif kind == "slow-disk":
        once = rng.random() < 0.4
        details = {"once": once, "amount_ms": rng.choice((1_000, 3_000) if once else (30, 100, 300))}
    return Fault(kind, target, **details)
