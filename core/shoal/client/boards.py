"""Which board to ask next: the leader for what it decides, else round robin over those that answer."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence


class Board:
    """One url, the node that answers there as far as known, and until when it rests."""

    __slots__ = ("failures", "given", "node_id", "resting_until_ms", "url")

    def __init__(self, url: str, *, given: bool = True, node_id: str | None = None) -> None:
        self.url = url
        self.given = given
        self.node_id = node_id
        self.failures = 0
        self.resting_until_ms = 0


class Boards:
    """The boards of one store: those given, for ever, and those that the cluster names, while it does.

    A failed one rests for `rest_ms`, doubled with each failure, up to `max_rest_ms`.
    """

    def __init__(self, urls: Sequence[str], *, rest_ms: int = 1_000, max_rest_ms: int = 30_000) -> None:
        self._boards = [Board(url) for url in urls]
        self._rest_ms = rest_ms
        self._max_rest_ms = max_rest_ms
        self._turn = 0
        self._leader_id: str | None = None

    def __len__(self) -> int:
        return len(self._boards)

    def pick(
        self,
        now_ms: int,
        tried: Collection[Board] = (),
        busy: Collection[Board] = (),
        *,
        leader_first: bool = False,
    ) -> Board:
        """The leader where it is wanted and can be had, else the next awake board, rather one not in `tried`.

        When all rest, the one that wakes first. One in `busy` only if there is no other.
        """
        in_turn = self._boards[self._turn :] + self._boards[: self._turn]
        in_turn = [board for board in in_turn if board not in busy] or in_turn
        awake = [board for board in in_turn if board.resting_until_ms <= now_ms]
        fresh = [board for board in awake if board not in tried]
        if leader_first and self._leader_id is not None:
            fresh.sort(key=lambda board: board.node_id != self._leader_id)
        choice = (fresh or awake or [min(in_turn, key=lambda board: board.resting_until_ms)])[0]
        self._turn = (self._boards.index(choice) + 1) % len(self._boards)
        return choice

    def fresh(self, now_ms: int, tried: Collection[Board]) -> bool:
        """Whether a board is awake that is not in `tried`, so that no pause is needed."""
        return any(board.resting_until_ms <= now_ms and board not in tried for board in self._boards)

    def likeliest(self, now_ms: int) -> list[Board]:
        """All of them, the awake first; nobody's turn is taken."""
        return sorted(self._boards, key=lambda board: max(board.resting_until_ms, now_ms))

    def failed(self, board: Board, now_ms: int) -> None:
        """Let `board` rest, longer each time."""
        rest_ms = min(self._max_rest_ms, self._rest_ms << min(board.failures, 16))
        board.failures += 1
        self._rest(board, now_ms + rest_ms)

    def without_leader(self, board: Board, now_ms: int, leader_id: str | None = None) -> None:
        """`board` is alive and reaches no leader: it rests, no longer than an election takes.

        It may have told which node leads, and another board may reach that one.
        """
        self._rest(board, now_ms + self._rest_ms)
        if leader_id is not None and leader_id != board.node_id:
            self._leader_id = leader_id

    def _rest(self, board: Board, until_ms: int) -> None:
        board.resting_until_ms = until_ms
        if board.node_id == self._leader_id:
            self._leader_id = None

    def answered(self, board: Board, node_id: str | None = None, role: str | None = None) -> None:
        """`board` is alive: no rest. What it said of itself is remembered."""
        board.failures = 0
        board.resting_until_ms = 0
        if node_id is None:
            return
        board.node_id = node_id
        if role == "leader":
            self._leader_id = node_id
        elif self._leader_id == node_id:
            self._leader_id = None

    def learn(self, members: Mapping[str, str], leader_id: str | None) -> None:
        """Take the cluster's own list, urls by node id. A node that answers at a given url needs no other."""
        known = {board.url: board for board in self._boards}
        kept = [board for board in self._boards if board.given]
        at_home = {board.node_id for board in kept if not board.failures}
        for node_id, url in members.items():
            board = known.get(url)
            if board is not None and board.given:
                board.node_id = node_id
            elif node_id not in at_home:
                board = board or Board(url, given=False)
                board.node_id = node_id
                kept.append(board)
        self._boards = kept
        self._turn %= len(kept)
        self._leader_id = leader_id
