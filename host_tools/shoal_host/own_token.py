"""The token that `shoal up` shows its own board, when the board asks for one."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

from shoal.tokens import TokenFile, check_sendable, find

OWN_NAME: Final = "shoal up"
_ROLE: Final = "append"
_STREAMS: Final = ("board-*",)
"""Where agents write; the board's own name is not known before it answers."""


class OwnToken:
    """SHOAL_TOKEN if there is one, else one made for this run, for appending to and reading `board-*` alone.

    `text` is what to show, None while the board asks for none. A board begins to ask when the first token is
    made, also while it runs.
    """

    def __init__(self, data_dir: Path, given: str | None) -> None:
        if given:
            check_sendable(given)
        self.text = given or None
        self._given = bool(given)
        self._file = TokenFile(data_dir)
        self._made: set[str] = set()

    def begin(self) -> None:
        """Take away what a run that was killed has left, and make one if it is wanted already.

        Only for who has the data directory to himself: another run would lose its token.
        """
        for token in self._file.tokens():
            if token.name == OWN_NAME:
                self._file.remove(token.id)
        self.renew()

    def renew(self) -> None:
        """Make one if the board wants one and does not know the one there is. What was given stays."""
        tokens = self._file.tokens()
        if self._given or not tokens or (self.text is not None and find(tokens, self.text) is not None):
            return
        text = self._file.add(_ROLE, name=OWN_NAME, streams=_STREAMS, created_us=time.time_ns() // 1000)
        self._made |= {token.id for token in self._file.tokens()} - {token.id for token in tokens}
        self.text = text

    def revoke(self) -> None:
        """Take away what this run made."""
        for token in self._file.tokens():
            if token.id in self._made:
                self._file.remove(token.id)
