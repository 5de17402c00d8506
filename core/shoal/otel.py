"""OpenTelemetry: telemetry events as spans and metrics, by OTLP over HTTP; needs the extra `shoal[otel]`.

Where to send is said by OpenTelemetry's own variables (`OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_SERVICE_NAME`, ...).
An event with a duration becomes a span that ends when the event comes, and a histogram in seconds; counts and
sizes become counters. Only the store is an attribute of a metric: a stream for each would never end.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from shoal import telemetry
from shoal.errors import ConfigError, NotFound
from shoal.telemetry import EVENTS, EventName, Values

if TYPE_CHECKING:
    from opentelemetry.metrics import Counter, Histogram, Meter
    from opentelemetry.trace import Tracer

HANDLER_ID: Final = "shoal-opentelemetry"
_COUNTED: Final = ("event_count", "row_count", "size_bytes", "count")


class OtelHandler:
    """A telemetry handler that speaks to a tracer and a meter."""

    def __init__(self, tracer: Tracer, meter: Meter, now_ns: Callable[[], int] = time.time_ns) -> None:
        self._tracer = tracer
        self._now_ns = now_ns
        self._durations: dict[EventName, Histogram] = {}
        self._counters: dict[tuple[EventName, str], Counter] = {}
        for event, declared in EVENTS.items():
            name = _name(event)
            if "duration" in declared.measurements:
                self._durations[event] = meter.create_histogram(f"{name}.duration", unit="s")
            for measurement in set(declared.measurements).intersection(_COUNTED):
                self._counters[event, measurement] = meter.create_counter(f"{name}.{measurement}")

    def __call__(self, event: EventName, measurements: Values, metadata: Values, _config: Any) -> None:
        store = {"shoal.store_id": metadata["store_id"]} if "store_id" in metadata else {}
        for measurement, value in measurements.items():
            counter = self._counters.get((event, measurement))
            if counter is not None:
                counter.add(value, store)
        if event in self._durations:
            self._durations[event].record(measurements["duration"] / 1e9, store)
        self._span(event, measurements, metadata)

    def _span(self, event: EventName, measurements: Values, metadata: Values) -> None:
        if event[-1] == "start":
            return  # its stop or error brings the whole span
        from opentelemetry.trace import Status, StatusCode

        end_ns = self._now_ns()
        shown = {name: value for name, value in {**metadata, **measurements}.items() if name != "duration"}
        attributes = {f"shoal.{name}": _attribute(value) for name, value in shown.items()}
        begin_ns = end_ns - int(measurements.get("duration", 0))
        span = self._tracer.start_span(_name(event), attributes=attributes, start_time=begin_ns)
        if "reason" in metadata and event != telemetry.STORE_STOPPED:
            span.set_status(Status(StatusCode.ERROR, str(metadata["reason"])))
        span.end(end_ns)


class Export:
    """A running export; `close` sends what is left, which may take as long as the collector does."""

    def __init__(self, providers: tuple[Any, ...]) -> None:
        self._providers = providers

    def close(self) -> None:
        """Detach and flush. Blocks: call it in a thread."""
        with suppress(NotFound):  # it was detached, and reported, when it failed
            telemetry.detach(HANDLER_ID)
        for provider in self._providers:
            provider.shutdown()


def attach_opentelemetry(node_id: str) -> Export:
    """Export all telemetry from now on. Raises ConfigError if the extra is missing, AlreadyExists if it runs."""
    try:
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        advice = f"opentelemetry needs `pip install 'shoal[otel]'` ({error}), or take it off the list"
        raise ConfigError("telemetry_handlers", advice) from error
    resource = Resource.create({"service.name": "shoald", "service.instance.id": node_id})
    tracing = TracerProvider(resource=resource)
    tracing.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    metering = MeterProvider([PeriodicExportingMetricReader(OTLPMetricExporter())], resource=resource)
    handler = OtelHandler(tracing.get_tracer("shoal"), metering.get_meter("shoal"))
    telemetry.attach(HANDLER_ID, None, handler)
    return Export((tracing, metering))


def _name(event: EventName) -> str:
    """`shoal.stream.write` for its stop: a span is named for the operation, not for its end."""
    return ".".join(event[:-1] if event[-1] == "stop" else event)


def _attribute(value: Any) -> str | int | float | bool:
    return value if isinstance(value, str | int | float | bool) else str(value)
