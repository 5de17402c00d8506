"""Clients of simulated nodes: they append, read and take deliveries, and note what they were told."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from typing import Any

import msgspec

from shoal.errors import (
    LeaseExpired,
    NotFound,
    ShoalError,
    StreamNotFound,
    Timeout,
    Unreachable,
    WrongExpectedVersion,
)
from shoal.node import Node
from shoal.testing.history import Operation, Placed, placed
from shoal.testing.sim_loop import Life, SimLoop
from shoal.testing.sim_network import SimNetwork
from shoal.testing.sim_node import SimNode
from shoal.types import ANY_VERSION, NO_STREAM, Consistency, Delivered, Event, EventFilter, NewEvent

STREAMS = ("a", "b", "c", "d")
DELETED = "d"
"""The one that is deleted now and then: what was forgotten of it does not come again."""
STORE = "main"
PATIENCE_S = 6.0
REACH: tuple[Consistency, ...] = ("local", "leader", "linearizable")


class Desk:
    """Where clients meet nodes: calls over a network of their own, in the life of the node that is asked."""

    def __init__(self, loop: SimLoop, rng: random.Random, network: SimNetwork, nodes: list[SimNode]) -> None:
        self.loop = loop
        self.rng = rng
        self.network = network
        self.nodes = nodes
        self.operations: list[Operation] = []
        self.did: Counter[str] = Counter()
        self.trace: Callable[[str], None] = print
        self.violations: list[str] = []

    def now_us(self) -> int:
        """For histories."""
        return round(self.loop.time() * 1e6)

    async def call(self, host: SimNode, work: Callable[[Node], Awaitable[Any]]) -> Any:
        """Have `work` done on a node. Raises what it raises, Unreachable, Timeout where no answer comes."""
        return (await self.call_life(host, work))[0]

    async def call_life(self, host: SimNode, work: Callable[[Node], Awaitable[Any]]) -> tuple[Any, Life]:
        """As `call`, with the life that has answered."""
        await asyncio.sleep(self.network.rest_s())
        life, node = host.listening, host.node
        if life is None or node is None:
            raise Unreachable("nobody listens")
        answer: asyncio.Future[Any] = self.loop.create_future()

        async def serve() -> None:
            try:
                outcome = await work(node)
            except (ShoalError, AssertionError) as error:
                outcome = error
            self.loop.call_soon(_set, answer, outcome, context=own)

        own = copy_context()
        self.loop.spawn(life, serve())
        try:
            async with asyncio.timeout(PATIENCE_S):
                outcome = await answer
        except TimeoutError:
            raise Timeout("no answer came", outcome="unknown") from None
        await asyncio.sleep(self.network.rest_s())
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome, life


def _set(future: asyncio.Future[Any], outcome: Any) -> None:
    if not future.done():
        future.set_result(outcome)


class Client:
    """Appends and reads until `Desk` closes, noting each operation."""

    def __init__(self, desk: Desk, name: str) -> None:
        self.desk = desk
        self.rng = random.Random(desk.rng.getrandbits(64))
        self.name = name
        self._seen: dict[str, int] = {}
        self._own: dict[tuple[Life, str], int] = {}
        self._count = 0

    async def run(self, until: Callable[[], bool], pause_s: float) -> None:
        """One operation after another."""
        while not until():
            await asyncio.sleep(self.rng.random() * 2 * pause_s)
            await self.step(self.rng.choice(self.desk.nodes))

    async def step(self, host: SimNode) -> None:
        """One operation, and what follows when nobody knows how it went."""
        chosen = self.rng.choices(("append", "read", "read_all", "delete"), (10, 5, 3, 0.3))[0]
        self.desk.did[chosen] += 1
        if chosen == "append":
            await self.append(host)
        elif chosen == "read":
            await self._read(host, self.rng.choice(STREAMS), self.rng.choice(REACH))
        elif chosen == "read_all":
            await self.read_all(host, self.rng.choice(REACH))
        else:
            await self._delete(host)

    async def append(self, host: SimNode) -> bool:
        """Whether it was acknowledged."""
        rng = self.rng
        stream = rng.choice(STREAMS)
        known = self._seen.get(stream, NO_STREAM)
        expected = rng.choice((ANY_VERSION, ANY_VERSION, known, known, NO_STREAM))
        new = []
        for _ in range(rng.choice((1, 1, 2, 5))):
            self._count += 1
            new.append(NewEvent("e", {"n": self._count}, event_id=f"{self.name}-{self._count}"))
        outcome = "unknown"
        for _ in range(rng.choice((1, 2, 4))):
            outcome = await self._append(host, stream, expected, new)
            if outcome != "unknown":
                break
            host = rng.choice(self.desk.nodes)
            self.desk.did["append again"] += 1
        return outcome == "applied"

    async def _append(self, host: SimNode, stream: str, expected: int, new: list[NewEvent]) -> str:
        sent = tuple(Placed(stream, str(e.event_id), msgspec.json.encode(e.data).decode()) for e in new)
        facts: dict[str, Any] = {"kind": "append", "stream_id": stream, "expected_version": expected}
        try:
            answer, life = await self._noted(
                host, facts | {"events": sent}, lambda node: _streams(node).append(stream, expected, new)
            )
        except WrongExpectedVersion as error:
            self._told(stream, error.actual)
            return "not-applied"
        except ShoalError as error:
            return error.outcome
        self._told(stream, int(answer))
        self._own[life, stream] = int(answer)
        return "applied"

    def _told(self, stream: str, version: int) -> None:
        self._seen[stream] = version

    async def _read(self, host: SimNode, stream: str, reach: Consistency) -> None:
        start = self.rng.choice((0, 0, max(0, self._seen.get(stream, 0) - 5)))
        facts = {"kind": "read", "stream_id": stream, "consistency": reach, "after": start}
        wrote = dict(self._own)
        call = lambda node: _streams(node).read_page(stream, start, 50, consistency=reach)  # noqa: E731
        try:
            page, life = await self._noted(host, facts, call)
        except ShoalError:
            return
        own = wrote.get((life, stream), NO_STREAM)
        if page.version < own and not self._deletes(stream):
            self.desk.violations.append(
                f"{self.name} read {stream} on {host.name} at {page.version}, but wrote {own} there"
            )
        if reach == "linearizable":
            self._told(stream, page.version)

    def _deletes(self, stream: str) -> bool:
        return any(o.kind == "delete" and o.stream_id == stream for o in self.desk.operations)

    async def read_all(self, host: SimNode, reach: Consistency) -> bool:
        """Whether it was answered."""
        top = max((o.position or 0 for o in self.desk.operations[-20:]), default=0)
        after = self.rng.choice((0, max(0, top - 10)))
        facts = {"kind": "read_all", "consistency": reach, "after": after}
        try:
            await self._noted(
                host,
                facts,
                lambda node: _streams(node).read_events(EventFilter(), after, 50, consistency=reach),
            )
        except ShoalError:
            return False
        return True

    async def _delete(self, host: SimNode) -> None:
        stream = DELETED
        try:
            await self._noted(
                host, {"kind": "delete", "stream_id": stream}, lambda node: _streams(node).delete(stream)
            )
        except ShoalError:
            return

    async def _noted(
        self, host: SimNode, facts: dict[str, Any], work: Callable[[Node], Awaitable[Any]]
    ) -> tuple[Any, Life]:
        """Do it, and note it in the history."""
        desk = self.desk
        number = len(desk.operations)
        operation = Operation(
            number=number, client=self.name, node=host.name, invoked_us=desk.now_us(), **facts
        )
        desk.operations.append(operation)

        def note(**changes: Any) -> None:
            desk.operations[number] = msgspec.structs.replace(operation, **changes)
            desk.trace(f"{self.name} {host.name} {_shown(desk.operations[number])}")

        try:
            answer, life = await desk.call_life(host, work)
        except StreamNotFound:
            note(completed_us=desk.now_us(), outcome="applied", version=NO_STREAM)
            raise
        except ShoalError as error:
            told = {"version": error.actual} if isinstance(error, WrongExpectedVersion) else {}
            done_us = None if error.outcome == "unknown" else desk.now_us()
            desk.did[f"{operation.kind} {error.outcome}"] += 1
            note(completed_us=done_us, outcome=error.outcome, error=error.code, **told)
            raise
        desk.did[f"{operation.kind} applied"] += 1
        note(completed_us=desk.now_us(), outcome="applied", **_answered(operation, answer))
        return answer, life


def _answered(operation: Operation, answer: Any) -> dict[str, Any]:
    if operation.kind == "append":
        events = placed(operation.events, answer.first_version, answer.position)
        return {"events": events, "version": int(answer), "position": answer.position}
    if operation.kind == "read":
        return {"events": tuple(map(place_of, answer.events)), "version": answer.version}
    if operation.kind == "read_all":
        return {"events": tuple(map(place_of, answer.events)), "position": answer.head}
    return {}


def place_of(event: Event) -> Placed:
    """An event for a history."""
    return Placed(event.stream_id, event.event_id, event.data_raw.decode(), event.version, event.position)


def _shown(operation: Operation) -> str:
    ids = [event.event_id for event in operation.events] if operation.kind == "append" else ""
    return (
        f"#{operation.number} {operation.kind} {operation.stream_id} {operation.consistency} {ids} "
        f"expected {operation.expected_version}: {operation.outcome} {operation.error} "
        f"version {operation.version} position {operation.position}"
    )


def _streams(node: Node) -> Any:
    return node.store(STORE).streams


class Consumers:
    """Consumers of one ordered subscription of everything, and what they may conclude."""

    def __init__(self, desk: Desk, name: str) -> None:
        self.desk = desk
        self.name = name
        self.careful = False
        """No event is forgotten any more."""
        self.had: Counter[int] = Counter()
        self.acking: set[int] = set()
        self.acked: list[tuple[int, int, int]] = []
        """(time, term, checkpoint) of each answered ack."""
        self.places: defaultdict[str, dict[int, int]] = defaultdict(dict)

    async def make(self, host: SimNode) -> None:
        """Make the subscription. Raises ShoalError."""
        options = {
            "ordered": True,
            "strategy": "by_stream",
            "ack_timeout_ms": 1_000,
            "consumer_timeout_ms": 1_000,
            "max_retries": 1_000,
            "max_in_flight": 50,
            "backoff_ms": [],
        }
        await self.desk.call(
            host, lambda node: node.store(STORE).subscriptions.create("all", None, self.name, **options)
        )

    async def has_all(self, host: SimNode) -> bool:
        """Whether that node leads, and says that nothing is left to deliver."""
        if host.node is None or not host.node.driver.serves:
            return False

        async def lag(node: Node) -> int:
            store = node.store(STORE)
            await store.settle_reads(
                "leader"
            )  # what the others have committed may still be on its way to its disk
            return (await store.subscriptions.stats(self.name)).lag

        try:
            left: int = await self.desk.call(host, lag)
        except ShoalError:
            return False
        return left == 0

    async def consume(self, number: int, until: Callable[[], bool], pause_s: float) -> None:
        """Pull, ack, and now and then forget to."""
        desk, rng = self.desk, random.Random(self.desk.rng.getrandbits(64))
        consumer = f"{self.name}-{number}"
        host = rng.choice(desk.nodes)
        while not until():
            await asyncio.sleep(rng.random() * 2 * pause_s)
            begun_us = desk.now_us()
            try:
                events, term = await desk.call(host, lambda node: self._pull(node, consumer))
            except NotFound:
                host = rng.choice(desk.nodes)
                continue
            except ShoalError:
                desk.did["pull failed"] += 1
                host = rng.choice(desk.nodes)
                continue
            desk.trace(f"{consumer} {host.name} pulled {[e.position for e in events]} in term {term}")
            self._judge(events, term, begun_us)
            if events and (self.careful or rng.random() < 0.9):
                count = len(events) if self.careful else rng.randint(1, len(events))
                await self._ack(host, events[:count])

    async def _pull(self, node: Node, consumer: str) -> tuple[list[Delivered], int]:
        term = node.driver.term
        events = await node.store(STORE).subscriptions.pull(self.name, 20, 100, consumer)
        return events, term

    def _judge(self, events: list[Delivered], term: int, begun_us: int) -> None:
        settled = max((c for at, of, c in self.acked if at < begun_us and of < term), default=0)
        batch: set[int] = set()
        for event in events:
            batch.add(event.position)
            self.desk.did["delivered"] += 1
            self.had[event.position] += 1
            places = self.places[event.stream_id]
            places[event.version] = event.position
            if event.position <= settled:
                self._violated(f"{event.position} was delivered in term {term}, settled was {settled}")
            before = [p for v, p in places.items() if v < event.version and p not in self.acking | batch]
            if before and event.stream_id != DELETED:
                self._violated(f"{event.stream_id}@{event.version} was delivered before {before} was acked")

    async def _ack(self, host: SimNode, events: list[Delivered]) -> None:
        desk = self.desk
        self.acking.update(event.position for event in events)
        leases = [event.lease for event in events]
        begun_us = desk.now_us()

        async def ack(node: Node) -> tuple[int, int]:
            term = node.driver.term
            return await node.store(STORE).subscriptions.ack_leases(self.name, leases), term

        try:
            checkpoint, term = await desk.call(host, ack)
        except LeaseExpired:
            desk.did["lease expired"] += 1
            return
        except ShoalError:
            desk.did["ack failed"] += 1
            return
        desk.did["acked"] += 1
        known = max((c for at, _, c in self.acked if at < begun_us), default=0)
        if checkpoint < known:
            self._violated(f"the checkpoint went back from {known} to {checkpoint}")
        self.acked.append((desk.now_us(), term, checkpoint))

    def _violated(self, text: str) -> None:
        self.desk.violations.append(f"subscription {self.name}: {text}")
