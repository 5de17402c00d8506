"""Telemetry: attaching, detaching, failing handlers, the default handler, and what emitters carry."""

from __future__ import annotations

import ast
import asyncio
import logging
import timeit
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import shoal
from shoal import telemetry
from shoal.errors import AlreadyExists, InvalidRequest, NotFound, WrongExpectedVersion

STOP = telemetry.STREAM_WRITE_STOP
MEASURED = {"duration": 5, "event_count": 2}
ABOUT = {"store_id": "main", "stream_id": "s", "new_version": 1}


class Recorder:
    """A handler that keeps what it gets."""

    def __init__(self) -> None:
        self.seen: list[tuple[telemetry.EventName, dict[str, Any], dict[str, Any], Any]] = []

    def __call__(self, event: telemetry.EventName, measurements: Any, metadata: Any, config: Any) -> None:
        self.seen.append((event, dict(measurements), dict(metadata), config))


def failing(*_: Any) -> None:
    raise RuntimeError("handler is broken")


def raising(kind: type[BaseException]) -> telemetry.Handler:
    def handle(*_: Any) -> None:
        raise kind

    return handle


@pytest.fixture(autouse=True)
def _nothing_stays_attached() -> Iterator[None]:
    yield
    for handler_id in telemetry._ids():
        telemetry.detach(handler_id)


class TestHandlers:
    """Attach and detach."""

    def test_a_handler_gets_event_measurements_metadata_and_config(self) -> None:
        recorder = Recorder()
        telemetry.attach("a", [STOP], recorder, {"my": "config"})
        telemetry.emit(STOP, MEASURED, ABOUT)
        assert recorder.seen == [(STOP, MEASURED, ABOUT, {"my": "config"})]

    def test_other_events_do_not_reach_it(self) -> None:
        recorder = Recorder()
        telemetry.attach("a", [STOP], recorder)
        telemetry.emit(telemetry.STREAM_READ_STOP, MEASURED, ABOUT)
        assert recorder.seen == []

    def test_without_a_list_it_gets_every_event_once(self) -> None:
        recorder = Recorder()
        telemetry.attach("a", None, recorder)
        for event in telemetry.EVENTS:
            telemetry.emit(event, {}, {})
        assert [event for event, *_ in recorder.seen] == list(telemetry.EVENTS)

    def test_an_event_named_twice_is_heard_once(self) -> None:
        recorder = Recorder()
        telemetry.attach("a", [STOP, STOP], recorder)
        telemetry.emit(STOP, {}, {})
        assert len(recorder.seen) == 1

    def test_the_same_id_twice_is_refused(self) -> None:
        telemetry.attach("a", [STOP], Recorder())
        with pytest.raises(AlreadyExists, match="'a'"):
            telemetry.attach("a", [telemetry.STORE_STARTED], Recorder())

    def test_an_unknown_event_is_refused_and_nothing_attached(self) -> None:
        with pytest.raises(InvalidRequest, match="nonsense"):
            telemetry.attach("a", [STOP, ("shoal", "nonsense")], Recorder())
        assert not telemetry.enabled(STOP)

    def test_a_detached_handler_hears_nothing(self) -> None:
        recorder = Recorder()
        telemetry.attach("a", None, recorder)
        telemetry.detach("a")
        telemetry.emit(STOP, MEASURED, ABOUT)
        assert recorder.seen == []
        assert not telemetry.enabled(STOP)

    def test_detaching_what_is_not_attached_is_an_error(self) -> None:
        with pytest.raises(NotFound, match="'a'"):
            telemetry.detach("a")

    def test_a_handler_may_detach_itself(self) -> None:
        seen = []

        def once(event: telemetry.EventName, *_: Any) -> None:
            seen.append(event)
            telemetry.detach("once")

        telemetry.attach("once", [STOP], once)
        telemetry.emit(STOP, {}, {})
        telemetry.emit(STOP, {}, {})
        assert seen == [STOP]


class TestFailingHandler:
    """It breaks nothing but itself."""

    def test_it_is_detached_and_the_others_still_hear(self, caplog: pytest.LogCaptureFixture) -> None:
        recorder = Recorder()
        telemetry.attach("bad", None, failing)
        telemetry.attach("good", [STOP], recorder)
        telemetry.emit(STOP, MEASURED, ABOUT)
        telemetry.emit(STOP, MEASURED, ABOUT)
        assert len(recorder.seen) == 2
        assert telemetry._ids() == {"good"}
        assert len(caplog.records) == 1
        assert "'bad' failed at shoal.stream.write.stop" in caplog.text

    @pytest.mark.parametrize(
        "kind", [GeneratorExit, asyncio.CancelledError, type("Own", (BaseException,), {})]
    )
    def test_whatever_it_raises_breaks_nothing(
        self, kind: type[BaseException], caplog: pytest.LogCaptureFixture
    ) -> None:
        telemetry.attach("bad", [STOP], raising(kind))
        telemetry.emit(STOP, MEASURED, ABOUT)
        assert "'bad' failed" in caplog.text
        assert not telemetry.enabled(STOP)

    @pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
    def test_what_ends_the_process_passes_through(self, kind: type[BaseException]) -> None:
        telemetry.attach("ends", [STOP], raising(kind))
        with pytest.raises(kind):
            telemetry.emit(STOP, MEASURED, ABOUT)
        assert telemetry.enabled(STOP)

    def test_it_is_reported_as_an_event(self, caplog: pytest.LogCaptureFixture) -> None:
        recorder = Recorder()
        telemetry.attach("bad", [STOP], failing)
        telemetry.attach("watch", [telemetry.HANDLER_FAILED], recorder)
        telemetry.emit(STOP, MEASURED, ABOUT)
        assert recorder.seen == [
            (
                telemetry.HANDLER_FAILED,
                {"count": 1},
                {
                    "handler_id": "bad",
                    "event": "shoal.stream.write.stop",
                    "reason": "RuntimeError('handler is broken')",
                },
                None,
            )
        ]

    def test_handlers_that_fail_at_the_report_end_too(self, caplog: pytest.LogCaptureFixture) -> None:
        for name in ("a", "b", "c"):
            telemetry.attach(name, None, failing)
        telemetry.emit(STOP, MEASURED, ABOUT)
        assert telemetry._ids() == set()
        assert len(caplog.records) == 3


class TestSpan:
    """Start, then stop or error."""

    def span(self) -> telemetry.Span:
        return telemetry.span(
            telemetry.STREAM_WRITE_START,
            telemetry.STREAM_WRITE_STOP,
            telemetry.STREAM_WRITE_ERROR,
            {"store_id": "main", "stream_id": "s"},
            event_count=2,
            expected_version=-1,
        )

    def test_success_carries_what_is_declared(self) -> None:
        recorder = Recorder()
        telemetry.attach("a", None, recorder)
        with self.span() as span:
            span.measurements["event_count"] = 2
            span.result["new_version"] = 1
        assert [event for event, *_ in recorder.seen] == [
            telemetry.STREAM_WRITE_START,
            telemetry.STREAM_WRITE_STOP,
        ]
        assert_declared(recorder)
        assert recorder.seen[1][1]["duration"] >= 0

    def test_failure_carries_the_errors_code_and_passes_it_on(self) -> None:
        recorder = Recorder()
        telemetry.attach("a", None, recorder)
        with pytest.raises(WrongExpectedVersion), self.span():
            raise WrongExpectedVersion("s", 1, 2)
        assert recorder.seen[1][0] == telemetry.STREAM_WRITE_ERROR
        assert recorder.seen[1][2]["reason"] == "wrong-expected-version"
        assert_declared(recorder)

    def test_an_error_that_is_not_ours_is_named_by_its_type(self) -> None:
        recorder = Recorder()
        telemetry.attach("a", None, recorder)
        with pytest.raises(KeyError), self.span():
            raise KeyError("x")
        assert recorder.seen[1][2]["reason"] == "KeyError"


class TestDefaultHandler:
    """The logger."""

    def test_it_logs_lifecycle_at_info_and_leaves_hot_events_alone(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        logger = logging.getLogger("test.telemetry")
        caplog.set_level(logging.INFO, "test.telemetry")
        telemetry.attach_default_handler(logger)
        about = {"store_id": "main", "mode": "single", "data_dir": "/my data\n"}
        telemetry.emit(telemetry.STORE_STARTED, {"system_time": 7}, about)
        assert [record.getMessage() for record in caplog.records] == [
            "store.started store_id=main mode=single data_dir='/my data\\n' system_time=7"
        ]
        assert caplog.records[0].telemetry == {**about, "system_time": 7}  # type: ignore[attr-defined]
        assert not telemetry.enabled(STOP)

    def test_at_debug_it_logs_every_event_with_its_declared_keys(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        logger = logging.getLogger("test.telemetry.debug")
        caplog.set_level(logging.DEBUG, "test.telemetry.debug")
        telemetry.attach_default_handler(logger)
        for event, declared in telemetry.EVENTS.items():
            telemetry.emit(
                event, dict.fromkeys(declared.measurements, 1), dict.fromkeys(declared.metadata, "x")
            )
        assert len(caplog.records) == len(telemetry.EVENTS)

    def test_twice_is_refused_and_it_can_be_detached(self) -> None:
        telemetry.attach_default_handler()
        with pytest.raises(AlreadyExists):
            telemetry.attach_default_handler()
        telemetry.detach_default_handler()
        with pytest.raises(NotFound):
            telemetry.detach_default_handler()


class TestDeclarations:
    """What emitters carry is what the table says."""

    def test_the_events_of_the_reference_are_all_there(self) -> None:
        of_the_reference = """
            stream.write.start stream.write.stop stream.write.error stream.read.start stream.read.stop
            subscription.created subscription.deleted subscription.event_delivered snapshot.created snapshot.read
            cluster.node.up cluster.node.down cluster.leader.elected store.started store.stopped
            emitter.broadcast emitter.pool.created
        """
        assert {".".join(event[1:]) for event in telemetry.EVENTS} >= set(of_the_reference.split())

    def test_every_emit_in_the_source_carries_the_declared_keys(self) -> None:
        wrong = [
            found for path in sorted(Path(shoal.__file__).parent.rglob("*.py")) for found in mismatches(path)
        ]
        assert wrong == []

    def test_an_event_without_handlers_costs_about_a_look_up(self) -> None:
        nothing: dict[Any, Any] = {}
        look_up = min(timeit.repeat(lambda: nothing.get(STOP), number=5000, repeat=7))
        emitting = min(timeit.repeat(lambda: telemetry.emit(STOP, MEASURED, ABOUT), number=5000, repeat=7))
        assert emitting < 20 * look_up  # twice as much on a quiet machine; this catches a change of kind


def assert_declared(recorder: Recorder) -> None:
    for event, measurements, metadata, _ in recorder.seen:
        declared = telemetry.EVENTS[event]
        assert set(measurements) == set(declared.measurements)
        assert set(metadata) == set(declared.metadata)


def mismatches(path: Path) -> list[str]:
    """Calls `emit(telemetry.NAME, {...}, {...})` whose literal keys are not the declared ones."""
    wrong = []
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call) or len(node.args) != 3 or not called(node.func).endswith("emit"):
            continue
        declared = telemetry.EVENTS.get(getattr(telemetry, called(node.args[0]), ()))
        for argument, keys in zip(node.args[1:], declared or (), strict=False):
            if isinstance(argument, ast.Dict) and all(isinstance(key, ast.Constant) for key in argument.keys):
                found = {key.value for key in argument.keys if isinstance(key, ast.Constant)}
                if found != set(keys):
                    wrong.append(
                        f"{path.name}:{node.lineno} has {sorted(map(str, found))}, declared {sorted(keys)}"
                    )
    return wrong


def called(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
