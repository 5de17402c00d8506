"""Which change of the configuration is allowed: one voter at a time (thesis 4.1; the fix of 2015 to it)."""

from __future__ import annotations

from msgspec import structs

from shoal.raft.errors import ChangeRefused
from shoal.raft.log import Configuration, Member

MEMBERS_MAX = 9


def check_change(before: Configuration, after: Configuration) -> None:
    """At most one node may begin or cease to vote, and somebody must. Raises ChangeRefused."""
    if after.feature_level < before.feature_level:
        raise ChangeRefused("the feature level never falls: entries of that level may be in the log")
    ids = [member.node_id for member in after.members]
    if len(set(ids)) != len(ids):
        raise ChangeRefused("a node is named twice")
    if len(ids) > MEMBERS_MAX:
        raise ChangeRefused(f"a cluster has at most {MEMBERS_MAX} members")
    known = {member.node_id: member.incarnation for member in before.members}
    if any(known.get(member.node_id, member.incarnation) != member.incarnation for member in after.members):
        raise ChangeRefused("a member with other data is another member: remove the old one first")
    voting_before, voting_after = _voting(before), _voting(after)
    if not voting_after:
        raise ChangeRefused("the last voter cannot be removed")
    if len(voting_before ^ voting_after) > 1:
        raise ChangeRefused("only one voter can be added or removed at a time")


def _voting(configuration: Configuration) -> set[str]:
    return {member.node_id for member in configuration.members if member.voter}


def with_learner(before: Configuration, learner: Member) -> Configuration:
    """A member that does not vote is added. Raises ChangeRefused when the id is taken."""
    found = next((m for m in before.members if m.node_id == learner.node_id), None)
    if found is not None:
        state = (
            "in the cluster"
            if found.incarnation == learner.incarnation
            else "there with other data: remove it first"
        )
        raise ChangeRefused(f"{learner.node_id} is already {state}")
    return structs.replace(before, members=(*before.members, structs.replace(learner, voter=False)))


def with_voter(before: Configuration, node_id: str) -> Configuration:
    """A learner becomes a voter. Raises ChangeRefused."""
    _require(before, node_id)
    members = (
        structs.replace(m, voter=True, stays_learner=False) if m.node_id == node_id else m
        for m in before.members
    )
    return structs.replace(before, members=tuple(members))


def without(before: Configuration, node_id: str) -> Configuration:
    """A member leaves. Raises ChangeRefused."""
    _require(before, node_id)
    return structs.replace(before, members=tuple(m for m in before.members if m.node_id != node_id))


def with_member(before: Configuration, member: Member) -> Configuration:
    """A member's key or addresses change. Raises ChangeRefused."""
    found = _require(before, member.node_id)
    kept = structs.replace(member, voter=found.voter, witness=found.witness, incarnation=found.incarnation)
    return structs.replace(
        before, members=tuple(kept if m.node_id == member.node_id else m for m in before.members)
    )


def with_level(before: Configuration, feature_level: int) -> Configuration:
    """Entries of a newer release may be proposed from now on."""
    return structs.replace(before, feature_level=feature_level)


def _require(configuration: Configuration, node_id: str) -> Member:
    for member in configuration.members:
        if member.node_id == node_id:
            return member
    known = ", ".join(member.node_id for member in configuration.members) or "nobody"
    raise ChangeRefused(f"{node_id} is no member; members are {known}")
