"""The side of enrolment that asks: a board with a join token gets its certificate.

The board looks at no certificate of TLS. What proves the other side is the authority's own signature of the TLS key
that this connection is made with, and the authority is the one whose fingerprint is in the token: a node of the cluster
that does not hold the authority's key cannot stand in between.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from shoal.address import split_address
from shoal.cluster.certificates import (
    CertificateError,
    Subject,
    check_issued,
    check_vouched,
    cluster_of,
    fingerprint,
    key_hash_of,
    make_request,
    roots,
    subject_of,
)
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
from shoal.cluster.identity import CERTIFICATE_FILE, ENROLMENT, joining_context, node_key, write_identity
from shoal.cluster.join_tokens import TEXT_CHARS_MAX, TokenText, read_token
from shoal.errors import ConfigError, EnrolmentRefused, Unreachable

RETRY_S: Final = 5.0

_log: Final = logging.getLogger("shoal.enrolment")


class _Request(NamedTuple):
    """What a board asks for."""

    node_id: str
    key_hash: bytes
    pem: bytes


async def enrol(
    addresses: Sequence[str],
    token: str,
    directory: Path,
    node_id: str | None = None,
    *,
    renew: bool = False,
    timeout_s: float = TURN_S,
) -> Subject:
    """Get this board's certificate from the first of the `HOST:PORT`s that gives it one, and keep it in `directory`.

    Without `node_id` it is named after its key; with `renew` a node that has a certificate gets one for another key.
    Repeat it after any failure: the key stays the same, so the token stays good. Raises ConfigError for a token that
    is none and for a directory with a certificate, EnrolmentRefused when the cluster said no, Unreachable when nobody
    that proved to be of the cluster answered, OSError.
    """
    text = read_token(token)
    request = await asyncio.to_thread(_request, directory, node_id, renew=renew)
    troubles: list[str] = []
    refusal: EnrolmentRefused | None = None
    for address in addresses:
        try:
            async with asyncio.timeout(timeout_s):
                ca_pem, certificate = await _ask(address, text, request)
            _check_given(certificate, ca_pem, request)
        except EnrolmentRefused as error:
            refusal = refusal if error.reason == NOT_NOW else error
            troubles.append(f"{address}: {error}")
        except (OSError, ValueError, TimeoutError) as error:
            troubles.append(f"{address}: {str(error) or 'no answer in time'}")
        else:
            await asyncio.to_thread(write_identity, directory, ca_pem, certificate)
            return subject_of(certificate)
    if refusal is not None:
        raise EnrolmentRefused("; ".join(troubles), reason=refusal.reason)
    raise Unreachable("nobody enrolled this board; " + ("; ".join(troubles) or "no address was given"))


async def enrol_at_first_start(
    directory: Path,
    token_file: Path,
    addresses: Sequence[str],
    node_id: str | None,
    *,
    stop: asyncio.Event,
    retry_s: float = RETRY_S,
) -> None:
    """Enrol a board that has no certificate with the token in a file, which is then erased; tries until `stop` is set.

    Raises ConfigError, EnrolmentRefused, OSError.
    """
    if not await asyncio.to_thread((directory / CERTIFICATE_FILE).exists):
        token = await asyncio.to_thread(_read_token_file, token_file)
        if not addresses:
            raise ConfigError("seeds", "name the HOST:PORT of a board that enrols this one")
        while not await _tried(addresses, token, directory, node_id):
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), retry_s)
                return
    try:
        await asyncio.to_thread(partial(token_file.unlink, missing_ok=True))
    except OSError as error:
        _log.warning("the join token is used, but its file cannot be erased: %s", error)


async def _tried(addresses: Sequence[str], token: str, directory: Path, node_id: str | None) -> bool:
    """Whether it is enrolled now; False if another try makes sense."""
    try:
        subject = await enrol(addresses, token, directory, node_id)
    except Unreachable as error:
        _log.warning("%s; trying again", error)
        return False
    _log.info("enrolled as %s of cluster %s", subject.node_id, subject.cluster_id)
    return True


def _request(directory: Path, node_id: str | None, *, renew: bool) -> _Request:
    certificate = directory / CERTIFICATE_FILE
    if certificate.exists():
        if not renew:
            raise ConfigError(
                "tls_dir", f"{directory} holds a certificate already: renew it (--renew), or name another"
            )
        node_id = node_id or _named(certificate)
    try:
        key_pem = node_key(directory, renew=renew)
        key_hash = key_hash_of(key_pem)
        name = node_id or f"board-{key_hash.hex()[:12]}"
        return _Request(name, key_hash, make_request(name, key_pem))
    except CertificateError as error:
        raise ConfigError("tls_dir", f"{directory}: {error}") from error


def _named(certificate: Path) -> str | None:
    with suppress(CertificateError):
        return subject_of(certificate.read_bytes()).node_id
    return None


async def _ask(address: str, text: TokenText, request: _Request) -> tuple[bytes, bytes]:
    """Authorities and certificate. Raises EnrolmentRefused, OSError, ValueError."""
    host, port = split_address(address)
    reader, writer = await asyncio.open_connection(host, port, ssl=joining_context(), server_hostname="")
    try:
        offer: Offer = await hear(reader, Offer)
        tls = writer.get_extra_info("ssl_object")
        if tls.selected_alpn_protocol() != ENROLMENT:
            raise FrameError("another protocol is spoken there")
        _check_offer(offer, text.fingerprint, tls.getpeercert(binary_form=True))
        say(writer, Join(text.secret, request.node_id, request.pem))
        answer = await hear(reader, Enrolled | Denied)
    finally:
        writer.transport.abort()
    if isinstance(answer, Denied):
        raise EnrolmentRefused(_printable(answer.detail), reason=_printable(answer.reason))
    return offer.ca_pem, answer.certificate


def _check_offer(offer: Offer, pinned: bytes, tls_certificate: bytes) -> None:
    """Raises CertificateError unless the token's authority vouches for this very connection."""
    if offer.version != ENROLMENT_VERSION:
        raise CertificateError(f"it speaks version {offer.version} of enrolment: update the older of the two")
    root = next(
        (each for each in roots(offer.ca_pem) if hmac.compare_digest(fingerprint(each), pinned)), None
    )
    if root is None:
        raise CertificateError("it is not of the cluster that the token is for; nothing was said to it")
    check_vouched(root, offered(subject_of(tls_certificate).key_hash, offer.ca_pem), offer.voucher)


def _check_given(certificate: bytes, ca_pem: bytes, request: _Request) -> None:
    """Raises CertificateError for a certificate that is not the one asked for."""
    check_issued(certificate, ca_pem)
    if subject_of(certificate) != Subject(cluster_of(ca_pem), request.node_id, request.key_hash):
        raise CertificateError("it gave a certificate for another node or key")


def _read_token_file(path: Path) -> str:
    try:
        with path.open(encoding="ascii") as file:
            return file.read(TEXT_CHARS_MAX + 2)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("join_token_file", f"{path} cannot be read: {error}") from error


def _printable(text: str) -> str:
    return "".join(char for char in text if char.isprintable())[:500]
