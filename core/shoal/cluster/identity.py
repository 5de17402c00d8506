"""Who a node is: its key and certificate on disk, and the TLS they make.

A directory with `ca.pem`, `cert.pem` and `key.pem`. TLS is 1.3 only and mutual; the one root is the cluster's own
authority (two while it is replaced by another); host names and validity times are not looked at, since boards move and
have no clock.

A key is renewed beside the old one, as `next-key.pem`, and takes its place once `cert.pem` is of it: one file decides,
so power may be cut at any moment.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shoal.cluster.certificates import (
    Authority,
    CertificateError,
    check_issued,
    cluster_of,
    key_hash_of,
    make_key,
    make_request,
    sign,
    subject_of,
)
from shoal.cluster.durable import move_durably, write_durably
from shoal.errors import ConfigError

PEERS: Final = "shoal/1"
HTTP: Final = "shoal-http/1"
ENROLMENT: Final = "shoal-enrol/1"

CA_FILE: Final = "ca.pem"
CERTIFICATE_FILE: Final = "cert.pem"
KEY_FILE: Final = "key.pem"
NEXT_KEY_FILE: Final = "next-key.pem"

NO_CHECK_TIME: Final = 0x200000
"""X509_V_FLAG_NO_CHECK_TIME of OpenSSL, which Python's `ssl` does not name."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A node's identity, ready for use. `dial` and `http` are for outgoing connections, `accept` for incoming."""

    cluster_id: str
    node_id: str
    key_hash: bytes
    ca_pem: bytes
    dial: ssl.SSLContext
    http: ssl.SSLContext
    accept: ssl.SSLContext


def load_identity(directory: Path) -> Identity:
    """The identity kept in `directory`. Blocks. Raises ConfigError, saying what does not fit together."""
    try:
        _settle(directory)
        ca_pem = (directory / CA_FILE).read_bytes()
        certificate = (directory / CERTIFICATE_FILE).read_bytes()
        key_pem = (directory / KEY_FILE).read_bytes()
        check_issued(certificate, ca_pem)
        subject = subject_of(certificate)
        if subject.cluster_id != cluster_of(ca_pem):
            raise CertificateError(f"the certificate is of another cluster, {subject.cluster_id!r}")
        if subject.key_hash != key_hash_of(key_pem):
            raise CertificateError(f"{KEY_FILE} is not the key of {CERTIFICATE_FILE}")
        contexts = [_context(directory, ca_pem, accepts) for accepts in (False, False, True)]
    except (OSError, ValueError) as error:
        advice = f"{directory} does not hold this node's identity, enrol it again: {error}"
        raise ConfigError("identity", advice) from error
    dial, http, accept = contexts
    dial.set_alpn_protocols([PEERS])
    http.set_alpn_protocols([HTTP])
    accept.set_alpn_protocols([PEERS, HTTP, ENROLMENT])
    return Identity(subject.cluster_id, subject.node_id, subject.key_hash, ca_pem, dial, http, accept)


def joining_context() -> ssl.SSLContext:
    """For a board that has no certificate yet and trusts nobody: what proves the other side is in enrolment.py."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols([ENROLMENT])
    return context


def write_identity(directory: Path, ca_pem: bytes, certificate: bytes) -> None:
    """Keep what was signed for a key that is there already. Blocks. Durable on return; raises OSError."""
    write_durably(directory / CA_FILE, ca_pem, mode=0o644)
    write_durably(directory / CERTIFICATE_FILE, certificate, mode=0o644)
    _settle(directory)


def node_key(directory: Path, *, renew: bool = False) -> bytes:
    """The key in `directory`, made and kept first if there is none. Blocks. Raises OSError, CertificateError.

    With `renew` it is the next one: the same at each call until `write_identity` has a certificate of it.
    """
    path = directory / (NEXT_KEY_FILE if renew and (directory / KEY_FILE).exists() else KEY_FILE)
    try:
        key_pem = path.read_bytes()
    except FileNotFoundError:
        key_pem = make_key()
        write_durably(path, key_pem)
    key_hash_of(key_pem)
    return key_pem


def issue(
    authority: Authority,
    node_id: str,
    directory: Path,
    *,
    ca_pem: bytes | None = None,
    renew: bool = False,
) -> None:
    """Make a node's whole identity beside the authority, for a board that is provisioned before it first starts.

    `ca_pem` are the authorities it is to trust, if there are more than this one. What is there is kept: the key, unless
    it is to `renew`. Blocks. Raises OSError, CertificateError.
    """
    request = make_request(node_id, node_key(directory, renew=renew))
    certificate = sign(authority, request, cluster_of(authority.certificate), node_id)
    write_identity(directory, ca_pem or authority.certificate, certificate)


def _settle(directory: Path) -> None:
    """Let the next key take its place if the certificate is of it."""
    try:
        key_hash = key_hash_of((directory / NEXT_KEY_FILE).read_bytes())
        if subject_of((directory / CERTIFICATE_FILE).read_bytes()).key_hash == key_hash:
            move_durably(directory / NEXT_KEY_FILE, directory / KEY_FILE)
    except FileNotFoundError:
        pass  # there is none, or another process was quicker


def _context(directory: Path, ca_pem: bytes, accepts: bool) -> ssl.SSLContext:  # noqa: FBT001 - mapped over
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if accepts else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    # A joiner has no certificate yet. Who has none is handed to enrolment or closed, see link.py.
    context.verify_mode = ssl.CERT_OPTIONAL if accepts else ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VerifyFlags(NO_CHECK_TIME)
    context.load_verify_locations(cadata=ca_pem.decode("ascii"))
    if accepts:
        context.num_tickets = 0  # nobody resumes a session
    context.load_cert_chain(directory / CERTIFICATE_FILE, directory / KEY_FILE)
    return context
