"""Metrics for Prometheus: what telemetry events say, what a node counts itself, what the kernel counts.

`METRICS` names every metric with its kind and help. A node's `stats()` gives plain numbers under these names
without the prefix, `name`, `name:label` or `name:label:label` (the last label may hold colons), and what it counts
itself is not also counted from events; a name that is not listed is shown too, as a counter if it ends in `_total`,
else as a gauge. Both `shoal_bytes_written_total` and `shoal_event_bytes_total` count since the process began, so that
their quotient is the measured write amplification.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from shoal import telemetry
from shoal.telemetry import EventName, Values

if TYPE_CHECKING:
    from prometheus_client.registry import Collector

HANDLER_ID: Final = "shoal-metrics"
Kind = Literal["counter", "gauge", "histogram"]


class Metric(NamedTuple):
    """A metric's kind, its help line, and the names of its labels."""

    kind: Kind
    doc: str
    labels: tuple[str, ...] = ()


_STORE: Final = ("store",)
_SUBSCRIPTION: Final = ("store", "subscription")

METRICS: Final[Mapping[str, Metric]] = {
    "events_appended_total": Metric("counter", "Events appended.", _STORE),
    "appends_total": Metric("counter", "Appends that stored their events, or found them stored.", _STORE),
    "append_errors_total": Metric("counter", "Appends refused or failed, by error code.", ("code",)),
    "conflicts_total": Metric("counter", "Appends that met another version or condition.", _STORE),
    "append_duration_seconds": Metric("histogram", "From the call of an append to its answer."),
    "reads_total": Metric("counter", "Reads of a stream or of all.", _STORE),
    "events_read_total": Metric("counter", "Events given to readers.", _STORE),
    "read_duration_seconds": Metric("histogram", "From the call of a read to its answer."),
    "snapshots_saved_total": Metric("counter", "Snapshots saved.", _STORE),
    "snapshots_read_total": Metric("counter", "Snapshots read.", _STORE),
    "journal_sync_duration_seconds": Metric("histogram", "Write and fdatasync of a batch of the journal."),
    "journal_bytes_total": Metric("counter", "Bytes written to the journal."),
    "database_commit_duration_seconds": Metric("histogram", "Commits of SQLite."),
    "database_rows_total": Metric("counter", "Rows in these commits.", _STORE),
    "task_restarts_total": Metric("counter", "Restarts of a task inside shoald.", ("task",)),
    "telemetry_handlers_failed_total": Metric("counter", "Telemetry handlers detached since they raised."),
    "bytes_written_total": Metric("counter", "Bytes this process caused to be written to disks (kernel)."),
    "event_bytes_total": Metric("counter", "Payload bytes of the events appended.", _STORE),
    "entries_total": Metric("counter", "Entries proposed; appends that come together share one."),
    "commands_total": Metric("counter", "Commands in these entries."),
    "refused_total": Metric("counter", "Commands that the state machine refused."),
    "journal_syncs_total": Metric("counter", "fdatasync calls of the journal."),
    "journal_sync_seconds_total": Metric("counter", "Time spent in them."),
    "journal_segments": Metric("gauge", "Segments of the journal."),
    "database_commits_total": Metric("counter", "Commits of SQLite."),
    "http_answers_total": Metric("counter", "Answers given over HTTP.", ("status",)),
    "appends_waiting": Metric("gauge", "Appends that wait for their turn."),
    "writer_backlog_rows": Metric("gauge", "Rows that wait for SQLite's writer."),
    "head_position": Metric("gauge", "Position of the last event.", _STORE),
    "stores": Metric("gauge", "Stores of the node."),
    "is_leader": Metric("gauge", "1 on the node that leads, else 0."),
    "term": Metric("gauge", "The election term."),
    "commit_index": Metric("gauge", "The last entry known to be committed."),
    "applied_index": Metric("gauge", "The last entry that was applied."),
    "lag_seconds": Metric("gauge", "For how long this node has lacked what others have committed."),
    "follower_lag_entries": Metric("gauge", "Committed entries a member lacks, on the leader.", ("node",)),
    "peers_connected": Metric("gauge", "Other members that can be reached."),
    "quorum_margin": Metric("gauge", "How many voters may fail; below 0 nothing can be written."),
    "subscription_lag": Metric(
        "gauge", "Positions after that up to which nothing is known to be left.", _SUBSCRIPTION
    ),
    "subscription_in_flight": Metric("gauge", "Events delivered and not settled.", _SUBSCRIPTION),
    "subscription_parked": Metric("gauge", "Events put aside.", _SUBSCRIPTION),
    "subscription_delivered_total": Metric("counter", "Deliveries of events.", _SUBSCRIPTION),
    "subscription_redeliveries_total": Metric("counter", "Those that were not the first.", _SUBSCRIPTION),
}
_CONFLICTS: Final = frozenset({"wrong-expected-version", "condition-failed"})
_BOUNDS_S: Final = (
    *(0.000_05, 0.000_1, 0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05),
    *(0.1, 0.2, 0.5, 1.0, 2.0, 5.0),
)


_BOUNDS_NS: Final = tuple(round(bound * 1e9) for bound in _BOUNDS_S)


def bytes_written() -> int | None:
    """Bytes that this process caused to be sent to block devices (`write_bytes`, proc(5)); None if hidden."""
    try:
        text = Path("/proc/self/io").read_text(encoding="ascii")
    except OSError:
        return None
    fields = dict(line.split(": ") for line in text.splitlines())
    return int(fields["write_bytes"])


class Histogram:
    """Counts by upper bound, in seconds; written by one thread, read by any."""

    def __init__(self) -> None:
        self._counts = [0] * (len(_BOUNDS_NS) + 1)
        self._sum_ns = 0

    def observe_ns(self, duration_ns: int) -> None:
        """Count one duration."""
        self._counts[bisect_left(_BOUNDS_NS, duration_ns)] += 1
        self._sum_ns += duration_ns

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative counts with their bounds, as Prometheus wants them."""
        total, buckets = 0, []
        for bound, count in zip((*map(str, _BOUNDS_S), "+Inf"), self._counts, strict=True):
            total += count
            buckets.append((bound, float(total)))
        return buckets

    @property
    def sum_s(self) -> float:
        """Seconds of all durations together."""
        return self._sum_ns / 1e9


class _OfStore:
    """Counts of one store's appends and reads: attributes, since these grow with every one of them."""

    __slots__ = ("appends_total", "events_appended_total", "events_read_total", "reads_total")

    def __init__(self) -> None:
        self.appends_total = 0
        self.events_appended_total = 0
        self.reads_total = 0
        self.events_read_total = 0


class Metrics:
    """Listens while attached; `render` gives the page for a scrape."""

    def __init__(
        self,
        stats: Callable[[], Mapping[str, float]],
        written: Callable[[], int | None] = bytes_written,
        handler_id: str = HANDLER_ID,
    ) -> None:
        self._stats = stats
        self._written = written
        self._handler_id = handler_id
        self._counts: Counter[tuple[str, str]] = Counter()
        self._stores: defaultdict[str, _OfStore] = defaultdict(_OfStore)
        self._histograms = {
            name: Histogram() for name, metric in METRICS.items() if metric.kind == "histogram"
        }
        self._append_durations = self._histograms["append_duration_seconds"]
        self._read_durations = self._histograms["read_duration_seconds"]
        self._heard: dict[EventName, Callable[[Values, Values], None]] = {
            telemetry.STREAM_WRITE_STOP: self._write_stop,
            telemetry.STREAM_WRITE_ERROR: self._write_error,
            telemetry.STREAM_READ_STOP: self._read_stop,
            telemetry.SNAPSHOT_CREATED: self._snapshot_created,
            telemetry.SNAPSHOT_READ: self._snapshot_read,
            telemetry.JOURNAL_SYNCED: self._journal_synced,
            telemetry.DATABASE_COMMITTED: self._database_committed,
            telemetry.TASK_RESTARTED: self._task_restarted,
            telemetry.HANDLER_FAILED: self._handler_failed,
        }

    def attach(self) -> None:
        """Begin to listen. Raises AlreadyExists."""
        telemetry.attach(self._handler_id, self._heard, self._handle)

    def detach(self) -> None:
        """Listen no more; what was counted stays. Raises NotFound."""
        telemetry.detach(self._handler_id)

    def render(self) -> tuple[bytes, str]:
        """The metrics as text, and its content type."""
        # Imported at the first scrape: it takes 1.2 MB, and a board that nobody scrapes does not need it.
        from prometheus_client import (
            CONTENT_TYPE_LATEST,
            CollectorRegistry,
            ProcessCollector,
            generate_latest,
        )

        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        collector: Collector = _Collector(self._families)
        registry.register(collector)
        return generate_latest(registry), CONTENT_TYPE_LATEST

    def _handle(self, event: EventName, measurements: Values, metadata: Values, _config: Any) -> None:
        self._heard[event](measurements, metadata)

    def _write_stop(self, measurements: Values, metadata: Values) -> None:
        store = self._stores[metadata["store_id"]]
        store.appends_total += 1
        store.events_appended_total += measurements["event_count"]
        self._append_durations.observe_ns(measurements["duration"])

    def _write_error(self, _measurements: Values, metadata: Values) -> None:
        reason = str(metadata["reason"])
        self._counts["append_errors_total", reason] += 1
        if reason in _CONFLICTS:
            self._counts["conflicts_total", metadata["store_id"]] += 1

    def _read_stop(self, measurements: Values, metadata: Values) -> None:
        store = self._stores[metadata["store_id"]]
        store.reads_total += 1
        store.events_read_total += measurements["event_count"]
        self._read_durations.observe_ns(measurements["duration"])

    def _snapshot_created(self, _measurements: Values, metadata: Values) -> None:
        self._counts["snapshots_saved_total", metadata["store_id"]] += 1

    def _snapshot_read(self, _measurements: Values, metadata: Values) -> None:
        self._counts["snapshots_read_total", metadata["store_id"]] += 1

    def _journal_synced(self, measurements: Values, _metadata: Values) -> None:
        self._counts["journal_bytes_total", ""] += measurements["size_bytes"]
        self._histograms["journal_sync_duration_seconds"].observe_ns(measurements["duration"])

    def _database_committed(self, measurements: Values, metadata: Values) -> None:
        self._counts["database_rows_total", metadata["store_id"]] += measurements["row_count"]
        self._histograms["database_commit_duration_seconds"].observe_ns(measurements["duration"])

    def _task_restarted(self, _measurements: Values, metadata: Values) -> None:
        self._counts["task_restarts_total", metadata["task"]] += 1

    def _handler_failed(self, measurements: Values, _metadata: Values) -> None:
        self._counts["telemetry_handlers_failed_total", ""] += measurements["count"]

    def _heard_numbers(self) -> dict[str, dict[str, float]]:
        """What events said, but for histograms: metric -> labels' values, with colons between them -> number."""
        numbers: dict[str, dict[str, float]] = {}
        for (name, label), count in list(self._counts.items()):
            numbers.setdefault(name, {})[label] = count
        for label, of_store in list(self._stores.items()):
            for name in _OfStore.__slots__:
                numbers.setdefault(name, {})[label] = getattr(of_store, name)
        return numbers

    def _own_numbers(self) -> dict[str, dict[str, float]]:
        """What the node and the kernel count, in the same form."""
        numbers: dict[str, dict[str, float]] = {}
        for key, value in self._stats().items():
            name, _, label = key.removeprefix("shoal_").partition(":")
            numbers.setdefault(name, {})[label] = value
        written = self._written()
        if written is not None:
            numbers["bytes_written_total"] = {"": written}
        return numbers

    def _families(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        for name, values in sorted((self._heard_numbers() | self._own_numbers()).items()):
            kind: Kind = "counter" if name.endswith("_total") else "gauge"
            metric = METRICS.get(name, Metric(kind, "Counted by the node.", _STORE))
            family = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
            labels = (metric.labels or _STORE) if any(values) else ()
            shown = family(f"shoal_{name}", metric.doc, labels=labels)
            for label, value in sorted(values.items()):
                shown.add_metric(label.split(":", len(labels) - 1) if labels else [], value)
            yield shown
        for name, histogram in self._histograms.items():
            family_of = HistogramMetricFamily(f"shoal_{name}", METRICS[name].doc)
            family_of.add_metric([], histogram.buckets(), histogram.sum_s)
            yield family_of


class _Collector:
    """What prometheus_client asks for: something to collect from."""

    def __init__(self, families: Callable[[], Iterator[Any]]) -> None:
        self.collect = families
