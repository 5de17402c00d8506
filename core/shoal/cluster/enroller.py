"""The side of enrolment that signs: a node, or the operator's machine, with the authority's key in its directory."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Final

from shoal.clock import Clock
from shoal.cluster.authority import CA_KEY_FILE, Authorities, load_authority
from shoal.cluster.certificates import CertificateError, request_key_hash, sign, vouch
from shoal.cluster.enrolment_words import (
    ENROLMENT_VERSION,
    NOT_NOW,
    TURN_S,
    Denied,
    Enrolled,
    Join,
    Offer,
    hear,
    offered,
    say,
)
from shoal.cluster.frames import FrameError
from shoal.cluster.join_tokens import JoinToken, JoinTokens
from shoal.errors import ConfigError, EnrolmentRefused

AGE_S: Final = 60
"""How much is taken from the life of the tokens at a time."""
AT_ONCE_MAX: Final = 8
AT_ONCE_PER_HOST_MAX: Final = 2
FAILED_PER_HOST_MAX: Final = 5
"""Before the minute is over; then who comes from there is sent away."""
HOSTS_MAX: Final = 1024
_BUFFER_BYTES: Final = 16 * 1024

_log: Final = logging.getLogger("shoal.enrolment")


def can_enrol(directory: Path) -> bool:
    """Whether a directory holds a key that signs. Blocks."""
    return (directory / CA_KEY_FILE).exists()


class Enroller:
    """Answers boards with a join token; `protocol` makes what serves one connection (see Transport's `enrol`).

    `key_hash` is that of the TLS key which the port shows now; `taken` says whether a node id is a member's with
    another key. All calls belong to the thread of the event loop; `close` when done. Files are read for each board.
    """

    def __init__(
        self,
        directory: Path,
        key_hash: Callable[[], bytes],
        *,
        clock: Clock,
        taken: Callable[[str, bytes], bool] = lambda _node_id, _key_hash: False,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        timeout_s: float = TURN_S,
    ) -> None:
        self._directory = directory
        self._tokens = JoinTokens(directory)
        self._key_hash = key_hash
        self._taken = taken
        self._clock = clock
        self._sleep = sleep
        self._timeout_s = timeout_s
        self._now: Counter[str] = Counter()
        self._failed: Counter[str] = Counter()
        self._serving: set[asyncio.Task[None]] = set()
        self._ageing = asyncio.ensure_future(self._age())

    def protocol(self) -> asyncio.Protocol:
        """What serves one connection, over TLS already."""
        reader = asyncio.StreamReader(limit=_BUFFER_BYTES)
        return asyncio.StreamReaderProtocol(reader, self._begin)

    async def close(self) -> None:
        """Answer nobody any more."""
        tasks = {self._ageing, *self._serving}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # -- one board -------------------------------------------------------------------------------

    def _begin(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host = str((writer.get_extra_info("peername") or ("",))[0])
        if not self._admits(host):
            writer.transport.abort()
            return
        self._now[host] += 1
        self._failed[host] += 1  # until it went well
        try:
            async with asyncio.timeout(self._timeout_s):
                if await self._answer(reader, writer, host):
                    self._failed[host] -= 1
                await writer.drain()
        except (OSError, TimeoutError, FrameError) as error:
            _log.info("no enrolment for %s: %s", host, str(error) or "it was too slow")
        finally:
            self._now[host] -= 1
            if not self._now[host]:
                del self._now[host]
            writer.close()

    def _admits(self, host: str) -> bool:
        known = host in self._failed or len(self._failed) < HOSTS_MAX
        return (
            known
            and self._failed[host] < FAILED_PER_HOST_MAX
            and self._now[host] < AT_ONCE_PER_HOST_MAX
            and self._now.total() < AT_ONCE_MAX
        )

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str) -> bool:
        """Whether a certificate was given."""
        try:
            authorities = await asyncio.to_thread(load_authority, self._directory)
            say(writer, self._offer(authorities))
            join = await hear(reader, Join)
            token, certificate = await self._enrol(authorities, join)
        except EnrolmentRefused as error:
            _log.warning("no enrolment for %s: %s", host, error)
            say(writer, Denied(error.reason, str(error)))
            return False
        except ConfigError as error:
            _log.warning("no enrolment for anybody: %s", error)
            say(writer, Denied(NOT_NOW, "this node cannot enrol now, its log says why"))
            return False
        say(writer, Enrolled(certificate))
        _log.info(
            "%s was enrolled as %s with join token %s; next: shoal cluster add %s",
            host,
            join.node_id,
            token.id,
            join.node_id,
        )
        return True

    def _offer(self, authorities: Authorities) -> Offer:
        voucher = vouch(authorities.signing, offered(self._key_hash(), authorities.ca_pem))
        return Offer(ENROLMENT_VERSION, authorities.ca_pem, voucher)

    async def _enrol(self, authorities: Authorities, join: Join) -> tuple[JoinToken, bytes]:
        """Look at the token first, at nothing else of who has none. Raises EnrolmentRefused, ConfigError."""
        wall_us = self._wall_us()
        token = await asyncio.to_thread(self._tokens.find, join.secret, wall_us)
        try:
            key_hash = await asyncio.to_thread(request_key_hash, join.request)
            if token.node_id != join.node_id and self._taken(join.node_id, key_hash):
                raise EnrolmentRefused(_TAKEN.format(join.node_id), reason="taken")
            return await asyncio.to_thread(partial(self._sign, authorities, join, key_hash, wall_us))
        except CertificateError as error:
            raise EnrolmentRefused(
                f"the signing request cannot be used: {error}", reason="malformed"
            ) from error

    def _sign(
        self, authorities: Authorities, join: Join, key_hash: bytes, wall_us: int | None
    ) -> tuple[JoinToken, bytes]:
        """Sign first, since that may fail, and hand out only once the use of the token is durable."""
        certificate = sign(authorities.signing, join.request, authorities.cluster_id, join.node_id)
        return self._tokens.redeem(join.secret, join.node_id, key_hash, wall_us), certificate

    # -- time ------------------------------------------------------------------------------------

    def _wall_us(self) -> int | None:
        wall = self._clock.wall()
        return None if wall.quality == "unknown" else wall.epoch_us

    async def _age(self) -> None:
        while True:
            try:
                await asyncio.to_thread(self._tokens.age, AGE_S, self._wall_us())
            except ConfigError as error:
                _log.warning("join tokens do not age, and are not taken: %s", error)
            self._failed.clear()
            await self._sleep(AGE_S)


_TAKEN: Final = (
    "node id {!r} is a member's with another key: choose another, or remove that member, "
    "or make a token for this very node id"
)
