"""Who is not let in over the peer port, and what such a one costs: real sockets, real TLS."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from peer_kit import CLUSTER, Node, Reef, incarnation, reef, until

from shoal.cluster import acceptor
from shoal.cluster.frames import Decoder, Word, encode, pack
from shoal.cluster.identity import CERTIFICATE_FILE, KEY_FILE, Identity, load_identity
from shoal.cluster.link import HELLO_BYTES_MAX
from shoal.cluster.words import Hello


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Reef]:
    async with reef(tmp_path / "reef") as made:
        yield made


class Caller:
    """A TLS client of a test's own, which speaks frames by hand."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self._decoder = Decoder()

    @classmethod
    async def call(cls, node: Node, context: ssl.SSLContext) -> Caller:
        host, port = node.address.split(":")
        return cls(*await asyncio.open_connection(host, int(port), ssl=context, server_hostname=""))

    def say(self, value: Any) -> None:
        self.writer.write(encode(value))

    async def hears(self) -> list[Any]:
        """All that comes until the other side closes."""
        values: list[Any] = []
        try:
            async with asyncio.timeout(20):
                while data := await self.reader.read(65536):
                    values += self._decoder.feed(data)
        except (ConnectionError, ssl.SSLError):
            pass
        finally:
            self.writer.close()
        return [value.value if isinstance(value, Word) else value for value in values]


def hello(node_id: str, cluster_id: str = CLUSTER, **changes: Any) -> Word:
    said = Hello(1, cluster_id, node_id, incarnation(node_id), (), "", False, 1)
    return Word(pack(msgspec.structs.replace(said, **changes)))


async def member(cluster: Reef) -> tuple[Node, Identity]:
    """A node, and the identity of another that it trusts."""
    two = await cluster.node("two")
    identity = await asyncio.to_thread(cluster.identity, "one")
    two.members["one"] = incarnation("one")
    two.key_hashes["one"] = {identity.key_hash}
    return two, identity


async def refused(two: Node, context: ssl.SSLContext, *values: Any) -> list[Any]:
    """Say something to a node; all that it says before it closes."""
    caller = await Caller.call(two, context)
    for value in values:
        caller.say(value)
    heard = await caller.hears()
    assert two.received == []
    return heard


async def test_a_member_that_says_hello_is_heard(cluster: Reef) -> None:
    two, identity = await member(cluster)
    caller = await Caller.call(two, identity.dial)
    caller.say(hello("one"))
    caller.say("message")
    await until(lambda: two.received == [("one", "message")])
    caller.writer.close()


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (hello("one", version=2), "version"),
        (hello("one", cluster_id="lagoon"), "not-as-certified"),
        (hello("three"), "not-as-certified"),
        (hello("one", incarnation=b"wiped"), "stranger"),
        (hello("one", incarnation=b""), "malformed"),
        (hello("one", url="x" * 300), "malformed"),
        (hello("one", url="a\nb"), "malformed"),
        (hello("one", addresses=("a:1",) * 9), "malformed"),
    ],
    ids=["version", "cluster", "node", "incarnation", "no incarnation", "long", "control", "many"],
)
async def test_a_hello_that_does_not_fit_is_refused_and_told_why(
    cluster: Reef, said: Word, reason: str
) -> None:
    two, identity = await member(cluster)
    heard = await refused(two, identity.dial, said, "message")
    assert heard[-1][:2] == ["refused", reason]


async def test_a_key_that_is_not_the_members_is_refused(cluster: Reef) -> None:
    two, _ = await member(cluster)
    other = await asyncio.to_thread(cluster.identity, "one", "another key")
    heard = await refused(two, other.dial, hello("one"), "message")
    assert heard[-1][:2] == ["refused", "stranger"]


async def test_a_stranger_is_logged_once_and_backs_off(
    cluster: Reef, caplog: pytest.LogCaptureFixture
) -> None:
    one, two = await cluster.node("one"), await cluster.node("two")
    one.admit(two)
    with caplog.at_level(logging.WARNING, "shoal.transport"):
        one.dial(two)
        pauses: list[float] = []
        while len(pauses) < 12:
            await until(lambda: len(one.sleeps.waiting) == 3)
            pauses += one.retry()
    assert max(pauses) >= 1
    refusals = [record for record in caplog.records if "stranger" in record.getMessage()]
    assert len(refusals) == 2  # one on each side
    assert not one.transport.connected("two")


async def test_a_removed_node_is_cut_off(cluster: Reef) -> None:
    one, two = await cluster.pair()
    two.members.clear()
    two.transport.recheck()
    await until(lambda: not one.transport.connected("two"))
    one.transport.send("two", "message")
    await until(lambda: len(one.sleeps.waiting) == 3)
    assert two.received == []


async def test_who_is_not_trusted_any_more_is_not_dialled_through(cluster: Reef) -> None:
    one, _ = await cluster.pair()
    one.members.clear()
    one.transport.recheck()
    assert not one.transport.connected("two")
    await until(lambda: len(one.sleeps.waiting) == 3)


async def test_another_cluster_cannot_connect(
    cluster: Reef, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    two = await cluster.node("two")
    async with reef(tmp_path / "lagoon", "lagoon") as lagoon:
        one = await lagoon.node("one")
        with caplog.at_level(logging.WARNING, "shoal.transport"):
            one.transport.probe([two.address])
            await until(lambda: "another cluster" in caplog.text)
        await until(lambda: not one.transport._probing)
        assert two.seen == one.seen == []


def unverifying(directory: Path | None = None, alpn: tuple[str, ...] = ("shoal/1",)) -> ssl.SSLContext:
    """A client that looks at no certificate, with or without one of its own."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if alpn:
        context.set_alpn_protocols(list(alpn))
    if directory is not None:
        context.load_cert_chain(directory / CERTIFICATE_FILE, directory / KEY_FILE)
    return context


async def test_who_has_no_certificate_hears_nothing(cluster: Reef) -> None:
    two, _ = await member(cluster)
    assert await refused(two, unverifying(), hello("one"), "message") == []
    assert two.seen == []


async def test_a_self_signed_certificate_is_no_certificate(cluster: Reef, tmp_path: Path) -> None:
    two, _ = await member(cluster)
    await asyncio.to_thread(forge, cluster, tmp_path / "forged", self_signed=True)
    assert await refused(two, unverifying(tmp_path / "forged"), hello("one"), "message") == []
    assert two.seen == []


async def test_a_certificate_of_another_authority_is_no_certificate(cluster: Reef, tmp_path: Path) -> None:
    two, _ = await member(cluster)
    async with reef(tmp_path / "lagoon") as same_name:
        await asyncio.to_thread(same_name.identity, "one")
    context = unverifying(tmp_path / "lagoon" / "one")
    assert await refused(two, context, hello("one"), "message") == []
    assert two.seen == []


async def test_an_expired_certificate_is_taken(cluster: Reef, tmp_path: Path) -> None:
    """A board without a clock believes to live in 1970 or whenever; membership decides, not time."""
    one, two = await expired(cluster, tmp_path, "one"), await expired(cluster, tmp_path, "two")
    one.admit(two)
    two.admit(one)
    one.dial(two)
    await until(lambda: one.transport.connected("two"))


async def expired(cluster: Reef, tmp_path: Path, node_id: str) -> Node:
    await asyncio.to_thread(forge, cluster, tmp_path / node_id, node_id=node_id)
    return await cluster.node(node_id, await asyncio.to_thread(load_identity, tmp_path / node_id))


def forge(cluster: Reef, directory: Path, *, node_id: str = "one", self_signed: bool = False) -> None:
    """An identity whose certificate expired in 1999, by the cluster's authority or by itself."""
    key = Ed25519PrivateKey.generate()
    authority = load_pem_private_key(cluster.authority.key, None)
    issuer = x509.load_pem_x509_certificate(cluster.authority.certificate)
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, node_id)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if self_signed else issuer.subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime(1998, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(1999, 1, 1, tzinfo=UTC))
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"shoal://{CLUSTER}/{node_id}")]),
            critical=False,
        )
        .sign(key if self_signed else authority, None)
    )
    directory.mkdir(parents=True)
    (directory / "ca.pem").write_bytes(cluster.authority.certificate)
    (directory / CERTIFICATE_FILE).write_bytes(certificate.public_bytes(Encoding.PEM))
    (directory / KEY_FILE).write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


@pytest.mark.parametrize("alpn", [(), ("h2",), ("shoal/2",)])
async def test_another_protocol_is_not_spoken(cluster: Reef, alpn: tuple[str, ...]) -> None:
    two, _ = await member(cluster)
    assert await refused(two, unverifying(cluster.directory / "one", alpn), hello("one"), "message") == []


async def test_tls_older_than_1_3_is_not_spoken(cluster: Reef) -> None:
    two, _ = await member(cluster)
    context = unverifying(cluster.directory / "one")
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await Caller.call(two, context)


BAD_FRAMES = {
    "too long": b"\xff\xff\xff\xff\x00",
    "empty": b"\x00\x00\x00\x00\x00",
    "too deep": b"\x00\x00\x00\x23\x00" + b"\x81" * 33 + b"\x00",
    "no CBOR": b"\x00\x00\x00\x02\x00\xff",
    "unknown flag": b"\x00\x00\x00\x02\x80\x00",
    "a bomb": b"\x00\x00\x00\x0a\x01\xff\xff\xff\x01aaaaa",
    "a message in the hello's place": encode("message"),
    "a ping in the hello's place": encode(Word(["ping", 1])),
    "an unknown word": encode(Word(["sesame"])),
}


@pytest.mark.parametrize("frame", BAD_FRAMES.values(), ids=BAD_FRAMES)
async def test_a_bad_frame_ends_the_connection(cluster: Reef, frame: bytes) -> None:
    two, identity = await member(cluster)
    caller = await Caller.call(two, identity.dial)
    caller.writer.write(frame)
    caller.say(hello("one"))
    caller.say("message")
    assert {word[0] for word in await caller.hears()} <= {"hello"}
    assert two.received == []


@pytest.mark.parametrize("frame", list(BAD_FRAMES.values())[:6], ids=list(BAD_FRAMES)[:6])
async def test_a_bad_frame_of_a_member_ends_its_connection(cluster: Reef, frame: bytes) -> None:
    two, identity = await member(cluster)
    caller = await Caller.call(two, identity.dial)
    caller.say(hello("one"))
    caller.say("before")
    await until(lambda: two.received)
    caller.writer.write(frame)
    caller.say("behind")
    await caller.hears()
    assert two.received == [("one", "before")]


async def test_before_the_hello_a_frame_has_64_kib_at_most(cluster: Reef) -> None:
    two, identity = await member(cluster)
    fits = encode(Word(["hello", bytes(HELLO_BYTES_MAX)]))
    assert fits[4] == 3  # small by LZ4, so it is what it would become that counts
    caller = await Caller.call(two, identity.dial)
    caller.writer.write(fits)
    assert {word[0] for word in await caller.hears()} <= {"hello"}
    caller = await Caller.call(two, identity.dial)
    caller.writer.write((HELLO_BYTES_MAX + 1).to_bytes(4, "big") + b"\x00")
    assert {word[0] for word in await caller.hears()} <= {"hello"}


async def test_a_frame_that_is_cut_short_is_nothing(cluster: Reef) -> None:
    two, identity = await member(cluster)
    caller = await Caller.call(two, identity.dial)
    caller.say(hello("one"))
    caller.writer.write(encode("message")[:-1])
    caller.writer.close()
    await until(lambda: two.seen and not two.transport._links)
    assert two.received == []


async def test_a_recorded_connection_played_again_says_nothing(cluster: Reef) -> None:
    one, two = await cluster.node("one"), await cluster.node("two")
    one.admit(two)
    two.admit(one)
    recorded: list[bytes] = []
    host, port = two.address.split(":")

    async def record(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(host, int(port))
        answers = asyncio.ensure_future(copy(there, writer, []))
        taken: list[bytes] = []
        await copy(reader, back, taken)
        recorded.append(b"".join(taken))
        back.close()
        await answers
        writer.close()

    async with await asyncio.start_server(record, "127.0.0.1", 0) as proxy:
        listening = proxy.sockets[0].getsockname()[1]
        one.transport.dial({"two": (f"127.0.0.1:{listening}",)})
        await until(lambda: one.transport.send("two", "pay 5"))
        await until(lambda: len(two.received) == 1)
        await one.transport.close()
        await until(lambda: len(recorded) == 2)
    for played in recorded:
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(played)
        try:
            while await reader.read(65536):
                pass
        except ConnectionError:
            pass
        writer.close()
    await until(lambda: not two.transport._links and not two.transport._acceptor._unproven)
    assert len(two.received) == 1


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, taken: list[bytes]) -> None:
    try:
        while data := await reader.read(65536):
            taken.append(data)
            writer.write(data)
    except ConnectionError:
        pass


async def test_who_never_says_hello_is_dropped(cluster: Reef) -> None:
    two, identity = await member(cluster)
    caller = await Caller.call(two, identity.dial)
    await until(lambda: two.transport._links)
    await two.tick(6)
    assert {word[0] for word in await caller.hears()} <= {"hello"}
    await until(lambda: not two.transport._links)


async def test_who_never_begins_tls_is_dropped(cluster: Reef) -> None:
    two = await cluster.node("two", handshake_timeout_s=0.01)
    host, port = two.address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    assert await reader.read() == b""
    writer.close()
    assert not two.transport._acceptor._unproven


async def test_a_node_that_never_answers_holds_up_nothing(cluster: Reef) -> None:
    one = await cluster.node("one", handshake_timeout_s=0.01)
    gone = asyncio.Event()

    async def silent(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await gone.wait()
        writer.close()

    async with await asyncio.start_server(silent, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        one.transport.dial({"two": (f"127.0.0.1:{port}",)})
        await until(lambda: len(one.sleeps.waiting) == 3)  # both tries are over
        gone.set()


async def test_noise_instead_of_tls_is_dropped(cluster: Reef) -> None:
    two = await cluster.node("two")
    host, port = two.address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET / HTTP/1.1\r\n\r\n" * 100)
    try:
        while await reader.read(65536):
            pass
    except ConnectionError:
        pass
    writer.close()
    await until(lambda: not two.transport._acceptor._unproven)
    assert two.seen == []


async def test_a_crowd_at_the_door_is_bounded_and_a_member_gets_in_later(
    cluster: Reef, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acceptor, "UNPROVEN_PER_SECOND_MAX", 1000)
    one, two = await cluster.node("one"), await cluster.node("two")
    one.admit(two)
    two.admit(one)
    host, port = two.address.split(":")
    crowd = [await asyncio.open_connection(host, int(port)) for _ in range(40)]
    for reader, _ in crowd[32:]:
        assert await reader.read() == b""
    assert len(two.transport._acceptor._unproven) == 32
    for _, writer in crowd:
        writer.close()
    await until(lambda: not two.transport._acceptor._unproven)
    one.dial(two)
    await one.until_connected("two")


async def test_of_one_host_so_many_a_second_who_are_trusted_not_counted(cluster: Reef) -> None:
    two, identity = await member(cluster)
    for _ in range(30):
        caller = await Caller.call(two, identity.dial)
        caller.say(hello("one"))
        await until(lambda: any(link.ready for link in two.transport._links))
        caller.writer.close()
        await until(lambda: not two.transport._links)
    host, port = two.address.split(":")
    for _ in range(acceptor.UNPROVEN_PER_SECOND_MAX):
        _, writer = await asyncio.open_connection(host, int(port))
        writer.close()
    await until(lambda: two.transport._acceptor._recent["127.0.0.1"] == acceptor.UNPROVEN_PER_SECOND_MAX)
    await until(lambda: not two.transport._acceptor._unproven)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await Caller.call(two, identity.dial)
    await two.tick()
    await until(lambda: not two.transport._acceptor._recent)
    caller = await Caller.call(two, identity.dial)
    caller.writer.close()
