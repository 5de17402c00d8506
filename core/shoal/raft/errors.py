"""What ends a node rather than lets it go on wrongly, and what tells a caller to ask somebody else."""

from __future__ import annotations


class ProtocolViolation(AssertionError):
    """Something that Raft rules out has happened: a defect, or a log that was tampered with. The node must end."""


class NotLeader(Exception):
    """Only the leader can do this; nothing was done. `leader` is who it is, None when that is not known."""

    def __init__(self, leader: str | None, reason: str) -> None:
        super().__init__(reason)
        self.leader = leader


class ChangeRefused(Exception):
    """The configuration cannot be changed so, or not now; the sentence says why."""
