"""Routes of subscriptions: define, pull or be pushed to, settle, look at what is parked, begin again.

A token for some streams may use subscriptions of type `stream` to those streams, and no other.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Annotated, Any, Final

import msgspec
from aiohttp import web
from msgspec import UNSET, Meta

from shoal.errors import (
    AlreadyExists,
    BodyTooLarge,
    Forbidden,
    InvalidRequest,
    LeaseExpired,
    NotFound,
    ShoalError,
    TooBusy,
)
from shoal.http import lasting, negotiation, sse
from shoal.http import subscription_bodies as bodies
from shoal.http.auth import Access
from shoal.http.context import Call, ServedSubscriptions
from shoal.http.pacing import Paced
from shoal.http.params import WITHOUT_DEFAULT, NoQuery, PageLimit, Position, ReadQuery, Text
from shoal.http.routing import Answer, Body, Q, Route
from shoal.store.api import SubscriptionCheck
from shoal.tokens import Role
from shoal.types import MAX_VERSION, Delivered, SubscriptionStats

Handler = Callable[[Call, Q], Awaitable[web.StreamResponse]]


class Push(msgspec.Struct, frozen=True, kw_only=True):
    """Who takes the events, and how many it has on its way at most."""

    consumer: Text = bodies.DEFAULT_CONSUMER
    prefetch: Annotated[int, Meta(ge=1, le=10_000)] | None = None


class ParkedRead(ReadQuery, frozen=True, kw_only=True):
    """Which parked events."""

    after: Position = 0
    limit: PageLimit | None = None


class Replay(msgspec.Struct, frozen=True, kw_only=True):
    """How many parked events to deliver again: the first ones, or all."""

    limit: (
        Annotated[
            int,
            Meta(
                ge=1,
                le=MAX_VERSION,
                description="This many at most; all, where it is left out.",
                extra_json_schema={WITHOUT_DEFAULT: True},
            ),
        ]
        | None
    ) = None


async def listing(call: Call, query: ReadQuery) -> web.StreamResponse:
    """All subscriptions that the token may use."""
    found = await _subscriptions(call).list()
    own = [bodies.stored(each) for each in found if _is_own(call.access, each.type, each.selector)]
    return call.answer_read(bodies.SubscriptionList(own))


async def create(call: Call, query: NoQuery) -> web.StreamResponse:
    """Make a subscription, or find the same one."""
    sent = await call.decoded(bodies.SentSubscription, call.context.limits)
    _check_own(call.access, sent.type, sent.selector)
    made, new = await _subscriptions(call).create_or_find(call.subscription, sent.fields)
    headers = {"Location": call.request.raw_path.partition("?")[0]} if new else None
    return call.answer(bodies.stored(made), status=201 if new else 200, headers=headers)


async def show(call: Call, query: ReadQuery) -> web.StreamResponse:
    """One subscription."""
    return call.answer_read(bodies.stored(await (await _own(call)).get(call.subscription)))


async def change(call: Call, query: NoQuery) -> web.StreamResponse:
    """Change options."""
    sent = await call.decoded(bodies.SentOptions, call.context.limits)
    changed = await _subscriptions(call).change(call.subscription, sent.fields, _check_of(call))
    return call.answer(bodies.stored(changed))


async def delete(call: Call, query: NoQuery) -> web.StreamResponse:
    """Delete a subscription, with what it has parked."""
    await _subscriptions(call).unsubscribe(call.subscription, check=_check_of(call))
    return web.Response(status=204)


async def pull(call: Call, query: NoQuery) -> web.StreamResponse:
    """Lease events, for as long as the client is there for them."""
    sent = await call.decoded(bodies.SentPull, call.context.limits)
    sent.check(call.context.limits)
    return await _hand_over(call, await _lease(call, sent))


async def _lease(call: Call, sent: bodies.SentPull) -> list[Delivered]:
    """Events at once or later; none when the server closes first. Raises as `lasting.attend` does."""
    count = call.page_limit(sent.count)

    async def pulled() -> list[Delivered]:  # in one: nothing runs between the check and what it is for
        return await (await _own(call)).pull(call.subscription, count, sent.wait_ms, sent.consumer)

    return await lasting.attend(call, pulled(), []) if sent.wait_ms else await pulled()


async def _hand_over(call: Call, events: list[Delivered]) -> web.StreamResponse:
    """The answer with what is leased. What surely does not arrive is given back, and comes again at once.

    Raises ConnectionError, TooBusy.
    """
    leases = [event.lease for event in events]
    try:
        if call.gone:
            raise ConnectionResetError("the client left before its answer")
        response = call.answer_read(
            bodies.DeliveredEvents([bodies.delivered(event, call.media) for event in events])
        )
        del events
        if isinstance(response, Paced):
            await response.send(call.request, call.context.room)
    except (ConnectionError, TooBusy):
        with suppress(ShoalError):  # then they come again when they expire
            await _subscriptions(call).give_back(call.subscription, leases)
        raise
    return response


async def push(call: Call, query: Push) -> web.StreamResponse:
    """Events as they come, each leased."""
    bodies.check_consumer(query.consumer, call.context.limits, "consumer")
    subscriptions = await _own(call)
    await subscriptions.get(call.subscription)  # one that is missing is told before the answer begins
    pushed = subscriptions.push(call.subscription, query.consumer, query.prefetch, _check_of(call))
    return await sse.push(call, pushed)


async def ack(call: Call, query: NoQuery) -> web.StreamResponse:
    """Settle events, all or none."""
    sent = await call.decoded(bodies.Acks, call.context.limits)
    sent.check(call.context.limits)
    return call.answer(bodies.Checkpoint(await _acked(call, sent)))


async def _acked(call: Call, sent: bodies.Acks) -> int:
    subscriptions, name = await _own(call), call.subscription
    if sent.leases is not UNSET:
        return await subscriptions.ack_leases(name, sent.leases)
    if sent.position is not UNSET:
        return await subscriptions.ack_through(name, sent.position)
    events = [] if sent.events is UNSET else sent.events
    return await subscriptions.ack_events(name, [(event.stream_id, event.version) for event in events])


async def nack(call: Call, query: NoQuery) -> web.StreamResponse:
    """Have events come again, park them, or skip them; all or none."""
    sent = await call.decoded(bodies.SentNack, call.context.limits)
    sent.check()
    checkpoint = await (await _own(call)).nack(
        call.subscription, sent.leases, sent.action, sent.delay_ms, sent.reason
    )
    return call.answer(bodies.Checkpoint(checkpoint))


async def leave(call: Call, query: NoQuery) -> web.StreamResponse:
    """Give back at once what a consumer has leased; fine when it is not known."""
    sent = await call.decoded(bodies.SentLeave, call.context.limits)
    bodies.check_consumer(sent.consumer, call.context.limits)
    await (await _own(call)).leave(call.subscription, sent.consumer)
    return web.Response(status=204)


async def parked(call: Call, query: ParkedRead) -> web.StreamResponse:
    """Parked events in position order."""
    page = await (await _own(call)).parked_page(call.subscription, query.after, call.page_limit(query.limit))
    return call.answer_read(bodies.parked_page(page, call.media))


async def replay(call: Call, query: Replay) -> web.StreamResponse:
    """Deliver parked events again."""
    if await call.body():
        raise InvalidRequest("a replay takes no body", pointer="")
    replayed = await _subscriptions(call).replay_parked(call.subscription, query.limit, _check_of(call))
    return call.answer(bodies.Replayed(replayed))


async def reset(call: Call, query: NoQuery) -> web.StreamResponse:
    """Begin again after a position."""
    sent = await call.decoded(bodies.SentReset, call.context.limits)
    return call.answer(
        bodies.stored(await _subscriptions(call).reset(call.subscription, sent.to, _check_of(call)))
    )


async def stats(call: Call, query: ReadQuery) -> web.StreamResponse:
    """Where the subscription stands."""
    return call.answer_read(await (await _own(call)).stats(call.subscription))


def _subscriptions(call: Call) -> ServedSubscriptions:
    return call.store.subscriptions


def _is_own(access: Access, kind: str, selector: Any) -> bool:
    """Whether the token is for all that a subscription of this definition selects."""
    return not access.patterns or (kind == "stream" and isinstance(selector, str) and access.allows(selector))


def _check_own(access: Access, kind: str, selector: Any) -> None:
    """Raises Forbidden."""
    if not _is_own(access, kind, selector):
        raise Forbidden(
            f"the token is for the streams {', '.join(access.patterns)}: it may use subscriptions of type stream to "
            "these, and no others"
        )


def _check_of(call: Call) -> SubscriptionCheck | None:
    """Raises Forbidden for a subscription that the token may not use; None where it may use all."""
    access = call.access
    return (lambda found: _check_own(access, found.type, found.selector)) if access.patterns else None


async def _own(call: Call) -> ServedSubscriptions:
    """The store's subscriptions, if the token may use the one that is asked for. Raises Forbidden, NotFound.

    Only once all of the request is there: what takes time between this and its use may find another of the name.
    """
    subscriptions, check = _subscriptions(call), _check_of(call)
    if check is not None:
        check(await subscriptions.get(call.subscription))
    return subscriptions


_ONE: Final = "/subscriptions/{name}"
_STORED: Final = Answer("The subscription", bodies.StoredSubscription)
_SETTLED: Final = Answer("They are settled, and durably so unless it is lazy", bodies.Checkpoint)


def _route(
    method: str,
    below: str,
    handler: Handler[Q],
    query: type[Q],
    role: Role,
    summary: str,
    answer: Answer,
    body: Any = None,
    problems: tuple[type[ShoalError], ...] = (NotFound,),
    *,
    by_leader: bool = False,
) -> Route[Q]:
    """A route of one subscription that is there."""
    status = 204 if answer.body is None else 200
    sent = None if body is None else Body(body)
    return Route(
        method,
        _ONE + below,
        handler,
        query,
        role,
        summary,
        {status: answer},
        sent,
        problems,
        by_leader=by_leader,
    )


ROUTES: Final[tuple[Route[Any], ...]] = (
    Route(
        "GET",
        "/subscriptions",
        listing,
        ReadQuery,
        "read",
        "List subscriptions",
        {200: Answer("All that the token may use, by name", bodies.SubscriptionList)},
    ),
    Route(
        "PUT",
        _ONE,
        create,
        NoQuery,
        "append",
        "Make a subscription",
        {
            201: Answer("It is new", bodies.StoredSubscription, headers=("Location",)),
            200: Answer("It was there, with the same definition", bodies.StoredSubscription),
        },
        Body(bodies.SentSubscription),
        (AlreadyExists, BodyTooLarge),
    ),
    _route("GET", "", show, ReadQuery, "read", "Look at a subscription", _STORED),
    _route("PATCH", "", change, NoQuery, "append", "Change options", _STORED, bodies.SentOptions),
    _route("DELETE", "", delete, NoQuery, "append", "Delete a subscription", Answer("It is gone")),
    _route(
        "POST",
        "/pull",
        pull,
        NoQuery,
        "read",
        "Lease events",
        Answer("What there is, which may be nothing", bodies.DeliveredEvents),
        bodies.SentPull,
        (NotFound, AlreadyExists),
        by_leader=True,
    ),
    _route(
        "GET",
        "/events",
        push,
        Push,
        "read",
        "Be given events as they come, with `Accept: text/event-stream`",
        Answer("Events, each leased", str, (negotiation.SSE,)),
        None,
        (NotFound, AlreadyExists),
        by_leader=True,
    ),
    _route(
        "POST",
        "/ack",
        ack,
        NoQuery,
        "read",
        "Settle events",
        _SETTLED,
        bodies.Acks,
        (NotFound, LeaseExpired),
        by_leader=True,
    ),
    _route(
        "POST",
        "/nack",
        nack,
        NoQuery,
        "read",
        "Retry, park or skip events",
        Answer("So it is", bodies.Checkpoint),
        bodies.SentNack,
        (NotFound, LeaseExpired),
        by_leader=True,
    ),
    _route(
        "POST",
        "/leave",
        leave,
        NoQuery,
        "read",
        "Give back what a consumer has leased",
        Answer("It has nothing any more"),
        bodies.SentLeave,
        by_leader=True,
    ),
    _route(
        "GET",
        "/parked",
        parked,
        ParkedRead,
        "read",
        "Read parked events",
        Answer("A page of parked events", bodies.ParkedEvents),
    ),
    _route(
        "POST",
        "/parked/replay",
        replay,
        Replay,
        "append",
        "Deliver parked events again",
        Answer("So many", bodies.Replayed),
    ),
    _route(
        "POST",
        "/reset",
        reset,
        NoQuery,
        "append",
        "Begin again after a position",
        _STORED,
        bodies.SentReset,
    ),
    _route(
        "GET",
        "/stats",
        stats,
        ReadQuery,
        "read",
        "Where a subscription stands",
        Answer("Numbers and consumers", SubscriptionStats),
        by_leader=True,
    ),
)
