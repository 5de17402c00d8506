"""The benchmark's scenarios of three nodes, with real processes, as short as they go."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from shoal_host.bench.bench import QUICK, Bench, Large
from shoal_host.bench.cluster import embedded, outages, rivals

SMALL = msgspec.structs.replace(QUICK, phase_s=0.1, probe_s=0.02, kills=1, pauses=1)


async def no_large(bench: Bench) -> Large:
    raise AssertionError("no scenario of a cluster needs the large store")


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path, SMALL, lambda text: None, no_large)


async def test_the_leader_is_killed_and_clients_go_on(bench: Bench, tmp_path: Path) -> None:
    (row,) = await outages.killed(bench)
    assert row.value is not None
    assert 0 < row.value.high < 20
    assert len(row.details["trials_s"]) == bench.sizes.kills
    assert list(tmp_path.iterdir()) == []


async def test_a_member_in_this_process_leads_and_follows(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "PHASES", 1)
    rows = await embedded.rows(bench)
    assert [row.name for row in rows] == [
        *(shape.name for shape in embedded.SHAPES),
        "cluster-read-leader",
        "cluster-read-follower",
    ]
    for row in rows:
        assert row.value is not None
        assert row.value.low > 0
        assert row.targets
    assert list(tmp_path.iterdir()) == []


async def test_loads_take_turns_and_a_rival_that_is_missing_is_said(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = [msgspec.structs.replace(rival, binary=lambda: None) for rival in rivals.RIVALS]
    monkeypatch.setattr(rivals, "RIVALS", tuple(missing))
    monkeypatch.setattr(rivals, "PHASES", 1)
    rows = {row.name: row for row in await rivals.appends(bench)}
    assert [row.problem is None for row in rows.values()] == [True, True, False, False]
    for name in ("cluster-http", "cluster-connect"):
        value = rows[name].value
        assert value is not None
        assert value.low > 0
    assert list(tmp_path.iterdir()) == []
