"""Clients that append and read over HTTP, at any node, and record what they did and saw.

Nothing is tried again behind the recorder's back: an append of unknown outcome that is sent again, with the same event
ids, is another operation.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any, Final

import aiohttp

from shoal.errors import ShoalError, StreamNotFound, WrongExpectedVersion
from shoal.testing.history import DRAIN, Consistency, Placed, placed
from shoal.types import ANY_VERSION, NO_STREAM
from shoal_host.lab.calls import Caller, content_of, name_of, placed_event
from shoal_host.lab.cluster import LabNode
from shoal_host.lab.consumer import Consumer, drain
from shoal_host.lab.recorder import Recorder

TIMEOUT_S: Final = 2.0
"""How long a client waits for an answer; then it cannot know."""
DRAIN_S: Final = 20.0
_SHARED: Final = ("shared-1", "shared-2", "shared-3")
_CONSISTENCIES: Final[tuple[Consistency, ...]] = ("linearizable", "linearizable", "leader", "local")
_PAGE: Final = 20
_PAUSE_S: Final = 0.04
_PAUSE_AFTER_ERROR_S: Final = 0.1


class Client:
    """One client: it does one thing after another."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self._name = caller.name
        self._rng = caller.rng
        self._sent = 0
        self._own_version: int | None = NO_STREAM
        self._seen: dict[str, int] = {}
        self._head = 0
        self._in_doubt: tuple[str, list[dict[str, Any]], int] | None = None

    @property
    def name(self) -> str:
        """Whose operations they are."""
        return self._name

    async def run(self, stop: asyncio.Event) -> None:
        """One operation after another until `stop` is set."""
        while not stop.is_set():
            pause_s = _PAUSE_S * self._rng.random()
            if not await self._one():
                pause_s += _PAUSE_AFTER_ERROR_S
            await asyncio.sleep(pause_s)

    async def _one(self) -> bool:
        """One operation; whether it was answered."""
        if self._in_doubt is not None and self._rng.random() < 0.5:
            stream_id, events, expected = self._in_doubt
            self._in_doubt = None
            return await self._append(stream_id, events, expected)
        self._in_doubt = None
        choose = self._rng.choices(
            (self._append_own, self._append_shared, self._read_stream, self._read_all), (5, 5, 3, 2)
        )[0]
        return await choose()

    async def _append_own(self) -> bool:
        """To a stream that only this client writes, at the version it must have."""
        if self._own_version is None:
            return await self._read(self._name, "linearizable")
        return await self._append(self._name, self._events(), self._own_version)

    async def _append_shared(self) -> bool:
        """To a stream that all write, at any version or at the one seen last."""
        stream_id = self._rng.choice(_SHARED)
        expected = self._rng.choice((ANY_VERSION, self._seen.get(stream_id, NO_STREAM)))
        return await self._append(stream_id, self._events(), expected)

    async def _read_stream(self) -> bool:
        return await self._read(self._rng.choice((self._name, *_SHARED)), self._rng.choice(_CONSISTENCIES))

    def _events(self) -> list[dict[str, Any]]:
        """One or some, mostly with ids of their own: by those the store knows what comes twice."""
        made: list[dict[str, Any]] = []
        own_ids = self._rng.random() < 0.7
        for _ in range(self._rng.choice((1, 1, 1, 2, 5))):
            self._sent += 1
            data = {"client": self._name, "n": self._sent, "text": "x" * self._rng.choice((0, 40, 400))}
            event_id = {"event_id": name_of(self._name, self._sent)} if own_ids else {}
            made.append({"event_type": "lab_tried", "data": data, **event_id})
        return made

    async def _append(self, stream_id: str, events: list[dict[str, Any]], expected: int) -> bool:
        sent = tuple(
            Placed(
                stream_id,
                name_of(self._name, event["data"]["n"]),
                content_of(event["event_type"], event["data"]),
            )
            for event in events
        )
        call = self._caller.begin("append", stream_id=stream_id, events=sent, expected_version=expected)
        path = f"/v1/streams/{stream_id}?expected_version={expected}"
        try:
            answer = await call.send("POST", path, events)
        except ShoalError as error:
            self._refused(error, stream_id, events, expected)
            return call.answered
        version, position = answer["version"], answer["position"]
        there = placed(sent, answer["first_version"], position)
        call.end("applied", events=there, version=version, position=position)
        self._saw(stream_id, version)
        return True

    def _refused(
        self, error: ShoalError, stream_id: str, events: list[dict[str, Any]], expected: int
    ) -> None:
        if isinstance(error, WrongExpectedVersion):
            self._saw(stream_id, error.actual)
        elif error.outcome == "unknown":
            if "event_id" in events[0]:  # others must not be sent again
                self._in_doubt = stream_id, events, expected
            if stream_id == self._name:
                self._own_version = None

    def _saw(self, stream_id: str, version: int) -> None:
        self._seen[stream_id] = version
        if stream_id == self._name:
            self._own_version = version

    async def _read(self, stream_id: str, consistency: Consistency) -> bool:
        """The last events of a stream as it was seen, and what came since."""
        after = max(0, self._seen.get(stream_id, NO_STREAM) - 3)
        call = self._caller.begin("read", stream_id=stream_id, consistency=consistency, after=after)
        path = f"/v1/streams/{stream_id}?from={after}&limit={_PAGE}&consistency={consistency}"
        try:
            answer = await call.send("GET", path)
        except StreamNotFound:
            call.end("applied", version=NO_STREAM)
            self._saw(stream_id, NO_STREAM)
            return True
        except ShoalError:
            return call.answered
        call.end("applied", version=answer["version"], events=tuple(map(placed_event, answer["events"])))
        self._saw(stream_id, answer["version"])
        return True

    async def _read_all(self) -> bool:
        after = max(0, self._head - self._rng.randrange(_PAGE))
        consistency = self._rng.choice(_CONSISTENCIES)
        call = self._caller.begin("read_all", consistency=consistency, after=after)
        path = f"/v1/events?after={after}&limit={_PAGE}&consistency={consistency}"
        try:
            answer = await call.send("GET", path)
        except ShoalError:
            return call.answered
        self._head = answer["head"]
        call.end("applied", position=answer["head"], events=tuple(map(placed_event, answer["events"])))
        return True


class Workload:
    """Clients at work, as `async with`; at its end those under way finish."""

    def __init__(
        self, clients: int, seed: int, nodes: Sequence[LabNode], recorder: Recorder, *, consumers: int = 0
    ) -> None:
        self._clients = clients
        self._consumers = consumers
        self._seed = seed
        self._nodes = nodes
        self._recorder = recorder
        self._tasks: list[asyncio.Task[None]] = []
        self._stop = asyncio.Event()
        self._session: aiohttp.ClientSession

    async def __aenter__(self) -> Workload:
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        self._session = aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0))
        for number in range(1, self._clients + 1):
            self._begin(Client(self._caller(f"client-{number}")))
        for number in range(1, self._consumers + 1):
            self._begin(Consumer(self._caller(f"consumer-{number}")))
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._stop.set()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._session.close()

    def _caller(self, name: str) -> Caller:
        rng = random.Random(f"{self._seed} {name}")  # noqa: S311 - the seed gives the same choices again
        return Caller(name, rng, self._nodes, self._recorder, self._session)

    def _begin(self, client: Client | Consumer) -> None:
        self._tasks.append(asyncio.create_task(client.run(self._stop), name=client.name))

    def check(self) -> None:
        """Raise what a client failed with: a defect of the lab, or an answer that no node may give."""
        for task in self._tasks:
            if task.done():
                task.result()


async def drain_all(seed: int, nodes: Sequence[LabNode], recorder: Recorder) -> None:
    """Let the subscription deliver what it has left."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=DRAIN_S)) as session:
        rng = random.Random(f"{seed} {DRAIN}")  # noqa: S311 - as above
        await drain(Caller(DRAIN, rng, nodes, recorder, session))
