"""Routes: one declaration says the path, who may, what it takes and answers, and which problems it has.

Dispatching, checking and the OpenAPI document all come from it. Paths are matched raw, before
percent-decoding, so that an id may hold `%2F`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar

import msgspec
from aiohttp import web

from shoal.errors import NotFound, ShoalError
from shoal.http.negotiation import PLAIN, SSE
from shoal.http.problems import MethodNotAllowed
from shoal.tokens import Role

if TYPE_CHECKING:
    from shoal.http.context import Call

Q = TypeVar("Q", bound=msgspec.Struct)

STORE_PATH: Final = "/v1/stores/{store}"
DEFAULT_PATH: Final = "/v1"


@dataclass(frozen=True, slots=True)
class Answer:
    """One success: its meaning, the type of its body (None: no body) and the media types it comes in."""

    meaning: str
    body: Any = None
    media: tuple[str, ...] = PLAIN
    headers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Body:
    """What a request's body holds: its type, and the media types it may be in."""

    type: Any
    media: tuple[str, ...] = PLAIN


@dataclass(frozen=True, slots=True)
class Route(Generic[Q]):
    """One method of one path. `role` None means that nobody is asked for a token.

    A route of a store is served below `/v1`, for the store `main`, and below `/v1/stores/{store}`. One of
    `all_streams` is not for a token that is limited to some. One `by_leader` is passed on by the other nodes. `offers`
    are the media types that are negotiated before the handler runs, and so before anything takes effect; none where the
    answer comes in one form only, unless that goes on without an end.
    """

    method: str
    path: str
    handler: Callable[[Call, Q], Awaitable[web.StreamResponse]]
    query: type[Q]
    role: Role | None
    summary: str
    answers: Mapping[int, Answer]
    body: Body | None = None
    problems: tuple[type[ShoalError], ...] = ()
    headers: tuple[str, ...] = ()
    of_store: bool = True
    all_streams: bool = False
    by_leader: bool = False
    offers: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        media = next((answer.media for answer in self.answers.values() if answer.body is not None), ())
        object.__setattr__(self, "offers", media if len(media) > 1 or SSE in media else ())

    def paths(self) -> tuple[str, ...]:
        """Where it is served."""
        return (DEFAULT_PATH + self.path, STORE_PATH + self.path) if self.of_store else (self.path,)


class RouteTable(Protocol):
    """A module with routes of one noun."""

    ROUTES: tuple[Route[Any], ...]


@dataclass(slots=True)
class _Place:
    """A place in the tree of path segments."""

    literals: dict[str, _Place] = field(default_factory=dict)
    parameter: tuple[str, _Place] | None = None
    routes: dict[str, Route[Any]] = field(default_factory=dict)

    def child(self, segment: str) -> _Place:
        """The place below, made if need be."""
        if not segment.startswith("{"):
            return self.literals.setdefault(segment, _Place())
        if self.parameter is None:
            self.parameter = (segment[1:-1], _Place())
        return self.parameter[1]


class Router:
    """Finds the route of a method and a raw path."""

    def __init__(self, routes: Iterable[Route[Any]], reserved: Iterable[str]) -> None:
        self._root = _Place()
        for route in routes:
            for path in route.paths():
                self._place(path).routes[route.method] = route
        for path in reserved:
            self._place(path)

    def _place(self, path: str) -> _Place:
        place = self._root
        for segment in path.split("/")[1:]:
            place = place.child(segment)
        return place

    def find(self, method: str, path: str) -> tuple[Route[Any], dict[str, str]]:
        """The route, and the raw segments of its parameters. Raises NotFound, MethodNotAllowed."""
        place = self._root
        parameters: dict[str, str] = {}
        for segment in path.split("/")[1:]:
            below = place.literals.get(segment)
            if below is None:
                if place.parameter is None:
                    raise NotFound(f"nothing is at {path[:200]!r}, see /openapi.json for what is")
                name, below = place.parameter
                parameters[name] = segment
            place = below
        route = place.routes.get(method)
        if route is not None:
            return route, parameters
        if place.routes:
            raise MethodNotAllowed(sorted(place.routes))
        raise NotFound(f"nothing is at {path[:200]!r}, see /openapi.json for what is")


def request_target(raw_path: str) -> str:
    """The path and query of a request target, which may be a whole URL (RFC 9112, 3.2.2)."""
    if raw_path.startswith("/"):
        return raw_path
    _, scheme, rest = raw_path.partition("://")
    return "/" + rest.partition("/")[2] if scheme else raw_path
