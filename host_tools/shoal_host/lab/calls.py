"""One call of the lab to a node over HTTP, recorded as it went: an operation of the history."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
import msgspec

from shoal.client.problems import error_of
from shoal.errors import Outcome, ShoalError, StreamNotFound, WrongExpectedVersion
from shoal.testing.history import Kind, Operation, Placed
from shoal_host.lab.cluster import LabNode
from shoal_host.lab.recorder import Did, Recorder


def content_of(event_type: str, data: Any) -> str:
    """What a history keeps of an event: a digest, the same however its JSON is written."""
    text = msgspec.json.encode([event_type, data], order="deterministic")
    return hashlib.sha256(text).hexdigest()[:16]


def name_of(client: str, number: int) -> str:
    """What a history calls an event: its id, where the client gave it one."""
    return f"{client}-{number}"


def placed_event(event: dict[str, Any]) -> Placed:
    """From an event as HTTP gives it."""
    name, data = event["event_id"], event["data"]
    if not name.startswith("client-") and "client" in data:  # the store's id: known by what is in it
        name = name_of(data["client"], data["n"])
    return Placed(
        event["stream_id"],
        name,
        content_of(event["event_type"], event["data"]),
        event["version"],
        event["position"],
    )


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, of which nodes, and who takes it down."""

    name: str
    rng: random.Random
    nodes: Sequence[LabNode]
    recorder: Recorder
    session: aiohttp.ClientSession

    def begin(self, kind: Kind, **fields: Any) -> Call:
        """An operation at one of the nodes."""
        return Call(self, kind, **fields)


class Call:
    """One operation from its beginning until it is recorded."""

    def __init__(self, caller: Caller, kind: Kind, **fields: Any) -> None:
        self._session = caller.session
        self._node = caller.rng.choice(caller.nodes)
        self._recorder = caller.recorder
        self._fields = fields | {"kind": kind, "client": caller.name}
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
        try:
            async with self._session.request(
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
