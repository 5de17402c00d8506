"""Who has no certificate yet may say anything to who enrols; and whoever answers a board, to the board."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.cluster.certificates import (
    CertificateError,
    check_issued,
    check_vouched,
    cluster_of,
    fingerprint,
    make_ca,
    make_key,
    make_request,
    request_key_hash,
    roots,
    sign,
    subject_of,
)
from shoal.cluster.enrolment import _check_given, _check_offer, _Request
from shoal.cluster.enrolment_words import Denied, Enrolled, Join, Offer, hear
from shoal.cluster.frames import FrameError, Word, encode, pack
from shoal.cluster.join_tokens import TokenText, read_token, write_token
from shoal.errors import ConfigError

AUTHORITY = make_ca("reef")
KEY = make_key()
REQUEST = make_request("board", KEY)
CERTIFICATE = sign(AUTHORITY, REQUEST, "reef", "board")
values = st.recursive(
    st.none() | st.integers() | st.binary(max_size=40) | st.text(max_size=20) | st.floats(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=12,
)
words = st.sampled_from([Offer(1, b"ca", b"v"), Join(b"s", "n", b"r"), Enrolled(b"c"), Denied("a", "b")])


def heard(data: bytes, kind: Any) -> Any:
    async def run() -> Any:
        reader = asyncio.StreamReader()
        reader.feed_data(data)
        reader.feed_eof()
        return await hear(reader, kind)

    return asyncio.run(run())


@given(st.binary(max_size=300) | values.map(encode) | values.map(lambda value: encode(Word(value))))
def test_noise_is_no_word(data: bytes) -> None:
    for kind in (Offer, Join, Enrolled | Denied):
        try:
            word = heard(data, kind)
        except FrameError:
            continue
        assert heard(encode(Word(pack(word))), kind) == word


@given(words, st.data())
def test_a_word_that_was_damaged_on_the_way_is_another_word_or_none(word: Any, data: st.DataObject) -> None:
    frame = bytearray(encode(Word(pack(word))))
    place = data.draw(st.integers(0, len(frame) - 1))
    frame[place] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(FrameError):
        heard(bytes(frame), type(word))


@given(words)
def test_every_word_comes_back(word: Any) -> None:
    assert heard(encode(Word(pack(word))), type(word)) == word


def damaged(pem: bytes) -> st.SearchStrategy[bytes]:
    """Bytes like these, and any others."""
    return st.binary(max_size=200) | st.tuples(st.integers(0, len(pem) - 1), st.binary(max_size=4)).map(
        lambda where: pem[: where[0]] + where[1] + pem[where[0] + len(where[1]) :]
    )


@given(damaged(AUTHORITY.certificate), damaged(CERTIFICATE), damaged(REQUEST))
def test_certificates_and_requests_are_read_or_refused(
    ca_pem: bytes, certificate: bytes, request: bytes
) -> None:
    for look in (
        lambda: roots(ca_pem),
        lambda: cluster_of(ca_pem),
        lambda: fingerprint(ca_pem),
        lambda: check_vouched(ca_pem, b"", certificate),
        lambda: subject_of(certificate),
        lambda: check_issued(certificate, AUTHORITY.certificate),
        lambda: request_key_hash(request),
        lambda: sign(AUTHORITY, request, "reef", "board"),
    ):
        with contextlib.suppress(CertificateError):
            look()


@given(st.integers(), st.binary(max_size=100) | damaged(AUTHORITY.certificate), st.binary(max_size=80))
def test_no_offer_is_believed_that_the_authority_did_not_sign(
    version: int, ca_pem: bytes, voucher: bytes
) -> None:
    offer = Offer(version, ca_pem, voucher)
    try:
        _check_offer(offer, fingerprint(AUTHORITY.certificate), CERTIFICATE)
    except CertificateError:
        return
    raise AssertionError("believed")


@given(damaged(CERTIFICATE))
def test_no_certificate_is_kept_that_was_not_asked_for(certificate: bytes) -> None:
    request = _Request("board", subject_of(CERTIFICATE).key_hash, REQUEST)
    try:
        _check_given(certificate, AUTHORITY.certificate, request)
    except CertificateError:
        return
    assert subject_of(certificate) == subject_of(CERTIFICATE)


def test_a_certificate_of_another_authority_is_not_kept() -> None:
    forged = sign(make_ca("reef"), REQUEST, "reef", "board")
    request = _Request("board", subject_of(CERTIFICATE).key_hash, REQUEST)
    _check_given(CERTIFICATE, AUTHORITY.certificate, request)
    with pytest.raises(CertificateError, match="not of this authority"):
        _check_given(forged, AUTHORITY.certificate, request)


@given(st.text(max_size=120) | st.text(max_size=120).map(lambda text: f"shoaljoin-1-{text}"))
def test_no_text_is_a_token_by_chance(text: str) -> None:
    try:
        read_token(text)
    except ConfigError:
        return
    raise AssertionError("a token")


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=16, max_size=16))
def test_every_token_comes_back(pinned: bytes, secret: bytes) -> None:
    assert read_token(write_token(TokenText(pinned, secret))) == TokenText(pinned, secret)
