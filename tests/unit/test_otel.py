"""OpenTelemetry: what a collector would get, seen by the SDK's in-memory exporters."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("opentelemetry.sdk", reason="needs the extra otel")

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from shoal import telemetry
from shoal.errors import ConfigError
from shoal.otel import HANDLER_ID, OtelHandler, attach_opentelemetry

NOW_NS = 1_800_000_000_000_000_000


class Collected:
    """Everything in memory."""

    def __init__(self) -> None:
        self.exporter, self.reader = InMemorySpanExporter(), InMemoryMetricReader()
        self.tracing = TracerProvider()
        self.tracing.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.metering = MeterProvider([self.reader])
        tracer, meter = self.tracing.get_tracer("test"), self.metering.get_meter("test")
        telemetry.attach("test-otel", None, OtelHandler(tracer, meter, lambda: NOW_NS))

    def close(self) -> None:
        telemetry.detach("test-otel")
        self.tracing.shutdown()
        self.metering.shutdown()

    def metrics(self) -> dict[str, Any]:
        data = self.reader.get_metrics_data()
        assert data is not None
        found = [metric for r in data.resource_metrics for s in r.scope_metrics for metric in s.metrics]
        return {metric.name: next(iter(metric.data.data_points)) for metric in found}


@pytest.fixture
def collected() -> Iterator[Collected]:
    made = Collected()
    yield made
    made.close()


def write(reason: str | None = None) -> None:
    about = {"store_id": "main", "stream_id": "s"}
    telemetry.emit(
        telemetry.STREAM_WRITE_START, {"system_time": 1}, {**about, "event_count": 2, "expected_version": -1}
    )
    if reason is None:
        telemetry.emit(
            telemetry.STREAM_WRITE_STOP,
            {"duration": 3_000_000, "event_count": 2},
            {**about, "new_version": 1},
        )
    else:
        telemetry.emit(telemetry.STREAM_WRITE_ERROR, {"duration": 3_000_000}, {**about, "reason": reason})


def test_a_write_is_one_span_of_its_duration(collected: Collected) -> None:
    write()
    (span,) = collected.exporter.get_finished_spans()
    assert span.name == "shoal.stream.write"
    assert (span.start_time, span.end_time) == (NOW_NS - 3_000_000, NOW_NS)
    assert dict(span.attributes or {}) == {
        "shoal.store_id": "main",
        "shoal.stream_id": "s",
        "shoal.new_version": 1,
        "shoal.event_count": 2,
    }
    assert span.status.status_code is StatusCode.UNSET


def test_a_failed_write_is_a_span_with_its_error(collected: Collected) -> None:
    write("disk-full")
    (span,) = collected.exporter.get_finished_spans()
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "disk-full")


def test_durations_and_counts_become_metrics_by_store(collected: Collected) -> None:
    write()
    write()
    found = collected.metrics()
    assert found["shoal.stream.write.duration"].count == 2
    assert found["shoal.stream.write.duration"].sum == pytest.approx(0.006)
    assert found["shoal.stream.write.event_count"].value == 4
    assert dict(found["shoal.stream.write.event_count"].attributes) == {"shoal.store_id": "main"}


def test_every_declared_event_can_be_exported(collected: Collected) -> None:
    for event, declared in telemetry.EVENTS.items():
        telemetry.emit(
            event, dict.fromkeys(declared.measurements, 1), dict.fromkeys(declared.metadata, ("x",))
        )
    assert "test-otel" in telemetry._ids()  # one that fails is detached
    starts = [event for event in telemetry.EVENTS if event[-1] == "start"]
    assert len(collected.exporter.get_finished_spans()) == len(telemetry.EVENTS) - len(starts)


def test_without_the_extra_the_configuration_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(ConfigError, match=r"telemetry_handlers: .*shoal\[otel\]"):
        attach_opentelemetry("node")


def test_the_real_exporters_attach_and_close() -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="needs the extra otel")
    export = attach_opentelemetry("node")
    assert HANDLER_ID in telemetry._ids()
    export.close()
    assert HANDLER_ID not in telemetry._ids()
