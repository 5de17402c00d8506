"""shoal: an event store for a shoal of small boards.

`shoal.open` gives an embedded store, `shoal.connect` one on a board; `shoal.sync` has both without
`await`. What is imported here costs little: the client and the aggregator load when first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shoal import telemetry
from shoal.errors import ShoalError
from shoal.types import (
    ANY_VERSION,
    NO_STREAM,
    STREAM_EXISTS,
    Appended,
    AppendedMany,
    CaughtUp,
    Condition,
    Event,
    EventFilter,
    NewEvent,
    Query,
    QueryItem,
    Snapshot,
    StreamWrite,
)

if TYPE_CHECKING:
    from shoal import aggregator, errors, sync
    from shoal.client import connect
    from shoal.embedded import open_store as open  # noqa: A004 - the name users expect
    from shoal.tagged import Overwrite, Sum

__version__ = "0.1.0"

__all__ = [
    "ANY_VERSION",
    "NO_STREAM",
    "STREAM_EXISTS",
    "Appended",
    "AppendedMany",
    "CaughtUp",
    "Condition",
    "Event",
    "EventFilter",
    "NewEvent",
    "Overwrite",
    "Query",
    "QueryItem",
    "ShoalError",
    "Snapshot",
    "StreamWrite",
    "Sum",
    "aggregator",
    "connect",
    "errors",
    "open",
    "sync",
    "telemetry",
]

_LAZY = {
    "open": ("shoal.embedded", "open_store"),
    "connect": ("shoal.client", "connect"),
    "Sum": ("shoal.tagged", "Sum"),
    "Overwrite": ("shoal.tagged", "Overwrite"),
    "aggregator": ("shoal.aggregator", None),
    "sync": ("shoal.sync", None),
    "errors": ("shoal.errors", None),
}


def __getattr__(name: str) -> Any:
    """Load what is used rarely when it is used first."""
    if name not in _LAZY:
        raise AttributeError(f"module 'shoal' has no attribute {name!r}")
    from importlib import import_module

    module_name, attribute = _LAZY[name]
    module = import_module(module_name)
    value = module if attribute is None else getattr(module, attribute)
    globals()[name] = value
    return value
