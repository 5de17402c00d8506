"""The operator's machine as what answers boards with a join token, so that no board needs the authority's key."""

from __future__ import annotations

import asyncio
import logging
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from shoal.address import split_address
from shoal.clock import SystemClock
from shoal.cluster.authority import load_authority
from shoal.cluster.enroller import Enroller
from shoal.cluster.identity import ENROLMENT, Identity, issue, load_identity
from shoal.errors import ConfigError

NODE_ID: Final = "enrolment-desk"
"""In the certificate that this machine shows; its key is forgotten at once."""
_HANDSHAKE_S: Final = 5.0


class _Notes(logging.Handler):
    """Hands log lines to a person."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        super().__init__(logging.INFO)
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        self._tell(record.getMessage())


async def answer_boards(
    ca_dir: Path, listen: str, *, ready: Callable[[tuple[str, int]], None], tell: Callable[[str], None]
) -> None:
    """Enrol boards until SIGTERM or Ctrl-C; `ready` gets the address, `tell` a line for each. Raises ConfigError."""
    identity = await asyncio.to_thread(_own_identity, ca_dir)
    identity.accept.set_alpn_protocols([ENROLMENT])
    enroller = Enroller(ca_dir, lambda: identity.key_hash, clock=SystemClock())
    log, notes = logging.getLogger("shoal.enrolment"), _Notes(tell)
    log.addHandler(notes)
    log.setLevel(logging.INFO)
    try:
        server = await _listen(enroller, identity, listen)
        ready(server.sockets[0].getsockname()[:2])
        async with server:
            await _until_told()
    finally:
        await enroller.close()
        log.removeHandler(notes)


def _own_identity(ca_dir: Path) -> Identity:
    authorities = load_authority(ca_dir)
    with tempfile.TemporaryDirectory(prefix="shoal-") as place:
        issue(authorities.signing, NODE_ID, Path(place), ca_pem=authorities.ca_pem)
        return load_identity(Path(place))


async def _listen(enroller: Enroller, identity: Identity, listen: str) -> asyncio.Server:
    try:
        host, port = split_address(listen)
        return await asyncio.get_running_loop().create_server(
            enroller.protocol, host, port, ssl=identity.accept, ssl_handshake_timeout=_HANDSHAKE_S
        )
    except (OSError, ValueError) as error:
        raise ConfigError("--listen", f"cannot listen on {listen}: {error}") from error


async def _until_told() -> None:
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    try:
        await told.wait()
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
