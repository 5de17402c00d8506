"""Majorities: of whom, and what they agree on."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from shoal.raft.log import Configuration


def voters(configuration: Configuration) -> list[str]:
    """Node ids of those who vote."""
    return [member.node_id for member in configuration.members if member.voter]


def has_quorum(configuration: Configuration, node_ids: Collection[str]) -> bool:
    """Whether more than half of the voters are among `node_ids`; never where nobody votes."""
    having = sum(member.voter and member.node_id in node_ids for member in configuration.members)
    return having >= configuration.quorum


def matched_by_quorum(configuration: Configuration, matched: Mapping[str, int]) -> int:
    """The highest index that more than half of the voters hold, 0 where nobody votes."""
    held = sorted((matched.get(node_id, 0) for node_id in voters(configuration)), reverse=True)
    return held[configuration.quorum - 1] if held else 0
