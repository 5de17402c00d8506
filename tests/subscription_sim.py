"""Consumers that crash and calls that get lost, against a real node with a clock by hand, from one seed.

The oracle is what a person would write down: which events match, who has had each of them in hand, which were
answered for. It knows nothing of windows, leases and settlements.
"""

from __future__ import annotations

import asyncio
import random
import shutil
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

from node_kit import image, inline_means, small

from shoal.errors import AlreadyExists, LeaseExpired, ShoalError, Timeout, Unreachable
from shoal.node import Node
from shoal.testing.clock import FakeClock
from shoal.testing.lossy import LossyLink
from shoal.types import ANY_VERSION, Delivered, NewEvent

NAME = "sim"
ACK_TIMEOUT_MS = 1_000
STREAMS = ("a-1", "a-2", "b-1", "b-2")
TYPES = ("opened", "closed")
SELECTORS: tuple[tuple[str, Any, Callable[[str, str, int, list[str]], bool]], ...] = (
    ("all", None, lambda _s, _t, _n, _g: True),
    ("stream", "a-1", lambda s, _t, _n, _g: s == "a-1"),
    ("event_type", ["opened"], lambda _s, t, _n, _g: t == "opened"),
    ("event_pattern", "a-*", lambda s, _t, _n, _g: s.startswith("a-")),
    ("event_payload", {"n": {"$gte": 5}}, lambda _s, _t, n, _g: n >= 5),
    ("tags", ["x", "y"], lambda _s, _t, _n, g: bool({"x", "y"} & set(g))),
    ("tags", {"all": ["x", "y"]}, lambda _s, _t, _n, g: {"x", "y"} <= set(g)),
)


class Simulation:
    """One run. `trace` tells what was done, for whoever replays a seed."""

    def __init__(self, directory: Path, seed: int) -> None:
        self.rng = random.Random(seed)
        self.directory = directory
        self.generation = 0
        self.clock = FakeClock()
        self.link = LossyLink(self.rng, self.rng.choice((0.0, 0.05, 0.2)))
        self.type, self.selector, self.matches = self.rng.choice(SELECTORS)
        self.options: dict[str, Any] = {
            "ack_timeout_ms": ACK_TIMEOUT_MS,
            "consumer_timeout_ms": ACK_TIMEOUT_MS,
            "max_in_flight": self.rng.choice((1, 4, 50)),
            "max_retries": self.rng.choice((0, 2, 20)),
            "backoff_ms": self.rng.choice(([], [10, 700])),
            "strategy": self.rng.choice(("single", "round_robin", "by_stream")),
            "ordered": self.rng.random() < 0.4,
            "ack_durability": self.rng.choice(("durable", "durable", "lazy")),
            "checkpoint_interval_ms": 10,
        }
        self.expected: dict[int, str] = {}
        self.had: Counter[int] = Counter()
        self.answered: set[int] = set()
        self.parked: set[int] = set()
        self.hands: dict[str, list[Delivered]] = {
            f"c{number}": [] for number in range(self.rng.randint(1, 4))
        }
        self.checkpoint = 0
        self.trace: list[str] = []
        self.did: Counter[str] = Counter()

    async def run(self, steps: int) -> None:
        """So many random steps, then everybody is well again and all must have arrived."""
        self.node = await Node.open(small(self.directory / "0"), means=inline_means(clock=self.clock))
        await self._subscriptions.create(self.type, self.selector, NAME, **self.options)
        actions: list[tuple[Callable[[], Awaitable[None]], float]] = [
            (self._append, 6),
            (self._pull, 8),
            (self._ack, 8),
            (self._nack, 2),
            (self._crash, 1),
            (self._wait, 3),
            (self._replay, 0.5),
            (self._delete, 0.3),
            (self._kill_node, 0.3),
            (self._change, 0.3),
        ]
        chosen = self.rng.choices([each for each, _ in actions], [weight for _, weight in actions], k=steps)
        for action in chosen:
            name = action.__name__.removeprefix("_")
            self.did[name] += 1
            await action()
            await self._check(name)
        await self._drain()
        await self.node.close()

    @property
    def _subscriptions(self) -> Any:
        return self.node.store("main").subscriptions

    def _some_consumer(self) -> str:
        return self.rng.choice(sorted(self.hands))

    async def _over_link(self, call: Callable[[], Awaitable[Any]], *, repeatable: bool = True) -> Any:
        try:
            return await self.link.call(call, repeatable=repeatable)
        except (Unreachable, Timeout, LeaseExpired, AlreadyExists) as error:
            self.trace.append(f"  {error.code}")
            return None

    # -- what may happen -------------------------------------------------------------------------

    async def _append(self) -> None:
        stream = self.rng.choice(STREAMS)
        events = []
        for _ in range(self.rng.choice((1, 1, 3, 20))):
            tags = self.rng.sample(("x", "y", "z"), self.rng.randint(0, 3))
            events.append((self.rng.choice(TYPES), self.rng.randint(0, 9), tags))
        new = [NewEvent(kind, {"n": n}, tags=tags or None) for kind, n, tags in events]
        answer = await self.node.store("main").streams.append(stream, ANY_VERSION, new)
        first = answer.position - len(events) + 1
        for position, (kind, n, tags) in enumerate(events, first):
            if self.matches(stream, kind, n, tags):
                self.expected[position] = stream
        self.trace.append(f"append {stream} {first}..{answer.position}")

    async def _pull(self) -> None:
        consumer = self._some_consumer()
        count = self.rng.choice((1, 3, 100))
        got = await self._over_link(
            lambda: self._subscriptions.pull(NAME, count, 0, consumer), repeatable=False
        )
        self.trace.append(f"pull {consumer} {[(e.position, e.attempt) for e in got or []]}")
        done = self.answered | self.parked
        for event in got or []:
            assert event.position in self.expected, f"{event.position} does not match"
            if self.options["ordered"]:
                before = {
                    at for at, of in self.expected.items() if of == event.stream_id and at < event.position
                }
                assert before <= done, f"{event.position} came before {sorted(before - done)}"
                done.add(event.position)
            self.had[event.position] += 1
            self.hands[consumer].append(event)

    async def _ack(self) -> None:
        consumer = self._some_consumer()
        hand = self.hands[consumer]
        if not hand:
            return
        count = self.rng.randint(1, len(hand))
        chosen = hand[:count] if self.rng.random() < 0.7 else self.rng.sample(hand, count)
        self.hands[consumer] = [event for event in hand if event not in chosen]
        self.answered.update(event.position for event in chosen)
        leases = [event.lease for event in chosen]
        self.trace.append(f"ack {consumer} {[event.position for event in chosen]}")
        await self._over_link(lambda: self._subscriptions.ack_leases(NAME, leases))

    async def _nack(self) -> None:
        consumer = self._some_consumer()
        if not self.hands[consumer]:
            return
        event = self.hands[consumer].pop(0)
        action = self.rng.choice(("retry", "retry", "park", "skip"))
        if action == "skip":
            self.answered.add(event.position)
        delay = self.rng.choice((None, 0, 500))
        self.trace.append(f"nack {consumer} {event.position} {action}")
        await self._over_link(lambda: self._subscriptions.nack(NAME, [event.lease], action, delay, "no"))

    async def _crash(self) -> None:
        """A consumer forgets what it had in hand; whether anybody is told or not."""
        consumer = self._some_consumer()
        self.hands[consumer] = []
        self.trace.append(f"crash {consumer}")
        if self.rng.random() < 0.5:
            await self._over_link(lambda: self._subscriptions.leave(NAME, consumer))

    async def _wait(self) -> None:
        self.clock.advance(self.rng.choice((1, 100, ACK_TIMEOUT_MS, 3 * ACK_TIMEOUT_MS)))

    async def _replay(self) -> None:
        limit = self.rng.choice((None, 1, 5))
        replayed = await self._subscriptions.replay_parked(NAME, limit)
        self.trace.append(f"replay {replayed}")

    async def _delete(self) -> None:
        stream = self.rng.choice(STREAMS)
        await self.node.store("main").streams.delete(stream)
        self.trace.append(f"delete {stream}")
        self.expected = {at: of for at, of in self.expected.items() if of != stream}
        for consumer, hand in self.hands.items():
            self.hands[consumer] = [event for event in hand if event.stream_id != stream]

    async def _change(self) -> None:
        changed = {"max_in_flight": self.rng.choice((1, 8, 50)), "max_retries": self.rng.choice((1, 20))}
        await self._subscriptions.update(NAME, **changed)
        self.trace.append(f"change {changed}")

    async def _kill_node(self) -> None:
        """The power goes: what was not answered may be there or not, and nobody has said goodbye."""
        self.generation += 1
        source = self.directory / str(self.generation - 1)
        target = image(source, self.directory / str(self.generation))
        self.trace.append("kill")
        await self.node.close()
        self.node = await Node.open(small(target), means=inline_means(clock=self.clock))

    # -- what must hold --------------------------------------------------------------------------

    async def _check(self, action: str) -> None:
        subscription = await self._subscriptions.get(NAME)
        lazily = self.options["ack_durability"] == "lazy" and action == "kill_node"
        assert subscription.checkpoint >= self.checkpoint or lazily, "the checkpoint went back"
        self.checkpoint = subscription.checkpoint
        parked = {event.position for event in await self._subscriptions.parked(NAME, count=1_000)}
        self.parked |= parked
        for position in self.expected:
            if position <= self.checkpoint:
                assert position in self.answered or position in self.parked, f"{position} was passed over"
        delivery = self._pump_delivery()
        if delivery is not None:
            assert 0 <= delivery.in_flight <= 50
            assert delivery.room() >= 0
            assert delivery.waiting >= 0

    def _pump_delivery(self) -> Any:
        pump = self._subscriptions._pumps.get(NAME)
        return None if pump is None else pump.delivery

    async def _drain(self) -> None:
        """Nothing is lost any more: every event arrives that nobody has answered for."""
        self.link.loss = 0.0
        await self._subscriptions.update(NAME, max_retries=1_000)
        for _ in range(400):
            await self._subscriptions.replay_parked(NAME)
            self.clock.advance(2 * ACK_TIMEOUT_MS)
            got = await self._subscriptions.pull(NAME, 1_000, 0, "last")
            self.trace.append(f"drain {[(event.position, event.attempt) for event in got]}")
            self.had.update(event.position for event in got)
            if got:
                await self._subscriptions.ack_leases(NAME, [event.lease for event in got])
                continue
            # Lazy acks wait for a timer of the real clock, which this loop may outrun.
            await self._subscriptions._pumps[NAME]._settling.flush()
            if await self._is_done():
                break
        else:
            raise AssertionError(f"it does not come to an end: {await self._subscriptions.stats(NAME)}")
        missing = [at for at in self.expected if not self.had[at] and at not in self.answered]
        assert not missing, f"never delivered: {missing}"

    async def _is_done(self) -> bool:
        stats = await self._subscriptions.stats(NAME)
        return stats.lag == 0 and stats.parked == 0


async def simulate(directory: Path, seed: int, steps: int) -> Simulation:
    """Run one seed; an error tells the seed and the last steps."""
    simulation = Simulation(directory, seed)
    try:
        await simulation.run(steps)
    except (AssertionError, ShoalError) as error:
        settings = f"{simulation.type} {simulation.selector} {simulation.options} loss {simulation.link.loss}"
        steps_text = "\n".join(simulation.trace[-60:])
        raise AssertionError(f"seed {seed}: {error!r}\n{settings}\n{steps_text}") from error
    return simulation


class Report(NamedTuple):
    """What a block of seeds came to."""

    did: Counter[str]
    lost_answers: int
    delivered: int


def simulate_block(directory: str, seeds: range, steps: int) -> Report:
    """Run seeds one after another: for a process of its own, whose loop the storage may block."""
    report = Report(Counter(), 0, 0)
    for seed in seeds:
        place = Path(directory) / str(seed)
        simulation = asyncio.run(simulate(place, seed, steps))
        shutil.rmtree(place)
        report = Report(
            report.did + simulation.did,
            report.lost_answers + simulation.link.lost_answers,
            report.delivered + sum(simulation.had.values()),
        )
    return report
