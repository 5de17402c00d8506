"""Which keys count: those that members use, and none that a member had before or left with."""

from __future__ import annotations

from typing import Final

from msgspec import structs

from shoal.raft.log import Configuration, Member

KEY_PREFIX_BYTES: Final = 8
RETIRED_MAX: Final = 128
"""So many retired keys are remembered, of all nodes that are or were members."""


def holds_key(member: Member, key_hash: bytes) -> bool:
    """Whether a member may use this key: that in the configuration, or the first one."""
    return member.key_hash in {b"", key_hash}


def is_retired(configuration: Configuration, key_hash: bytes) -> bool:
    """Whether a member had this key and has another now, or left with it."""
    return key_hash[:KEY_PREFIX_BYTES] in _prefixes(configuration.retired_keys)


def after_change(before: Configuration, after: Configuration) -> Configuration:
    """The second with the keys retired that members had in the first only; a key that is in use is not."""
    used = {member.key_hash[:KEY_PREFIX_BYTES] for member in after.members}
    had = (member.key_hash[:KEY_PREFIX_BYTES] for member in before.members)
    retired = [key for key in (*_prefixes(before.retired_keys), *had) if key and key not in used]
    newest_first = list(dict.fromkeys(reversed(retired)))[:RETIRED_MAX]
    return structs.replace(after, retired_keys=b"".join(reversed(newest_first)))


def _prefixes(retired: bytes) -> list[bytes]:
    return [retired[at : at + KEY_PREFIX_BYTES] for at in range(0, len(retired), KEY_PREFIX_BYTES)]
