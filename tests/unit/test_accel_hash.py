"""Hashes: the same values with and without the native package."""

from __future__ import annotations

import random
import subprocess
import sys

import pytest
import xxhash

from shoal.accel import hash as accel_hash
from shoal.accel import xxh3
from shoal.accel.hash import fnv1a, partition_hash, stream_partition, xxh3_64

SEEDS = (0, 1, 0x9E3779B1, 2**32 - 1, 2**63, 2**64 - 1)


@pytest.mark.parametrize("seed", SEEDS)
def test_pure_xxh3_equals_the_native_one_at_every_length(seed: int) -> None:
    noise = random.Random(seed).randbytes(1_200)
    for size in range(1_201):
        assert xxh3.xxh3_64(noise[:size], seed) == xxhash.xxh3_64_intdigest(noise[:size], seed), size


@pytest.mark.parametrize("size", [2_047, 2_048, 2_049, 3_072, 3_136, 10_000])
def test_pure_xxh3_equals_the_native_one_over_several_blocks(size: int) -> None:
    noise = random.Random(size).randbytes(size)
    for seed in SEEDS:
        assert xxh3.xxh3_64(noise, seed) == xxhash.xxh3_64_intdigest(noise, seed)


def test_xxh3_takes_any_bytes() -> None:
    raw = b"a shoal of small boards"
    assert xxh3_64(raw) == xxh3_64(bytearray(raw)) == xxh3_64(memoryview(raw))
    assert xxh3.xxh3_64(bytearray(raw)) == xxh3.xxh3_64(memoryview(raw)) == xxh3_64(raw)
    assert xxh3_64(raw, 7) != xxh3_64(raw)


def test_xxh3_never_changes() -> None:
    assert xxh3_64(b"") == 0x2D06800538D394C2


@pytest.mark.parametrize(
    ("raw", "value"),
    [(b"", 0xCBF29CE484222325), (b"a", 0xAF63DC4C8601EC8C), (b"foobar", 0x85944171F73967E8)],
)
def test_fnv1a_has_its_published_values(raw: bytes, value: int) -> None:
    assert fnv1a(raw) == value


def test_partitions_are_within_range_and_even() -> None:
    counts = [0] * 8
    for number in range(8_000):
        counts[partition_hash(b"stream-%d" % number, 8)] += 1
    assert min(counts) > 800
    assert partition_hash(b"x", 1) == 0


def test_a_stream_has_its_partition_by_store_and_id() -> None:
    assert stream_partition("main", "order-1", 64) == xxh3_64(b"main\0order-1") % 64
    assert [stream_partition("main", f"s{n}", 64) for n in range(99)] != [
        stream_partition("other", f"s{n}", 64) for n in range(99)
    ]


@pytest.mark.parametrize("partitions", [0, -1])
def test_no_partitions_are_refused(partitions: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        partition_hash(b"x", partitions)


def test_the_native_one_is_used_where_it_is_importable() -> None:
    assert (accel_hash.is_native(), accel_hash.implementation()) == (True, "native")


def test_without_the_package_the_pure_one_gives_the_same() -> None:
    program = (
        "import sys; sys.modules['xxhash'] = None\n"
        "from shoal.accel import hash as h\n"
        "print(h.implementation(), h.xxh3_64(b'order-1', 5), h.stream_partition('main', 's', 64))"
    )
    output = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout
    assert output.split() == ["python", str(xxh3_64(b"order-1", 5)), str(stream_partition("main", "s", 64))]
