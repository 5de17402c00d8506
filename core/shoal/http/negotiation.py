"""Media types: what a body is in, and what an answer shall be in (RFC 9110, sections 8.3 and 12.5.1)."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from shoal.errors import NotAcceptable, UnsupportedMediaType
from shoal.types import CBOR, JSON

NDJSON: Final = "application/x-ndjson"
SSE: Final = "text/event-stream"
OPENAPI: Final = "application/vnd.oai.openapi+json"
TEXT: Final = "text/plain"

PLAIN: Final = (JSON, CBOR)
"""What a body may be in, and an answer when nothing else is said; the first one is the default."""


@lru_cache(maxsize=64)
def body_type(content_type: str | None, offers: tuple[str, ...] = PLAIN) -> str:
    """The media type of a body that says `content_type`. Raises UnsupportedMediaType."""
    if content_type is None:
        raise UnsupportedMediaType(f"the body has no Content-Type, send one of {', '.join(offers)}")
    media, _, parameters = content_type.partition(";")
    media = media.strip().lower()
    if media not in offers:
        raise UnsupportedMediaType(f"{media!r} is not one of {', '.join(offers)}", pointer="Content-Type")
    for parameter in filter(None, (part.strip() for part in parameters.split(";"))):
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset" and value.strip().strip('"').lower() not in {"utf-8", "utf8"}:
            raise UnsupportedMediaType("the charset must be utf-8", pointer="Content-Type")
    return media


@lru_cache(maxsize=256)
def answer_type(accept: str | None, offers: tuple[str, ...] = PLAIN) -> str:
    """The best of `offers` for an Accept header; the first of equally good ones. Raises NotAcceptable."""
    if accept is None or accept.strip() in {"", "*/*"}:
        return offers[0]
    ranges = [_media_range(part) for part in accept.split(",") if part.strip()]
    best = max(offers, key=lambda offer: _quality(offer, ranges))
    if _quality(best, ranges) <= 0:
        raise NotAcceptable(f"the answer can be one of {', '.join(offers)}", pointer="Accept")
    return best


def _media_range(text: str) -> tuple[str, float]:
    media, *parameters = (part.strip() for part in text.split(";"))
    quality = 1.0
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "q":
            quality = _number(value)
    return media.lower(), quality


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        return 0.0
    return number if 0.0 <= number <= 1.0 else 0.0


def _quality(offer: str, ranges: list[tuple[str, float]]) -> float:
    """The quality of the most specific range that covers `offer`."""
    kind = offer.partition("/")[0]
    for covering in (offer, f"{kind}/*", "*/*"):
        qualities = [quality for media, quality in ranges if media == covering]
        if qualities:
            return max(qualities)
    return 0.0
