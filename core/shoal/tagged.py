"""What aggregation is made of: which fields an item has, the tags their values may carry, adding up.

A tag says how a field of an event changes the field of the state it is folded into. In JSON and CBOR
tags travel as `{"$sum": n}` and `{"$overwrite": value}`. `model.aggregates` and `accel.aggregate` share
this, as they may not import each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any

import msgspec


class Sum(msgspec.Struct, frozen=True):
    """Adds `value` to the field; one that is not a number replaces the field instead."""

    value: Any = msgspec.field(name="$sum")


class Overwrite(msgspec.Struct, frozen=True):
    """Replaces the field by `value`, whatever was there."""

    value: Any = msgspec.field(name="$overwrite")


_TAGS = {"$sum": Sum, "$overwrite": Overwrite}


def read_tag(value: Any) -> Any:
    """The tag that an object as it comes from JSON stands for; any other value as it is."""
    if type(value) is dict and len(value) == 1:
        ((key, inner),) = value.items()
        tag = _TAGS.get(key)
        if tag is not None:
            return tag(inner)
    return value


def fields_of(item: Any) -> Mapping[str, Any] | None:
    """The fields of an item: of an event its `data`, of a mapping the mapping under `data`, else itself.

    None for everything else, such as an event whose data is no mapping.
    """
    if isinstance(item, Mapping):
        inner = item.get("data")
        return inner if isinstance(inner, Mapping) else item
    data = getattr(item, "data", None)
    return data if isinstance(data, Mapping) else None


def is_number(value: Any) -> bool:
    """Whether the value can be added up; true, false, NaN and infinities cannot."""
    if isinstance(value, float):
        return isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool)


def add(left: float, right: float) -> int | float:
    """The sum of two numbers; whole, and so still a number in JSON, where doubles would overflow."""
    try:
        finite = isfinite(left + right)
    except OverflowError:  # an int beyond every double
        finite = False
    return left + right if finite else int(left) + int(right)
