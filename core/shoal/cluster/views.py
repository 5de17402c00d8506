"""The cluster as one of its nodes sees it: the body of `GET /v1/cluster` (api.md)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from shoal.cluster.members import where
from shoal.cluster.words import PeerSeen
from shoal.raft.log import Member
from shoal.raft.node import RaftNode


def cluster_view(
    info: Mapping[str, Any],
    core: RaftNode,
    cluster_id: str,
    *,
    alive: Callable[[str], bool],
    strangers: Sequence[PeerSeen],
    removed: bool,
    status: str,
) -> dict[str, Any]:
    """Who is here, who votes, and how many more may fail.

    `strangers` are boards that were met and are no members as they are now. `match_index` and `lag`, in entries, are
    known to the leader, and null elsewhere. `margin` is how many voters may fail before nothing can be written; below 0
    nothing can. `status` says in words what is wrong with this node, if anything is.
    """
    members = core.configuration.members
    voters = [member for member in members if member.voter]
    living = sum(alive(member.node_id) for member in voters)
    size = core.configuration.quorum if voters else 0
    view = {
        key: info[key] for key in ("node_id", "role", "term", "commit_index", "applied_index", "disk_full")
    }
    return view | {
        "cluster_id": cluster_id,
        "leader": core.leader,
        "members": [_member(member, core, info["node_id"], alive) for member in members],
        "quorum": {"size": size, "alive": living, "margin": living - size},
        "last_index": core.log.last_index,
        "last_term": core.log.last_term,
        "met": [
            {"id": seen.hello.node_id, "addresses": list(where(seen)), "empty": seen.hello.empty}
            for seen in strangers
        ],
        "removed": removed,
        "status": status,
    }


def _member(member: Member, core: RaftNode, own_id: str, alive: Callable[[str], bool]) -> dict[str, Any]:
    match_index: int | None = None
    if core.role == "leader":
        is_own = member.node_id == own_id
        match_index = core.log.last_index if is_own else core.followers().get(member.node_id, (0, 0))[0]
    return {
        "id": member.node_id,
        "url": member.url,
        "role": role_of(member, core.leader),
        "match_index": match_index,
        "lag": None if match_index is None else max(0, core.log.commit - match_index),
        "alive": alive(member.node_id),
        "addresses": list(member.addresses),
    }


def role_of(member: Member, leader: str | None) -> str:
    """leader, follower, witness or learner."""
    if member.witness:
        return "witness"
    if not member.voter:
        return "learner"
    return "leader" if member.node_id == leader else "follower"
