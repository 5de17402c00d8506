"""An authority that answers boards with a join token over real TLS on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from peer_kit import CLUSTER, Node, Reef, Sleeps

from shoal.cluster.authority import create_authority, load_authority
from shoal.cluster.certificates import Authority, fingerprint
from shoal.cluster.enroller import Enroller
from shoal.cluster.identity import issue, load_identity
from shoal.cluster.join_tokens import JoinTokens, TokenText, write_token
from shoal.testing.clock import FakeClock


class Desk:
    """A node whose directory holds the authority's key, and what it answers with."""

    def __init__(
        self, directory: Path, node: Node, enroller: Enroller, clock: FakeClock, sleeps: Sleeps
    ) -> None:
        self.directory = directory
        self.node = node
        self.enroller = enroller
        self.clock = clock
        self.sleeps = sleeps
        self.members: dict[str, bytes] = {}

    @property
    def address(self) -> str:
        return self.node.address

    def token(self, node_id: str = "", **options: Any) -> str:
        """A new token's text. Blocks."""
        return make_token(self.directory, node_id, **options)

    def taken(self, node_id: str, key_hash: bytes) -> bool:
        return self.members.get(node_id, key_hash) != key_hash


def make_token(directory: Path, node_id: str = "", **options: Any) -> str:
    options.setdefault("created_us", FakeClock().wall().epoch_us)
    secret, _ = JoinTokens(directory).add(node_id, **options)
    root = load_authority(directory).signing.certificate
    return write_token(TokenText(fingerprint(root), secret))


def make_authority(directory: Path, node_id: str = "desk", cluster_id: str = CLUSTER) -> Authority:
    """A directory that signs, and is a node's own too."""
    made = create_authority(directory, cluster_id)
    issue(made.signing, node_id, directory, ca_pem=made.ca_pem)
    return made.signing


@contextlib.asynccontextmanager
async def desk(directory: Path, cluster_id: str = CLUSTER, **options: Any) -> AsyncIterator[Desk]:
    """A node that enrols, closed at the end."""
    authority = await asyncio.to_thread(make_authority, directory, "desk", cluster_id)
    identity = await asyncio.to_thread(load_identity, directory)
    clock, sleeps = FakeClock(), Sleeps()
    made: Desk

    enroller = Enroller(
        directory,
        lambda: made.node.transport.identity.key_hash,
        clock=clock,
        taken=lambda node_id, key_hash: made.taken(node_id, key_hash),  # noqa: PLW0108 - made later
        sleep=sleeps,
        **options,
    )
    reef = Reef(directory / "reef", cluster_id)
    reef.authority = authority
    node = await reef.node("desk", identity, enrol=enroller.protocol)
    made = Desk(directory, node, enroller, clock, sleeps)
    try:
        yield made
    finally:
        await enroller.close()
        await reef.close()


class Asker:
    """A client of a test's own on the enrolment protocol, which speaks by hand."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def call(cls, address: str, context: ssl.SSLContext) -> Asker:
        host, port = address.split(":")
        return cls(*await asyncio.open_connection(host, int(port), ssl=context, server_hostname=""))

    async def rest(self) -> bytes:
        """All that comes until the other side closes."""
        data = b""
        try:
            while part := await self.reader.read(65536):
                data += part
        except (ConnectionError, ssl.SSLError):
            pass
        self.writer.transport.abort()
        return data
