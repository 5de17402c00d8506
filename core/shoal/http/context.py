"""What a handler gets: the ports of the node, the settings, and the call at hand."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Literal, Protocol, TypeVar

import msgspec
from aiohttp import web

from shoal.config import DEFAULT_STORE, Config
from shoal.errors import InvalidRequest, Unavailable
from shoal.http import pacing
from shoal.http.auth import Access, Door
from shoal.http.bodies import LARGE_BYTES, BodyReader, decode
from shoal.ids import EventIds
from shoal.metrics import HANDLER_ID, Metrics
from shoal.model.commands import SaveSnapshot, Write
from shoal.store.api import Snapshots, Streams, SubscriptionCheck, Subscriptions
from shoal.types import (
    JSON,
    AggregateResult,
    AppendedMany,
    Beginning,
    Condition,
    Consistency,
    Delivered,
    Limits,
    Subscription,
)

T = TypeVar("T")

DEFAULT_PAGE: Final = 100
"""Events or names of a page that nobody gave a `limit`."""
_encode_json: Final = msgspec.json.Encoder().encode


class ServedStreams(Streams, Protocol):
    """A store's streams, and the append for payloads that are checked and encoded already."""

    def append_proposed(
        self, writes: list[Write], condition: Condition | None = None
    ) -> Awaitable[AppendedMany]:
        """As `append_many`, for what needs no more checking."""


class ServedSnapshots(Snapshots, Protocol):
    """A store's snapshots, and saving one whose payload is checked and encoded already."""

    async def save_encoded(self, command: SaveSnapshot) -> None:
        """As `save`, for what needs no more checking."""


class ServedSubscriptions(Subscriptions, Protocol):
    """A store's subscriptions, with bodies as they were sent, and delivery that is pushed."""

    async def create_or_find(self, name: str, fields: Mapping[str, Any]) -> tuple[Subscription, bool]:
        """As `create`, of `type`, `selector`, `start_from` and options by name; True when it is new."""

    async def change(
        self, name: str, fields: Mapping[str, Any], check: SubscriptionCheck | None = None
    ) -> Subscription:
        """As `update`, of options by name. `check`, here and below, raises when the subscription may not be used."""

    async def unsubscribe(self, *key: str, check: SubscriptionCheck | None = None) -> None: ...
    async def reset(
        self, name: str, to: Beginning | int, check: SubscriptionCheck | None = None
    ) -> Subscription: ...
    async def replay_parked(
        self, name: str, limit: int | None = None, check: SubscriptionCheck | None = None
    ) -> int: ...

    async def give_back(self, name: str, leases: Sequence[str]) -> None:
        """What was leased cannot reach its consumer: it comes again at once, and has not failed."""

    def push(
        self, name: str, consumer: str, prefetch: int | None, check: SubscriptionCheck | None
    ) -> AsyncGenerator[list[Delivered], None]:
        """Leased events in batches, for ever; closing it says that the consumer is lost.

        Raises NotFound, also when the subscription is deleted meanwhile, and AlreadyExists when a consumer of that
        name is connected.
        """


class ServedStore(Protocol):
    """What HTTP needs of a store."""

    @property
    def name(self) -> str: ...
    @property
    def streams(self) -> ServedStreams: ...
    @property
    def snapshots(self) -> ServedSnapshots: ...
    @property
    def subscriptions(self) -> ServedSubscriptions: ...
    @property
    def head(self) -> int:
        """The last position assigned."""

    async def wait_for(self, position: int, timeout_ms: int) -> None:
        """Until `position` can be read. Raises Timeout."""

    async def settle_reads(self, consistency: Consistency | None) -> None:
        """Until what a read of this consistency must see is here; then it is read with `local`.

        Raises NoLeader, Timeout.
        """

    async def aggregate(
        self,
        stream_id: str,
        *,
        finalize: bool = True,
        fold: Literal["left", "right"] = "left",
        at: int | None = None,
        consistency: Consistency | None = None,
    ) -> AggregateResult: ...


class Verified(Protocol):
    """What a verification looked at, and what was wrong."""

    stores: int
    streams: int
    events: int
    snapshots: int
    subscriptions: int

    @property
    def problems(self) -> Sequence[VerifiedProblem]: ...


class VerifiedProblem(Protocol):
    """Something that is not as it was stored."""

    @property
    def where(self) -> str: ...
    @property
    def what(self) -> str: ...


class ServedNode(Protocol):
    """What HTTP needs of a node."""

    @property
    def stores(self) -> Mapping[str, ServedStore]: ...
    def store(self, name: str) -> ServedStore:
        """Raises NotFound."""

    async def look_for(self, name: str) -> None:
        """Until a store that is not here is here, or surely nowhere. Raises NoLeader, Timeout."""

    async def create_store(self, name: str) -> object: ...
    async def drop_store(self, name: str) -> None: ...
    def info(self) -> dict[str, Any]:
        """node_id, cluster_id, role, term, commit_index, applied_index, mode ..."""

    def stats(self) -> dict[str, float]:
        """Counters and gauges."""

    async def verify(self) -> Verified:
        """Look at each byte that a reader could be given."""

    @property
    def leads(self) -> bool:
        """Whether this node answers what only the leader can."""

    @property
    def failed(self) -> asyncio.Future[Any]:
        """Done when the storage died."""


class Passes(Protocol):
    """Passes requests on to the leader; see shoal.http.passing."""

    async def pass_on(self, call: Call) -> web.StreamResponse: ...


class ServedMembers(Protocol):
    """Changes of a cluster, on its leader. All raise NoLeader where another node leads."""

    async def add(self, node_id: str | None, address: str | None = None, role: str = "voter") -> str:
        """Add an empty board that is found by its name or address; its name."""

    async def remove(self, node_id: str) -> None:
        """Remove a member."""

    async def promote(self, node_id: str) -> None:
        """Make a learner vote."""

    async def transfer(self, target: str | None) -> str:
        """Hand leadership over; to whom."""

    async def recover(self, node_id: str, cluster_id: str) -> None:
        """Make this node the only voter; both names were typed by a person. On any node."""


class ServedCluster(Protocol):
    """What HTTP needs of the cluster that the node is in."""

    def view(self) -> dict[str, Any]:
        """The body of `GET /v1/cluster`."""

    def obstacle(self) -> Unavailable | None:
        """Why the node cannot serve what is asked of it, in words that say what to do; None when it can."""

    @property
    def lag_ms(self) -> int:
        """For how long the node has lacked something that was committed."""

    def stats(self) -> dict[str, float]:
        """Gauges."""

    @property
    def members(self) -> ServedMembers: ...


class Context:
    """One HTTP server's share of everything: made once, handed to every call."""

    def __init__(
        self,
        node: ServedNode,
        cluster: ServedCluster,
        config: Config,
        door: Door,
        now_ms: Callable[[], int],
    ) -> None:
        self.node = node
        self.cluster = cluster
        self.config = config
        self.limits: Limits = config.limits
        self.maxima: Mapping[str, int] = {"limit": config.limits.page_events}
        self.door = door
        self.ids = EventIds(now_ms=now_ms)
        self._now_ms = now_ms
        self.bodies = BodyReader(config.limits, config.http.body_timeout_ms / 1000)
        self.room = pacing.Room(config.limits)
        self.closing = asyncio.Event()
        self.openapi: bytes = b""
        self.requests: Counter[int] = Counter()
        self.passing: Passes | None = None
        """Of a node in a cluster."""
        self.peers: Callable[[], list[dict[str, Any]]] = list
        self.metrics = Metrics(self.stats, handler_id=f"{HANDLER_ID}-{id(self)}")

    def ids_for_a_thread(self) -> EventIds:
        """A maker of ids of its own, since the loop's is for the loop alone."""
        now_ms = self._now_ms()
        return EventIds(now_ms=lambda: now_ms)

    def stats(self) -> dict[str, float]:
        """The node's numbers, and the answers given by status."""
        answered = {f"http_answers_total:{status}": float(count) for status, count in self.requests.items()}
        return self.node.stats() | self.cluster.stats() | answered

    def reply_headers(self, store: ServedStore) -> dict[str, str]:
        """What every answer about a store's events says of where it came from."""
        info = self.node.info()
        return {
            "Shoal-Position": str(store.head),
            "Shoal-Node": str(info["node_id"]),
            "Shoal-Role": str(info["role"]),
        }


class Call:
    """One request on its way through a handler."""

    __slots__ = ("access", "context", "ids", "media", "request")

    def __init__(
        self,
        context: Context,
        request: web.BaseRequest,
        ids: Mapping[str, str],
        access: Access,
    ) -> None:
        self.context = context
        self.request = request
        self.ids = ids
        self.access = access
        self.media = JSON
        """The media type to answer in, as the route offers and the client prefers."""

    @property
    def store_name(self) -> str:
        """The store that the path names, `main` when it names none."""
        return self.ids.get("store", DEFAULT_STORE)

    @property
    def store(self) -> ServedStore:
        """The store that the path names. Raises NotFound."""
        return self.context.node.store(self.store_name)

    @property
    def stream_id(self) -> str:
        """The stream that the path names."""
        return self.ids["stream_id"]

    @property
    def subscription(self) -> str:
        """The name of the subscription that the path names."""
        return self.ids["name"]

    @property
    def gone(self) -> bool:
        """Whether the client has left."""
        transport = self.request.transport
        return transport is None or transport.is_closing()

    @property
    def version(self) -> int:
        """The version that the path names."""
        return int(self.ids["version"])

    def page_limit(self, asked: int | None) -> int:
        """How many events or names a page holds: as asked for, else the default, which the configuration may lower."""
        return min(DEFAULT_PAGE, self.context.limits.page_events) if asked is None else asked

    async def body(self) -> bytes:
        """The request's body. Raises BodyTooLarge, SlowBody, TooBusy."""
        return await self.context.bodies.read(self.request)

    async def decoded(self, shape: type[T], limits: Limits) -> T:
        """The request's body as `shape`. Raises as `body` does, InvalidRequest, UnsupportedMediaType."""
        raw, content_type = await self.body(), self.request.headers.get("Content-Type")
        if len(raw) <= LARGE_BYTES:
            return decode(raw, content_type, shape, limits)
        return await self.context.bodies.beside(decode, raw, content_type, shape, limits)

    def header(self, name: str) -> str | None:
        """A header that may come once. Raises InvalidRequest."""
        values = self.request.headers.getall(name, [])
        if len(values) > 1:
            raise InvalidRequest(f"the header {name} is given twice", pointer=name)
        return values[0].strip() if values else None

    def answer(
        self, value: Any, *, status: int = 200, headers: Mapping[str, str] | None = None
    ) -> web.Response:
        """`value`, in the media type that the client prefers."""
        response = web.Response(
            status=status, body=self._encoded(value), headers={"Content-Type": self.media}
        )
        if headers:
            response.headers.update(headers)
        return response

    def answer_read(self, value: Any, *, headers: Mapping[str, str] | None = None) -> web.StreamResponse:
        """As `answer`, for what was read from the store; a large one may be refused when it is to be sent."""
        body = self._encoded(value)
        described = (
            self.context.reply_headers(self.store) | {"Content-Type": self.media} | dict(headers or {})
        )
        if len(body) > pacing.LARGE_BYTES:
            return pacing.Paced(body, described)
        return web.Response(body=body, headers=described)

    def _encoded(self, value: Any) -> bytes:
        if self.media == JSON:
            return _encode_json(value)
        import cbor2

        return cbor2.dumps(msgspec.to_builtins(value, builtin_types=(bytes,)))
