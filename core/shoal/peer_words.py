"""What the nodes of a cluster say to each other, as bytes: one typed codec for all of it.

A frame of the transport carries it as one byte string, so that frames are cut, limited and decompressed without
knowing of it, and what is in them is decoded once, straight into its type. Words of beginning, which boards say that
are no members yet, travel beside it in a list of one.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from shoal.catch_up import CopyWord
from shoal.cluster.frames import FrameError
from shoal.raft.messages import Message
from shoal.store.forwarding import Forward, Refused

AnyMessage = Message | Forward | Refused | CopyWord

encode_message: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(AnyMessage).decode


def decode_message(value: Any) -> AnyMessage:
    """The message that a frame carries. Raises FrameError for what is none."""
    if not isinstance(value, bytes):
        raise FrameError("a frame that carries no message")
    try:
        message: AnyMessage = _decode(value)
    except (msgspec.MsgspecError, UnicodeError, RecursionError, OverflowError) as error:
        raise FrameError(f"not a message of this protocol: {error}") from None
    return message
