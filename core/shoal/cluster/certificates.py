"""The certificates of a cluster: its own authority, and one for each node that names cluster and node.

A node's certificate carries `shoal://CLUSTER/NODE` as its one URI. None of them is judged by time, since boards have no
clock, so all are valid from 2020 to the end of time (RFC 5280, 4.1.2.5): membership decides who is trusted. Keys are
Ed25519. While an authority is replaced by another, `ca_pem` holds the certificates of both, one behind the other.
Pure: bytes in, bytes out; randomness comes from the library of cryptography.
"""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_FROM: Final = datetime(2020, 1, 1, tzinfo=UTC)
_UNTIL: Final = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
_ID: Final = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}"
_URI: Final = re.compile(f"shoal://({_ID})/({_ID})")
ROOTS_MAX: Final = 4
_STATEMENT: Final = b"shoal statement\0"
"""Before whatever `vouch` signs: no certificate begins like this, so neither passes for the other."""


class CertificateError(ValueError):
    """A certificate, request or key that cannot be used; the text says why."""


class Authority(NamedTuple):
    """A cluster's own certificate authority, as PEM."""

    certificate: bytes
    key: bytes


class Subject(NamedTuple):
    """Whom a certificate speaks of, and the SHA-256 of the public key that proves it."""

    cluster_id: str
    node_id: str
    key_hash: bytes


def make_ca(cluster_id: str) -> Authority:
    """A new authority, which can sign for `cluster_id` alone. Raises CertificateError."""
    _check_id("cluster id", cluster_id)
    key = Ed25519PrivateKey.generate()
    name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, cluster_id)])
    builder = (
        _builder(name, name, key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
    )
    return Authority(builder.sign(key, None).public_bytes(Encoding.PEM), _key_pem(key))


def make_key() -> bytes:
    """A new private key, as PEM."""
    return _key_pem(Ed25519PrivateKey.generate())


def make_request(node_id: str, key_pem: bytes) -> bytes:
    """A signing request (PEM) with `node_id` as its common name. Raises CertificateError."""
    _check_id("node id", node_id)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, node_id)])
    return x509.CertificateSigningRequestBuilder(name).sign(_key(key_pem), None).public_bytes(Encoding.PEM)


def sign(authority: Authority, request: bytes, cluster_id: str, node_id: str) -> bytes:
    """The certificate (PEM) for a request made for this very node. Raises CertificateError."""
    asked = _request(request)
    _check_id("cluster id", cluster_id)
    _check_id("node id", node_id)
    if cluster_of(authority.certificate) != cluster_id:
        raise CertificateError(f"this authority is of cluster {cluster_of(authority.certificate)!r}")
    names = [str(name.value) for name in asked.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if names != [node_id]:
        raise CertificateError(f"the request is made for {names}, not for {node_id!r}")
    issuer = x509.load_pem_x509_certificate(authority.certificate)
    uri = x509.UniformResourceIdentifier(f"shoal://{cluster_id}/{node_id}")
    uses = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
    public_key = asked.public_key()
    if not isinstance(public_key, Ed25519PublicKey):
        raise CertificateError("the request's key is not Ed25519")
    builder = (
        _builder(asked.subject, issuer.subject, public_key)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        .add_extension(x509.SubjectAlternativeName([uri]), critical=False)
        .add_extension(_issuer_key(issuer), critical=False)
    )
    return builder.sign(_key(authority.key), None).public_bytes(Encoding.PEM)


def subject_of(certificate: bytes) -> Subject:
    """Whom a certificate (DER or PEM) speaks of; who signed it was checked elsewhere. Raises CertificateError."""
    parsed = _certificate(certificate)
    try:
        names = parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError) as error:
        raise CertificateError(f"the certificate names no node: {error}") from None
    found = _URI.fullmatch(uris[0]) if len(uris) == 1 else None
    if found is None:
        raise CertificateError("the certificate does not have one URI shoal://CLUSTER/NODE")
    return Subject(found[1], found[2], _key_hash(parsed.public_key()))


def request_key_hash(request: bytes) -> bytes:
    """SHA-256 of the public key of a signing request. Raises CertificateError."""
    return _key_hash(_request(request).public_key())


def key_hash_of(key_pem: bytes) -> bytes:
    """SHA-256 of the public key that belongs to a private one. Raises CertificateError."""
    return _key_hash(_key(key_pem).public_key())


def cluster_of(ca_pem: bytes) -> str:
    """The one cluster that the authorities sign for. Raises CertificateError."""
    clusters = {_cluster_of(root) for root in _roots(ca_pem)}
    if len(clusters) != 1:
        raise CertificateError(f"the authorities are of several clusters: {', '.join(sorted(clusters))}")
    return clusters.pop()


def roots(ca_pem: bytes) -> tuple[bytes, ...]:
    """The authorities' certificates (PEM), one by one. Raises CertificateError."""
    return tuple(root.public_bytes(Encoding.PEM) for root in _roots(ca_pem))


def root_of_key(ca_pem: bytes, key_pem: bytes) -> bytes:
    """The authority's certificate (PEM) that this private key belongs to. Raises CertificateError."""
    wanted = key_hash_of(key_pem)
    for root in _roots(ca_pem):
        if _key_hash(root.public_key()) == wanted:
            return root.public_bytes(Encoding.PEM)
    raise CertificateError("the authority's key belongs to none of its certificates")


def fingerprint(certificate: bytes) -> bytes:
    """SHA-256 of a certificate (DER or PEM). Raises CertificateError."""
    return _certificate(certificate).fingerprint(SHA256())


def check_issued(certificate: bytes, ca_pem: bytes) -> None:
    """Raises CertificateError unless one of the authorities itself signed the certificate (DER or PEM)."""
    found, reason = _certificate(certificate), "there is none"
    for root in _roots(ca_pem):
        try:
            found.verify_directly_issued_by(root)
        except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm) as error:
            reason = str(error) or type(error).__name__
        else:
            return
    raise CertificateError(f"the certificate is not of this authority: {reason}")


def vouch(authority: Authority, statement: bytes) -> bytes:
    """The authority's signature of a statement, which can be taken for no certificate. Raises CertificateError."""
    return _key(authority.key).sign(_STATEMENT + statement)


def check_vouched(root: bytes, statement: bytes, signature: bytes) -> None:
    """Raises CertificateError unless the authority of this certificate made the signature with `vouch`."""
    key = _certificate(root).public_key()
    if not isinstance(key, Ed25519PublicKey):
        raise CertificateError("the public key is not Ed25519")
    try:
        key.verify(signature, _STATEMENT + statement)
    except InvalidSignature:
        raise CertificateError("the authority's key has not signed this") from None


def _roots(ca_pem: bytes) -> list[x509.Certificate]:
    try:
        found = x509.load_pem_x509_certificates(ca_pem)
    except ValueError as error:
        raise CertificateError(f"not the certificate of an authority: {error}") from None
    if len(found) > ROOTS_MAX:
        raise CertificateError(f"{len(found)} authorities, at most {ROOTS_MAX} are taken")
    return found


def _cluster_of(root: x509.Certificate) -> str:
    names = root.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    if len(names) != 1 or re.fullmatch(_ID, str(names[0].value)) is None:
        raise CertificateError("the authority's certificate names no cluster")
    return str(names[0].value)


def _certificate(data: bytes) -> x509.Certificate:
    try:
        if data.startswith(b"-----"):
            return x509.load_pem_x509_certificate(data)
        return x509.load_der_x509_certificate(data)
    except ValueError as error:
        raise CertificateError(f"not a certificate: {error}") from None


def _request(pem: bytes) -> x509.CertificateSigningRequest:
    try:
        request = x509.load_pem_x509_csr(pem)
        proven = request.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature) as error:
        raise CertificateError(f"not a signing request: {error}") from None
    if not proven:
        raise CertificateError("the request is not signed with its own key")
    return request


def _key(pem: bytes) -> Ed25519PrivateKey:
    try:
        key = load_pem_private_key(pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise CertificateError(f"not a private key: {error}") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise CertificateError("the private key is not Ed25519")
    return key


def _key_pem(key: Ed25519PrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _key_hash(key: object) -> bytes:
    if not isinstance(key, Ed25519PublicKey):
        raise CertificateError("the public key is not Ed25519")
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()


def _builder(subject: x509.Name, issuer: x509.Name, key: Ed25519PublicKey) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_FROM)
        .not_valid_after(_UNTIL)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _issuer_key(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    own = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _check_id(what: str, text: str) -> None:
    if re.fullmatch(_ID, text) is None:
        raise CertificateError(f"the {what} {text!r} must be 1 to 64 letters, digits, '.', '_' or '-'")
