"""Consumers of one subscription to all events: they pull, acknowledge most, and let the rest come again."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from shoal.errors import ShoalError
from shoal.testing.history import DRAIN
from shoal_host.lab.calls import Call, Caller, placed_event

_PATH: Final = "/v1/subscriptions/lab"
_DEFINITION: Final = {
    "type": "all",
    "start_from": "beginning",
    "ack_timeout_ms": 2_000,
    "max_retries": 1_000,  # nothing is to be parked
    "backoff_ms": [100],
    "strategy": "round_robin",
}
_COUNT: Final = 50
_WAIT_MS: Final = 500
_PAUSE_AFTER_ERROR_S: Final = 0.1


class Consumer:
    """One consumer. It makes the subscription, as each does: they are the same."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self._made = False

    @property
    def name(self) -> str:
        """Whose operations they are."""
        return self._caller.name

    async def run(self, stop: asyncio.Event) -> None:
        """Pull and acknowledge until `stop` is set."""
        while not stop.is_set():
            if not await self.take():
                await asyncio.sleep(_PAUSE_AFTER_ERROR_S)

    async def take(self) -> list[dict[str, Any]] | None:
        """The events of one pull, acknowledged mostly; None when it failed."""
        if not self._made:
            made = self._caller.begin("subscribe")
            if await _answer(made, "PUT", _PATH, _DEFINITION) is None:
                return None
            made.end("applied")
            self._made = True
        pull = self._caller.begin("pull")
        sent = {"count": _COUNT, "wait_ms": _WAIT_MS, "consumer": self.name}
        answer = await _answer(pull, "POST", f"{_PATH}/pull", sent)
        if answer is None:
            return None
        events: list[dict[str, Any]] = answer["events"]
        pull.end("applied", events=tuple(map(placed_event, events)))
        if events and (self.name == DRAIN or self._caller.rng.random() < 0.9):
            await self._ack(events)
        return events

    async def _ack(self, events: list[dict[str, Any]]) -> None:
        ack = self._caller.begin("ack", events=tuple(map(placed_event, events)))
        leases = [event["lease"] for event in events]
        if await _answer(ack, "POST", f"{_PATH}/ack", {"leases": leases}) is not None:
            ack.end("applied")


async def drain(caller: Caller) -> None:
    """Take what is left, once all is healed. Raises what a pull fails with."""
    consumer = Consumer(caller)
    while await consumer.take():
        pass


async def _answer(call: Call, method: str, path: str, body: dict[str, Any]) -> dict[str, Any] | None:
    """What a node answers; None for an error, which is recorded."""
    try:
        return await call.send(method, path, body)
    except ShoalError:
        return None
