"""What a subscription is asked to be, checked before it is proposed: its name, definition and options.

A definition has one form: selectors that select the same by the rules below are the same bytes, so that creating
a subscription twice can be told from creating another of its name. `selectors.py` says what each selects.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, cast, get_args

import msgspec

from shoal.errors import InvalidRequest
from shoal.model.commands import Definition
from shoal.model.names import check_event_type, check_stream_id, check_tags, check_text
from shoal.model.strict_json import check_json
from shoal.model.values import encode_value, escape_key
from shoal.types import (
    MAX_VERSION,
    AckDurability,
    Beginning,
    Limits,
    Strategy,
    SubscriptionOptions,
    SubscriptionType,
    decode_payload,
)

OPERATOR_PREFIX: Final = "$"
"""In a selector of payloads keys that begin so are operators, never keys of the data."""

ORDERING: Final = ("$gt", "$gte", "$lt", "$lte")
MOST_DEPTH: Final = 64
"""Of a selector, whatever events may have: it is evaluated recursively, at any depth of the caller's stack."""

_SELECTOR = "/selector"
_OPERATORS = (*ORDERING, "$ne", "$in", "$exists")
_TYPES: tuple[str, ...] = get_args(SubscriptionType)
_DEFAULTS = SubscriptionOptions()
_DAY_MS = 86_400_000
_WHOLE = {
    "ack_timeout_ms": (100, _DAY_MS),
    "max_in_flight": (1, 100_000),
    "max_retries": (0, 1_000),
    "checkpoint_interval_ms": (10, 3_600_000),
    "consumer_timeout_ms": (100, _DAY_MS),
    "pool_size": (1, 256),
}
_CHOICES: dict[str, tuple[str, ...]] = {
    "strategy": get_args(Strategy),
    "ack_durability": get_args(AckDurability),
}
_HOLD_MS = 10 * 365 * _DAY_MS
_BACKOFFS = 32

_encode = msgspec.json.Encoder(order="sorted").encode


def check_subscription_name(value: Any, limits: Limits) -> str:
    """1 to 128 bytes, no NUL, not `.` or `..` (a URL cannot carry those). Raises InvalidRequest."""
    check_text(value, limits.subscription_name_bytes, "name")
    if value in {".", ".."}:
        raise InvalidRequest(f"name must not be {value!r}: a URL cannot carry it", pointer="name")
    return cast("str", value)


def make_definition(type: Any, selector: Any, start_from: Any, limits: Limits) -> Definition:  # noqa: A002 - as in the contract
    """The definition in its one form; `start_from` None is "beginning". Raises InvalidRequest only.

    The order of keys, and of types, tags and `$in`, and what repeats in these, makes no difference; nor does 1.0
    for 1, one event type alone or in a list, or whether any or all of a single tag are asked for.
    """
    if type not in _TYPES:
        raise InvalidRequest(f"type is one of {', '.join(_TYPES)}, not {_shown(type)}", pointer="/type")
    encoded = _encode(_CHECKS[type](selector, limits))
    if len(encoded) > limits.selector_bytes:
        raise _too_large(limits)
    return Definition(type, encoded, _check_start(start_from))


def make_options(fields: Mapping[str, Any], base: SubscriptionOptions = _DEFAULTS) -> SubscriptionOptions:
    """`base` with `fields` in place of its own. Raises InvalidRequest, with the option as the pointer."""
    if not isinstance(fields, Mapping):
        raise InvalidRequest(f"options must be a mapping, not {_shown(fields)}", pointer="")
    return msgspec.structs.replace(
        base, **{name: _check_option(name, value) for name, value in fields.items()}
    )


def _check_option(name: Any, value: Any) -> Any:
    if name not in SubscriptionOptions.__struct_fields__:
        where = escape_key(name) if isinstance(name, str) else _shown(name)
        raise InvalidRequest(f"there is no option {_shown(name)}", pointer=f"/{where}")
    if name in _WHOLE:
        return _check_whole(value, *_WHOLE[name], name)
    if name in _CHOICES:
        if value not in _CHOICES[name]:
            known = ", ".join(_CHOICES[name])
            raise InvalidRequest(f"{name} is one of {known}, not {_shown(value)}", pointer=f"/{name}")
        return value
    return _CHECKED_OPTIONS[name](value)


def _check_ordered(value: Any) -> bool:
    if type(value) is not bool:
        raise InvalidRequest(f"ordered is true or false, not {_shown(value)}", pointer="/ordered")
    return value


def _check_backoff(value: Any) -> tuple[int, ...]:
    if not isinstance(value, (list, tuple)):
        raise InvalidRequest(f"backoff_ms must be a list, not {_shown(value)}", pointer="/backoff_ms")
    if len(value) > _BACKOFFS:
        raise InvalidRequest(
            f"backoff_ms has {len(value)} pauses, {_BACKOFFS} are allowed", pointer="/backoff_ms"
        )
    return tuple(_check_whole(each, 0, _DAY_MS, f"backoff_ms/{index}") for index, each in enumerate(value))


def _check_hold(value: Any) -> int | None:
    return None if value is None else _check_whole(value, 1, _HOLD_MS, "retention_hold_max_ms")


_CHECKED_OPTIONS: dict[str, Callable[[Any], Any]] = {
    "ordered": _check_ordered,
    "backoff_ms": _check_backoff,
    "retention_hold_max_ms": _check_hold,
}


def _check_whole(value: Any, least: int, most: int, name: str) -> int:
    if type(value) is not int or not least <= value <= most:
        raise InvalidRequest(
            f"{name} must be a whole number from {least} to {most}, not {_shown(value)}", pointer=f"/{name}"
        )
    return value


def _check_start(value: Any) -> Beginning | int:
    if value is None:
        return "beginning"
    if value in get_args(Beginning):
        return cast("Beginning", value)
    if type(value) is not int or not 0 <= value <= MAX_VERSION:
        raise InvalidRequest(
            f"start_from is beginning, end or a position from 0 to {MAX_VERSION}, not {_shown(value)}",
            pointer="/start_from",
        )
    return value


def _check_all(selector: Any, _limits: Limits) -> None:
    if selector is not None:
        raise InvalidRequest(f"type all takes no selector, not {_shown(selector)}", pointer=_SELECTOR)


def _check_stream(selector: Any, limits: Limits) -> Any:
    check_stream_id(selector, limits, _SELECTOR)
    return selector


def _check_event_types(selector: Any, limits: Limits) -> Any:
    if not isinstance(selector, (list, tuple)):
        check_event_type(selector, limits, _SELECTOR)
        return selector
    if not 0 < len(selector) <= limits.query_items:
        raise InvalidRequest(
            f"selector has {len(selector)} types, 1 to {limits.query_items} are allowed", pointer=_SELECTOR
        )
    for index, event_type in enumerate(selector):
        check_event_type(event_type, limits, f"{_SELECTOR}/{index}")
    types = sorted(set(selector))
    return types if len(types) > 1 else types[0]


def _check_pattern(selector: Any, limits: Limits) -> Any:
    check_text(selector, limits.stream_id_bytes, _SELECTOR)
    return selector


def _check_tags(selector: Any, limits: Limits) -> Any:
    match, tags, pointer = "any", selector, _SELECTOR
    if isinstance(selector, Mapping):
        if set(selector) not in ({"any"}, {"all"}):
            raise InvalidRequest('selector must be a list of tags or {"all": [...]}', pointer=_SELECTOR)
        ((match, tags),) = selector.items()
        pointer = f"{_SELECTOR}/{match}"
    check_tags(tags, limits, pointer)
    if not tags:
        raise InvalidRequest(f"{pointer} must not be empty", pointer=pointer)
    distinct = sorted(set(tags))
    return {"all": distinct} if match == "all" and len(distinct) > 1 else distinct


def _check_payload(selector: Any, limits: Limits) -> Any:
    """Of values `encode_value` says, with their place, which are none; here is what it takes and JSON does not."""
    if not isinstance(selector, Mapping) or not selector:
        raise InvalidRequest(
            f"selector must be an object with keys of the data, not {_shown(selector)}", pointer=_SELECTOR
        )
    _check_count(selector, limits)
    limits = msgspec.structs.replace(limits, depth=min(limits.depth, MOST_DEPTH))
    raw, content_type = encode_value(selector, limits, _SELECTOR)
    value = check_json(raw, limits, _SELECTOR) if content_type is None else decode_payload(raw, content_type)
    for key in value:
        if key.startswith(OPERATOR_PREFIX):
            raise InvalidRequest(
                f"{key[:80]!r} must stand at a key of the data", pointer=f"{_SELECTOR}/{escape_key(key)}"
            )
    return _members(value, _SELECTOR)


def _check_count(selector: Any, limits: Limits) -> None:
    """That it has no more values than bytes are allowed: what holds itself, or one part many times, ends here."""
    left = limits.selector_bytes
    waiting = [selector]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Mapping):
            members = list(value.values())
        else:
            members = list(value) if isinstance(value, (list, tuple)) else []
        left -= len(members)
        if left < 0:
            raise _too_large(limits)
        waiting += members


def _members(value: dict[str, Any], pointer: str) -> dict[str, Any]:
    return {key: _member(each, f"{pointer}/{escape_key(key)}") for key, each in value.items()}


def _member(value: Any, pointer: str) -> Any:
    if type(value) is not dict:
        return _exact(value, pointer)
    marked = sum(key.startswith(OPERATOR_PREFIX) for key in value)
    if not marked:
        return _members(value, pointer)
    if marked < len(value):
        raise InvalidRequest("operators and other keys in one object", pointer=pointer)
    return {key: _operand(key, each, f"{pointer}/{escape_key(key)}") for key, each in value.items()}


def _exact(value: Any, pointer: str) -> Any:
    """What data must equal: in a list objects are no selectors any more."""
    if type(value) is list:
        return [_exact(each, f"{pointer}/{index}") for index, each in enumerate(value)]
    if type(value) is not dict:
        return _scalar(value, pointer)
    for key in value:
        if key.startswith(OPERATOR_PREFIX):
            raise InvalidRequest(
                "there are no operators inside a list", pointer=f"{pointer}/{escape_key(key)}"
            )
    return {key: _exact(each, f"{pointer}/{escape_key(key)}") for key, each in value.items()}


def _operand(operator: str, value: Any, pointer: str) -> Any:
    if operator in ORDERING:
        if type(value) not in (int, float, str):
            raise InvalidRequest(f"{operator} takes a number or a text, not {_shown(value)}", pointer=pointer)
        return _scalar(value, pointer)
    if operator == "$ne":
        return _scalar(value, pointer)
    if operator == "$in":
        return _check_in(value, pointer)
    if operator == "$exists":
        if type(value) is not bool:
            raise InvalidRequest(f"$exists takes true or false, not {_shown(value)}", pointer=pointer)
        return value
    raise InvalidRequest(
        f"there is no operator {operator[:80]!r}, only {', '.join(_OPERATORS)}", pointer=pointer
    )


def _check_in(value: Any, pointer: str) -> list[Any]:
    if type(value) is not list or not value:
        raise InvalidRequest(f"$in takes a list that is not empty, not {_shown(value)}", pointer=pointer)
    scalars = [_scalar(each, f"{pointer}/{index}") for index, each in enumerate(value)]
    # By kind first, as true is not 1 here; a pair comes once, so that two None are never compared.
    return [each for _, each in sorted({(_RANKS[type(each)], each) for each in scalars})]


_RANKS: dict[type, int] = {type(None): 0, bool: 1, int: 2, float: 2, str: 3}


def _scalar(value: Any, pointer: str) -> Any:
    """The scalar, of numbers that are equal the same one."""
    if type(value) not in _RANKS:
        raise InvalidRequest(
            f"it takes a text, number, true, false or null, not {_shown(value)}", pointer=pointer
        )
    return int(value) if type(value) is float and value.is_integer() else value


_CHECKS: dict[str, Callable[[Any, Limits], Any]] = {
    "stream": _check_stream,
    "all": _check_all,
    "event_type": _check_event_types,
    "event_pattern": _check_pattern,
    "event_payload": _check_payload,
    "tags": _check_tags,
}


def _too_large(limits: Limits) -> InvalidRequest:
    return InvalidRequest(f"selector has more than {limits.selector_bytes} bytes", pointer=_SELECTOR)


def _shown(value: Any) -> str:
    """What was given, for a message: nothing long, and no repr of what may have none."""
    if value is None or type(value) in (bool, float):
        return repr(value)
    if type(value) is str:
        return repr(value[:80])
    if type(value) is int and value.bit_length() <= 64:
        return str(value)
    return f"a value of type {type(value).__name__}"
