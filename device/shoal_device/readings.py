"""What a board can tell about itself: raw readings by psutil, and the event made of two of them.

The fields of the event are flat and tagged for `shoal aggregate`: gauges replace each other, counters are
differences tagged `$sum`, so that folding a board's stream gives its present state and its totals.
"""

from __future__ import annotations

import asyncio
import os
import platform
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

MEASURED = "board_measured"
STARTED = "board_agent_started"

_SEALED = frozenset({"squashfs", "erofs", "cramfs", "iso9660"})
"""File systems that are made full and stay full: how full says nothing."""


@dataclass(frozen=True, slots=True)
class Space:
    """A file system's size and what is used of it."""

    total_bytes: int
    used_bytes: int

    @property
    def used_percent(self) -> float:
        """Used part, 0 to 100, one decimal."""
        return round(100 * self.used_bytes / self.total_bytes, 1) if self.total_bytes else 0.0


@dataclass(frozen=True, slots=True)
class Reading:
    """One look at the board. Byte counters run since boot; `temperatures_celsius` may be empty."""

    cpu_percent: float
    load_1m: float
    load_5m: float
    load_15m: float
    memory_total_bytes: int
    memory_available_bytes: int
    disks: Mapping[str, Space]
    disk_read_bytes: int
    disk_written_bytes: int
    network_received_bytes: int
    network_sent_bytes: int
    temperatures_celsius: Mapping[str, float]
    processes: int


class Board(Protocol):
    """Where readings come from."""

    async def read(self) -> Reading:
        """Look now, without holding up the event loop."""

    def describe(self) -> dict[str, Any]:
        """What does not change while the board is up."""


def measured(now: Reading, before: Reading, epoch_us: int) -> dict[str, Any]:
    """Data of a `board_measured` event: gauges of `now`, counters as the growth since `before`."""
    return {
        "measured_epoch_us": epoch_us,
        "measurements": {"$sum": 1},
        "cpu_percent": now.cpu_percent,
        "load_1m": now.load_1m,
        "load_5m": now.load_5m,
        "load_15m": now.load_15m,
        "memory_total_bytes": now.memory_total_bytes,
        "memory_available_bytes": now.memory_available_bytes,
        "memory_used_percent": _used_percent(now.memory_total_bytes, now.memory_available_bytes),
        "disks": {mount: _space(space) for mount, space in now.disks.items()},
        **_growth(now, before),
        "temperatures_celsius": dict(now.temperatures_celsius),
        "processes": now.processes,
    }


def _growth(now: Reading, before: Reading) -> dict[str, dict[str, int]]:
    # A counter that went back was reset (an interface went away): its growth is unknown, count none.
    names = ("disk_read_bytes", "disk_written_bytes", "network_received_bytes", "network_sent_bytes")
    return {name: {"$sum": max(0, getattr(now, name) - getattr(before, name))} for name in names}


def _used_percent(total: int, available: int) -> float:
    return round(100 * (total - available) / total, 1) if total else 0.0


def _space(space: Space) -> dict[str, Any]:
    return {
        "total_bytes": space.total_bytes,
        "used_bytes": space.used_bytes,
        "used_percent": space.used_percent,
    }


class PsutilBoard:
    """This machine. `cpu_percent` covers the time since the `read` before, or since it was made."""

    def __init__(self) -> None:
        import psutil

        self._psutil = psutil
        psutil.cpu_percent(interval=None)

    async def read(self) -> Reading:
        """Look now: some milliseconds in a thread, more where a disk is slow to answer."""
        return await asyncio.to_thread(self._read)

    def _read(self) -> Reading:
        psutil = self._psutil
        memory = psutil.virtual_memory()
        disk = psutil.disk_io_counters()
        network = psutil.net_io_counters()
        load = os.getloadavg()
        return Reading(
            cpu_percent=psutil.cpu_percent(interval=None),
            load_1m=round(load[0], 2),
            load_5m=round(load[1], 2),
            load_15m=round(load[2], 2),
            memory_total_bytes=memory.total,
            memory_available_bytes=memory.available,
            disks=self._disks(),
            disk_read_bytes=disk.read_bytes if disk else 0,
            disk_written_bytes=disk.write_bytes if disk else 0,
            network_received_bytes=network.bytes_recv if network else 0,
            network_sent_bytes=network.bytes_sent if network else 0,
            temperatures_celsius=self._temperatures(),
            processes=len(psutil.pids()),
        )

    def describe(self) -> dict[str, Any]:
        """Host name, system and size of this machine."""
        return {
            "hostname": socket.gethostname(),
            "system": platform.system(),
            "release": platform.release(),
            "machine": platform.machine(),
            "cpus": os.cpu_count() or 1,
            "memory_total_bytes": self._psutil.virtual_memory().total,
            "booted_epoch_us": int(self._psutil.boot_time() * 1_000_000),
        }

    def _disks(self) -> dict[str, Space]:
        """Block devices only, each once; one that cannot be asked (a card pulled out) is left out."""
        disks: dict[str, Space] = {}
        devices: set[str] = set()
        for partition in self._psutil.disk_partitions(all=False):
            if partition.device in devices or partition.fstype in _SEALED:
                continue
            devices.add(partition.device)
            try:
                usage = self._psutil.disk_usage(partition.mountpoint)
            except OSError:
                continue
            disks[partition.mountpoint] = Space(usage.total, usage.used)
        return disks

    def _temperatures(self) -> dict[str, float]:
        """Hottest sensor of each chip; empty where the system has none (virtual machines, not Linux)."""
        sensors = getattr(self._psutil, "sensors_temperatures", None)
        chips = sensors() if sensors is not None else {}
        return {chip: max(entry.current for entry in entries) for chip, entries in chips.items() if entries}
