"""The board's health, as the operating system tells it (psutil)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, Literal

import msgspec

Level = Literal["ok", "elevated", "critical"]

_LEVELS: Final[tuple[Level, ...]] = ("ok", "elevated", "critical")
_ELEVATED: Final = 0.70
_CRITICAL: Final = 0.85
_DISK_ELEVATED: Final = 0.90
_DISK_CRITICAL: Final = 0.97
_HOT_C: Final = 75.0
_TOO_HOT_C: Final = 85.0


class Cpu(msgspec.Struct, frozen=True):
    """Processors, and runnable tasks on average over 1, 5 and 15 minutes."""

    count: int
    load_1m: float
    load_5m: float
    load_15m: float


class Space(msgspec.Struct, frozen=True):
    """Memory, or the disk that holds the data."""

    total_bytes: int
    available_bytes: int
    used_ratio: float
    level: Level


class Temperature(msgspec.Struct, frozen=True):
    """One sensor."""

    sensor: str
    celsius: float
    level: Level


class Process(msgspec.Struct, frozen=True):
    """`shoald` itself."""

    pid: int
    rss_bytes: int
    threads: int
    open_files: int


class Health(msgspec.Struct, frozen=True):
    """The worst of all levels, and what it was judged by."""

    level: Level
    uptime_s: int
    cpu: Cpu
    memory: Space
    disk: Space
    temperatures: list[Temperature]
    process: Process


def read_health(data_dir: Path, now_s: float) -> Health:
    """Ask the operating system; takes milliseconds and may block."""
    import psutil

    memory, disk = psutil.virtual_memory(), psutil.disk_usage(str(data_dir))
    process = psutil.Process()
    with process.oneshot():
        own = Process(process.pid, process.memory_info().rss, process.num_threads(), process.num_fds())
    memory_space = _space(memory.total, memory.available, _ELEVATED, _CRITICAL)
    disk_space = _space(disk.total, disk.free, _DISK_ELEVATED, _DISK_CRITICAL)
    temperatures = _temperatures(getattr(psutil, "sensors_temperatures", dict)())
    levels = [memory_space.level, disk_space.level, *(each.level for each in temperatures)]
    return Health(
        level=max(levels, key=_LEVELS.index),
        uptime_s=max(0, int(now_s - psutil.boot_time())),
        cpu=Cpu(psutil.cpu_count() or 1, *os.getloadavg()),
        memory=memory_space,
        disk=disk_space,
        temperatures=temperatures,
        process=own,
    )


def _space(total: int, available: int, elevated: float, critical: float) -> Space:
    used = 1 - available / total if total else 1.0
    return Space(total, available, round(used, 4), level_of(used, elevated, critical))


def _temperatures(sensors: dict[str, list[object]]) -> list[Temperature]:
    found = []
    for chip, readings in sensors.items():
        for reading in readings:
            celsius = float(getattr(reading, "current", 0.0) or 0.0)
            label = str(getattr(reading, "label", "") or chip)
            found.append(Temperature(label, celsius, level_of(celsius, _HOT_C, _TOO_HOT_C)))
    return found


def level_of(value: float, elevated: float, critical: float) -> Level:
    """How worrying a reading is."""
    if value >= critical:
        return "critical"
    return "elevated" if value >= elevated else "ok"
