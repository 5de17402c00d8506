"""One connection between two nodes: from the end of the TLS handshake to its own end.

    TLS -> hello each way -> both are checked, the dialled one says welcome -> messages, ping and pong -> end

Nothing but TLS is parsed before the certificate is known to be of the cluster's authority, and until the hello is
accepted a frame may have 64 KiB. Time is counted in ticks of the transport (one a second) and not on a clock: a
process that was stopped for a minute finds its connections as old as when it was stopped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, Protocol, cast

from shoal.cluster.certificates import CertificateError, Subject, subject_of
from shoal.cluster.frames import FRAME_BYTES_MAX, Decoder, FrameError, Word, encode, pack, unpack
from shoal.cluster.identity import ENROLMENT, HTTP, PEERS
from shoal.cluster.words import AnyWord, Hello, PeerSeen, Ping, Pong, Refusal, Welcome, objection_to

HELLO_BYTES_MAX: Final = 64 * 1024
BUFFER_BYTES_MAX: Final = 8 * 1024 * 1024
"""What may wait to be sent; what would come behind it is dropped, and Raft sends it again."""
HELLO_TICKS: Final = 5
ENROLMENT_TICKS: Final = 15
SILENT_TICKS: Final = 5


class Owner(Protocol):
    """The transport, as its links see it."""

    @property
    def cluster_id(self) -> str:
        """Whose certificates are taken."""

    def link_hello(self) -> Hello:
        """The own first word."""

    def link_opened(self, link: Link) -> None:
        """TLS is done."""

    def link_greeted(self, link: Link, peer: PeerSeen) -> Refusal | None:
        """The hello of a certified node came: why the link must end, or None. May end it itself."""

    def link_ready(self, link: Link) -> None:
        """Both ends trust each other."""

    def link_received(self, node_id: str, value: Any) -> None:
        """A message came. May raise FrameError."""

    def link_answered(self, link: Link, number: int) -> None:
        """The ping of that number is answered."""

    def link_handler(self, link: Link, protocol: str) -> Callable[[], asyncio.Protocol] | None:
        """What takes over a connection that is not for frames; None to close it."""

    def link_refused(self, link: Link, refusal: Refusal) -> None:
        """The other side will not have this node."""

    def link_closed(self, link: Link) -> None:
        """The connection is gone."""

    def link_trouble(self, link: Link, text: str) -> None:
        """Something that a person should read, once."""


class Link(asyncio.Protocol):
    """A connection of `owner`.

    `dialled` says which side began it, `wanted` whom it then must reach; one that `probes` ends with the hello.
    """

    def __init__(
        self,
        owner: Owner,
        address: str,
        *,
        dialled: bool = False,
        wanted: str | None = None,
        probes: bool = False,
    ) -> None:
        self.address: Final = address
        self.dialled: Final = dialled
        self.probes: Final = probes
        self.subject: Subject | None = None
        self.peer: PeerSeen | None = None
        self.ready = False
        self.was_ready = False
        self.handed_over = False
        """Whether another protocol has the connection. It may close it twice, and then nothing can be asked of it."""
        self.age_ticks = 0
        self.ended: Final = asyncio.get_running_loop().create_future()
        self._wanted = wanted
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._decoder = Decoder(HELLO_BYTES_MAX)
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._silent_ticks = 0
        self._welcome = not dialled
        self._protocol: str | None = None
        self._ending = False

    # ------------------------------------------------------------------------------------ asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """TLS is done: see who is there and what for."""
        self._transport = cast("asyncio.Transport", transport)
        self._owner.link_opened(self)
        tls = transport.get_extra_info("ssl_object")
        self._protocol = tls.selected_alpn_protocol()
        certificate = tls.getpeercert(binary_form=True)
        try:
            self.subject = None if certificate is None else subject_of(certificate)
        except CertificateError as error:
            self.end(str(error))
            return
        if self._protocol == ENROLMENT and not self.dialled:
            self._hand_over()
        elif self.subject is None:
            self.end("it has no certificate")
        elif self.subject.cluster_id != self._owner.cluster_id:
            self.end(f"it is of cluster {self.subject.cluster_id!r}")
        elif self._protocol == PEERS:
            self._say(self._owner.link_hello())
        elif self._protocol == HTTP and not self.dialled:
            self._hand_over()
        else:
            known = "no member's port" if self._protocol is None else f"protocol {self._protocol!r}"
            self.end(f"it is {known}" if self.dialled else f"it asks for {known}")

    def data_received(self, data: bytes) -> None:
        """Bytes of the peer, of the cluster's authority since `connection_made`."""
        self._silent_ticks = 0
        try:
            for value in self._decoder.feed(data):
                if self._ending:
                    return
                self._take(value)
        except FrameError as error:
            self.end(str(error))

    def connection_lost(self, exc: Exception | None) -> None:
        """The end, whoever wanted it."""
        del exc
        self._ending, self.ready, self.handed_over = True, False, False
        self._out.clear()
        if not self.ended.done():
            self.ended.set_result(None)
        self._owner.link_closed(self)

    # ------------------------------------------------------------------------------------ for the transport

    def send(self, frame: bytes) -> bool:
        """Send a frame in this turn of the loop; False if it is dropped. Never blocks."""
        if self._ending or self._transport is None:
            return False
        if self._out_bytes + self._transport.get_write_buffer_size() >= BUFFER_BYTES_MAX:
            return False
        self._out.append(frame)
        self._out_bytes += len(frame)
        if len(self._out) == 1:
            self._loop.call_soon(self._flush)
        return True

    def tick(self) -> None:
        """A second has passed: end what is too slow or silent."""
        self.age_ticks += 1
        self._silent_ticks += 1
        if self._transport is None:
            return
        if self._transport.is_closing():
            self._transport.abort()  # it had a second for its last words
            if self.handed_over:
                self.connection_lost(None)  # which only the protocol hears that it was handed to
        elif self._protocol == HTTP:
            pass  # HTTP has time limits of its own
        elif self._protocol == ENROLMENT:
            if self.age_ticks > ENROLMENT_TICKS:
                self._transport.abort()
        elif not self.ready:
            if self.age_ticks > HELLO_TICKS:
                self.end("it does not say hello")
        elif self._silent_ticks > SILENT_TICKS:
            self.end("it is silent")

    def ping(self, number: int) -> None:
        """Ask for an answer."""
        self._say(Ping(number))

    def refuse(self, refusal: Refusal) -> None:
        """End the connection, saying why to the other side where frames are spoken."""
        self._owner.link_trouble(self, f"connection refused, {refusal.reason}: {refusal.detail}")
        if self._protocol == PEERS:
            self._say(refusal)
            self._flush()
        self._ending, self.ready = True, False
        if self._transport is not None and self._protocol == PEERS:
            self._transport.close()
        elif self._transport is not None:
            self._transport.abort()

    def end(self, why: str = "") -> None:
        """End the connection at once. `why`, if given, is for people here."""
        if why and not self._ending:
            self._owner.link_trouble(self, f"connection closed: {why}")
        self._ending, self.ready = True, False
        if self._transport is not None:
            self._transport.abort()

    # ------------------------------------------------------------------------------------ inside

    def _take(self, value: Any) -> None:
        if isinstance(value, Word):
            self._take_word(unpack(value.value, AnyWord))
        elif self.ready and not self.dialled and self.peer is not None:
            self._owner.link_received(self.peer.hello.node_id, value)
        else:
            raise FrameError("a message where none is expected")

    def _take_word(self, word: AnyWord) -> None:
        if isinstance(word, Hello) and self.peer is None:
            self._greet(word)
        elif isinstance(word, Refusal):
            self._owner.link_refused(self, word)
            self.end(f"refused, {word.reason}: {word.detail}"[:500])
        elif isinstance(word, Welcome) and not self._welcome and self.peer is not None:
            self._welcome = True
            self._start()
        elif isinstance(word, Ping) and self.ready and not self.dialled:
            self._say(Pong(word.number))
        elif isinstance(word, Pong) and self.ready and self.dialled:
            self._owner.link_answered(self, word.number)
        else:
            raise FrameError(f"a {type(word).__name__.lower()} where none is expected")

    def _greet(self, hello: Hello) -> None:
        assert self.subject is not None  # noqa: S101 - without one, connection_made has ended it
        refusal = objection_to(hello, self.subject)
        if refusal is None and self._wanted not in (None, hello.node_id):
            refusal = Refusal("not-wanted", f"{self._wanted} was expected at {self.address}")
        if refusal is None:
            self.peer = PeerSeen(hello, self.subject.key_hash, self.address)
            refusal = self._owner.link_greeted(self, self.peer)
        if self._ending:
            return
        if refusal is not None:
            self.refuse(refusal)
        elif self._welcome:
            self._say(Welcome())
            self._start()

    def _start(self) -> None:
        self._decoder.bytes_max = FRAME_BYTES_MAX
        self.ready = self.was_ready = True
        self._owner.link_ready(self)

    def _hand_over(self) -> None:
        assert self._protocol is not None  # noqa: S101 - its callers looked
        assert self._transport is not None  # noqa: S101 - set when the connection was made
        make = self._owner.link_handler(self, self._protocol)
        if make is None:
            self.end(f"{self._protocol} is not for it")
            return
        other = make()
        self.handed_over = True
        self._transport.set_protocol(other)
        other.connection_made(self._transport)

    def _say(self, word: AnyWord) -> None:
        self.send(encode(Word(pack(word))))

    def _flush(self) -> None:
        if self._out and self._transport is not None and not self._transport.is_closing():
            self._transport.write(self._out[0] if len(self._out) == 1 else b"".join(self._out))
        self._out.clear()
        self._out_bytes = 0
