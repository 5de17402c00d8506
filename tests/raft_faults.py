"""A whole life in the simulation of Raft cores: faults at random, then all is mended and the cluster has to go on."""

from __future__ import annotations

from collections.abc import Callable

from raft_sim import SimBoard, Simulation

from shoal.raft.errors import ChangeRefused, NotLeader

FAULTS_MS = 15_000
LEADER_MS = 15_000
"""How long the mended cluster may take until somebody leads: three election timeouts of the longest kind."""
COMMIT_MS = 20_000


def live(seed: int, trace: Callable[[str], None] | None = None) -> Simulation:
    """Raises AssertionError, which names the law that does not hold."""
    life = Life(seed, trace)
    try:
        life.suffer()
        life.recover()
    except AssertionError as error:
        life.sim.note(f"BROKEN: {error}")
        raise
    return life.sim


class Life:
    """Faults, clients and an administrator, each at times drawn from the seed."""

    def __init__(self, seed: int, trace: Callable[[str], None] | None) -> None:
        self.sim = Simulation(seed, trace)
        self.random = self.sim.random
        self.faults = [
            *[self._crash] * 4,
            *[self._part] * 3,
            *[self._hang] * 2,
            self._transfer,
            self._step_down,
            self._compact,
            self._compact,
            self._connections_break,
        ]

    # -- bad times -------------------------------------------------------------------------------

    def suffer(self) -> None:
        sim = self.sim
        self._every(self.random.randrange(20, 200), sim.propose)
        self._every(self.random.randrange(50, 300), sim.read)
        if self.random.random() < 0.7:
            self._every(self.random.randrange(300, 2_000), sim.change_members)
        self._every(self.random.randrange(200, 1_500), self._strike)
        sim.run_until(FAULTS_MS)

    def _every(self, ms: int, do: Callable[[], None]) -> None:
        def again() -> None:
            if self.sim.faulty:
                do()
                self.sim.after(self.random.randrange(2 * ms), again)

        self.sim.after(ms, again)

    def _strike(self) -> None:
        self.random.choice(self.faults)()

    def _any(self) -> SimBoard:
        """Often the leader: that is where it hurts."""
        leaders = self.sim.leaders()
        if leaders and self.random.random() < 0.4:
            return leaders[0][0]
        return self.random.choice(list(self.sim.boards.values()))

    def _crash(self) -> None:
        sim = self.sim
        struck = [self._any()] if self.random.random() < 0.8 else sim.up()
        for board in struck:
            sim.crash(board)
            sim.after(self.random.randrange(20, 4_000), lambda board=board: sim.start(board))
            if self.random.random() < 0.6:
                sim.after(20, lambda board=board: self._notice(board))

    def _notice(self, gone: SimBoard) -> None:
        """The others' connections to it end."""
        for board in self.sim.up():
            assert board.node is not None
            now_ms = board.clock(self.sim.now_ms)
            board.node.leader_lost(gone.name, now_ms)
            board.node.unreachable(gone.name, now_ms)
            self.sim.pump(board)

    def _part(self) -> None:
        sim = self.sim
        if self.random.random() < 0.3:
            cut = {(self._any().name, self._any().name) for _ in range(self.random.randrange(1, 6))}
        else:
            here = {name for name in sim.boards if self.random.random() < 0.5} or {self._any().name}
            there = set(sim.boards) - here
            both = self.random.random() < 0.7
            cut = {(a, b) for a in here for b in there} | {(b, a) for a in here for b in there if both}
        sim.cuts |= cut
        sim.note("cut: " + ", ".join(f"{a}>{b}" for a, b in sorted(cut)))
        sim.after(self.random.randrange(300, 5_000), lambda: self._mend(cut))

    def _mend(self, cut: set[tuple[str, str]]) -> None:
        self.sim.cuts -= cut
        self.sim.note("mended: " + ", ".join(f"{a}>{b}" for a, b in sorted(cut)))

    def _hang(self) -> None:
        board = self._any()
        board.hung_until_ms = self.sim.now_ms + self.random.randrange(500, 6_000)
        self.sim.note(f"{board.name}'s disk hangs until {board.hung_until_ms}")

    def _transfer(self) -> None:
        for board, node in self.sim.leaders():
            try:
                chosen = node.transfer(None, board.clock(self.sim.now_ms))
            except (NotLeader, ChangeRefused) as refusal:
                self.sim.note(f"{board.name} hands over to nobody: {refusal}")
                continue
            self.sim.note(f"{board.name} hands over to {chosen}")
            self.sim.pump(board)

    def _step_down(self) -> None:
        for board, node in self.sim.leaders():
            self.sim.note(f"{board.name} steps down")
            node.step_down()
            self.sim.pump(board)

    def _compact(self) -> None:
        for board in self.sim.up():
            self.sim.compact(board)

    def _connections_break(self) -> None:
        self._notice(self._any())

    # -- good times ------------------------------------------------------------------------------

    def recover(self) -> None:
        """All links, boards and disks are well again: somebody leads, commands are done, nothing is missing."""
        sim = self.sim
        sim.note("everything is mended")
        sim.faulty = False
        sim.cuts.clear()
        for board in sim.boards.values():
            board.hung_until_ms = 0
            sim.start(board)
        assert sim.run_until(sim.now_ms + LEADER_MS, self._somebody_serves), "liveness: nobody leads"
        acknowledged = sim.laws.acknowledgements
        until_ms = sim.now_ms + COMMIT_MS

        def propose_again() -> None:
            if sim.now_ms < until_ms:
                sim.propose()
                sim.after(500, propose_again)

        propose_again()
        sim.read()
        assert sim.run_until(until_ms, lambda: sim.laws.acknowledgements >= acknowledged + 3), (
            "liveness: nothing is committed"
        )
        until_ms = sim.now_ms
        assert sim.run_until(sim.now_ms + COMMIT_MS, self._all_agree), "liveness: not everybody catches up"
        for board in self._members():
            sim.laws.nothing_lost(board.name, board.journal)
        sim.run_until(sim.now_ms + 12_000)
        for board in sim.boards.values():
            assert not board.reads, f"liveness: reads of {board.name} are never answered"

    def _somebody_serves(self) -> bool:
        return any(node.serves for _, node in self.sim.leaders())

    def _members(self) -> list[SimBoard]:
        _, configuration = self.sim.laws.configuration_at(self.sim.laws.last)
        return [self.sim.boards[member.node_id] for member in configuration.members]

    def _all_agree(self) -> bool:
        return all(board.applied == self.sim.laws.last for board in self._members())
