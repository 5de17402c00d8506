"""What a subscription selects, compiled once: a predicate over rows, and which index can serve it.

A row is selected when it is of `stream_id` (where there is one), passes `selection`, and passes `residual` (where
there is one); `matches` is all of that in one call. Definitions come checked, from `definitions.py`.

Data matches a selector of payloads when it has every key of it, each with an equal value: 1 is 1.0, but neither
true nor "1"; an object in the selector selects within an object in the same way, while lists, and objects inside
them, must be equal as a whole. Texts are ordered by code point, and nothing is ordered against another kind.
Every operator but `$exists: false` wants its key to be there.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from typing import Any, Final

import msgspec

from shoal.model.commands import Definition
from shoal.model.definitions import OPERATOR_PREFIX, ORDERING
from shoal.model.machine import Row, decode_tags
from shoal.model.names import SYSTEM_PREFIX
from shoal.model.query import compile_filter
from shoal.types import EventFilter, decode_payload

RowTest = Callable[[Row], bool]
_Test = Callable[[Any], bool]

_EVERY: Final = (("any", ""),)
_WILD: Final = re.compile(r"[*?]")
_NUMBERS = frozenset({int, float})
_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = dict(
    zip(ORDERING, (operator.gt, operator.ge, operator.lt, operator.le), strict=True)
)
_STREAM: Final = 0
_TYPE: Final = 4
_DATA: Final = 6
_CONTENT_TYPE: Final = 7
_TAGS: Final = 10


class _Missing:
    """The value of a key that is not there: of a kind that equals nothing and is not ordered."""


_MISSING: Final = _Missing()


class Selector(msgspec.Struct, frozen=True):
    """A definition, compiled. `matches` never raises for a stored row, whatever its payload.

    `selection` is what indexes decide and `residual` what they do not, None when nothing is left. A row that is
    just appended needs `matches` only if its stream, the beginning of its stream's id, a pattern that this matches, its
    type or one of its tags is among `routes`, or "any" is.
    """

    matches: RowTest
    stream_id: str | None
    selection: EventFilter
    residual: RowTest | None
    routes: tuple[tuple[str, str], ...]


def compile_selector(definition: Definition) -> Selector:
    """The selector of a definition that `make_definition` made."""
    wanted: Any = msgspec.json.decode(definition.selector)
    match definition.type:
        case "stream":
            return _stream(wanted)
        case "all":
            return _filtered(EventFilter(), _EVERY)
        case "event_type":
            types = (wanted,) if isinstance(wanted, str) else tuple(wanted)
            return _filtered(EventFilter(types=types), tuple(("type", name) for name in types))
        case "event_pattern":
            system = wanted.startswith(SYSTEM_PREFIX)
            beginning = _WILD.split(wanted, 1)[0]
            route = ("prefix", beginning) if beginning else ("pattern", wanted)
            return _filtered(EventFilter(stream_pattern=wanted, system=system), (route,))
        case "event_payload":
            return _payload(_all_members(wanted))
        case "tags":
            return _tagged(wanted)


def _stream(stream_id: str) -> Selector:
    def matches(row: Row) -> bool:
        return row[_STREAM] == stream_id

    return Selector(matches, stream_id, EventFilter(system=True), None, (("stream", stream_id),))


def _tagged(wanted: Any) -> Selector:
    if isinstance(wanted, list):
        return _filtered(EventFilter(tags=tuple(wanted)), tuple(("tag", tag) for tag in wanted))
    tags = tuple(wanted["all"])
    # Whichever is carried by the fewest events would do best; a longer one is likely to name something narrower.
    return _filtered(EventFilter(tags=tags, tags_match="all"), (("tag", max(tags, key=len)),))


def _filtered(selection: EventFilter, routes: tuple[tuple[str, str], ...]) -> Selector:
    selected = compile_filter(selection)
    if selection.tags:

        def matches(row: Row) -> bool:
            raw = row[_TAGS]
            return raw is not None and selected(row[_STREAM], row[_TYPE], decode_tags(raw))
    else:

        def matches(row: Row) -> bool:
            return selected(row[_STREAM], row[_TYPE], ())

    return Selector(matches, None, selection, None, routes)


def _payload(test: _Test) -> Selector:
    selection = EventFilter()
    selected = compile_filter(selection)

    def residual(row: Row) -> bool:
        try:
            data = decode_payload(row[_DATA], row[_CONTENT_TYPE])
        except MemoryError:  # says nothing about the event, which must not be passed over for it
            raise
        except Exception:  # noqa: BLE001 - whatever a reader of CBOR makes of it, this is no object
            return False
        return test(data)

    def matches(row: Row) -> bool:
        return selected(row[_STREAM], row[_TYPE], ()) and residual(row)

    return Selector(matches, None, selection, residual, _EVERY)


def _all_members(wanted: dict[str, Any]) -> _Test:
    """Of an object: that it has members which pass; others do not matter."""
    tests = [test for key, value in wanted.items() for test in _member_tests(key, value)]

    def test(value: Any) -> bool:
        if type(value) is not dict:
            return False
        get = value.get
        for key, passes in tests:  # noqa: SIM110 - a generator costs as much as the tests
            if not passes(get(key, _MISSING)):
                return False
        return True

    return test


def _member_tests(key: str, wanted: Any) -> list[tuple[str, _Test]]:
    """Of the member `key`: one test, or that of each operator."""
    if type(wanted) is not dict:
        return [(key, _equal(wanted))]
    if wanted and all(name.startswith(OPERATOR_PREFIX) for name in wanted):
        return [(key, _operator(name, operand)) for name, operand in wanted.items()]
    return [(key, _all_members(wanted))]


def _operator(name: str, operand: Any) -> _Test:
    if name in _COMPARISONS:
        return _ordered(_COMPARISONS[name], operand)
    if name == "$ne":
        equal = _equal(operand)
        return lambda value: value is not _MISSING and not equal(value)
    if name == "$in":
        return _one_of(operand)
    return lambda value: (value is not _MISSING) is operand  # $exists


def _ordered(holds: Callable[[Any, Any], bool], operand: Any) -> _Test:
    if type(operand) is str:
        return lambda value: type(value) is str and holds(value, operand)
    return lambda value: type(value) in _NUMBERS and holds(value, operand)


def _one_of(operands: list[Any]) -> _Test:
    hashed = frozenset(each for each in operands if each is not None and type(each) is not bool)
    single = [each for each in operands if each is None or type(each) is bool]

    def test(value: Any) -> bool:
        if type(value) is str or type(value) in _NUMBERS:
            return value in hashed
        return any(value is each for each in single)

    return test


def _equal(wanted: Any) -> _Test:
    kind = type(wanted)
    if kind is str:
        return lambda value: value == wanted  # nothing of another kind is
    if kind in _NUMBERS:
        return lambda value: type(value) in _NUMBERS and value == wanted
    if kind is list:
        return _equal_list([_equal(each) for each in wanted])
    if kind is dict:
        return _equal_object({key: _equal(each) for key, each in wanted.items()})
    return lambda value: value is wanted  # true, false, null


def _equal_list(tests: list[_Test]) -> _Test:
    def test(value: Any) -> bool:
        if type(value) is not list or len(value) != len(tests):
            return False
        return all(equal(each) for equal, each in zip(tests, value, strict=True))

    return test


def _equal_object(tests: dict[str, _Test]) -> _Test:
    def test(value: Any) -> bool:
        if type(value) is not dict or len(value) != len(tests):
            return False
        return all(equal(value.get(key, _MISSING)) for key, equal in tests.items())

    return test
