"""XXH3 in Python is XXH3: equal to the native one for every input and seed."""

from __future__ import annotations

import xxhash
from hypothesis import given
from hypothesis import strategies as st

from shoal.accel import xxh3
from shoal.accel.hash import partition_hash, xxh3_64


@given(st.binary(max_size=2_500), st.integers(0, 2**64 - 1))
def test_pure_and_native_are_equal(raw: bytes, seed: int) -> None:
    assert xxh3.xxh3_64(raw, seed) == xxh3_64(raw, seed) == xxhash.xxh3_64_intdigest(raw, seed)


@given(st.binary(max_size=64), st.integers(1, 1_000))
def test_partitions_are_within_range(raw: bytes, partitions: int) -> None:
    assert 0 <= partition_hash(raw, partitions) < partitions
