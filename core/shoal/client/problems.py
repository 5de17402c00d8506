"""From a problem document (RFC 9457) back to the error that the board raised."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from shoal.errors import (
    BodyTooLarge,
    Forbidden,
    InternalError,
    NotFound,
    Outcome,
    ShoalError,
    TooBusy,
    Unauthorized,
    Unavailable,
    rebuild,
)

_ENVELOPE = frozenset({"type", "title", "status", "detail", "instance", "code", "retryable", "outcome"})
_BY_STATUS: Mapping[int, type[ShoalError]] = {
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    413: BodyTooLarge,
    429: TooBusy,
}
"""For answers without a problem document: a proxy's, or the HTTP library's own."""
_GATEWAY_STATUSES = frozenset({502, 503, 504})


def error_of(status: int, body: bytes) -> ShoalError:
    """The error that an answer of `status` with `body` stands for; never raises."""
    problem = _problem(body)
    code = problem.get("code")
    if not isinstance(code, str):
        return _without_problem(status, body)
    outcome = problem.get("outcome")
    facts = {key: value for key, value in problem.items() if key not in _ENVELOPE}
    error = rebuild(code, str(problem.get("detail", "")), facts)
    if outcome in ("not-applied", "applied", "unknown"):
        error.outcome = outcome
    return error


def _problem(body: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return {}


def _without_problem(status: int, body: bytes) -> ShoalError:
    text = body[:200].decode(errors="replace")
    detail = f"the board answered {status} without a problem document: {text!r}; is this url a shoal board?"
    outcome: Outcome = "unknown" if status >= 500 else "not-applied"
    if status in _GATEWAY_STATUSES:
        return Unavailable(detail, outcome=outcome)
    return _BY_STATUS.get(status, InternalError)(detail, outcome=outcome)
