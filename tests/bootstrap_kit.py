"""Boards that bootstrap over a network in the test's hand: what is sent waits in `wire` until it is delivered."""

from __future__ import annotations

import hashlib

from shoal.cluster.bootstrap import ASK_AGAIN_MS, Bootstrap, Candidate
from shoal.cluster.promise import Message, Promise, decode, encode
from shoal.raft.log import Member


def candidate(node_id: str, life: int = 1, **fields: object) -> Candidate:
    """A board; each `life` is another incarnation."""
    seed = f"{node_id}{life}".encode()
    values = {"addresses": (f"{node_id}:4590",), "url": f"http://{node_id}:4589"} | fields
    return Candidate(
        node_id, hashlib.sha256(seed).digest()[:16], hashlib.sha256(node_id.encode()).digest(), **values
    )  # type: ignore[arg-type] # fields as given


class Board:
    """One board: its disk is `saved`, all else is gone with a crash."""

    def __init__(self, node_id: str, expect: int, **fields: object) -> None:
        self.expect = expect
        self.fields = fields
        self.life = 0
        self.wipe(node_id)

    def wipe(self, node_id: str) -> None:
        self.life += 1
        self.own = candidate(node_id, self.life, **self.fields)
        self.saved: Promise | None = None
        self.crash()

    def crash(self) -> None:
        self.machine = Bootstrap(self.own, self.expect, self.saved)

    def save(self) -> None:
        promise = self.machine.to_save
        if promise is not None:
            self.saved = promise
            self.machine.saved(promise)


class Fleet:
    """Boards and the messages between them, as bytes, to (receiver, sender)."""

    def __init__(self, *names: str, expect: int | None = None, **fields: object) -> None:
        count = len(names) if expect is None else expect
        self.boards = {name: Board(name, count, **fields) for name in names}
        self.wire: list[tuple[str, str, bytes]] = []
        self.now_ms = 0
        self.begun: set[tuple[Member, ...]] = set()

    def meet(self, one: str, other: str) -> None:
        """A handshake, as `one` sees it."""
        self.boards[one].machine.hear(self.boards[other].own, self.now_ms)

    def meet_all(self) -> None:
        for one in self.boards:
            for other in self.boards:
                self.meet(one, other)

    def send(self, name: str) -> None:
        """Put on the wire what the board has ready."""
        self.wire += [(to, name, encode(message)) for to, message in self.boards[name].machine.ready()]
        begun = self.boards[name].machine.begun
        if begun is not None:
            self.begun.add(begun)

    def deliver(self, index: int, *, again: bool = False) -> Message | None:
        """Hand over one message; `again` leaves a second one on the wire."""
        to, sender, body = self.wire[index] if again else self.wire.pop(index)
        message = decode(body)
        assert message is not None
        if to in self.boards:
            self.boards[to].machine.step(sender, message, self.now_ms)
        return message

    def tick(self, name: str) -> None:
        self.boards[name].machine.handle_deadline(self.now_ms)

    def settle(self, rounds: int = 8) -> None:
        """A healthy network and healthy disks, for some seconds."""
        for _ in range(rounds):
            self.now_ms += ASK_AGAIN_MS
            for name in self.boards:
                self.tick(name)
            self.flow()

    def flow(self) -> None:
        """Until nothing is under way."""
        moving = True
        while moving:
            for name, board in self.boards.items():
                board.save()
                self.send(name)
            moving = bool(self.wire)
            while self.wire:
                self.deliver(0)

    def groups(self) -> list[list[str]]:
        """The node ids of each board's group, in the boards' order; empty without one."""
        return [[each.node_id for each in board.machine.begun or ()] for board in self.boards.values()]
