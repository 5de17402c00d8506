"""Which board to ask next: round robin over those that answer, a rest for those that do not."""

from __future__ import annotations

from collections.abc import Collection, Sequence


class Board:
    """One url, and until when it rests."""

    __slots__ = ("failures", "resting_until_ms", "url")

    def __init__(self, url: str) -> None:
        self.url = url
        self.failures = 0
        self.resting_until_ms = 0


class Boards:
    """The boards of one store. A failed one rests for `rest_ms`, doubled with each failure, up to `max_rest_ms`."""

    def __init__(self, urls: Sequence[str], *, rest_ms: int = 1_000, max_rest_ms: int = 30_000) -> None:
        self._boards = [Board(url) for url in urls]
        self._rest_ms = rest_ms
        self._max_rest_ms = max_rest_ms
        self._turn = 0

    def __len__(self) -> int:
        return len(self._boards)

    def pick(self, now_ms: int, tried: Collection[Board] = ()) -> Board:
        """The next awake board, rather one not in `tried`; when all rest, the one that wakes first."""
        in_turn = self._boards[self._turn :] + self._boards[: self._turn]
        awake = [board for board in in_turn if board.resting_until_ms <= now_ms]
        fresh = [board for board in awake if board not in tried]
        choice = (fresh or awake or [min(in_turn, key=lambda board: board.resting_until_ms)])[0]
        self._turn = (self._boards.index(choice) + 1) % len(self._boards)
        return choice

    def fresh(self, now_ms: int, tried: Collection[Board]) -> bool:
        """Whether a board is awake that is not in `tried`, so that no pause is needed."""
        return any(board.resting_until_ms <= now_ms and board not in tried for board in self._boards)

    def failed(self, board: Board, now_ms: int) -> None:
        """Let `board` rest."""
        rest_ms = min(self._max_rest_ms, self._rest_ms << min(board.failures, 16))
        board.failures += 1
        board.resting_until_ms = now_ms + rest_ms

    def answered(self, board: Board) -> None:
        """`board` is alive: no rest."""
        board.failures = 0
        board.resting_until_ms = 0
