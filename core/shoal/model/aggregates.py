"""Folding events into a state, after the reference's aggregator.

A field of an event is added (`Sum`), replaces (`Overwrite`) or, untagged, replaces too. Folding keeps
tags, as far as the reference's README promises, so that a folded state can be folded on; `finalize`
takes them off. States and data are plain dicts; tags may come as `Sum(1)` or as JSON has them, `{"$sum": 1}`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from shoal.tagged import Overwrite, Sum, add, fields_of, is_number, read_tag
from shoal.types import Snapshot


def foldl(events: Iterable[Any], initial: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The state after folding `events` in their order into `initial`; tags are kept.

    An item is an event (its `data` is folded), a mapping with a mapping under `data` (that is), or any
    other mapping (itself); everything else is passed over.
    """
    state = {} if initial is None else dict(initial)
    for item in events:
        for name, value in (fields_of(item) or {}).items():
            if type(value) is dict:
                value = read_tag(value)  # noqa: PLW2901 - the same value, as the tag it stands for
            state[name] = _added(state.get(name), value) if isinstance(value, Sum) else value
    return state


def foldr(events: Sequence[Any], initial: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """As `foldl` from the last event to the first: of plain values the oldest wins."""
    return foldl(reversed(events), initial)


def finalize(state: Mapping[str, Any]) -> dict[str, Any]:
    """The state with the tags of its own fields taken off; what is inside the values stays."""
    return {name: _untagged(value) for name, value in state.items()}


def aggregate(
    events: Iterable[Any],
    snapshot: Snapshot | Mapping[str, Any] | None = None,
    *,
    finalize: bool = True,
    initial_state: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Fold `events` on top of the snapshot's data, and finalize.

    `initial_state` counts only where there is no snapshot; a snapshot that holds no mapping begins empty.
    """
    if snapshot is None:
        start = initial_state
    else:
        data = snapshot.data if isinstance(snapshot, Snapshot) else snapshot
        start = data if isinstance(data, Mapping) else None
    state = foldl(events, start)
    return _finalize(state) if finalize else state


_finalize = finalize  # `aggregate` has a parameter of that name


def _added(current: Any, new: Sum) -> Sum:
    if not is_number(new.value):
        return new
    current = read_tag(current)
    if isinstance(current, Sum):
        current = current.value
    return Sum(add(current, new.value)) if is_number(current) else new


def _untagged(value: Any) -> Any:
    value = read_tag(value)
    return value.value if isinstance(value, (Sum, Overwrite)) else value
