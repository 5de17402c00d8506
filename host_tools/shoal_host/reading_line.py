"""A board's reading on one short line."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from shoal.types import Event

_UNITS: Final = ("B", "kB", "MB", "GB", "TB")


def reading_line(event: Event) -> str:
    """The line for a `board_measured` event; what a field lacks is left out."""
    data = event.data if isinstance(event.data, dict) else {}
    when = datetime.fromtimestamp(event.epoch_us / 1_000_000).astimezone()
    parts = (
        f"{when:%H:%M:%S}",
        f"#{event.version}",
        _with(data, "cpu_percent", "cpu {:.0f} %"),
        _with(data, "load_1m", "load {:.2f}"),
        _with(data, "memory_used_percent", "memory {:.0f} %"),
        _disk(data.get("disks")),
        _network(data),
        _temperature(data.get("temperatures_celsius")),
        _with(data, "processes", "{} processes"),
    )
    return "  ".join(part for part in parts if part)


def human_bytes(count: float) -> str:
    """`count` bytes in the largest unit that keeps a digit before the point."""
    power = 0
    while count >= 1000 and power < len(_UNITS) - 1:
        count, power = count / 1000, power + 1
    return f"{count:.0f} {_UNITS[power]}" if power == 0 or count >= 10 else f"{count:.1f} {_UNITS[power]}"


def _with(data: Mapping[str, Any], key: str, form: str) -> str:
    value = data.get(key)
    return form.format(value) if isinstance(value, int | float) else ""


def _disk(disks: Any) -> str:
    """The fullest one."""
    if not isinstance(disks, dict) or not disks:
        return ""
    mount, space = max(disks.items(), key=lambda entry: float(entry[1]["used_percent"]))
    return f"disk {mount} {space['used_percent']:.0f} %"


def _network(data: Mapping[str, Any]) -> str:
    received, sent = (data.get(f"network_{way}_bytes") for way in ("received", "sent"))
    if not (isinstance(received, dict) and isinstance(sent, dict)):
        return ""
    return f"net in {human_bytes(received['$sum'])} out {human_bytes(sent['$sum'])}"


def _temperature(chips: Any) -> str:
    return f"{max(chips.values()):.0f} °C" if isinstance(chips, dict) and chips else ""
