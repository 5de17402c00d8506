"""How `shoal` ends: one exit code per kind of error, one line on stderr that says what to do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import click
import msgspec

from shoal import errors

ERROR: Final = 1
USAGE: Final = 2
CONFLICT: Final = 3
NOT_FOUND: Final = 4
UNAVAILABLE: Final = 5
DENIED: Final = 6
DAMAGED: Final = 7
INTERRUPTED: Final = 130

CODES_HELP: Final = (
    "Exit codes: 0 done, 1 error, 2 usage or configuration, 3 conflict, 4 not found, 5 no board answered "
    "or it cannot do it now, 6 token missing or not enough, 7 damaged data, 130 Ctrl-C."
)

# The first that fits; a kind stands before the kind it belongs to.
_EXIT_CODES: Final[tuple[tuple[type[errors.ShoalError], int], ...]] = (
    (errors.InvalidRequest, USAGE),
    (errors.ConfigError, USAGE),
    (errors.WrongExpectedVersion, CONFLICT),
    (errors.ConditionFailed, CONFLICT),
    (errors.EventIdReused, CONFLICT),
    (errors.AlreadyExists, CONFLICT),
    (errors.Ambiguous, CONFLICT),
    (errors.LeaseExpired, CONFLICT),
    (errors.StreamNotFound, NOT_FOUND),
    (errors.StreamTombstoned, NOT_FOUND),
    (errors.NotFound, NOT_FOUND),
    (errors.Unauthorized, DENIED),
    (errors.Forbidden, DENIED),
    (errors.EnrolmentRefused, DENIED),
    (errors.Unavailable, UNAVAILABLE),
    (errors.DataDirLocked, UNAVAILABLE),
    (errors.StorageError, DAMAGED),
)

_ADVICE: Final[tuple[tuple[type[errors.ShoalError], str], ...]] = (
    (errors.Unreachable, "start a board with `shoal up`, or name one with --url"),
    (errors.TooBusy, "try again in a moment"),
    (errors.DiskFull, "make room on the board's disk; reading still works"),
    (errors.Unauthorized, "give a token with --token or SHOAL_TOKEN; `shoal tokens create` makes one"),
    (errors.Forbidden, "use a token with a higher role, or one for this stream"),
    (errors.StreamNotFound, "`shoal streams` lists those there are"),
    (errors.WrongExpectedVersion, "read the stream, decide again, append with the version it has"),
)


_UNKNOWN: Final = "look before you do it again"


class Failure(errors.ShoalError):
    """An error of a command's own, which knows how the command ends."""

    code = "failed"
    title = "The command failed"

    def __init__(self, detail: str, exit_code: int = ERROR, **facts: Any) -> None:
        super().__init__(detail, **facts)
        self.exit_code = exit_code


class Interrupted(Failure):
    """Ctrl-C in work of which a part is done; a note says which."""

    code = "interrupted"
    title = "Ended by Ctrl-C"

    def __init__(self, **facts: Any) -> None:
        super().__init__("ended by Ctrl-C", INTERRUPTED, **facts)


def exit_code(error: errors.ShoalError) -> int:
    """The exit code for `error`."""
    if isinstance(error, Failure):
        return error.exit_code
    return next((code for kind, code in _EXIT_CODES if isinstance(error, kind)), ERROR)


def advice(error: errors.ShoalError) -> str:
    """What the command noted on `error`, and what to do about it; empty where its own sentence says it."""
    notes: list[str] = getattr(error, "__notes__", [])
    if error.outcome == "unknown":
        ids = error.facts.get("event_ids", ())
        hint = f"{_UNKNOWN}, or send it with --event-id {ids[0]}" if len(ids) == 1 else _UNKNOWN
        return "; ".join(notes) or hint
    hint = next((text for kind, text in _ADVICE if isinstance(error, kind)), "")
    if isinstance(error, errors.NotFound) and "subscription" in error.facts:
        hint = "`shoal subscription list` lists those there are"
    return "; ".join(filter(None, (*notes, hint)))


def refuse(error: errors.ShoalError, *, as_json: bool) -> int:
    """Show `error` on stderr: one line for people, one document for programs. The result is the exit code."""
    if as_json:
        _print_document(error.code, error.detail, {"outcome": error.outcome} | error.facts)
    else:
        sentence, hint = one_line(str(error)), advice(error)
        between = " " if sentence.endswith(("?", ".", "!")) else "; "
        click.echo(f"shoal: {sentence}{between + hint if hint else ''}", err=True)
    return exit_code(error)


def refuse_usage(error: click.ClickException, *, as_json: bool) -> int:
    """As `refuse`, for what was typed wrong."""
    if as_json:
        _print_document("usage-error", error.format_message(), {"outcome": "not-applied"})
    else:
        error.show()
    return error.exit_code


def refuse_system(error: OSError, *, as_json: bool) -> int:
    """As `refuse`, for what the operating system refused."""
    if as_json:
        _print_document("system-error", str(error), {})
    else:
        click.echo(f"shoal: {one_line(str(error))}", err=True)
    return ERROR


def _print_document(code: str, detail: str, facts: Mapping[str, Any]) -> None:
    fields = {"code": code, "detail": detail} | dict(facts)
    click.echo(msgspec.json.encode({"error": fields}, enc_hook=str), err=True)


def one_line(text: str) -> str:
    """`text` on one line, without anything that a terminal would obey."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in " ".join(text.splitlines()))


def visible(name: str) -> str:
    r"""A name on one line, as `one_line`, but no two names look alike: line breaks and `\\` are escaped too."""
    return "".join(char if char.isprintable() and char != "\\" else repr(char)[1:-1] for char in name)
