"""What two nodes say to each other before and beside the messages they carry, and what a hello must be like."""

from __future__ import annotations

from typing import Final, TypeAlias

import msgspec

from shoal.cluster.addresses import ADDRESSES_MAX
from shoal.cluster.certificates import Subject

PROTOCOL_VERSION: Final = 1
FEATURE_LEVEL: Final = 1
"""Which entries this release understands. One more with each command that an older release does not."""
_TEXT_MAX: Final = 256
_INCARNATION_BYTES_MAX: Final = 64

STRANGER: Final = "stranger"
"""Why a node is refused that is not, or not with this incarnation, a member."""
OLD_KEY: Final = "old-key"
"""Why a member is refused whose key was replaced since."""


class Hello(msgspec.Struct, frozen=True, array_like=True, tag="hello"):
    """The first word each way: who speaks, where it is reached, whether it is `empty` of data. New fields go last."""

    version: int
    cluster_id: str
    node_id: str
    incarnation: bytes
    addresses: tuple[str, ...]
    url: str
    empty: bool
    feature_level: int


class Welcome(msgspec.Struct, frozen=True, array_like=True, tag="welcome"):
    """To the node that dialled: it is trusted, what it sends now is read."""


class Refusal(msgspec.Struct, frozen=True, array_like=True, tag="refused"):
    """Why the connection is closed: a code such as `stranger`, and a sentence for a person."""

    reason: str
    detail: str = ""


class Ping(msgspec.Struct, frozen=True, array_like=True, tag="ping"):
    """Asks for a `Pong` with the same number."""

    number: int


class Pong(msgspec.Struct, frozen=True, array_like=True, tag="pong"):
    """Answers a `Ping`."""

    number: int


AnyWord: TypeAlias = Hello | Welcome | Refusal | Ping | Pong


class PeerSeen(msgspec.Struct, frozen=True):
    """A node that proved its id by its certificate: its hello, its key, and the `HOST:PORT` it was met at."""

    hello: Hello
    key_hash: bytes
    address: str


def objection_to(hello: Hello, subject: Subject) -> Refusal | None:
    """What is wrong with the hello of a node whose certificate speaks of `subject`; None if nothing is."""
    if hello.version != PROTOCOL_VERSION:
        detail = f"it speaks version {hello.version} of the protocol, this node {PROTOCOL_VERSION}: update the older"
        return Refusal("version", detail)
    if (hello.cluster_id, hello.node_id) != (subject.cluster_id, subject.node_id):
        detail = f"it says to be another than its certificate, {subject.node_id} of {subject.cluster_id}"
        return Refusal("not-as-certified", detail)
    if not _sane(hello):
        return Refusal("malformed", "a field of its hello is over its limit")
    return None


def _sane(hello: Hello) -> bool:
    texts = (hello.url, *hello.addresses)
    return (
        0 < len(hello.incarnation) <= _INCARNATION_BYTES_MAX
        and len(hello.addresses) <= ADDRESSES_MAX
        and all(len(text) <= _TEXT_MAX and text.isprintable() for text in texts)
        and 0 <= hello.feature_level < 2**31
    )
