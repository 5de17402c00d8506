"""Lease tokens: there and back, and nothing else."""

from __future__ import annotations

import pytest

from shoal.errors import InvalidRequest
from shoal.model.lease import Lease, read_lease

MOST = 2**53 - 1


@pytest.mark.parametrize("lease", [Lease(0, 0, 0, 0), Lease(1, 2, 3, 4), Lease(MOST, MOST, MOST, MOST)])
def test_a_token_comes_back(lease: Lease) -> None:
    assert read_lease(lease.token) == lease


@pytest.mark.parametrize(
    "garbage",
    [
        *("", "1", "1-2-3", "1-2-3-4-5", "1-2-3-g", "-1-2-3-4", "1--2-3", "1-2-3-4\n", " 1-2-3-4", "1-2-3-٤"),
        *("A-2-3-4", "1-2-3-" + "f" * 15, "0x1-2-3-4", "\0", None, 7, b"1-2-3-4", ["1-2-3-4"], "9" * 10_000),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_garbage_is_refused_and_the_refusal_is_short(garbage: object) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_lease(garbage, "leases/3")
    assert caught.value.facts["pointer"] == "leases/3"
    assert len(str(caught.value)) < 300
