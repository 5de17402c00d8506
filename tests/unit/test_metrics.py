"""Metrics: what a scrape shows of telemetry events, of a node's own counters and of the kernel's."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from shoal import telemetry
from shoal.config import Config
from shoal.errors import AlreadyExists
from shoal.metrics import METRICS, Metrics, bytes_written
from shoal.node import Node

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def scrape(metrics: Metrics) -> Samples:
    body, content_type = metrics.render()
    assert content_type.startswith("text/plain")
    families = list(text_string_to_metric_families(body.decode()))
    assert all(family.documentation for family in families)
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


@pytest.fixture
def metrics() -> Iterator[Metrics]:
    stats: Mapping[str, float] = {
        "head_position:main": 7,
        "head_position:other": 0,
        "event_bytes_total:main": 300,
        "shoal_stores": 2,
        "http_answers_total:201": 4,
        "odd_thing": 2.5,
        "odd_things_total:main": 3,
        "subscription_lag:main:a:b": 5,
        "subscription_delivered_total:main:a": 9,
    }
    made = Metrics(lambda: stats, lambda: 4096)
    made.attach()
    yield made
    made.detach()


def write(store: str, count: int, duration_ns: int) -> None:
    about = {"store_id": store, "stream_id": "s", "new_version": 0}
    telemetry.emit(telemetry.STREAM_WRITE_STOP, {"duration": duration_ns, "event_count": count}, about)


def fail(reason: str) -> None:
    about = {"store_id": "main", "stream_id": "s", "reason": reason}
    telemetry.emit(telemetry.STREAM_WRITE_ERROR, {"duration": 1}, about)


def test_appends_are_counted_by_store(metrics: Metrics) -> None:
    write("main", 3, 1)
    write("main", 2, 1)
    write("other", 1, 1)
    found = scrape(metrics)
    assert found["shoal_events_appended_total", (("store", "main"),)] == 5
    assert found["shoal_appends_total", (("store", "main"),)] == 2
    assert found["shoal_events_appended_total", (("store", "other"),)] == 1


def test_append_durations_fall_into_buckets(metrics: Metrics) -> None:
    for duration_ns in (90_000, 100_000, 1_500_000, 60_000_000_000):
        write("main", 1, duration_ns)
    found = scrape(metrics)
    name = "shoal_append_duration_seconds_bucket"
    assert found[name, (("le", "5e-05"),)] == 0
    assert found[name, (("le", "0.0001"),)] == 2
    assert found[name, (("le", "0.002"),)] == 3
    assert found[name, (("le", "5.0"),)] == 3
    assert found[name, (("le", "+Inf"),)] == found["shoal_append_duration_seconds_count", ()] == 4
    assert found["shoal_append_duration_seconds_sum", ()] == pytest.approx(60.00169)


def test_failures_are_counted_by_code_and_conflicts_by_store(metrics: Metrics) -> None:
    for reason in ("wrong-expected-version", "condition-failed", "disk-full"):
        fail(reason)
    found = scrape(metrics)
    assert found["shoal_append_errors_total", (("code", "disk-full"),)] == 1
    assert found["shoal_conflicts_total", (("store", "main"),)] == 2


def test_every_event_listened_to_shows_up(metrics: Metrics) -> None:
    before = scrape(metrics)
    for event in metrics._heard:
        declared = telemetry.EVENTS[event]
        telemetry.emit(event, dict.fromkeys(declared.measurements, 1), dict.fromkeys(declared.metadata, "x"))
    changed = {
        name for (name, labels), value in scrape(metrics).items() if before.get((name, labels)) != value
    }
    assert changed >= {
        "shoal_events_appended_total",
        "shoal_appends_total",
        "shoal_append_errors_total",
        "shoal_reads_total",
        "shoal_events_read_total",
        "shoal_snapshots_saved_total",
        "shoal_snapshots_read_total",
        "shoal_journal_bytes_total",
        "shoal_database_rows_total",
        "shoal_task_restarts_total",
        "shoal_telemetry_handlers_failed_total",
    }
    histograms = {f"shoal_{name}_count" for name, metric in METRICS.items() if metric.kind == "histogram"}
    assert histograms <= changed


def test_the_nodes_own_numbers_are_shown_with_the_store_as_label(metrics: Metrics) -> None:
    found = scrape(metrics)
    assert found["shoal_head_position", (("store", "main"),)] == 7
    assert found["shoal_head_position", (("store", "other"),)] == 0
    assert found["shoal_stores", ()] == 2
    assert found["shoal_http_answers_total", (("status", "201"),)] == 4
    assert found["shoal_odd_thing", ()] == 2.5
    assert found["shoal_odd_things_total", (("store", "main"),)] == 3


def test_numbers_of_a_subscription_have_its_store_and_its_name(metrics: Metrics) -> None:
    """A name may hold colons, a store's cannot."""
    found = scrape(metrics)
    assert found["shoal_subscription_lag", (("store", "main"), ("subscription", "a:b"))] == 5
    assert found["shoal_subscription_delivered_total", (("store", "main"), ("subscription", "a"))] == 9


def test_what_the_node_counts_itself_is_not_counted_twice() -> None:
    made = Metrics(lambda: {"events_appended_total": 9}, lambda: None, "test-metrics")
    made.attach()
    write("main", 3, 1)
    made.detach()
    found = scrape(made)
    assert [value for (name, _), value in found.items() if name == "shoal_events_appended_total"] == [9]


async def test_every_number_of_a_real_node_is_listed(tmp_path: Path) -> None:
    async with await Node.open(Config(data_dir=tmp_path)) as node:
        assert {key.partition(":")[0] for key in node.stats()} <= set(METRICS)


def test_write_amplification_can_be_computed(metrics: Metrics) -> None:
    found = scrape(metrics)
    assert (
        found["shoal_bytes_written_total", ()] / found["shoal_event_bytes_total", (("store", "main"),)] > 13
    )


def test_where_the_kernel_hides_its_counters_the_metric_is_left_out() -> None:
    assert ("shoal_bytes_written_total", ()) not in scrape(Metrics(dict, lambda: None))


def test_bytes_written_grows_with_what_is_synced(tmp_path: Path) -> None:
    before = bytes_written()
    with (tmp_path / "file").open("wb") as file:
        file.write(os.urandom(1_000_000))
        file.flush()
        os.fsync(file.fileno())
    after = bytes_written()
    assert before is not None
    assert after is not None
    assert after - before in (0, *range(1_000_000, 1_200_000))  # 0 on a tmpfs


def test_two_of_one_name_cannot_listen(metrics: Metrics) -> None:
    with pytest.raises(AlreadyExists):
        Metrics(dict).attach()


def test_prometheus_client_is_not_imported_before_the_first_scrape() -> None:
    code = "import sys, shoal.metrics as m; m.Metrics(dict); sys.exit('prometheus_client' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
