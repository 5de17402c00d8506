"""Errors as RFC 9457 problem documents: one table from code to status, one function that renders.

The table is checked against the tree of `shoal.errors` by a test, so that no error is forgotten.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from aiohttp import web

from shoal import errors
from shoal.errors import ShoalError

PROBLEM_TYPE: Final = "application/problem+json"
TYPE_PREFIX: Final = "urn:shoal:problem:"

STATUS: Final[dict[str, int]] = {
    "invalid-request": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "not-found": 404,
    "stream-not-found": 404,
    "not-acceptable": 406,
    "wrong-expected-version": 409,
    "condition-failed": 409,
    "event-id-reused": 409,
    "already-exists": 409,
    "lease-expired": 409,
    "ambiguous": 409,
    "stream-tombstoned": 410,
    "body-too-large": 413,
    "unsupported-media-type": 415,
    "too-busy": 429,
    "internal-error": 500,
    "storage-error": 500,
    "journal-corrupt": 500,
    "database-corrupt": 500,
    "transfer-refused": 500,
    "enrolment-refused": 403,
    "state-diverged": 500,
    "data-dir-locked": 500,
    "config-error": 500,
    "unreachable": 502,
    "unavailable": 503,
    "no-leader": 503,
    "no-quorum": 503,
    "shutting-down": 503,
    "timeout": 503,
    "outcome-unknown": 503,
    "disk-full": 507,
}
"""Code to status; a failed `If-Match` or `If-None-Match` turns `wrong-expected-version` into 412."""

RETRY_AFTER_S: Final = 1


class Problem(msgspec.Struct, frozen=True):
    """What every problem document holds; facts such as `stream_id` stand beside these."""

    type: str
    code: str
    title: str
    status: int
    detail: str
    retryable: bool
    outcome: str


class MethodNotAllowed(errors.InvalidRequest):
    """The path exists, the method does not; `allowed` names those that do."""

    def __init__(self, allowed: list[str]) -> None:
        super().__init__(f"this resource takes {', '.join(allowed)}", allowed=allowed)
        self.allowed = allowed


class SlowBody(errors.InvalidRequest):
    """The body did not arrive in time; the connection is closed."""


def status_of(error: ShoalError) -> int:
    """The status of an error. An error class outside the table is a defect: 500."""
    if isinstance(error, MethodNotAllowed):
        return 405
    if isinstance(error, SlowBody):
        return 408
    return STATUS.get(error.code, 500)


def document(error: ShoalError, status: int | None = None) -> dict[str, Any]:
    """The problem document of an error, facts last, those without a value left out."""
    facts = {name: value for name, value in error.facts.items() if value not in (None, "")}
    return facts | {
        "type": TYPE_PREFIX + error.code,
        "code": error.code,
        "title": error.title,
        "status": status_of(error) if status is None else status,
        "detail": error.detail,
        "retryable": error.retryable,
        "outcome": error.outcome,
    }


def encode(error: ShoalError, status: int | None = None) -> bytes:
    """The document's bytes. Facts are plain values; anything else is shown as its text."""
    return msgspec.json.encode(document(error, status), enc_hook=repr)


def respond(error: ShoalError, status: int | None = None) -> web.Response:
    """The answer to a request that failed."""
    status = status_of(error) if status is None else status
    response = web.Response(status=status, body=encode(error, status), content_type=PROBLEM_TYPE)
    if isinstance(error, errors.Unavailable):
        wait_ms = error.facts.get("retry_after_ms", RETRY_AFTER_S * 1000)
        response.headers["Retry-After"] = str(max(1, -(-int(wait_ms) // 1000)))
    elif isinstance(error, errors.Unauthorized):
        response.headers["WWW-Authenticate"] = 'Bearer realm="shoal"'
    elif isinstance(error, MethodNotAllowed):
        response.headers["Allow"] = ", ".join(error.allowed)
    elif isinstance(error, SlowBody):
        response.force_close()
    return response
