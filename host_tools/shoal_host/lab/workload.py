"""Clients that append and read over HTTP, at any node, and record what they did and saw.

Nothing is tried again behind the recorder's back: an append of unknown outcome that is sent again, with the same event
ids, is another operation.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Sequence
from typing import Any, Final

import aiohttp
import msgspec

from shoal.client.problems import error_of
from shoal.errors import Outcome, ShoalError, StreamNotFound, WrongExpectedVersion
from shoal.testing.history import Kind, Operation, Placed, placed
from shoal.types import ANY_VERSION, NO_STREAM
from shoal_host.lab.cluster import LabNode
from shoal_host.lab.recorder import Did, Recorder

TIMEOUT_S: Final = 2.0
"""How long a client waits for an answer; then it cannot know."""
_SHARED: Final = ("shared-1", "shared-2", "shared-3")
_PAGE: Final = 20
_PAUSE_S: Final = 0.04
_PAUSE_AFTER_ERROR_S: Final = 0.1


def content_of(event_type: str, data: Any) -> str:
    """What a history keeps of an event: a digest, the same however its JSON is written."""
    text = msgspec.json.encode([event_type, data], order="deterministic")
    return hashlib.sha256(text).hexdigest()[:16]


def placed_event(event: dict[str, Any]) -> Placed:
    """From an event as HTTP gives it."""
    return Placed(
        event["stream_id"],
        event["event_id"],
        content_of(event["event_type"], event["data"]),
        event["version"],
        event["position"],
    )


class Client:
    """One client: it does one thing after another."""

    def __init__(
        self,
        name: str,
        rng: random.Random,
        nodes: Sequence[LabNode],
        recorder: Recorder,
        session: aiohttp.ClientSession,
    ) -> None:
        self._name = name
        self._rng = rng
        self._nodes = nodes
        self._recorder = recorder
        self._session = session
        self._sent = 0
        self._own_version: int | None = NO_STREAM
        self._seen: dict[str, int] = {}
        self._head = 0
        self._in_doubt: tuple[str, list[dict[str, Any]], int] | None = None

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
            return await self._read(self._name)
        return await self._append(self._name, self._events(), self._own_version)

    async def _append_shared(self) -> bool:
        """To a stream that all write, at any version or at the one seen last."""
        stream_id = self._rng.choice(_SHARED)
        expected = self._rng.choice((ANY_VERSION, self._seen.get(stream_id, NO_STREAM)))
        return await self._append(stream_id, self._events(), expected)

    async def _read_stream(self) -> bool:
        return await self._read(self._rng.choice((self._name, *_SHARED)))

    def _events(self) -> list[dict[str, Any]]:
        made = []
        for _ in range(self._rng.choice((1, 1, 1, 2, 5))):
            self._sent += 1
            data = {"client": self._name, "n": self._sent, "text": "x" * self._rng.choice((0, 40, 400))}
            event_id = f"{self._name}-{self._sent}"
            made.append({"event_type": "lab_tried", "event_id": event_id, "data": data})
        return made

    async def _append(self, stream_id: str, events: list[dict[str, Any]], expected: int) -> bool:
        sent = tuple(
            Placed(stream_id, event["event_id"], content_of(event["event_type"], event["data"]))
            for event in events
        )
        call = _Call(self, "append", stream_id=stream_id, events=sent, expected_version=expected)
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
            self._in_doubt = stream_id, events, expected
            if stream_id == self._name:
                self._own_version = None

    def _saw(self, stream_id: str, version: int) -> None:
        self._seen[stream_id] = version
        if stream_id == self._name:
            self._own_version = version

    async def _read(self, stream_id: str) -> bool:
        """The last events of a stream as it was seen, and what came since."""
        after = max(0, self._seen.get(stream_id, NO_STREAM) - 3)
        call = _Call(self, "read", stream_id=stream_id, consistency="linearizable", after=after)
        path = f"/v1/streams/{stream_id}?from={after}&limit={_PAGE}&consistency=linearizable"
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
        call = _Call(self, "read_all", consistency="linearizable", after=after)
        path = f"/v1/events?after={after}&limit={_PAGE}&consistency=linearizable"
        try:
            answer = await call.send("GET", path)
        except ShoalError:
            return call.answered
        self._head = answer["head"]
        call.end("applied", position=answer["head"], events=tuple(map(placed_event, answer["events"])))
        return True


class _Call:
    """One operation from its beginning until it is recorded."""

    def __init__(self, client: Client, kind: Kind, **fields: Any) -> None:
        self._client = client
        self._node = client._rng.choice(client._nodes)  # noqa: SLF001 - a part of its client
        self._recorder = client._recorder  # noqa: SLF001 - as above
        self._fields = fields | {"kind": kind, "client": client._name}  # noqa: SLF001 - as above
        self._number = self._recorder.number()
        self._invoked_us = self._recorder.now_us()
        self.answered = True

    async def send(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        """The answer of a node. Raises ShoalError, which is recorded then."""
        try:
            return await self._send(method, path, body)
        except StreamNotFound:
            raise
        except ShoalError as error:
            told = {"version": error.actual} if isinstance(error, WrongExpectedVersion) else {}
            self.end(error.outcome, error=error.code, **told)
            raise

    def end(self, outcome: Outcome, **fields: Any) -> None:
        """Record it."""
        completed_us = self._recorder.now_us()
        operation = Operation(
            number=self._number,
            node=self._node.node_id,
            invoked_us=self._invoked_us,
            completed_us=None if outcome == "unknown" else completed_us,
            outcome=outcome,
            **(self._fields | fields),
        )
        self._recorder.add(Did(operation))

    async def _send(self, method: str, path: str, body: Any) -> dict[str, Any]:
        session = self._client._session  # noqa: SLF001 - as above
        try:
            async with session.request(
                method, self._node.url + path, json=body, headers=self._node.headers
            ) as answer:
                raw = await answer.read()
                if answer.status >= 400:
                    raise error_of(answer.status, raw)
                value: dict[str, Any] = msgspec.json.decode(raw)
                return value
        except aiohttp.ClientConnectorError as error:
            self.answered = False
            raise NotSent(str(error)) from error
        except (aiohttp.ClientError, TimeoutError, msgspec.DecodeError) as error:
            self.answered = False
            raise NoAnswer(str(error) or "no answer in time") from error


class NotSent(ShoalError):
    """No connection: the node has seen nothing of it."""

    code = "not-connected"
    title = "No connection"


class NoAnswer(ShoalError):
    """The connection broke, or nothing came in time."""

    code = "no-answer"
    title = "No answer"

    def __init__(self, detail: str) -> None:
        super().__init__(detail, outcome="unknown")


class Workload:
    """Clients at work, as `async with`; at its end those under way finish."""

    def __init__(self, clients: int, seed: int, nodes: Sequence[LabNode], recorder: Recorder) -> None:
        self._clients = clients
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
            name = f"client-{number}"
            rng = random.Random(f"{self._seed} {name}")  # noqa: S311 - the seed gives the same choices again
            client = Client(name, rng, self._nodes, self._recorder, self._session)
            self._tasks.append(asyncio.create_task(client.run(self._stop), name=name))
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._stop.set()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._session.close()

    def check(self) -> None:
        """Raise what a client failed with: a defect of the lab, or an answer that no node may give."""
        for task in self._tasks:
            if task.done():
                task.result()
