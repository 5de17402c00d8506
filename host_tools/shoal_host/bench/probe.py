"""What this disk and this machine can do by themselves: fdatasync, the device's counters, names and versions."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from shoal_host.bench.rows import percentile

_FILE_BYTES: Final = 16 * 1024 * 1024
_BUSY_S: Final = 1.0
_QUIET_PER_S: Final = 50_000
_RECORD: Final = b"r" * 400
"""About what a 200-byte event takes in the journal."""


class Disk(msgspec.Struct, frozen=True):
    """How fast one thread can make 400 bytes durable."""

    rate: float
    p50_s: float


def probe_disk(directory: Path, seconds: float) -> Disk:
    """Append small records to a preallocated file, each with its own fdatasync."""
    path = directory / "probe"
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    took: list[float] = []
    try:
        os.posix_fallocate(descriptor, 0, _FILE_BYTES)
        os.fsync(descriptor)
        end = time.perf_counter() + seconds
        while not took or time.perf_counter() < end:
            offset = len(took) * len(_RECORD) % (_FILE_BYTES - len(_RECORD))
            began = time.perf_counter()
            os.pwrite(descriptor, _RECORD, offset)
            os.fdatasync(descriptor)
            took.append(time.perf_counter() - began)
    finally:
        os.close(descriptor)
        path.unlink()
    return Disk(len(took) / sum(took), percentile(took, 50))


def mean_disk(before: Disk, after: Disk) -> Disk:
    """The disk during what lay between two probes."""
    return Disk((before.rate + after.rate) / 2, (before.p50_s + after.p50_s) / 2)


# --- the device's own counters


class Device:
    """The block device under a directory; `written` is None where the kernel shows no counters for it."""

    def __init__(self, directory: Path) -> None:
        number = directory.stat().st_dev
        self._stat = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}/stat")
        self.name = self._stat.parent.resolve().name if self._stat.exists() else None

    def written(self) -> int | None:
        """Bytes written since boot, by everybody (512-byte sectors, Documentation/block/stat.rst)."""
        if self.name is None:
            return None
        return int(self._stat.read_text(encoding="ascii").split()[6]) * 512

    @contextmanager
    def counting(self, quiet_s: float) -> Iterator[Counted]:
        """Count what is written meanwhile; what others write is judged by watching for `quiet_s` first."""
        counted = Counted()
        os.sync()
        began, before = time.monotonic(), self.written()
        time.sleep(quiet_s)
        start, at_start = time.monotonic(), self.written()
        yield counted
        os.sync()
        at_end = self.written()
        if before is not None and at_start is not None and at_end is not None:
            counted.others_per_s = (at_start - before) / (start - began)
            counted.written = at_end - at_start - counted.others_per_s * (time.monotonic() - start)


class Counted:
    """What a device wrote, less what others would have; both None where there are no counters."""

    written: float | None = None
    others_per_s: float | None = None

    def details(self, events: int) -> dict[str, Any]:
        """For a row, per event."""
        if self.written is None or self.others_per_s is None:
            return {"device": "no counters"}
        return {
            "device_bytes_per_event": round(self.written / events),
            "device_written_by_others_per_s": round(self.others_per_s),
            "device_quiet": self.others_per_s < _QUIET_PER_S,
        }


# --- the machine


def machine(directory: Path) -> dict[str, Any]:
    """What a figure means nothing without; `busy_percent` is what others took of all cores just before."""
    import apsw
    import psutil

    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "kernel": f"{platform.system()} {platform.release()}",
        "file_system": _file_system(directory),
        "device": Device(directory).name,
        "python": platform.python_version(),
        "sqlite": apsw.sqlite_lib_version(),
        "busy_percent": psutil.cpu_percent(_BUSY_S),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _cpu() -> str:
    """The model's name; ARM boards call it otherwise, or nothing."""
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    fields = {
        key.strip(): value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())
    }
    return fields.get("model name") or fields.get("Model") or platform.machine()


def _file_system(directory: Path) -> str:
    """Type of the mount a directory is on."""
    import psutil

    here = directory.resolve()
    mounts = [mount for mount in psutil.disk_partitions(all=True) if here.is_relative_to(mount.mountpoint)]
    if not mounts:
        return "unknown"
    return str(max(mounts, key=lambda mount: len(mount.mountpoint)).fstype)
