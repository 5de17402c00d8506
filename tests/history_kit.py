"""Histories for tests: by hand, and from a true run of one store that answers late."""

from __future__ import annotations

import random

from shoal.testing.history import CONFLICT, History, Operation, Placed, placed


def append(number, begin, end, *events, outcome="applied", **fields):
    """An append of (id, version, position) to stream `s`, acknowledged there unless `outcome` says otherwise."""
    stream_id = fields.setdefault("stream_id", "s")
    sent = tuple(Placed(stream_id, i, "x", *(place if outcome == "applied" else ())) for i, *place in events)
    told = {"version": sent[-1].version, "position": sent[-1].position} if outcome == "applied" else {}
    return Operation(
        number=number,
        client=f"c{number}",
        kind="append",
        invoked_us=begin,
        completed_us=end,
        outcome=outcome,
        events=sent,
        **(told | fields),
    )


def read(number, begin, end, version, *events, stream_id="s", **fields):
    """A linearizable read of a whole stream that told `version`."""
    seen = tuple(Placed(stream_id, i, "x", *place) for i, *place in events)
    defaults = {"consistency": "linearizable", "outcome": "applied", "kind": "read", "stream_id": stream_id}
    return Operation(
        number=number,
        client=f"c{number}",
        invoked_us=begin,
        completed_us=end,
        version=version,
        events=seen,
        **(defaults | fields),
    )


def read_all(number, begin, end, head, *events, **fields):
    """A linearizable read of all streams that told `head`."""
    return read(number, begin, end, None, *events, kind="read_all", **fields, position=head)


def conflict(number, begin, end, actual, event_id="never", **fields):
    """An append refused since the stream was at `actual`."""
    return append(
        number,
        begin,
        end,
        (event_id,),
        outcome="not-applied",
        error=CONFLICT,
        version=actual,
        expected_version=actual + 7,
        **fields,
    )


def delete(number, begin, end, outcome="applied", stream_id="s"):
    return Operation(
        number=number,
        client=f"c{number}",
        kind="delete",
        stream_id=stream_id,
        invoked_us=begin,
        completed_us=end,
        outcome=outcome,
    )


def stored(*events, stream_id="s"):
    """Final events from (id, version, position)."""
    return [Placed(stream_id, i, "x", version, position) for i, version, position in events]


class TrueStore:
    """A store that does one thing at a time, each at a random moment within its call."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.log: list[Placed] = []
        self.heads: dict[str, int] = {}
        self.operations: list[Operation] = []
        self._now_us = 0

    def run(self, count: int) -> History:
        """A history of `count` operations."""
        for number in range(count):
            self._now_us += self._rng.randrange(1, 50)
            choose = self._rng.choices((self._append, self._read, self._read_all), (5, 2, 2))[0]
            choose(number)
        return History(self.operations, self.log)

    def _record(self, number, **fields):
        rng = self._rng
        operation = Operation(
            number=number,
            client=f"c{number % 5}",
            invoked_us=self._now_us - rng.choice((0, 1, 200)),
            completed_us=self._now_us + rng.choice((0, 1, 200)),
            **({"outcome": "applied"} | fields),
        )
        self.operations.append(operation)

    def _append(self, number):
        rng = self._rng
        stream_id = rng.choice("abc")
        head = self.heads.get(stream_id, -1)
        expected = rng.choice((-2, -2, head, head, head + 1))
        ids = [f"e{number}-{n}" for n in range(rng.choice((1, 1, 3)))]
        sent = tuple(Placed(stream_id, event_id, f"of {event_id}") for event_id in ids)
        call = {"kind": "append", "stream_id": stream_id, "expected_version": expected}
        if expected not in {-2, head}:
            told = {"error": CONFLICT, "version": head, "outcome": "not-applied"}
            self._record(number, **call, **told, events=sent)
            return
        fate = rng.choice(("acked", "acked", "acked", "lost", "unanswered"))
        if fate == "lost":
            self._record(number, **call, events=sent, outcome=rng.choice(("unknown", "not-applied")))
            return
        there = placed(sent, head + 1, len(self.log) + len(sent))
        self.log += there
        self.heads[stream_id] = there[-1].version
        if fate == "unanswered":
            self._record(number, **call, events=sent, outcome="unknown")
        else:
            told = {"version": there[-1].version, "position": there[-1].position}
            self._record(number, **call, **told, events=there)

    def _read(self, number):
        stream_id = self._rng.choice("abc")
        events = [event for event in self.log if event.stream_id == stream_id]
        after = self._rng.randrange(len(events) + 1)
        self._record(
            number,
            kind="read",
            stream_id=stream_id,
            version=len(events) - 1,
            after=after,
            events=tuple(events[after : after + 4]),
            consistency="linearizable",
        )

    def _read_all(self, number):
        after = self._rng.randrange(len(self.log) + 1)
        self._record(
            number,
            kind="read_all",
            position=len(self.log),
            after=after,
            events=tuple(self.log[after : after + 4]),
            consistency="linearizable",
        )
