"""Messages between the nodes of a cluster, over mutual TLS.

Each node dials each other one and sends on what it dialled, a connection for control and one for bulk, so that
a snapshot holds up no heartbeat; on what it accepted it receives. A peer is who its certificate says, and is heard only
while `refusal` says nothing against it, which knows the membership. Messages may be lost whenever a connection breaks
or is full: Raft expects no more. Nothing here waits for a peer.
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

from shoal.address import split_address
from shoal.clock import Clock
from shoal.cluster.acceptor import Acceptor
from shoal.cluster.certificates import CertificateError, subject_of
from shoal.cluster.dialler import Dialler, open_link
from shoal.cluster.frames import encode
from shoal.cluster.identity import ENROLMENT, HTTP, Identity
from shoal.cluster.link import Link
from shoal.cluster.words import OLD_KEY, Hello, PeerSeen, Refusal
from shoal.errors import ConfigError

TICK_S: Final = 1.0
HANDSHAKE_TIMEOUT_S: Final = 5.0
PROBE_PAUSE_MS: Final = 1000
PROBES_MAX: Final = 8
_REMEMBERED_MAX: Final = 256

Factory = Callable[[], asyncio.Protocol]

_log: Final = logging.getLogger("shoal.transport")


def _nobody(_node_id: str, _reason: str) -> None:
    """Nobody wants to know."""


class Transport:
    """The connections of one node. All calls belong to the thread of its event loop.

    `hello` gives the own first word, `refusal` says why somebody may not be a peer, None if he may. `received` gets
    each message with its sender; it may raise FrameError for one that it cannot read, which ends the connection.
    `seen` hears of every certified node that says hello, `lost` of a peer whose process is gone, `broken` of one to
    which a connection broke, and `refused` of a node that will not have this one, with its code for why. `http` and
    `enrol` make what serves the other protocols of the port.
    """

    def __init__(
        self,
        identity: Identity,
        hello: Callable[[], Hello],
        *,
        refusal: Callable[[PeerSeen], Refusal | None],
        received: Callable[[str, Any], None],
        seen: Callable[[PeerSeen], None],
        lost: Callable[[str], None],
        broken: Callable[[str], None],
        refused: Callable[[str, str], None] = _nobody,
        clock: Clock,
        random: random.Random,
        http: Factory | None = None,
        enrol: Factory | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        handshake_timeout_s: float = HANDSHAKE_TIMEOUT_S,
    ) -> None:
        self._identity: Identity = identity
        self._hello = hello
        self._refusal = refusal
        self._receive = received
        self._seen = seen
        self._lost = lost
        self._broken = broken
        self._refused = refused
        self._clock = clock
        self._random = random
        self._handlers = {HTTP: http, ENROLMENT: enrol}
        self._sleep = sleep
        self._handshake_timeout_s = handshake_timeout_s
        self._links: set[Link] = set()
        self._diallers: dict[str, Dialler] = {}
        self._known: dict[str, PeerSeen] = {}
        self._probed_ms: dict[str, int] = {}
        self._probing: set[asyncio.Task[None]] = set()
        self._leaving: set[asyncio.Task[None]] = set()
        self._said: set[tuple[str, str]] = set()
        self._acceptor = Acceptor(
            partial(Link, self),
            lambda: self._identity.accept,
            handshake_timeout_s=handshake_timeout_s,
            sleep=sleep,
        )
        self._ticking = asyncio.ensure_future(self._tick())

    @property
    def identity(self) -> Identity:
        """What new connections use."""
        return self._identity

    @property
    def cluster_id(self) -> str:
        """The cluster whose certificates are taken."""
        return self._identity.cluster_id

    async def listen(self, address: str) -> tuple[str, int]:
        """Accept connections on `HOST:PORT`; the address that it is. Raises OSError, ValueError."""
        return await self._acceptor.listen(address)

    def dial(self, peers: Mapping[str, Sequence[str]]) -> None:
        """Keep connections to these nodes (id: addresses), and to no others."""
        wanted = {
            node_id: tuple(where) for node_id, where in peers.items() if node_id != self._identity.node_id
        }
        for node_id in self._diallers.keys() - wanted.keys():
            leaving = asyncio.ensure_future(self._diallers.pop(node_id).close())
            self._leaving.add(leaving)
            leaving.add_done_callback(self._leaving.discard)
        for node_id, addresses in wanted.items():
            if node_id in self._diallers:
                self._diallers[node_id].addresses = addresses
            else:
                self._diallers[node_id] = self._dialler(node_id, addresses)

    def probe(self, addresses: Sequence[str]) -> None:
        """Ask who is at these addresses: `seen` hears it. Each once a second at most, eight at a time."""
        now_ms = self._clock.monotonic_ms()
        if len(self._probed_ms) > _REMEMBERED_MAX:
            self._probed_ms = {each: at for each, at in self._probed_ms.items() if each in addresses}
        never = -PROBE_PAUSE_MS
        # Who waits longest first: those that nobody answers at must not keep the others from their turn.
        for address in sorted(addresses, key=lambda each: self._probed_ms.get(each, never)):
            due = now_ms - self._probed_ms.get(address, never) >= PROBE_PAUSE_MS
            if due and len(self._probing) < PROBES_MAX:
                self._probed_ms[address] = now_ms
                task = asyncio.ensure_future(self._probe(address))
                self._probing.add(task)
                task.add_done_callback(self._probing.discard)

    def send(self, node_id: str, value: Any, *, bulk: bool = False) -> bool:
        """Send a plain value (see `frames.pack`); False if it is dropped: no connection, or too much waits there.

        Never blocks. What is sent in one turn of the loop leaves in one write. Raises FrameError for a value too large.
        """
        dialler = self._diallers.get(node_id)
        link = None if dialler is None else dialler.bulk if bulk else dialler.control
        return link is not None and link.ready and link.send(encode(value))

    def connected(self, node_id: str) -> bool:
        """Whether `send` has a control connection to the node."""
        dialler = self._diallers.get(node_id)
        return dialler is not None and dialler.control is not None and dialler.control.ready

    def address_of(self, node_id: str) -> str | None:
        """Where the node was reached; None while it is not."""
        dialler = self._diallers.get(node_id)
        control = None if dialler is None else dialler.control
        return control.address if control is not None and control.ready else None

    def rtt_ms(self, node_id: str) -> float | None:
        """The round trip time that three of four of the last pings kept to; None until one is measured."""
        dialler = self._diallers.get(node_id)
        return None if dialler is None else dialler.rtt_ms()

    def http_context(self) -> ssl.SSLContext:
        """For clients that speak HTTP to the peer port of another node."""
        return self._identity.http

    def vouches(self, node_id: str, certificate: bytes | None) -> bool:
        """Whether a certificate (DER) is that of a peer, with a key that counts. TLS knows it to be the authority's."""
        known = self._known.get(node_id)
        if known is None or certificate is None:
            return False
        try:
            subject = subject_of(certificate)
        except CertificateError:
            return False
        peer = PeerSeen(known.hello, subject.key_hash, known.address)
        named = (subject.cluster_id, subject.node_id) == (self.cluster_id, node_id)
        return named and self._refusal(peer) is None

    def recheck(self) -> None:
        """Membership has changed: close the connections with whom it trusts no more."""
        for link in list(self._links):
            if link.peer is not None and (link.ready or link.handed_over):
                refusal = self._refusal(link.peer)
                if refusal is not None and refusal.reason == OLD_KEY:
                    link.end()  # it comes again with the new one
                elif refusal is not None:
                    link.refuse(refusal)

    def reload(self, identity: Identity) -> None:
        """Use another key and certificate of this node for new connections. Raises ConfigError for another node's."""
        if (identity.cluster_id, identity.node_id) != (self.cluster_id, self._identity.node_id):
            raise ConfigError(
                "identity", f"it is of node {identity.node_id}, not of this one: restart for that"
            )
        self._identity = identity

    async def close(self) -> None:
        """End all connections, and listen no more."""
        self.dial({})
        tasks = {self._ticking, *self._probing}
        for task in tasks:
            task.cancel()
        await self._acceptor.close()
        for link in list(self._links):
            link.end()
        await asyncio.gather(*tasks, *self._leaving, return_exceptions=True)
        ending = [link.ended for link in self._links if not link.handed_over]
        if ending:
            await asyncio.wait(ending)

    # ------------------------------------------------------------------------------------ what links tell

    def link_hello(self) -> Hello:
        return self._hello()

    def link_opened(self, link: Link) -> None:
        self._links.add(link)

    def link_greeted(self, link: Link, peer: PeerSeen) -> Refusal | None:
        if peer.hello.node_id == self._identity.node_id:
            own = peer.hello.incarnation == self._hello().incarnation
            link.end("" if own else "it has the name of this node: give one of the two another node id")
            return None
        self._seen(peer)
        if link.probes:
            link.end()
            return None
        refusal = self._refusal(peer)
        if refusal is not None:
            return refusal
        self._known[peer.hello.node_id] = peer
        return None

    def link_ready(self, link: Link) -> None:
        self._acceptor.proven(link)
        node_id = _node_id(link)
        self._said = {said for said in self._said if said[0] != node_id}
        if link.dialled:  # who connects from there says so itself, and some only ask who is here
            _log.info("connected to %s at %s", node_id, link.address)

    def link_received(self, node_id: str, value: Any) -> None:
        self._receive(node_id, value)

    def link_answered(self, link: Link, number: int) -> None:
        dialler = self._diallers.get(_node_id(link))
        if dialler is not None:
            dialler.answered(link, number)

    def link_handler(self, link: Link, protocol: str) -> Factory | None:
        if protocol == HTTP:
            known = self._known.get(_node_id(link))
            if known is None or link.subject is None or known.key_hash != link.subject.key_hash:
                return None  # a key counts once its owner has said hello with it
            peer = PeerSeen(known.hello, link.subject.key_hash, link.address)
            if self._refusal(peer) is not None:
                return None
            link.peer = peer
            self._acceptor.proven(link)
        return self._handlers[protocol]

    def link_refused(self, link: Link, refusal: Refusal) -> None:
        self._refused(_node_id(link), refusal.reason)

    def link_closed(self, link: Link) -> None:
        self._links.discard(link)
        self._acceptor.closed(link)

    def link_trouble(self, link: Link, text: str) -> None:
        who = _node_id(link) or split_address(link.address)[0]
        if (who, text) in self._said:
            return
        if len(self._said) >= _REMEMBERED_MAX:
            self._said.clear()
        self._said.add((who, text))
        _log.warning("peer %s at %s: %s", who, link.address, text)

    # ------------------------------------------------------------------------------------ inside

    async def _tick(self) -> None:
        while True:
            await self._sleep(TICK_S)
            self._acceptor.tick()
            for link in list(self._links):
                link.tick()
            for dialler in self._diallers.values():
                dialler.tick()

    def _dialler(self, node_id: str, addresses: tuple[str, ...]) -> Dialler:
        return Dialler(
            node_id,
            addresses,
            self._connect,
            lost=self._lost,
            broken=self._broken,
            clock=self._clock,
            source=self._random,
            sleep=self._sleep,
        )

    async def _connect(self, address: str, node_id: str) -> Link:
        link = Link(self, address, dialled=True, wanted=node_id)
        return await open_link(link, self._identity.dial, self._handshake_timeout_s)

    async def _probe(self, address: str) -> None:
        link = Link(self, address, dialled=True, probes=True)
        try:
            await open_link(link, self._identity.dial, self._handshake_timeout_s)
            await link.ended
        except ssl.SSLError as error:
            self.link_trouble(link, f"no TLS, is it of another cluster? {error}")
        except (OSError, ValueError) as error:
            _log.debug("nobody at %s: %s", address, error)


def _node_id(link: Link) -> str:
    return "" if link.subject is None else link.subject.node_id
