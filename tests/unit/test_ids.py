"""Event ids: UUIDv7 that always grow, and the 16 bytes they are stored in."""

from __future__ import annotations

import os
import re
from uuid import UUID

import pytest

from shoal.ids import EventIds, pack, unpack

CANONICAL = "0192f0c1-7b3e-7abc-8def-0123456789ab"


def maker(*readings: int, entropy: bytes | None = None) -> EventIds:
    """A maker whose clock reads these milliseconds one after the other, the last one for ever."""
    left = list(readings)
    return EventIds(
        os.urandom if entropy is None else lambda count: (entropy * count)[:count],
        now_ms=lambda: left.pop(0) if len(left) > 1 else left[0],
    )


def test_ids_are_version_7_with_the_time_in_front() -> None:
    for raw in maker(1_700_000_000_123).take(1_000):
        uuid = UUID(bytes=raw)
        assert uuid.version == 7
        assert uuid.variant == "specified in RFC 4122"
        assert uuid.int >> 80 == 1_700_000_000_123


def test_ids_grow_within_a_millisecond_even_with_the_same_random_bits() -> None:
    taken = maker(5, entropy=b"\xff").take(10_000)
    assert taken == sorted(set(taken))


def test_ids_grow_while_the_clock_goes_back() -> None:
    ids = maker(1_000_000, 500_000, 1_000_001)
    taken = ids.take(2) + ids.take(3) + ids.take(1)
    assert taken == sorted(set(taken))
    assert UUID(bytes=taken[-1]).int >> 80 == 1_000_001


def test_a_full_counter_runs_over_into_the_time() -> None:
    ids = maker(7)
    taken = ids.take(4_096) + ids.take(1)
    assert taken == sorted(set(taken))
    assert [UUID(bytes=taken[index]).int >> 80 for index in (0, 4_095, 4_096)] == [7, 7, 8]


def test_two_makers_with_one_clock_make_different_ids() -> None:
    assert not set(maker(9).take(2_000)) & set(maker(9).take(2_000))


def test_entropy_is_asked_for_in_bulk() -> None:
    asked: list[int] = []

    def entropy(count: int) -> bytes:
        asked.append(count)
        return os.urandom(count)

    ids = EventIds(entropy, now_ms=lambda: 1)
    for _ in range(512):
        ids.take(1)
    assert len(asked) == 1
    assert ids.take(0) == []


def test_a_clock_before_1970_or_beyond_48_bits_still_gives_ids() -> None:
    for reading in (-5, 1 << 60):
        assert len(maker(reading).take(1)[0]) == 16


def test_a_canonical_uuid_is_packed_into_its_16_bytes() -> None:
    assert pack(CANONICAL) == UUID(CANONICAL).bytes
    assert unpack(UUID(CANONICAL).bytes) == CANONICAL


@pytest.mark.parametrize(
    "text",
    [
        "",
        "order-17",
        CANONICAL.upper(),
        CANONICAL.replace("-", ""),
        CANONICAL + "\n",
        CANONICAL[:-1] + "\n",
        CANONICAL[:-2] + " f",
        CANONICAL.replace("-", " "),
        "{" + CANONICAL + "}",
        "0192f0c17-b3e-7abc-8def-0123456789ab",
        CANONICAL.replace("0", "٠"),  # noqa: RUF001 - a digit elsewhere
    ],
)
def test_any_other_text_stays_as_it_is(text: str) -> None:
    assert pack(text) == text
    assert unpack(text) == text


def test_what_is_unpacked_is_canonical() -> None:
    for raw in maker(3).take(100):
        assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", unpack(raw))
        assert pack(unpack(raw)) == raw
