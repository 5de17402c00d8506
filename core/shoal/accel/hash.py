"""Hashes that are no cryptography: XXH3 for checksums and partitions, FNV-1a for those who expect it.

XXH3 is the xxhash package's where that is importable, else `accel.xxh3`; the values are equal, so a key
keeps its partition and a journal its checksums on every board.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from shoal.accel import xxh3

Data = bytes | bytearray | memoryview
Xxh3 = Callable[[Data, int], int]

_FNV_OFFSET = 14695981039346656037
_FNV_PRIME = 1099511628211
_U64 = (1 << 64) - 1


def _native_xxh3() -> Xxh3 | None:
    try:
        import xxhash
    except ImportError:
        return None
    return xxhash.xxh3_64_intdigest


_native = _native_xxh3()
_xxh3_64: Xxh3 = _native or xxh3.xxh3_64


def is_native() -> bool:
    """Whether XXH3 is the native one."""
    return _native is not None


def implementation() -> Literal["native", "python"]:
    """Which XXH3 it is."""
    return "native" if is_native() else "python"


def xxh3_64(data: Data, seed: int = 0) -> int:
    """XXH3 of `data`, as an unsigned 64-bit number."""
    return _xxh3_64(data, seed)


def fnv1a(data: Data) -> int:
    """FNV-1a of `data`, 64 bits. Its loop is Python always: 0.1 us a byte."""
    value = _FNV_OFFSET
    for byte in bytes(data):
        value = (value ^ byte) * _FNV_PRIME & _U64
    return value


def partition_hash(data: Data, partitions: int) -> int:
    """The partition of `data`, from 0 to `partitions` - 1."""
    if partitions < 1:
        raise ValueError(f"partitions must be at least 1, not {partitions}")
    return xxh3_64(data) % partitions


def stream_partition(store: str, stream_id: str, partitions: int) -> int:
    """The partition of a stream; all its events go to the same."""
    return partition_hash(f"{store}\0{stream_id}".encode(), partitions)
