"""Query parameters and path segments: read strictly, never clamped.

The parameters of a route are the fields of a struct; the OpenAPI document is made from the same
struct. Values arrive as text and are brought to the field's type by rules narrower than msgspec's
own (`10`, not `1e1`; `true`, not `1`), then the struct's constraints are checked.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import lru_cache
from typing import Annotated, Any, Final, TypeVar
from urllib.parse import unquote_to_bytes

import msgspec
from msgspec import Meta, inspect

from shoal.errors import InvalidRequest
from shoal.types import MAX_VERSION, Consistency

_DIGITS: Final = re.compile(r"0|-?[1-9][0-9]{0,18}")
_BAD_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_WHERE: Final = re.compile(r" - at `\$(.*)`$")
_STEP: Final = re.compile(r"\[(\d+)\]|\.([^.\[]+)|\[\.\.\.\]")
_UNKNOWN_FIELD: Final = re.compile(r"Object (?:contains unknown|missing required) field `(.*)`", re.DOTALL)

Version = Annotated[int, Meta(ge=0, le=MAX_VERSION)]
Position = Annotated[int, Meta(ge=0, le=MAX_VERSION)]
PageLimit = Annotated[int, Meta(ge=1, le=MAX_VERSION, description="Events or names in the answer at most.")]
WITHOUT_DEFAULT: Final = "x-without-default"
"""In the schema of a limit: nobody who leaves it out gets a default one."""
ExpectedVersion = Annotated[
    int,
    Meta(
        ge=-4,
        le=MAX_VERSION,
        description="-1: no stream, -2: any (the default), -4: the stream exists, or the exact version.",
        extra_json_schema={"not": {"const": -3}},
    ),
]
WaitMs = Annotated[int, Meta(ge=0, le=60_000, description="How long to wait for `wait_for`.")]
NO_NUL: Final = {"pattern": "^[^\\u0000]*$"}
"""In the schema of a text: what refuses it is a check in the code."""
Text = Annotated[str, Meta(min_length=1, extra_json_schema=NO_NUL)]
Texts = Annotated[tuple[Text, ...], Meta(min_length=1, description="Separated by commas.")]

NO_EXACT_VERSION: Final = -3
"""Between the names -1, -2 and -4 lies a number that means nothing."""


class NoQuery(msgspec.Struct, frozen=True):
    """A route without parameters."""


class ReadQuery(msgspec.Struct, frozen=True, kw_only=True):
    """What every read takes. On one board all are the same."""

    consistency: Annotated[
        Consistency,
        Meta(
            description="`local`: what this board has; `leader`: all that its leader has; `linearizable`: all that "
            "was acknowledged by anyone before."
        ),
    ] = "leader"
    wait_for: (
        Annotated[int, Meta(ge=0, le=MAX_VERSION, description="Answer once this position is there.")] | None
    ) = None
    wait_ms: WaitMs = 5000


Q = TypeVar("Q", bound=msgspec.Struct)


def parse(struct: type[Q], query: str, maxima: Mapping[str, int]) -> Q:
    """The parameters of a raw query string. Raises InvalidRequest naming the parameter.

    `maxima` are configured limits by parameter name, on top of what the struct says.
    """
    readers = _readers(struct)
    values: dict[str, Any] = {}
    for part in query.split("&") if query else ():
        raw_name, equals, raw_value = part.partition("=")
        name = unquote(raw_name.replace("+", " "), "query")
        reader = readers.get(name)
        if reader is None:
            known = ", ".join(readers) or "no parameters"
            raise InvalidRequest(f"{name!r} is not a parameter, this resource takes {known}", pointer=name)
        if name in values:
            raise InvalidRequest(f"the parameter {name!r} is given twice", pointer=name)
        if not equals or not raw_value:
            raise InvalidRequest(
                f"the parameter {name!r} is empty, give it a value or leave it out", pointer=name
            )
        values[name] = reader(name, unquote(raw_value.replace("+", " "), name))
    for name, most in maxima.items():
        if values.get(name, 0) > most:
            raise InvalidRequest(f"the parameter {name!r} must be at most {most}", pointer=name)
    try:
        return msgspec.convert(values, struct)
    except msgspec.ValidationError as error:
        raise refusal(error, struct, "the parameter ") from error


def unquote(raw: str, name: str) -> str:
    """The text of a percent-encoded one. Raises InvalidRequest for broken escapes and for what is not UTF-8."""
    if "%" not in raw and raw.isascii():
        return raw
    if _BAD_ESCAPE.search(raw):
        raise InvalidRequest(f"{name}: a '%' must be followed by two hexadecimal digits", pointer=name)
    try:
        return unquote_to_bytes(raw.encode("utf-8", "surrogateescape")).decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{name}: the percent-encoded bytes are not UTF-8", pointer=name) from error


def whole(name: str, text: str) -> int:
    """The whole number in `text`. Raises InvalidRequest."""
    if _DIGITS.fullmatch(text) is None:
        raise InvalidRequest(f"{name} must be a whole number, not {text[:40]!r}", pointer=name)
    return int(text)


def moment(name: str, text: str) -> int:
    """Microseconds since 1970 of an RFC 3339 time or of such a number. Raises InvalidRequest."""
    if _DIGITS.fullmatch(text):
        return int(text)
    try:
        time = datetime.fromisoformat(text.upper().replace(" ", "T"))
    except ValueError:
        time = None
    if time is None or time.tzinfo is None or "T" not in text.upper():
        raise InvalidRequest(
            f"{name} must be RFC 3339 with a time zone, or microseconds since 1970, not {text[:40]!r}",
            pointer=name,
        )
    return round(time.timestamp() * 1_000_000)


def invalid(error: msgspec.ValidationError, subject: str = "") -> InvalidRequest:
    """The request error for what a typed decoder found, with a JSON pointer to the field."""
    message = str(error)
    where = _WHERE.search(message)
    steps = ["".join(filter(None, step)) for step in _STEP.findall(where[1])] if where else []
    text = message[: where.start()] if where else message
    field = _UNKNOWN_FIELD.match(text)
    if field:
        steps.append(field[1])
    escaped = [step.replace("~", "~0").replace("/", "~1") for step in steps]
    pointer = escaped[0] if subject and escaped else "".join(f"/{step}" for step in escaped)
    place = f"{subject}{pointer or 'the body'}: " if pointer or not subject else ""
    return InvalidRequest(f"{place}{text[0].lower()}{text[1:]}", pointer=pointer)


def refusal(error: msgspec.ValidationError, shape: Any, subject: str = "") -> InvalidRequest:
    """As `invalid`, of a value that should be a `shape`: for a word that is none of those allowed, which are."""
    refused = invalid(error, subject)
    info = inspect.type_info(shape)
    if "enum value" not in refused.detail or not isinstance(info, inspect.StructType):
        return refused
    place = (refused.pointer or "").removeprefix("/")
    words = [word for field in info.fields if field.encode_name == place for word in _words(field.type)]
    if not words:
        return refused
    return InvalidRequest(f"{refused.detail}; it is one of {', '.join(words)}", pointer=refused.pointer)


def _words(kind: inspect.Type) -> list[str]:
    """The words that a value of this type may be."""
    if isinstance(kind, inspect.Metadata):
        return _words(kind.type)
    if isinstance(kind, inspect.UnionType):
        return [word for each in kind.types for word in _words(each)]
    return [str(word) for word in kind.values] if isinstance(kind, inspect.LiteralType) else []


Reader = Callable[[str, str], Any]


@lru_cache
def _readers(struct: type[msgspec.Struct]) -> Mapping[str, Reader]:
    info = inspect.type_info(struct)
    assert isinstance(info, inspect.StructType)  # noqa: S101 - for the type checker
    return {field.encode_name: _reader(field.type) for field in info.fields}


def _reader(kind: inspect.Type) -> Reader:
    if isinstance(kind, inspect.Metadata):
        return _reader(kind.type)
    if isinstance(kind, inspect.UnionType):
        return _reader(next(part for part in kind.types if not isinstance(part, inspect.NoneType)))
    if isinstance(kind, inspect.IntType):
        return whole
    if isinstance(kind, inspect.BoolType):
        return _flag
    if isinstance(kind, inspect.VarTupleType):
        return lambda _name, text: tuple(text.split(","))
    return lambda _name, text: text


def _flag(name: str, text: str) -> bool:
    if text not in {"true", "false"}:
        raise InvalidRequest(f"{name} must be true or false, not {text[:40]!r}", pointer=name)
    return text == "true"
