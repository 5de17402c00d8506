"""Commands: what an entry of the journal asks the state machine to do, and their codec.

A proposal is one journal entry: the commands gathered in one turn of the event loop, with the
leader's clock. The first byte of the payload is the codec's version; the rest is msgpack of arrays
whose first element names the command. New fields go to the end, with a default, so that an older
entry still decodes; a new command takes a new number.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from shoal.types import Beginning, Condition, SubscriptionOptions, SubscriptionType

CODEC_VERSION = 1

if TYPE_CHECKING:
    EventId = bytes | str
else:
    EventId = Any  # msgspec decodes no union of bytes and str by type, but msgpack itself tells them apart


class ProposedEvent(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An event whose payload is checked and encoded: what is stored, less its place and time.

    `event_id` is 16 bytes for a UUID in canonical form, else the text; `own_id` says that the caller
    gave it, so that it must be looked up; a content type of None means application/json.
    """

    event_id: EventId
    own_id: bool
    event_type: str
    data: bytes
    content_type: str | None = None
    metadata: bytes | None = None
    metadata_type: str | None = None
    tags: list[str] | None = None


class Write(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One stream's part of an append."""

    stream_id: str
    expected_version: int
    events: list[ProposedEvent]


class Append(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=1):
    """Append to one or several streams, all or nothing."""

    store: str
    writes: list[Write]
    condition: Condition | None = None


class DeleteStream(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=2):
    """Delete a stream: soft, or `hard` for ever."""

    store: str
    stream_id: str
    expected_version: int
    hard: bool


class SaveSnapshot(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=3):
    """Save a client's snapshot."""

    store: str
    stream_id: str
    version: int
    data: bytes
    content_type: str | None = None
    metadata: bytes | None = None
    metadata_type: str | None = None


class DeleteSnapshots(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=4):
    """Delete one snapshot of a stream, or all (`version` None)."""

    store: str
    stream_id: str
    version: int | None = None


class CreateStore(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=5):
    """Create a store; fine when it is there."""

    store: str


class DropStore(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=6):
    """Drop a store with all its events; fine when it is not there."""

    store: str


class Definition(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a subscription selects: checked, `selector` as JSON; `start_from` as it was asked for."""

    type: SubscriptionType
    selector: bytes
    start_from: Beginning | int


class CreateSubscription(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=7):
    """Create a subscription; fine when one of this definition is there, and its options agree with those `given`."""

    store: str
    name: str
    definition: Definition
    options: SubscriptionOptions
    given: list[str]


class ChangeSubscription(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=8):
    """Replace those of a subscription's options that are `given`; the others stay as they are then.

    `created_us`, here and below: when the one was made that is meant, None for whichever has the name by then.
    """

    store: str
    name: str
    options: SubscriptionOptions
    given: list[str]
    created_us: int | None = None


class DeleteSubscription(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=9):
    """Delete a subscription with what it has parked; `of_type` None: of whatever type."""

    store: str
    name: str
    of_type: SubscriptionType | None = None
    created_us: int | None = None


class Parked(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An event to put aside after `attempts` failures; `replaying` when it is being delivered again."""

    position: int
    stream_id: str
    reason: str
    attempts: int
    replaying: bool = False


class Settle(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=10):
    """What consumers have settled of one life of a subscription, gathered over one turn.

    `checkpoint` is where it is then; `settled` are positions beyond it; `park` goes to the parked events and
    `unpark` comes out of them; `attempts` are failures so far by position.
    """

    store: str
    name: str
    life: int
    checkpoint: int
    settled: list[int] = []
    park: list[Parked] = []
    unpark: list[int] = []
    attempts: list[tuple[int, int]] = []


class ReplayParked(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=11):
    """Have parked events delivered again, by position."""

    store: str
    name: str
    life: int
    positions: list[int]


class ResetSubscription(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=12):
    """Begin again after a position, or at an end of the store; what is parked after it is forgotten."""

    store: str
    name: str
    to: Beginning | int
    created_us: int | None = None


SubscriptionCommand = (
    CreateSubscription | ChangeSubscription | DeleteSubscription | Settle | ReplayParked | ResetSubscription
)
Command = (
    Append
    | DeleteStream
    | SaveSnapshot
    | DeleteSnapshots
    | CreateStore
    | DropStore
    | CreateSubscription
    | ChangeSubscription
    | DeleteSubscription
    | Settle
    | ReplayParked
    | ResetSubscription
)


class Origin(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The command at `place` of an entry was given to another node, where it has this number."""

    place: int
    node_id: str
    number: int


class StateDigest(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The digest of the leader's state after entry `index`, the one before that which carries it."""

    index: int
    digest: int
    form: int = 1
    """What it is a digest of; nodes compare those of their own release's form only."""


class Proposal(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One entry: commands in order, the leader's judged clock and its raw reading (microseconds).

    `origins` are of the commands that another node passed on to the leader. `digest` decides nothing.
    """

    clock_us: int
    reading_us: int
    commands: list[Command]
    origins: list[Origin] = []
    digest: StateDigest | None = None


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Proposal)
_VERSION_BYTE = bytes((CODEC_VERSION,))


class CodecError(ValueError):
    """The bytes are not a proposal this release can read."""


def encode(proposal: Proposal) -> bytes:
    """The payload of the journal record."""
    return _VERSION_BYTE + _encoder.encode(proposal)


def decode(payload: bytes | memoryview) -> Proposal:
    """Inverse of `encode`. Raises CodecError, for any input whatever."""
    if not payload or payload[0] != CODEC_VERSION:
        found = payload[0] if payload else None
        raise CodecError(f"entry has codec version {found}, this release reads {CODEC_VERSION}")
    try:
        return _decoder.decode(memoryview(payload)[1:])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise CodecError(f"entry does not decode: {error}") from error
