"""Routes of the cluster: who is in it, and changes of that."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec
from aiohttp import web
from msgspec import Meta

from shoal.errors import AlreadyExists, NoLeader, NotFound, OutcomeUnknown
from shoal.http.context import Call
from shoal.http.params import NoQuery
from shoal.http.routing import Answer, Body, Route

_Name = Annotated[str, Meta(min_length=1, max_length=128)]
_Address = Annotated[str, Meta(min_length=3, max_length=300, description="HOST:PORT where peers reach it.")]


class Join(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A board to add, by its name or its peer address; `learner` never votes, `witness` never leads for long."""

    node_id: _Name | None = None
    address: _Address | None = None
    role: Literal["voter", "learner", "witness"] = "voter"


class Named(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A member."""

    node_id: _Name


class Transfer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who is to lead; None is the best there is."""

    node_id: _Name | None = None


class Recover(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The names of the node asked and of its cluster, typed by somebody who knows that the others are destroyed."""

    node_id: _Name
    cluster_id: _Name


class ClusterMember(msgspec.Struct, frozen=True):
    """A member; `match_index` and `lag`, in entries, are known to the leader. `alive` is as the node asked sees it."""

    id: str
    url: str
    role: str
    match_index: int | None
    lag: int | None
    alive: bool
    addresses: list[str]


class Quorum(msgspec.Struct, frozen=True):
    """Voters that must agree, voters that are alive, and how many of these may fail; below 0 nothing is written."""

    size: int
    alive: int
    margin: int


class Met(msgspec.Struct, frozen=True):
    """A board that was met and is no member: an empty one can be added."""

    id: str
    addresses: list[str]
    empty: bool


class Cluster(msgspec.Struct, frozen=True):
    """The cluster as the node asked sees it; `status` says what is wrong with that node, if anything is."""

    cluster_id: str
    node_id: str
    role: str
    leader: str | None
    term: int
    commit_index: int
    applied_index: int
    last_index: int
    last_term: int
    members: list[ClusterMember]
    quorum: Quorum
    met: list[Met]
    disk_full: bool
    removed: bool
    status: str


async def show(call: Call, query: NoQuery) -> web.StreamResponse:
    """Who is in the cluster, who leads, and how many boards may fail."""
    return _view(call)


async def join(call: Call, query: NoQuery) -> web.StreamResponse:
    """Add an empty board."""
    sent = await call.decoded(Join, call.context.limits)
    await call.context.cluster.members.add(sent.node_id, sent.address, sent.role)
    return _view(call)


async def leave(call: Call, query: NoQuery) -> web.StreamResponse:
    """Remove a member."""
    sent = await call.decoded(Named, call.context.limits)
    await call.context.cluster.members.remove(sent.node_id)
    return _view(call)


async def transfer_leader(call: Call, query: NoQuery) -> web.StreamResponse:
    """Hand leadership to the member named, or to the best there is."""
    sent = await call.decoded(Transfer, call.context.limits)
    await call.context.cluster.members.transfer(sent.node_id)
    return _view(call)


async def promote(call: Call, query: NoQuery) -> web.StreamResponse:
    """Make a learner vote."""
    sent = await call.decoded(Named, call.context.limits)
    await call.context.cluster.members.promote(sent.node_id)
    return _view(call)


async def recover(call: Call, query: NoQuery) -> web.StreamResponse:
    """Go on with this board alone, when most others are destroyed; what they alone had is lost."""
    sent = await call.decoded(Recover, call.context.limits)
    await call.context.cluster.members.recover(sent.node_id, sent.cluster_id)
    return _view(call)


def _view(call: Call) -> web.StreamResponse:
    return call.answer(msgspec.convert(call.context.cluster.view(), Cluster))


def _change(
    name: str, handler: Any, body: Any, summary: str, *problems: Any, by_leader: bool = True
) -> Route[Any]:
    return Route(
        "POST",
        f"/v1/cluster/{name}",
        handler,
        NoQuery,
        "admin",
        summary,
        {200: Answer("The cluster then", Cluster)},
        body=Body(body),
        problems=(NoLeader, OutcomeUnknown, *problems),
        of_store=False,
        all_streams=True,
        by_leader=by_leader,
    )


ROUTES: Final[tuple[Route[Any], ...]] = (
    Route(
        "GET",
        "/v1/cluster",
        show,
        NoQuery,
        "read",
        "Who is in the cluster",
        {200: Answer("The cluster", Cluster)},
        of_store=False,
    ),
    _change("join", join, Join, "Add an empty board", NotFound, AlreadyExists),
    _change("leave", leave, Named, "Remove a member"),
    _change("transfer-leader", transfer_leader, Transfer, "Hand leadership over"),
    _change("promote", promote, Named, "Make a learner vote"),
    _change("recover", recover, Recover, "Go on alone when a quorum is lost for ever", by_leader=False),
)
