"""What is sent to subscriptions and what they answer: the shapes, and rules across fields.

What a definition or an option may hold is the store's to check; here are its types.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final

import msgspec
from msgspec import UNSET, Meta, UnsetType

from shoal.errors import InvalidRequest
from shoal.http import answers
from shoal.http.answers import RecordedEvent
from shoal.http.params import NO_NUL, PageLimit, Position, Text, Version
from shoal.model.names import check_stream_id, check_text
from shoal.types import (
    MAX_VERSION,
    AckDurability,
    Beginning,
    Delivered,
    Limits,
    NackAction,
    ParkedEvent,
    ParkedPage,
    Strategy,
    Subscription,
    SubscriptionType,
    timestamp,
)

DEFAULT_CONSUMER: Final = "default"
REASON_BYTES: Final = 1_000
MOST_SETTLED: Final = 10_000
"""Events that one call settles at most."""

_Whole = Annotated[int, Meta(ge=0, le=MAX_VERSION)]
_Wait = Annotated[int, Meta(ge=0, le=60_000, description="How long to wait while there is nothing.")]
_Leases = Annotated[list[Annotated[str, Meta(min_length=1)]], Meta(max_length=MOST_SETTLED)]
_Start = Beginning | Position


def check_consumer(value: str, limits: Limits, pointer: str = "/consumer") -> None:
    """As long as a subscription's name may be, no NUL. Raises InvalidRequest."""
    check_text(value, limits.subscription_name_bytes, pointer)


class SentOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of a subscription; what is left out stays as it is, or has its default."""

    ack_timeout_ms: _Whole | UnsetType = UNSET
    max_in_flight: _Whole | UnsetType = UNSET
    max_retries: _Whole | UnsetType = UNSET
    backoff_ms: tuple[_Whole, ...] | UnsetType = UNSET
    strategy: Strategy | UnsetType = UNSET
    ordered: bool | UnsetType = UNSET
    ack_durability: AckDurability | UnsetType = UNSET
    checkpoint_interval_ms: _Whole | UnsetType = UNSET
    consumer_timeout_ms: _Whole | UnsetType = UNSET
    pool_size: _Whole | UnsetType = UNSET
    retention_hold_max_ms: _Whole | UnsetType | None = UNSET

    @property
    def fields(self) -> Mapping[str, Any]:
        """What was sent, by name."""
        given = ((name, getattr(self, name)) for name in self.__struct_fields__)
        return {name: value for name, value in given if value is not UNSET}


class SentSubscription(SentOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A subscription to make: what it selects, where it begins, and options."""

    type: SubscriptionType
    selector: Any = UNSET
    start_from: _Start | UnsetType = UNSET


class SentPull(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many events a consumer wants, and how long it waits while there are none."""

    count: PageLimit | None = None
    wait_ms: _Wait = 0
    consumer: Text = DEFAULT_CONSUMER

    def check(self, limits: Limits) -> None:
        """Raises InvalidRequest."""
        check_consumer(self.consumer, limits)
        if self.count is not None and self.count > limits.page_events:
            raise InvalidRequest(f"count must be at most {limits.page_events}", pointer="/count")


class EventName(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An event by its place."""

    stream_id: Text
    version: Version


class Acks(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is settled: leases, everything delivered up to a position, or events; exactly one of these."""

    leases: _Leases | UnsetType = UNSET
    position: Position | UnsetType = UNSET
    events: Annotated[list[EventName], Meta(max_length=MOST_SETTLED)] | UnsetType = UNSET

    def check(self, limits: Limits) -> None:
        """Raises InvalidRequest for a bad id, and unless exactly one field is given."""
        if sum(given is not UNSET for given in (self.leases, self.position, self.events)) != 1:
            raise InvalidRequest("send exactly one of leases, position and events", pointer="")
        for index, event in enumerate(self.events or ()):
            check_stream_id(event.stream_id, limits, f"/events/{index}/stream_id")


class SentNack(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Leases of events that were not processed, and what becomes of these."""

    leases: _Leases
    action: NackAction = "retry"
    delay_ms: _Whole | None = None
    reason: Annotated[str, Meta(max_length=REASON_BYTES, extra_json_schema=NO_NUL)] = ""

    def check(self) -> None:
        """Raises InvalidRequest."""
        if self.reason:
            check_text(self.reason, REASON_BYTES, "/reason")


class SentReset(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The position after which to begin again."""

    to: _Start


class SentLeave(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The consumer that is gone."""

    consumer: Text


class StoredSubscription(msgspec.Struct, frozen=True, kw_only=True):
    """A subscription: every event up to `checkpoint` that it selects is settled."""

    name: str
    type: SubscriptionType
    selector: Any
    start_from: Beginning | int
    ack_timeout_ms: int
    max_in_flight: int
    max_retries: int
    backoff_ms: tuple[int, ...]
    strategy: Strategy
    ordered: bool
    ack_durability: AckDurability
    checkpoint_interval_ms: int
    consumer_timeout_ms: int
    pool_size: int
    retention_hold_max_ms: int | None
    checkpoint: int
    created: Annotated[str, Meta(extra_json_schema={"format": "date-time"})]


def stored(subscription: Subscription) -> StoredSubscription:
    """A subscription for an answer."""
    return StoredSubscription(
        name=subscription.name,
        type=subscription.type,
        selector=subscription.selector,
        start_from=subscription.start_from,
        **msgspec.structs.asdict(subscription.options),
        checkpoint=subscription.checkpoint,
        created=timestamp(subscription.created_us),
    )


class SubscriptionList(msgspec.Struct, frozen=True):
    """The subscriptions of a store, by name."""

    subscriptions: list[StoredSubscription]


class DeliveredEvent(RecordedEvent, frozen=True, kw_only=True):
    """An event as leased; `attempt` counts its deliveries, from 1."""

    lease: str
    attempt: int


class DeliveredEvents(msgspec.Struct, frozen=True):
    """What a pull leased: in position order for one consumer, redeliveries first."""

    events: list[DeliveredEvent]


def delivered(event: Delivered, media: str) -> DeliveredEvent:
    """A leased event for an answer in `media`."""
    return answers.event_as(DeliveredEvent, event, media, lease=event.lease, attempt=event.attempt)


class SetAside(RecordedEvent, frozen=True, kw_only=True):
    """A parked event, why, and after how many deliveries; `replaying` when it is being delivered again."""

    reason: str
    attempts: int
    replaying: bool


class ParkedEvents(msgspec.Struct, frozen=True):
    """A page of parked events, and the `after` to go on with."""

    events: list[SetAside]
    next: int | None


def parked_page(page: ParkedPage, media: str) -> ParkedEvents:
    """A page of parked events for an answer in `media`."""
    return ParkedEvents([_set_aside(event, media) for event in page.events], page.next)


def _set_aside(event: ParkedEvent, media: str) -> SetAside:
    return answers.event_as(
        SetAside, event, media, reason=event.reason, attempts=event.attempts, replaying=event.replaying
    )


class Checkpoint(msgspec.Struct, frozen=True):
    """Where the subscription is now."""

    checkpoint: int


class Replayed(msgspec.Struct, frozen=True):
    """How many parked events are delivered again."""

    replayed: int
