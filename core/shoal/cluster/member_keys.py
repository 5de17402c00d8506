"""Which keys of a member count: the one that it uses, and none that it had before."""

from __future__ import annotations

from typing import Final

from shoal.raft.log import Member

KEY_PREFIX_BYTES: Final = 8
RETIRED_MAX: Final = 16
"""So many replaced keys of one member are remembered."""


def holds_key(member: Member, key_hash: bytes) -> bool:
    """Whether a member may use this key: that in the configuration, or the first one."""
    return member.key_hash in {b"", key_hash}


def retired_with(member: Member, key_hash: bytes) -> bytes:
    """The keys that a member had before, once it has this one."""
    retired = member.retired_keys
    if member.key_hash not in {b"", key_hash}:
        retired = (retired + member.key_hash[:KEY_PREFIX_BYTES])[-RETIRED_MAX * KEY_PREFIX_BYTES :]
    return retired


def is_retired(member: Member, key_hash: bytes) -> bool:
    """Whether the member had this key and has another now."""
    old, size = member.retired_keys, KEY_PREFIX_BYTES
    return not holds_key(member, key_hash) and key_hash[:size] in {
        old[at : at + size] for at in range(0, len(old), size)
    }
