"""What a board that wants a certificate and a node that signs say to each other, one word each in turn.

    node   Offer      the authorities' certificates, and their key's signature of them and of the node's own TLS key
    board  Join       the token's secret and a signing request
    node   Enrolled   the certificate; or Denied, and why

Each is one frame of a few KiB. The board says nothing before the offer is known to be of the authority in its token,
and the node signs nothing before the secret is known to be of a token that lives.
"""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any, Final, TypeVar

import msgspec

from shoal.cluster.frames import Decoder, FrameError, Word, encode, pack, unpack

ENROLMENT_VERSION: Final = 1
WORD_BYTES_MAX: Final = 16 * 1024
TURN_S: Final = 10.0
"""How long the whole conversation may take."""
NOT_NOW: Final = "unavailable"
"""The reason of a denial that is worth another try."""
_READ_BYTES: Final = 4096

T = TypeVar("T")


class Offer(msgspec.Struct, frozen=True, array_like=True, tag="offer"):
    """Who would sign; `voucher` is the signing authority's signature of `offered`."""

    version: int
    ca_pem: bytes
    voucher: bytes


class Join(msgspec.Struct, frozen=True, array_like=True, tag="join"):
    """Asks for the certificate of a node; `request` (PEM) is signed with its key."""

    secret: bytes
    node_id: str
    request: bytes


class Enrolled(msgspec.Struct, frozen=True, array_like=True, tag="enrolled"):
    """The certificate (PEM)."""

    certificate: bytes


class Denied(msgspec.Struct, frozen=True, array_like=True, tag="denied"):
    """There is none: a code such as `used-token`, and a sentence for a person."""

    reason: str
    detail: str


def offered(tls_key_hash: bytes, ca_pem: bytes) -> bytes:
    """What an authority vouches for: that who holds this TLS key signs for it, and whom nodes are to trust."""
    return b"enrols" + tls_key_hash + hashlib.sha256(ca_pem).digest()


def say(writer: asyncio.StreamWriter, word: Offer | Join | Enrolled | Denied) -> None:
    """Send a word."""
    writer.write(encode(Word(pack(word))))


async def hear(reader: asyncio.StreamReader, kind: Any) -> Any:
    """The next word, of a `kind`: the other side says nothing behind it before it is answered. Raises FrameError."""
    decoder = Decoder(WORD_BYTES_MAX)
    while True:
        data = await reader.read(_READ_BYTES)
        if not data:
            raise FrameError("the connection was closed")
        values = decoder.feed(data)
        if values:
            break
    if len(values) != 1 or not isinstance(values[0], Word):
        raise FrameError("something other than one word of enrolment")
    return unpack(values[0].value, kind)
