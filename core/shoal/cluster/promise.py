"""What empty boards say to each other to begin a group, and the one promise each of them keeps on disk.

Messages are sent by the peer protocol; `decode` takes bytes of an authenticated peer and still believes no size.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

import msgspec

from shoal.cluster.addresses import ADDRESSES_MAX
from shoal.cluster.durable import write_durably
from shoal.errors import StorageError
from shoal.raft.log import Member
from shoal.raft.membership import MEMBERS_MAX

BOOTSTRAP_FILE: Final = "bootstrap.json"
MESSAGE_BYTES_MAX: Final = 65_536
_TEXT_MAX: Final = 300
_FORMAT: Final = 1


class AskGrant(msgspec.Struct, frozen=True, array_like=True, tag="ask"):
    """The initiator: promise yourself to me for exactly this group."""

    members: tuple[Member, ...]


class Grant(msgspec.Struct, frozen=True, array_like=True, tag="grant"):
    """I have promised myself, durably, to the group of this hash. Who has begun it answers with `Begin`."""

    members_hash: bytes


class Refuse(msgspec.Struct, frozen=True, array_like=True, tag="refuse"):
    """Not now, or never: a sentence for people."""

    reason: str


class Begin(msgspec.Struct, frozen=True, array_like=True, tag="begin"):
    """All have promised, the group has begun."""

    members: tuple[Member, ...]


Message = AskGrant | Grant | Refuse | Begin


class Promise(msgspec.Struct, frozen=True):
    """This board's word: `members` begins with whom it was given to. Kept until the data directory is wiped."""

    members: tuple[Member, ...]
    begun: bool = False


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: int
    promise: Promise
    sha256: str


_decoder: Final = msgspec.msgpack.Decoder(Message)


def encode(message: Message) -> bytes:
    """The bytes of a message."""
    return msgspec.msgpack.encode(message)


def decode(body: bytes) -> Message | None:
    """The message, or None for anything that no board of this release would send."""
    if len(body) > MESSAGE_BYTES_MAX:
        return None
    try:
        message: Message = _decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return message if _sane(message) else None


def _sane(message: Message) -> bool:
    if isinstance(message, Grant):
        return len(message.members_hash) == hashlib.sha256().digest_size
    if isinstance(message, Refuse):
        return _is_line(message.reason)
    members = message.members
    return 2 <= len(members) <= MEMBERS_MAX and all(_sane_member(member) for member in members)


def _sane_member(member: Member) -> bool:
    texts = (member.node_id, member.url, *member.addresses)
    return (
        member.node_id != ""
        and len(member.addresses) <= ADDRESSES_MAX
        and max(len(member.incarnation), len(member.key_hash)) <= 64
        and all(_is_line(text) for text in texts)
    )


def _is_line(text: str) -> bool:
    return len(text) <= _TEXT_MAX and text.isprintable()


def members_hash(members: tuple[Member, ...]) -> bytes:
    """What a grant names: SHA-256 over every field of every member, in order."""
    return hashlib.sha256(msgspec.msgpack.encode(members)).digest()


def save_promise(data_dir: Path, promise: Promise) -> None:
    """Keep it durably; only then may a message that rests on it leave. Blocks. Raises OSError."""
    file = _File(_FORMAT, promise, _digest(promise))
    write_durably(data_dir / BOOTSTRAP_FILE, msgspec.json.format(msgspec.json.encode(file)) + b"\n")


def load_promise(data_dir: Path) -> Promise | None:
    """The promise of an earlier start. Blocks. Raises StorageError for a file that is not as it was written."""
    path = data_dir / BOOTSTRAP_FILE
    try:
        file = msgspec.json.decode(path.read_bytes(), type=_File)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _unusable(path, str(error)) from error
    if file.format != _FORMAT or file.sha256 != _digest(file.promise):
        raise _unusable(path, "its format or its checksum is another")
    return file.promise


def _digest(promise: Promise) -> str:
    return hashlib.sha256(msgspec.msgpack.encode(promise)).hexdigest()


def _unusable(path: Path, detail: str) -> StorageError:
    return StorageError(
        f"{path} holds what this board promised to others and cannot be read: {detail}. To take part in a new "
        "cluster, move the whole data directory aside, so that the board comes back as another one"
    )
