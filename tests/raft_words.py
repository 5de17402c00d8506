"""Raft messages and states in words, for transcripts that people read and review."""

from __future__ import annotations

from typing import Any

from shoal.raft.log import Configuration, Kind
from shoal.raft.messages import (
    Append,
    Appended,
    AskRead,
    AskVote,
    Behind,
    Entry,
    Message,
    ReadAt,
    TimeoutNow,
    Vote,
)
from shoal.raft.node import RaftNode


def entries_in_words(entries: list[Entry]) -> str:
    return ", ".join(f"{e.index}/{e.term} {Kind(e.kind).name.lower()}" for e in entries) or "nothing"


def say(message: Message) -> str:  # noqa: PLR0911 - one for each message
    """One line; index/term name an entry."""
    match message:
        case AskVote():
            what = "would you vote" if message.pre else "vote"
            asked = " (handed over)" if message.transfer else ""
            return f"[{message.term}] {what}? my log ends at {message.last_index}/{message.last_term}{asked}"
        case Vote():
            return f"[{message.term}] {'would ' if message.pre else ''}{'yes' if message.granted else 'no'}"
        case Append():
            after = f"after {message.prev_index}/{message.prev_term}"
            held = f"{entries_in_words(message.entries)}; {message.commit} committed"
            return f"[{message.term}] {after}: {held}, round {message.read_round}"
        case Appended() if message.rejected:
            hint = f"{message.hint_index}/{message.hint_term}"
            return f"[{message.term}] nothing fits {message.rejected}, perhaps {hint}"
        case Appended():
            return f"[{message.term}] hold {message.matched}, round {message.read_round}"
        case Behind():
            return f"[{message.term}] my log begins at {message.first_index}"
        case AskRead():
            return f"[{message.term}] where may I read?{' as confirmed' if message.confirmed else ''}"
        case ReadAt():
            return f"[{message.term}] read at {message.index}"
        case TimeoutNow():
            return f"[{message.term}] take over"


def members(configuration: Configuration) -> str:
    """Who votes, and in brackets who learns."""
    return ", ".join(m.node_id if m.voter else f"({m.node_id})" for m in configuration.members) or "none"


class Transcript:
    """A conversation as it happened: arrivals, and what changed by them."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._seen: dict[str, str] = {}

    def note(self, now_ms: int, text: str) -> None:
        self.lines.append(f"{now_ms:6} ms  -- {text}")

    def arrives(self, now_ms: int, sent: Any) -> None:
        self.lines.append(f"{now_ms:6} ms  {sent}")

    def see(self, now_ms: int, name: str, node: RaftNode) -> None:
        """Note a board's state where it is news."""
        log = node.log
        log_state = f"log {log.last_index}/{log.last_term} durable {log.durable} committed {log.commit}"
        state = f"{node.role} [{node.term}] of {node.leader or 'nobody'}; {log_state}"
        state += f"; members {members(node.configuration)}"
        if self._seen.get(name) != state:
            self._seen[name] = state
            self.lines.append(f"{now_ms:6} ms      {name} is {state}")
